//! What is known of a connection before its first byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;

/// One accepted connection.
#[derive(Debug)]
pub struct ConnInfo {
    /// Unique in this process; it is in every log line of the connection.
    pub id: u64,
    /// The other end of the TCP connection: a client, or a proxy in front.
    pub peer: SocketAddr,
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    /// Keeps the connection on the gauges. A socket holds on to this alone.
    pub open: Arc<OpenConn>,
}

impl ConnInfo {
    pub(super) fn new(
        id: u64,
        peer: SocketAddr,
        listener: Arc<str>,
        gauge: IntGauge,
        load: Arc<AtomicUsize>,
    ) -> Self {
        gauge.inc();
        load.fetch_add(1, Ordering::Relaxed);
        // A dual-stack socket shows IPv4 peers as mapped addresses; rules are written for the plain ones.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Self { id, peer, listener, open: Arc::new(OpenConn { gauge, load }) }
    }
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
