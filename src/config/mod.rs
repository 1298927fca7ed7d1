//! From the text of `routes.toml` to plain values, or to what is wrong with it.
//!
//! Pure: the caller reads the file, and [`Secrets`] reads what the file keeps elsewhere.

mod file;
mod table;
mod compile;
mod diagnostic;
mod units;
mod print;
mod starter;
mod read_files;

use core::time::Duration;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use crate::channel_layer;
use crate::channel_layer::{
    Capacities, ChannelPattern, CoreConfig, PubSubConfig, RedisHost, Secret, Serializer, SerializerFormat,
};
use crate::files::Files;
use crate::handler::{Respond, Room};
use crate::listener::{Address, Certificate, ClientAuth, ProxyProtocol};
use crate::request::{
    ForwardedHeaders, HeadSizes, HostPattern, LimitSettings, OriginPolicy, Takes, TrustedProxies,
    TrustedProxy,
};
use crate::route::Pattern;
use crate::session::{Ping, Queue, Rate};
use crate::upstream;

pub use self::diagnostic::{Code, Diagnostic, Diagnostics, Severity};
pub use self::print::print;
pub use self::read_files::ReadFiles;
pub use self::starter::STARTER;

use self::diagnostic::Findings;
use self::read_files::Noting;

/// Reads the text of a file; `name` is what messages call it.
///
/// # Errors
///
/// All findings, when at least one of them refuses the file: the fault of who edited it.
pub fn load(name: &str, text: &str, secrets: &dyn Secrets) -> Result<Loaded, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let findings = Findings::default();
    let secrets = Noting::new(secrets);
    let config =
        file::read(text, &findings).and_then(|file| compile::compile(&file, text, &secrets, &findings));
    let refused = findings.has_errors();
    let diagnostics = Diagnostics::new(name, text, findings);
    match config {
        Some(config) if !refused => Ok(Loaded { config, files: secrets.into_files(), warnings: diagnostics }),
        _ => Err(diagnostics),
    }
}

/// A file that is taken.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// The other files that this comes from.
    pub files: ReadFiles,
    /// What its author should look at all the same; may be empty.
    pub warnings: Diagnostics,
}

/// Reads the secrets and certificates that a file keeps elsewhere, and looks for what it counts on beside them.
pub trait Secrets {
    /// The text of the secret, without a line end after it.
    ///
    /// # Errors
    ///
    /// Why there is none, as half a sentence without anything secret in it, such as "it is not set".
    fn read(&self, source: &SecretSource) -> Result<String, String>;

    /// Whether there is a folder at this path. Who cannot look has nothing to tell.
    ///
    /// # Errors
    ///
    /// Why there is none, as half a sentence, such as "it does not exist".
    fn find_folder(&self, _path: &str) -> Result<(), String> {
        Ok(())
    }

    /// Whether the system has authorities to check servers by. Who cannot look has nothing to tell.
    ///
    /// # Errors
    ///
    /// Why there are none, as a sentence without a full stop.
    fn find_authorities(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<F: Fn(&SecretSource) -> Result<String, String>> Secrets for F {
    fn read(&self, source: &SecretSource) -> Result<String, String> {
        self(source)
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// `{ env = "NAME" }`: in an environment variable.
    Env(String),
    /// `{ file = "path" }`: in a file.
    File(String),
}

/// What a file says, with every default filled in.
#[derive(Debug)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<ListenerConfig>,
    /// `[trust]`.
    pub trust: TrustConfig,
    /// `[layer]`.
    pub layer: LayerConfig,
    /// `[upstream.NAME]` in file order.
    pub upstreams: Vec<UpstreamConfig>,
    /// `[[route]]` in file order, at least one.
    pub routes: Vec<RouteConfig>,
}

/// The process as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    /// How many workers hold sockets; `None` for as many as processor affinity and cgroup allow.
    pub workers: Option<NonZeroUsize>,
    /// What is logged.
    pub log: LogConfig,
    /// How the process ends.
    pub drain: DrainConfig,
    /// Limits over all routes, each at least 1.
    pub limits: LimitSettings,
    /// The largest head of a request.
    pub sizes: HeadSizes,
}

/// `server.log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How much is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// How much is logged, each level with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Our own faults.
    Error,
    /// What someone should look at.
    Warn,
    /// One line a handshake and one a close.
    Info,
    /// What clients do wrong.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `server.drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// Over how long the closes are spread when the process ends.
    pub shutdown: Duration,
    /// How long readiness fails before the first close.
    pub grace: Duration,
}

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Unique; a metric label.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// The permissions of a UNIX socket; `None` for what the umask leaves.
    pub mode: Option<u32>,
    /// Whether it takes PROXY headers.
    pub proxy_protocol: ProxyProtocol,
    /// The certificates, the first for clients that ask for none of the others; none for connections in clear.
    pub tls: Vec<Certificate>,
    /// Whether HTTP/2 is offered in TLS handshakes.
    pub http2: bool,
    /// Whose certificates clients show, if they are to show any.
    pub client_auth: Option<ClientAuth>,
}

impl ListenerConfig {
    /// A listener in clear with no more than it needs.
    pub fn plain(name: &str, address: Address) -> Self {
        Self {
            name: name.to_owned(),
            address,
            mode: None,
            proxy_protocol: ProxyProtocol::Off,
            tls: Vec::new(),
            http2: false,
            client_auth: None,
        }
    }
}

