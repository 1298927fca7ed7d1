//! The layer `channels_redis.core`: a sorted set for each group and one for each process, its inbox.
//!
//! This node is a member of a group once, however many workers and sockets are in it. Each host has a
//! [`Shard`], with two connections: one for commands, and one that waits at the inbox. A node has an inbox on
//! each host, under a name of its own, and joins the groups of that host under that name.
//!
//! Messages are at most once, as in Python: what was taken out of an inbox when the connection was lost, is
//! lost. What is sent while this node is away waits in its inbox, as far as there is room.

pub(super) mod capacity;
mod clock;
mod connection;
mod envelope;
mod letters;
pub(super) mod names;
mod post;
mod reader;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::channel_layer::address::Addresses;
use crate::channel_layer::message::Message;
use crate::channel_layer::metrics::{InboxMetrics, LayerMetrics, Op};
use crate::channel_layer::name::{ChannelName, GroupName};
use crate::channel_layer::redis::core::capacity::Capacities;
use crate::channel_layer::redis::core::clock::Clock;
use crate::channel_layer::redis::core::envelope::Envelope;
use crate::channel_layer::redis::core::names::{CoreKeys, Node, non_local};
use crate::channel_layer::redis::host::{Host, lock};
use crate::channel_layer::redis::members::Members;
use crate::channel_layer::redis::outbox::Outbox;
use crate::channel_layer::redis::shard::host_index;
use crate::channel_layer::redis::supervisor;
use crate::channel_layer::redis::wire::DecodeError;
use crate::channel_layer::redis::{CoreConfig, RedisHost};
use crate::channel_layer::{Health, Inbox, Join, Refusal, Ticket, WorkerId};

/// The whole layer.
pub(in crate::channel_layer) struct Core {
    shards: Vec<Arc<Shard>>,
    common: Arc<Common>,
}

impl Core {
    pub(in crate::channel_layer) fn new(
        config: CoreConfig,
        inboxes: Vec<Arc<dyn Inbox>>,
        metrics: LayerMetrics,
    ) -> Self {
        let inboxes: Arc<[_]> = inboxes.into();
        let metrics = Arc::new(metrics);
        let places = if config.hosts.is_empty() { vec![RedisHost::default()] } else { config.hosts };
        let common = Arc::new(Common {
            keys: CoreKeys::new(&config.prefix),
            envelope: Envelope {
                serializer: config.serializer,
                prefix_len: config.random_prefix_length,
                expiry: config.expiry,
            },
            capacities: config.capacities,
            group_expiry: config.group_expiry,
            lease: config.lease,
            bytes_max: config.message_bytes_max,
            clock: Clock::default(),
            addresses: Addresses::default(),
            links: places.iter().map(|_| Mutex::default()).collect(),
        });
        let hosts = places.len();
        let shard = |(index, place): (usize, RedisHost)| {
            let outbox = Outbox::new(config.publish_queue_bytes_max, config.publish_age_max);
            let (inboxes, metrics) = (Arc::clone(&inboxes), Arc::clone(&metrics));
            let inbox_metrics = metrics.inbox(index);
            let host = Host::new(index, place, inboxes, Members::lasting(), outbox, metrics);
            let node = Node::new(index, hosts, || fastrand::u128(..));
            let capacity = common.capacities.of(&node.member(""));
            inbox_metrics.capacity.set(i64::try_from(capacity).unwrap_or(i64::MAX));
            Arc::new(Shard {
                host,
                common: Arc::clone(&common),
                inbox: common.keys.inbox(&node.channel()),
                lease: common.keys.lease(&node.id),
                socket_prefix: node.socket_prefix(),
                node,
                capacity,
                groups: Mutex::default(),
                taken: Notify::new(),
                metrics: inbox_metrics,
            })
        };
        let shards = places.into_iter().enumerate().map(shard).collect();
        Self { shards, common }
    }

