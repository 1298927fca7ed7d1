//! Who the client is when proxies stand between.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};

use crate::listener::Peer;
use crate::scope::ClientAddr;

/// Which headers a trusted proxy writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeaders {
    /// None: every peer is a client.
    #[default]
    None,
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The scheme that the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS: `http` or `ws`.
    Http,
    /// With TLS: `https` or `wss`.
    Https,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "http" | "ws" => Some(Self::Http),
            "https" | "wss" => Some(Self::Https),
            _ => None,
        }
    }
}

/// What proxies say about a request, as far as they are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The client: the rightmost address that is no trusted proxy.
    pub client: ClientAddr,
    /// The trusted proxies between the client and here, from the peer on, as far as they have addresses.
    pub proxies: Vec<IpAddr>,
    /// Whether the peer is a trusted proxy.
    pub from_proxy: bool,
    /// The scheme that the client used, when a proxy says so.
    pub scheme: Option<Scheme>,
    /// The host that the client asked for, when a proxy says so. Not yet checked: a repeated header is a list
    /// with commas here, which is no host.
    pub host: Option<String>,
}

/// Follows the addresses from the peer to the client.
///
/// The walk goes from right to left over all lines of the header. It ends at the first address that is no
/// trusted proxy, at an entry that is no address (then with the last one known), and after 32 entries. From a
/// peer that is not trusted everything is ignored, for anyone can write a header.
pub fn resolve(
    peer: Peer,
    headers: &HeaderMap,
    trusted: &TrustedProxies,
    mode: ForwardedHeaders,
) -> Forwarded {
    let client = ClientAddr::from(peer);
    let from_proxy = trusted.trusts(client);
    let direct = Forwarded { client, proxies: Vec::new(), from_proxy, scheme: None, host: None };
    if !direct.from_proxy {
        return direct;
    }
    match mode {
        ForwardedHeaders::None => direct,
        ForwardedHeaders::XForwarded => x_forwarded(direct, headers, trusted),
        ForwardedHeaders::Forwarded => rfc_7239(direct, headers, trusted),
    }
}

impl Forwarded {
    /// One step further out: what was taken for the client is a proxy that names another.
    fn step(&mut self, client: ClientAddr) {
        self.proxies.extend(self.client.ip());
        self.client = client;
    }
}

/// The most entries that are looked at.
const HOPS_MAX: usize = 32;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

fn x_forwarded(mut found: Forwarded, headers: &HeaderMap, trusted: &TrustedProxies) -> Forwarded {
    let lines = headers.get_all(X_FORWARDED_FOR).into_iter().rev();
    let entries = lines.flat_map(|line| text(line).rsplit(','));
    for entry in entries.take(HOPS_MAX) {
        let Some(client) = parse_node(entry.trim()) else { break };
        found.step(client);
        if !trusted.trusts(client) {
            break;
        }
    }
    // The last entry is the one that the trusted peer wrote.
    let scheme = headers.get_all(X_FORWARDED_PROTO).into_iter().next_back();
    found.scheme = scheme.and_then(|line| text(line).rsplit(',').next()).and_then(Scheme::parse);
    let hosts: Vec<&str> = headers.get_all(X_FORWARDED_HOST).into_iter().map(text).collect();
    found.host = (!hosts.is_empty()).then(|| hosts.join(","));
    found
}

fn rfc_7239(mut found: Forwarded, headers: &HeaderMap, trusted: &TrustedProxies) -> Forwarded {
    let mut hops = 0;
    for line in headers.get_all(FORWARDED).into_iter().rev() {
        // A line that cannot be read ends the walk: what stands left of it cannot be told apart.
        let Some(elements) = parse_elements(text(line)) else { return found };
        for element in elements.into_iter().rev() {
            if hops == HOPS_MAX {
                return found;
            }
            hops += 1;
            // Written by a proxy that is trusted; one further out knows better what the client asked for.
            found.scheme = element.proto.as_deref().and_then(Scheme::parse).or(found.scheme);
            found.host = element.host.or(found.host);
            let Some(client) = element.node.as_deref().and_then(parse_node) else { return found };
            found.step(client);
            if !trusted.trusts(client) {
                return found;
            }
        }
    }
    found
}

/// What one proxy added to `Forwarded`.
#[derive(Debug, Default)]
struct Element {
    node: Option<String>,
    host: Option<String>,
    proto: Option<String>,
}

