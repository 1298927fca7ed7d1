//! Every check of a request that needs no waiting, in order.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Version};
use percent_encoding::percent_decode_str;

use super::forwarded::{Forwarded, ForwardedHeaders, Scheme, TrustedProxies, resolve};
use super::host::{Host, HostPattern};
use super::origin::OriginPolicy;
use super::rejection::{BadRequest, Rejection, TooLarge};
use crate::listener::Peer;
use crate::route::{Pattern, PatternError, Table};
use crate::scope::{ClientAddr, Scope};
use crate::websocket::{Handshake, HandshakeError, handshake, select_subprotocol};

/// The longest method. Those that are registered have up to 17 letters (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 32;

/// Decides on a request. Pure: no clock, no socket, no lock.
///
/// # Errors
///
/// The first check that fails, in the order in which they stand here.
pub fn admit<'a, T>(
    rules: &'a Rules<T>,
    arrival: &Arrival<'_>,
    head: &Parts,
) -> Result<Admitted<'a, T>, Refused> {
    let forwarded = resolve(arrival.peer, &head.headers, &rules.trusted, rules.forwarded);
    let client = forwarded.client;
    let refused = |rejection| Refused { rejection, route: None, client };
    rules.sizes.check(head).map_err(refused)?;
    check_method(head, arrival).map_err(refused)?;
    check_target(head).map_err(refused)?;
    let host = find_host(head, arrival, &forwarded).map_err(refused)?;
    rules.check_host(&host).map_err(refused)?;
    let path = decode_path(head.uri.path()).map_err(refused)?;

    let is_upgrade = arrival.wants_upgrade(head);
    let found = rules.find(&path, &host, is_upgrade);
    let (index, route) = found.map_err(|Missed { rejection, route }| Refused { rejection, route, client })?;

    let refused = |rejection| Refused { rejection, route: Some(index), client };
    let mut upgrade = None;
    let mut subprotocol = None;
    if is_upgrade {
        let origins = head.headers.get_all(ORIGIN);
        route.origins.check(origins, &host).map_err(|refusal| refused(refusal.into()))?;
        let handshake = check_handshake(head, arrival).map_err(refused)?;
        subprotocol = choose_subprotocol(&handshake, &route.subprotocols).map_err(refused)?;
        upgrade = Some(handshake);
    } else {
        check_body(head, route.body_bytes_max).map_err(refused)?;
    }

    let scope = Scope {
        client,
        query: head.uri.query().unwrap_or_default().to_owned(),
        // Templates, which read them, are of sockets alone.
        headers: if is_upgrade { head.headers.clone() } else { HeaderMap::new() },
        params: rules.table.captures(index, &path),
        user: None,
        subprotocol,
        path,
    };
    let own_scheme = if arrival.tls { Scheme::Https } else { Scheme::Http };
    let scheme = forwarded.scheme.unwrap_or(own_scheme);
    let Forwarded { from_proxy, proxies, .. } = forwarded;
    Ok(Admitted {
        route_index: index,
        target: &route.target,
        scope,
        upgrade,
        host,
        scheme,
        from_proxy,
        proxies,
    })
}

/// What is known of a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The other end of the connection.
    pub peer: Peer,
    /// Whether the connection came through TLS.
    pub tls: bool,
    /// The name that the client asked for in the TLS handshake (SNI), in lower case.
    pub server_name: Option<&'a str>,
    /// `:protocol` of an extended `CONNECT` over HTTP/2 (RFC 8441).
    pub protocol: Option<&'a str>,
}

impl Arrival<'_> {
    /// Whether the request wants to become a WebSocket, in the way of its version of HTTP.
    pub fn wants_upgrade(&self, head: &Parts) -> bool {
        match head.version {
            // `Upgrade` has no meaning there; a request that has it is malformed (RFC 9113, 8.2.2).
            Version::HTTP_2 => self.is_extended_connect(head),
            _ => handshake::wants_upgrade(head),
        }
    }

    fn is_extended_connect(&self, head: &Parts) -> bool {
        head.method == Method::CONNECT && self.protocol == Some("websocket")
    }
}

