//! Addresses of Redis servers as URLs.

use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::channel_layer::redis::{RedisAddress, Secret};

/// `redis[s]://[user[:password]@]host[:port][/db][?options]` or `unix://[user[:password]@]/path[?options]`.
///
/// Rule: the URL form of `hosts` in `channels_redis`, which is that of redis-py. Everything may be
/// percent-encoded; the port is 6379 when left out. An option `db` counts before the path, an option
/// `username` or `password` only without one in front of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// Whether it begins with `rediss://`.
    pub tls: bool,
    /// Where the server is.
    pub address: RedisAddress,
    /// The number of the database, when one was said.
    pub database: Option<u32>,
    /// The user of the access list, when one was named.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The other options behind the `?`, each name once; the first counts. Their values may be secrets.
    pub options: Vec<(String, Secret)>,
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(InvalidRedisUrl::NoScheme);
        };
        let tls = match scheme {
            "redis" | "unix" => false,
            "rediss" => true,
            "sentinel" | "redis+sentinel" | "rediss+sentinel" => return Err(InvalidRedisUrl::Sentinel),
            _ => return Err(InvalidRedisUrl::Scheme(scheme.to_owned())),
        };
        if rest.contains('#') {
            return Err(InvalidRedisUrl::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = options(query)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last `@`, as redis-py does: a password may hold one that nobody encoded.
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let path = decoded(path)?;
        let (address, path) = if scheme == "unix" {
            if !place.is_empty() {
                return Err(InvalidRedisUrl::UnixHost(place.to_owned()));
            }
            (unix_socket(&path)?, String::new())
        } else {
            (host_and_port(place)?, path)
        };
        let (user, password) = login.map_or(("", ""), |login| login.split_once(':').unwrap_or((login, "")));
        let mut take = |name: &str| {
            let at = options.iter().position(|(known, _)| known == name)?;
            Some(options.remove(at).1)
        };
        let (username, secret, db) = (take("username"), take("password"), take("db"));
        let user = some(decoded(user)?).or_else(|| username.map(|user| user.reveal().to_owned()));
        let password = some(decoded(password)?).map(Secret::new).or(secret);
        let database = match db.as_ref().map_or(path.as_str(), Secret::reveal) {
            "" => None,
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| InvalidRedisUrl::Database(digits.to_owned()))?)
            }
            other => return Err(InvalidRedisUrl::Database(other.to_owned())),
        };
        Ok(Self { tls, address, database, user, password, options })
    }
}

impl RedisAddress {
    /// A host and a port.
    ///
    /// # Errors
    ///
    /// One of them cannot be that.
    pub fn tcp(host: &str, port: u16) -> Result<Self, InvalidRedisUrl> {
        let is_ip = host.parse::<Ipv6Addr>().is_ok();
        if host.is_empty() {
            return Err(InvalidRedisUrl::NoHost);
        }
        if !is_ip && host.chars().any(|ch| ch.is_whitespace() || ch.is_control() || "/?#@:[]".contains(ch)) {
            return Err(InvalidRedisUrl::Host(host.to_owned()));
        }
        if port == 0 {
            return Err(InvalidRedisUrl::Port(port.to_string()));
        }
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

/// Why a text is no address of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisUrl {
    /// It has no scheme.
    #[error("a Redis host is written as a URL, `redis://host:6379/0`")]
    NoScheme,
    /// It begins with something else.
    #[error("`{0}://` is no scheme of a Redis host, use `redis://`, `rediss://` or `unix://`")]
    Scheme(String),
    /// Some libraries write Sentinels so, `channels_redis` does not.
    #[error(
        "Sentinels are written as a table, `{{ sentinels = [[\"host\", 26379]], master_name = \"name\" }}`"
    )]
    Sentinel,
    /// There is a fragment, or a password with a `#` that nobody encoded.
    #[error("a Redis URL has no `#`; in a password it is written as `%23`")]
    Fragment,
    /// An option that is not `name=value`.
    #[error("behind `?` a Redis URL has options, such as `db=0`, with `&` between two")]
    Option,
    /// Options where nobody looks at them.
    #[error("options behind `?` are only understood in a configuration")]
    Options,
    /// A UNIX socket on a host.
    #[error("the path of a UNIX socket begins behind `unix://` with a slash, and `{0}` is no path")]
    UnixHost(String),
    /// A UNIX socket without a path that could be one.
    #[error("the Redis URL names no UNIX socket, use `unix:///run/redis.sock`")]
    UnixPath,
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
    /// The percent-encoding of some part is no UTF-8.
    #[error("the Redis URL is not UTF-8 when percent-decoded")]
    Encoding,
}

