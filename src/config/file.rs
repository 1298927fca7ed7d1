//! The shape of the file: which tables and keys there are, and of what type each value is.
//!
//! Every value keeps the place where it stands. Whatever does not have the right shape is reported and left
//! out, so that one mistake does not hide the next; `compile` then applies the rules.

use core::ops::RangeInclusive;
use core::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::channel_layer::SerializerFormat;
use crate::config::diagnostic::{Code, Diagnostic, Findings, Span};
use crate::config::hosts::{HostEntry, host_entry};
use crate::config::table::{At, Kind, SecretText, Table, Words, in_file_order};
use crate::config::{LogFormat, LogLevel};
use crate::files::Compression;
use crate::handler::Format;
use crate::listener::ProxyProtocol;
use crate::request::{ForwardedHeaders, NoOrigin};
use crate::session::{FullQueue, OverRate};
use crate::upstream::Traceparent;

/// `routes.toml`.
#[derive(Debug)]
pub(super) struct File {
    pub(super) server: ServerTable,
    pub(super) listeners: Vec<ListenerTable>,
    pub(super) trust: TrustTable,
    pub(super) layer: LayerTable,
    pub(super) upstreams: Vec<UpstreamTable>,
    pub(super) defaults: SharedKeys,
    pub(super) routes: Vec<RouteTable>,
}

/// `[server]`.
#[derive(Debug, Default)]
pub(super) struct ServerTable {
    pub(super) admin: Option<At<String>>,
    pub(super) workers: Option<At<u64>>,
    pub(super) log_level: Option<At<LogLevel>>,
    pub(super) log_format: Option<At<LogFormat>>,
    pub(super) drain_shutdown: Option<At<Duration>>,
    pub(super) drain_grace: Option<At<Duration>>,
    pub(super) connections: Option<At<u64>>,
    pub(super) per_ip: Option<At<u64>>,
    pub(super) handshakes_per_second: Option<At<u64>>,
    pub(super) head: Option<At<u64>>,
    pub(super) uri: Option<At<u64>>,
    pub(super) headers: Option<At<u64>>,
}

/// `[[listener]]`.
#[derive(Debug)]
pub(super) struct ListenerTable {
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<String>>,
    pub(super) mode: Option<At<String>>,
    pub(super) proxy_protocol: Option<At<ProxyProtocol>>,
    /// Whether there is a `tls`, right or not.
    pub(super) has_tls: bool,
    pub(super) tls: Option<At<Vec<At<TlsTable>>>>,
    pub(super) http2: Option<At<bool>>,
    pub(super) client_ca: Option<At<String>>,
    pub(super) client_auth: Option<At<ClientAuthWord>>,
}

/// One entry of `tls`.
#[derive(Debug)]
pub(super) struct TlsTable {
    pub(super) cert: Option<At<String>>,
    pub(super) key: Option<At<String>>,
}

/// `[trust]`.
#[derive(Debug, Default)]
pub(super) struct TrustTable {
    pub(super) proxies: Option<At<Vec<At<String>>>>,
    pub(super) headers: Option<At<ForwardedHeaders>>,
}

/// `[layer]`.
#[derive(Debug, Default)]
pub(super) struct LayerTable {
    pub(super) backend: Option<At<Backend>>,
    pub(super) hosts: Option<At<Vec<At<HostEntry>>>>,
    pub(super) prefix: Option<At<String>>,
    pub(super) symmetric_encryption_keys: Option<At<Vec<At<SecretText>>>>,
    pub(super) serializer_format: Option<At<SerializerFormat>>,
    pub(super) expiry: Option<At<Duration>>,
    pub(super) group_expiry: Option<At<Duration>>,
    pub(super) capacity: Option<At<u64>>,
    /// In their order.
    pub(super) channel_capacity: Option<At<Vec<CapacityEntry>>>,
    pub(super) random_prefix_length: Option<At<u64>>,
    /// The keys that are there, whether or not their values are right.
    pub(super) keys: Vec<At<String>>,
}

