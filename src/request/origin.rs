//! The site whose page opened a WebSocket, and the patterns that allow it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use http::HeaderValue;
use http::header::GetAll;

use super::host::{Host, HostPatternError, NamePattern, split_port, url_host};

/// Which origins a route takes.
///
/// **Rule**: Channels' `OriginValidator`, and stricter where that is laxer than safe. What is not an origin as a
/// browser writes it (with user information, a path, a query, a control character, letters beyond ASCII) is refused
/// though its host is allowed, and so is a repeated header. What Channels answers with an error is a refusal, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPolicy {
    /// An origin that matches one of these is let in.
    pub patterns: Vec<OriginPattern>,
    /// What is done with a client that sends no `Origin`. It alone decides on these.
    pub no_origin: NoOrigin,
}

impl OriginPolicy {
    /// Decides on the values of all `Origin` headers of a request.
    ///
    /// # Errors
    ///
    /// The client's, or the operator's who forgot an origin.
    pub fn check(&self, values: GetAll<'_, HeaderValue>, host: &Host) -> Result<(), OriginRefusal> {
        let mut values = values.into_iter();
        let Some(value) = values.next() else {
            return match self.no_origin {
                NoOrigin::Allow => Ok(()),
                NoOrigin::Refuse => Err(OriginRefusal::Missing),
            };
        };
        if values.next().is_some() {
            return Err(OriginRefusal::Repeated);
        }
        if self.patterns.iter().any(|pattern| matches!(pattern.0, Kind::Any)) {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(value.as_bytes());
        if shown == "null" {
            return Err(OriginRefusal::Null);
        }
        let Some(origin) = value.to_str().ok().and_then(Origin::parse) else {
            return Err(OriginRefusal::Malformed { origin: shown.into_owned() });
        };
        if self.patterns.iter().any(|pattern| pattern.matches(&origin, host)) {
            return Ok(());
        }
        let allowed = self.patterns.iter().map(ToString::to_string).collect();
        Err(OriginRefusal::NotAllowed { origin: shown.into_owned(), allowed })
    }
}

/// What is done with a handshake that has no `Origin`: not from a browser, which always sends one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoOrigin {
    /// It is let in.
    #[default]
    Allow,
    /// It is refused.
    Refuse,
}

/// An entry of `origins`.
///
/// - `https://app.example.com`, with or without a port: exactly that origin. The ports of `http`, `https`,
///   `ws` and `wss` may be left out on either side. `https://.example.com` takes all names below, too.
/// - `example.com`, `.example.com`: any scheme and port of that name, as Channels' `OriginValidator` has it.
/// - `same-host`: `http` or `https`, with the host and port that the request itself is for.
/// - `*`: anything, also `null`.
///
/// The path of a URL in a pattern is ignored, for an origin has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Any,
    SameHost,
    Name(NamePattern),
    Exact { scheme: String, name: NamePattern, port: Option<u16> },
}

impl OriginPattern {
    fn matches(&self, origin: &Origin, host: &Host) -> bool {
        match &self.0 {
            Kind::Any => true,
            Kind::SameHost => origin.is_of(host),
            Kind::Name(name) => name.matches(&origin.host),
            Kind::Exact { scheme, name, port } => {
                *scheme == origin.scheme
                    && port.or_else(|| default_port(scheme)) == origin.port_or_default()
                    && name.matches(&origin.host)
            }
        }
    }
}

impl FromStr for OriginPattern {
    type Err = OriginPatternError;

    /// # Errors
    ///
    /// The operator's: a pattern that no origin could ever match, or one that is not what it looks like.
    fn from_str(text: &str) -> Result<Self, OriginPatternError> {
        if text == "*" {
            return Ok(Self(Kind::Any));
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(OriginPatternError::Userinfo {
                without: text.replacen(authority, url_host(authority), 1),
            });
        }
        let Some(scheme) = scheme else {
            // Read as names are, without case and path: a name that looks like one of these words would print as it.
            if authority.eq_ignore_ascii_case("same-host") {
                return Ok(Self(Kind::SameHost));
            }
            if authority.eq_ignore_ascii_case("null") {
                return Err(OriginPatternError::Null);
            }
            if authority.parse::<Ipv6Addr>().is_ok() {
                return Ok(Self(Kind::Name(name(&format!("[{authority}]"))?)));
            }
            return match split_port(authority) {
                Some((_, Some(_))) => Err(OriginPatternError::PortAlone { authority: authority.to_owned() }),
                _ => Ok(Self(Kind::Name(name(authority)?))),
            };
        };
        if !is_scheme(&scheme) {
            return Err(OriginPatternError::Scheme { scheme });
        }
        if authority.is_empty() {
            return Err(OriginPatternError::NoHost { scheme });
        }
        let Some((host, port)) = split_port(authority) else {
            return Err(OriginPatternError::Port);
        };
        if host == "*" {
            return Err(OriginPatternError::SchemeStar { scheme });
        }
        let port = port.map(str::parse).transpose().map_err(|_| OriginPatternError::Port)?;
        Ok(Self(Kind::Exact { name: name(host)?, scheme, port }))
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Any => out.write_str("*"),
            Kind::SameHost => out.write_str("same-host"),
            Kind::Name(name) => name.fmt(out),
            Kind::Exact { scheme, name, port: Some(port) } => write!(out, "{scheme}://{name}:{port}"),
            Kind::Exact { scheme, name, port: None } => write!(out, "{scheme}://{name}"),
        }
    }
}

