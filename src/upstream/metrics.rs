//! What is counted of upstreams.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use tokio::time::Instant;

/// Until the head of an answer, or until nobody waited for it any more, in seconds.
const DURATIONS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What is asked of an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Http,
    Tunnel,
    Health,
}

impl Kind {
    /// In the order of their numbers.
    const ALL: [Self; 3] = [Self::Http, Self::Tunnel, Self::Health];

    /// The word in the metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tunnel => "tunnel",
            Self::Health => "health",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// An answer, whatever its status; of a tunnel, the right 101; of a health check, the right status.
    Ok,
    /// By us, for there are too many; of a tunnel and a health check, by another answer.
    Refused,
    Error,
    Timeout,
    /// We have run out of what a connection takes.
    Shortage,
    /// The client's body was broken, or the client left.
    Client,
}

impl Outcome {
    /// In the order of their numbers.
    const ALL: [Self; 6] =
        [Self::Ok, Self::Refused, Self::Error, Self::Timeout, Self::Shortage, Self::Client];

    /// The word in the metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Shortage => "shortage",
            Self::Client => "client",
        }
    }
}

/// The metrics of all upstreams, from which each takes its handles.
#[derive(Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    inflight: IntGaugeVec,
    retries: IntCounterVec,
    broken: IntCounterVec,
    tunnels: IntGaugeVec,
    tunnel_bytes: IntCounterVec,
    server_up: IntGaugeVec,
    upstreams: Mutex<HashMap<Arc<str>, Arc<UpstreamMetrics>>>,
    /// Upstream and server of each series of `server_up`.
    servers: Mutex<HashSet<(Arc<str>, String)>>,
}

