//! What is counted of connections before their first request.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::listener::tls::Outcome;

/// Of TLS handshakes, in seconds.
const DURATIONS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The metrics of all listeners.
#[derive(Debug)]
pub struct Metrics {
    connections: IntGaugeVec,
    accepted: IntCounterVec,
    refused: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_duration: HistogramVec,
    /// When certificates end, by listener and by the path of the certificate.
    pub(super) not_after: IntGaugeVec,
}

/// The handles of one listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    pub(super) connections: IntGauge,
    pub(super) accepted: IntCounter,
    pub(super) refused_limit: IntCounter,
    pub(super) refused_per_ip: IntCounter,
    pub(super) refused_proxy_protocol: IntCounter,
    pub(super) accept_errors: IntCounter,
    pub(super) tls: Option<TlsMetrics>,
}

/// The handles of one listener with TLS.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    handshakes: [IntCounter; Outcome::ALL.len()],
    pub(super) duration: Histogram,
}

impl TlsMetrics {
    pub(super) fn ended(&self, outcome: Outcome) {
        if let Some(counter) = self.handshakes.get(outcome as usize) {
            counter.inc();
        }
    }
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
        let handshakes = IntCounterVec::new(
            Opts::new("anteroom_tls_handshakes_total", "TLS handshakes by what came of them"),
            &["listener", "result"],
        )?;
        let handshake_duration = HistogramVec::new(
            HistogramOpts::new(
                "anteroom_tls_handshake_duration_seconds",
                "TLS handshakes that succeeded, the wait for their first byte included",
            )
            .buckets(DURATIONS.to_vec()),
            &["listener"],
        )?;
        let not_after = IntGaugeVec::new(
            Opts::new("anteroom_tls_certificate_not_after_timestamp_seconds", "When a certificate ends"),
            &["listener", "name"],
        )?;
        registry.register(Box::new(handshakes.clone()))?;
        registry.register(Box::new(handshake_duration.clone()))?;
        registry.register(Box::new(not_after.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(accepted.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { connections, accepted, refused, handshakes, handshake_duration, not_after })
    }

    /// The handles of one listener, starting at 0.
    pub fn listener(&self, name: &str, tls: bool) -> ListenerMetrics {
        ListenerMetrics {
            connections: self.connections.with_label_values(&[name]),
            accepted: self.accepted.with_label_values(&[name]),
            refused_limit: self.refused.with_label_values(&[name, "limit"]),
            refused_per_ip: self.refused.with_label_values(&[name, "per_ip"]),
            refused_proxy_protocol: self.refused.with_label_values(&[name, "proxy_protocol"]),
            accept_errors: self.refused.with_label_values(&[name, "accept_error"]),
            tls: tls.then(|| TlsMetrics {
                handshakes: Outcome::ALL
                    .map(|outcome| self.handshakes.with_label_values(&[name, outcome.as_str()])),
                duration: self.handshake_duration.with_label_values(&[name]),
            }),
        }
    }
}
