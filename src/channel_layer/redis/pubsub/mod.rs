//! The layer `channels_redis.pubsub`: PUBLISH and SUBSCRIBE, one Redis channel per group.
//!
//! Each host has a [`Shard`]: the memberships it is asked for, the messages that wait for it, and the task
//! that keeps a connection. Messages are at most once, as in Python: what is published while a connection is
//! lost is missed.

mod connection;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use crate::channel_layer::address::Addresses;
use crate::channel_layer::message::Message;
use crate::channel_layer::metrics::{LayerMetrics, Op};
use crate::channel_layer::name::{ChannelName, GroupName};
use crate::channel_layer::redis::host::Host;
use crate::channel_layer::redis::keys::Keys;
use crate::channel_layer::redis::members::{Confirmed, Members};
use crate::channel_layer::redis::outbox::Outbox;
use crate::channel_layer::redis::shard::host_index;
use crate::channel_layer::redis::supervisor;
use crate::channel_layer::redis::wire::Serializer;
use crate::channel_layer::redis::{PubSubConfig, RedisHost};
use crate::channel_layer::{Health, Inbox, Join, Refusal, Ticket, WorkerId};

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
            keys: Keys::new(&config.prefix, fastrand::u128(..)),
            addresses: Addresses::default(),
            serializer: config.serializer,
            bytes_max: config.message_bytes_max,
        });
        let inboxes: Arc<[_]> = inboxes.into();
        let metrics = Arc::new(metrics);
        let hosts = if config.hosts.is_empty() { vec![RedisHost::default()] } else { config.hosts };
        let shard = |(index, place): (usize, RedisHost)| {
            let outbox = Outbox::new(config.publish_queue_bytes_max, config.publish_age_max);
            let (inboxes, metrics) = (Arc::clone(&inboxes), Arc::clone(&metrics));
            let host = Host::new(index, place, inboxes, Members::default(), outbox, metrics);
            Arc::new(Shard { host, codec: Arc::clone(&codec), heard: AtomicU64::new(0) })
        };
        let shards = hosts.into_iter().enumerate().map(shard).collect();
        Self { shards, codec }
    }

    pub(in crate::channel_layer) fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        match self.shard(&self.codec.keys.group_channel(group.as_str())) {
            Some(shard) => shard.host.join(worker, group),
            None => Join::LayerDown,
        }
    }

    pub(in crate::channel_layer) fn leave(&self, worker: WorkerId, group: &GroupName) {
        if let Some(shard) = self.shard(&self.codec.keys.group_channel(group.as_str())) {
            shard.host.leave(worker, group);
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
        let payload = self.codec.serializer.encode(message);
        shard.host.send(Op::GroupSend, channel, payload, self.codec.bytes_max, from)
    }

    pub(in crate::channel_layer) fn send(
        &self,
        channel: &ChannelName,
        message: &Message,
        from: Ticket,
    ) -> Result<(), Refusal> {
        let shard = self.shard(channel.as_str()).ok_or(Refusal::LayerDown)?;
        let payload = self.codec.serializer.encode(message);
        shard.host.send(Op::Send, channel.as_str().to_owned(), payload, self.codec.bytes_max, from)
    }

    pub(in crate::channel_layer) fn channel(&self, socket: Ticket) -> ChannelName {
        ChannelName::made(self.codec.keys.socket_channel(&self.codec.addresses.name(socket, 0)))
    }

    /// Subscribes to the channels of all sockets, on every host: the name of a channel says where it is.
    pub(in crate::channel_layer) fn open_channels(&self) {
        for shard in &self.shards {
            // It is for every worker, and has no room that anybody could leave.
            shard.host.join(WorkerId(0), &GroupName::of_sockets());
        }
    }

    pub(in crate::channel_layer) fn health(&self) -> Health {
        let trouble = self.shards.iter().find_map(|shard| shard.host.trouble());
        Health { backend: "channels_redis.pubsub", up: trouble.is_none(), error: trouble }
    }

    pub(in crate::channel_layer) fn last_refusal(&self) -> Option<String> {
        self.shards.iter().find_map(|shard| shard.host.last_refusal())
    }

    pub(in crate::channel_layer) async fn run(&self, stop: CancellationToken, broken: CancellationToken) {
        supervisor::run(&self.shards, stop, broken).await;
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
    addresses: Addresses,
    serializer: Serializer,
    /// The longest payload.
    bytes_max: usize,
}

/// Everything about one host.
struct Shard {
    host: Host,
    codec: Arc<Codec>,
    /// How many pushes came, as a sign of life.
    heard: AtomicU64,
}

impl Shard {
    /// Takes a message for a group from the connection of an epoch.
    fn deliver(&self, epoch: u64, channel: &[u8], payload: &[u8]) {
        let Some(group) = self.codec.keys.group_of(channel) else { return self.take_unknown() };
        let Some(message) = self.take(group, payload) else { return };
        if !self.host.deliver(epoch, group, &message) {
            self.host.all.dropped_unknown_target.inc();
        }
    }

    /// Takes a message for one socket from the connection of an epoch.
    fn direct(&self, epoch: u64, channel: &[u8], payload: &[u8]) {
        let name = self.codec.keys.socket_of(channel);
        let Some(socket) = name.and_then(|name| self.codec.addresses.find(name)) else {
            return self.take_unknown();
        };
        let Some(message) = self.take("the channel of a socket", payload) else { return };
        if !self.host.direct(epoch, [socket], &[], &message) {
            self.host.all.dropped_unknown_target.inc();
        }
    }

    fn take_unknown(&self) {
        self.host.metrics.received.inc();
        self.host.all.dropped_unknown_target.inc();
    }

    /// The message of a payload, unless there is none in it: that is counted, and `to` goes to the log.
    fn take(&self, to: &str, payload: &[u8]) -> Option<Arc<Message>> {
        self.host.metrics.received.inc();
        if self.codec.bytes_max < payload.len() {
            self.host.all.dropped_too_large.inc();
            self.host.complain(to, "it is longer than allowed");
            return None;
        }
        match self.codec.serializer.decode(payload) {
            Ok(message) => Some(Arc::new(message)),
            Err(error) => {
                self.host.all.dropped_decode.inc();
                self.host.complain(to, &error.to_string());
                None
            }
        }
    }

    /// Takes the confirmation of a change from the connection of an epoch; says whether it was waited for.
    fn confirm(&self, epoch: u64, channel: &[u8], confirmed: Confirmed) -> bool {
        self.codec.keys.group_of(channel).is_some_and(|group| self.host.confirm(epoch, group, confirmed))
    }

    /// One more sign of life.
    fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
}
