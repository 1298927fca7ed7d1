//! The layer `channels_redis.pubsub`: PUBLISH and SUBSCRIBE, one Redis channel per group.
//!
//! Each host has a [`Shard`]: the memberships it is asked for, the messages that wait for it, and the task
//! that keeps a connection. Messages are at most once, as in Python: what is published while a connection is
//! lost is missed.

mod connection;
mod members;
mod outbox;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::channel_layer::message::Message;
use crate::channel_layer::metrics::{LayerMetrics, Op, Outcome, ShardMetrics};
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::keys::Keys;
use crate::channel_layer::redis::pubsub::members::{Confirmed, Members};
use crate::channel_layer::redis::pubsub::outbox::{Outbox, Publish};
use crate::channel_layer::redis::shard::host_index;
use crate::channel_layer::redis::wire::Serializer;
use crate::channel_layer::redis::{PubSubConfig, RedisUrl};
use crate::channel_layer::{Delivery, Health, Inbox, Join, Refusal, Ticket, WorkerId};

/// Bad messages are logged at most this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// The whole layer.
pub(in crate::channel_layer) struct PubSub {
    shards: Vec<Arc<Shard>>,
    codec: Arc<Codec>,
}

impl PubSub {
    pub(in crate::channel_layer) fn new(
        config: PubSubConfig,
        inboxes: Vec<Arc<dyn Inbox>>,
        metrics: LayerMetrics,
    ) -> Self {
        let codec = Arc::new(Codec {
            keys: Keys::new(&config.prefix),
            serializer: config.serializer,
            bytes_max: config.message_bytes_max,
        });
        let inboxes: Arc<[_]> = inboxes.into();
        let metrics = Arc::new(metrics);
        let hosts = if config.hosts.is_empty() { vec![RedisUrl::default()] } else { config.hosts };
        let shard = |(index, url): (usize, RedisUrl)| {
            let shard_metrics = metrics.shard(index);
            Arc::new(Shard {
                index,
                url,
                codec: Arc::clone(&codec),
                inboxes: Arc::clone(&inboxes),
                members: Mutex::default(),
                outbox: Mutex::new(Outbox::new(config.publish_queue_bytes_max, config.publish_age_max)),
                work: Notify::new(),
                filled: Notify::new(),
                status: Mutex::default(),
                heard: AtomicU64::new(0),
                complaints: Mutex::default(),
                metrics: shard_metrics,
                all: Arc::clone(&metrics),
            })
        };
        let shards = hosts.into_iter().enumerate().map(shard).collect();
        Self { shards, codec }
    }

    pub(in crate::channel_layer) fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        match self.shard(&self.codec.keys.group_channel(group.as_str())) {
            Some(shard) => shard.join(worker, group),
            None => Join::LayerDown,
        }
    }

    pub(in crate::channel_layer) fn leave(&self, worker: WorkerId, group: &GroupName) {
        if let Some(shard) = self.shard(&self.codec.keys.group_channel(group.as_str())) {
            shard.leave(worker, group);
        }
    }

    /// Encodes on the caller's thread, so that the cost falls on the workers and not on the one task per
    /// host.
    pub(in crate::channel_layer) fn group_send(
        &self,
        group: &GroupName,
        message: &Message,
        from: Ticket,
    ) -> Result<(), Refusal> {
        let channel = self.codec.keys.group_channel(group.as_str());
        let shard = self.shard(&channel).ok_or(Refusal::LayerDown)?;
        let sent = match self.codec.serializer.encode(message) {
            Err(_) => Err(Refusal::Encode),
            Ok(payload) if self.codec.bytes_max < payload.len() => Err(Refusal::TooLarge),
            Ok(payload) => shard.publish(Publish { channel, payload, from, since: Instant::now() }),
        };
        sent.inspect_err(|refusal| shard.count_refusal(*refusal))
    }

    pub(in crate::channel_layer) fn health(&self) -> Health {
        let trouble = self.shards.iter().find_map(|shard| shard.trouble());
        Health { backend: "channels_redis.pubsub", up: trouble.is_none(), error: trouble }
    }

    pub(in crate::channel_layer) async fn run(&self, stop: CancellationToken, broken: CancellationToken) {
        // A set aborts its tasks when this future is dropped.
        let mut tasks = JoinSet::new();
        for shard in &self.shards {
            tasks.spawn(Arc::clone(shard).run(stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(panicked) = ended {
                error!(error = %panicked, "the task of a Redis host broke");
                broken.cancel();
            }
        }
    }

    fn shard(&self, channel: &str) -> Option<&Arc<Shard>> {
        self.shards.get(host_index(channel.as_bytes(), self.shards.len()))
    }
}

impl fmt::Debug for PubSub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub").field("shards", &self.shards.len()).field("codec", &self.codec).finish()
    }
}

/// What both sides must agree on.
#[derive(Debug)]
struct Codec {
    keys: Keys,
    serializer: Serializer,
    /// The longest payload.
    bytes_max: usize,
}

/// Everything about one host.
struct Shard {
    index: usize,
    url: RedisUrl,
    codec: Arc<Codec>,
    inboxes: Arc<[Arc<dyn Inbox>]>,
    members: Mutex<Members>,
    outbox: Mutex<Outbox>,
    /// There is something for the writer: a change of memberships or a message.
    work: Notify,
    /// The first message came to wait, and may have to be given up one day.
    filled: Notify,
    status: Mutex<Status>,
    /// How many pushes came, as a sign of life.
    heard: AtomicU64,
    complaints: Mutex<Complaints>,
    metrics: ShardMetrics,
    all: Arc<LayerMetrics>,
}

