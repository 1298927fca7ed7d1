//! A request that is not let in: what its client is answered, and what the operator reads.

use std::fmt;

use http::header::{ALLOW, CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::origin::OriginRefusal;
use crate::websocket::HandshakeError;

/// What a client is told to wait before it comes again, in seconds, where that depends on others leaving.
const RETRY_AFTER_S: u32 = 5;

/// Why a request is not let in.
///
/// Its `Display` is one line that says what is wrong and, for operators, what to change; it is the body of the
/// answer and a part of the log line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No route has a pattern that matches the path and takes this kind of request.
    #[error("no route takes {}", Shown(path))]
    NoRoute {
        /// The decoded path.
        path: String,
    },
    /// The host is malformed, or no route that matches takes it.
    #[error("the host {} is not allowed here; `hosts` says which are", Shown(host))]
    Host {
        /// The host as the client, or a trusted proxy, sent it.
        host: String,
    },
    /// TLS was asked for another name than the request. A browser that reuses a connection for another name of the
    /// certificate comes again on one of its own (RFC 9110, 15.5.20).
    #[error("the request is for {}, but the connection was opened for {}", Shown(host), Shown(server_name))]
    Misdirected {
        /// The host of the request.
        host: String,
        /// The name in the TLS handshake.
        server_name: String,
    },
    /// A page of that site may not open a WebSocket here.
    #[error(transparent)]
    Origin(OriginRefusal),
    /// The request is not one that HTTP or the WebSocket protocol allows.
    #[error(transparent)]
    BadRequest(BadRequest),
    /// A handshake for another version of the WebSocket protocol than 13.
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
    /// A plain request for what is a WebSocket only.
    #[error(
        "this is a WebSocket: a request for it has `Upgrade: websocket`; a proxy in between must pass that on"
    )]
    UpgradeRequired,
    /// A handshake with another method than `GET`.
    #[error("a WebSocket handshake is a GET")]
    Method,
    /// The client offers only subprotocols that the route does not have.
    #[error("none of the subprotocols offered is spoken here; `subprotocols` has {}", List(supported))]
    Subprotocol {
        /// What the route has.
        supported: Vec<String>,
    },
    /// As many connections as are allowed are open.
    #[error("too many connections; `limits.connections` says how many are allowed")]
    Limit,
    /// Handshakes come faster than is allowed.
    #[error("too many handshakes; `limits.handshakes_per_second` says how many are allowed")]
    Rate,
    /// As many sockets as one client may have are open.
    #[error("too many connections from this address; `limits.per_ip` says how many are allowed")]
    PerIp,
    /// The route's template made a name that no group can have.
    #[error("{} is not a group name: 1 to 99 ASCII letters, digits, `-`, `_` or `.`", Shown(name))]
    GroupName {
        /// What the template made.
        name: String,
    },
    /// The server is about to end.
    #[error("the server is shutting down")]
    Draining,
    /// The client sends its body too slowly.
    #[error("the body of the request comes too slowly")]
    SlowBody,
    /// The client left before there was an answer, which nobody reads.
    #[error("the client left before it was answered")]
    ClientGone,
    /// The application does not answer, or not as it should.
    #[error("{reason}")]
    Upstream {
        /// Of the answer.
        status: StatusCode,
        /// What is wrong, for operators.
        reason: String,
    },
    /// The head of the request, or its body, is larger than is read.
    #[error(transparent)]
    TooLarge(TooLarge),
}

impl Rejection {
    /// All that [`Rejection::label`] can be.
    pub const LABELS: [&'static str; 18] = [
        "no_route",
        "host",
        "misdirected",
        "origin",
        "bad_request",
        "version",
        "upgrade_required",
        "method",
        "subprotocol",
        "limit",
        "rate",
        "group_name",
        "per_ip",
        "draining",
        "timeout",
        "client_gone",
        "upstream",
        "too_large",
    ];

    /// What the client is told: one line without what the configuration allows others.
    pub fn public(&self) -> String {
        match self {
            Self::Origin(OriginRefusal::NotAllowed { origin, .. }) => {
                format!("a page of {} may not open a WebSocket here; `origins` says which may", Shown(origin))
            }
            Self::Subprotocol { .. } => "none of the subprotocols offered is spoken here".to_owned(),
            Self::Upstream { status, .. } => match *status {
                StatusCode::GATEWAY_TIMEOUT => "the application does not answer in time".to_owned(),
                StatusCode::SERVICE_UNAVAILABLE => "the application cannot be asked at the moment".to_owned(),
                _ => "the application does not answer as it should".to_owned(),
            },
            other => other.to_string(),
        }
    }

