//! Origins: the first line is a host, the second an `Origin`, each further one a pattern.

#![no_main]

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use anteroom::request::{Host, NoOrigin, OriginPattern, OriginPolicy};
use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::{Corpus, fuzz_target};
use regex::Regex;

/// Rule: RFC 6454, section 6.2, for what is in lower case.
static SERIALISED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]+))?$").unwrap()
});

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut lines = data.split(|&byte| byte == b'\n');
    let host =
        lines.next().and_then(|line| str::from_utf8(line).ok()).and_then(|text| Host::parse(text).ok());
    let value = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok());
    let (Some(host), Some(value)) = (host, value) else { return Corpus::Reject };

    let mut patterns = Vec::new();
    for text in lines.take(8) {
        match str::from_utf8(text).map(str::parse::<OriginPattern>) {
            Ok(Ok(pattern)) => {
                assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern));
                patterns.push(pattern);
            }
            Ok(Err(error)) => assert!(!error.help().is_empty()),
            Err(_) => {}
        }
    }
    let shown: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    let policy = OriginPolicy { patterns, no_origin: NoOrigin::Refuse };

    let mut headers = HeaderMap::new();
    assert!(policy.check(headers.get_all(ORIGIN), &host).is_err());
    headers.append(ORIGIN, value.clone());
    let verdict = policy.check(headers.get_all(ORIGIN), &host);
    let any = shown.iter().any(|pattern| pattern == "*");
    let origin = value.to_str().ok().and_then(Origin::read);
    let expected = any || origin.is_some_and(|origin| shown.iter().any(|it| origin.is_allowed_by(it, &host)));
    assert_eq!(verdict.is_ok(), expected, "{value:?} {shown:?} {host}");
    if let Err(refusal) = verdict {
        let line = refusal.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }

    headers.append(ORIGIN, value);
    assert!(policy.check(headers.get_all(ORIGIN), &host).is_err());
    Corpus::Keep
});

struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn read(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let found = SERIALISED.captures(&lower)?;
        let host = found[2].to_owned();
        if let Some(address) = host.strip_prefix('[') {
            address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
        }
        let port = found.get(3).map(|port| port.as_str().parse()).transpose().ok()?;
        Some(Self { scheme: found[1].to_owned(), host, port })
    }

    /// Decides by the pattern as it shows itself: a word, a name, or a scheme with a name and perhaps a port.
    fn is_allowed_by(&self, pattern: &str, host: &Host) -> bool {
        if pattern == "same-host" {
            let default = match self.scheme.as_str() {
                "http" => 80,
                "https" => 443,
                _ => return false,
            };
            return self.host.strip_suffix('.').unwrap_or(&self.host) == host.domain()
                && u32::from(self.port.unwrap_or(default)) == host.port().unwrap_or(u32::from(default));
        }
        let Some((scheme, authority)) = pattern.split_once("://") else { return self.is_of(pattern) };
        let colon = authority.rfind(':').filter(|&at| authority[at..].find(']').is_none());
        let (name, port) = match colon {
            Some(at) => (&authority[..at], authority[at + 1..].parse().ok()),
            None => (authority, None),
        };
        let default = match scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        scheme == self.scheme && port.or(default) == self.port.or(default) && self.is_of(name)
    }

    fn is_of(&self, name: &str) -> bool {
        match name.strip_prefix('.') {
            Some(apex) => self.host == apex || self.host.ends_with(name),
            None => self.host == name,
        }
    }
}
