//! The host that a request is for, and the patterns that allow it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A well-formed `Host`, in lower case.
///
/// **Rule** (Django's `HttpRequest.get_host`): ASCII letters, digits, `.` and `-`, or hex digits, colons
/// and dots in brackets; then at most a colon and digits. One dot at the end of the name is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    text: String,
    /// How much of it is the domain.
    domain_len: usize,
    port: Option<u32>,
}

impl Host {
    /// Reads the value of a `Host` header, or the authority of a URI.
    ///
    /// # Errors
    ///
    /// The client's: anything else than a name or address with a port, so also user information, a list,
    /// and the empty text.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let lower = text.to_ascii_lowercase();
        let (name, port) = split_port(&lower).ok_or(InvalidHost)?;
        if !is_name(name) {
            return Err(InvalidHost);
        }
        let domain_len = name.strip_suffix('.').unwrap_or(name).len();
        if domain_len == 0 {
            return Err(InvalidHost);
        }
        // Django does not look at the range; a number too big for a port is no port of an origin.
        let port = port.map(|digits| digits.parse().unwrap_or(u32::MAX));
        Ok(Self { domain_len, port, text: lower })
    }

    /// The whole, in lower case: name as sent and port.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name or address without a dot at its end and without the port; IPv6 has its brackets.
    pub fn domain(&self) -> &str {
        self.text.get(..self.domain_len).unwrap_or_default()
    }

    /// The port, if one is written. It may be above 65535, as it may in Django.
    pub fn port(&self) -> Option<u32> {
        self.port
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// A `Host` that is no name or address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name or address, with or without a port")]
pub struct InvalidHost;

/// An entry of `hosts`, as in Django's `ALLOWED_HOSTS`.
///
/// `example.com` is that name alone, `.example.com` the name and all below it, `*` any. Ports never count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Any,
    Name(NamePattern),
}

impl HostPattern {
    /// Whether the pattern allows the host.
    pub fn matches(&self, host: &Host) -> bool {
        match &self.0 {
            Kind::Any => true,
            Kind::Name(name) => name.matches(host.domain()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    /// # Errors
    ///
    /// The operator's: a pattern that no host could ever match.
    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" {
            return Ok(Self(Kind::Any));
        }
        if text.contains("://") {
            return Err(HostPatternError::Url(url_host(text).to_owned()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(HostPatternError::Brackets(text.to_owned()));
        }
        if let Some((name, port)) = split_port(text)
            && port.is_some()
        {
            return Err(HostPatternError::Port(name.to_owned()));
        }
        Ok(Self(Kind::Name(NamePattern::of_host(text)?)))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Any => out.write_str("*"),
            Kind::Name(name) => name.fmt(out),
        }
    }
}

/// A name alone, or with a leading dot the name and all below it. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NamePattern(String);

impl NamePattern {
    pub(super) fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('.') {
            Some(apex) => name == apex || name.ends_with(&self.0),
            None => name == self.0,
        }
    }

    /// Reads the name in a host's pattern.
    pub(super) fn of_host(text: &str) -> Result<Self, HostPatternError> {
        Self::parse(text, is_name_char)
    }

    /// Reads the name in an origin's pattern, which may have underscores: browsers send them.
    pub(super) fn of_origin(text: &str) -> Result<Self, HostPatternError> {
        Self::parse(text, |ch| ch == '_' || is_name_char(ch))
    }

    fn parse(text: &str, is_char: fn(char) -> bool) -> Result<Self, HostPatternError> {
        let lower = text.to_ascii_lowercase();
        if lower.is_empty() {
            return Err(HostPatternError::Empty);
        }
        if let Some(below) = lower.strip_prefix("*.") {
            return Err(HostPatternError::Wildcard(format!(".{below}")));
        }
        let name = lower.strip_prefix('.').unwrap_or(&lower);
        if name.is_empty() {
            return Err(HostPatternError::Empty);
        }
        if let Some(without) = lower.strip_suffix('.') {
            return Err(HostPatternError::TrailingDot(without.to_owned()));
        }
        if name.starts_with('[') {
            return if is_name(name) { Ok(Self(lower)) } else { Err(HostPatternError::Malformed) };
        }
        match name.chars().find(|&ch| !is_char(ch)) {
            Some(strange) => Err(HostPatternError::Char(strange)),
            None => Ok(Self(lower)),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Why a text is no pattern for a host: nothing could ever match it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Nothing, or a dot alone.
    #[error("an empty name matches no host")]
    Empty,
    /// A URL; holds its host.
    #[error("a host pattern has no scheme")]
    Url(String),
    /// A port; holds what stands before it.
    #[error("a host pattern has no port: hosts are compared without theirs")]
    Port(String),
    /// `*.example.com`; holds the pattern that was meant.
    #[error("`*` only stands alone")]
    Wildcard(String),
    /// A dot at the end; holds the rest.
    #[error("a pattern with a dot at its end matches no host")]
    TrailingDot(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets")]
    Brackets(String),
    /// A character that no host has.
    #[error("{0:?} does not occur in host names")]
    Char(char),
    /// Brackets without an address, or something after them.
    #[error("not a host name or address")]
    Malformed,
}

impl HostPatternError {
    /// What to write instead.
    pub fn help(&self) -> String {
        match self {
            Self::Empty => "write a name, or `*` for any host".to_owned(),
            Self::Url(host) | Self::Port(host) | Self::Wildcard(host) | Self::TrailingDot(host) => {
                format!("write `{host}`")
            }
            Self::Brackets(address) => format!("write `[{address}]`"),
            Self::Char(ch) if !ch.is_ascii() => "write the name in its ASCII form, `xn--…`".to_owned(),
            Self::Char(_) | Self::Malformed => {
                "write a name (`example.com`), a name and all below it (`.example.com`), an address or `*`"
                    .to_owned()
            }
        }
    }
}

/// Splits `name:port`; `None` when what follows the name is no port. Brackets stay with the name.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let name_end =
        if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (name, rest) = text.split_at_checked(name_end)?;
    if rest.is_empty() {
        return Some((name, None));
    }
    let digits = rest.strip_prefix(':')?;
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then_some((name, Some(digits)))
}

/// The host of something that looks like a URL.
pub(super) fn url_host(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    split_port(host).map_or(host, |(name, _)| name)
}

/// Django's grammar of a host without its port, in lower case.
fn is_name(name: &str) -> bool {
    match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|inner| {
            // A colon with something behind it and no dot before it, as Django has it.
            inner.split_once(':').is_some_and(|(first, rest)| !first.contains('.') && !rest.is_empty())
                && inner.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'.'))
        }),
        None => !name.is_empty() && name.bytes().all(|byte| is_name_char(byte.into())),
    }
}

fn is_name_char(ch: char) -> bool {
    matches!(ch, 'a'..='z' | '0'..='9' | '.' | '-')
}

#[cfg(test)]
mod tests;
