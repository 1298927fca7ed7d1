//! What is counted of TCP connections.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The metrics of all listeners.
#[derive(Debug)]
pub struct Metrics {
    connections: IntGaugeVec,
    accepted: IntCounterVec,
    refused: IntCounterVec,
}

/// The handles of one listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    pub(super) connections: IntGauge,
    pub(super) accepted: IntCounter,
    pub(super) refused_limit: IntCounter,
    pub(super) accept_errors: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// A name is taken already: our fault.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections =
            IntGaugeVec::new(Opts::new("anteroom_tcp_connections", "Open TCP connections"), &["listener"])?;
        let accepted = IntCounterVec::new(
            Opts::new("anteroom_tcp_connections_accepted_total", "Accepted TCP connections"),
            &["listener"],
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "anteroom_tcp_connections_refused_total",
                "TCP connections closed unserved, or not accepted",
            ),
            &["listener", "reason"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(accepted.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { connections, accepted, refused })
    }

    /// The handles of one listener, starting at 0.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            connections: self.connections.with_label_values(&[name]),
            accepted: self.accepted.with_label_values(&[name]),
            refused_limit: self.refused.with_label_values(&[name, "limit"]),
            accept_errors: self.refused.with_label_values(&[name, "accept_error"]),
        }
    }
}
