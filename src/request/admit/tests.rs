use std::net::SocketAddr;

use http::{HeaderValue, Request, Version};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::request::{NoOrigin, TrustedProxy};

const PEER: &str = "198.51.100.3:4000";
const PROXY: &str = "10.0.0.1:9";

fn route(
    name: &'static str,
    pattern: Pattern,
    takes: Takes,
    hosts: &[&str],
) -> (Pattern, RouteRules<&'static str>) {
    let rules = RouteRules {
        name: name.into(),
        hosts: hosts.iter().map(|text| text.parse().unwrap()).collect(),
        origins: OriginPolicy {
            patterns: vec!["same-host".parse().unwrap(), "https://app.example.com".parse().unwrap()],
            no_origin: NoOrigin::Allow,
        },
        subprotocols: Vec::new(),
        takes,
        body_bytes_max: None,
        target: name,
    };
    (pattern, rules)
}

/// A chat, what is said to browsers at the same path, one for another host, an admin's, and the rest.
fn rules() -> Rules<&'static str> {
    let hosts = &["a.example", "[::1]"];
    let re_path = |text| Pattern::re_path(text).unwrap();
    let path = |text| Pattern::path(text).unwrap();
    let mut graphql = route("graphql", path("/graphql/"), Takes::WebSocket, hosts);
    graphql.1.subprotocols = vec!["graphql-ws".to_owned(), "graphql-transport-ws".to_owned()];
    graphql.1.origins.no_origin = NoOrigin::Refuse;
    let routes = vec![
        route("chat", re_path(r"^chat/(?P<room>\w+)/$"), Takes::WebSocket, hosts),
        route("other", path("/only/.*"), Takes::Plain, &["b.example"]),
        route("live", path("/(only/)?live/"), Takes::WebSocket, hosts),
        route("hello", path("/chat/hello/"), Takes::Plain, hosts),
        graphql,
        route("second", path("/(?P<all>[^!]*)/second/"), Takes::WebSocket, hosts),
        route("any-host", path("/anywhere/"), Takes::WebSocket, &["b.example"]),
        route("both", path("/both/"), Takes::Both, hosts),
    ];
    let trusted = ["10.0.0.0/8"].iter().map(|text| text.parse::<TrustedProxy>().unwrap()).collect();
    Rules::new(trusted, ForwardedHeaders::XForwarded, HeadSizes::default(), routes).unwrap()
}

