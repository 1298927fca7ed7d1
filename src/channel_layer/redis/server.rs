//! What is known of the Redis servers before anybody has talked to one. Pure.

use core::time::Duration;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::channel_layer::redis::{InvalidRedisUrl, RedisUrl, Secret};
use crate::tls::{CaFile, Identity, Verify};

/// One entry of `hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisHost {
    /// A server.
    Server(RedisServer),
    /// Whichever server is the master just now.
    Sentinel(Sentinel),
    /// A Redis Cluster, for pub/sub alone.
    Cluster(Cluster),
}

impl RedisHost {
    /// Where it is, without anything secret, for messages.
    pub fn address(&self) -> String {
        match self {
            Self::Server(server) => server.address.to_string(),
            Self::Sentinel(sentinel) => {
                format!("{} of {}", sentinel.master_name, addresses(&sentinel.sentinels))
            }
            Self::Cluster(cluster) => format!("the cluster of {}", addresses(&cluster.nodes)),
        }
    }

    /// How to connect and log in, but for the address of a master or of other nodes. `None` for a cluster without
    /// any node.
    pub fn server(&self) -> Option<&RedisServer> {
        match self {
            Self::Server(server) => Some(server),
            Self::Sentinel(sentinel) => Some(&sentinel.master),
            Self::Cluster(cluster) => cluster.nodes.first(),
        }
    }
}

fn addresses(servers: &[RedisServer]) -> String {
    let addresses: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
    addresses.join(", ")
}

impl Default for RedisHost {
    /// `redis://localhost:6379/0`, as in `channels_redis`.
    fn default() -> Self {
        Self::Server(RedisServer::default())
    }
}

/// A URL without options: what those mean is known to the configuration.
impl FromStr for RedisHost {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        let url: RedisUrl = text.parse()?;
        if url.options.is_empty() {
            return Ok(Self::Server(url.into()));
        }
        Err(InvalidRedisUrl::Options)
    }
}

impl From<RedisServer> for RedisHost {
    fn from(server: RedisServer) -> Self {
        Self::Server(server)
    }
}

/// For messages: without passwords.
impl fmt::Display for RedisHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => server.fmt(f),
            Self::Sentinel(_) | Self::Cluster(_) => f.write_str(&self.address()),
        }
    }
}

/// A Redis server and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    /// Where it is.
    pub address: RedisAddress,
    /// How to talk TLS with it, if at all.
    pub tls: Option<RedisTls>,
    /// As whom to log in.
    pub login: Login,
    /// The number of the database. Pub/sub does not look at it.
    pub database: u32,
    /// Until a connection stands, the login included.
    pub connect_timeout: Duration,
    /// Whether the kernel looks for peers that are gone. We do that ourselves, too, and sooner.
    pub keepalive: bool,
    /// What Redis shows for the connection in `CLIENT LIST`.
    pub client_name: Option<String>,
}

impl RedisServer {
    /// The default of `connect_timeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

    /// A server that is as redis-py has it when nothing more is said.
    pub fn new(address: RedisAddress) -> Self {
        Self {
            address,
            tls: None,
            login: Login::default(),
            database: 0,
            connect_timeout: Self::CONNECT_TIMEOUT,
            keepalive: false,
            client_name: None,
        }
    }
}

impl Default for RedisServer {
    /// `redis://localhost:6379/0`, as in `channels_redis`.
    fn default() -> Self {
        Self::new(RedisAddress::Tcp("localhost".to_owned(), 6379))
    }
}

/// What a URL says on its own. Its options are for whoever knows their words.
impl From<RedisUrl> for RedisServer {
    fn from(url: RedisUrl) -> Self {
        let login = Login { user: url.user, password: url.password };
        let (tls, database) = (url.tls.then(RedisTls::default), url.database.unwrap_or_default());
        Self { tls, login, database, ..Self::new(url.address) }
    }
}

/// What of a user is not written as it is: all that RFC 3986 does not call unreserved.
const IN_USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What of a path is not written as it is: what would end it, and what an encoded one is made of.
const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

/// As a URL that reads as the same, but for the password, which is masked.
impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = utf8_percent_encode(self.login.user.as_deref().unwrap_or_default(), IN_USER);
        let login = match (&self.login.user, &self.login.password) {
            (None, None) => String::new(),
            (Some(_), None) => format!("{user}@"),
            (_, Some(_)) => format!("{user}:***@"),
        };
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match &self.address {
            RedisAddress::Tcp(..) => write!(f, "{scheme}://{login}{}/{}", self.address, self.database),
            RedisAddress::Unix(path) => {
                let path = utf8_percent_encode(path, IN_PATH);
                write!(f, "unix://{login}{path}?db={}", self.database)
            }
        }
    }
}

/// As whom to log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user of the access list, when one was named.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedisAddress {
    /// A name or an address, an IPv6 address without its brackets, and the port.
    Tcp(String, u16),
    /// The path of a UNIX socket.
    Unix(String),
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// How to talk TLS with a server: the keywords `ssl_…` of redis-py.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// What of its certificate is checked.
    pub verify: Verify,
    /// The authorities that count; with none here and below those of the system.
    pub ca: Option<CaFile>,
    /// More of them, in PEM.
    pub ca_data: Option<String>,
    /// The certificate that we show.
    pub identity: Option<Identity>,
}

impl RedisTls {
    /// All authorities that count, if any are named.
    pub fn authorities(&self) -> Option<CaFile> {
        let Some(data) = &self.ca_data else { return self.ca.clone() };
        let (path, pem) = match &self.ca {
            Some(CaFile { path, pem }) => (path.clone(), format!("{pem}\n{data}")),
            None => ("ssl_ca_data".to_owned(), data.clone()),
        };
        Some(CaFile { path, pem })
    }
}

/// A master that Sentinels watch over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// Who is asked for the master, at least one.
    pub sentinels: Vec<RedisServer>,
    /// What they call it.
    pub master_name: String,
    /// How to talk to it; its address is theirs to say.
    pub master: RedisServer,
}

/// A Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Some of its nodes, at least one, which differ in nothing but their addresses. They know the others.
    pub nodes: Vec<RedisServer>,
    /// Whether a group is on the node that has its slot alone. Python's layer cannot hear it there.
    pub sharded: bool,
}
