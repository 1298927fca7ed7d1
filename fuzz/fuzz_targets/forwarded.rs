//! Who the client is: the first line is the peer, each further one a header.

#![no_main]

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use anteroom::listener::Peer;
use anteroom::request::{Forwarded, ForwardedHeaders, TrustedProxies, TrustedProxy, resolve};
use anteroom::scope::ClientAddr;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::{Corpus, fuzz_target};
use regex::Regex;

const TRUSTED: [&str; 5] = ["10.0.0.0/8", "127.0.0.1", "::ffff:192.168.0.0/112", "2001:db8:1::/48", "unix"];
/// Rule: `obfport` of RFC 7239, section 6.
static HIDDEN: LazyLock<Regex> = LazyLock::new(|| Regex::new("^_[A-Za-z0-9._-]+$").unwrap());
const MODES: [ForwardedHeaders; 3] =
    [ForwardedHeaders::None, ForwardedHeaders::XForwarded, ForwardedHeaders::Forwarded];

fuzz_target!(|data: &[u8]| -> Corpus {
    let (first, rest) = data.split_at(data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len()));
    let Some(peer) = peer(first) else { return Corpus::Reject };
    let headers = headers(rest);
    let trusted: TrustedProxies = TRUSTED.iter().map(|text| text.parse::<TrustedProxy>().unwrap()).collect();
    for mode in MODES {
        check(peer, &headers, &trusted, mode);
    }
    Corpus::Keep
});

fn check(peer: Peer, headers: &HeaderMap, trusted: &TrustedProxies, mode: ForwardedHeaders) {
    let found = resolve(peer, headers, trusted, mode);
    let client = ClientAddr::from(peer);
    assert_eq!(found.from_proxy, trusted.trusts(client));
    if !found.from_proxy || mode == ForwardedHeaders::None {
        let from_proxy = found.from_proxy;
        assert_eq!(found, Forwarded { client, proxies: Vec::new(), from_proxy, scheme: None, host: None });
        // Nobody becomes a proxy by what it writes.
        return;
    }

    // What the other family says is not heard.
    let own = |name: &HeaderName| (name == "forwarded") == (mode == ForwardedHeaders::Forwarded);
    let mut only_own = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| own(name)) {
        only_own.append(name, value.clone());
    }
    assert_eq!(resolve(peer, &only_own, trusted, mode), found);

    // What stands left of a stranger is written by it, and changes nothing.
    let (list, forged) = match mode {
        ForwardedHeaders::Forwarded => ("forwarded", "for=198.51.100.66;proto=https;host=evil.example"),
        _ => ("x-forwarded-for", "198.51.100.66"),
    };
    let list = HeaderName::from_static(list);
    if !trusted.trusts(found.client) {
        assert_eq!(resolve(peer, &before(&list, forged, headers), trusted, mode), found);
    }

    if mode == ForwardedHeaders::XForwarded {
        let lines: Vec<&str> = headers.get_all(&list).iter().filter_map(|line| line.to_str().ok()).collect();
        if lines.len() == headers.get_all(&list).iter().count() {
            assert_eq!(found.client, walk(&lines.join(","), client, trusted));
        }
    }
}

/// The walk in other words: the last known address of the unbroken run of trusted ones and the stranger behind it.
fn walk(list: &str, peer: ClientAddr, trusted: &TrustedProxies) -> ClientAddr {
    let mut known = vec![peer];
    if !list.is_empty() {
        let entries = list.split(',').rev().take(32);
        known.extend(entries.map_while(|entry| address(entry.trim())));
    }
    let strangers = known.iter().position(|&client| !trusted.trusts(client));
    known[strangers.unwrap_or(known.len() - 1)]
}

fn address(text: &str) -> Option<ClientAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        // A port that is no plain number is none of ours; the standard library agrees.
        let scoped = text.contains('%');
        return (!scoped).then(|| ClientAddr::new(address.ip(), Some(address.port())));
    }
    let (ip, port) = match text.rsplit_once(':') {
        Some((ip, port)) if HIDDEN.is_match(port) => (ip, true),
        _ => (text, false),
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let ip = match bare {
        Some(ip) => ip.parse().ok().map(IpAddr::V6),
        None if port => ip.parse().ok().map(IpAddr::V4),
        None => ip.parse().ok(),
    };
    ip.map(|ip| ClientAddr::new(ip, None))
}

fn peer(line: &[u8]) -> Option<Peer> {
    let text = str::from_utf8(line).ok()?.trim();
    if text == "unix" {
        return Some(Peer::Unix);
    }
    text.parse::<SocketAddr>().ok().map(Peer::from)
}

fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// The headers with a line in front of all others.
fn before(name: &HeaderName, value: &'static str, headers: &HeaderMap) -> HeaderMap {
    let mut all = HeaderMap::new();
    all.append(name, HeaderValue::from_static(value));
    for (name, value) in headers {
        all.append(name, value.clone());
    }
    all
}
