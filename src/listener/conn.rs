//! What is known of a connection before its first request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus::IntGauge;

use crate::listener::counts::Place;

/// One accepted connection.
#[derive(Debug)]
pub struct ConnInfo {
    /// Unique in this process; it is in every log line of the connection.
    pub id: u64,
    /// Whom the connection is for: its other end, or the client that a trusted proxy names in a PROXY header.
    pub peer: Peer,
    /// The other end, when it is a proxy that has named its client in a PROXY header.
    pub proxy: Option<Peer>,
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    /// What TLS has agreed on; `None` for a connection in clear.
    pub tls: Option<TlsInfo>,
    /// Keeps the connection on the gauges. A socket holds on to this alone.
    pub open: Arc<OpenConn>,
}

impl ConnInfo {
    pub(super) fn new(
        id: u64,
        peer: Peer,
        listener: Arc<str>,
        gauge: IntGauge,
        load: Arc<AtomicUsize>,
    ) -> Self {
        gauge.inc();
        load.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(OpenConn { gauge, load, place: OnceLock::new() });
        Self { id, peer, proxy: None, listener, tls: None, open }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over TCP. IPv4 peers of a dual-stack socket, which it shows as mapped addresses, are held as IPv4: rules
    /// are written for those.
    Ip(SocketAddr),
    /// Over a UNIX socket, which has no address to tell one peer from another by.
    Unix,
}

impl Peer {
    /// The address without the port.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a TLS handshake has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<Arc<str>>,
    /// Whether HTTP/2 was agreed on (ALPN).
    pub http2: bool,
    /// The certificate that the client has shown, signed by one of the listener's authorities.
    pub client: Option<ClientCertificate>,
}

/// The verified certificate of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whose it is, as the certificate says (`CN=robot, O=Example`), without control characters.
    pub subject: Arc<str>,
    /// The SHA-256 of the certificate, in hex.
    pub sha256: Arc<str>,
}

/// A connection on the gauge of its listener and on the load of its worker, until this is dropped.
#[derive(Debug)]
pub struct OpenConn {
    gauge: IntGauge,
    load: Arc<AtomicUsize>,
    place: OnceLock<Place>,
}

impl OpenConn {
    /// Keeps the connection in the count of its address, which is known once.
    pub(super) fn hold(&self, place: Place) {
        self.place.set(place).unwrap_or_default();
    }
}

impl Drop for OpenConn {
    fn drop(&mut self) {
        self.gauge.dec();
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}
