//! The opening handshake (RFC 6455, section 4, and RFC 8441 over HTTP/2): what a request must hold, and what the
//! answer holds.

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::{Engine, alphabet};
use http::header::{
    CONNECTION, GetAll, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use sha1::{Digest, Sha1};

/// A request that may be answered with 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The value of `Sec-WebSocket-Accept` in a 101. `None` over HTTP/2, where the answer is 200 and there is no key.
    pub accept: Option<HeaderValue>,
    /// The subprotocols that the client offers, the one it likes best first.
    pub subprotocols: Vec<String>,
}

/// Whether a request wants to become a WebSocket: its `Upgrade` names `websocket`.
///
/// Whatever else is wrong with it, such a request is a handshake, so that its client is told what is wrong
/// ([`check`]) and is not answered as a plain request.
pub fn wants_upgrade(head: &Parts) -> bool {
    lists(head, &UPGRADE, b"websocket")
}

/// Checks a handshake.
///
/// Rule: RFC 6455, 4.2.1. The extensions that a client offers are not looked at, as none is known. `Origin`
/// and `Host` are checked elsewhere.
///
/// # Errors
///
/// The client's fault: the first rule that fails, in the order of [`HandshakeError`].
pub fn check(head: &Parts) -> Result<Handshake, HandshakeError> {
    if head.method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if head.version < Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion);
    }
    if !wants_upgrade(head) {
        return Err(HandshakeError::Upgrade);
    }
    if !lists(head, &CONNECTION, b"upgrade") {
        return Err(HandshakeError::Connection);
    }
    if only(head, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    let key = only(head, &SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
    Ok(Handshake { accept: Some(accept_key(key)?), subprotocols: offered_subprotocols(head)? })
}

/// Checks a handshake over HTTP/2, which is an extended `CONNECT` whose `:protocol` is `websocket`.
///
/// Rule: RFC 8441, section 5. `Connection`, `Upgrade` and the key have no place there; the version stays.
///
/// # Errors
///
/// The client's fault, as for [`check`].
pub fn check_extended_connect(head: &Parts) -> Result<Handshake, HandshakeError> {
    if only(head, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    Ok(Handshake { accept: None, subprotocols: offered_subprotocols(head)? })
}

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
///
/// # Errors
///
/// [`HandshakeError::Key`] when the key is not 16 bytes in base64.
pub fn accept_key(key: &HeaderValue) -> Result<HeaderValue, HandshakeError> {
    let nonce = KEY_BASE64.decode(key).map_err(|_| HandshakeError::Key)?;
    if nonce.len() != 16 {
        return Err(HandshakeError::Key);
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).map_err(|_| HandshakeError::Key)
}

/// The first of the subprotocols a client offers that is supported.
///
/// The client's order decides, as it does in a consumer of Channels that walks `scope["subprotocols"]`. The
/// order of `supported` has no meaning, and names are compared with case.
pub fn select_subprotocol<'a>(offered: &'a [String], supported: &[String]) -> Option<&'a str> {
    offered.iter().find(|name| supported.contains(name)).map(String::as_str)
}

/// Why a request is not a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// To be answered with `Allow: GET`.
    #[error("a WebSocket handshake is a GET")]
    Method,
    /// HTTP/1.0 and older know no upgrade.
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersion,
    /// Not a handshake at all, by [`wants_upgrade`].
    #[error("`Upgrade` does not name `websocket`")]
    Upgrade,
    /// A proxy that keeps `Upgrade` but drops `Connection` shows up here.
    #[error("`Connection` does not name `upgrade`")]
    Connection,
    /// To be answered with `Sec-WebSocket-Version: 13`.
    #[error("`Sec-WebSocket-Version` is not 13")]
    Version,
    /// Missing, repeated, or not 16 bytes in base64.
    #[error("`Sec-WebSocket-Key` is not 16 bytes in base64")]
    Key,
    /// An offered name that is not a token.
    #[error("`Sec-WebSocket-Protocol` is not a list of tokens")]
    Subprotocol,
}

impl HandshakeError {
    /// The status of the answer.
    ///
    /// 426 asks for an `Upgrade` header too (RFC 9110, 15.5.22).
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::HttpVersion | Self::Connection | Self::Key | Self::Subprotocol => StatusCode::BAD_REQUEST,
        }
    }
}

/// The names in `Sec-WebSocket-Protocol`, over all its lines. Empty elements of the list are skipped (RFC
/// 9110, 5.6.1.2).
fn offered_subprotocols(head: &Parts) -> Result<Vec<String>, HandshakeError> {
    elements(head.headers.get_all(SEC_WEBSOCKET_PROTOCOL))
        .filter(|name| !name.is_empty())
        .map(|name| match str::from_utf8(name) {
            Ok(text) if name.iter().all(|&byte| is_token_byte(byte)) => Ok(text.to_owned()),
            Ok(_) | Err(_) => Err(HandshakeError::Subprotocol),
        })
        .collect()
}

/// Whether a header that is a list of case-insensitive names holds `name`, in any of its lines.
fn lists(head: &Parts, header: &HeaderName, name: &[u8]) -> bool {
    elements(head.headers.get_all(header)).any(|element| element.eq_ignore_ascii_case(name))
}

/// The elements of a header that is a list, over all its lines.
fn elements(lines: GetAll<'_, HeaderValue>) -> impl Iterator<Item = &[u8]> {
    lines.into_iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// The value of a header that stands exactly once.
fn only<'a>(head: &'a Parts, header: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = head.headers.get_all(header).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Rule: `tchar` of RFC 7230, 3.2.6.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// 22 digits of base64 hold four bits more than 16 bytes. Clients that make up the digits at random set
/// them, and the RFC only asks for 16 bytes.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests;
