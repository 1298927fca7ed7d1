//! What of a head goes through to the application, and what comes back. Pure.
//!
//! A request that goes on has exactly one reading: one Host, no hop-by-hop header, no name that an application
//! folds into another one, and about the client only what was found out here. Length and transfer coding are
//! left to who sends the body.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TE, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::scope::ClientAddr;

/// What is known about a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client, as seen behind trusted proxies.
    pub client: ClientAddr,
    /// The other end of the connection.
    pub peer: ClientAddr,
    /// Whether the peer is a trusted proxy: then its `X-Request-ID` counts.
    pub peer_trusted: bool,
    /// Whether it also is the proxies that write `X-Forwarded-For`.
    pub chain_trusted: bool,
    /// Whether the client uses TLS.
    pub https: bool,
    /// The validated host with its port, if it has one.
    pub host: &'a HeaderValue,
    /// A random number that makes an `X-Request-ID` where none counts.
    pub fresh_id: u128,
    /// A random trace and span, neither of them 0, that make a `traceparent` where there is none; `None` to make
    /// none.
    pub fresh_trace: Option<(u128, u64)>,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of one connection only, whether or not `Connection` names them.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Written anew, or by who sends the body.
fn is_ours(name: &str) -> bool {
    matches!(
        name,
        "content-length" | "cookie" | "expect" | "forwarded" | "host" | "x-real-ip" | "x-request-id"
    ) || name.starts_with("x-forwarded-")
}

/// Between the addresses of a chain of proxies.
const BETWEEN: &str = ", ";
/// Room for what is said of a chain of a few.
const CHAIN_LEN: usize = 64;
/// Headers that this side adds, at most.
const ADDED: usize = 12;
/// Entries of `X-Forwarded-For` that are looked at, at most.
const HOPS_MAX: usize = 32;
/// The longest `X-Request-ID` that is passed on.
const REQUEST_ID_LEN_MAX: usize = 128;

