//! What is known of a connection before its first request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;

/// One accepted connection.
#[derive(Debug)]
pub struct ConnInfo {
    /// Unique in this process; it is in every log line of the connection.
    pub id: u64,
    /// The other end of the connection: a client, or a proxy in front.
    pub peer: Peer,
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
        Self { id, peer, listener, tls: None, open: Arc::new(OpenConn { gauge, load }) }
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
}

/// A connection on the gauge of its listener and on the load of its worker, until this is dropped.
#[derive(Debug)]
pub struct OpenConn {
    gauge: IntGauge,
    load: Arc<AtomicUsize>,
}

impl Drop for OpenConn {
    fn drop(&mut self) {
        self.gauge.dec();
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}
