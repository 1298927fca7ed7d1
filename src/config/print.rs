//! The configuration in force as a file again: every default written out, secrets masked.

use core::time::Duration;
use std::fmt::Write as _;

use http::{HeaderMap, header};

use crate::channel_layer::{ChannelPattern, Cluster, RedisAddress, RedisHost, RedisServer, Sentinel};
use crate::config::file::{
    CLIENT_AUTH, COMPRESSIONS, ClientAuthWord, FORMATS, LOG_FORMATS, LOG_LEVELS, NO_ORIGIN, OVER_RATE,
    PROXY_PROTOCOL, QUEUE_FULL, SERIALIZER_FORMATS, TRACEPARENTS, TRUSTED_HEADERS,
};
use crate::config::units::{format_duration, format_size};
use crate::config::{
    Config, HandlerConfig, LayerConfig, ListenerConfig, ProxyConfig, RedisLayerConfig, RouteConfig,
    ServerConfig, UpstreamConfig,
};
use crate::files::Files;
use crate::handler::{Format, Respond, Room};
use crate::listener::Certificate;
use crate::request::Takes;
use crate::session::Rate;
use crate::tls::Verify;
use crate::upstream::ServerAddress;

/// The configuration as a file that reads as the same again, but for the secrets: each is `***`.
pub fn print(config: &Config) -> String {
    let mut out = Printer { text: String::new() };
    out.line("version", "1");
    out.server(&config.server);
    for listener in &config.listeners {
        out.listener(listener);
    }
    out.header("[trust]");
    out.line("proxies", &list(&config.trust.proxies));
    out.line("headers", &quoted(TRUSTED_HEADERS.word(config.trust.headers)));
    out.layer(&config.layer);
    for upstream in &config.upstreams {
        out.upstream(upstream);
    }
    for route in &config.routes {
        out.route(route);
    }
    out.text
}

struct Printer {
    text: String,
}

impl Printer {
    fn header(&mut self, header: &str) {
        self.text.push('\n');
        self.text.push_str(header);
        self.text.push('\n');
    }

    fn line(&mut self, key: &str, value: &str) {
        // Writing to a `String` does not fail.
        let _infallible = writeln!(self.text, "{key} = {value}");
    }

    fn server(&mut self, server: &ServerConfig) {
        self.header("[server]");
        self.line("admin", &quoted(&server.admin.to_string()));
        match server.workers {
            Some(workers) => self.line("workers", &workers.to_string()),
            None => self.text.push_str("# workers: as many as processor affinity and cgroup allow\n"),
        }
        let (level, format) = (LOG_LEVELS.word(server.log.level), LOG_FORMATS.word(server.log.format));
        self.line("log", &table(&[("level", quoted(level)), ("format", quoted(format))]));
        let shutdown = quoted(&format_duration(server.drain.shutdown));
        let grace = quoted(&format_duration(server.drain.grace));
        self.line("drain", &table(&[("shutdown", shutdown), ("grace", grace)]));
        let limits = [
            ("connections", server.limits.connections.to_string()),
            ("per_ip", server.limits.per_ip.to_string()),
            ("handshakes_per_second", server.limits.handshakes_per_second.to_string()),
            ("head", size(server.sizes.head_bytes_max)),
            ("uri", size(server.sizes.target_bytes_max)),
            ("headers", server.sizes.headers_max.to_string()),
        ];
        self.line("limits", &table(&limits));
    }

    fn listener(&mut self, listener: &ListenerConfig) {
        self.header("[[listener]]");
        self.line("name", &quoted(&listener.name));
        self.line("address", &quoted(&listener.address.to_string()));
        if let Some(mode) = listener.mode {
            self.line("mode", &quoted(&format!("{mode:04o}")));
        }
        self.line("proxy_protocol", &quoted(PROXY_PROTOCOL.word(listener.proxy_protocol)));
        if !listener.tls.is_empty() {
            let pair = |one: &Certificate| table(&[("cert", quoted(one.cert())), ("key", quoted(one.key()))]);
            let pairs: Vec<_> = listener.tls.iter().map(pair).collect();
            self.line("tls", &format!("[{}]", pairs.join(", ")));
            self.line("http2", if listener.http2 { "true" } else { "false" });
        }
        if let Some(auth) = &listener.client_auth {
            self.line("client_ca", &quoted(&auth.ca));
            let word = if auth.required { ClientAuthWord::Require } else { ClientAuthWord::Request };
            self.line("client_auth", &quoted(CLIENT_AUTH.word(word)));
        }
    }

