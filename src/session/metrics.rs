//! What is counted of sockets and rooms.
//!
//! Every handle that a delivery or a message needs is resolved when its route is loaded. No label comes
//! from a client.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::channel_layer::Refusal;
use crate::handler::{Fault, Skip};
use crate::session::socket::Cause;

/// Lives of sockets, in seconds.
const LIVES: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0];
/// Sizes of messages, in bytes.
const SIZES: &[f64] = &[64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];
/// Local sockets that one broadcast reached.
const FANOUTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1_000.0, 5_000.0, 20_000.0];
/// Round trips of pings, in seconds.
const ROUND_TRIPS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The metrics of all sockets, from which each route takes its handles.
#[derive(Debug)]
pub struct Metrics {
    connections: IntGaugeVec,
    durations: HistogramVec,
    closes: IntCounterVec,
    received: IntCounterVec,
    received_bytes: IntCounterVec,
    sent: IntCounterVec,
    sent_bytes: IntCounterVec,
    queued: IntGaugeVec,
    dropped: IntCounterVec,
    rate_limited: IntCounterVec,
    faults: IntCounterVec,
    refused: IntCounterVec,
    rooms: IntGaugeVec,
    broadcasts: IntCounterVec,
    skipped: IntCounterVec,
    sizes: Histogram,
    ping_rtt: Histogram,
    fanout: Histogram,
    inbox_dropped: IntCounter,
    direct_gone: IntCounter,
    routes: Mutex<HashMap<Arc<str>, Arc<RouteMetrics>>>,
}

