//! The shape of `[upstream.NAME]`.

use core::time::Duration;

use toml::de::DeValue;

use crate::config::file::HOUR;
use crate::config::table::{At, Kind, Table, Words, in_file_order};
use crate::upstream::Traceparent;

/// `[upstream.NAME]`.
#[derive(Debug)]
pub(in crate::config) struct UpstreamTable {
    pub(in crate::config) name: At<String>,
    pub(in crate::config) servers: Option<At<Vec<At<String>>>>,
    pub(in crate::config) connect_timeout: Option<At<Duration>>,
    pub(in crate::config) response_timeout: Option<At<Duration>>,
    pub(in crate::config) tunnel_timeout: Option<At<Duration>>,
    pub(in crate::config) keepalive: Option<At<u64>>,
    pub(in crate::config) idle_timeout: Option<At<Duration>>,
    pub(in crate::config) max_fails: Option<At<u64>>,
    pub(in crate::config) fail_timeout: Option<At<Duration>>,
    pub(in crate::config) max_inflight: Option<At<u64>>,
    pub(in crate::config) traceparent: Option<At<Traceparent>>,
    pub(in crate::config) health: Option<HealthTable>,
    pub(in crate::config) tls: Option<At<UpstreamTlsTable>>,
}

/// `health` of an upstream.
#[derive(Debug)]
pub(in crate::config) struct HealthTable {
    pub(in crate::config) path: Option<At<String>>,
    pub(in crate::config) host: Option<At<String>>,
    pub(in crate::config) every: Option<At<Duration>>,
    pub(in crate::config) timeout: Option<At<Duration>>,
    pub(in crate::config) status: Option<At<u64>>,
}

/// `tls` of an upstream.
#[derive(Debug)]
pub(in crate::config) struct UpstreamTlsTable {
    pub(in crate::config) ca: Option<At<String>>,
    pub(in crate::config) server_name: Option<At<String>>,
    pub(in crate::config) verify: Option<At<bool>>,
}

pub(in crate::config) const TRACEPARENTS: Words<Traceparent> =
    Words { now: &[("create", Traceparent::Create), ("pass", Traceparent::Pass)], aliases: &[], later: &[] };

pub(super) const UPSTREAM: Kind = Kind {
    name: "[upstream.NAME]",
    keys: &[
        "servers",
        "connect_timeout",
        "response_timeout",
        "tunnel_timeout",
        "keepalive",
        "idle_timeout",
        "max_fails",
        "fail_timeout",
        "max_inflight",
        "traceparent",
        "health",
        "tls",
    ],
    later: &[],
    foreign: &[
        ("server", "write `servers = [\"http://127.0.0.1:8001\"]`"),
        ("least_conn", "leave it out: the server with the fewest requests is always the next"),
        ("proxy_connect_timeout", "it is `connect_timeout` here"),
        ("proxy_read_timeout", "it is `response_timeout` here, and `tunnel_timeout` for WebSockets"),
    ],
};

pub(super) const HEALTH: Kind = Kind {
    name: "`health`",
    keys: &["path", "host", "every", "timeout", "status"],
    later: &[],
    foreign: &[],
};

pub(super) const UPSTREAM_TLS: Kind = Kind {
    name: "`tls` of an upstream",
    keys: &["ca", "server_name", "verify"],
    later: &["cert", "key"],
    foreign: &[],
};

pub(super) fn read_all(top: &Table<'_>) -> Vec<UpstreamTable> {
    let Some(at) = top.any_table("upstream") else { return Vec::new() };
    let mut upstreams = Vec::new();
    for (key, value) in in_file_order(at.value) {
        if let DeValue::Table(inner) = value.get_ref() {
            let name = At { value: key.get_ref().to_string(), span: key.span() };
            upstreams.push(read(name, &Table::new(inner, value.span(), &UPSTREAM, top.findings)));
        } else {
            let help = "write `[upstream.NAME]` and below it `servers = [\"http://127.0.0.1:8001\"]`";
            top.wrong(key.get_ref(), value, "a table", Some(help.to_owned()));
        }
    }
    upstreams
}

fn read(name: At<String>, table: &Table<'_>) -> UpstreamTable {
    table.require("servers");
    let time = |key| table.duration(key, Duration::from_millis(10)..=HOUR);
    let health = table.table("health", &HEALTH).map(|health| {
        health.require("path");
        let time = |key| health.duration(key, Duration::from_millis(10)..=HOUR);
        HealthTable {
            path: health.text("path"),
            host: health.text("host"),
            every: time("every"),
            timeout: time("timeout"),
            status: health.count("status", 200..=599),
        }
    });
    let tls = table.table("tls", &UPSTREAM_TLS).map(|tls| {
        tls.at(UpstreamTlsTable {
            ca: tls.text("ca"),
            server_name: tls.text("server_name"),
            verify: tls.flag("verify"),
        })
    });
    UpstreamTable {
        name,
        servers: table.texts("servers"),
        connect_timeout: time("connect_timeout"),
        response_timeout: time("response_timeout"),
        tunnel_timeout: time("tunnel_timeout"),
        keepalive: table.count("keepalive", 0..=10_000),
        idle_timeout: time("idle_timeout"),
        max_fails: table.count("max_fails", 0..=1_000),
        fail_timeout: time("fail_timeout"),
        max_inflight: table.count("max_inflight", 1..=10_000_000),
        traceparent: table.word("traceparent", &TRACEPARENTS),
        health,
        tls,
    }
}