fn host_and_port(place: &str) -> Result<RedisAddress, InvalidRedisUrl> {
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
    let port = match port {
        None | Some("") => 6379,
        Some(digits) => match digits.parse() {
            Ok(port) if port != 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => port,
            _ => return Err(InvalidRedisUrl::Port(digits.to_owned())),
        },
    };
    RedisAddress::tcp(host, port)
}

/// The path behind the first slash, which is part of it.
fn unix_socket(path: &str) -> Result<RedisAddress, InvalidRedisUrl> {
    if path.is_empty() || path.contains('\0') {
        return Err(InvalidRedisUrl::UnixPath);
    }
    Ok(RedisAddress::Unix(format!("/{path}")))
}

/// Options in the encoding of HTML forms, without those that have no value.
fn options(query: &str) -> Result<Vec<(String, Secret)>, InvalidRedisUrl> {
    let mut options: Vec<(String, Secret)> = Vec::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or(InvalidRedisUrl::Option)?;
        let (name, value) = (decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?);
        if !value.is_empty() && options.iter().all(|(known, _)| *known != name) {
            options.push((name, Secret::new(value)));
        }
    }
    Ok(options)
}

fn decoded(text: &str) -> Result<String, InvalidRedisUrl> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| InvalidRedisUrl::Encoding)?;
    Ok(text.into_owned())
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel_layer::redis::{Login, RedisServer};

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
            ("rediss://app:s@redis:6390/2", "rediss://app:***@redis:6390/2"),
            ("redis://redis/1?db=4", "redis://redis:6379/4"),
            ("redis://redis?username=app&password=s%2Bt&db=4", "redis://app:***@redis:6379/4"),
            ("redis://a:b@redis?username=app&password=s", "redis://a:***@redis:6379/0"),
            ("redis://redis?db=", "redis://redis:6379/0"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
            ("redis://a%3Ab:p@h", "redis://a%3Ab:***@h:6379/0"),
            ("redis://a%23%40%2F%25:p@h", "redis://a%23%40%2F%25:***@h:6379/0"),
            ("redis://a-._~%C3%A9@h", "redis://a-._~%C3%A9@h:6379/0"),
            ("unix:///run/a%20b.sock?db=3", "unix:///run/a%20b.sock?db=3"),
            ("unix:///run/a%3fb%23%25@:c.sock", "unix:///run/a%3Fb%23%25@:c.sock?db=0"),
            ("unix:////run/%0A%C3%A9", "unix:////run/%0A%C3%A9?db=0"),
            ("unix://app:s@/run/redis.sock?db=1", "unix://app:***@/run/redis.sock?db=1"),
        ];
        for (text, shown) in cases {
            let server = RedisServer::from(text.parse::<RedisUrl>().unwrap());
            assert_eq!(server.to_string(), shown, "{text}");
            let again = RedisServer::from(shown.parse::<RedisUrl>().unwrap());
            let masked = server.login.password.as_ref().map(|_| Secret::new("***"));
            let login = Login { password: masked, ..server.login.clone() };
            assert_eq!(again, RedisServer { login, ..server }, "{text}");
        }
        let url: RedisUrl = "redis://a%3Ab:p%40s@s@redis".parse().unwrap();
        assert_eq!(
            (url.user.as_deref(), url.password.as_ref().map(Secret::reveal)),
            (Some("a:b"), Some("p@s@s"))
        );
        assert!(!format!("{url:?}").contains("p@s"), "{url:?}");
    }

    #[test]
    fn options_are_kept_for_whoever_knows_them() {
        let url: RedisUrl = "rediss://h?ssl_ca_certs=%2Fa%2Bb&db=1&x=1&x=2&y=a+b&z=".parse().unwrap();
        let options: Vec<_> =
            url.options.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(options, [("ssl_ca_certs", "/a+b"), ("x", "1"), ("y", "a b")]);
        assert!(!format!("{url:?}").contains("a+b"), "{url:?}");
    }

    #[test]
    fn what_is_no_redis_url_is_refused_with_the_reason() {
        use InvalidRedisUrl as E;
        let cases = [
            ("localhost:6379", E::NoScheme),
            ("http://localhost", E::Scheme("http".into())),
            ("sentinel://localhost", E::Sentinel),
            ("redis://:a#b@localhost", E::Fragment),
            ("redis://localhost/0?socket_timeout", E::Option),
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
            ("redis://h/1?db=-1", E::Database("-1".into())),
            ("redis://%ff@h", E::Encoding),
            ("unix://run/redis.sock", E::UnixHost("run".into())),
            ("unix://", E::UnixPath),
            ("unix:///?db=1", E::UnixPath),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<RedisUrl>(), Err(error), "{text}");
        }
    }
}
