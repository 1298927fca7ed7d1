//! The shape of `[layer]`; that of its `hosts` is in `redis_host`.

use core::ops::RangeInclusive;
use core::time::Duration;

use toml::de::DeValue;

use crate::channel_layer::SerializerFormat;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::file::redis_host::{HostEntry, host_entry};
use crate::config::table::{At, Kind, SecretText, Table, Words, in_file_order};

/// `[layer]`.
#[derive(Debug, Default)]
pub(in crate::config) struct LayerTable {
    pub(in crate::config) backend: Option<At<Backend>>,
    pub(in crate::config) hosts: Option<At<Vec<At<HostEntry>>>>,
    pub(in crate::config) prefix: Option<At<String>>,
    pub(in crate::config) symmetric_encryption_keys: Option<At<Vec<At<SecretText>>>>,
    pub(in crate::config) serializer_format: Option<At<SerializerFormat>>,
    pub(in crate::config) expiry: Option<At<Duration>>,
    pub(in crate::config) group_expiry: Option<At<Duration>>,
    pub(in crate::config) capacity: Option<At<u64>>,
    /// In their order.
    pub(in crate::config) channel_capacity: Option<At<Vec<CapacityEntry>>>,
    pub(in crate::config) random_prefix_length: Option<At<u64>>,
    /// The keys that are there, whether or not their values are right.
    pub(in crate::config) keys: Vec<At<String>>,
}

/// An entry of `channel_capacity`.
#[derive(Debug)]
pub(in crate::config) struct CapacityEntry {
    pub(in crate::config) pattern: At<String>,
    pub(in crate::config) capacity: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Backend {
    Memory,
    PubSub,
    Core,
}

pub(in crate::config) const BACKENDS: Words<Backend> = Words {
    now: &[
        ("memory", Backend::Memory),
        ("channels_redis.core", Backend::Core),
        ("channels_redis.pubsub", Backend::PubSub),
    ],
    aliases: &[
        ("channels.layers.InMemoryChannelLayer", Backend::Memory),
        ("channels_redis.core.RedisChannelLayer", Backend::Core),
        ("channels_redis.pubsub.RedisPubSubChannelLayer", Backend::PubSub),
    ],
    later: &[],
};

pub(in crate::config) const SERIALIZER_FORMATS: Words<SerializerFormat> = Words {
    now: &[("msgpack", SerializerFormat::MsgPack), ("json", SerializerFormat::Json)],
    aliases: &[],
    later: &[],
};

pub(super) const LAYER: Kind = Kind {
    name: "[layer]",
    keys: &[
        "backend",
        "hosts",
        "prefix",
        "symmetric_encryption_keys",
        "serializer_format",
        "expiry",
        "group_expiry",
        "capacity",
        "channel_capacity",
        "random_prefix_length",
    ],
    later: &[],
    foreign: &[
        ("BACKEND", "write it in lower case: `backend = \"channels_redis.core\"`"),
        ("CONFIG", "write the settings of `CONFIG` directly into [layer]"),
        ("on_disconnect", "it names Python code; the loss of Redis is in the log and in the metrics"),
        ("on_reconnect", "it names Python code; the return of Redis is in the log and in the metrics"),
    ],
};

/// In seconds.
const DAY: u64 = 86_400;

/// With no room for any message nothing would arrive.
const CAPACITIES: RangeInclusive<u64> = 1..=1_000_000;

pub(super) fn read(table: &Table<'_>) -> LayerTable {
    LayerTable {
        backend: table.word("backend", &BACKENDS),
        hosts: table.list("hosts", |value| host_entry(table, value)),
        prefix: table.text("prefix"),
        symmetric_encryption_keys: table
            .list("symmetric_encryption_keys", |value| table.secret("symmetric_encryption_keys", value)),
        serializer_format: table.word("serializer_format", &SERIALIZER_FORMATS),
        expiry: table.seconds("expiry", 1..=DAY),
        group_expiry: table.seconds("group_expiry", 10..=366 * DAY),
        capacity: table.count("capacity", CAPACITIES),
        channel_capacity: channel_capacity(table),
        random_prefix_length: table.count("random_prefix_length", 0..=255),
        keys: table.keys(),
    }
}

fn channel_capacity(layer: &Table<'_>) -> Option<At<Vec<CapacityEntry>>> {
    let at = layer.any_table("channel_capacity")?;
    let mut capacities = Vec::new();
    for (key, value) in in_file_order(at.value) {
        // Without quotes, `http.request` is a table `request` in a table `http`.
        if let DeValue::Table(inner) = value.get_ref()
            && let Some((inner_key, _)) = inner.iter().next()
        {
            let (outer, inner) = (key.get_ref(), inner_key.get_ref());
            let message = format!("the channel `{outer}.{inner}` stands without quotes");
            let help = format!("write `\"{outer}.{inner}\" = 200`");
            let span = key.span().start..inner_key.span().end.max(key.span().end);
            layer.findings.push(Diagnostic::new(Code::WrongType, span, message).help(help));
            continue;
        }
        if let Some(capacity) = layer.count_in(key.get_ref(), value, &CAPACITIES) {
            let pattern = At { value: key.get_ref().to_string(), span: key.span() };
            capacities.push(CapacityEntry { pattern, capacity: capacity.value });
        }
    }
    Some(At { value: capacities, span: at.span })
}