/// The handles of one upstream.
pub(super) struct UpstreamMetrics {
    requests: [[IntCounter; Outcome::ALL.len()]; Kind::ALL.len()],
    durations: [Histogram; Kind::ALL.len()],
    pub(super) inflight: IntGauge,
    pub(super) retries: IntCounter,
    pub(super) broken: IntCounter,
    pub(super) tunnels: IntGauge,
    pub(super) bytes_to_server: IntCounter,
    pub(super) bytes_to_client: IntCounter,
}

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamMetrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// A name is taken already: our fault.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let durations = HistogramOpts::new(
            "anteroom_upstream_request_duration_seconds",
            "From the request to the head of the upstream's answer, retries included, or for as long as one was waited for that did not come in time",
        );
        let durations = HistogramVec::new(durations.buckets(DURATIONS.to_vec()), &["upstream", "kind"])?;
        registry.register(Box::new(durations.clone()))?;
        Ok(Self {
            requests: counters(
                "anteroom_upstream_requests_total",
                "Requests to upstreams, by what became of them",
                &["upstream", "kind", "result"],
            )?,
            durations,
            inflight: gauges(
                "anteroom_upstream_inflight_requests",
                "Requests and tunnels that an upstream has at the moment",
                &["upstream"],
            )?,
            retries: counters(
                "anteroom_upstream_retries_total",
                "Requests sent once more, over another connection or to another server",
                &["upstream"],
            )?,
            broken: counters(
                "anteroom_upstream_broken_answers_total",
                "Answers whose body ended too early or stopped coming",
                &["upstream"],
            )?,
            tunnels: gauges("anteroom_upstream_tunnels", "Open tunnels", &["upstream"])?,
            tunnel_bytes: counters(
                "anteroom_upstream_tunnel_bytes_total",
                "Bytes that went through tunnels which have ended",
                &["upstream", "direction"],
            )?,
            server_up: gauges(
                "anteroom_upstream_server_up",
                "Whether a server gets requests",
                &["upstream", "server"],
            )?,
            upstreams: Mutex::default(),
            servers: Mutex::default(),
        })
    }

    /// The handles of an upstream; the same ones for the same name, all of them starting at 0.
    pub(super) fn upstream(&self, name: &Arc<str>) -> Arc<UpstreamMetrics> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let resolve = || {
            let counters = |kind: Kind| {
                Outcome::ALL
                    .map(|result| self.requests.with_label_values(&[&**name, kind.as_str(), result.as_str()]))
            };
            Arc::new(UpstreamMetrics {
                requests: Kind::ALL.map(counters),
                durations: Kind::ALL.map(|kind| self.durations.with_label_values(&[&**name, kind.as_str()])),
                inflight: self.inflight.with_label_values(&[name]),
                retries: self.retries.with_label_values(&[name]),
                broken: self.broken.with_label_values(&[name]),
                tunnels: self.tunnels.with_label_values(&[name]),
                bytes_to_server: self.tunnel_bytes.with_label_values(&[&**name, "to_server"]),
                bytes_to_client: self.tunnel_bytes.with_label_values(&[&**name, "to_client"]),
            })
        };
        Arc::clone(upstreams.entry(Arc::clone(name)).or_insert_with(resolve))
    }

    pub(super) fn server_up(&self, upstream: &str, server: &str) -> IntGauge {
        let labels = (upstream.into(), server.to_owned());
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).insert(labels);
        self.server_up.with_label_values(&[upstream, server])
    }

    /// The upstreams that have series.
    pub fn upstream_names(&self) -> Vec<Arc<str>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).keys().map(Arc::clone).collect()
    }

    /// Forgets the series of an upstream, but for those of its servers. To be called after a scrape.
    pub fn forget_upstream(&self, name: &str) {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        // A series that is gone already is what is wanted.
        let gone = |_: prometheus::Error| ();
        for kind in Kind::ALL.map(Kind::as_str) {
            for result in Outcome::ALL.map(Outcome::as_str) {
                self.requests.remove_label_values(&[name, kind, result]).unwrap_or_else(gone);
            }
            self.durations.remove_label_values(&[name, kind]).unwrap_or_else(gone);
        }
        for direction in ["to_server", "to_client"] {
            self.tunnel_bytes.remove_label_values(&[name, direction]).unwrap_or_else(gone);
        }
        self.inflight.remove_label_values(&[name]).unwrap_or_else(gone);
        self.retries.remove_label_values(&[name]).unwrap_or_else(gone);
        self.broken.remove_label_values(&[name]).unwrap_or_else(gone);
        self.tunnels.remove_label_values(&[name]).unwrap_or_else(gone);
    }

    /// Forgets the series of all servers but these.
    pub(super) fn keep_servers(&self, kept: &HashSet<(Arc<str>, String)>) {
        // A series that is gone already is what is wanted.
        let gone = |_: prometheus::Error| ();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|labels| {
            if !kept.contains(labels) {
                self.server_up.remove_label_values(&[&*labels.0, &labels.1]).unwrap_or_else(gone);
            }
            kept.contains(labels)
        });
    }
}

impl UpstreamMetrics {
    pub(super) fn count(&self, kind: Kind, outcome: Outcome, took: Duration) {
        let counters = self.requests.get(kind as usize);
        if let Some(counter) = counters.and_then(|counters| counters.get(outcome as usize)) {
            counter.inc();
        }
        let has_waited = match outcome {
            Outcome::Ok | Outcome::Timeout | Outcome::Client => true,
            Outcome::Refused | Outcome::Error | Outcome::Shortage => false,
        };
        if let Some(durations) = self.durations.get(kind as usize).filter(|_| has_waited) {
            durations.observe(took.as_secs_f64());
        }
    }
}

/// What is asked of an upstream and has no outcome yet. Dropped without one, its client has left, and it counts so; what
/// the end of the process drops does too, for nobody reads that.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    metrics: &'a UpstreamMetrics,
    kind: Kind,
    began_at: Instant,
    has_ended: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(metrics: &'a UpstreamMetrics, kind: Kind, began_at: Instant) -> Self {
        Self { metrics, kind, began_at, has_ended: false }
    }

    /// Counts what has become of it.
    pub(super) fn end(mut self, outcome: Outcome, now: Instant) {
        self.has_ended = true;
        self.metrics.count(self.kind, outcome, now - self.began_at);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.metrics.count(self.kind, Outcome::Client, self.began_at.elapsed());
        }
    }
}
