//! What of a head goes through to the application, and what comes back. Pure.
//!
//! A request that goes on has exactly one reading: one Host, one length, no hop-by-hop header, no name that an
//! application folds into another one, and about the client only what was found out here. Its head is written
//! as it goes over the wire, from the one that came: a map of headers between the two would cost more than both.

use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;

use http::header::{
    AsHeaderName, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::scope::ClientAddr;

/// What is known about a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client, as seen behind trusted proxies.
    pub client: ClientAddr,
    /// The trusted proxies between the client and here, from the other end of the connection on.
    pub proxies: &'a [IpAddr],
    /// Whether the peer is a trusted proxy: then its `X-Request-ID` counts.
    pub peer_trusted: bool,
    /// Whether its `X-Forwarded-Port` does, too, for it writes such headers.
    pub port_trusted: bool,
    /// Whether the client uses TLS.
    pub https: bool,
    /// The validated host with its port, if it has one.
    pub host: &'a str,
    /// A random number that makes an `X-Request-ID` where none counts.
    pub fresh_id: u128,
    /// A random trace and span, neither of them 0, that make a `traceparent` where there is none; `None` to make
    /// none.
    pub fresh_trace: Option<(u128, u64)>,
}

/// How the end of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    Empty,
    /// So many bytes.
    Known(u64),
    /// It comes in chunks.
    Unknown,
}

const X_FORWARDED_PORT: &str = "x-forwarded-port";
const X_REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Of one connection only, whether or not `Connection` names them.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    match *name {
        CONNECTION | PROXY_AUTHENTICATE | PROXY_AUTHORIZATION | TE | TRAILER | TRANSFER_ENCODING
        | UPGRADE => true,
        _ => matches!(name.as_str(), "http2-settings" | "keep-alive" | "proxy" | "proxy-connection"),
    }
}

/// Written anew, or by who sends the body.
fn is_ours(name: &HeaderName) -> bool {
    match *name {
        CONTENT_LENGTH | COOKIE | EXPECT | FORWARDED | HOST => true,
        _ => {
            let name = name.as_str();
            matches!(name, "x-real-ip" | "x-request-id") || name.starts_with("x-forwarded-")
        }
    }
}

/// Room for a head as most are.
const HEAD_LEN: usize = 1 << 10;
/// The longest `X-Request-ID` that is passed on.
const REQUEST_ID_LEN_MAX: usize = 128;

/// The digits of each byte.
#[expect(clippy::indexing_slicing, reason = "done by the compiler")]
static HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 0xF]];
        byte += 1;
    }
    pairs
};

/// Writes the head of a plain request as the application gets it.
///
/// `traceparent` is passed on if it is one, with its `tracestate`. One that is made says that the request is
/// sampled: most samplers follow their parent, and would otherwise trace nothing.
pub fn request_head(sent: &Parts, facts: &Facts<'_>, length: BodyLength, out: &mut Vec<u8>) {
    let mut head = Head::begin(&sent.method, &sent.uri, out);
    let survey = Survey::of(&sent.headers);
    pass_on(&mut head, &sent.headers, &survey, facts, |_| false);
    if survey.takes_trailers {
        // Rule: RFC 9110, 10.1.4: `TE` is of this connection, which has to be said.
        head.text(b"te: trailers\r\nconnection: te\r\n");
    }
    match length {
        // Some servers answer 411 to those without a length.
        BodyLength::Empty if [Method::POST, Method::PUT, Method::PATCH].contains(&sent.method) => {
            head.text(b"content-length: 0\r\n");
        }
        BodyLength::Empty => (),
        BodyLength::Known(len) => head.line(CONTENT_LENGTH.as_str(), len.to_string().as_bytes()),
        BodyLength::Unknown => head.text(b"transfer-encoding: chunked\r\n"),
    }
    head.end();
}