/// The head of a plain request as the application gets it.
///
/// `traceparent` is passed on if it is one, with its `tracestate`. One that is made says that the request is
/// sampled: most samplers follow their parent, and would otherwise trace nothing.
pub fn request_head(sent: &Parts, facts: &Facts<'_>) -> Parts {
    let mut headers = HeaderMap::with_capacity(sent.headers.len() + ADDED);
    headers.insert(HOST, facts.host.clone());
    let named = named_by_connection(&sent.headers);
    let traced = only(&sent.headers, &TRACEPARENT).is_some_and(is_traceparent);
    for (name, value) in &sent.headers {
        let text = name.as_str();
        let dropped = is_hop_by_hop(text)
            || is_ours(text)
            || text.contains('_')
            || (!traced && (*name == TRACEPARENT || *name == TRACESTATE))
            || named.iter().any(|one| text.as_bytes().eq_ignore_ascii_case(one));
        if !dropped {
            headers.append(name, value.clone());
        }
    }
    if let Some(cookie) = cookies(&sent.headers) {
        headers.insert(COOKIE, cookie);
    }
    let takes_trailers = sent.headers.get_all(TE).into_iter().any(|line| {
        line.as_bytes()
            .split(|&byte| byte == b',')
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    stamp(&mut headers, &sent.headers, facts);
    if let (false, Some((trace, span))) = (traced, facts.fresh_trace)
        && let Ok(parent) = HeaderValue::from_str(&format!("00-{trace:032x}-{span:016x}-01"))
    {
        headers.insert(TRACEPARENT, parent);
    }
    let mut parts = Request::new(()).into_parts().0;
    parts.method = sent.method.clone();
    parts.uri = origin_form(&sent.uri);
    parts.version = Version::HTTP_11;
    parts.headers = headers;
    parts
}

/// The head of a WebSocket handshake as the application gets it; `key` is in place of the client's own, which
/// HTTP/2 does not have.
pub fn handshake_head(sent: &Parts, facts: &Facts<'_>, key: Option<&HeaderValue>) -> Parts {
    let mut parts = request_head(sent, facts);
    parts.method = Method::GET;
    parts.headers.remove(TE);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    parts.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Some(key) = key {
        parts.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    }
    parts
}

/// Removes from an answer what is of the connection to the server only.
pub fn clean_answer(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = named_by_connection(headers)
            .into_iter()
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Without it, the length of what a HEAD asks for would be lost.
            .filter(|name| *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    // Most answers have none.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name.as_str())).cloned() {
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
    let names = |name: &HeaderName, word: &[u8]| {
        let lines = headers.get_all(name).into_iter();
        let mut words = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
        words.any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
    };
    if only(headers, &UPGRADE).is_none_or(|line| !line.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err("a 101 to something else than a WebSocket");
    }
    if !names(&CONNECTION, b"upgrade") {
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
fn stamp(headers: &mut HeaderMap, sent: &HeaderMap, facts: &Facts<'_>) {
    let mut put = |name: HeaderName, text: &str| {
        // Of our making, and without a byte that a value must not have.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    // Each address becomes text once, which is most of what this costs.
    let mut chain = String::with_capacity(CHAIN_LEN);
    for hop in hops(sent, facts) {
        // Writing to a `String` does not fail.
        let _infallible = write!(chain, "{}{hop}", if chain.is_empty() { "" } else { BETWEEN });
    }
    let client = chain.split(BETWEEN).next().filter(|client| !client.is_empty());
    if let Some(client) = client {
        put(X_FORWARDED_FOR, &chain);
        put(X_REAL_IP, client);
    }
    let (scheme, default_port) = if facts.https { ("https", "443") } else { ("http", "80") };
    let host = facts.host.to_str().unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    // A proxy knows a port that the host leaves out because it is another's default.
    let told =
        only(sent, &X_FORWARDED_PORT).filter(|_| facts.chain_trusted).and_then(|told| told.to_str().ok());
    let told = told.filter(|told| told.parse::<u16>().is_ok_and(|port| 0 < port) && !told.starts_with('+'));
    put(X_FORWARDED_PORT, port.or(told).unwrap_or(default_port));
    put(FORWARDED, &forwarded(&chain, host, scheme));
    let id = sent.get(X_REQUEST_ID).filter(|_| facts.peer_trusted);
    match id.filter(|id| only(sent, &X_REQUEST_ID).is_some() && is_request_id(id)) {
        Some(id) => {
            headers.insert(X_REQUEST_ID, id.clone());
        }
        None => put(X_REQUEST_ID, &format!("{:032x}", facts.fresh_id)),
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    headers.insert(X_FORWARDED_HOST, facts.host.clone());
}

/// The elements of `Forwarded` (RFC 7239): the client with what it asked for, then the proxies behind it.
fn forwarded(chain: &str, host: &str, scheme: &str) -> String {
    let mut text = String::with_capacity(CHAIN_LEN + host.len());
    for (place, hop) in chain.split(BETWEEN).enumerate() {
        let (open, close) = if hop.contains(':') { ("\"[", "]\"") } else { ("", "") };
        let node = if hop.is_empty() { "unknown" } else { hop };
        text.extend([if place == 0 { "" } else { BETWEEN }, "for=", open, node, close]);
        if place == 0 {
            // A quoted string: a host has neither quotes nor backslashes, for it was validated.
            text.extend([";host=\"", host, "\";proto=", scheme]);
        }
    }
    text
}

/// The client and the trusted proxies behind it, as far as their addresses are known.
fn hops(sent: &HeaderMap, facts: &Facts<'_>) -> Vec<IpAddr> {
    let mut hops: Vec<_> = facts.peer.ip().into_iter().collect();
    if facts.client != facts.peer {
        let before = hops.len();
        let mut found = false;
        if facts.chain_trusted {
            let lines = sent.get_all(X_FORWARDED_FOR).into_iter().rev();
            let entries = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
            for entry in entries.take(HOPS_MAX) {
                let Some(ip) = parse_hop(entry.trim()) else { break };
                hops.push(ip);
                if Some(ip) == facts.client.ip() {
                    found = true;
                    break;
                }
            }
        }
        if !found {
            hops.truncate(before);
            hops.extend(facts.client.ip());
        }
    }
    hops.reverse();
    hops
}

/// An address with or without a port.
fn parse_hop(entry: &str) -> Option<IpAddr> {
    let ip = entry.parse::<IpAddr>().ok();
    let ip = ip.or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    let bare = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    ip.or_else(bare).map(|ip| ip.to_canonical())
}

/// The names in `Connection`, over all its lines.
fn named_by_connection(headers: &HeaderMap) -> Vec<&[u8]> {
    let lines = headers.get_all(CONNECTION).into_iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    // Those that every connection names are dropped anyway.
    names
        .filter(|name| {
            !name.is_empty()
                && !name.eq_ignore_ascii_case(b"close")
                && !name.eq_ignore_ascii_case(b"keep-alive")
        })
        .collect()
}

/// All cookies in one line: HTTP/2 may send each in its own (RFC 9113, 8.2.3), and applications take the first.
fn cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(COOKIE).into_iter();
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(first.clone()) };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}

/// Scheme and authority of an absolute target are in Host and in what is said of the client.
fn origin_form(uri: &Uri) -> Uri {
    match uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    }
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

/// The value of a header that stands exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests;
