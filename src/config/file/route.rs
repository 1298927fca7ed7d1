//! The shape of `[[route]]`.

use toml::de::DeValue;

use crate::config::diagnostic::Span;
use crate::config::file::defaults;
use crate::config::file::defaults::{DEFAULTS, SharedKeys};
use crate::config::file::room::{AnnounceTable, EventTable, FORMATS, announce, deliver, receive};
use crate::config::table::{At, Kind, Table, Words, in_file_order};
use crate::files::Compression;
use crate::handler::Format;

/// `[[route]]`.
#[derive(Debug)]
pub(in crate::config) struct RouteTable {
    /// The header, `[[route]]`.
    pub(in crate::config) span: Span,
    pub(in crate::config) name: Option<At<String>>,
    pub(in crate::config) path: Option<At<String>>,
    pub(in crate::config) re_path: Option<At<String>>,
    pub(in crate::config) handler: Option<At<HandlerWord>>,
    pub(in crate::config) shared: SharedKeys,
    pub(in crate::config) subprotocols: Option<At<Vec<At<String>>>>,
    pub(in crate::config) group: Option<At<String>>,
    pub(in crate::config) format: Option<At<Format>>,
    pub(in crate::config) publish: Option<At<bool>>,
    pub(in crate::config) receive: Option<At<EventTable>>,
    pub(in crate::config) deliver: Option<At<Vec<EventTable>>>,
    pub(in crate::config) direct: Option<At<Vec<At<String>>>>,
    pub(in crate::config) announce: Option<At<AnnounceTable>>,
    pub(in crate::config) welcome: Option<At<String>>,
    pub(in crate::config) username: Option<At<String>>,
    pub(in crate::config) status: Option<At<u64>>,
    pub(in crate::config) body: Option<At<String>>,
    pub(in crate::config) headers: Option<At<Vec<HeaderEntry>>>,
    pub(in crate::config) location: Option<At<String>>,
    pub(in crate::config) upstream: Option<At<String>>,
    pub(in crate::config) try_files: Option<At<String>>,
    pub(in crate::config) root: Option<At<String>>,
    pub(in crate::config) index: Option<At<bool>>,
    pub(in crate::config) precompressed: Option<At<Vec<At<Compression>>>>,
    pub(in crate::config) cache_control: Option<At<String>>,
    /// The keys that are there, whether or not their values are right.
    pub(in crate::config) keys: Vec<At<String>>,
}

/// One entry of `headers`.
#[derive(Debug)]
pub(in crate::config) struct HeaderEntry {
    pub(in crate::config) name: At<String>,
    pub(in crate::config) value: At<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum HandlerWord {
    Room,
    Echo,
    Proxy,
    Static,
    Respond,
}

pub(in crate::config) const HANDLERS: Words<HandlerWord> = Words {
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

pub(in crate::config) const COMPRESSIONS: Words<Compression> = Words {
    now: &[("br", Compression::Brotli), ("zstd", Compression::Zstandard), ("gzip", Compression::Gzip)],
    aliases: &[],
    later: &[],
};

pub(super) const ROUTE: Kind = Kind {
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

pub(super) fn read(table: &Table<'_>) -> RouteTable {
    table.require("name");
    table.require("handler");
    RouteTable {
        span: table.span.clone(),
        name: table.text("name"),
        path: table.text("path"),
        re_path: table.text("re_path"),
        handler: table.word("handler", &HANDLERS),
        shared: defaults::read(table),
        subprotocols: table.texts("subprotocols"),
        group: table.text("group"),
        format: table.word("format", &FORMATS),
        publish: table.flag("publish"),
        receive: receive(table),
        deliver: deliver(table),
        direct: table.texts("direct"),
        announce: announce(table),
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
