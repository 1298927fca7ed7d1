//! What the channel layer counts.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Batches of operations, in seconds.
const DURATIONS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// From one clock to another, in seconds.
const LAGS: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The metrics of the layer. The label `shard` is the place of a host in the configuration; a layer in memory
/// is shard 0.
#[derive(Clone, Debug)]
pub struct LayerMetrics {
    up: IntGaugeVec,
    reconnects: IntCounterVec,
    operations: IntCounterVec,
    durations: HistogramVec,
    received: IntCounterVec,
    gaps: IntCounterVec,
    memberships: IntGaugeVec,
    lags: HistogramVec,
    inbox_messages: IntGaugeVec,
    inbox_capacities: IntGaugeVec,
    /// Bytes of messages that wait to be sent, over all shards.
    pub(super) publish_queue_bytes: IntGauge,
    /// Messages from Redis that no codec could read.
    pub(super) dropped_decode: IntCounter,
    /// Messages from Redis for a channel that nobody here is in.
    pub(super) dropped_unknown_target: IntCounter,
    /// Messages from Redis above the size limit.
    pub(super) dropped_too_large: IntCounter,
    /// Messages from Redis that came too late.
    pub(super) dropped_expired: IntCounter,
    /// Messages for a process whose inbox on Redis is full.
    pub(super) dropped_over_capacity: IntCounter,
}

impl LayerMetrics {
    /// Registers everything.
    ///
    /// # Errors
    ///
    /// A metric of that name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name, help, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let counters = |name, help, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let publish_queue_bytes = IntGauge::new(
            "anteroom_layer_publish_queue_bytes",
            "Bytes of messages that wait to be sent to the channel layer",
        )?;
        registry.register(Box::new(publish_queue_bytes.clone()))?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "anteroom_layer_operation_duration_seconds",
                "Batches of operations on the channel layer, from the write to the last answer",
            )
            .buckets(DURATIONS.to_vec()),
            &["op"],
        )?;
        registry.register(Box::new(durations.clone()))?;
        let lags = HistogramVec::new(
            HistogramOpts::new(
                "anteroom_layer_delivery_lag_seconds",
                "From the clock of the sender to ours, for messages of the inbox on the channel layer",
            )
            .buckets(LAGS.to_vec()),
            &["shard"],
        )?;
        registry.register(Box::new(lags.clone()))?;
        let dropped = counters(
            "anteroom_layer_messages_dropped_total",
            "Messages from the channel layer that were skipped, by reason",
            &["reason"],
        )?;
        Ok(Self {
            up: gauges(
                "anteroom_layer_up",
                "Whether the channel layer is connected and subscribed",
                &["shard"],
            )?,
            reconnects: counters(
                "anteroom_layer_reconnects_total",
                "Connections to the channel layer after the first",
                &["shard"],
            )?,
            operations: counters(
                "anteroom_layer_operations_total",
                "Operations on the channel layer, by kind and result",
                &["shard", "op", "result"],
            )?,
            received: counters(
                "anteroom_layer_messages_received_total",
                "Messages that came from the channel layer",
                &["shard"],
            )?,
            durations,
            gaps: counters(
                "anteroom_layer_gaps_total",
                "Times in which messages to subscribed groups may have been missed, counted when they end",
                &["shard"],
            )?,
            memberships: gauges(
                "anteroom_layer_memberships",
                "Groups with members on this node",
                &["shard"],
            )?,
            lags,
            inbox_messages: gauges(
                "anteroom_layer_inbox_messages",
                "Messages that wait in this node's inbox on the channel layer, sampled",
                &["shard"],
            )?,
            inbox_capacities: gauges(
                "anteroom_layer_inbox_capacity_messages",
                "Messages that may wait in this node's inbox on the channel layer",
                &["shard"],
            )?,
            publish_queue_bytes,
            dropped_decode: dropped.with_label_values(&["decode"]),
            dropped_unknown_target: dropped.with_label_values(&["unknown_target"]),
            dropped_too_large: dropped.with_label_values(&["too_large"]),
            dropped_expired: dropped.with_label_values(&["expired"]),
            dropped_over_capacity: dropped.with_label_values(&["over_capacity"]),
        })
    }

    /// The handles of the inbox on a shard, for a layer that has inboxes.
    pub(super) fn inbox(&self, index: usize) -> InboxMetrics {
        let shard = index.to_string();
        let operation =
            |op, outcome: Outcome| self.operations.with_label_values(&[shard.as_str(), op, outcome.label()]);
        InboxMetrics {
            lag: self.lags.with_label_values(&[&shard]),
            messages: self.inbox_messages.with_label_values(&[&shard]),
            capacity: self.inbox_capacities.with_label_values(&[&shard]),
            received: operation("receive", Outcome::Ok),
            refreshed: operation("refresh", Outcome::Ok),
            refresh_refused: operation("refresh", Outcome::Error),
            refresh_duration: self.durations.with_label_values(&["refresh"]),
        }
    }

    /// The handles of a shard, all of them present from now on.
    pub(super) fn shard(&self, index: usize) -> ShardMetrics {
        let shard = index.to_string();
        let operation = |op: Op| {
            Outcome::ALL
                .map(|outcome| self.operations.with_label_values(&[&shard, op.label(), outcome.label()]))
        };
        ShardMetrics {
            up: self.up.with_label_values(&[&shard]),
            reconnects: self.reconnects.with_label_values(&[&shard]),
            received: self.received.with_label_values(&[&shard]),
            gaps: self.gaps.with_label_values(&[&shard]),
            memberships: self.memberships.with_label_values(&[&shard]),
            durations: Op::ALL.map(|op| self.durations.with_label_values(&[op.label()])),
            group_send: operation(Op::GroupSend),
            send: operation(Op::Send),
            group_add: operation(Op::Add),
            group_discard: operation(Op::Discard),
        }
    }
}

