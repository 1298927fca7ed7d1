use super::*;

fn all() -> Vec<(Rejection, &'static str, u16, &'static [&'static str])> {
    let shown = || "x".to_owned();
    let upstream = |status| Rejection::Upstream { status, reason: shown() };
    vec![
        (Rejection::NoRoute { path: shown() }, "no_route", 404, &[]),
        (Rejection::Host { host: shown() }, "host", 400, &[]),
        (Rejection::Misdirected { host: shown(), server_name: shown() }, "misdirected", 421, &[]),
        (OriginRefusal::Missing.into(), "origin", 403, &[]),
        (BadRequest::HostMissing.into(), "bad_request", 400, &[]),
        (
            Rejection::Version,
            "version",
            426,
            &["upgrade: websocket", "connection: Upgrade", "sec-websocket-version: 13"],
        ),
        (
            Rejection::UpgradeRequired,
            "upgrade_required",
            426,
            &["upgrade: websocket", "connection: Upgrade", "sec-websocket-version: 13"],
        ),
        (Rejection::Method, "method", 405, &["allow: GET"]),
        (Rejection::Subprotocol { supported: vec![shown()] }, "subprotocol", 400, &[]),
        (Rejection::Limit, "limit", 503, &["retry-after: 5"]),
        (Rejection::Rate, "rate", 429, &["retry-after: 1"]),
        (Rejection::GroupName { name: shown() }, "group_name", 400, &[]),
        (Rejection::PerIp, "per_ip", 429, &["retry-after: 5"]),
        (Rejection::Draining, "draining", 503, &["retry-after: 5"]),
        (Rejection::SlowBody, "timeout", 408, &[]),
        (Rejection::ClientGone, "client_gone", 499, &[]),
        (upstream(StatusCode::BAD_GATEWAY), "upstream", 502, &[]),
        (upstream(StatusCode::SERVICE_UNAVAILABLE), "upstream", 503, &["retry-after: 1"]),
        (upstream(StatusCode::GATEWAY_TIMEOUT), "upstream", 504, &[]),
        (TooLarge::Uri(1).into(), "too_large", 414, &[]),
        (TooLarge::Headers(1).into(), "too_large", 431, &[]),
        (TooLarge::Head(1).into(), "too_large", 431, &[]),
        (TooLarge::Body(1).into(), "too_large", 413, &[]),
    ]
}

#[test]
fn each_rejection_has_its_status_word_and_headers() {
    for (rejection, label, status, headers) in all() {
        assert_eq!(rejection.label(), label);
        assert_eq!(rejection.status().as_u16(), status, "{label}");
        let found = rejection.headers();
        let found: Vec<_> =
            found.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(found, headers, "{label}");
    }
}

#[test]
fn the_words_are_a_closed_set() {
    let mut used: Vec<_> = all().iter().map(|(rejection, ..)| rejection.label()).collect();
    used.dedup();
    assert_eq!(used, Rejection::LABELS);
}

#[test]
fn what_is_shown_is_one_short_line() {
    let long = Rejection::NoRoute { path: "é".repeat(9000) };
    assert_eq!(long.to_string().chars().count(), "no route takes \"\"…".chars().count() + 200);
    let cases = [
        (Rejection::NoRoute { path: "/a\r\nb".to_owned() }, r#"no route takes "/a\r\nb""#),
        (
            Rejection::Host { host: "evil\u{1b}".to_owned() },
            r#"the host "evil\u{1b}" is not allowed here; `hosts` says which are"#,
        ),
        (
            Rejection::Origin(OriginRefusal::NotAllowed {
                origin: "https://evil.example".to_owned(),
                allowed: vec!["same-host".to_owned(), ".example.com".to_owned()],
            }),
            r#"the origin "https://evil.example" is not allowed here; `origins` has "same-host", ".example.com""#,
        ),
        (
            Rejection::Origin(OriginRefusal::NotAllowed {
                origin: "http://a".to_owned(),
                allowed: Vec::new(),
            }),
            r#"the origin "http://a" is not allowed here; `origins` has none"#,
        ),
    ];
    for (rejection, line) in cases {
        assert_eq!(rejection.to_string(), line);
    }
    for (rejection, ..) in all() {
        assert!(!rejection.to_string().contains(['\n', '\r']), "{rejection:?}");
    }
}

#[test]
fn a_client_is_not_told_what_the_configuration_allows_others() {
    let secret = "https://staging.internal.example";
    let refusal =
        OriginRefusal::NotAllowed { origin: "https://evil.example".into(), allowed: vec![secret.into()] };
    for rejection in [refusal.into(), Rejection::Subprotocol { supported: vec![secret.into()] }] {
        assert!(rejection.to_string().contains(secret), "{rejection}");
        assert!(!rejection.public().contains(secret), "{}", rejection.public());
    }
    assert_eq!(Rejection::Method.public(), Rejection::Method.to_string());
}