/// `[trust]`: whom to believe who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustConfig {
    /// The networks of trusted proxies.
    pub proxies: Vec<TrustedProxy>,
    /// The headers that they set.
    pub headers: ForwardedHeaders,
}

impl TrustConfig {
    /// The networks as a set to ask.
    pub fn trusted_proxies(&self) -> TrustedProxies {
        self.proxies.iter().copied().collect()
    }
}

/// `[layer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerConfig {
    /// `memory`.
    Memory,
    /// `channels_redis.pubsub`.
    PubSub(RedisLayerConfig),
    /// `channels_redis.core`.
    Core {
        /// What it shares with the other.
        redis: RedisLayerConfig,
        /// How long a message may wait, in whole seconds.
        expiry: Duration,
        /// How long a membership lasts that is not renewed, in whole seconds.
        group_expiry: Duration,
        /// How many messages may wait for a process.
        capacity: u64,
        /// The same for channels that a pattern matches; the first that does counts.
        channel_capacity: Vec<(ChannelPattern, u64)>,
        /// How many random bytes stand in front of a message.
        random_prefix_length: usize,
    },
}

/// What both layers on Redis have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisLayerConfig {
    /// The servers, at least one. Their order decides which group is where.
    pub hosts: Vec<RedisHost>,
    /// What stands in front of every Redis channel or key.
    pub prefix: String,
    /// The first encrypts, any decrypts; none for messages in clear.
    pub symmetric_encryption_keys: Vec<Secret>,
    /// How messages are written.
    pub serializer_format: SerializerFormat,
}

impl RedisLayerConfig {
    fn serializer(&self) -> Serializer {
        Serializer::new(self.serializer_format, &self.symmetric_encryption_keys)
    }
}

impl LayerConfig {
    /// The same in the terms of the channel layer.
    pub fn to_channel_layer(&self) -> channel_layer::LayerConfig {
        match self {
            Self::Memory => channel_layer::LayerConfig::Memory,
            Self::PubSub(redis) => channel_layer::LayerConfig::PubSub(PubSubConfig {
                hosts: redis.hosts.clone(),
                prefix: redis.prefix.clone(),
                serializer: redis.serializer(),
                ..PubSubConfig::default()
            }),
            Self::Core { redis, expiry, group_expiry, capacity, channel_capacity, random_prefix_length } => {
                channel_layer::LayerConfig::Core(CoreConfig {
                    hosts: redis.hosts.clone(),
                    prefix: redis.prefix.clone(),
                    serializer: redis.serializer(),
                    expiry: expiry.as_secs(),
                    group_expiry: group_expiry.as_secs(),
                    capacities: Capacities::new(*capacity, channel_capacity.clone()),
                    random_prefix_length: *random_prefix_length,
                    ..CoreConfig::default()
                })
            }
        }
    }
}

/// `[upstream.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Unique; a metric label.
    pub name: String,
    /// What it says.
    pub settings: upstream::Settings,
}

/// `[[route]]`, with what `[defaults]` gave it.
#[derive(Debug)]
pub struct RouteConfig {
    /// Unique; a metric label.
    pub name: String,
    /// The key that the pattern stands under.
    pub pattern_key: PatternKey,
    /// The paths that it takes.
    pub pattern: Pattern,
    /// The hosts that it serves.
    pub hosts: Vec<HostPattern>,
    /// The origins of WebSocket handshakes that it takes.
    pub origins: OriginPolicy,
    /// Pings of the server.
    pub ping: Ping,
    /// The longest message of a client, in bytes, over all its fragments.
    pub message_bytes_max: usize,
    /// What waits to be written to one socket.
    pub queue: Queue,
    /// How much one client may send.
    pub rate: Option<Rate>,
    /// How old a socket may get.
    pub age_max: Option<Duration>,
    /// How long nothing may be said on a socket.
    pub idle_max: Option<Duration>,
    /// The subprotocols it speaks; the order of what the client offers decides.
    pub subprotocols: Vec<String>,
    /// What it does with those it takes.
    pub handler: HandlerConfig,
}

/// The two forms of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatternKey {
    /// `path`: the whole path, leading slash included.
    Path,
    /// `re_path`: as in Django.
    RePath,
}

impl PatternKey {
    /// The key as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::RePath => "re_path",
        }
    }
}

/// The keys of `handler = "proxy"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The name of one of the upstreams.
    pub upstream: String,
    /// The longest body of a request, in bytes.
    pub body_bytes_max: u64,
    /// Files that are answered in its place; a relative root is beside the file.
    pub try_files: Option<Files>,
}

/// `handler` and the keys that belong to it.
#[derive(Debug)]
pub enum HandlerConfig {
    /// `room`.
    Room(Room),
    /// `echo`.
    Echo,
    /// `proxy`.
    Proxy(ProxyConfig),
    /// `static`; a relative root is beside the file.
    Static(Files),
    /// `respond`.
    Respond(Respond),
}

impl HandlerConfig {
    /// The word after `handler =`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Room(_) => "room",
            Self::Echo => "echo",
            Self::Proxy(_) => "proxy",
            Self::Static(_) => "static",
            Self::Respond(_) => "respond",
        }
    }

    /// The kind of requests that it takes.
    pub fn takes(&self) -> Takes {
        match self {
            Self::Room(_) | Self::Echo => Takes::WebSocket,
            Self::Proxy(_) => Takes::Both,
            Self::Static(_) | Self::Respond(_) => Takes::Plain,
        }
    }
}

#[cfg(test)]
mod tests;
