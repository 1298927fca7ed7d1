//! The layers of `channels_redis`: their names, their bytes, their connections.

mod encryption;
mod host;
mod keys;
mod members;
mod outbox;
pub(super) mod pubsub;
mod shard;
mod url;
mod wire;

use std::time::Duration;

pub use self::encryption::Secret;
pub use self::url::{InvalidRedisUrl, RedisUrl};
pub use self::wire::{DecodeError, EncodeError, Serializer, SerializerFormat, UnknownFormat};

/// What the layer `channels_redis.pubsub` needs to know.
///
/// The first three must be the same in `CHANNEL_LAYERS` of the Django project.
#[derive(Clone, Debug)]
pub struct PubSubConfig {
    /// The servers that groups are spread over, in this order. None means one on this machine, as in
    /// `channels_redis`.
    pub hosts: Vec<RedisUrl>,
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

impl Default for PubSubConfig {
    fn default() -> Self {
        Self {
            hosts: vec![RedisUrl::default()],
            prefix: "asgi".to_owned(),
            serializer: Serializer::default(),
            publish_queue_bytes_max: 1024 * 1024,
            publish_age_max: Duration::from_secs(5),
            message_bytes_max: 1024 * 1024,
        }
    }
}
