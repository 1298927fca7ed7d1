//! What is known about a connection when it is let in: who, where from, what for.

mod template;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

use crate::listener::Peer;

pub use self::template::{Placeholder, Template, TemplateError, TemplateErrorKind};

/// The facts of one request, in the words of an ASGI scope.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The client, as seen behind trusted proxies.
    pub client: ClientAddr,
    /// The path, percent-decoded, with its leading slash and without the query.
    pub path: String,
    /// The query as sent, without the question mark; empty when there is none.
    pub query: String,
    /// The headers as sent; those of a handshake only.
    pub headers: HeaderMap,
    /// What the named groups of the route's pattern captured.
    pub params: Params,
    /// The name of the user; `None` for an anonymous one.
    pub user: Option<String>,
    /// The subprotocol both sides agreed on.
    pub subprotocol: Option<String>,
}

/// The address of a client.
///
/// IPv4 addresses written as IPv6 ones are always held as IPv4. The port is absent when a proxy named
/// the address without one. There is no address at all when a client, or a proxy that does not say whom it
/// speaks for, comes over a UNIX socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl ClientAddr {
    /// The address in its canonical form.
    pub fn new(ip: IpAddr, port: Option<u16>) -> Self {
        Self { ip: Some(ip.to_canonical()), port }
    }

    /// The address without the port; `None` behind a UNIX socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The port, if it is known.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl From<Peer> for ClientAddr {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Ip(address) => Self::new(address.ip(), Some(address.port())),
            Peer::Unix => Self { ip: None, port: None },
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (Some(ip), Some(port)) => SocketAddr::new(ip, port).fmt(out),
            (Some(ip), None) => ip.fmt(out),
            (None, _) => Peer::Unix.fmt(out),
        }
    }
}

/// What the named groups of a pattern captured, in the order of the pattern.
///
/// A group that took no part in the match is left out, as Django's `kwargs` leave it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(Arc<str>, String)>);

impl Params {
    /// What the group `name` captured.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.as_str()))
    }

    /// Whether no named group took part.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Arc<str>, String)> for Params {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, String)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_address_is_canonical_and_shows_its_port() {
        let cases = [
            ("::ffff:192.0.2.1", Some(5), "192.0.2.1:5"),
            ("2001:db8::1", Some(5), "[2001:db8::1]:5"),
            ("2001:db8::1", None, "2001:db8::1"),
            ("192.0.2.1", None, "192.0.2.1"),
        ];
        for (ip, port, shown) in cases {
            assert_eq!(ClientAddr::new(ip.parse().unwrap(), port).to_string(), shown);
        }
        assert_eq!(ClientAddr::from(Peer::Unix).to_string(), "unix");
    }

    #[test]
    fn params_are_found_by_name() {
        let params: Params =
            [("a", "1"), ("b", "2")].map(|(k, v)| (Arc::from(k), v.to_owned())).into_iter().collect();
        assert_eq!(params.get("b"), Some("2"));
        assert_eq!(params.get("c"), None);
    }
}
