//! Which requests are let in, and what the others are told.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::{Client, Response, dial, dial_from, exchange, handshake, read_head, request};
use crate::support::server::TestServer;
use crate::support::wait_until;

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = "/echo/"
handler = "echo"

[[route]]
name = "strict"
path = "/strict/"
handler = "echo"
origins = ["https://app.example.com:8443"]
no_origin = "refuse"

[[route]]
name = "spoken"
path = "/spoken/"
handler = "echo"
subprotocols = ["chat.v1", "chat.v2"]

[[route]]
name = "elsewhere"
path = "/elsewhere/"
handler = "echo"
hosts = [".example.com"]

[[route]]
name = "rooms"
re_path = '^rooms/(?P<room_name>.+)/$'
handler = "room"
group = "room_{room_name}"

[[route]]
name = "page"
path = "/page"
handler = "respond"
body = "hello"
"#;

/// The lines of a handshake but for the request line, which must get through as they are.
const LINES: [&str; 5] = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A request of these lines.
fn head(request_line: &str, lines: &[&str]) -> String {
    format!("{request_line}\r\n{}\r\n\r\n", lines.join("\r\n"))
}

/// A handshake for a path with the line that begins as `line` does put in place of the usual one, or added.
fn handshake_with(path: &str, line: &str) -> String {
    let name = |line: &str| line.split(':').next().unwrap().to_lowercase();
    let kept = LINES.into_iter().filter(|usual| name(usual) != name(line));
    head(&format!("GET {path} HTTP/1.1"), &kept.chain([line]).collect::<Vec<_>>())
}

fn handshake_without(path: &str, line: &str) -> String {
    let kept: Vec<_> = LINES.into_iter().filter(|usual| !usual.starts_with(line)).collect();
    head(&format!("GET {path} HTTP/1.1"), &kept)
}

fn handshakes(route: &str, result: &str) -> String {
    format!("anteroom_websocket_handshakes_total{{result=\"{result}\",route=\"{route}\"}}")
}

/// Sends a handshake that is to be refused, and looks for the reason in the answer, the log and the metrics.
fn assert_refused(server: &TestServer, text: &str, status: u16, reason: &str, route: &str) -> Response {
    let series = handshakes(route, reason);
    let (before, log_len) = (server.metric(&series), server.log().len());
    let response = request(server.address(), text);
    assert_eq!(response.status, status, "{text}{response:?}");
    assert!(response.body.starts_with(&format!("{reason}: ")), "{text}{response:?}");
    let words = [&format!("status={status}"), &format!("reason=\"{reason}\""), &format!("route=\"{route}\"")];
    server.wait_log_after(log_len, &words.map(String::as_str));
    server.wait_metric(&series, before + 1.0);
    response
}