/// `[upstream.NAME]`.
#[derive(Debug)]
pub(super) struct UpstreamTable {
    pub(super) name: At<String>,
    pub(super) servers: Option<At<Vec<At<String>>>>,
    pub(super) connect_timeout: Option<At<Duration>>,
    pub(super) response_timeout: Option<At<Duration>>,
    pub(super) tunnel_timeout: Option<At<Duration>>,
    pub(super) keepalive: Option<At<u64>>,
    pub(super) idle_timeout: Option<At<Duration>>,
    pub(super) max_fails: Option<At<u64>>,
    pub(super) fail_timeout: Option<At<Duration>>,
    pub(super) max_inflight: Option<At<u64>>,
    pub(super) traceparent: Option<At<Traceparent>>,
    pub(super) health: Option<HealthTable>,
    pub(super) tls: Option<At<UpstreamTlsTable>>,
}

/// `health` of an upstream.
#[derive(Debug)]
pub(super) struct HealthTable {
    pub(super) path: Option<At<String>>,
    pub(super) every: Option<At<Duration>>,
    pub(super) timeout: Option<At<Duration>>,
    pub(super) status: Option<At<u64>>,
}

/// `tls` of an upstream.
#[derive(Debug)]
pub(super) struct UpstreamTlsTable {
    pub(super) ca: Option<At<String>>,
    pub(super) server_name: Option<At<String>>,
    pub(super) verify: Option<At<bool>>,
}

/// An entry of `channel_capacity`.
#[derive(Debug)]
pub(super) struct CapacityEntry {
    pub(super) pattern: At<String>,
    pub(super) capacity: u64,
}

/// The keys that `[defaults]` and `[[route]]` share.
#[derive(Debug, Default)]
pub(super) struct SharedKeys {
    pub(super) hosts: Option<At<Vec<At<String>>>>,
    pub(super) origins: Option<At<Vec<At<String>>>>,
    pub(super) no_origin: Option<At<NoOrigin>>,
    pub(super) ping_every: Option<At<Duration>>,
    pub(super) ping_timeout: Option<At<Duration>>,
    pub(super) max_message: Option<At<u64>>,
    pub(super) queue_bytes: Option<At<u64>>,
    pub(super) queue_full: Option<At<FullQueue>>,
    pub(super) max_body: Option<At<u64>>,
    /// `None` inside is `"off"`, here and below.
    pub(super) rate: Option<At<Option<RateTable>>>,
    pub(super) max_age: Option<At<Option<Duration>>>,
    pub(super) idle: Option<At<Option<Duration>>>,
}

/// `rate`.
#[derive(Debug)]
pub(super) struct RateTable {
    pub(super) messages: Option<At<u64>>,
    pub(super) per: Option<At<Duration>>,
    pub(super) burst: Option<At<u64>>,
    pub(super) over: Option<At<OverRate>>,
}

/// `[[route]]`.
#[derive(Debug)]
pub(super) struct RouteTable {
    /// The header, `[[route]]`.
    pub(super) span: Span,
    pub(super) name: Option<At<String>>,
    pub(super) path: Option<At<String>>,
    pub(super) re_path: Option<At<String>>,
    pub(super) handler: Option<At<HandlerWord>>,
    pub(super) shared: SharedKeys,
    pub(super) subprotocols: Option<At<Vec<At<String>>>>,
    pub(super) group: Option<At<String>>,
    pub(super) format: Option<At<Format>>,
    pub(super) publish: Option<At<bool>>,
    pub(super) receive: Option<At<EventTable>>,
    pub(super) deliver: Option<At<Vec<EventTable>>>,
    pub(super) direct: Option<At<Vec<At<String>>>>,
    pub(super) announce: Option<At<AnnounceTable>>,
    pub(super) welcome: Option<At<String>>,
    pub(super) username: Option<At<String>>,
    pub(super) status: Option<At<u64>>,
    pub(super) body: Option<At<String>>,
    pub(super) headers: Option<At<Vec<HeaderEntry>>>,
    pub(super) location: Option<At<String>>,
    pub(super) upstream: Option<At<String>>,
    pub(super) try_files: Option<At<String>>,
    pub(super) root: Option<At<String>>,
    pub(super) index: Option<At<bool>>,
    pub(super) precompressed: Option<At<Vec<At<Compression>>>>,
    pub(super) cache_control: Option<At<String>>,
    /// The keys that are there, whether or not their values are right.
    pub(super) keys: Vec<At<String>>,
}