    fn layer(&mut self, layer: &LayerConfig) {
        self.header("[layer]");
        match layer {
            LayerConfig::Memory => self.line("backend", &quoted("memory")),
            LayerConfig::PubSub(redis) => {
                self.line("backend", &quoted("channels_redis.pubsub"));
                self.redis(redis);
            }
            LayerConfig::Core {
                redis,
                expiry,
                group_expiry,
                capacity,
                channel_capacity,
                random_prefix_length,
            } => {
                self.line("backend", &quoted("channels_redis.core"));
                self.redis(redis);
                self.line("expiry", &quoted(&format_duration(*expiry)));
                self.line("group_expiry", &quoted(&format_duration(*group_expiry)));
                self.line("capacity", &capacity.to_string());
                let entry = |(pattern, capacity): &(ChannelPattern, u64)| {
                    (quoted(pattern.as_str()), capacity.to_string())
                };
                let capacities: Vec<_> = channel_capacity.iter().map(entry).collect();
                self.line("channel_capacity", &table(&capacities));
                self.line("random_prefix_length", &random_prefix_length.to_string());
            }
        }
    }

    fn upstream(&mut self, upstream: &UpstreamConfig) {
        let settings = &upstream.settings;
        let name = &upstream.name;
        self.header(&if name.contains('.') {
            format!("[upstream.\"{name}\"]")
        } else {
            format!("[upstream.{name}]")
        });
        self.line("servers", &list(&settings.servers));
        let time = |duration| quoted(&format_duration(duration));
        self.line("connect_timeout", &time(settings.connect_timeout));
        self.line("response_timeout", &time(settings.response_timeout));
        self.line("tunnel_timeout", &time(settings.tunnel_timeout));
        self.line("keepalive", &settings.keepalive.to_string());
        self.line("idle_timeout", &time(settings.idle_timeout));
        self.line("max_fails", &settings.fails_max.to_string());
        self.line("fail_timeout", &time(settings.fail_timeout));
        match settings.inflight_max {
            Some(max) => self.line("max_inflight", &max.to_string()),
            None => self.text.push_str("# max_inflight: no limit\n"),
        }
        self.line("traceparent", &quoted(TRACEPARENTS.word(settings.traceparent)));
        match &settings.health {
            Some(health) => {
                let mut entries = vec![("path", quoted(&health.path))];
                if let Some(host) = &health.host {
                    entries.push(("host", quoted(host)));
                }
                entries.extend([
                    ("every", time(health.every)),
                    ("timeout", time(health.timeout)),
                    ("status", health.status.to_string()),
                ]);
                self.line("health", &table(&entries));
            }
            None => self.text.push_str("# health: off\n"),
        }
        let is_tls = |server: &ServerAddress| matches!(server, ServerAddress::Tcp { tls: true, .. });
        if settings.servers.iter().any(is_tls) {
            let tls = &settings.tls;
            let mut entries = vec![("verify", tls.verify.to_string())];
            entries.extend(tls.ca.as_ref().map(|ca| ("ca", quoted(&ca.path))));
            entries.extend(tls.server_name.as_ref().map(|name| ("server_name", quoted(name))));
            self.line("tls", &table(&entries));
        }
    }

    /// What both layers on Redis have.
    fn redis(&mut self, redis: &RedisLayerConfig) {
        let hosts: Vec<_> = redis.hosts.iter().map(redis_host).collect();
        self.line("hosts", &format!("[{}]", hosts.join(", ")));
        self.line("prefix", &quoted(&redis.prefix));
        self.line("symmetric_encryption_keys", &list(&redis.symmetric_encryption_keys));
        self.line("serializer_format", &quoted(SERIALIZER_FORMATS.word(redis.serializer_format)));
    }

