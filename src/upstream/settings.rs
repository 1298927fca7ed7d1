//! What `[upstream.NAME]` says. Pure.

use core::time::Duration;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::tls::CaFile;

/// How an upstream is reached, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its servers, 1 to [`Settings::SERVERS_MAX`].
    pub servers: Vec<ServerAddress>,
    /// Until a connection to one server stands, TLS included.
    pub connect_timeout: Duration,
    /// The longest silence, before the answer's head and between pieces of its body.
    pub response_timeout: Duration,
    /// The longest silence of a tunnel, in both directions together.
    pub tunnel_timeout: Duration,
    /// Idle connections that are kept, of each server in each worker.
    pub keepalive: usize,
    /// For how long.
    pub idle_timeout: Duration,
    /// So many failures within [`Settings::fail_timeout`] take a server out; 0 for never.
    pub fails_max: u32,
    /// For how long it is then out.
    pub fail_timeout: Duration,
    /// The most requests and tunnels at once, over all servers and workers; `None` for no limit.
    pub inflight_max: Option<usize>,
    /// What becomes of a request that belongs to no trace.
    pub traceparent: Traceparent,
    /// Asks the servers how they are, unless it is `None`.
    pub health: Option<HealthCheck>,
    /// For `https` servers.
    pub tls: TlsSettings,
}

impl Settings {
    /// One word has a bit for each server.
    pub const SERVERS_MAX: usize = 64;

    /// The defaults, for these servers.
    ///
    /// Idle connections are kept for less than the 5 s after which uvicorn closes them: a POST on a connection
    /// that is being closed cannot be repeated.
    pub fn new(servers: Vec<ServerAddress>) -> Self {
        Self {
            servers,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_mins(1),
            tunnel_timeout: Duration::from_mins(1),
            keepalive: 32,
            idle_timeout: Duration::from_secs(4),
            fails_max: 1,
            fail_timeout: Duration::from_secs(10),
            inflight_max: None,
            traceparent: Traceparent::Create,
            health: None,
            tls: TlsSettings::default(),
        }
    }
}

/// `traceparent`: what becomes of a request that belongs to no trace (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traceparent {
    /// A trace begins here, and is sampled.
    Create,
    /// Whether there is one is for the application to say.
    Pass,
}

/// `health`: a GET that each server answers while it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path, with its leading slash.
    pub path: String,
    /// What it says as `Host`; `None` for the server's own address.
    pub host: Option<String>,
    /// From one to the next.
    pub every: Duration,
    /// From the connect to the answer's head.
    pub timeout: Duration,
    /// The status of a server that is well.
    pub status: u16,
}

/// `tls`: whom to take for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The authorities that count, in PEM; `None` for those of the system.
    pub ca: Option<CaFile>,
    /// The name that a server's certificate has; `None` for the host of its URL.
    pub server_name: Option<String>,
    /// Whether certificates are checked at all.
    pub verify: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { ca: None, server_name: None, verify: true }
    }
}

/// Where a server is: `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// Over TCP.
    Tcp {
        /// A name or an address, IPv6 without its brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether TLS is spoken.
        tls: bool,
    },
    /// Over a UNIX socket.
    Unix(PathBuf),
}

impl FromStr for ServerAddress {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        if let Some(path) = text.strip_prefix("unix:") {
            // A URL as nginx writes it ends in a colon before the path of the request.
            let path = path.strip_prefix("//").unwrap_or(path);
            let fits = path.starts_with('/') && path.len() <= UNIX_PATH_LEN_MAX && !path.contains('\0');
            return if fits { Ok(Self::Unix(path.into())) } else { Err(InvalidServer::Socket) };
        }
        let (tls, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            return Err(InvalidServer::Scheme);
        };
        let rest = match rest.split_once(['/', '?', '#']) {
            None => rest,
            Some((authority, "")) if rest.ends_with('/') => authority,
            Some(_) => return Err(InvalidServer::Path),
        };
        if rest.contains('@') {
            return Err(InvalidServer::User);
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(InvalidServer::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| InvalidServer::Host)?;
                (host, port)
            }
            None => rest.split_at_checked(rest.find(':').unwrap_or(rest.len())).unwrap_or((rest, "")),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => {
                // A number of Rust may begin with a plus.
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                port.parse().ok().filter(|port| digits && *port != 0).ok_or(InvalidServer::Port)?
            }
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(InvalidServer::Port),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(InvalidServer::Host);
        }
        Ok(Self::Tcp { host: host.to_ascii_lowercase(), port, tls })
    }
}

