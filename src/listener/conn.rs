//! What is known of a connection before its first request.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

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
        place: Option<Place>,
    ) -> Self {
        gauge.inc();
        load.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(OpenConn { gauge, load, _place: place });
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

/// How many connections there are from each address.
#[derive(Debug, Default)]
pub(super) struct PeerCounts(Mutex<HashMap<IpAddr, usize>>);

/// A connection in the count of its address, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<PeerCounts>,
    address: IpAddr,
}

impl PeerCounts {
    /// Counts a connection in, unless there are this many already.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr, connections_max: usize) -> Option<Place> {
        let address = counted_as(ip);
        let mut counts = self.lock();
        let here = counts.entry(address).or_default();
        if connections_max <= *here {
            return None;
        }
        *here += 1;
        Some(Place { counts: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(here) = counts.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The address that limits count by: an IPv6 client owns at least a /64.
pub fn counted_as(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A connection on the gauge of its listener and on the load of its worker, until this is dropped.
#[derive(Debug)]
pub struct OpenConn {
    gauge: IntGauge,
    load: Arc<AtomicUsize>,
    _place: Option<Place>,
}

impl Drop for OpenConn {
    fn drop(&mut self) {
        self.gauge.dec();
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_places_as_are_free() {
        let counts: Arc<PeerCounts> = Arc::default();
        let enter = |ip: &str| counts.enter(ip.parse().unwrap(), 2);
        let one = enter("2001:db8:1:2::1").unwrap();
        let _two = enter("2001:db8:1:2:ffff::2").unwrap();
        assert!(enter("2001:db8:1:2::3").is_none());
        assert!(enter("2001:db8:1:3::1").is_some());
        drop(one);
        assert!(enter("2001:db8:1:2::3").is_some());
        assert_eq!(counts.lock().len(), 1);
    }
}