/// One entry of `headers`.
#[derive(Debug)]
pub(super) struct HeaderEntry {
    pub(super) name: At<String>,
    pub(super) value: At<String>,
}

/// `receive`, or one entry of `deliver`.
#[derive(Debug)]
pub(super) struct EventTable {
    pub(super) kind: Option<At<String>>,
    pub(super) pick: Option<At<Vec<At<String>>>>,
    /// In `receive` only.
    pub(super) reply_channel: Option<At<bool>>,
}

/// `announce`.
#[derive(Debug)]
pub(super) struct AnnounceTable {
    pub(super) connect: Option<At<String>>,
    pub(super) disconnect: Option<At<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Memory,
    PubSub,
    Core,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuthWord {
    Require,
    Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandlerWord {
    Room,
    Echo,
    Proxy,
    Static,
    Respond,
}

pub(super) const LOG_LEVELS: Words<LogLevel> = Words {
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

pub(super) const LOG_FORMATS: Words<LogFormat> =
    Words { now: &[("text", LogFormat::Text), ("json", LogFormat::Json)], aliases: &[], later: &[] };

pub(super) const QUEUE_FULL: Words<FullQueue> =
    Words { now: &[("close", FullQueue::Close), ("drop", FullQueue::Drop)], aliases: &[], later: &[] };

pub(super) const PROXY_PROTOCOL: Words<ProxyProtocol> = Words {
    now: &[
        ("off", ProxyProtocol::Off),
        ("accept", ProxyProtocol::Accept),
        ("require", ProxyProtocol::Require),
    ],
    aliases: &[],
    later: &[],
};

pub(super) const CLIENT_AUTH: Words<ClientAuthWord> = Words {
    now: &[("require", ClientAuthWord::Require), ("request", ClientAuthWord::Request)],
    aliases: &[],
    later: &[],
};

pub(super) const OVER_RATE: Words<OverRate> =
    Words { now: &[("close", OverRate::Close), ("drop", OverRate::Drop)], aliases: &[], later: &[] };

pub(super) const TRUSTED_HEADERS: Words<ForwardedHeaders> = Words {
    now: &[
        ("none", ForwardedHeaders::None),
        ("x-forwarded", ForwardedHeaders::XForwarded),
        ("forwarded", ForwardedHeaders::Forwarded),
    ],
    aliases: &[],
    later: &[],
};

pub(super) const BACKENDS: Words<Backend> = Words {
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

pub(super) const SERIALIZER_FORMATS: Words<SerializerFormat> = Words {
    now: &[("msgpack", SerializerFormat::MsgPack), ("json", SerializerFormat::Json)],
    aliases: &[],
    later: &[],
};

pub(super) const NO_ORIGIN: Words<NoOrigin> =
    Words { now: &[("allow", NoOrigin::Allow), ("refuse", NoOrigin::Refuse)], aliases: &[], later: &[] };

pub(super) const HANDLERS: Words<HandlerWord> = Words {
    now: &[
        ("room", HandlerWord::Room),
        ("echo", HandlerWord::Echo),
        ("proxy", HandlerWord::Proxy),
        ("static", HandlerWord::Static),
        ("respond", HandlerWord::Respond),
    ],
    aliases: &[],
    later: &["worker"],
};

pub(super) const TRACEPARENTS: Words<Traceparent> =
    Words { now: &[("create", Traceparent::Create), ("pass", Traceparent::Pass)], aliases: &[], later: &[] };

pub(super) const COMPRESSIONS: Words<Compression> = Words {
    now: &[("br", Compression::Brotli), ("zstd", Compression::Zstandard), ("gzip", Compression::Gzip)],
    aliases: &[],
    later: &[],
};

pub(super) const FORMATS: Words<Format> = Words {
    now: &[("json", Format::Json), ("text", Format::Text), ("raw", Format::Raw)],
    aliases: &[],
    later: &[],
};

const TOP: Kind = Kind {
    name: "the file",
    keys: &["version", "server", "listener", "trust", "layer", "upstream", "defaults", "route"],
    later: &["auth", "test"],
    foreign: &[],
};

const SERVER: Kind = Kind {
    name: "[server]",
    keys: &["admin", "workers", "log", "drain", "limits"],
    later: &[],
    foreign: &[],
};

const LOG: Kind = Kind { name: "`log`", keys: &["level", "format"], later: &[], foreign: &[] };

const DRAIN: Kind = Kind { name: "`drain`", keys: &["shutdown", "grace"], later: &["reload"], foreign: &[] };

const LIMITS: Kind = Kind {
    name: "`limits`",
    keys: &["connections", "per_ip", "handshakes_per_second", "head", "uri", "headers"],
    later: &[],
    foreign: &[],
};

const LISTENER: Kind = Kind {
    name: "[[listener]]",
    keys: &["name", "address", "mode", "proxy_protocol", "tls", "http2", "client_ca", "client_auth"],
    later: &[],
    foreign: &[],
};

const TLS: Kind = Kind {
    name: "an entry of `tls`",
    keys: &["cert", "key"],
    later: &[],
    foreign: &[
        ("certificate", "it is `cert` here"),
        ("chain", "put the chain into the file of `cert`, behind the certificate"),
        ("password", "keep the key without a passphrase, readable for this process alone"),
    ],
};

const TRUST: Kind = Kind { name: "[trust]", keys: &["proxies", "headers"], later: &[], foreign: &[] };

const LAYER: Kind = Kind {
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

const UPSTREAM: Kind = Kind {
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

const HEALTH: Kind =
    Kind { name: "`health`", keys: &["path", "every", "timeout", "status"], later: &[], foreign: &[] };

const UPSTREAM_TLS: Kind = Kind {
    name: "`tls` of an upstream",
    keys: &["ca", "server_name", "verify"],
    later: &["cert", "key"],
    foreign: &[],
};

const DEFAULTS: Kind = Kind {
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

const ROUTE: Kind = Kind {
    name: "[[route]]",
    keys: &[
        "name",
        "path",
        "re_path",
        "handler",
        "hosts",
        "origins",
        "no_origin",
        "ping",
        "max_message",
        "queue",
        "rate",
        "max_age",
        "idle",
        "subprotocols",
        "group",
        "format",
        "publish",
        "receive",
        "deliver",
        "direct",
        "announce",
        "welcome",
        "username",
        "status",
        "body",
        "headers",
        "location",
        "max_body",
        "upstream",
        "try_files",
        "root",
        "index",
        "precompressed",
        "cache_control",
    ],
    later: &["on_change", "auth", "channel"],
    foreign: DEFAULTS.foreign,
};

const PING: Kind = Kind { name: "`ping`", keys: &["every", "timeout"], later: &[], foreign: &[] };

const QUEUE: Kind = Kind { name: "`queue`", keys: &["bytes", "full"], later: &[], foreign: &[] };

const RATE: Kind =
    Kind { name: "`rate`", keys: &["messages", "per", "burst", "over"], later: &[], foreign: &[] };

const RECEIVE: Kind =
    Kind { name: "`receive`", keys: &["type", "pick", "reply_channel"], later: &[], foreign: &[] };

const ANNOUNCE: Kind =
    Kind { name: "`announce`", keys: &["connect", "disconnect"], later: &[], foreign: &[] };

const DELIVER_ENTRY: Kind = Kind { name: "an entry of `deliver`", keys: &["pick"], later: &[], foreign: &[] };

/// The most syntax errors that are shown: what follows the first few is mostly their consequence.
const SYNTAX_ERRORS_MAX: usize = 20;

/// Reads the text; `None` when it is not TOML.
pub(super) fn read(text: &str, findings: &Findings) -> Option<File> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        report_syntax(text, document.get_ref(), &errors, findings);
        return None;
    }
    let top = Table::new(document.get_ref(), 0..0, &TOP, findings);
    version(&top, text);
    has_routes(&top, text);
    Some(File {
        server: top.table("server", &SERVER).map(|table| server(&table)).unwrap_or_default(),
        listeners: top.tables("listener", &LISTENER).iter().map(listener).collect(),
        trust: top.table("trust", &TRUST).map(|table| trust(&table)).unwrap_or_default(),
        layer: top.table("layer", &LAYER).map(|table| layer(&table)).unwrap_or_default(),
        upstreams: upstreams(&top),
        defaults: top.table("defaults", &DEFAULTS).map(|table| shared(&table)).unwrap_or_default(),
        routes: top.tables("route", &ROUTE).iter().map(route).collect(),
    })
}

/// The first error of each line: the parser resumes within the line and mostly stumbles over the same thing.
fn report_syntax(text: &str, document: &DeTable<'_>, errors: &[toml::de::Error], findings: &Findings) {
    let line_of = |at: usize| text.bytes().take(at).filter(|&byte| byte == b'\n').count();
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut line_last = None;
    errors.retain(|(span, _)| line_last.replace(line_of(span.start)) != Some(line_of(span.start)));
    for (span, message) in errors.into_iter().take(SYNTAX_ERRORS_MAX) {
        let report = |message: &str| Diagnostic::new(Code::Syntax, span.clone(), message);
        findings.push(match message.split_once(',').map_or(message, |(start, _)| start) {
            "string values must be quoted" if span.is_empty() => report("there is no value here"),
            "string values must be quoted" => {
                report("this string has no quotes").help("put it into `\"…\"` or `'…'`")
            }
            "duplicate key" => {
                let again = report("this key or table stands here a second time");
                match first_place(text, document, &span) {
                    Some(first) => again.with(first, "first here"),
                    None => again,
                }
            }
            "missing escaped value" => {
                let escaped = text.get(span.start..).and_then(|rest| rest.chars().next());
                let escape = span.start.saturating_sub(1)..span.start + escaped.map_or(0, char::len_utf8);
                Diagnostic::new(Code::Syntax, escape, "a string in double quotes has no such escape")
                    .help("write it in single quotes, `'…'`, where a backslash is a character as any other")
            }
            _ => report(message),
        });
    }
}

/// Where the key or table stands that is there again at `again`.
///
/// A key is looked for on the same footing, on lines of its own or within a line, and the nearest before it is
/// the one in the same table.
fn first_place(text: &str, document: &DeTable<'_>, again: &Span) -> Option<Span> {
    let line_start = |at: usize| text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let before = |span: &Span| text.get(line_start(span.start)..span.start).unwrap_or_default().trim();
    let mut spans = Vec::new();
    if before(again).starts_with('[') {
        // The document holds the last of the headers alone.
        let header = text.get(line_start(again.start)..again.end)?.trim().trim_start_matches('[');
        let mut start = 0;
        for line in text.get(..line_start(again.start))?.split_inclusive('\n') {
            let name = line.trim_start().strip_prefix('[').map(|name| name.trim_start_matches('['));
            let found = name.and_then(|name| Some((name.len(), name.strip_prefix(header)?)));
            if let Some((len, _)) = found.filter(|(_, rest)| rest.starts_with(']')) {
                let name_start = start + line.len() - len;
                spans.push(name_start..name_start + header.len());
            }
            start += line.len();
        }
    } else {
        places(document, text.get(again.clone())?.trim_matches(['"', '\'']), &mut spans);
        spans.retain(|span| span.end <= again.start && before(span).is_empty() == before(again).is_empty());
    }
    spans.into_iter().max_by_key(|span| span.start)
}

/// Every place where a key of this name stands, at any depth.
fn places(table: &DeTable<'_>, name: &str, spans: &mut Vec<Span>) {
    for (key, value) in table {
        if key.get_ref() == name {
            spans.push(key.span());
        }
        places_below(value.get_ref(), name, spans);
    }
}

fn places_below(value: &DeValue<'_>, name: &str, spans: &mut Vec<Span>) {
    match value {
        DeValue::Table(table) => places(table, name, spans),
        DeValue::Array(values) => {
            values.iter().for_each(|value| places_below(value.get_ref(), name, spans));
        }
        _ => (),
    }
}

fn version(top: &Table<'_>, text: &str) {
    let Some(value) = top.get("version") else {
        let first_line = 0..text.lines().next().map_or(0, str::len);
        let message = "there is no `version` in this file";
        let help = "begin it with `version = 1`: without it, a file cut short could pass for a whole one";
        return top.findings.push(Diagnostic::new(Code::Version, first_line, message).help(help));
    };
    match value.get_ref() {
        DeValue::Integer(number) if number.as_str() == "1" => (),
        DeValue::Integer(number) => {
            let message = format!("version {number} of the file format is not known");
            top.findings
                .push(Diagnostic::new(Code::Version, value.span(), message).help("write `version = 1`"));
        }
        _ => top.wrong("version", value, "the number 1", Some("write `version = 1`".to_owned())),
    }
}

/// With a version on top, this is what tells a file cut short.
fn has_routes(top: &Table<'_>, text: &str) {
    let empty =
        |value: &Spanned<DeValue<'_>>| matches!(value.get_ref(), DeValue::Array(list) if list.is_empty());
    if top.get("route").is_none_or(empty) {
        let message = "there is no `[[route]]` in this file";
        let help = "a table without routes refuses every request; `handler = \"respond\"` answers all alike";
        let first_line = 0..text.lines().next().map_or(0, str::len);
        top.findings.push(Diagnostic::new(Code::MissingKey, first_line, message).help(help));
    }
}

fn server(table: &Table<'_>) -> ServerTable {
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

fn listener(table: &Table<'_>) -> ListenerTable {
    table.require("name");
    table.require("address");
    ListenerTable {
        name: table.text("name"),
        address: table.text("address"),
        mode: table.text("mode"),
        proxy_protocol: table.word("proxy_protocol", &PROXY_PROTOCOL),
        has_tls: table.get("tls").is_some(),
        tls: table.list("tls", |value| tls(table, value)),
        http2: table.flag("http2"),
        client_ca: table.text("client_ca"),
        client_auth: table.word("client_auth", &CLIENT_AUTH),
    }
}

fn tls<'a>(listener: &Table<'a>, value: &'a Spanned<DeValue<'a>>) -> Option<TlsTable> {
    let DeValue::Table(entry) = value.get_ref() else {
        let help = "write `tls = [{ cert = \"certs/a.pem\", key = \"certs/a.key\" }]`".to_owned();
        listener.wrong("tls", value, "a list of tables", Some(help));
        return None;
    };
    let entry = Table::new(entry, value.span(), &TLS, listener.findings);
    entry.require("cert");
    entry.require("key");
    Some(TlsTable { cert: entry.text("cert"), key: entry.text("key") })
}

fn trust(table: &Table<'_>) -> TrustTable {
    TrustTable { proxies: table.texts("proxies"), headers: table.word("headers", &TRUSTED_HEADERS) }
}

fn layer(table: &Table<'_>) -> LayerTable {
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

fn upstreams(top: &Table<'_>) -> Vec<UpstreamTable> {
    let Some(at) = top.any_table("upstream") else { return Vec::new() };
    let mut upstreams = Vec::new();
    for (key, value) in in_file_order(at.value) {
        if let DeValue::Table(inner) = value.get_ref() {
            let name = At { value: key.get_ref().to_string(), span: key.span() };
            upstreams.push(upstream(name, &Table::new(inner, value.span(), &UPSTREAM, top.findings)));
        } else {
            let help = "write `[upstream.NAME]` and below it `servers = [\"http://127.0.0.1:8001\"]`";
            top.wrong(key.get_ref(), value, "a table", Some(help.to_owned()));
        }
    }
    upstreams
}

fn upstream(name: At<String>, table: &Table<'_>) -> UpstreamTable {
    table.require("servers");
    let time = |key| table.duration(key, Duration::from_millis(10)..=HOUR);
    let health = table.table("health", &HEALTH).map(|health| {
        health.require("path");
        let time = |key| health.duration(key, Duration::from_millis(10)..=HOUR);
        HealthTable {
            path: health.text("path"),
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

/// In seconds.
const DAY: u64 = 86_400;
/// With no room for any message nothing would arrive.
const CAPACITIES: RangeInclusive<u64> = 1..=1_000_000;

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

const HOUR: Duration = Duration::from_hours(1);
/// From the step of the timers to a month.
const LIFE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(720);

fn shared(table: &Table<'_>) -> SharedKeys {
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

fn route(table: &Table<'_>) -> RouteTable {
    table.require("name");
    table.require("handler");
    RouteTable {
        span: table.span.clone(),
        name: table.text("name"),
        path: table.text("path"),
        re_path: table.text("re_path"),
        handler: table.word("handler", &HANDLERS),
        shared: shared(table),
        subprotocols: table.texts("subprotocols"),
        group: table.text("group"),
        format: table.word("format", &FORMATS),
        publish: table.flag("publish"),
        receive: table.table("receive", &RECEIVE).map(|receive| receive.at(event(&receive))),
        deliver: deliver(table),
        direct: table.texts("direct"),
        announce: table.table("announce", &ANNOUNCE).map(|announce| {
            let (connect, disconnect) = (announce.text("connect"), announce.text("disconnect"));
            announce.at(AnnounceTable { connect, disconnect })
        }),
        welcome: table.text("welcome"),
        username: table.text("username"),
        status: table.count("status", 200..=599),
        body: table.text("body"),
        headers: headers(table),
        location: table.text("location"),
        upstream: table.text("upstream"),
        try_files: table.text("try_files"),
        root: table.text("root"),
        index: table.flag("index"),
        precompressed: table.words("precompressed", &COMPRESSIONS),
        cache_control: table.text("cache_control"),
        keys: table.keys(),
    }
}

fn event(table: &Table<'_>) -> EventTable {
    EventTable {
        kind: table.text("type"),
        pick: table.texts("pick"),
        reply_channel: table.flag("reply_channel"),
    }
}

fn deliver(route: &Table<'_>) -> Option<At<Vec<EventTable>>> {
    let at = route.any_table("deliver")?;
    let mut events = Vec::new();
    for (key, value) in in_file_order(at.value) {
        let DeValue::Table(inner) = value.get_ref() else {
            route.wrong(key.get_ref(), value, "a table", Some("write `{ pick = [\"message\"] }`".to_owned()));
            continue;
        };
        // Without quotes, `chat.message` is a table `message` in a table `chat`.
        let nested = inner.iter().find(|(_, value)| matches!(value.get_ref(), DeValue::Table(_)));
        if let (false, Some((inner_key, _))) = (inner.contains_key("pick"), nested) {
            let (outer, inner) = (key.get_ref(), inner_key.get_ref());
            let message = format!("the event type `{outer}.{inner}` stands without quotes");
            let help = format!("write `\"{outer}.{inner}\" = {{ … }}`");
            let span = key.span().start..inner_key.span().end.max(key.span().end);
            route.findings.push(Diagnostic::new(Code::WrongType, span, message).help(help));
            continue;
        }
        let table = Table::new(inner, value.span(), &DELIVER_ENTRY, route.findings);
        let kind = Some(At { value: key.get_ref().to_string(), span: key.span() });
        events.push(EventTable { kind, pick: table.texts("pick"), reply_channel: None });
    }
    // Entries that were not right are no empty table.
    (events.is_empty() == at.value.is_empty()).then_some(At { value: events, span: at.span })
}

fn headers(route: &Table<'_>) -> Option<At<Vec<HeaderEntry>>> {
    let at = route.any_table("headers")?;
    let mut headers = Vec::new();
    for (key, value) in in_file_order(at.value) {
        if let DeValue::String(text) = value.get_ref() {
            let name = At { value: key.get_ref().to_string(), span: key.span() };
            headers.push(HeaderEntry { name, value: At { value: text.to_string(), span: value.span() } });
        } else {
            route.wrong(key.get_ref(), value, "a string", None);
        }
    }
    Some(At { value: headers, span: at.span })
}

/// Every key of every table. The words of redis-py have a page of their own.
#[cfg(test)]
pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
    let kinds = [
        &TOP,
        &SERVER,
        &LOG,
        &DRAIN,
        &LIMITS,
        &LISTENER,
        &TLS,
        &TRUST,
        &LAYER,
        &UPSTREAM,
        &HEALTH,
        &UPSTREAM_TLS,
        &crate::config::table::SECRET,
        &DEFAULTS,
        &ROUTE,
        &PING,
        &QUEUE,
        &RATE,
        &RECEIVE,
        &DELIVER_ENTRY,
        &ANNOUNCE,
    ];
    kinds.into_iter().flat_map(|kind| kind.keys).chain(crate::config::hosts::FORMS).copied()
}