/// The head of a request. Headers are lines; `Host: a.example` is added when none of them is a host.
fn head(method: &str, target: &str, lines: &[&str]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        request = request.header("Host", "a.example");
    }
    for line in lines.iter().filter(|line| **line != "Host:") {
        let (name, value) = line.split_once(':').unwrap();
        request = request.header(name, HeaderValue::from_bytes(value.trim_start().as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

const HANDSHAKE: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
    "Sec-WebSocket-Version: 13",
];

fn peer_at(address: &str) -> Arrival<'static> {
    Peer::from(address.parse::<SocketAddr>().unwrap()).into()
}

fn upgrade(target: &str, lines: &[&str]) -> Parts {
    head("GET", target, &[&HANDSHAKE, lines].concat())
}

/// The route's name, or the label, the status and the name of the route that was found before.
fn outcome(head: &Parts, peer: &str) -> String {
    outcome_at(head, &peer_at(peer))
}

fn outcome_at(head: &Parts, arrival: &Arrival<'_>) -> String {
    let rules = rules();
    match admit(&rules, arrival, head) {
        Ok(admitted) => {
            assert_eq!(rules.routes()[admitted.route_index].target, *admitted.target);
            (*admitted.target).to_owned()
        }
        Err(refused) => {
            let rejection = &refused.rejection;
            let route = refused.route.map_or("-", |index| &rules.routes()[index].name);
            format!("{} {} {route}", rejection.status().as_u16(), rejection.label())
        }
    }
}

fn assert_outcomes(cases: &[(Parts, &str)]) {
    for (head, expected) in cases {
        assert_eq!(outcome(head, PEER), *expected, "{head:?}");
    }
}

#[test]
fn the_first_route_that_takes_the_request_wins() {
    assert_outcomes(&[
        (upgrade("/chat/lobby/", &[]), "chat"),
        (upgrade("/chat/lobby/?x=/live/", &[]), "chat"),
        (upgrade("//chat/lobby/", &[]), "chat"),
        (upgrade("/chat/hello/", &[]), "chat"),
        (head("GET", "/chat/hello/", &[]), "hello"),
        (head("POST", "/chat/hello/", &[]), "hello"),
        (head("GET", "/chat/hello/", &["Upgrade: h2c", "Connection: Upgrade"]), "hello"),
        (upgrade("/nowhere/", &[]), "404 no_route -"),
        (head("GET", "/nowhere/", &[]), "404 no_route -"),
        (upgrade("/chat/lobby", &[]), "404 no_route -"),
        (upgrade("/live/", &[]), "live"),
        (upgrade("/only/live/", &[]), "live"),
        (upgrade("/chat/x/second/", &[]), "second"),
    ]);
}

#[test]
fn a_plain_request_to_a_websocket_is_told_to_upgrade() {
    assert_outcomes(&[
        (head("GET", "/chat/lobby/", &[]), "426 upgrade_required chat"),
        (head("POST", "/live/", &[]), "426 upgrade_required live"),
        // `Connection` alone is no upgrade
        (head("GET", "/live/", &["Connection: Upgrade"]), "426 upgrade_required live"),
    ]);
}

#[test]
fn a_route_that_takes_both_is_asked_for_its_origins_only_by_upgrades() {
    let evil = "Origin: https://evil.example";
    assert_outcomes(&[
        (head("GET", "/both/", &[evil]), "both"),
        (upgrade("/both/", &[]), "both"),
        (upgrade("/both/", &[evil]), "403 origin both"),
        (head("GET", "/both/", &["Host: b.example"]), "400 host both"),
    ]);
}

/// A request over HTTP/2: its target has scheme and authority, and there need be no `Host`.
fn http2(method: &str, target: &str, lines: &[&str]) -> Parts {
    let lines = if lines.iter().any(|line| line.starts_with("Host:")) {
        lines.to_vec()
    } else {
        [lines, &["Host:"]].concat()
    };
    let mut head = head(method, target, &lines);
    head.version = Version::HTTP_2;
    head
}

#[test]
fn over_http_2_the_authority_is_the_host_and_a_host_beside_it_the_same() {
    assert_outcomes(&[
        (http2("GET", "https://a.example/chat/hello/", &[]), "hello"),
        (http2("GET", "https://a.example:8443/chat/hello/", &[]), "hello"),
        (http2("GET", "https://a.example/chat/hello/", &["Host: a.example"]), "hello"),
        (http2("GET", "/chat/hello/", &["Host: a.example"]), "hello"),
        (http2("GET", "https://a.example/chat/hello/", &["Host: b.example"]), "400 bad_request -"),
        (
            http2("GET", "https://a.example/chat/hello/", &["Host: a.example", "Host: a.example"]),
            "400 bad_request -",
        ),
        (http2("GET", "/chat/hello/", &[]), "400 bad_request -"),
        (http2("GET", "https://evil.example/chat/hello/", &[]), "400 host -"),
        (http2("GET", "https://me@a.example/chat/hello/", &[]), "400 host -"),
        (http2("GET", "ftp://a.example/chat/hello/", &[]), "400 bad_request -"),
    ]);
}

#[test]
fn a_websocket_over_http_2_is_an_extended_connect() {
    let version = "Sec-WebSocket-Version: 13";
    let target = "https://a.example/chat/hello/";
    let connect = |target: &str, lines: &[&str]| http2("CONNECT", target, lines);
    let cases = [
        (connect(target, &[version]), Some("websocket"), "chat"),
        (connect(target, &[version, "Origin: https://evil.example"]), Some("websocket"), "403 origin chat"),
        (connect(target, &[version, "Origin: https://app.example.com"]), Some("websocket"), "chat"),
        (connect(target, &[]), Some("websocket"), "426 version chat"),
        (connect("https://a.example/other/", &[version]), Some("websocket"), "404 no_route -"),
        (connect(target, &[version]), Some("connect-udp"), "400 bad_request -"),
        (connect(target, &[version]), None, "400 bad_request -"),
        // The words of HTTP/1.1 ask for nothing here.
        (http2("GET", target, &HANDSHAKE), None, "hello"),
    ];
    for (head, protocol, expected) in cases {
        let arrival = Arrival { protocol, tls: true, ..peer_at(PEER) };
        assert_eq!(outcome_at(&head, &arrival), expected, "{head:?} {protocol:?}");
    }
}

#[test]
fn tls_was_asked_for_the_host_of_the_request() {
    let cases = [
        // The name in TLS, Host, peer, outcome
        (Some("a.example"), "Host: a.example", PEER, "hello"),
        (Some("a.example"), "Host: A.Example:8443", PEER, "hello"),
        (Some("a.example"), "Host: a.example.", PEER, "hello"),
        (None, "Host: a.example", PEER, "hello"),
        (Some("b.example"), "Host: a.example", PEER, "421 misdirected -"),
        (Some("www.a.example"), "Host: a.example", PEER, "421 misdirected -"),
        (Some("[::1]"), "Host: a.example", PEER, "421 misdirected -"),
        // Proxies ask for the name by which they know us and pass on the host that they were asked for.
        (Some("b.example"), "Host: a.example", PROXY, "hello"),
    ];
    for (server_name, host, peer, expected) in cases {
        let arrival = Arrival { server_name, tls: true, ..peer_at(peer) };
        assert_eq!(outcome_at(&head("GET", "/chat/hello/", &[host]), &arrival), expected, "{server_name:?}");
    }
}

#[test]
fn the_scheme_is_that_of_the_connection_unless_a_trusted_proxy_knows_better() {
    let cases = [
        // TLS, peer, X-Forwarded-Proto, scheme
        (false, PEER, "https", Scheme::Http),
        (true, PEER, "http", Scheme::Https),
        (false, PROXY, "https", Scheme::Https),
        (true, PROXY, "http", Scheme::Http),
        (true, PROXY, "gopher", Scheme::Https),
    ];
    let rules = rules();
    for (tls, peer, proto, expected) in cases {
        let arrival = Arrival { tls, ..peer_at(peer) };
        let line = format!("X-Forwarded-Proto: {proto}");
        let head = head("GET", "/chat/hello/", &[&line]);
        let admitted = admit(&rules, &arrival, &head).unwrap();
        assert_eq!((admitted.scheme, admitted.from_proxy), (expected, peer == PROXY), "{tls} {peer} {proto}");
    }
}

#[test]
fn a_body_that_says_it_is_too_long_is_refused_before_it_comes() {
    let (pattern, rules) = route("all", Pattern::path("/.*").unwrap(), Takes::Both, &["a.example"]);
    let mut rules = vec![(pattern, rules)];
    rules[0].1.body_bytes_max = Some(10);
    let rules =
        Rules::new(TrustedProxies::default(), ForwardedHeaders::None, HeadSizes::default(), rules).unwrap();
    for (length, status) in [("10", None), ("11", Some(413)), ("99999999999999999999", None)] {
        let line = format!("Content-Length: {length}");
        let refused = admit(&rules, &peer_at(PEER), &head("POST", "/", &[&line])).err();
        assert_eq!(refused.map(|refused| refused.rejection.status().as_u16()), status, "{length}");
    }
}

#[test]
fn an_upgrade_is_not_taken_by_a_plain_route() {
    assert_outcomes(&[(upgrade("/only/x", &["Host: b.example"]), "404 no_route -")]);
}

#[test]
fn a_route_is_passed_over_when_its_hosts_do_not_take_the_host() {
    assert_outcomes(&[
        (head("GET", "/only/x", &["Host: b.example"]), "other"),
        (head("GET", "/only/x", &[]), "400 host other"),
        (upgrade("/anywhere/", &["Host: b.example:8000"]), "any-host"),
        (upgrade("/anywhere/", &[]), "400 host any-host"),
        (upgrade("/chat/x/", &["Host: b.example"]), "400 host chat"),
        // the route that takes the host but wants an upgrade does not hide the one that misses on the host
        (head("GET", "/only/live/", &[]), "400 host other"),
        (head("GET", "/live/", &["Host: b.example"]), "404 no_route -"),
        // a host that no route has is refused before the path is looked at
        (upgrade("/nowhere/", &["Host: evil.example"]), "400 host -"),
        (head("GET", "/%ff", &["Host: evil.example"]), "400 host -"),
    ]);
}

#[test]
fn there_is_exactly_one_host_and_the_target_agrees_with_it() {
    assert_outcomes(&[
        (upgrade("/live/", &["Host:"]), "400 bad_request -"),
        (upgrade("/live/", &["Host: a.example", "Host: a.example"]), "400 bad_request -"),
        (upgrade("/live/", &["Host: a.example", "Host: evil.example"]), "400 bad_request -"),
        (upgrade("/live/", &["Host: "]), "400 host -"),
        (upgrade("/live/", &["Host: a.example, evil.example"]), "400 host -"),
        (upgrade("/live/", &["Host: user@a.example"]), "400 host -"),
        (upgrade("/live/", &["Host: é.example"]), "400 host -"),
        (upgrade("/live/", &["Host: [::1]:8000"]), "live"),
        (upgrade("/live/", &["Host: A.Example."]), "live"),
        (upgrade("http://a.example/live/", &[]), "live"),
        (upgrade("ws://A.example/live/", &[]), "live"),
        (upgrade("http://evil.example/live/", &[]), "400 bad_request -"),
        (upgrade("http://a.example/live/", &["Host: evil.example"]), "400 bad_request -"),
        (upgrade("http://evil.example/live/", &["Host: evil.example"]), "400 host -"),
        (upgrade("http://user@a.example/live/", &[]), "400 bad_request -"),
        (upgrade("http://user@a.example/live/", &["Host: user@a.example"]), "400 host -"),
        (upgrade("http://a.example:80/live/", &[]), "400 bad_request -"),
        (upgrade("http://a.example/live/", &["Host:"]), "400 bad_request -"),
    ]);
}

#[test]
fn a_forwarded_host_counts_from_trusted_proxies_only_and_is_no_list() {
    let cases = [
        (PROXY, &["X-Forwarded-Host: a.example", "Host: proxy_to_app"][..], "live"),
        (PROXY, &["X-Forwarded-Host: b.example", "Host: a.example"], "400 host live"),
        (PROXY, &["X-Forwarded-Host: evil.example", "Host: a.example"], "400 host -"),
        (PROXY, &["X-Forwarded-Host: a.example, a.example"], "400 host -"),
        (PROXY, &["X-Forwarded-Host: a.example", "X-Forwarded-Host: a.example"], "400 host -"),
        (PROXY, &["X-Forwarded-Host: "], "400 host -"),
        (PROXY, &["X-Forwarded-Host: user@a.example"], "400 host -"),
        (PROXY, &["X-Forwarded-Host: a.example", "Host:"], "400 bad_request -"),
        (PROXY, &["X_Forwarded_Host: evil.example"], "live"),
        (PEER, &["X-Forwarded-Host: evil.example"], "live"),
        (PEER, &["X-Forwarded-Host: a.example", "Host: evil.example"], "400 host -"),
    ];
    for (peer, lines, expected) in cases {
        assert_eq!(outcome(&upgrade("/live/", lines), peer), expected, "{peer} {lines:?}");
    }
}

#[test]
fn a_target_that_is_no_path_of_ours_is_refused() {
    let long = |len| format!("/live/?{}", "x".repeat(len - "/live/?".len()));
    assert_outcomes(&[
        (head("CONNECT", "a.example:80", &[]), "400 bad_request -"),
        (head("CONNECT", "/live/", &[]), "400 bad_request -"),
        (head("OPTIONS", "*", &[]), "400 bad_request -"),
        (head("GET", "a.example", &[]), "400 bad_request -"),
        (head("GET", "ftp://a.example/live/", &[]), "400 bad_request -"),
        (upgrade("/chat/%ff/", &[]), "400 bad_request -"),
        (upgrade("/chat/a%00/", &[]), "400 bad_request -"),
        (upgrade("/chat/caf%C3%A9/", &[]), "chat"),
        (upgrade("/chat%2Flobby/", &[]), "chat"),
        (upgrade("/chat/a%2fb/", &[]), "404 no_route -"),
        (upgrade("/chat/lobby/%0a", &[]), "404 no_route -"),
        (upgrade("/%zz/second/", &[]), "second"),
        (upgrade(&long(8 * 1024), &[]), "live"),
        (upgrade(&long(8 * 1024 + 1), &[]), "414 too_large -"),
    ]);
}

#[test]
fn a_method_of_any_name_has_up_to_32_letters() {
    for (letters, expected) in
        [(17, "hello"), (32, "hello"), (33, "400 bad_request -"), (60_000, "400 bad_request -")]
    {
        assert_eq!(outcome(&head(&"X".repeat(letters), "/chat/hello/", &[]), PEER), expected, "{letters}");
    }
    let refused = admit(&rules(), &peer_at(PEER), &head(&"X".repeat(33), "/chat/hello/", &[])).unwrap_err();
    assert_eq!(refused.to_string(), "the method is longer than 32 bytes");
}

#[test]
fn more_than_a_hundred_headers_are_too_many() {
    for (extra, expected) in [(95, "live"), (96, "431 too_large -")] {
        let mut head = upgrade("/live/", &[]);
        for _ in 0..extra {
            head.headers.append("x", HeaderValue::from_static("1"));
        }
        assert_eq!(outcome(&head, PEER), expected);
    }
}

#[test]
fn a_body_has_one_reading() {
    assert_outcomes(&[
        (head("POST", "/chat/hello/", &["Transfer-Encoding: chunked"]), "hello"),
        (head("POST", "/chat/hello/", &["Transfer-Encoding: Chunked"]), "hello"),
        (head("POST", "/chat/hello/", &["Transfer-Encoding: gzip, chunked"]), "400 bad_request -"),
        (head("POST", "/chat/hello/", &["Transfer-Encoding: , chunked"]), "400 bad_request -"),
        (
            head("POST", "/chat/hello/", &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
            "400 bad_request -",
        ),
        (upgrade("/live/", &["Transfer-Encoding: chunked"]), "400 bad_request live"),
        (upgrade("/live/", &["Content-Length: 1"]), "400 bad_request live"),
        (upgrade("/live/", &["Content-Length: 0"]), "live"),
    ]);
}

#[test]
fn origins_are_checked_on_websockets_only_and_before_the_handshake() {
    let evil = "Origin: https://evil.example";
    let mut bad_version = upgrade("/live/", &[evil]);
    bad_version.headers.insert("sec-websocket-version", HeaderValue::from_static("8"));
    assert_outcomes(&[
        (upgrade("/live/", &["Origin: http://a.example"]), "live"),
        (upgrade("/live/", &["Origin: https://app.example.com"]), "live"),
        (upgrade("/live/", &["Origin: http://a.example:8000"]), "403 origin live"),
        (upgrade("/live/", &["Origin: null"]), "403 origin live"),
        (upgrade("/live/", &[evil]), "403 origin live"),
        (upgrade("/live/", &["Origin: http://a.example", "Origin: http://a.example"]), "403 origin live"),
        (upgrade("/graphql/", &[]), "403 origin graphql"),
        (bad_version, "403 origin live"),
        (head("GET", "/chat/hello/", &[evil]), "hello"),
        (head("GET", "/live/", &[evil]), "426 upgrade_required live"),
    ]);
}

#[test]
fn the_origin_is_compared_with_the_host_that_a_trusted_proxy_names() {
    let lines = ["Host: inner", "X-Forwarded-Host: a.example", "Origin: https://a.example"];
    assert_eq!(outcome(&upgrade("/live/", &lines), PROXY), "live");
    let lines = ["Host: a.example", "X-Forwarded-Host: [::1]", "Origin: https://a.example"];
    assert_eq!(outcome(&upgrade("/live/", &lines), PROXY), "403 origin live");
}

#[test]
fn a_handshake_that_breaks_the_rules_is_refused_with_its_reason() {
    let broken = |name: &'static str, value: Option<&'static str>| {
        let mut head = upgrade("/live/", &[]);
        head.headers.remove(name);
        if let Some(value) = value {
            head.headers.insert(name, HeaderValue::from_static(value));
        }
        head
    };
    let mut http_10 = upgrade("/live/", &[]);
    http_10.version = Version::HTTP_10;
    assert_outcomes(&[
        (head("POST", "/live/", &HANDSHAKE), "405 method live"),
        (http_10, "400 bad_request live"),
        (broken("connection", None), "400 bad_request live"),
        (broken("sec-websocket-key", None), "400 bad_request live"),
        (broken("sec-websocket-key", Some("short")), "400 bad_request live"),
        (broken("sec-websocket-version", None), "426 version live"),
        (broken("sec-websocket-version", Some("8")), "426 version live"),
        (upgrade("/live/", &["Sec-WebSocket-Protocol: a b"]), "400 bad_request live"),
    ]);
}

#[test]
fn a_subprotocol_is_chosen_when_the_route_has_some() {
    let origin = "Origin: http://a.example";
    let cases = [
        ("/graphql/", Some("x, graphql-transport-ws, graphql-ws"), Ok(Some("graphql-transport-ws"))),
        ("/graphql/", None, Ok(None)),
        ("/graphql/", Some("x"), Err("subprotocol")),
        ("/live/", Some("x"), Ok(None)),
    ];
    let rules = rules();
    for (target, offered, expected) in cases {
        let offered = offered.map(|names| format!("Sec-WebSocket-Protocol: {names}"));
        let lines: Vec<&str> = [origin].into_iter().chain(offered.as_deref()).collect();
        let found = admit(&rules, &peer_at(PEER), &upgrade(target, &lines));
        let found = found.map(|admitted| admitted.scope.subprotocol);
        let expected = expected.map(|name| name.map(str::to_owned));
        assert_eq!(found.map_err(|refused| refused.rejection.label()), expected, "{target} {lines:?}");
    }
}

#[test]
fn the_scope_says_who_what_and_where() {
    let rules = rules();
    let lines = ["X-Forwarded-For: 6.6.6.6, 203.0.113.7:5", "X-Under_Score: 1", "Cookie: a=b"];
    let head = upgrade("//chat/caf%C3%A9/?a=%20b", &lines);
    let admitted = admit(&rules, &peer_at(PROXY), &head).unwrap();
    assert_eq!((admitted.route_index, *admitted.target), (0, "chat"));
    let scope = admitted.scope;
    assert_eq!(scope.client.to_string(), "203.0.113.7:5");
    assert_eq!(scope.path, "//chat/café/");
    assert_eq!(scope.query, "a=%20b");
    assert_eq!(scope.params.get("room"), Some("café"));
    assert_eq!(scope.headers, head.headers);
    assert_eq!((scope.user, scope.subprotocol), (None, None));
    assert_eq!(admitted.upgrade.unwrap(), handshake::check(&head).unwrap());

    let head = self::head("GET", "/chat/hello/", &[]);
    let admitted = admit(&rules, &peer_at(PEER), &head).unwrap();
    assert_eq!((admitted.scope.query.as_str(), admitted.upgrade), ("", None));
    assert_eq!(admitted.scope.client.to_string(), PEER);
}

#[test]
fn a_refusal_knows_the_client() {
    let rules = rules();
    let head = upgrade("/nowhere/", &["X-Forwarded-For: 203.0.113.7"]);
    for (peer, client) in [(PROXY, "203.0.113.7"), (PEER, PEER)] {
        let refused = admit(&rules, &peer_at(peer), &head).unwrap_err();
        assert_eq!(refused.client.to_string(), client);
    }
}

#[test]
fn a_table_without_routes_refuses_every_path() {
    let rules: Rules<()> =
        Rules::new(TrustedProxies::default(), ForwardedHeaders::None, HeadSizes::default(), Vec::new())
            .unwrap();
    let refused = admit(&rules, &peer_at(PEER), &upgrade("/", &[])).unwrap_err();
    assert_eq!(refused.rejection.label(), "no_route");
}

#[test]
fn hosts_are_judged_as_django_does() {
    let mut run = 0;
    for line in include_str!("../../../tests/fixtures/host_cases.jsonl").lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let note = row["note"].as_str().unwrap();
        let host = row["host"].as_str().unwrap();
        let mut allowed: Vec<_> =
            row["allowed"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        if row["debug"] == true && allowed.is_empty() {
            allowed = vec![".localhost", "127.0.0.1", "[::1]"];
        }
        let patterns: Result<Vec<HostPattern>, _> = allowed.iter().map(|text| text.parse()).collect();
        let never = ["example.com.", "example.com:8000", "*.example.com", ""];
        assert_eq!(patterns.is_err(), allowed.iter().any(|text| never.contains(text)), "{note}");
        run += 1;
        let Ok(hosts) = patterns else {
            assert_eq!(row["accepted"], false, "{note}");
            continue;
        };
        let mode = match row["use_x_forwarded_host"].as_bool() {
            Some(true) => ForwardedHeaders::XForwarded,
            _ => ForwardedHeaders::None,
        };
        let trusted = ["10.0.0.0/8"].iter().map(|text| text.parse::<TrustedProxy>().unwrap()).collect();
        let (pattern, rules) = route("all", Pattern::path("/.*").unwrap(), Takes::Plain, &[]);
        let rules =
            Rules::new(trusted, mode, HeadSizes::default(), vec![(pattern, RouteRules { hosts, ..rules })])
                .unwrap();
        let line = format!("Host: {host}");
        let forwarded = row["x_forwarded_host"].as_str().map(|host| format!("X-Forwarded-Host: {host}"));
        let missing = row["missing_header"] == true;
        let first = if missing { "Host:" } else { line.as_str() };
        let lines: Vec<&str> = [first].into_iter().chain(forwarded.as_deref()).collect();
        let found = admit(&rules, &peer_at(PROXY), &head("GET", "/", &lines));
        if missing {
            // Django goes on with the name of the server; HTTP/1.1 wants 400.
            assert_eq!(found.unwrap_err().rejection, BadRequest::HostMissing.into(), "{note}");
            continue;
        }
        assert_eq!(found.is_ok(), row["accepted"].as_bool().unwrap(), "{note}");
        if let Err(refused) = found {
            assert_eq!(
                (refused.rejection.label(), refused.rejection.status().as_u16()),
                ("host", 400),
                "{note}"
            );
        } else {
            let asked = row["x_forwarded_host"].as_str().filter(|_| mode != ForwardedHeaders::None);
            let host = Host::parse(asked.unwrap_or(host)).unwrap();
            assert_eq!(host.domain(), row["domain"], "{note}");
            assert_eq!(host.port().map_or(String::new(), |port| port.to_string()), row["port"], "{note}");
        }
    }
    assert_eq!(run, 44);
}

proptest! {
    #[test]
    fn no_head_makes_it_panic(
        method in prop_oneof![Just("GET"), Just("POST"), Just("CONNECT"), Just("ODD")],
        target in prop_oneof!["/[ -~é]{0,40}", "(http://)?[ -~]{0,30}", "/(%[0-9a-f]{1,2}|/|\\w){0,20}"],
        lines in proptest::collection::vec(
            (
                prop_oneof![
                    Just("host"), Just("origin"), Just("forwarded"), Just("x-forwarded-for"),
                    Just("x-forwarded-host"), Just("upgrade"), Just("connection"), Just("sec-websocket-key"),
                    Just("sec-websocket-version"), Just("sec-websocket-protocol"), Just("transfer-encoding"),
                ],
                prop_oneof![
                    Just(b"websocket".to_vec()), Just(b"a.example".to_vec()), Just(b"for=\"".to_vec()),
                    "[ -~]{0,30}".prop_map(String::into_bytes),
                    "[\\[\\]:.,;=\"\\\\a-f0-9]{0,30}".prop_map(String::into_bytes),
                    proptest::collection::vec(any::<u8>(), 0..20),
                ],
            ),
            0..8,
        ),
        forwarded in any::<bool>(),
        from_proxy in any::<bool>(),
    ) {
        let mut rules = rules();
        if forwarded {
            rules.forwarded = ForwardedHeaders::Forwarded;
        }
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request = request.header(name, value);
            }
        }
        if let Ok(request) = request.body(()) {
            let peer = peer_at(if from_proxy { PROXY } else { PEER });
            let head = request.into_parts().0;
            if let Err(refused) = admit(&rules, &peer, &head) {
                prop_assert!(Rejection::LABELS.contains(&refused.rejection.label()));
                prop_assert!(refused.rejection.status().is_client_error());
                prop_assert!(!refused.to_string().contains(['\n', '\r']));
            }
        }
    }
}