/// Writes the head of a WebSocket handshake as the application gets it; `key` is in place of the client's own,
/// which HTTP/2 does not have.
pub fn handshake_head(sent: &Parts, facts: &Facts<'_>, key: Option<&HeaderValue>, out: &mut Vec<u8>) {
    let mut head = Head::begin(&Method::GET, &sent.uri, out);
    let is_replaced =
        |name: &HeaderName| *name == SEC_WEBSOCKET_VERSION || (key.is_some() && *name == SEC_WEBSOCKET_KEY);
    pass_on(&mut head, &sent.headers, &Survey::of(&sent.headers), facts, is_replaced);
    head.text(b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n");
    if let Some(key) = key {
        head.line(SEC_WEBSOCKET_KEY.as_str(), key.as_bytes());
    }
    head.end();
}

/// Writes the head of a health check.
pub fn check_head(target: &Uri, host: &str, out: &mut Vec<u8>) {
    let mut head = Head::begin(&Method::GET, target, out);
    head.line(HOST.as_str(), host.as_bytes());
    head.text(b"user-agent: anteroom-health\r\n");
    head.end();
}

/// What has to be known of the headers that came before the first of them goes on.
struct Survey<'a> {
    /// The names in `Connection`.
    named: Vec<&'a [u8]>,
    takes_trailers: bool,
    has_cookies: bool,
    /// Whether there is a `traceparent` that is one and goes on.
    traced: bool,
}

impl<'a> Survey<'a> {
    fn of(sent: &'a HeaderMap) -> Self {
        let mut survey = Self { named: Vec::new(), takes_trailers: false, has_cookies: false, traced: false };
        let mut traceparents = 0;
        for (name, value) in sent {
            match *name {
                CONNECTION => survey.named.extend(named_by(value)),
                TE => survey.takes_trailers |= has_word(value.as_bytes(), b"trailers"),
                COOKIE => survey.has_cookies = true,
                _ if name.as_str() == TRACEPARENT => {
                    traceparents += 1;
                    survey.traced = traceparents == 1 && is_traceparent(value);
                }
                _ => (),
            }
        }
        survey.traced &= !survey.names(TRACEPARENT);
        survey
    }

    /// Whether `Connection` names a header.
    fn names(&self, name: &str) -> bool {
        self.named.iter().any(|one| name.as_bytes().eq_ignore_ascii_case(one))
    }
}

/// The host, what the client sent of itself, and what is said of it here.
fn pass_on(
    head: &mut Head<'_>,
    sent: &HeaderMap,
    survey: &Survey<'_>,
    facts: &Facts<'_>,
    is_replaced: impl Fn(&HeaderName) -> bool,
) {
    head.line(HOST.as_str(), facts.host.as_bytes());
    for (name, value) in sent {
        let text = name.as_str();
        let dropped = is_hop_by_hop(name)
            || is_ours(name)
            || text.bytes().any(|byte| byte == b'_')
            || (!survey.traced && matches!(text, TRACEPARENT | TRACESTATE))
            || is_replaced(name)
            || survey.names(text);
        if !dropped {
            head.line(text, value.as_bytes());
        }
    }
    // All in one line: HTTP/2 may send each in its own (RFC 9113, 8.2.3), and applications take the first.
    if survey.has_cookies {
        head.text(b"cookie: ");
        for (place, cookie) in sent.get_all(COOKIE).into_iter().enumerate() {
            head.text(if place == 0 { b"" } else { b"; " });
            head.text(cookie.as_bytes());
        }
        head.end_line();
    }
    stamp(head, sent, facts);
    if let (false, Some((trace, span))) = (survey.traced, facts.fresh_trace) {
        head.text(b"traceparent: 00-");
        head.hex(trace, 32);
        head.text(b"-");
        head.hex(span.into(), 16);
        head.text(b"-01\r\n");
    }
}

/// A head that is being written. Names and values are valid where they come from, so no line ends within one.
struct Head<'a>(&'a mut Vec<u8>);

