//! The rules of `[defaults]` and `[[route]]`.

use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashMap;
use std::str::FromStr;

use http::HeaderName;

use crate::config::compile::{Compiler, Unique, all, items, to_usize, value};
use crate::config::diagnostic::{Code, Diagnostic, one_of};
use crate::config::file::{HANDLERS, HandlerWord, RateTable, RouteTable, SharedKeys, UpstreamTable};
use crate::config::table::At;
use crate::config::units::format_size;
use crate::config::{HandlerConfig, PatternKey, RouteConfig};
use crate::request::{HostPattern, NoOrigin, OriginPattern, OriginPolicy, Takes};
use crate::route::{Pattern, PatternError};
use crate::session::{FullQueue, OverRate, Ping, Queue, Rate};

/// What `[defaults]` says, then what a route says, with the defaults filled in.
#[derive(Clone)]
struct Shared {
    hosts: Vec<HostPattern>,
    origins: OriginPolicy,
    ping: Ping,
    message_bytes_max: u64,
    queue_bytes_max: u64,
    queue_full: FullQueue,
    rate: Option<Rate>,
    age_max: Option<Duration>,
    idle_max: Option<Duration>,
    body_bytes_max: u64,
}

impl Compiler<'_> {
    pub(super) fn routes(
        &self,
        tables: &[RouteTable],
        defaults: &SharedKeys,
        upstreams: &[UpstreamTable],
    ) -> Option<Vec<RouteConfig>> {
        let built_in = Shared {
            hosts: ["localhost", "127.0.0.1", "[::1]"].iter().filter_map(|host| host.parse().ok()).collect(),
            origins: OriginPolicy {
                patterns: "same-host".parse().into_iter().collect(),
                no_origin: NoOrigin::Allow,
            },
            ping: Ping { every: Duration::from_secs(20), timeout: Duration::from_secs(30) },
            message_bytes_max: 64 << 10,
            queue_bytes_max: 1 << 20,
            queue_full: FullQueue::Close,
            rate: None,
            age_max: None,
            idle_max: None,
            body_bytes_max: 16 << 20,
        };
        let defaults = self.shared(defaults, &built_in);
        let mut names = Unique::new("route name");
        let routes: Vec<_> = tables
            .iter()
            .map(|table| {
                let name = table.name.as_ref().filter(|at| self.is_name("a route", at) & names.add(self, at));
                self.route(table, name, &defaults, upstreams)
            })
            .collect();
        self.unreachable(tables, &routes);
        self.unused_upstreams(tables, upstreams);
        all(routes)
    }

    /// What the keys say, on top of what was said before.
    fn shared(&self, keys: &SharedKeys, base: &Shared) -> Shared {
        let mut shared = base.clone();
        if let Some(at) = &keys.hosts {
            shared.hosts =
                self.patterns(at, "hosts", Code::HostPattern, "`[\"*\"]` takes every host", |text| {
                    text.parse::<HostPattern>().map_err(|error| (error.to_string(), error.help()))
                });
        }
        if let Some(at) = &keys.origins {
            let help = "`[\"*\"]` takes every origin; `no_origin` is for clients that send none";
            shared.origins.patterns = self.patterns(at, "origins", Code::OriginPattern, help, |text| {
                text.parse::<OriginPattern>().map_err(|error| (error.to_string(), error.help()))
            });
        }
        shared.origins.no_origin = value(keys.no_origin.as_ref()).unwrap_or(base.origins.no_origin);
        shared.ping.every = value(keys.ping_every.as_ref()).unwrap_or(base.ping.every);
        shared.ping.timeout = value(keys.ping_timeout.as_ref()).unwrap_or(base.ping.timeout);
        shared.message_bytes_max = value(keys.max_message.as_ref()).unwrap_or(base.message_bytes_max);
        shared.queue_bytes_max = value(keys.queue_bytes.as_ref()).unwrap_or(base.queue_bytes_max);
        shared.queue_full = value(keys.queue_full.as_ref()).unwrap_or(base.queue_full);
        if let Some(at) = &keys.rate {
            shared.rate = at.value.as_ref().and_then(|table| self.rate(table));
        }
        shared.age_max = value(keys.max_age.as_ref()).unwrap_or(base.age_max);
        shared.idle_max = value(keys.idle.as_ref()).unwrap_or(base.idle_max);
        shared.body_bytes_max = value(keys.max_body.as_ref()).unwrap_or(base.body_bytes_max);
        self.queue_holds_a_message(keys, &shared);
        shared
    }

    fn patterns<T>(
        &self,
        list: &At<Vec<At<String>>>,
        key: &str,
        code: Code,
        empty_help: &str,
        parse: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Vec<T> {
        if list.value.is_empty() {
            let message = format!("`{key}` is empty, so nothing would be let in");
            self.push(Diagnostic::new(Code::Empty, list.span.clone(), message).help(empty_help));
        }
        let mut patterns = Vec::new();
        for at in &list.value {
            match parse(&at.value) {
                Ok(pattern) => patterns.push(pattern),
                Err((error, help)) => self.refuse(code, at, help, &error),
            }
        }
        patterns
    }

    /// One table says all of it: a rate that is half of here and half of there would be read by nobody.
    fn rate(&self, table: &RateTable) -> Option<Rate> {
        let messages = to_u32(table.messages.as_ref()?.value)?;
        let burst = match &table.burst {
            Some(at) if at.value < u64::from(messages.get()) => {
                let message = format!("a burst of {} is less than the {messages} messages", at.value);
                let help = "leave `burst` out to let as many pass at once as in each `per`";
                let mut diagnostic = Diagnostic::new(Code::Conflict, at.span.clone(), message).help(help);
                if let Some(messages) = &table.messages {
                    diagnostic = diagnostic.with(messages.span.clone(), "the messages");
                }
                self.push(diagnostic);
                return None;
            }
            Some(at) => to_u32(at.value)?,
            None => messages,
        };
        Some(Rate {
            messages,
            per: value(table.per.as_ref()).unwrap_or(Duration::from_secs(1)),
            burst,
            over: value(table.over.as_ref()).unwrap_or(OverRate::Close),
        })
    }

    /// A queue that the longest message does not fit into could never deliver it.
    fn queue_holds_a_message(&self, keys: &SharedKeys, shared: &Shared) {
        let (queue, message) = (shared.queue_bytes_max, shared.message_bytes_max);
        // Otherwise it is reported where it was written.
        let ((Some(at), _) | (None, Some(at))) = (&keys.queue_bytes, &keys.max_message) else { return };
        if queue < message {
            let text = format!(
                "a queue of {} does not hold one message of {}",
                format_size(queue),
                format_size(message)
            );
            let mut diagnostic = Diagnostic::new(Code::Conflict, at.span.clone(), text)
                .help("make `queue.bytes` at least as large as `max_message`");
            if let (Some(_), Some(other)) = (&keys.queue_bytes, &keys.max_message) {
                diagnostic = diagnostic.with(other.span.clone(), "the longest message");
            }
            self.push(diagnostic);
        }
    }

    fn route(
        &self,
        table: &RouteTable,
        name: Option<&At<String>>,
        defaults: &Shared,
        upstreams: &[UpstreamTable],
    ) -> Option<RouteConfig> {
        let pattern = self.pattern(table);
        let shared = self.shared(&table.shared, defaults);
        let subprotocols = self.subprotocols(table);
        let pattern_at = pattern.as_ref().map(|(_, at, pattern)| (*at, pattern));
        if let Some(handler) = &table.handler {
            self.unusable_keys(table, handler);
        }
        let handler = match value(table.handler.as_ref()) {
            Some(HandlerWord::Room) => self.room(table, pattern_at).map(HandlerConfig::Room),
            Some(HandlerWord::Echo) => Some(HandlerConfig::Echo),
            Some(HandlerWord::Proxy) => {
                self.proxy(table, upstreams, shared.body_bytes_max).map(HandlerConfig::Proxy)
            }
            Some(HandlerWord::Static) => self.files(table).map(HandlerConfig::Static),
            Some(HandlerWord::Respond) => self.respond(table).map(HandlerConfig::Respond),
            None => {
                // The word is missing or wrong, but the keys of a room give it away.
                if table.keys.iter().any(|key| owners(&key.value) == [HandlerWord::Room]) {
                    self.room(table, pattern_at);
                }
                None
            }
        };
        let (pattern_key, _, pattern) = pattern?;
        Some(RouteConfig {
            name: name?.value.clone(),
            pattern_key,
            pattern,
            hosts: shared.hosts,
            origins: shared.origins,
            ping: shared.ping,
            message_bytes_max: to_usize(shared.message_bytes_max),
            rate: shared.rate,
            age_max: shared.age_max,
            idle_max: shared.idle_max,
            queue: Queue { bytes_max: to_usize(shared.queue_bytes_max), full: shared.queue_full },
            subprotocols: subprotocols?,
            handler: handler?,
        })
    }

    fn pattern<'t>(&self, table: &'t RouteTable) -> Option<(PatternKey, &'t At<String>, Pattern)> {
        let has = |name: &str| table.keys.iter().find(|key| key.value == name);
        match (has("path"), has("re_path")) {
            (Some(path), Some(re_path)) => {
                let message = "a route has `path` or `re_path`, not both";
                let diagnostic = Diagnostic::new(Code::Conflict, re_path.span.clone(), message);
                self.push(diagnostic.with(path.span.clone(), "the other one"));
                for (at, parse) in
                    [(&table.path, Pattern::path as fn(&_) -> _), (&table.re_path, Pattern::re_path)]
                {
                    if let Some(at) = at {
                        self.compile_pattern(at, parse(&at.value));
                    }
                }
                return None;
            }
            (None, None) => {
                let message = "this [[route]] has neither `path` nor `re_path`";
                let help = r"write `re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'` as in Django, or `path = '/chat/.*'`";
                self.push(Diagnostic::new(Code::MissingKey, table.span.clone(), message).help(help));
                return None;
            }
            _ => (),
        }
        let (key, at, pattern) = match (&table.path, &table.re_path) {
            (Some(at), _) => (PatternKey::Path, at, Pattern::path(&at.value)),
            (None, Some(at)) => (PatternKey::RePath, at, Pattern::re_path(&at.value)),
            (None, None) => return None,
        };
        Some((key, at, self.compile_pattern(at, pattern)?))
    }

    /// Reports everything that is wrong with a pattern.
    fn compile_pattern(&self, at: &At<String>, compiled: Result<Pattern, PatternError>) -> Option<Pattern> {
        let error = match compiled {
            Ok(pattern) => return Some(pattern),
            Err(error) => error,
        };
        for error in std::iter::once(&error).chain(&error.further) {
            let span = error.span.as_ref().map_or_else(|| at.span.clone(), |span| self.inside(at, span));
            let diagnostic = Diagnostic::new(Code::Pattern, span, error.message.as_str());
            self.push(diagnostic.maybe_help(error.help.clone()));
        }
        None
    }

    fn subprotocols(&self, table: &RouteTable) -> Option<Vec<String>> {
        let mut unique = Unique::new("subprotocol");
        all(items(table.subprotocols.as_ref()).map(|at| {
            // A header field takes the same characters as a subprotocol: both are tokens.
            if HeaderName::from_str(&at.value).is_err() {
                let message = format!("`{}` is no name for a subprotocol", at.value);
                let help = "use letters, digits and the characters !#$%&'*+-.^_`|~";
                self.push(Diagnostic::new(Code::Name, at.span.clone(), message).help(help));
                return None;
            }
            unique.add(self, at).then(|| at.value.clone())
        }))
    }

    /// Keys that belong to other handlers.
    fn unusable_keys(&self, table: &RouteTable, handler: &At<HandlerWord>) {
        for key in &table.keys {
            let owners = owners(&key.value);
            if owners.is_empty() || owners.contains(&handler.value) {
                continue;
            }
            let word = HANDLERS.word(handler.value);
            let message = format!("`{}` has no use in a route with `handler = \"{word}\"`", key.value);
            let owners = one_of(owners.iter().map(|&owner| HANDLERS.word(owner)));
            self.push(
                Diagnostic::new(Code::UnusableKey, key.span.clone(), message)
                    .with(handler.span.clone(), "the handler")
                    .help(format!("it belongs to {owners}")),
            );
        }
    }

    /// Routes that an earlier one leaves nothing to, as far as that is plain to see.
    fn unreachable(&self, tables: &[RouteTable], routes: &[Option<RouteConfig>]) {
        let mut earlier: HashMap<(PatternKey, &str), Vec<&RouteConfig>> = HashMap::new();
        let mut open: Vec<&RouteConfig> = Vec::new();
        for (table, route) in tables.iter().zip(routes) {
            let Some(route) = route else { continue };
            let same = earlier.entry((route.pattern_key, route.pattern.as_str())).or_default();
            let first = same.iter().chain(&open).find(|first| leaves_nothing(first, route));
            if let (Some(first), Some(at)) = (first, table.path.as_ref().or(table.re_path.as_ref())) {
                let message = format!("the route `{}` is never reached", route.name);
                let diagnostic = Diagnostic::new(Code::Unreachable, at.span.clone(), message)
                    .help(format!("put it above `{}`", first.name));
                let first_at = tables
                    .iter()
                    .find(|table| table.name.as_ref().is_some_and(|name| name.value == first.name))
                    .and_then(|table| table.path.as_ref().or(table.re_path.as_ref()));
                self.push(match first_at {
                    Some(first_at) => diagnostic.with(
                        first_at.span.clone(),
                        format!("`{}` takes everything that it could take", first.name),
                    ),
                    None => diagnostic,
                });
                continue;
            }
            same.push(route);
            if takes_every_path(route) {
                open.push(route);
            }
        }
    }
}