/// The handles of one route.
pub struct RouteMetrics {
    pub(super) connections: IntGauge,
    durations: Histogram,
    closes: [IntCounter; Cause::ALL.len()],
    pub(super) received_text: IntCounter,
    pub(super) received_binary: IntCounter,
    pub(super) received_bytes: IntCounter,
    pub(super) sent_text: IntCounter,
    pub(super) sent_binary: IntCounter,
    pub(super) sent_bytes: IntCounter,
    pub(super) queued_bytes: IntGauge,
    pub(super) dropped_full: IntCounter,
    pub(super) dropped_closing: IntCounter,
    pub(super) rate_limited: IntCounter,
    faults: [IntCounter; Fault::ALL.len()],
    refused: [IntCounter; Refusal::ALL.len()],
    pub(super) rooms: IntGauge,
    pub(super) broadcasts: IntCounter,
    skipped: [IntCounter; Skip::ALL.len()],
    sizes: Histogram,
    pub(super) ping_rtt: Histogram,
    fanout: Histogram,
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMetrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// A name is taken already: our fault.
    #[expect(clippy::too_many_lines, reason = "a list of names and help texts")]
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauges = |name: &str, help: &str| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["route"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "anteroom_websocket_connection_duration_seconds",
                "Lives of sockets, observed when they end",
            )
            .buckets(LIVES.to_vec()),
            &["route"],
        )?;
        registry.register(Box::new(durations.clone()))?;
        let inbox_dropped = IntCounter::new(
            "anteroom_worker_inbox_dropped_total",
            "Broadcasts that a worker never saw because its inbox was full",
        )?;
        registry.register(Box::new(inbox_dropped.clone()))?;
        let direct_gone = IntCounter::new(
            "anteroom_websocket_direct_gone_total",
            "Messages for the channel of a socket that had ended already",
        )?;
        registry.register(Box::new(direct_gone.clone()))?;
        Ok(Self {
            connections: gauges("anteroom_websocket_connections", "Open sockets")?,
            durations,
            closes: counters(
                "anteroom_websocket_closes_total",
                "Sockets that ended, by cause",
                &["route", "cause"],
            )?,
            received: counters(
                "anteroom_websocket_messages_received_total",
                "Messages from clients",
                &["route", "opcode"],
            )?,
            received_bytes: counters(
                "anteroom_websocket_received_bytes_total",
                "Payload bytes of messages from clients",
                &["route"],
            )?,
            sent: counters(
                "anteroom_websocket_messages_sent_total",
                "Messages to clients",
                &["route", "opcode"],
            )?,
            sent_bytes: counters(
                "anteroom_websocket_sent_bytes_total",
                "Payload bytes of messages to clients",
                &["route"],
            )?,
            queued: gauges(
                "anteroom_websocket_send_queue_bytes",
                "Bytes of frames that wait for clients, over all sockets",
            )?,
            dropped: counters(
                "anteroom_websocket_send_dropped_total",
                "Messages that a socket missed",
                &["route", "reason"],
            )?,
            rate_limited: counters(
                "anteroom_websocket_rate_limited_total",
                "Messages from clients beyond the rate of their route",
                &["route"],
            )?,
            faults: counters(
                "anteroom_websocket_messages_faulty_total",
                "Messages from clients that the handler could not use",
                &["route", "reason"],
            )?,
            refused: counters(
                "anteroom_websocket_publish_refused_total",
                "Messages from clients, and what is announced of them, that the channel layer did not take",
                &["route", "reason"],
            )?,
            rooms: gauges(
                "anteroom_room_active",
                "Rooms with a local member, counted for each worker and each generation of the route",
            )?,
            broadcasts: counters(
                "anteroom_room_broadcasts_total",
                "Events of the channel layer that reached a room, counted as rooms are",
                &["route"],
            )?,
            skipped: counters(
                "anteroom_room_events_skipped_total",
                "Events of the channel layer that reached no socket",
                &["route", "reason"],
            )?,
            sizes: histogram(
                "anteroom_websocket_message_size_bytes",
                "Payloads of messages from clients",
                SIZES,
            )?,
            ping_rtt: histogram(
                "anteroom_websocket_ping_rtt_seconds",
                "From a ping to its pong",
                ROUND_TRIPS,
            )?,
            fanout: histogram(
                "anteroom_room_fanout_sockets",
                "Sockets that one write of a room reached, on one worker",
                FANOUTS,
            )?,
            inbox_dropped,
            direct_gone,
            routes: Mutex::default(),
        })
    }

    /// Open sockets of all routes, those of removed ones included.
    pub fn open(&self) -> i64 {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.values().map(|route| route.connections.get()).sum()
    }

    /// Counts broadcasts that found a worker's inbox full.
    pub fn inbox_dropped(&self) -> IntCounter {
        self.inbox_dropped.clone()
    }

    /// Counts messages for sockets that have ended, whoever had them.
    pub fn direct_gone(&self) -> IntCounter {
        self.direct_gone.clone()
    }

    /// The handles of a route; the same ones for the same name, all of them starting at 0.
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(Arc::clone(name)).or_insert_with(|| Arc::new(self.resolve(name))))
    }

    /// Whether a socket of the route is open.
    pub fn has_sockets(&self, route: &str) -> bool {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.get(route).is_some_and(|route| 0 < route.connections.get())
    }

    /// Forgets the series of a route. To be called after a scrape, so that its last values are seen once.
    pub fn forget_route(&self, route: &str) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(route);
        // A series that is gone already is what is wanted.
        let gone = |_: prometheus::Error| ();
        for gauges in [&self.connections, &self.queued, &self.rooms] {
            gauges.remove_label_values(&[route]).unwrap_or_else(gone);
        }
        for counters in [&self.received_bytes, &self.sent_bytes, &self.broadcasts, &self.rate_limited] {
            counters.remove_label_values(&[route]).unwrap_or_else(gone);
        }
        self.durations.remove_label_values(&[route]).unwrap_or_else(gone);
        let labels: [(&IntCounterVec, Vec<&str>); 7] = [
            (&self.closes, Cause::ALL.iter().map(|cause| cause.label()).collect()),
            (&self.received, vec!["text", "binary"]),
            (&self.sent, vec!["text", "binary"]),
            (&self.dropped, vec!["queue_full", "closing"]),
            (&self.faults, Fault::ALL.iter().map(|fault| fault.label()).collect()),
            (&self.refused, Refusal::ALL.iter().map(|refusal| refusal.label()).collect()),
            (&self.skipped, Skip::ALL.iter().map(|skip| skip.label()).collect()),
        ];
        for (counters, values) in labels {
            for value in values {
                counters.remove_label_values(&[route, value]).unwrap_or_else(gone);
            }
        }
    }

    fn resolve(&self, route: &str) -> RouteMetrics {
        RouteMetrics {
            connections: self.connections.with_label_values(&[route]),
            durations: self.durations.with_label_values(&[route]),
            closes: Cause::ALL.map(|cause| self.closes.with_label_values(&[route, cause.label()])),
            received_text: self.received.with_label_values(&[route, "text"]),
            received_binary: self.received.with_label_values(&[route, "binary"]),
            received_bytes: self.received_bytes.with_label_values(&[route]),
            sent_text: self.sent.with_label_values(&[route, "text"]),
            sent_binary: self.sent.with_label_values(&[route, "binary"]),
            sent_bytes: self.sent_bytes.with_label_values(&[route]),
            queued_bytes: self.queued.with_label_values(&[route]),
            dropped_full: self.dropped.with_label_values(&[route, "queue_full"]),
            dropped_closing: self.dropped.with_label_values(&[route, "closing"]),
            rate_limited: self.rate_limited.with_label_values(&[route]),
            faults: Fault::ALL.map(|fault| self.faults.with_label_values(&[route, fault.label()])),
            refused: Refusal::ALL.map(|refusal| self.refused.with_label_values(&[route, refusal.label()])),
            rooms: self.rooms.with_label_values(&[route]),
            broadcasts: self.broadcasts.with_label_values(&[route]),
            skipped: Skip::ALL.map(|skip| self.skipped.with_label_values(&[route, skip.label()])),
            sizes: self.sizes.clone(),
            ping_rtt: self.ping_rtt.clone(),
            fanout: self.fanout.clone(),
        }
    }
}

impl RouteMetrics {
    pub(super) fn closed(&self, cause: Cause, lived: Duration) {
        self.connections.dec();
        self.durations.observe(lived.as_secs_f64());
        count(&Cause::ALL, &self.closes, cause);
    }

    pub(super) fn fault(&self, fault: Fault) {
        count(&Fault::ALL, &self.faults, fault);
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        count(&Refusal::ALL, &self.refused, refusal);
    }

    pub(super) fn skipped(&self, skip: Skip) {
        count(&Skip::ALL, &self.skipped, skip);
    }

    #[expect(clippy::cast_precision_loss, reason = "a histogram has no use for the last bit of a size")]
    pub(super) fn observe_size(&self, bytes: u64) {
        self.sizes.observe(bytes as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "a histogram has no use for the last bit of a count")]
    pub(super) fn observe_fanout(&self, sockets: u64) {
        self.fanout.observe(sockets as f64);
    }
}

/// Counts a value of a closed set in the handle at its place.
fn count<T: Copy + PartialEq>(all: &[T], counters: &[IntCounter], value: T) {
    if let Some(counter) = all.iter().position(|one| *one == value).and_then(|at| counters.get(at)) {
        counter.inc();
    }
}