/// The longest path that the system takes, without the zero at its end.
const UNIX_PATH_LEN_MAX: usize = 107;

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                if host.contains(':') {
                    write!(out, "{scheme}://[{host}]:{port}")
                } else {
                    write!(out, "{scheme}://{host}:{port}")
                }
            }
            Self::Unix(path) => {
                let path = path.display().to_string();
                // Two slashes behind the colon would be read as those of a URL.
                let scheme = if path.starts_with("//") { "unix://" } else { "unix:" };
                write!(out, "{scheme}{path}")
            }
        }
    }
}

/// Why a text is no [`ServerAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServer {
    /// Neither of the schemes nor `unix:`.
    #[error("not the address of a server")]
    Scheme,
    /// More than scheme, host and port.
    #[error("the address of a server has no path")]
    Path,
    /// A user in front of the host.
    #[error("the address of a server has no user")]
    User,
    /// Neither a name nor an address.
    #[error("this is no host")]
    Host,
    /// Not 1 to 65535.
    #[error("this is no port")]
    Port,
    /// Not an absolute path of at most 107 bytes.
    #[error("this is no path of a socket")]
    Socket,
}

impl InvalidServer {
    /// What to write instead.
    pub fn help(self) -> &'static str {
        match self {
            Self::Scheme | Self::Host | Self::Port => {
                "write `http://127.0.0.1:8001`, `https://app.internal:8443` or `unix:/run/app.sock`"
            }
            Self::Path => "leave the path out: requests are passed on with the path they came with",
            Self::User => "leave the user out: what clients send as `Authorization` is passed on",
            Self::Socket => "write an absolute path of at most 107 bytes, such as `unix:/run/app.sock`",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_scheme_a_host_and_a_port() {
        let cases = [
            ("http://127.0.0.1:8001", Ok("http://127.0.0.1:8001")),
            ("http://App.Internal", Ok("http://app.internal:80")),
            ("https://app.internal/", Ok("https://app.internal:443")),
            ("https://[::1]:8443", Ok("https://[::1]:8443")),
            ("unix:/run/app.sock", Ok("unix:/run/app.sock")),
            ("unix:///run/app.sock", Ok("unix:/run/app.sock")),
            ("unix:////run/app.sock", Ok("unix:////run/app.sock")),
            ("127.0.0.1:8001", Err(InvalidServer::Scheme)),
            ("ws://127.0.0.1:8001", Err(InvalidServer::Scheme)),
            ("http://127.0.0.1:8001/app", Err(InvalidServer::Path)),
            ("http://127.0.0.1:8001?a", Err(InvalidServer::Path)),
            ("http://me@127.0.0.1:8001", Err(InvalidServer::User)),
            ("http://", Err(InvalidServer::Host)),
            ("http://[::g]:80", Err(InvalidServer::Host)),
            ("http://a b:80", Err(InvalidServer::Host)),
            ("http://a:0", Err(InvalidServer::Port)),
            ("http://a:65536", Err(InvalidServer::Port)),
            ("http://a:", Err(InvalidServer::Port)),
            ("https://a:+443", Err(InvalidServer::Port)),
            ("http://[::1]80", Err(InvalidServer::Port)),
            ("unix:app.sock", Err(InvalidServer::Socket)),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<ServerAddress>();
            let shown = parsed.as_ref().map(ToString::to_string).map_err(|error| *error);
            assert_eq!(shown, expected.map(str::to_owned), "{text}");
            if let Ok(shown) = shown {
                assert_eq!(shown.parse(), parsed, "{text}");
            }
        }
    }
}