/// The handles of the inbox on one shard.
#[derive(Debug)]
pub(super) struct InboxMetrics {
    pub(super) lag: Histogram,
    pub(super) messages: IntGauge,
    pub(super) capacity: IntGauge,
    /// Batches that were taken out of it.
    pub(super) received: IntCounter,
    pub(super) refreshed: IntCounter,
    pub(super) refresh_refused: IntCounter,
    pub(super) refresh_duration: Histogram,
}

/// The handles of one shard.
#[derive(Debug)]
pub(super) struct ShardMetrics {
    pub(super) up: IntGauge,
    pub(super) reconnects: IntCounter,
    pub(super) received: IntCounter,
    pub(super) gaps: IntCounter,
    pub(super) memberships: IntGauge,
    durations: [Histogram; 4],
    group_send: [IntCounter; 4],
    send: [IntCounter; 4],
    group_add: [IntCounter; 4],
    group_discard: [IntCounter; 4],
}

impl ShardMetrics {
    /// Notes how long a batch took that held operations of this kind.
    pub(super) fn took(&self, op: Op, time: Duration) {
        let [group_send, send, add, discard] = &self.durations;
        let durations = match op {
            Op::GroupSend => group_send,
            Op::Send => send,
            Op::Add => add,
            Op::Discard => discard,
        };
        durations.observe(time.as_secs_f64());
    }

    pub(super) fn operation(&self, op: Op, outcome: Outcome) -> &IntCounter {
        let [ok, error, timeout, full] = match op {
            Op::GroupSend => &self.group_send,
            Op::Send => &self.send,
            Op::Add => &self.group_add,
            Op::Discard => &self.group_discard,
        };
        match outcome {
            Outcome::Ok => ok,
            Outcome::Error => error,
            Outcome::Timeout => timeout,
            Outcome::Full => full,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    GroupSend,
    Send,
    Add,
    Discard,
}

impl Op {
    /// The order is that of the handles of a shard.
    const ALL: [Self; 4] = [Self::GroupSend, Self::Send, Self::Add, Self::Discard];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::GroupSend => "group_send",
            Self::Send => "send",
            Self::Add => "group_add",
            Self::Discard => "group_discard",
        }
    }
}

/// How an operation ended. The order is that of the handles of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Ok,
    Error,
    Timeout,
    Full,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Error, Self::Timeout, Self::Full];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Full => "full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there_from_the_start() {
        let registry = Registry::new();
        let metrics = LayerMetrics::register(&registry).unwrap();
        metrics.shard(0).operation(Op::Add, Outcome::Timeout).inc();
        let page = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let operations: Vec<_> =
            page.lines().filter(|line| line.starts_with("anteroom_layer_operations")).collect();
        assert_eq!(operations.len(), 16);
        let added = r#"anteroom_layer_operations_total{op="group_add",result="timeout",shard="0"} 1"#;
        assert!(operations.contains(&added), "{page}");
        let dropped = page.lines().filter(|line| line.starts_with("anteroom_layer_messages_dropped_total{"));
        assert_eq!(dropped.count(), 5);
    }
}