/// Splits one line of `Forwarded`; `None` when it breaks the grammar.
fn parse_elements(line: &str) -> Option<Vec<Element>> {
    let mut elements = vec![Element::default()];
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(',') {
            elements.push(Element::default());
            rest = after.trim_start();
            continue;
        }
        if let Some(after) = rest.strip_prefix(';') {
            rest = after.trim_start();
            continue;
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = parse_value(after)?;
        let element = elements.last_mut()?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "for" => Some(&mut element.node),
            "host" => Some(&mut element.host),
            "proto" => Some(&mut element.proto),
            name if !name.is_empty() && name.bytes().all(is_token) => None,
            _ => return None,
        };
        if let Some(slot) = slot
            && slot.replace(value).is_some()
        {
            // The RFC allows each name once; two of them would be two readings.
            return None;
        }
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with([',', ';']) {
            return None;
        }
    }
    Some(elements)
}

/// Reads a token or a quoted string, and what stands behind it.
///
/// Addresses with colons and brackets are taken without quotes, too: many proxies write them so.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        let valid = !value.is_empty() && value.bytes().all(|byte| is_token(byte) || b"[]:".contains(&byte));
        return valid.then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            ch => value.push(ch),
        }
    }
}

/// A character of an RFC 9110 token.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address with or without a port; `unknown` and obfuscated names are none.
fn parse_node(node: &str) -> Option<ClientAddr> {
    if let Ok(ip) = node.parse::<IpAddr>() {
        return Some(ClientAddr::new(ip, None));
    }
    let (ip, port): (IpAddr, &str) = if let Some(rest) = node.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        (ip.parse::<Ipv6Addr>().ok()?.into(), port)
    } else {
        let (ip, _) = node.split_once(':')?;
        (ip.parse::<Ipv4Addr>().ok()?.into(), node.strip_prefix(ip)?)
    };
    if port.is_empty() {
        return Some(ClientAddr::new(ip, None));
    }
    let port = port.strip_prefix(':')?;
    if let Some(name) = port.strip_prefix('_') {
        // The port is hidden, the address is not. Rule: `obfport` of RFC 7239, section 6.
        let hidden = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        return hidden.then(|| ClientAddr::new(ip, None));
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse().ok()).flatten().map(|port| ClientAddr::new(ip, Some(port)))
}

/// A header's text; empty, and so no address, when it is not ASCII.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// The networks whose word on a client counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<TrustedProxy>);

impl TrustedProxies {
    /// Whether the address is that of a trusted proxy.
    pub fn trusts(&self, client: ClientAddr) -> bool {
        self.0.iter().any(|proxy| match (proxy, client.ip()) {
            (TrustedProxy::Net(net), Some(ip)) => net.contains(&ip),
            (TrustedProxy::Unix, None) => true,
            _ => false,
        })
    }
}

impl FromIterator<TrustedProxy> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = TrustedProxy>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// An entry of `proxies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// An address, or a network such as `10.0.0.0/8`. IPv4 networks written as IPv6 ones are held as IPv4.
    Net(IpNet),
    /// `unix`: whoever may connect to a UNIX socket of ours.
    Unix,
}

impl FromStr for TrustedProxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let net = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text.parse::<IpNet>().map_err(|_| InvalidProxy::Malformed)?,
        };
        if net.trunc() != net {
            return Err(InvalidProxy::HostBits {
                network: net.trunc().to_string(),
                address: net.addr().to_string(),
            });
        }
        let IpNet::V6(wide) = net else { return Ok(Self::Net(net)) };
        let Some(mapped) = wide.addr().to_ipv4_mapped() else { return Ok(Self::Net(net)) };
        let prefix = wide.prefix_len().checked_sub(96);
        let narrow = prefix.and_then(|prefix| Ipv4Net::new(mapped, prefix).ok());
        Ok(Self::Net(narrow.map_or(net, IpNet::V4)))
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(out),
            Self::Unix => out.write_str("unix"),
        }
    }
}

/// Why a text is no [`TrustedProxy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxy {
    /// Neither an address nor a network, nor `unix`.
    #[error("not an address or a network")]
    Malformed,
    /// The address has bits that the prefix cuts off, so that it is not clear which is meant.
    #[error("the address has bits outside of its prefix")]
    HostBits {
        /// The network that the prefix gives.
        network: String,
        /// The address alone.
        address: String,
    },
}

impl InvalidProxy {
    /// What to write instead.
    pub fn help(&self) -> String {
        match self {
            Self::Malformed => "write an address, `192.0.2.1`, a network, `10.0.0.0/8`, or `unix`".to_owned(),
            Self::HostBits { network, address } => {
                format!("write `{network}` for the network, `{address}` for the address")
            }
        }
    }
}

#[cfg(test)]
mod tests;