/// A count that the shape has found to be from 1 to a million.
fn to_u32(count: u64) -> Option<NonZeroU32> {
    u32::try_from(count).ok().and_then(NonZeroU32::new)
}

/// The handlers that a key belongs to; none for a key of every route, or of none.
fn owners(key: &str) -> &'static [HandlerWord] {
    match key {
        "origins" | "no_origin" => &[HandlerWord::Room, HandlerWord::Echo, HandlerWord::Proxy],
        "ping" | "max_message" | "queue" | "rate" | "max_age" | "idle" | "subprotocols" => {
            &[HandlerWord::Room, HandlerWord::Echo]
        }
        "group" | "format" | "publish" | "receive" | "deliver" | "direct" | "announce" | "welcome"
        | "username" => &[HandlerWord::Room],
        "upstream" | "max_body" | "try_files" => &[HandlerWord::Proxy],
        "root" | "index" => &[HandlerWord::Static],
        "precompressed" | "cache_control" => &[HandlerWord::Static, HandlerWord::Proxy],
        "status" | "body" | "headers" | "location" => &[HandlerWord::Respond],
        _ => &[],
    }
}

/// Whether the first route takes every request that the second could, their patterns put aside.
fn leaves_nothing(first: &RouteConfig, second: &RouteConfig) -> bool {
    let any = first.hosts.iter().any(|host| host.to_string() == "*");
    let takes = first.handler.takes();
    (takes == Takes::Both || takes == second.handler.takes())
        && (any || second.hosts.iter().all(|host| first.hosts.contains(host)))
}

fn takes_every_path(route: &RouteConfig) -> bool {
    match route.pattern_key {
        PatternKey::Path => matches!(route.pattern.as_str(), "/.*" | ".*"),
        PatternKey::RePath => matches!(route.pattern.as_str(), "" | "^" | ".*" | "^.*" | "^.*$" | ".*$"),
    }
}