    /// The status of the answer. What nobody is there to read counts as 499, a status of nginx's.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ClientGone => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::Host { .. } | Self::BadRequest(_) | Self::Subprotocol { .. } | Self::GroupName { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::Version | Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Upstream { status, .. } => *status,
            Self::Rate | Self::PerIp => StatusCode::TOO_MANY_REQUESTS,
            Self::Limit | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge(TooLarge::Uri(_)) => StatusCode::URI_TOO_LONG,
            Self::TooLarge(TooLarge::Headers(_) | TooLarge::Head(_)) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::TooLarge(TooLarge::Body(_)) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// The reason as one of a fixed set of words, for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoRoute { .. } => "no_route",
            Self::Host { .. } => "host",
            Self::Misdirected { .. } => "misdirected",
            Self::Origin(_) => "origin",
            Self::BadRequest(_) => "bad_request",
            Self::Version => "version",
            Self::UpgradeRequired => "upgrade_required",
            Self::Method => "method",
            Self::Subprotocol { .. } => "subprotocol",
            Self::Limit => "limit",
            Self::Rate => "rate",
            Self::GroupName { .. } => "group_name",
            Self::PerIp => "per_ip",
            Self::Draining => "draining",
            Self::SlowBody => "timeout",
            Self::ClientGone => "client_gone",
            Self::Upstream { .. } => "upstream",
            Self::TooLarge(_) => "too_large",
        }
    }

    /// The headers that belong to the status.
    ///
    /// **Rule**: RFC 6455, 4.4 (`Sec-WebSocket-Version`); RFC 9110, 15.5.22 (`Upgrade` with 426) and 15.5.6
    /// (`Allow` with 405).
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let upgrade = || {
            [
                (UPGRADE, HeaderValue::from_static("websocket")),
                (CONNECTION, HeaderValue::from_static("Upgrade")),
            ]
        };
        match self {
            Self::UpgradeRequired | Self::Version => {
                let version = (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                upgrade().into_iter().chain([version]).collect()
            }
            Self::Method => vec![(ALLOW, HeaderValue::from_static("GET"))],
            Self::Limit | Self::PerIp | Self::Draining => {
                vec![(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S))]
            }
            // The next second has room again; an application may have it sooner.
            Self::Rate | Self::Upstream { status: StatusCode::SERVICE_UNAVAILABLE, .. } => {
                vec![(RETRY_AFTER, HeaderValue::from(1))]
            }
            Self::NoRoute { .. }
            | Self::SlowBody
            | Self::ClientGone
            | Self::Upstream { .. }
            | Self::Host { .. }
            | Self::Misdirected { .. }
            | Self::Origin(_)
            | Self::BadRequest(_)
            | Self::Subprotocol { .. }
            | Self::GroupName { .. }
            | Self::TooLarge(_) => Vec::new(),
        }
    }
}

impl From<OriginRefusal> for Rejection {
    fn from(refusal: OriginRefusal) -> Self {
        Self::Origin(refusal)
    }
}

impl From<BadRequest> for Rejection {
    fn from(reason: BadRequest) -> Self {
        Self::BadRequest(reason)
    }
}

impl From<TooLarge> for Rejection {
    fn from(what: TooLarge) -> Self {
        Self::TooLarge(what)
    }
}

/// What is wrong with a request that is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// A method that is longer than any; with the limit, in bytes.
    #[error("the method is longer than {0} bytes")]
    Method(usize),
    /// `CONNECT`, which asks for a tunnel to elsewhere.
    #[error("CONNECT is not served here")]
    Connect,
    /// `*`, an authority alone, or a scheme that is not of the web.
    #[error("the request target is not a path")]
    Target,
    /// The path has an encoded byte sequence that is not UTF-8.
    #[error("the path is not UTF-8")]
    PathEncoding,
    /// The path has an encoded NUL.
    #[error("the path has a NUL in it")]
    PathNul,
    /// No `Host` at all.
    #[error("the request has no Host header")]
    HostMissing,
    /// More than one `Host`.
    #[error("the request has more than one Host header")]
    HostRepeated,
    /// The authority of the request target is not that of `Host`.
    #[error("the request target and the Host header name different hosts")]
    HostDiffers,
    /// A body whose end two readers may see in different places.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    /// The body ends before it should, or is none.
    #[error("the body of the request is broken off or malformed")]
    BrokenBody,
    /// A handshake with a body.
    #[error("a WebSocket handshake has no body")]
    Body,
    /// The handshake breaks RFC 6455.
    #[error(transparent)]
    Handshake(HandshakeError),
}

/// What is too large about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// The request target; with the limit, in bytes.
    #[error("the request target is longer than {0} bytes; `limits.uri` says how long it may be")]
    Uri(usize),
    /// All headers; with the limit, in bytes.
    #[error("the headers of the request are larger than {0} bytes; `limits.head` says how large they may be")]
    Head(usize),
    /// The number of headers; with the limit.
    #[error("the request has more than {0} headers; `limits.headers` says how many it may have")]
    Headers(usize),
    /// The body; with the limit, in bytes.
    #[error("the body of the request is longer than {0} bytes; `max_body` says how long it may be")]
    Body(u64),
}

/// Text from outside, quoted, on one line and cut.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl Shown<'_> {
    const CHARS_MAX: usize = 200;
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(Self::CHARS_MAX) {
            Some((end, _)) => write!(out, "{:?}…", self.0.get(..end).unwrap_or_default()),
            None => write!(out, "{:?}", self.0),
        }
    }
}

/// Entries of the configuration.
pub(super) struct List<'a>(pub(super) &'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("none");
        }
        for (at, entry) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(out, "{separator}{entry:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