/// Why a text is no pattern for an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginPatternError {
    /// The name in it matches nothing.
    #[error(transparent)]
    Name(HostPatternError),
    /// A name with a port but without a scheme, which Channels takes for a scheme.
    #[error("a port needs a scheme before it")]
    PortAlone {
        /// The name and the port.
        authority: String,
    },
    /// `http://` and nothing behind it.
    #[error("`{scheme}://` has no host")]
    NoHost {
        /// The scheme.
        scheme: String,
    },
    /// `http://*`.
    #[error("`*` only stands alone")]
    SchemeStar {
        /// The scheme.
        scheme: String,
    },
    /// What stands before `://` is no scheme.
    #[error("`{scheme}` is not a scheme")]
    Scheme {
        /// What stands there.
        scheme: String,
    },
    /// The port is no number up to 65535.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// User information, which is not part of an origin.
    #[error("an origin has no user information")]
    Userinfo {
        /// The pattern without it.
        without: String,
    },
    /// `null`, which pages without an origin send.
    #[error("`null` stands for any page without an origin, it cannot be allowed by name")]
    Null,
}

impl OriginPatternError {
    /// What to write instead.
    pub fn help(&self) -> String {
        match self {
            Self::Name(error) => error.help(),
            Self::PortAlone { authority } => {
                let name = split_port(authority).map_or(authority.as_str(), |(name, _)| name);
                format!("write `http://{authority}` or `https://{authority}`, or `{name}` for any port")
            }
            Self::NoHost { scheme } | Self::SchemeStar { scheme } => {
                format!("write `{scheme}://` and a name, or `*` for any origin")
            }
            Self::Scheme { .. } => "write for example `https://example.com`".to_owned(),
            Self::Port => "write for example `https://example.com:8443`".to_owned(),
            Self::Userinfo { without } => format!("write `{without}`"),
            Self::Null => {
                "write `*` to let in any origin; `no_origin` is for clients that send none".to_owned()
            }
        }
    }
}

/// Why an `Origin` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginRefusal {
    /// None was sent, and `no_origin` does not allow that.
    #[error("no Origin was sent; set `no_origin = \"allow\"` to let in clients that are not browsers")]
    Missing,
    /// More than one was sent.
    #[error("more than one Origin was sent")]
    Repeated,
    /// `null`: a file, a sandboxed frame or a redirect across sites.
    #[error("the Origin is null: the page has no site; only `origins = [\"*\"]` lets it in")]
    Null,
    /// What was sent is no origin: a path, user information, a list, a port out of range.
    #[error("{} is not an origin (scheme, host and port, nothing else)", super::rejection::Shown(origin))]
    Malformed {
        /// What was sent.
        origin: String,
    },
    /// It is an origin, but not one of those that the route takes.
    #[error(
        "the origin {} is not allowed here; `origins` has {}",
        super::rejection::Shown(origin),
        super::rejection::List(allowed)
    )]
    NotAllowed {
        /// What was sent.
        origin: String,
        /// The patterns of the route.
        allowed: Vec<String>,
    },
}

/// An origin with a host, as a browser serialises it (RFC 6454, section 6.2), in lower case.
#[derive(Debug)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority)?;
        let scheme = scheme.to_ascii_lowercase();
        let host = host.to_ascii_lowercase();
        let port = port.map(str::parse).transpose().ok()?;
        (is_scheme(&scheme) && is_host(&host)).then_some(Self { scheme, host, port })
    }

    fn port_or_default(&self) -> Option<u16> {
        self.port.or_else(|| default_port(&self.scheme))
    }

    /// Whether a page of this origin was loaded from the host that it connects to.
    fn is_of(&self, host: &Host) -> bool {
        let Some(default) =
            default_port(&self.scheme).filter(|_| matches!(self.scheme.as_str(), "http" | "https"))
        else {
            return false;
        };
        let own_port = u32::from(self.port.unwrap_or(default));
        let domain = self.host.strip_suffix('.').unwrap_or(&self.host);
        domain == host.domain() && own_port == host.port().unwrap_or(u32::from(default))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

fn name(text: &str) -> Result<NamePattern, OriginPatternError> {
    NamePattern::of_origin(text).map_err(OriginPatternError::Name)
}

/// RFC 3986, section 3.1, in lower case.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|ch: char| ch.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
}

/// What browsers send as a host: a name, which may have underscores, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok()),
        None => {
            !text.is_empty()
                && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
        }
    }
}

#[cfg(test)]
mod tests;