    fn route(&mut self, route: &RouteConfig) {
        self.header("[[route]]");
        self.line("name", &quoted(&route.name));
        self.line(route.pattern_key.as_str(), &quoted(route.pattern.as_str()));
        self.line("handler", &quoted(route.handler.word()));
        self.line("hosts", &list(&route.hosts));
        if route.handler.takes() != Takes::Plain {
            self.line("origins", &list(&route.origins.patterns));
            self.line("no_origin", &quoted(NO_ORIGIN.word(route.origins.no_origin)));
        }
        if route.handler.takes() == Takes::WebSocket {
            let every = quoted(&format_duration(route.ping.every));
            let timeout = quoted(&format_duration(route.ping.timeout));
            self.line("ping", &table(&[("every", every), ("timeout", timeout)]));
            self.line("max_message", &size(route.message_bytes_max));
            let full = quoted(QUEUE_FULL.word(route.queue.full));
            self.line("queue", &table(&[("bytes", size(route.queue.bytes_max)), ("full", full)]));
            self.line("rate", &rate(route.rate.as_ref()));
            self.line("max_age", &duration_or_off(route.age_max));
            self.line("idle", &duration_or_off(route.idle_max));
            self.line("subprotocols", &list(&route.subprotocols));
        }
        match &route.handler {
            HandlerConfig::Room(room) => self.room(room),
            HandlerConfig::Echo => (),
            HandlerConfig::Proxy(proxy) => self.proxy(proxy),
            HandlerConfig::Static(files) => {
                self.line("root", &quoted(&files.root.display().to_string()));
                self.line("index", if files.index { "true" } else { "false" });
                self.files(files);
            }
            HandlerConfig::Respond(respond) => self.respond(respond),
        }
    }

    fn proxy(&mut self, proxy: &ProxyConfig) {
        self.line("upstream", &quoted(&proxy.upstream));
        self.line("max_body", &quoted(&format_size(proxy.body_bytes_max)));
        if let Some(files) = &proxy.try_files {
            self.line("try_files", &quoted(&files.root.display().to_string()));
            self.files(files);
        }
    }

    /// All but the folder.
    fn files(&mut self, files: &Files) {
        let words: Vec<_> = files.precompressed.iter().map(|&form| COMPRESSIONS.word(form)).collect();
        self.line("precompressed", &list(&words));
        if let Some(cache_control) = &files.cache_control {
            // The rules let nothing but ASCII through.
            self.line("cache_control", &quoted(cache_control.to_str().unwrap_or_default()));
        }
    }

    fn room(&mut self, room: &Room) {
        if let Some(group) = &room.group {
            self.line("group", &quoted(group.as_str()));
        }
        self.line("format", &quoted(FORMATS.word(room.format)));
        self.line("publish", if room.publish { "true" } else { "false" });
        let pick = |pick: &[String]| match room.format {
            Format::Json | Format::Text => Some(("pick", list(pick))),
            Format::Raw => None,
        };
        if room.publish {
            let mut receive = vec![("type", quoted(&room.receive.kind))];
            receive.extend(pick(&room.receive.pick));
            if room.receive.reply_channel {
                receive.push(("reply_channel", "true".to_owned()));
            }
            self.line("receive", &table(&receive));
        }
        let events: Vec<_> = room
            .deliver
            .iter()
            .map(|deliver| {
                let entry: Vec<_> = pick(&deliver.pick).into_iter().collect();
                (quoted(&deliver.kind), table(&entry))
            })
            .collect();
        self.line("deliver", &table(&events));
        if !room.direct.is_empty() {
            self.line("direct", &list(&room.direct));
        }
        let announced = [("connect", &room.announce.connect), ("disconnect", &room.announce.disconnect)];
        let announced: Vec<_> =
            announced.into_iter().filter_map(|(key, kind)| Some((key, quoted(kind.as_ref()?)))).collect();
        if !announced.is_empty() {
            self.line("announce", &table(&announced));
        }
        if room.format == Format::Text {
            self.line("welcome", &quoted(room.welcome.as_deref().unwrap_or_default()));
            self.line("username", &quoted(room.username.as_str()));
        }
    }

    fn respond(&mut self, respond: &Respond) {
        self.line("status", &respond.status.as_u16().to_string());
        if let Some(location) = respond.headers.get(header::LOCATION) {
            self.line("location", &quoted(&String::from_utf8_lossy(location.as_bytes())));
        }
        self.line("headers", &headers(&respond.headers));
        self.line("body", &quoted(&String::from_utf8_lossy(&respond.body)));
    }
}

fn redis_host(host: &RedisHost) -> String {
    match host {
        RedisHost::Server(server) => redis_server(server),
        RedisHost::Sentinel(sentinel) => redis_sentinel(sentinel),
        RedisHost::Cluster(cluster) => redis_cluster(cluster),
    }
}

/// A URL, or a table when that cannot say it all.
fn redis_server(server: &RedisServer) -> String {
    let url = quoted(&server.to_string());
    let more = keywords(server);
    if more.is_empty() {
        return url;
    }
    let address = [("address", url)];
    table(&address.into_iter().chain(more).collect::<Vec<_>>())
}