    pub(in crate::channel_layer) fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        self.shard(group).map_or(Join::LayerDown, |shard| shard.join(worker, group))
    }

    pub(in crate::channel_layer) fn leave(&self, worker: WorkerId, group: &GroupName) {
        if let Some(shard) = self.shard(group) {
            shard.leave(worker, group);
        }
    }

    /// Encodes on the caller's thread, so that most of the cost falls on the workers and not on the one task
    /// per host.
    pub(in crate::channel_layer) fn group_send(
        &self,
        group: &GroupName,
        message: &Message,
        from: Ticket,
    ) -> Result<(), Refusal> {
        let shard = self.shard(group).ok_or(Refusal::LayerDown)?;
        let body = self.common.envelope.body(message);
        shard.host.send(Op::GroupSend, group.as_str().to_owned(), body, self.common.bytes_max, from)
    }

    /// To the host where the channel is read, which is not where Python would write.
    pub(in crate::channel_layer) fn send(
        &self,
        channel: &ChannelName,
        message: &Message,
        from: Ticket,
    ) -> Result<(), Refusal> {
        let name = channel.as_str();
        let index = host_index(non_local(name).as_bytes(), self.shards.len());
        let shard = self.shards.get(index).ok_or(Refusal::LayerDown)?;
        let body = self.common.envelope.body_for(message, channel);
        shard.host.send(Op::Send, name.to_owned(), body, self.common.bytes_max, from)
    }

    pub(in crate::channel_layer) fn channel(&self, socket: Ticket, group: Option<&GroupName>) -> ChannelName {
        // A layer has one host at least, so there is a first one.
        let shard = group.and_then(|group| self.shard(group)).or(self.shards.first());
        let local = |salt| self.common.addresses.name(socket, salt);
        ChannelName::made(shard.map_or_else(|| local(0), |shard| shard.node.socket(local)))
    }

    pub(in crate::channel_layer) fn health(&self) -> Health {
        let trouble = self.shards.iter().find_map(|shard| shard.host.trouble());
        Health { backend: "channels_redis.core", up: trouble.is_none(), error: trouble }
    }

    pub(in crate::channel_layer) fn last_refusal(&self) -> Option<String> {
        self.shards.iter().find_map(|shard| shard.host.last_refusal())
    }

    pub(in crate::channel_layer) async fn run(&self, stop: CancellationToken, broken: CancellationToken) {
        supervisor::run(&self.shards, stop, broken).await;
    }

    fn shard(&self, group: &GroupName) -> Option<&Arc<Shard>> {
        self.shards.get(host_index(group.as_str().as_bytes(), self.shards.len()))
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("shards", &self.shards.len()).field("common", &self.common).finish()
    }
}

/// What all hosts share.
struct Common {
    keys: CoreKeys,
    envelope: Envelope,
    capacities: Capacities,
    /// In seconds.
    group_expiry: u64,
    /// In seconds.
    lease: u64,
    /// The longest message.
    bytes_max: usize,
    clock: Clock,
    addresses: Addresses,
    /// The connections that are up, by host: the inboxes of a group's members are on any of them.
    links: Vec<Mutex<Option<MultiplexedConnection>>>,
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common")
            .field("keys", &self.keys)
            .field("envelope", &self.envelope)
            .field("capacities", &self.capacities)
            .finish_non_exhaustive()
    }
}

/// Everything about one host.
struct Shard {
    host: Host,
    common: Arc<Common>,
    /// What this node is called on the host.
    node: Node,
    /// The keys of this node.
    inbox: String,
    lease: String,
    /// What the names of its sockets' channels begin with.
    socket_prefix: String,
    /// How many messages may wait in the inbox, as far as we are asked.
    capacity: u64,
    /// The groups of this node by the names of their members.
    groups: Mutex<HashMap<String, GroupName>>,
    /// Something was taken out of the inbox, so there is room.
    taken: Notify,
    metrics: InboxMetrics,
}

impl Shard {
    fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        let member = self.node.member(group.as_str());
        let mut groups = lock(&self.groups);
        groups.entry(member).or_insert_with(|| group.clone());
        self.host.join(worker, group)
    }

    fn leave(&self, worker: WorkerId, group: &GroupName) {
        let member = self.node.member(group.as_str());
        let mut groups = lock(&self.groups);
        self.host.leave(worker, group);
        if !lock(&self.host.members).wants(group) {
            groups.remove(&member);
        }
    }

    /// Takes a message from the inbox, with the time of its sender.
    fn deliver(&self, epoch: u64, member: &[u8], sent_at: f64) {
        let all = &self.host.all;
        self.host.metrics.received.inc();
        // Whoever may write to Redis may write anything, and one infinity would stay in the sum for ever.
        let lag = clock::now() - sent_at;
        if lag.is_finite() {
            self.metrics.lag.observe(lag.max(0.0));
        }
        let envelope = &self.common.envelope;
        if self.common.bytes_max.saturating_add(envelope.prefix_len) < member.len() {
            all.dropped_too_large.inc();
            self.host.complain(&self.inbox, "it is longer than allowed");
            return;
        }
        let (message, channels) = match envelope.open(member, clock::now_whole()) {
            Ok((message, channels)) => (Arc::new(message), channels),
            Err(error) => {
                match error {
                    DecodeError::Age => all.dropped_expired.inc(),
                    _ => all.dropped_decode.inc(),
                }
                self.host.complain(&self.inbox, &error.to_string());
                return;
            }
        };
        let mut groups: Vec<GroupName> = Vec::new();
        let mut sockets: Vec<Ticket> = Vec::new();
        {
            let known = lock(&self.groups);
            for channel in &channels {
                match known.get(channel) {
                    // Each group hears a message once, however often it is named.
                    Some(group) if groups.contains(group) => {}
                    Some(group) => groups.push(group.clone()),
                    None => {
                        let local = channel.strip_prefix(&self.socket_prefix);
                        sockets.extend(local.and_then(|local| self.common.addresses.find(local)));
                    }
                }
            }
        }
        groups.retain(|group| self.host.deliver(epoch, group.as_str(), &message));
        let mut heard = !groups.is_empty();
        if !sockets.is_empty() {
            heard |= self.host.direct(epoch, sockets, &groups, &message);
        }
        if !heard {
            all.dropped_unknown_target.inc();
        }
    }
}

#[cfg(test)]
mod tests;
