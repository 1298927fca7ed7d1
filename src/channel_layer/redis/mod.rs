//! The layers of `channels_redis`: their names, their bytes, their connections.

pub(super) mod checkup;
mod cluster;
mod connect;
pub(super) mod core;
mod encryption;
mod host;
mod keys;
mod members;
mod outbox;
pub(super) mod pubsub;
mod sentinel;
mod server;
mod shard;
mod slots;
mod supervisor;
mod url;
#[cfg(test)]
mod vectors;
mod way;
mod wire;

use std::time::Duration;

use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::keys::Keys;
use crate::channel_layer::redis::shard::host_index;

pub use self::core::capacity::{Capacities, ChannelPattern};
pub use self::encryption::Secret;
pub use self::server::{Cluster, Login, RedisAddress, RedisHost, RedisServer, RedisTls, Sentinel};
pub use self::url::{InvalidRedisUrl, RedisUrl};
pub use self::wire::{DecodeError, EncodeError, Serializer, SerializerFormat, UnknownFormat};

/// What the layer `channels_redis.pubsub` needs to know.
///
/// The first three must be the same in `CHANNEL_LAYERS` of the Django project.
#[derive(Clone, Debug)]
pub struct PubSubConfig {
    /// The servers that groups are spread over, in this order. None means one on this machine, as in
    /// `channels_redis`.
    pub hosts: Vec<RedisHost>,
    /// What stands in front of every Redis channel.
    pub prefix: String,
    /// How messages are written and read, with the keys of `symmetric_encryption_keys`.
    pub serializer: Serializer,
    /// The most bytes that wait to be sent to one host.
    pub publish_queue_bytes_max: usize,
    /// How long a message waits for Redis before it is refused.
    pub publish_age_max: Duration,
    /// The longest payload that is sent or read.
    pub message_bytes_max: usize,
}

impl PubSubConfig {
    /// Which of the hosts a group is on.
    pub(super) fn host_of(&self, group: &GroupName) -> usize {
        let channel = Keys::new(&self.prefix, 0).group_channel(group.as_str());
        host_index(channel.as_bytes(), self.hosts.len())
    }
}

impl Default for PubSubConfig {
    fn default() -> Self {
        Self {
            hosts: vec![RedisHost::default()],
            prefix: "asgi".to_owned(),
            serializer: Serializer::default(),
            publish_queue_bytes_max: 1024 * 1024,
            publish_age_max: Duration::from_secs(5),
            message_bytes_max: 1024 * 1024,
        }
    }
}

/// What the layer `channels_redis.core` needs to know.
///
/// All but the last four must be the same in `CHANNEL_LAYERS` of the Django project.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The servers that groups are spread over, in this order. None means one on this machine, as in
    /// `channels_redis`.
    pub hosts: Vec<RedisHost>,
    /// What stands in front of every Redis key.
    pub prefix: String,
    /// How messages are written and read, with the keys of `symmetric_encryption_keys`.
    pub serializer: Serializer,
    /// How long a message may wait in an inbox, in seconds.
    pub expiry: u64,
    /// How long a membership lasts that nobody renews, in seconds.
    pub group_expiry: u64,
    /// How many messages may wait in an inbox.
    pub capacities: Capacities,
    /// How many random bytes stand in front of a message.
    pub random_prefix_length: usize,
    /// How long a node that says nothing more counts as alive, in seconds. After that its memberships are
    /// cleared by any other node.
    pub lease: u64,
    /// The most bytes that wait to be sent to one host.
    pub publish_queue_bytes_max: usize,
    /// How long a message waits for Redis before it is refused.
    pub publish_age_max: Duration,
    /// The longest message that is sent or read.
    pub message_bytes_max: usize,
}

impl CoreConfig {
    /// Which of the hosts a group is on.
    pub(super) fn host_of(&self, group: &GroupName) -> usize {
        host_index(group.as_str().as_bytes(), self.hosts.len())
    }
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            hosts: vec![RedisHost::default()],
            prefix: "asgi".to_owned(),
            serializer: Serializer::default(),
            expiry: 60,
            group_expiry: 86_400,
            capacities: Capacities::default(),
            random_prefix_length: 12,
            lease: 60,
            publish_queue_bytes_max: 1024 * 1024,
            publish_age_max: Duration::from_secs(5),
            message_bytes_max: 1024 * 1024,
        }
    }
}
