//! Heads of requests: the first line says how they arrive (the peer, then `tls`, `sni=NAME` or `h2=PROTOCOL`), the rest
//! is the head as it is on the wire.

#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;

use anteroom::listener::Peer;
use anteroom::request::{
    Arrival, ForwardedHeaders, HeadSizes, HostPattern, NoOrigin, OriginPolicy, Rejection, RouteRules, Rules,
    Takes, TrustedProxies, TrustedProxy, admit, resolve,
};
use anteroom::route::Pattern;
use anteroom::scope::ClientAddr;
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{Request, Version};
use libfuzzer_sys::{Corpus, fuzz_target};

const SIZES: HeadSizes = HeadSizes { target_bytes_max: 256, head_bytes_max: 2048, headers_max: 20 };

struct Edge {
    rules: Rules<()>,
    patterns: Vec<Pattern>,
    trusted: TrustedProxies,
    forwarded: ForwardedHeaders,
}

static EDGES: LazyLock<[Edge; 2]> =
    LazyLock::new(|| [ForwardedHeaders::XForwarded, ForwardedHeaders::Forwarded].map(edge));

fn edge(forwarded: ForwardedHeaders) -> Edge {
    let route =
        |name: &str, pattern: Pattern, takes, hosts: &[&str], origins: &[&str], subprotocols: &[&str]| {
            let rules = RouteRules {
                name: name.into(),
                hosts: hosts.iter().map(|text| text.parse::<HostPattern>().unwrap()).collect(),
                origins: OriginPolicy {
                    patterns: origins.iter().map(|text| text.parse().unwrap()).collect(),
                    no_origin: if origins.is_empty() { NoOrigin::Allow } else { NoOrigin::Refuse },
                },
                subprotocols: subprotocols.iter().map(|&name| name.to_owned()).collect(),
                takes,
                body_bytes_max: Some(1000),
                target: (),
            };
            (pattern, rules)
        };
    let path = |text| Pattern::path(text).unwrap();
    let re_path = |text| Pattern::re_path(text).unwrap();
    let own = ["a.example", "[::1]", ".b.example"];
    let routes = vec![
        route("chat", re_path(r"^chat/(?P<room>\w+)/$"), Takes::WebSocket, &own, &["same-host"], &[]),
        route("api", path("/api/"), Takes::WebSocket, &own, &["https://app.a.example"], &["v1", "v2"]),
        route("any", path("/any/"), Takes::WebSocket, &["*"], &[], &[]),
        route("plain", path("/chat/hello/"), Takes::Plain, &own, &[], &[]),
        route("all", path("/both/.*"), Takes::Both, &["b.example"], &["*"], &["v1"]),
    ];
    let trusted: TrustedProxies =
        ["10.0.0.0/8", "unix"].iter().map(|text| text.parse::<TrustedProxy>().unwrap()).collect();
    let patterns = routes.iter().map(|(pattern, _)| pattern.clone()).collect();
    let rules = Rules::new(trusted.clone(), forwarded, SIZES, routes).unwrap();
    Edge { rules, patterns, trusted, forwarded }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(end) = data.iter().position(|&byte| byte == b'\n') else { return Corpus::Reject };
    let Ok(arrival) = str::from_utf8(&data[..end]) else { return Corpus::Reject };
    let mut words = arrival.split_ascii_whitespace();
    let peer = match words.next() {
        Some("unix") => Peer::Unix,
        Some(text) => match text.parse::<SocketAddr>() {
            Ok(address) => address.into(),
            Err(_) => return Corpus::Reject,
        },
        None => return Corpus::Reject,
    };
    let mut arrival = Arrival::from(peer);
    let mut version = None;
    for word in words {
        match word.split_once('=') {
            Some(("sni", name)) => arrival.server_name = Some(name),
            Some(("h2", protocol)) => {
                version = Some(Version::HTTP_2);
                arrival.protocol = Some(protocol);
            }
            _ => arrival.tls |= word == "tls",
        }
    }
    let Some(head) = read(&data[end + 1..], version) else { return Corpus::Reject };
    for edge in EDGES.iter() {
        check(edge, &arrival, &head);
    }
    Corpus::Keep
});

