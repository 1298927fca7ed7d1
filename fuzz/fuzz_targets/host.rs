//! Hosts and the patterns that allow them, as Django has them: the first line is a host, the second a pattern.

#![no_main]

use std::sync::LazyLock;

use anteroom::request::{Host, HostPattern};
use libfuzzer_sys::{Corpus, fuzz_target};
use regex::Regex;

/// Rule: `host_validation_re` of Django, over the host in lower case.
static DJANGO: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^([a-z0-9.-]+|\[[a-f0-9]*:[a-f0-9:.]+\])(?::([0-9]+))?$").unwrap());

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else { return Corpus::Reject };
    let (text, pattern) = text.split_once('\n').unwrap_or((text, "*"));

    let lower = text.to_ascii_lowercase();
    // A name that is a dot alone is empty without it.
    let expected = DJANGO.captures(&lower).map(|found| {
        let (name, port) = (found.get(1).unwrap().as_str(), found.get(2).map(|port| port.as_str()));
        (name.strip_suffix('.').unwrap_or(name), port)
    });
    let expected = expected.filter(|(name, _)| !name.is_empty());
    let host = Host::parse(text);
    assert_eq!(host.is_ok(), expected.is_some(), "{text:?}");

    let parsed = pattern.parse::<HostPattern>();
    match &parsed {
        Ok(parsed) => assert_eq!(parsed.to_string().parse().as_ref(), Ok(parsed)),
        Err(error) => assert!(!error.help().is_empty()),
    }
    let (Ok(host), Some((domain, port))) = (host, expected) else { return Corpus::Keep };
    assert_eq!((host.as_str(), host.domain()), (lower.as_str(), domain));
    assert_eq!(host.port(), port.map(|port| port.parse().unwrap_or(u32::MAX)));
    assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host));

    if let Ok(parsed) = parsed {
        assert_eq!(
            parsed.matches(&host),
            allows(&pattern.to_ascii_lowercase(), domain),
            "{pattern:?} {text:?}"
        );
    }
    Corpus::Keep
});

/// Rule: `is_same_domain` of Django.
fn allows(pattern: &str, domain: &str) -> bool {
    pattern == "*"
        || pattern == domain
        || pattern.starts_with('.') && (domain.ends_with(pattern) || domain == &pattern[1..])
}