impl From<Peer> for Arrival<'_> {
    /// In clear and over HTTP/1.1.
    fn from(peer: Peer) -> Self {
        Self { peer, tls: false, server_name: None, protocol: None }
    }
}

/// What [`admit`] decides by: the compiled routes, and whom to believe.
#[derive(Clone, Debug)]
pub struct Rules<T> {
    trusted: TrustedProxies,
    forwarded: ForwardedHeaders,
    sizes: HeadSizes,
    table: Table,
    routes: Vec<RouteRules<T>>,
    /// The hosts of all routes, each pattern once.
    hosts: Vec<HostPattern>,
}

impl<T> Rules<T> {
    /// The proxies whose word on a client counts.
    pub fn trusted_proxies(&self) -> &TrustedProxies {
        &self.trusted
    }

    /// Compiles the routes, which stay in their order.
    ///
    /// # Errors
    ///
    /// The operator's, as of [`Table::new`].
    pub fn new(
        trusted: TrustedProxies,
        forwarded: ForwardedHeaders,
        sizes: HeadSizes,
        routes: Vec<(Pattern, RouteRules<T>)>,
    ) -> Result<Self, PatternError> {
        let (patterns, routes): (Vec<_>, Vec<RouteRules<T>>) = routes.into_iter().unzip();
        let mut hosts = Vec::new();
        for pattern in routes.iter().flat_map(|route| &route.hosts) {
            if !hosts.contains(pattern) {
                hosts.push(pattern.clone());
            }
        }
        Ok(Self { trusted, forwarded, sizes, table: Table::new(patterns)?, routes, hosts })
    }

    /// Whether trusted proxies write `X-Forwarded-For`.
    pub fn reads_x_forwarded(&self) -> bool {
        self.forwarded == ForwardedHeaders::XForwarded
    }

    /// The largest head of a request.
    pub fn sizes(&self) -> HeadSizes {
        self.sizes
    }

    /// The routes in file order.
    pub fn routes(&self) -> &[RouteRules<T>] {
        &self.routes
    }

    /// A host that no route at all takes is refused before the path is looked at, so that it learns nothing
    /// of the routes.
    fn check_host(&self, host: &Host) -> Result<(), Rejection> {
        if self.routes.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host)) {
            return Ok(());
        }
        Err(Rejection::Host { host: host.as_str().to_owned() })
    }

    /// The first route in file order that takes the request.
    fn find(&self, path: &str, host: &Host, is_upgrade: bool) -> Result<(usize, &RouteRules<T>), Missed> {
        let mut but_for_host = None;
        let mut but_for_upgrade = None;
        for index in self.table.matches(path) {
            let Some(route) = self.routes.get(index) else { continue };
            let host_ok = route.hosts.iter().any(|pattern| pattern.matches(host));
            match (route.takes, is_upgrade) {
                (Takes::WebSocket, true) | (Takes::Plain, false) | (Takes::Both, _) if host_ok => {
                    return Ok((index, route));
                }
                (Takes::WebSocket, true) | (Takes::Plain, false) | (Takes::Both, _) => {
                    but_for_host.get_or_insert(index);
                }
                (Takes::WebSocket, false) if host_ok => {
                    but_for_upgrade.get_or_insert(index);
                }
                (Takes::WebSocket, false) | (Takes::Plain, true) => {}
            }
        }
        if but_for_host.is_some() {
            return Err(Missed {
                rejection: Rejection::Host { host: host.as_str().to_owned() },
                route: but_for_host,
            });
        }
        if but_for_upgrade.is_some() {
            return Err(Missed { rejection: Rejection::UpgradeRequired, route: but_for_upgrade });
        }
        Err(Missed { rejection: Rejection::NoRoute { path: path.to_owned() }, route: None })
    }
}

/// The rules of one route.
#[derive(Clone, Debug)]
pub struct RouteRules<T> {
    /// The name of the route, unique in the file.
    pub name: Arc<str>,
    /// The hosts that it is served on; none when this is empty.
    pub hosts: Vec<HostPattern>,
    /// The origins that it takes.
    pub origins: OriginPolicy,
    /// The subprotocols that it speaks. When there are none, an offer of the client is left unanswered.
    pub subprotocols: Vec<String>,
    /// The kind of requests that it takes.
    pub takes: Takes,
    /// The longest body of a plain request, in bytes; `None` where no body is read.
    pub body_bytes_max: Option<u64>,
    /// What the requests lead to.
    pub target: T,
}