impl<'a> Head<'a> {
    /// Scheme and authority of an absolute target are in Host and in what is said of the client.
    fn begin(method: &Method, target: &Uri, out: &'a mut Vec<u8>) -> Self {
        out.reserve(HEAD_LEN);
        let mut head = Self(out);
        head.text(method.as_str().as_bytes());
        head.text(b" ");
        let path = target.path_and_query().map_or("", |path| path.as_str());
        if !path.starts_with(['/', '*']) {
            head.text(b"/");
        }
        head.text(path.as_bytes());
        head.text(b" HTTP/1.1\r\n");
        head
    }

    fn line(&mut self, name: &str, value: &[u8]) {
        self.text(name.as_bytes());
        self.text(b": ");
        self.text(value);
        self.end_line();
    }

    fn text(&mut self, text: &[u8]) {
        self.0.extend_from_slice(text);
    }

    /// As many hexadecimal digits of a number.
    fn hex(&mut self, number: u128, digits: usize) {
        let mut text = [0; 32];
        for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(number.to_be_bytes()) {
            *pair = HEX.get(usize::from(byte)).copied().unwrap_or_default();
        }
        self.text(text.split_at(text.len() - digits).1);
    }

    /// Writes an address, and says where it stands, to write it once more.
    fn address(&mut self, address: IpAddr) -> Range<usize> {
        let from = self.0.len();
        match address {
            // Most are, and formatting them is most of what all this costs.
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    self.text(if place == 0 { b"" } else { b"." });
                    for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
                        if least <= octet {
                            self.0.push(b'0' + octet / unit % 10);
                        }
                    }
                }
            }
            // Writing to a `Vec` does not fail.
            IpAddr::V6(address) => write!(self.0, "{address}").unwrap_or_default(),
        }
        from..self.0.len()
    }

    fn again(&mut self, written: Range<usize>) {
        self.0.extend_from_within(written);
    }

    fn end_line(&mut self) {
        self.text(b"\r\n");
    }

    fn end(mut self) {
        self.end_line();
    }
}

/// Removes from an answer what is of the connection to the server only.
pub fn clean_answer(headers: &mut HeaderMap) {
    // Most answers have none.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let lines = headers.get_all(CONNECTION).into_iter();
        let named: Vec<HeaderName> = lines
            .flat_map(named_by)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Without it, the length of what a HEAD asks for would be lost.
            .filter(|name| *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        headers.remove(name);
    }
}

/// Whether the headers of a 101 switch to the WebSocket that was asked for.
///
/// Rule: RFC 6455, 4.1.
///
/// # Errors
///
/// What is wrong with them.
pub fn check_switch(
    headers: &HeaderMap,
    accept: &HeaderValue,
    offered: &[String],
) -> Result<(), &'static str> {
    if only(headers, &UPGRADE).is_none_or(|line| !line.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err("a 101 to something else than a WebSocket");
    }
    if !headers.get_all(CONNECTION).into_iter().any(|line| has_word(line.as_bytes(), b"upgrade")) {
        return Err("a 101 whose `Connection` does not name `upgrade`");
    }
    if only(headers, &SEC_WEBSOCKET_ACCEPT) != Some(accept) {
        return Err("a 101 with a wrong `Sec-WebSocket-Accept`");
    }
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        let chosen = only(headers, &SEC_WEBSOCKET_PROTOCOL);
        let was_offered =
            |chosen: &HeaderValue| offered.iter().any(|one| one.as_bytes() == chosen.as_bytes().trim_ascii());
        if !chosen.is_some_and(was_offered) {
            return Err("a 101 with a subprotocol that was not offered");
        }
    }
    Ok(())
}

