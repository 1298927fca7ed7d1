use http::HeaderMap;
use http::header::ORIGIN;
use serde_json::Value;

use super::*;

/// Rows that we refuse though Channels accepts them, by note: what was sent is no RFC 6454 origin, the
/// pattern is not what it looks like, or there is more than one header.
const STRICTER: &[&str] = &[
    // not an origin
    "userinfo is ignored",
    "path is ignored",
    "tab inside is removed by urlparse",
    "two Origin entries in the scope: the last one wins",
    // the pattern is refused
    "a scheme cannot start with a digit, so this is a host with port dropped",
    "port of a digit-leading pattern is ignored",
    "wildcard first short-circuits",
    "userinfo of a pattern is ignored",
    "latin-1 bytes in the header",
];

/// Rows that we accept though Channels does not: header names have no case.
const LAXER: &[&str] = &["header names must already be lowercase in the scope"];

/// Rows with a pattern that is refused when it is read.
const PATTERN_REFUSED: &[&str] = &[
    "host:port pattern parses as scheme 'example.com'",
    "host:port pattern never matches a name",
    "a scheme cannot start with a digit, so this is a host with port dropped",
    "port of a digit-leading pattern is ignored",
    "a single dot: apex is the empty string",
    "empty pattern never matches",
    "star with a scheme is a literal host",
    "pattern with scheme but no host: hostname None",
    "file origin cannot be allowed except by *",
    "pattern port out of range raises",
    "wildcard first short-circuits",
    "userinfo of a pattern is ignored",
    "no IDNA conversion",
    "latin-1 bytes in the header",
];

fn headers(origins: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for origin in origins {
        // A header holds what Python would decode as Latin-1.
        let bytes: Vec<u8> = origin.chars().map(|ch| u8::try_from(u32::from(ch)).unwrap()).collect();
        headers.append(ORIGIN, HeaderValue::from_bytes(&bytes).unwrap());
    }
    headers
}

fn check(patterns: &[&str], no_origin: NoOrigin, origins: &[&str], host: &str) -> Result<(), OriginRefusal> {
    let patterns = patterns.iter().map(|text| text.parse().unwrap()).collect();
    let host = Host::parse(host).unwrap();
    OriginPolicy { patterns, no_origin }.check(headers(origins).get_all(ORIGIN), &host)
}

#[test]
fn origins_are_judged_as_channels_does_or_more_strictly() {
    let (mut run, mut stricter, mut laxer, mut refused) = (0, Vec::new(), Vec::new(), Vec::new());
    for line in include_str!("../../../tests/fixtures/origin_cases.jsonl").lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let note = row["note"].as_str().unwrap().to_owned();
        let texts: Vec<_> =
            row["allowed"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let patterns: Result<Vec<OriginPattern>, _> = texts.iter().map(|text| text.parse()).collect();
        let origins: Vec<_> = match row["origins"].as_array() {
            Some(origins) => origins.iter().filter_map(Value::as_str).collect(),
            None => row["origin"].as_str().into_iter().collect(),
        };
        // Channels lets a client without an Origin in by `*`, here it has a setting of its own.
        let no_origin = if texts.contains(&"*") { NoOrigin::Allow } else { NoOrigin::Refuse };
        let host = Host::parse("edge.test").unwrap();
        let accepted = patterns.is_ok_and(|patterns| {
            OriginPolicy { patterns, no_origin }.check(headers(&origins).get_all(ORIGIN), &host).is_ok()
        });
        if texts.iter().any(|text| text.parse::<OriginPattern>().is_err()) {
            refused.push(note.clone());
        }
        match (row["accepted"].as_bool().unwrap(), accepted) {
            (true, false) => stricter.push(note),
            (false, true) => laxer.push(note),
            _ => {}
        }
        run += 1;
    }
    assert_eq!(run, 90);
    let sorted = |notes: &[&str]| {
        let mut notes: Vec<_> = notes.iter().map(|&note| note.to_owned()).collect();
        notes.sort();
        notes
    };
    stricter.sort();
    refused.sort();
    assert_eq!(stricter, sorted(STRICTER));
    assert_eq!(laxer, sorted(LAXER));
    assert_eq!(refused, sorted(PATTERN_REFUSED));
}

#[test]
fn a_missing_origin_is_decided_by_no_origin_alone() {
    for patterns in [&["*"][..], &["same-host"], &["https://a.example"], &[]] {
        assert_eq!(check(patterns, NoOrigin::Allow, &[], "a.example"), Ok(()));
        assert_eq!(check(patterns, NoOrigin::Refuse, &[], "a.example"), Err(OriginRefusal::Missing));
    }
}

#[test]
fn a_repeated_origin_is_refused_whatever_is_allowed() {
    for patterns in [&["*"][..], &["https://a.example"]] {
        let twice = ["https://a.example", "https://a.example"];
        assert_eq!(check(patterns, NoOrigin::Allow, &twice, "a.example"), Err(OriginRefusal::Repeated));
    }
}