fn redis_sentinel(sentinel: &Sentinel) -> String {
    let sentinels = sentinel.sentinels.iter().map(|server| match &server.address {
        RedisAddress::Tcp(host, port) => format!("[{}, {port}]", quoted(host)),
        RedisAddress::Unix(path) => quoted(path),
    });
    let sentinels = sentinels.collect::<Vec<_>>().join(", ");
    let mut entries =
        vec![("sentinels", format!("[{sentinels}]")), ("master_name", quoted(&sentinel.master_name))];
    if let Some(server) = sentinel.sentinels.first()
        && let own = all_keywords(server)
        && !own.is_empty()
    {
        entries.push(("sentinel_kwargs", table(&own)));
    }
    entries.extend(all_keywords(&sentinel.master));
    table(&entries)
}

fn redis_cluster(cluster: &Cluster) -> String {
    let mut entries = vec![("cluster", list(&cluster.nodes)), ("sharded", cluster.sharded.to_string())];
    entries.extend(cluster.nodes.first().map(keywords).unwrap_or_default());
    table(&entries)
}

/// What a URL would have said, and the rest.
fn all_keywords(server: &RedisServer) -> Vec<(&'static str, String)> {
    let mut entries = Vec::new();
    entries.extend(server.login.user.as_ref().map(|user| ("username", quoted(user))));
    entries
        .extend(server.login.password.as_ref().map(|password| ("password", quoted(&password.to_string()))));
    if server.database != 0 {
        entries.push(("db", server.database.to_string()));
    }
    if server.tls.is_some() {
        entries.push(("ssl", "true".to_owned()));
    }
    entries.extend(keywords(server));
    entries
}

/// What a URL does not say, as far as it is not the default.
fn keywords(server: &RedisServer) -> Vec<(&'static str, String)> {
    let mut entries = Vec::new();
    if let Some(tls) = &server.tls {
        match tls.verify {
            Verify::Name => (),
            Verify::Authority => entries.push(("ssl_check_hostname", "false".to_owned())),
            Verify::Nothing => entries.push(("ssl_cert_reqs", quoted("none"))),
        }
        entries.extend(tls.ca.as_ref().map(|ca| ("ssl_ca_certs", quoted(&ca.path))));
        entries.extend(tls.ca_data.as_ref().map(|pem| ("ssl_ca_data", quoted(pem))));
        if let Some(identity) = &tls.identity {
            entries.push(("ssl_certfile", quoted(&identity.cert)));
            entries.push(("ssl_keyfile", quoted(&identity.key)));
        }
    }
    if server.connect_timeout != RedisServer::CONNECT_TIMEOUT {
        entries.push(("socket_connect_timeout", quoted(&format_duration(server.connect_timeout))));
    }
    if server.keepalive {
        entries.push(("socket_keepalive", "true".to_owned()));
    }
    entries.extend(server.client_name.as_ref().map(|name| ("client_name", quoted(name))));
    entries
}

fn headers(headers: &HeaderMap) -> String {
    let other = headers.iter().filter(|(name, _)| *name != header::LOCATION);
    let entries: Vec<_> = other
        .map(|(name, value)| (quoted(name.as_str()), quoted(&String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    table(&entries)
}

fn rate(rate: Option<&Rate>) -> String {
    let Some(rate) = rate else { return quoted("off") };
    table(&[
        ("messages", rate.messages.to_string()),
        ("per", quoted(&format_duration(rate.per))),
        ("burst", rate.burst.to_string()),
        ("over", quoted(OVER_RATE.word(rate.over))),
    ])
}

fn duration_or_off(duration: Option<Duration>) -> String {
    quoted(&duration.map_or_else(|| "off".to_owned(), format_duration))
}

fn size(bytes: usize) -> String {
    quoted(&format_size(u64::try_from(bytes).unwrap_or(u64::MAX)))
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn table(entries: &[(impl AsRef<str>, String)]) -> String {
    if entries.is_empty() {
        return "{}".to_owned();
    }
    let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{} = {value}", key.as_ref())).collect();
    format!("{{ {} }}", entries.join(", "))
}

/// A string of TOML: a literal one for patterns, so that they read as they were written, a basic one otherwise.
fn quoted(text: &str) -> String {
    let plain = |ch: char| !ch.is_control() && ch != '\'';
    if text.contains(['\\', '"']) && text.chars().all(plain) {
        return format!("'{text}'");
    }
    let mut out = String::from("\"");
    for ch in text.chars() {
        match ch {
            '"' | '\\' => out.extend(['\\', ch]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ch if ch.is_control() => {
                // Writing to a `String` does not fail.
                let _infallible = write!(out, "\\u{:04X}", u32::from(ch));
            }
            ch => out.push(ch),
        }
    }
    out.push('"');
    out
}
