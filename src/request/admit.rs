//! Every check of a request that needs no waiting, in order.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

use super::forwarded::{Forwarded, ForwardedHeaders, TrustedProxies, resolve};
use super::host::{Host, HostPattern};
use super::origin::OriginPolicy;
use super::rejection::{BadRequest, Rejection, TooLarge};
use crate::listener::Peer;
use crate::route::{Pattern, PatternError, Table};
use crate::scope::{ClientAddr, Scope};
use crate::websocket::{Handshake, HandshakeError, handshake, select_subprotocol};

/// Decides on a request. Pure: no clock, no socket, no lock.
///
/// # Errors
///
/// The first check that fails, in the order in which they stand here.
pub fn admit<'a, T>(rules: &'a Rules<T>, peer: Peer, head: &Parts) -> Result<Admitted<'a, T>, Refused> {
    let forwarded = resolve(peer, &head.headers, &rules.trusted, rules.forwarded);
    let client = forwarded.client;
    let refused = |rejection| Refused { rejection, route: None, client };
    check_sizes(head).map_err(refused)?;
    check_target(head).map_err(refused)?;
    let host = find_host(head, &forwarded).map_err(refused)?;
    rules.check_host(&host).map_err(refused)?;
    let path = decode_path(head.uri.path()).map_err(refused)?;

    let is_upgrade = handshake::wants_upgrade(head);
    let found = rules.find(&path, &host, is_upgrade);
    let (index, route) = found.map_err(|Missed { rejection, route }| Refused { rejection, route, client })?;

    let refused = |rejection| Refused { rejection, route: Some(index), client };
    let mut upgrade = None;
    let mut subprotocol = None;
    if is_upgrade {
        let origins = head.headers.get_all(ORIGIN);
        route.origins.check(origins, &host).map_err(|refusal| refused(refusal.into()))?;
        let handshake = check_handshake(head).map_err(refused)?;
        subprotocol = choose_subprotocol(&handshake, &route.subprotocols).map_err(refused)?;
        upgrade = Some(handshake);
    }

    let scope = Scope {
        client,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers.clone(),
        params: rules.table.captures(index, &path).unwrap_or_default(),
        user: None,
        subprotocol,
        path,
    };
    Ok(Admitted { route_index: index, target: &route.target, scope, upgrade })
}

/// What [`admit`] decides by: the compiled routes, and whom to believe.
#[derive(Clone, Debug)]
pub struct Rules<T> {
    trusted: TrustedProxies,
    forwarded: ForwardedHeaders,
    table: Table,
    routes: Vec<RouteRules<T>>,
    /// The hosts of all routes, each pattern once.
    hosts: Vec<HostPattern>,
}

impl<T> Rules<T> {
    /// Compiles the routes, which stay in their order.
    ///
    /// # Errors
    ///
    /// The operator's, as of [`Table::new`].
    pub fn new(
        trusted: TrustedProxies,
        forwarded: ForwardedHeaders,
        routes: Vec<(Pattern, RouteRules<T>)>,
    ) -> Result<Self, PatternError> {
        let (patterns, routes): (Vec<_>, Vec<RouteRules<T>>) = routes.into_iter().unzip();
        let mut hosts = Vec::new();
        for pattern in routes.iter().flat_map(|route| &route.hosts) {
            if !hosts.contains(pattern) {
                hosts.push(pattern.clone());
            }
        }
        Ok(Self { trusted, forwarded, table: Table::new(patterns)?, routes, hosts })
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
                (Takes::WebSocket, true) | (Takes::Plain, false) if host_ok => return Ok((index, route)),
                (Takes::WebSocket, true) | (Takes::Plain, false) => {
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

/// Bytes of a request target, without scheme and authority, that are still read.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Bytes of all headers, with `: ` and the end of each line, that are still read.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Headers of a request that are still read.
const HEADERS_MAX: usize = 100;

fn check_sizes(head: &Parts) -> Result<(), Rejection> {
    if head.uri.path_and_query().is_some_and(|target| TARGET_BYTES_MAX < target.as_str().len()) {
        return Err(TooLarge::Uri.into());
    }
    if HEADERS_MAX < head.headers.len() {
        return Err(TooLarge::Headers.into());
    }
    // hyper's own bound is coarser: it reads on while its buffer grows.
    let header_bytes: usize =
        head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if HEAD_BYTES_MAX < header_bytes {
        return Err(TooLarge::Head.into());
    }
    Ok(())
}

/// Lets through a path, and a URL of the web; also refuses a body that could be read in two ways.
fn check_target(head: &Parts) -> Result<(), Rejection> {
    if head.method == Method::CONNECT {
        return Err(BadRequest::Connect.into());
    }
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
/// There is exactly one `Host`, which the authority of an absolute target must repeat; a trusted proxy may put
/// another in its place.
fn find_host(head: &Parts, forwarded: &Forwarded) -> Result<Host, Rejection> {
    let mut lines = head.headers.get_all(HOST).into_iter();
    let line = lines.next().ok_or(BadRequest::HostMissing)?;
    if lines.next().is_some() {
        return Err(BadRequest::HostRepeated.into());
    }
    let sent = String::from_utf8_lossy(line.as_bytes());
    let authority = head.uri.authority().map(Authority::as_str);
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(&sent)) {
        return Err(BadRequest::HostDiffers.into());
    }
    let text = forwarded.host.as_deref().unwrap_or(&sent);
    Host::parse(text).map_err(|_| Rejection::Host { host: text.to_owned() })
}

/// Decodes a path. An encoded slash becomes one, as in Channels; a `%` that encodes nothing stays.
fn decode_path(path: &str) -> Result<String, Rejection> {
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| BadRequest::PathEncoding)?;
    if decoded.contains('\0') {
        return Err(BadRequest::PathNul.into());
    }
    Ok(decoded.into_owned())
}

fn check_handshake(head: &Parts) -> Result<Handshake, Rejection> {
    let handshake = handshake::check(head).map_err(|error| match error {
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