/// What applications are told about the client.
///
/// `X-Forwarded-For` begins with the client: what stands left of it was written by the client, and Daphne takes
/// the first entry. Proxies that are trusted follow, the peer last.
fn stamp(head: &mut Head<'_>, sent: &HeaderMap, facts: &Facts<'_>) {
    let (scheme, default_port) = if facts.https { ("https", "443") } else { ("http", "80") };
    // A quoted string in `Forwarded`: a host has neither quotes nor backslashes, for it was validated.
    let asked_for = |head: &mut Head<'_>| {
        head.text(b";host=\"");
        head.text(facts.host.as_bytes());
        head.text(b"\";proto=");
        head.text(scheme.as_bytes());
    };
    if let Some(client) = facts.client.ip() {
        head.text(b"x-real-ip: ");
        let address = head.address(client);
        head.text(b"\r\nx-forwarded-for: ");
        head.again(address.clone());
        for proxy in facts.proxies.iter().rev() {
            head.text(b", ");
            head.address(*proxy);
        }
        head.text(b"\r\nforwarded: for=");
        let [open, close] = node_quotes(client);
        head.text(open);
        head.again(address);
        head.text(close);
        asked_for(head);
        for proxy in facts.proxies.iter().rev() {
            let [open, close] = node_quotes(*proxy);
            head.text(b", for=");
            head.text(open);
            head.address(*proxy);
            head.text(close);
        }
    } else {
        head.text(b"forwarded: for=unknown");
        asked_for(head);
    }
    head.text(b"\r\nx-forwarded-port: ");
    let port = facts.host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    // A proxy knows a port that the host leaves out because it is another's default.
    let told = || {
        let told = only(sent, X_FORWARDED_PORT).filter(|_| facts.port_trusted)?.to_str().ok()?;
        let is_port = told.parse::<u16>().is_ok_and(|port| 0 < port) && !told.starts_with('+');
        is_port.then_some(told)
    };
    head.text(port.or_else(told).unwrap_or(default_port).as_bytes());
    head.text(b"\r\nx-request-id: ");
    let id = Some(sent).filter(|_| facts.peer_trusted).and_then(|sent| only(sent, X_REQUEST_ID));
    match id.filter(|id| is_request_id(id)) {
        Some(id) => head.text(id.as_bytes()),
        None => head.hex(facts.fresh_id, 32),
    }
    head.text(b"\r\nx-forwarded-proto: ");
    head.text(scheme.as_bytes());
    head.text(b"\r\nx-forwarded-host: ");
    head.text(facts.host.as_bytes());
    head.end_line();
}

/// What stands around an address in `Forwarded` (RFC 7239, 6).
fn node_quotes(address: IpAddr) -> [&'static [u8]; 2] {
    match address {
        IpAddr::V4(_) => [b"", b""],
        IpAddr::V6(_) => [b"\"[", b"]\""],
    }
}

/// The names in a line of `Connection`, but for those that nearly every one has and that are dropped anyway.
fn named_by(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|name| {
        !name.is_empty() && !name.eq_ignore_ascii_case(b"close") && !name.eq_ignore_ascii_case(b"keep-alive")
    })
}

fn is_request_id(value: &HeaderValue) -> bool {
    let sane = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=REQUEST_ID_LEN_MAX).contains(&value.len()) && value.as_bytes().iter().all(sane)
}

/// Rule: W3C Trace Context, 3.2.2, version 00; of later versions the part that is the same.
fn is_traceparent(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut fields = text.split('-');
    let hex = |field: Option<&str>, len: usize| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        field.filter(|field| field.len() == len && field.bytes().all(is_hex)).map(str::to_owned)
    };
    let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    let version = hex(fields.next(), 2);
    let trace = hex(fields.next(), 32).filter(|trace| !is_zero(trace));
    let span = hex(fields.next(), 16).filter(|span| !is_zero(span));
    let flags = hex(fields.next(), 2);
    let rest = fields.next();
    match version.as_deref() {
        Some("00") => trace.is_some() && span.is_some() && flags.is_some() && rest.is_none(),
        Some("ff") | None => false,
        Some(_) => trace.is_some() && span.is_some() && flags.is_some(),
    }
}

/// Whether a word stands in a list that is separated by commas.
pub(super) fn has_word(list: &[u8], word: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
}

/// The value of a header that stands exactly once.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests;