impl Shard {
    fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        let mut members = lock(&self.members);
        let (join, work) = members.join(worker, group);
        self.metrics.memberships.set(members.wanted());
        drop(members);
        if work {
            self.work.notify_one();
        }
        join
    }

    fn leave(&self, worker: WorkerId, group: &GroupName) {
        let mut members = lock(&self.members);
        let refused_before = members.refused();
        let work = members.leave(worker, group);
        let refused = members.refused();
        self.metrics.memberships.set(members.wanted());
        drop(members);
        if refused != refused_before {
            self.show();
        }
        if work {
            self.work.notify_one();
        }
    }

    fn publish(&self, publish: Publish) -> Result<(), Refusal> {
        let mut outbox = lock(&self.outbox);
        let (cost, first) = outbox.push(publish)?;
        drop(outbox);
        self.all.publish_queue_bytes.add(cost);
        self.work.notify_one();
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    fn count_refusal(&self, refusal: Refusal) {
        let outcome = match refusal {
            Refusal::QueueFull => Outcome::Full,
            Refusal::TimedOut => Outcome::Timeout,
            Refusal::LayerDown | Refusal::TooLarge | Refusal::Encode => Outcome::Error,
        };
        self.metrics.operation(Op::Send, outcome).inc();
    }

    /// Tells publishers that their messages were given up. No lock is held.
    fn refuse(&self, tickets: Vec<Ticket>, refusal: Refusal) {
        for ticket in tickets {
            self.count_refusal(refusal);
            if let Some(inbox) = self.inboxes.get(ticket.worker.0) {
                inbox.refused(ticket, refusal);
            }
        }
    }

    /// Takes a message from the connection of an epoch.
    fn deliver(&self, epoch: u64, channel: &[u8], payload: &[u8]) {
        self.metrics.received.inc();
        let Some(group) = self.codec.keys.group_of(channel) else {
            self.all.dropped_unknown_target.inc();
            return;
        };
        if self.codec.bytes_max < payload.len() {
            self.all.dropped_too_large.inc();
            self.complain(group, "it is longer than allowed");
            return;
        }
        let message = match self.codec.serializer.decode(payload) {
            Ok(message) => Arc::new(message),
            Err(error) => {
                self.all.dropped_decode.inc();
                self.complain(group, &error.to_string());
                return;
            }
        };
        let members = lock(&self.members);
        match members.of(epoch, group) {
            Some((group, workers)) => {
                for inbox in workers.iter().filter_map(|worker| self.inboxes.get(worker.0)) {
                    inbox.deliver(Delivery { group: group.clone(), message: Arc::clone(&message) });
                }
            }
            None => self.all.dropped_unknown_target.inc(),
        }
    }

    /// Takes the confirmation of a change from the connection of an epoch.
    fn confirm(&self, epoch: u64, channel: &[u8], confirmed: Confirmed) {
        let Some(group) = self.codec.keys.group_of(channel) else { return };
        let mut members = lock(&self.members);
        let refused_before = members.refused();
        let Some(work) = members.confirm(epoch, group, confirmed) else { return };
        let refused = members.refused();
        drop(members);
        if refused != refused_before {
            self.show();
        }
        let op = match confirmed {
            Confirmed::Subscribed => Op::Add,
            Confirmed::Unsubscribed => Op::Discard,
        };
        self.metrics.operation(op, Outcome::Ok).inc();
        if work {
            self.work.notify_one();
        }
    }

    /// Logs a bad message, unless one was logged lately.
    fn complain(&self, group: &str, reason: &str) {
        let mut complaints = lock(&self.complaints);
        if complaints.last.is_some_and(|last| last.elapsed() < COMPLAINT_EVERY) {
            complaints.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut complaints.unsaid);
        complaints.last = Some(Instant::now());
        drop(complaints);
        warn!(shard = self.index, group, reason, unsaid, "skipped a message from the channel layer");
    }

    fn trouble(&self) -> Option<String> {
        let status = lock(&self.status);
        let error = if status.up {
            let refused = lock(&self.members).refused();
            if refused == 0 {
                return None;
            }
            let reason = status.refused_subscribe.as_deref().unwrap_or_default();
            format!("subscriptions that Redis refuses: {refused}, the last with: {reason}")
        } else {
            status.error.clone().unwrap_or_else(|| "not connected yet".to_owned())
        };
        Some(format!("shard {} ({}): {error}", self.index, self.url.address()))
    }

    /// Shows on the gauge how the host is; to be called after each change of it. A host that refuses what is
    /// wanted of it is not up: its rooms hear nothing.
    fn show(&self) {
        // The lock is kept so that an older view cannot overwrite a newer one.
        let mut status = lock(&self.status);
        let refused = lock(&self.members).refused();
        if refused == 0 && status.refused_subscribe.take().is_some() {
            status.refusals.retain(|(op, _)| *op != Op::Add);
        }
        self.metrics.up.set((status.up && refused == 0).into());
    }

    /// One more sign of life.
    fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is known about the connection.
#[derive(Default)]
struct Status {
    up: bool,
    /// Whether it was up before.
    seen: bool,
    /// Why it is not up.
    error: Option<String>,
    /// What Redis said last when it refused a subscription, while any is refused.
    refused_subscribe: Option<String>,
    /// The refusals that the log has: the kind of command and the code of the error.
    refusals: Vec<(Op, String)>,
}

#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    /// How many were not logged since.
    unsaid: u64,
}

/// What these locks guard is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