/// The kind of requests that a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Handshakes only.
    WebSocket,
    /// Anything but handshakes.
    Plain,
    /// Whatever comes.
    Both,
}

/// A request that is let in.
#[derive(Debug)]
pub struct Admitted<'a, T> {
    /// The number of the route in file order.
    pub route_index: usize,
    /// What the route leads to.
    pub target: &'a T,
    /// What is known of the request.
    pub scope: Scope,
    /// How to answer the handshake; `None` for a plain request.
    pub upgrade: Option<Handshake>,
    /// The host that the client asked for, which the route takes.
    pub host: Host,
    /// The scheme that the client used, as a trusted proxy or the connection says.
    pub scheme: Scheme,
    /// Whether a trusted proxy has sent the request, so that what it says about its client counts.
    pub from_proxy: bool,
    /// The trusted proxies between the client and here, from the peer on.
    pub proxies: Vec<IpAddr>,
}

/// A request that is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rejection}")]
pub struct Refused {
    /// Why.
    pub rejection: Rejection,
    /// The number of the route that was found before, for the metric.
    pub route: Option<usize>,
    /// Whom to name in the log.
    pub client: ClientAddr,
}

/// No route takes the request; the route is the first one that nearly did.
struct Missed {
    rejection: Rejection,
    route: Option<usize>,
}

/// How large the head of a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSizes {
    /// Bytes of the request target, without scheme and authority.
    pub target_bytes_max: usize,
    /// Bytes of all headers, with `: ` and the end of each line.
    pub head_bytes_max: usize,
    /// How many headers.
    pub headers_max: usize,
}

impl Default for HeadSizes {
    fn default() -> Self {
        Self { target_bytes_max: 8 << 10, head_bytes_max: 64 << 10, headers_max: 100 }
    }
}

impl HeadSizes {
    /// What HTTP/2 may send as a head, in bytes as it counts them: a name without its `: `, and 32 for each header. It
    /// has a header for each part of the request line. What is within the other bounds is within this one.
    ///
    /// Rule: RFC 9113, 6.5.2 (`SETTINGS_MAX_HEADER_LIST_SIZE`).
    pub(super) fn header_list_max(self) -> u32 {
        const PSEUDO_HEADERS: usize = 5;
        const HEADER_BYTES: usize = 32;
        let overhead = (self.headers_max + PSEUDO_HEADERS).saturating_mul(HEADER_BYTES);
        let list = self.head_bytes_max.saturating_add(self.target_bytes_max).saturating_add(overhead);
        u32::try_from(list).unwrap_or(u32::MAX)
    }

    fn check(self, head: &Parts) -> Result<(), Rejection> {
        if head.uri.path_and_query().is_some_and(|target| self.target_bytes_max < target.as_str().len()) {
            return Err(TooLarge::Uri(self.target_bytes_max).into());
        }
        if self.headers_max < head.headers.len() {
            return Err(TooLarge::Headers(self.headers_max).into());
        }
        // hyper's own bound is coarser: it reads on while its buffer grows.
        let header_bytes: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if self.head_bytes_max < header_bytes {
            return Err(TooLarge::Head(self.head_bytes_max).into());
        }
        Ok(())
    }
}

/// Refuses a body that says beforehand that it is too long.
fn check_body(head: &Parts, body_bytes_max: Option<u64>) -> Result<(), Rejection> {
    // Over HTTP/1.1 hyper lets no two lengths through; over HTTP/2 frames say where the body ends.
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match (length, body_bytes_max) {
        (Some(length), Some(max)) if max < length => Err(TooLarge::Body(max).into()),
        _ => Ok(()),
    }
}

fn check_method(head: &Parts, arrival: &Arrival<'_>) -> Result<(), Rejection> {
    if METHOD_BYTES_MAX < head.method.as_str().len() {
        return Err(BadRequest::Method(METHOD_BYTES_MAX).into());
    }
    if head.method == Method::CONNECT && !arrival.is_extended_connect(head) {
        return Err(BadRequest::Connect.into());
    }
    Ok(())
}

