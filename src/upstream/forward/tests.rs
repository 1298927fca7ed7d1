use http::Request;

use super::*;

/// The head of a request with these lines.
fn head(target: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::new(());
    *request.uri_mut() = target.parse().unwrap();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request.into_parts().0
}

/// A head as an application reads it.
fn read(head: &[u8]) -> Parts {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut lines);
    assert_eq!(request.parse(head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!(request.version, Some(1));
    let mut parts = Request::new(()).into_parts().0;
    parts.method = request.method.unwrap().parse().unwrap();
    parts.uri = request.path.unwrap().parse().unwrap();
    for line in request.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).unwrap();
        parts.headers.append(name, HeaderValue::from_bytes(line.value).unwrap());
    }
    parts
}

/// The head of a request without a body, as the application gets it.
fn passed_on(sent: &Parts, facts: &Facts<'_>) -> Parts {
    let mut head = Vec::new();
    request_head(sent, facts, BodyLength::Empty, &mut head);
    read(&head)
}

/// The lines but for those that every request is stamped with.
fn rest(parts: &Parts) -> Vec<String> {
    let stamps = ["x-forwarded-", "x-real-ip", "x-request-id", "forwarded", "host"];
    let lines = parts.headers.iter();
    let lines = lines.filter(|(name, _)| !stamps.iter().any(|stamp| name.as_str().starts_with(stamp)));
    let mut lines: Vec<_> =
        lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

fn addr(text: &str) -> ClientAddr {
    ClientAddr::new(text.parse().unwrap(), Some(1))
}

fn direct() -> Facts<'static> {
    Facts {
        client: addr("203.0.113.7"),
        proxies: &[],
        peer_trusted: false,
        port_trusted: false,
        https: false,
        host: "example.com",
        fresh_id: 0xAB,
        fresh_trace: None,
    }
}

/// Names and values.
type Sent<'a> = &'a [(&'a str, &'a str)];