#[test]
fn a_refusal_has_its_status_and_reason_in_the_answer_the_log_and_the_metrics() {
    let server = TestServer::start(ROUTES);
    let two_hosts = handshake_with("/echo/", "Host: localhost\r\nHost: localhost");
    let post = head("POST /echo/ HTTP/1.1", &LINES);
    let old = head("GET /echo/ HTTP/1.0", &LINES);
    let body = handshake_with("/echo/", "Content-Length: 3") + "abc";
    let two_keys = handshake_with("/echo/", &[LINES[4], LINES[4]].join("\r\n"));
    let two_versions = handshake_with("/echo/", &[LINES[3], LINES[3]].join("\r\n"));
    let elsewhere = head("GET http://example.com/echo/ HTTP/1.1", &LINES);
    let long = handshake_with(&format!("/{}", "x".repeat(9_000)), LINES[0]);
    let cases = [
        // the handshake, status, reason, route
        (handshake_without("/echo/", "Host"), 400, "bad_request", "_none"),
        (two_hosts, 400, "bad_request", "_none"),
        (elsewhere, 400, "bad_request", "_none"),
        (handshake_with("/echo/", "Host: evil.example"), 400, "host", "_none"),
        (handshake_with("/echo/", "Host: localhost:x"), 400, "host", "_none"),
        (handshake_with("/echo/", "Host: user@localhost"), 400, "host", "_none"),
        (handshake_with("/elsewhere/", "Host: localhost"), 400, "host", "elsewhere"),
        (handshake_with("/nowhere/", LINES[0]), 404, "no_route", "_none"),
        (handshake_with("/page", LINES[0]), 404, "no_route", "_none"),
        (handshake_with("/echo/%ff", LINES[0]), 400, "bad_request", "_none"),
        (handshake_with("/echo/%00", LINES[0]), 400, "bad_request", "_none"),
        (long, 414, "too_large", "_none"),
        (handshake_with("/echo/", "Origin: https://evil.example"), 403, "origin", "echo"),
        (handshake_with("/echo/", "Origin: null"), 403, "origin", "echo"),
        (handshake_with("/echo/", "Origin: http://localhost.evil.example"), 403, "origin", "echo"),
        (handshake_with("/echo/", "Origin: http://localhost@evil.example"), 403, "origin", "echo"),
        (
            handshake_with("/echo/", "Origin: http://localhost\r\nOrigin: http://localhost"),
            403,
            "origin",
            "echo",
        ),
        (handshake_with("/strict/", LINES[0]), 403, "origin", "strict"),
        (handshake_with("/strict/", "Origin: https://app.example.com"), 403, "origin", "strict"),
        (handshake_with("/strict/", "Origin: http://app.example.com:8443"), 403, "origin", "strict"),
        (handshake_with("/strict/", "Origin: https://app.example.com:8444"), 403, "origin", "strict"),
        (handshake_with("/strict/", "Origin: http://localhost"), 403, "origin", "strict"),
        (post, 405, "method", "echo"),
        (old, 400, "bad_request", "echo"),
        (handshake_without("/echo/", "Connection"), 400, "bad_request", "echo"),
        (handshake_with("/echo/", "Sec-WebSocket-Version: 8"), 426, "version", "echo"),
        (handshake_without("/echo/", "Sec-WebSocket-Version"), 426, "version", "echo"),
        (two_versions, 426, "version", "echo"),
        (handshake_with("/echo/", "Sec-WebSocket-Key: short"), 400, "bad_request", "echo"),
        (handshake_with("/echo/", "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="), 400, "bad_request", "echo"),
        (handshake_without("/echo/", "Sec-WebSocket-Key"), 400, "bad_request", "echo"),
        (two_keys, 400, "bad_request", "echo"),
        (body, 400, "bad_request", "echo"),
        (handshake_with("/spoken/", "Sec-WebSocket-Protocol: other"), 400, "subprotocol", "spoken"),
        (handshake_with("/rooms/a%20b/", LINES[0]), 400, "group_name", "rooms"),
        (handshake_with(&format!("/rooms/{}/", "x".repeat(95)), LINES[0]), 400, "group_name", "rooms"),
    ];
    for (text, status, reason, route) in cases {
        assert_refused(&server, &text, status, reason, route);
    }
    server.stop();
}

#[test]
fn a_refusal_has_the_headers_that_its_status_asks_for() {
    let server = TestServer::start(ROUTES);
    let version = assert_refused(
        &server,
        &handshake_with("/echo/", "Sec-WebSocket-Version: 8"),
        426,
        "version",
        "echo",
    );
    assert_eq!(version.header("sec-websocket-version"), Some("13"));
    let method = assert_refused(&server, &head("POST /echo/ HTTP/1.1", &LINES), 405, "method", "echo");
    assert_eq!(method.header("allow"), Some("GET"));
    let plain = server.get("/echo/");
    assert_eq!(plain.status, 426);
    assert!(plain.body.starts_with("upgrade_required: "), "{plain:?}");
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    assert!(plain.header("connection").unwrap().to_lowercase().contains("upgrade"), "{plain:?}");
    server.wait_metric("anteroom_http_requests_total{code=\"426\",route=\"echo\"}", 1.0);
    server.stop();
}

