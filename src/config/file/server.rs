//! The shape of `[server]`.

use core::time::Duration;

use crate::config::file::HOUR;
use crate::config::table::{At, Kind, Table, Words};
use crate::config::{LogFormat, LogLevel};

/// `[server]`.
#[derive(Debug, Default)]
pub(in crate::config) struct ServerTable {
    pub(in crate::config) admin: Option<At<String>>,
    pub(in crate::config) workers: Option<At<u64>>,
    pub(in crate::config) log_level: Option<At<LogLevel>>,
    pub(in crate::config) log_format: Option<At<LogFormat>>,
    pub(in crate::config) drain_shutdown: Option<At<Duration>>,
    pub(in crate::config) drain_grace: Option<At<Duration>>,
    pub(in crate::config) connections: Option<At<u64>>,
    pub(in crate::config) per_ip: Option<At<u64>>,
    pub(in crate::config) handshakes_per_second: Option<At<u64>>,
    pub(in crate::config) head: Option<At<u64>>,
    pub(in crate::config) uri: Option<At<u64>>,
    pub(in crate::config) headers: Option<At<u64>>,
}

pub(in crate::config) const LOG_LEVELS: Words<LogLevel> = Words {
    now: &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ],
    aliases: &[],
    later: &[],
};

pub(in crate::config) const LOG_FORMATS: Words<LogFormat> =
    Words { now: &[("text", LogFormat::Text), ("json", LogFormat::Json)], aliases: &[], later: &[] };

pub(super) const SERVER: Kind = Kind {
    name: "[server]",
    keys: &["admin", "workers", "log", "drain", "limits"],
    later: &[],
    foreign: &[],
};

pub(super) const LOG: Kind = Kind { name: "`log`", keys: &["level", "format"], later: &[], foreign: &[] };

pub(super) const DRAIN: Kind =
    Kind { name: "`drain`", keys: &["shutdown", "grace"], later: &["reload"], foreign: &[] };

pub(super) const LIMITS: Kind = Kind {
    name: "`limits`",
    keys: &["connections", "per_ip", "handshakes_per_second", "head", "uri", "headers"],
    later: &[],
    foreign: &[],
};

pub(super) fn read(table: &Table<'_>) -> ServerTable {
    let log = table.table("log", &LOG);
    let drain = table.table("drain", &DRAIN);
    let limits = table.table("limits", &LIMITS);
    let limit = |key| limits.as_ref().and_then(|limits| limits.count(key, 1..=10_000_000));
    let window = |key| drain.as_ref().and_then(|drain| drain.duration(key, Duration::ZERO..=HOUR));
    ServerTable {
        admin: table.text("admin"),
        workers: table.count("workers", 1..=1024),
        log_level: log.as_ref().and_then(|log| log.word("level", &LOG_LEVELS)),
        log_format: log.as_ref().and_then(|log| log.word("format", &LOG_FORMATS)),
        drain_shutdown: window("shutdown"),
        drain_grace: window("grace"),
        connections: limit("connections"),
        per_ip: limit("per_ip"),
        handshakes_per_second: limit("handshakes_per_second"),
        // hyper reads no less than 8 KiB at once.
        head: limits.as_ref().and_then(|limits| limits.size("head", 8 << 10..=1 << 20)),
        uri: limits.as_ref().and_then(|limits| limits.size("uri", 1 << 10..=64 << 10)),
        headers: limits.as_ref().and_then(|limits| limits.count("headers", 16..=1_000)),
    }
}