#[test]
fn only_what_is_of_the_request_goes_through() {
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = format!("traceparent: {valid}");
    let cases: &[(Sent<'_>, &[&str])] = &[
        (&[("accept", "a"), ("accept", "b")], &["accept: a", "accept: b"]),
        (&[("connection", "close, X-Secret"), ("x-secret", "1"), ("x-kept", "1")], &["x-kept: 1"]),
        (&[("connection", "one"), ("connection", ", two"), ("one", "1"), ("two", "2")], &[]),
        (&[("connection", "host, x-forwarded-for")], &[]),
        (&[("keep-alive", "1"), ("proxy-connection", "1"), ("proxy", "http://evil")], &[]),
        (&[("proxy-authorization", "Basic x"), ("proxy-authenticate", "x")], &[]),
        (&[("authorization", "Basic x")], &["authorization: Basic x"]),
        (&[("upgrade", "h2c"), ("http2-settings", "x"), ("connection", "Upgrade, HTTP2-Settings")], &[]),
        (&[("te", "gzip")], &[]),
        (&[("te", "gzip, Trailers"), ("trailer", "x")], &["connection: te", "te: trailers"]),
        (&[("transfer-encoding", "chunked"), ("content-length", "5"), ("expect", "100-continue")], &[]),
        (&[("content_length", "5"), ("x_forwarded_for", "6.6.6.6"), ("x_user", "root")], &[]),
        (&[("cookie", "a=1"), ("cookie", "b=2")], &["cookie: a=1; b=2"]),
        (&[("cookie", "a=1; b=2")], &["cookie: a=1; b=2"]),
        (&[("host", "evil.example"), ("host", "other.example")], &[]),
        (&[("traceparent", valid), ("tracestate", "a=b")], &[&traced, "tracestate: a=b"]),
        (&[("traceparent", "00-0-0-01"), ("tracestate", "a=b")], &[]),
        (&[("traceparent", valid), ("traceparent", valid)], &[]),
        (&[("tracestate", "a=b")], &[]),
    ];
    for (sent, seen) in cases {
        let parts = passed_on(&head("/", sent), &direct());
        assert_eq!(rest(&parts), *seen, "{sent:?}");
        assert_eq!(parts.headers.get_all(HOST).into_iter().collect::<Vec<_>>(), ["example.com"], "{sent:?}");
    }
}

#[test]
fn a_trace_begins_here_where_none_came() {
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let made = "00-000000000000000000000000000000ab-00000000000000cd-01";
    let facts = Facts { fresh_trace: Some((0xAB, 0xCD)), ..direct() };
    let cases: &[(Sent<'_>, &str)] = &[
        (&[], made),
        (&[("traceparent", "00-0-0-01")], made),
        (&[("tracestate", "a=b")], made),
        (&[("traceparent", valid)], valid),
        (&[("connection", "TraceParent"), ("traceparent", valid), ("tracestate", "a=b")], made),
        (&[("traceparent", valid), ("tracestate", "a=b"), ("connection", "close, tracestate")], valid),
    ];
    for (sent, expected) in cases {
        let seen = passed_on(&head("/", sent), &facts).headers;
        assert_eq!(seen.get_all(TRACEPARENT).into_iter().collect::<Vec<_>>(), [expected], "{sent:?}");
        assert_eq!(seen.get(TRACESTATE), None);
        assert!(is_traceparent(&seen[TRACEPARENT]));
    }
}

#[test]
fn an_application_hears_of_the_client_from_here_alone() {
    let proxies = ["10.0.0.1", "2001:db8:1::5"].map(|ip| ip.parse().unwrap());
    let behind = Facts { proxies: &proxies, peer_trusted: true, port_trusted: true, ..direct() };
    let behind_one = Facts { proxies: &proxies[..1], port_trusted: false, ..behind };
    let v6 = Facts { client: addr("2001:db8::1"), https: true, ..direct() };
    let cases: &[(Facts<'_>, &str, &str, &str)] = &[
        // what is known, X-Forwarded-For as sent, as seen, Forwarded as seen
        (direct(), "6.6.6.6", "203.0.113.7", "for=203.0.113.7;host=\"example.com\";proto=http"),
        (
            behind,
            "6.6.6.6, 203.0.113.7:99, 2001:db8:1::5",
            "203.0.113.7, 2001:db8:1::5, 10.0.0.1",
            "for=203.0.113.7;host=\"example.com\";proto=http, for=\"[2001:db8:1::5]\", for=10.0.0.1",
        ),
        (
            behind_one,
            "203.0.113.7, 6.6.6.6",
            "203.0.113.7, 10.0.0.1",
            "for=203.0.113.7;host=\"example.com\";proto=http, for=10.0.0.1",
        ),
        (v6, "6.6.6.6", "2001:db8::1", "for=\"[2001:db8::1]\";host=\"example.com\";proto=https"),
    ];
    for (facts, sent, chain, forwarded) in cases {
        let sent = [
            ("x-forwarded-for", *sent),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-server", "evil"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("connection", "x-forwarded-for, x-real-ip"),
        ];
        let headers = passed_on(&head("/", &sent), facts).headers;
        let seen = |name: &str| {
            let values: Vec<_> =
                headers.get_all(name).into_iter().map(|value| value.to_str().unwrap()).collect();
            values.join(" | ")
        };
        let (proto, port) = if facts.https { ("https", "443") } else { ("http", "80") };
        let port = if facts.port_trusted { "1" } else { port };
        assert_eq!(seen("x-forwarded-for"), *chain);
        assert_eq!(seen("x-real-ip"), facts.client.ip().unwrap().to_string());
        assert_eq!(seen("x-forwarded-proto"), proto);
        assert_eq!(seen("x-forwarded-host"), "example.com");
        assert_eq!(seen("x-forwarded-port"), port);
        assert_eq!(seen("x-forwarded-server"), "");
        assert_eq!(seen("forwarded"), *forwarded);
    }
}

#[test]
fn the_port_is_that_of_the_host() {
    for (host, port) in [("example.com:8443", "8443"), ("[::1]:81", "81"), ("[::1]", "80")] {
        let headers = passed_on(&head("/", &[]), &Facts { host, ..direct() }).headers;
        assert_eq!(headers.get("x-forwarded-port").unwrap(), port);
    }
}

#[test]
fn a_request_id_counts_if_a_trusted_peer_sent_a_sane_one() {
    let long = "a".repeat(129);
    let ours = format!("{:032x}", 0xAB);
    let cases: &[(bool, &[&str], &str)] = &[
        (true, &["req-1.2_3"], "req-1.2_3"),
        (false, &["req-1"], &ours),
        (true, &["a b"], &ours),
        (true, &[""], &ours),
        (true, &[&long], &ours),
        (true, &["one", "two"], &ours),
        (true, &[], &ours),
    ];
    for (peer_trusted, sent, seen) in cases {
        let sent: Vec<_> = sent.iter().map(|id| ("x-request-id", *id)).collect();
        let facts = Facts { peer_trusted: *peer_trusted, ..direct() };
        let headers = passed_on(&head("/", &sent), &facts).headers;
        let ids: Vec<_> = headers.get_all("x-request-id").into_iter().collect();
        assert_eq!(ids, [seen], "{sent:?}");
    }
}

#[test]
fn the_target_goes_on_in_origin_form() {
    let cases = [
        ("/a%20b?c=%2F", "/a%20b?c=%2F"),
        ("http://evil.example/a?b", "/a?b"),
        ("http://evil.example", "/"),
        ("*", "*"),
    ];
    for (sent, seen) in cases {
        let parts = passed_on(&head(sent, &[]), &direct());
        assert_eq!(parts.uri.to_string(), seen);
    }
}

#[test]
fn a_request_says_one_length() {
    let cases = [
        // method, length, as seen
        ("GET", BodyLength::Empty, &[][..]),
        ("DELETE", BodyLength::Empty, &[]),
        ("POST", BodyLength::Empty, &["content-length: 0"]),
        ("PATCH", BodyLength::Empty, &["content-length: 0"]),
        ("GET", BodyLength::Known(7), &["content-length: 7"]),
        ("PUT", BodyLength::Known(u64::MAX), &["content-length: 18446744073709551615"]),
        ("GET", BodyLength::Unknown, &["transfer-encoding: chunked"]),
        ("POST", BodyLength::Unknown, &["transfer-encoding: chunked"]),
    ];
    for (method, length, seen) in cases {
        let mut sent = head("/", &[("content-length", "5"), ("transfer-encoding", "chunked")]);
        sent.method = method.parse().unwrap();
        let mut written = Vec::new();
        request_head(&sent, &direct(), length, &mut written);
        let parts = read(&written);
        assert_eq!(
            (parts.method.as_str(), rest(&parts)),
            (method, seen.iter().map(ToString::to_string).collect())
        );
    }
}

#[test]
fn a_handshake_keeps_what_makes_it_one() {
    let sent = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "a"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "https://example.com"),
    ];
    let key = HeaderValue::from_static("b");
    for (key, seen) in [(None, "a"), (Some(&key), "b")] {
        let mut written = Vec::new();
        handshake_head(&head("/ws", &sent), &direct(), key, &mut written);
        let parts = read(&written);
        assert_eq!((parts.method.as_str(), parts.uri.path()), ("GET", "/ws"));
        let key = format!("sec-websocket-key: {seen}");
        let expected = [
            "connection: Upgrade",
            "origin: https://example.com",
            "sec-websocket-extensions: permessage-deflate",
            &key,
            "sec-websocket-version: 13",
            "upgrade: websocket",
        ];
        assert_eq!(rest(&parts), expected);
    }
}

#[test]
fn hop_by_hop_headers_of_an_answer_end_here() {
    let mut headers = head(
        "/",
        &[
            ("connection", "close, X-Hop, Content-Length"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x"),
            ("proxy-authenticate", "Basic"),
            ("content-length", "5"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ],
    )
    .headers;
    clean_answer(&mut headers);
    let mut left: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(left, ["content-length: 5", "set-cookie: a=1", "set-cookie: b=2"]);
}

#[test]
fn a_switch_is_to_the_websocket_that_was_asked_for() {
    let right = [("connection", "Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-accept", "right")];
    let with = |more: &[(&'static str, &'static str)]| [&right[..], more].concat();
    let without = |name: &str| right.into_iter().filter(|(one, _)| *one != name).collect::<Vec<_>>();
    let cases = [
        (right.to_vec(), true),
        (with(&[("sec-websocket-protocol", "chat")]), true),
        (with(&[("sec-websocket-protocol", "other")]), false),
        (with(&[("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "chat")]), false),
        (with(&[("sec-websocket-accept", "right")]), false),
        (without("connection"), false),
        (without("upgrade"), false),
        (without("sec-websocket-accept"), false),
    ];
    for (lines, is_right) in cases {
        let headers = head("/", &lines).headers;
        let checked = check_switch(&headers, &HeaderValue::from_static("right"), &["chat".to_owned()]);
        assert_eq!(checked.is_ok(), is_right, "{lines:?}");
    }
}

#[test]
fn the_port_is_that_of_the_host_or_what_a_trusted_proxy_says() {
    let cases: &[(&str, bool, Sent<'_>, &str)] = &[
        // the host, whether the proxy is trusted, X-Forwarded-Port as sent; as seen
        ("example.com", false, &[], "80"),
        ("example.com", false, &[("x-forwarded-port", "8443")], "80"),
        ("example.com", true, &[("x-forwarded-port", "8443")], "8443"),
        ("example.com", true, &[("x-forwarded-port", "8443"), ("x-forwarded-port", "1")], "80"),
        ("example.com", true, &[("x-forwarded-port", "+8443")], "80"),
        ("example.com", true, &[("x-forwarded-port", "0")], "80"),
        ("example.com", true, &[("x-forwarded-port", "99999")], "80"),
        ("example.com:8443", true, &[("x-forwarded-port", "1")], "8443"),
    ];
    for (host, trusted, sent, seen) in cases {
        let facts = Facts { host, peer_trusted: *trusted, port_trusted: *trusted, ..direct() };
        let headers = passed_on(&head("/", sent), &facts).headers;
        let ports: Vec<_> = headers.get_all(X_FORWARDED_PORT).into_iter().collect();
        assert_eq!(ports, [seen], "{host:?} {sent:?}");
    }
}
