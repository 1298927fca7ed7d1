//! The shape of the keys that `[defaults]` and `[[route]]` share.

use core::ops::RangeInclusive;
use core::time::Duration;

use toml::de::DeValue;

use crate::config::file::HOUR;
use crate::config::table::{At, Kind, Table, Words};
use crate::request::NoOrigin;
use crate::session::{FullQueue, OverRate};

/// The keys that `[defaults]` and `[[route]]` share.
#[derive(Debug, Default)]
pub(in crate::config) struct SharedKeys {
    pub(in crate::config) hosts: Option<At<Vec<At<String>>>>,
    pub(in crate::config) origins: Option<At<Vec<At<String>>>>,
    pub(in crate::config) no_origin: Option<At<NoOrigin>>,
    pub(in crate::config) ping_every: Option<At<Duration>>,
    pub(in crate::config) ping_timeout: Option<At<Duration>>,
    pub(in crate::config) max_message: Option<At<u64>>,
    pub(in crate::config) queue_bytes: Option<At<u64>>,
    pub(in crate::config) queue_full: Option<At<FullQueue>>,
    pub(in crate::config) max_body: Option<At<u64>>,
    /// `None` inside is `"off"`, here and below.
    pub(in crate::config) rate: Option<At<Option<RateTable>>>,
    pub(in crate::config) max_age: Option<At<Option<Duration>>>,
    pub(in crate::config) idle: Option<At<Option<Duration>>>,
}

/// `rate`.
#[derive(Debug)]
pub(in crate::config) struct RateTable {
    pub(in crate::config) messages: Option<At<u64>>,
    pub(in crate::config) per: Option<At<Duration>>,
    pub(in crate::config) burst: Option<At<u64>>,
    pub(in crate::config) over: Option<At<OverRate>>,
}

pub(in crate::config) const NO_ORIGIN: Words<NoOrigin> =
    Words { now: &[("allow", NoOrigin::Allow), ("refuse", NoOrigin::Refuse)], aliases: &[], later: &[] };

pub(in crate::config) const QUEUE_FULL: Words<FullQueue> =
    Words { now: &[("close", FullQueue::Close), ("drop", FullQueue::Drop)], aliases: &[], later: &[] };

pub(in crate::config) const OVER_RATE: Words<OverRate> =
    Words { now: &[("close", OverRate::Close), ("drop", OverRate::Drop)], aliases: &[], later: &[] };

pub(super) const DEFAULTS: Kind = Kind {
    name: "[defaults]",
    keys: &[
        "hosts",
        "origins",
        "no_origin",
        "ping",
        "max_message",
        "queue",
        "rate",
        "max_age",
        "idle",
        "max_body",
    ],
    later: &["on_change", "auth"],
    foreign: &[
        ("allowed_hosts", "it is `hosts` here"),
        ("allowed_origins", "it is `origins` here"),
        ("ping_interval", "write `ping = { every = \"20s\", timeout = \"30s\" }`"),
        ("ping_timeout", "write `ping = { every = \"20s\", timeout = \"30s\" }`"),
    ],
};

pub(super) const PING: Kind = Kind { name: "`ping`", keys: &["every", "timeout"], later: &[], foreign: &[] };

pub(super) const QUEUE: Kind = Kind { name: "`queue`", keys: &["bytes", "full"], later: &[], foreign: &[] };

pub(super) const RATE: Kind =
    Kind { name: "`rate`", keys: &["messages", "per", "burst", "over"], later: &[], foreign: &[] };

/// From the step of the timers to a month.
const LIFE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(720);

pub(super) fn read(table: &Table<'_>) -> SharedKeys {
    let ping = table.table("ping", &PING);
    let queue = table.table("queue", &QUEUE);
    // Below this, pings would cost more than the messages they stand between.
    let period = Duration::from_millis(10)..=HOUR;
    SharedKeys {
        hosts: table.texts("hosts"),
        origins: table.texts("origins"),
        no_origin: table.word("no_origin", &NO_ORIGIN),
        ping_every: ping.as_ref().and_then(|ping| ping.duration("every", period.clone())),
        ping_timeout: ping.as_ref().and_then(|ping| ping.duration("timeout", period.clone())),
        max_message: table.size("max_message", 1..=64 << 20),
        queue_bytes: queue.as_ref().and_then(|queue| queue.size("bytes", 1..=1 << 30)),
        queue_full: queue.as_ref().and_then(|queue| queue.word("full", &QUEUE_FULL)),
        rate: rate(table),
        max_age: table.duration_or_off("max_age", LIFE),
        idle: table.duration_or_off("idle", LIFE),
        max_body: table.size("max_body", 0..=1 << 40),
    }
}

fn rate(table: &Table<'_>) -> Option<At<Option<RateTable>>> {
    if let Some(off) = table.off("rate") {
        return Some(off);
    }
    let value = table.get("rate")?;
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        let help = "write `{ messages = 50, per = \"1s\" }`, or `\"off\"`".to_owned();
        table.wrong("rate", value, "a table", Some(help));
        return None;
    }
    let rate = table.table("rate", &RATE)?;
    rate.require("messages");
    let messages = 1..=1_000_000;
    Some(rate.at(Some(RateTable {
        messages: rate.count("messages", messages.clone()),
        per: rate.duration("per", Duration::from_millis(10)..=HOUR),
        burst: rate.count("burst", messages),
        over: rate.word("over", &OVER_RATE),
    })))
}