/// Lets through a path, and a URL of the web; also refuses a body that could be read in two ways.
fn check_target(head: &Parts) -> Result<(), Rejection> {
    let scheme_ok = match head.uri.scheme_str() {
        Some(scheme) => ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)),
        None => head.uri.authority().is_none(),
    };
    if !scheme_ok || !head.uri.path().starts_with('/') {
        return Err(BadRequest::Target.into());
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).into_iter();
    let chunked = encodings.next().is_none_or(|first| first.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || encodings.next().is_some() {
        return Err(BadRequest::TransferEncoding.into());
    }
    Ok(())
}

/// The host that the request is for.
///
/// There is exactly one `Host`, which the authority of an absolute target must repeat; over HTTP/2 `:authority`
/// may stand in its place. The name that TLS was asked for must be the same. A trusted proxy may put another host
/// in its place, and asks TLS for the name by which it knows us.
fn find_host(head: &Parts, arrival: &Arrival<'_>, forwarded: &Forwarded) -> Result<Host, Rejection> {
    let mut lines = head.headers.get_all(HOST).into_iter();
    // What is not ASCII is no host either way, and is shown as it came.
    let line = lines
        .next()
        .map(|line| line.to_str().map_or_else(|_| String::from_utf8_lossy(line.as_bytes()), Cow::Borrowed));
    if lines.next().is_some() {
        return Err(BadRequest::HostRepeated.into());
    }
    let authority = head.uri.authority().map(Authority::as_str);
    let sent = match (line, authority) {
        (Some(line), Some(authority)) if !authority.eq_ignore_ascii_case(&line) => {
            return Err(BadRequest::HostDiffers.into());
        }
        (Some(line), _) => line,
        (None, Some(authority)) if head.version == Version::HTTP_2 => authority.into(),
        (None, _) => return Err(BadRequest::HostMissing.into()),
    };
    let text = forwarded.host.as_deref().unwrap_or(&sent);
    let host = Host::parse(text).map_err(|_| Rejection::Host { host: text.to_owned() })?;
    match arrival.server_name {
        Some(name) if !forwarded.from_proxy && name != host.domain() => {
            Err(Rejection::Misdirected { host: host.domain().to_owned(), server_name: name.to_owned() })
        }
        _ => Ok(host),
    }
}

/// Decodes a path. An encoded slash becomes one, as in Channels; a `%` that encodes nothing stays.
fn decode_path(path: &str) -> Result<String, Rejection> {
    if !path.contains(['%', '\0']) {
        return Ok(path.to_owned());
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| BadRequest::PathEncoding)?;
    if decoded.contains('\0') {
        return Err(BadRequest::PathNul.into());
    }
    Ok(decoded.into_owned())
}

fn check_handshake(head: &Parts, arrival: &Arrival<'_>) -> Result<Handshake, Rejection> {
    let checked = if arrival.is_extended_connect(head) {
        handshake::check_extended_connect(head)
    } else {
        handshake::check(head)
    };
    let handshake = checked.map_err(|error| match error {
        HandshakeError::Method => Rejection::Method,
        HandshakeError::Version => Rejection::Version,
        HandshakeError::Upgrade => Rejection::UpgradeRequired,
        HandshakeError::HttpVersion
        | HandshakeError::Connection
        | HandshakeError::Key
        | HandshakeError::Subprotocol => BadRequest::Handshake(error).into(),
    })?;
    if has_body(&head.headers) {
        return Err(BadRequest::Body.into());
    }
    Ok(handshake)
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// A browser closes a socket whose server left its offer unanswered, so an offer without a common name is
/// better refused with a reason. A route without subprotocols says nothing, as a Channels consumer does.
fn choose_subprotocol(handshake: &Handshake, supported: &[String]) -> Result<Option<String>, Rejection> {
    let chosen = select_subprotocol(&handshake.subprotocols, supported);
    if chosen.is_none() && !supported.is_empty() && !handshake.subprotocols.is_empty() {
        return Err(Rejection::Subprotocol { supported: supported.to_vec() });
    }
    Ok(chosen.map(str::to_owned))
}

#[cfg(test)]
mod tests;