#[test]
fn the_same_host_is_one_with_the_same_port() {
    let cases = [
        ("http://a.example", "a.example", true),
        ("https://a.example", "a.example", true),
        ("https://A.example", "a.EXAMPLE", true),
        ("http://a.example:8000", "a.example:8000", true),
        ("https://a.example:443", "a.example", true),
        ("https://a.example", "a.example:443", true),
        ("http://a.example", "a.example:80", true),
        ("http://[::1]:8000", "[::1]:8000", true),
        ("http://a.example.:8000", "a.example.:8000", true),
        ("http://a.example:443", "a.example", false),
        ("https://a.example", "a.example:80", false),
        ("http://a.example:8001", "a.example:8000", false),
        ("http://a.example", "a.example:8000", false),
        ("http://a.example:8000", "a.example", false),
        ("http://a.example", "a.example:65616", false),
        ("http://b.example", "a.example", false),
        ("http://x.a.example", "a.example", false),
        ("ws://a.example", "a.example", false),
        ("wss://a.example", "a.example", false),
        ("capacitor://a.example", "a.example", false),
        ("null", "a.example", false),
    ];
    for (origin, host, allowed) in cases {
        assert_eq!(
            check(&["same-host"], NoOrigin::Refuse, &[origin], host).is_ok(),
            allowed,
            "{origin} {host}"
        );
    }
}

#[test]
fn any_single_value_passes_the_star_and_null_passes_nothing_else() {
    for origin in ["null", "", "https://a.example", "rubbish", "https://u@a/b?c"] {
        assert_eq!(check(&["same-host", "*"], NoOrigin::Refuse, &[origin], "a"), Ok(()), "{origin}");
    }
    let refusal = check(&["same-host", ".example"], NoOrigin::Allow, &["null"], "null").unwrap_err();
    assert_eq!(refusal, OriginRefusal::Null);
}

#[test]
fn what_is_no_origin_is_refused_though_its_host_is_allowed() {
    let cases = [
        "https://user@a.example",
        "https://user:pw@a.example",
        "https://a.example/",
        "https://a.example?x",
        "https://a.example#x",
        "https://a.example:",
        "https://a.example:65536",
        "https://a.example:+1",
        "https://a.example:80:80",
        "https://a.example https://a.example",
        "https://a.example,https://a.example",
        " https://a.example",
        "https://a.example ",
        "https://a.example\t",
        "https://a%2eexample",
        "https://a.example\\@evil.example",
        "://a.example",
        "1https://a.example",
        "https:a.example",
        "//a.example",
        "a.example",
        "https://[a.example]",
        "https://[::1",
        "https://é.example",
        "",
    ];
    for origin in cases {
        let refusal = check(&["a.example", "https://a.example"], NoOrigin::Allow, &[origin], "a.example");
        // A byte that is not UTF-8 is shown as a replacement character.
        let shown = origin.replace('é', "\u{fffd}");
        assert_eq!(refusal, Err(OriginRefusal::Malformed { origin: shown }), "{origin}");
    }
}

#[test]
fn an_exact_origin_has_its_scheme_and_port() {
    let cases = [
        ("https://a.example", "https://a.example", true),
        ("https://a.example", "https://a.example:443", true),
        ("https://a.example", "https://a.example:8443", false),
        ("https://a.example", "http://a.example", false),
        ("https://a.example", "https://b.a.example", false),
        ("https://a.example", "https://xa.example", false),
        ("https://a.example", "https://a.example.evil", false),
        ("https://aXexample", "https://a.example", false),
        ("https://.a.example:8443", "https://b.a.example:8443", true),
        ("https://.a.example:8443", "https://a.example:8443", true),
        ("https://.a.example:8443", "https://b.a.example", false),
        ("https://a.example/page", "https://a.example", true),
        ("http://my_box:1", "http://my_box:1", true),
        ("capacitor://localhost", "capacitor://localhost", true),
    ];
    for (pattern, origin, allowed) in cases {
        let Ok(parsed) = pattern.parse::<OriginPattern>() else {
            assert!(!allowed, "{pattern}");
            continue;
        };
        let policy = OriginPolicy { patterns: vec![parsed], no_origin: NoOrigin::Refuse };
        let host = Host::parse("edge.test").unwrap();
        let found = policy.check(headers(&[origin]).get_all(ORIGIN), &host);
        assert_eq!(found.is_ok(), allowed, "{pattern} {origin}");
    }
}

#[test]
fn a_pattern_that_is_refused_says_what_to_write() {
    let cases = [
        ("localhost:8000", "`http://localhost:8000`"),
        ("127.0.0.1:8000", "`127.0.0.1` for any port"),
        ("[::1]:8000", "`http://[::1]:8000`"),
        ("http://", "`http://` and a name"),
        ("file:///", "`*` for any origin"),
        ("http://*", "`*` for any origin"),
        ("*.example.com", "`.example.com`"),
        ("https://*.example.com", "`.example.com`"),
        ("example.com.", "`example.com`"),
        ("http://example.com:99999", "8443"),
        ("http://example.com:", "8443"),
        ("http://user@example.com/x", "`http://example.com/x`"),
        ("ht_tp://example.com", "https://example.com"),
        ("bücher.example", "xn--"),
        ("null", "`*`"),
        ("NULL/", "`*`"),
        ("", "name"),
        (".", "name"),
        ("/path", "name"),
    ];
    for (text, help) in cases {
        let error = text.parse::<OriginPattern>().expect_err(text);
        assert!(error.help().contains(help), "{text}: {error}: {}", error.help());
    }
}

#[test]
fn a_pattern_shows_itself_without_what_is_ignored() {
    let cases = [
        ("*", "*"),
        ("same-host", "same-host"),
        ("Same-Host/", "same-host"),
        ("Example.com/", "example.com"),
        ("::1", "[::1]"),
        ("HTTPS://Example.com:8443/x?y#z", "https://example.com:8443"),
    ];
    for (text, shown) in cases {
        let pattern = text.parse::<OriginPattern>().unwrap();
        assert_eq!(pattern.to_string(), shown);
        assert_eq!(shown.parse(), Ok(pattern), "{text}");
    }
}