#[test]
fn plain_requests_are_answered_and_counted_by_route_and_status() {
    let server = TestServer::start(ROUTES);
    let page = server.get("/page");
    assert_eq!((page.status, page.body.as_str()), (200, "hello"));
    let head =
        request(server.address(), "HEAD /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.header("content-length"), head.body.as_str()), (200, Some("5"), ""));
    let missing = server.get("/missing");
    assert_eq!(missing.status, 404);
    assert!(missing.body.starts_with("no_route: "), "{missing:?}");
    server.wait_metric("anteroom_http_requests_total{code=\"200\",route=\"page\"}", 2.0);
    server.wait_metric("anteroom_http_requests_total{code=\"404\",route=\"_none\"}", 1.0);
    server.stop();
}

#[test]
fn the_host_is_checked_on_every_request_of_a_connection() {
    let server = TestServer::start(ROUTES);
    let kept_alive = || {
        let mut stream = dial(server.address());
        for host in ["localhost", "localhost:8000"] {
            let get = format!("GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(exchange(&mut stream, &get).status, 200, "{host}");
        }
        stream
    };
    for host in ["evil.example", "a.example.com"] {
        let get = format!("GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(exchange(&mut kept_alive(), &get).status, 400, "{host}");
    }
    // The handshake at the end of a kept-alive connection too.
    let refused = exchange(&mut kept_alive(), &handshake_with("/echo/", "Host: evil.example"));
    assert_eq!(refused.status, 400);
    let mut client = Client::handshake_over(kept_alive(), &handshake("/echo/", &[])).unwrap();
    client.send_text("hi");
    assert_eq!(client.next_text(), "hi");
    drop(client);
    server.stop();
}

#[test]
fn hosts_of_a_route_and_origins_are_taken_as_written() {
    let server = TestServer::start(ROUTES);
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("/echo/", &[]),
        ("/echo/", &[("Host", "LOCALHOST:8000")]),
        ("/echo/", &[("Host", "[::1]:8000")]),
        ("/echo/", &[("Host", "localhost:8000"), ("Origin", "http://localhost:8000")]),
        ("/strict/", &[("Origin", "https://app.example.com:8443")]),
        ("/strict/", &[("Origin", "https://APP.example.com:8443")]),
        ("/elsewhere/", &[("Host", "chat.example.com")]),
        ("/elsewhere/", &[("Host", "example.com")]),
    ];
    for (path, headers) in cases {
        let mut client = server
            .try_connect(path, headers)
            .unwrap_or_else(|refused| panic!("{path} {headers:?}: {refused:?}"));
        client.send_text("hi");
        assert_eq!(client.next_text(), "hi");
    }
    server.wait_metric(&handshakes("echo", "accepted"), 4.0);
    server.stop();
}

#[test]
fn the_first_subprotocol_of_the_client_that_the_route_speaks_is_chosen() {
    let server = TestServer::start(ROUTES);
    let cases = [
        // path, offer, answer
        ("/spoken/", Some("other, chat.v2, chat.v1"), Some("chat.v2")),
        ("/spoken/", Some("chat.v1"), Some("chat.v1")),
        ("/spoken/", None, None),
        ("/echo/", Some("chat.v1"), None),
    ];
    for (path, offer, answer) in cases {
        let headers: Vec<_> = offer.map(|offer| ("Sec-WebSocket-Protocol", offer)).into_iter().collect();
        let client = server.try_connect(path, &headers).unwrap();
        assert_eq!(client.handshake.header("sec-websocket-protocol"), answer, "{path} {offer:?}");
        assert_eq!(client.handshake.header("sec-websocket-extensions"), None);
    }
    server.stop();
}

#[test]
fn forwarded_headers_count_from_trusted_peers_alone() {
    let routes = r#"
        [[route]]
        name = "whoami"
        path = "/whoami/"
        handler = "room"
        format = "text"
        username = "{client}"
    "#;
    let modes: [(&str, &[&str], &str); 8] = [
        // what proxies write, header lines, the client
        ("x-forwarded", &["X-Forwarded-For: 203.0.113.7"], "203.0.113.7"),
        ("x-forwarded", &["X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("x-forwarded", &["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        ("x-forwarded", &["X-Forwarded-For: 203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
        ("x-forwarded", &["Forwarded: for=203.0.113.7"], "127.0.0.1"),
        (
            "forwarded",
            &["Forwarded: for=6.6.6.6, for=\"[2001:db8::7]:4711\";proto=https, for=10.0.0.2"],
            "2001:db8::7",
        ),
        ("forwarded", &["X-Forwarded-For: 203.0.113.7"], "127.0.0.1"),
        ("none", &["X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.7"], "127.0.0.1"),
    ];
    for mode in ["x-forwarded", "forwarded", "none"] {
        let trust = format!("[trust]\nproxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]\nheaders = \"{mode}\"\n");
        let server = TestServer::start(&(trust + routes));
        for (_, lines, client) in modes.iter().filter(|(of, _, _)| *of == mode) {
            for (peer, seen) in [("127.0.0.1", *client), ("127.0.0.2", "127.0.0.2")] {
                let log_len = server.log().len();
                let text = handshake_with("/whoami/", &lines.join("\r\n"));
                let stream = dial_from(peer.parse().unwrap(), server.address());
                let mut socket = Client::handshake_over(stream, text.as_bytes()).unwrap();
                assert_eq!(socket.next_text(), format!("[Welcome {seen}!]"), "{mode} {lines:?} from {peer}");
                let line = server.wait_log_after(log_len, &["accepted", "route=\"whoami\""]);
                let named = line.split("client=").nth(1).unwrap().split(' ').next().unwrap();
                assert!(named.trim_start_matches('[').starts_with(seen), "{line}");
            }
        }
        server.stop();
    }
}

#[test]
fn a_trusted_proxy_says_for_which_host_the_request_is() {
    let trust = "[trust]\nproxies = [\"127.0.0.1/32\"]\nheaders = \"x-forwarded\"\n";
    let server = TestServer::start(&format!("{trust}{ROUTES}"));
    let handshake = handshake("/elsewhere/", &[("X-Forwarded-Host", "chat.example.com")]);
    let from = |peer: &str| {
        let peer: IpAddr = peer.parse().unwrap();
        Client::handshake_over(dial_from(peer, server.address()), &handshake)
            .map_err(|refused| refused.status)
    };
    from("127.0.0.1").unwrap();
    assert_eq!(from("127.0.0.2").unwrap_err(), 400);
    server.stop();
}

/// A configuration with these limits.
fn limited(limits: &str) -> String {
    format!(
        "[server]\nadmin = \"127.0.0.1:0\"\ndrain = {{ grace = \"0s\", shutdown = \"0s\" }}\nlimits = {limits}\n{ROUTES}"
    )
}

#[test]
fn sockets_beyond_the_limit_are_told_to_come_later_until_one_closes() {
    let server = TestServer::start(&limited("{ connections = 2 }"));
    let one = server.connect("/echo/");
    let mut two = server.connect("/echo/");
    let refused = assert_refused(&server, &handshake_with("/echo/", LINES[0]), 503, "limit", "echo");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    // A plain request is no socket.
    assert_eq!(server.get("/page").status, 200);
    two.send_text("still here");
    assert_eq!(two.next_text(), "still here");
    one.hang_up();
    wait_until("there is room again", || server.try_connect("/echo/", &[]).is_ok());
    drop(two);
    server.stop();
}

#[test]
fn connections_beyond_twice_the_limit_are_closed_unserved() {
    let server = TestServer::start(&limited("{ connections = 1 }"));
    let _idle = [dial(server.address()), dial(server.address())];
    server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 2.0);
    let (answer, _) = read_head(&mut dial(server.address()));
    assert_eq!(answer.status, 0);
    server.wait_metric("anteroom_tcp_connections_refused_total{listener=\"public\",reason=\"limit\"}", 1.0);
    server.stop();
}

#[test]
fn sockets_of_one_address_are_limited_and_those_of_others_are_not() {
    let server = TestServer::start(&limited("{ per_ip = 1 }"));
    let one = server.connect("/echo/");
    let refused = assert_refused(&server, &handshake_with("/echo/", LINES[0]), 429, "per_ip", "echo");
    assert!(refused.header("retry-after").is_some());
    let other = dial_from("127.0.0.2".parse().unwrap(), server.address());
    Client::handshake_over(other, &handshake("/echo/", &[])).unwrap();
    one.hang_up();
    wait_until("there is room again", || server.try_connect("/echo/", &[]).is_ok());
    server.stop();
}

#[test]
fn handshakes_beyond_the_rate_are_told_to_come_later() {
    let server = TestServer::start(&limited("{ handshakes_per_second = 1 }"));
    let mut open = vec![server.connect("/echo/")];
    let refused = loop {
        match server.try_connect("/echo/", &[]) {
            Ok(client) => open.push(client),
            Err(refused) => break refused,
        }
        assert!(open.len() < 20, "twenty handshakes in less than twenty seconds");
    };
    assert_eq!(refused.status, 429);
    assert!(refused.body.starts_with("rate: "), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    server.wait_log(&["status=429", "reason=\"rate\""]);
    assert!(server.metric(&handshakes("echo", "rate")) >= 1.0);
    // Plain requests and open sockets are not concerned.
    assert_eq!(server.get("/page").status, 200);
    open[0].send_text("hi");
    assert_eq!(open[0].next_text(), "hi");
    wait_until("a handshake is let in again", || server.try_connect("/echo/", &[]).is_ok());
    drop(open);
    server.stop();
}

#[test]
fn a_silent_or_slow_head_is_cut_off_after_ten_seconds_and_a_quiet_connection_is_not() {
    let server = TestServer::start(ROUTES);
    let begun = Instant::now();
    let mut silent = dial(server.address());
    let mut slow = dial(server.address());
    let mut kept_alive = dial(server.address());
    assert_eq!(exchange(&mut kept_alive, "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    slow.write_all(b"GET /echo/ HTTP/1.1\r\n").unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // Each turn waits for an answer first, then sends one byte more.
    wait_for_end("the slow head", begun, || {
        let ended = std::io::Read::read(&mut slow, &mut [0; 1024]);
        let waiting = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        !waiting || slow.write_all(b"x").is_err()
    });
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (answer, _) = read_head(&mut silent);
    assert!(matches!(answer.status, 0 | 408), "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_secs(9), "cut off after {:?}", begun.elapsed());
    assert_eq!(exchange(&mut kept_alive, "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    drop(kept_alive);
    let open = "anteroom_tcp_connections{listener=\"public\"}";
    server.wait_metric(open, 0.0);
    server.stop();
}

fn wait_for_end(what: &str, begun: Instant, mut ended: impl FnMut() -> bool) {
    while !ended() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} is still open after 20 s");
    }
}

#[test]
fn a_head_that_is_too_large_is_answered_with_431() {
    let server = TestServer::start(ROUTES);
    let get = |lines: &str| format!("GET /page HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let unreadable = "anteroom_http_requests_total{code=\"431\",route=\"_none\"}";
    assert_eq!(request(server.address(), &get(&"X-Many: y\r\n".repeat(200))).status, 431);
    server.wait_metric(unreadable, 1.0);
    server.wait_log(&["refused", "status=431", "reason=\"too_large\""]);
    let line = format!("X-Part: {}\r\n", "y".repeat(1_000));
    assert_eq!(request(server.address(), &get(&line.repeat(60))).status, 200);
    let answer = request(server.address(), &get(&line.repeat(66)));
    assert_eq!((answer.status, answer.body.split(':').next()), (431, Some("too_large")));
    server.wait_metric(unreadable, 2.0);
    let mut stream = dial(server.address());
    // The server answers before it has read all of this, and its end may overtake the answer.
    let sent = stream.write_all(get(&format!("X-Long: {}\r\n", "y".repeat(1 << 20))).as_bytes());
    let (answer, _) = read_head(&mut stream);
    assert!(answer.status == 431 || (answer.status == 0 && sent.is_err()), "{answer:?}");
    assert_eq!(server.get("/page").status, 200);
    server.stop();
}

#[test]
fn what_hyper_answers_by_itself_is_counted_as_what_it_was() {
    let server = TestServer::start(ROUTES);
    let counted = |code: &str| format!("anteroom_http_requests_total{{code=\"{code}\",route=\"_none\"}}");
    // Longer than hyper reads as a target, and short enough for its buffer.
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(65_600));
    assert_eq!(request(server.address(), &long).status, 414);
    server.wait_metric(&counted("414"), 1.0);
    server.wait_log(&["refused", "status=414", "reason=\"too_large\""]);
    assert_eq!(request(server.address(), "GET\r\n\r\n").status, 400);
    server.wait_metric(&counted("400"), 1.0);
    // HTTP/2 in clear is none of them.
    assert_eq!(request(server.address(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status, 0);
    server.wait_log(&["refused", "reason=\"http2_in_clear\""]);
    let metrics = server.metrics();
    assert_eq!(
        (metrics[&counted("400")], metrics[&counted("414")], metrics[&counted("431")]),
        (1.0, 1.0, 0.0)
    );
    server.stop();
}

#[test]
fn a_flood_of_refusals_that_stops_is_summed_up_in_the_log() {
    let server = TestServer::start(ROUTES);
    let mut stream = dial(server.address());
    // In one go, so that they come within a second.
    stream.write_all("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200).as_bytes()).unwrap();
    server.wait_log(&["refusals left out of the log", "left_out="]);
    server.stop();
}