fn check(edge: &Edge, arrival: &Arrival<'_>, head: &Parts) {
    let found = resolve(arrival.peer, &head.headers, &edge.trusted, edge.forwarded);
    let from_proxy = edge.trusted.trusts(ClientAddr::from(arrival.peer));
    let admitted = match admit(&edge.rules, arrival, head) {
        Ok(admitted) => admitted,
        Err(refused) => {
            assert_eq!(refused.client, found.client);
            let rejection = refused.rejection;
            assert!(Rejection::LABELS.contains(&rejection.label()));
            assert!(rejection.status().is_client_error());
            for line in [rejection.to_string(), rejection.public()] {
                assert!(!line.is_empty() && !line.chars().any(char::is_control), "{line:?}");
                // Whatever a client sends, a line of the log stays a line.
                assert!(line.len() < 4096, "{line:?}");
            }
            assert!(refused.route.is_none_or(|index| index < edge.patterns.len()));
            return;
        }
    };

    let route = &edge.rules.routes()[admitted.route_index];
    assert!(route.hosts.iter().any(|pattern| pattern.matches(&admitted.host)), "the host is allowed");
    assert!(head.headers.get_all(HOST).iter().count() <= 1);
    assert!(head.headers.len() <= SIZES.headers_max);
    assert_eq!((admitted.scope.client, admitted.from_proxy), (found.client, from_proxy));
    if !from_proxy {
        assert_eq!(admitted.scope.client, ClientAddr::from(arrival.peer));
        assert!(arrival.server_name.is_none_or(|name| name == admitted.host.domain()));
        let sent = head.headers.get(HOST).map(|host| host.as_bytes());
        let sent = sent.or(head.uri.authority().map(|authority| authority.as_str().as_bytes()));
        assert!(sent.unwrap().eq_ignore_ascii_case(admitted.host.as_str().as_bytes()));
    }

    let path = &admitted.scope.path;
    assert!(path.starts_with('/') && !path.contains('\0'));
    let captured = edge.patterns[admitted.route_index].captures(path);
    assert_eq!(captured.as_ref(), Some(&admitted.scope.params));
    let upgrade = arrival.wants_upgrade(head);
    assert_eq!(admitted.upgrade.is_some(), upgrade);
    match route.takes {
        Takes::WebSocket => assert!(upgrade),
        Takes::Plain => assert!(!upgrade),
        Takes::Both => {}
    }
    // Nothing before it in the file takes the same.
    for (index, earlier) in edge.rules.routes().iter().enumerate().take(admitted.route_index) {
        let kind = match earlier.takes {
            Takes::WebSocket => upgrade,
            Takes::Plain => !upgrade,
            Takes::Both => true,
        };
        let host = earlier.hosts.iter().any(|pattern| pattern.matches(&admitted.host));
        assert!(!(kind && host && edge.patterns[index].captures(path).is_some()));
    }

    let Some(handshake) = admitted.upgrade else { return };
    assert_eq!(route.origins.check(head.headers.get_all(ORIGIN), &admitted.host), Ok(()));
    assert_eq!(handshake.accept.is_none(), head.version == Version::HTTP_2);
    if let Some(chosen) = &admitted.scope.subprotocol {
        assert!(route.subprotocols.contains(chosen) && handshake.subprotocols.contains(chosen));
    } else {
        assert!(route.subprotocols.is_empty() || handshake.subprotocols.is_empty());
    }
}

/// Reads a head as hyper does; over HTTP/2 the same text stands for the headers there.
fn read(bytes: &[u8], version: Option<Version>) -> Option<Parts> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    if parsed.parse(bytes).ok()?.is_partial() {
        return None;
    }
    let http = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let request =
        Request::builder().method(parsed.method?).uri(parsed.path?).version(version.unwrap_or(http));
    let request = parsed.headers.iter().fold(request, |request, it| request.header(it.name, it.value));
    Some(request.body(()).ok()?.into_parts().0)
}
