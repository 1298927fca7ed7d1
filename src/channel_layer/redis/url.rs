//! Addresses of Redis servers.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::channel_layer::redis::encryption::Secret;

/// Where a Redis server is and as whom to log in: `redis://[user[:password]@]host[:port][/db]`.
///
/// Rule: the URL form of `hosts` in `channels_redis`. User and password may be percent-encoded; the port is
/// 6379 and the database 0 when left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The number of the database. Pub/sub does not look at it.
    pub database: u32,
    /// The user of the access list, when one was named.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

impl RedisUrl {
    /// Host and port, without anything secret, for the log.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Default for RedisUrl {
    /// `redis://localhost:6379/0`, as in `channels_redis`.
    fn default() -> Self {
        Self { host: "localhost".to_owned(), port: 6379, database: 0, user: None, password: None }
    }
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(InvalidRedisUrl::NoScheme);
        };
        match scheme {
            "redis" => {}
            "rediss" => return Err(InvalidRedisUrl::NotYet("TLS to Redis (`rediss://`)")),
            "unix" => return Err(InvalidRedisUrl::NotYet("a UNIX socket (`unix://`)")),
            "sentinel" | "redis+sentinel" | "rediss+sentinel" => {
                return Err(InvalidRedisUrl::NotYet("Redis Sentinel"));
            }
            _ => return Err(InvalidRedisUrl::Scheme(scheme.to_owned())),
        }
        if rest.contains(['?', '#']) {
            return Err(InvalidRedisUrl::Options);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last `@`, as redis-py does: a password may hold one that nobody encoded.
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?.map(Secret::new)),
            None => (None, None),
        };
        let database = match path {
            "" => 0,
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| InvalidRedisUrl::Database(path.to_owned()))?
            }
            _ => return Err(InvalidRedisUrl::Database(path.to_owned())),
        };
        Ok(Self { host, port, database, user, password })
    }
}

/// The URL again, with the password masked.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = match (&self.user, &self.password) {
            (None, None) => String::new(),
            (Some(user), None) => format!("{user}@"),
            (user, Some(_)) => format!("{}:***@", user.as_deref().unwrap_or_default()),
        };
        write!(f, "redis://{login}{}/{}", self.address(), self.database)
    }
}

/// Why a text is no address of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisUrl {
    /// It does not begin with `redis://`.
    #[error("a Redis host is written as a URL, `redis://host:6379/0`")]
    NoScheme,
    /// It begins with something else.
    #[error("`{0}://` is no scheme of a Redis host, use `redis://`")]
    Scheme(String),
    /// A form that `channels_redis` knows and this version does not.
    #[error("{0} is not supported yet, use `redis://host:6379/0`")]
    NotYet(&'static str),
    /// There are options behind a `?`, or a fragment.
    #[error("options behind `?` or `#` in a Redis URL are not supported; the database is written as `/0`")]
    Options,
    /// There is no host.
    #[error("the Redis URL names no host")]
    NoHost,
    /// The host cannot be one.
    #[error("`{0}` is no host name or address (an IPv6 address stands in brackets)")]
    Host(String),
    /// The port is none.
    #[error("`{0}` is no port, it must be a number from 1 to 65535")]
    Port(String),
    /// The part after the slash is no number.
    #[error("`{0}` is no database number")]
    Database(String),
    /// The percent-encoding of user or password is no UTF-8.
    #[error("the user or the password of the Redis URL is not UTF-8 when percent-decoded")]
    Login,
}

fn host_and_port(place: &str) -> Result<(String, u16), InvalidRedisUrl> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, tail) = rest.split_once(']').ok_or_else(|| InvalidRedisUrl::Host(place.to_owned()))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(InvalidRedisUrl::Host(place.to_owned()));
        }
        match tail {
            "" => (host, None),
            _ => match tail.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(InvalidRedisUrl::Host(place.to_owned())),
            },
        }
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    if host.is_empty() {
        return Err(InvalidRedisUrl::NoHost);
    }
    if host.chars().any(|ch| ch.is_whitespace() || ch.is_control()) {
        return Err(InvalidRedisUrl::Host(host.to_owned()));
    }
    let port = match port {
        None | Some("") => 6379,
        Some(digits) => match digits.parse() {
            Ok(port) if port != 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => port,
            _ => return Err(InvalidRedisUrl::Port(digits.to_owned())),
        },
    };
    Ok((host.to_owned(), port))
}

fn decoded(text: &str) -> Result<Option<String>, InvalidRedisUrl> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| InvalidRedisUrl::Login)?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_form_of_hosts_is_read() {
        let cases = [
            // text, shown with defaults and without secrets
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://localhost:6380", "redis://localhost:6380/0"),
            ("redis://10.0.0.1:6379/3", "redis://10.0.0.1:6379/3"),
            ("redis://[::1]:7000/", "redis://[::1]:7000/0"),
            ("redis://[::1]", "redis://[::1]:6379/0"),
            ("redis://:secret@redis:6379/0", "redis://:***@redis:6379/0"),
            ("redis://app:p%40ss@redis", "redis://app:***@redis:6379/0"),
            ("redis://app@redis", "redis://app@redis:6379/0"),
        ];
        for (text, shown) in cases {
            assert_eq!(text.parse::<RedisUrl>().unwrap().to_string(), shown, "{text}");
        }
        let url: RedisUrl = "redis://a%3Ab:p%40s@s@redis".parse().unwrap();
        assert_eq!(
            (url.user.as_deref(), url.password.as_ref().map(Secret::reveal)),
            (Some("a:b"), Some("p@s@s"))
        );
        assert!(!format!("{url:?}").contains("p@s"), "{url:?}");
    }

    #[test]
    fn what_is_no_redis_url_is_refused_with_the_reason() {
        use InvalidRedisUrl as E;
        let cases = [
            ("localhost:6379", E::NoScheme),
            ("http://localhost", E::Scheme("http".into())),
            ("rediss://localhost", E::NotYet("TLS to Redis (`rediss://`)")),
            ("unix:///run/redis.sock?db=0", E::NotYet("a UNIX socket (`unix://`)")),
            ("sentinel://localhost", E::NotYet("Redis Sentinel")),
            ("redis://localhost/0?socket_timeout=5", E::Options),
            ("redis://", E::NoHost),
            ("redis://:6379", E::NoHost),
            ("redis://a b", E::Host("a b".into())),
            ("redis://[::g]:1", E::Host("[::g]:1".into())),
            ("redis://[::1", E::Host("[::1".into())),
            ("redis://::1", E::NoHost),
            ("redis://h:70000", E::Port("70000".into())),
            ("redis://h:0", E::Port("0".into())),
            ("redis://h:+5", E::Port("+5".into())),
            ("redis://h/one", E::Database("one".into())),
            ("redis://%ff@h", E::Login),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<RedisUrl>(), Err(error), "{text}");
        }
    }
}
