//! Passing requests on: what the application must have seen, and what becomes of its answers.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::application::{Application, Reply, Seen};
use crate::support::client::{Client, dial, dial_narrow, exchange, frame, handshake, read_head, request};
use crate::support::pause;
use crate::support::server::TestServer;

/// Everything is passed on, and a proxy at 127.0.0.1 is believed only where a test says so.
fn routes(application: &Application, more: &str) -> String {
    format!(
        "{more}\n[upstream.django]\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"django\"\n\
         hosts = [\"localhost\", \"app.example\"]\n",
        application.address
    )
}

fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Application, TestServer) {
    start_with("", answer)
}

fn start_with(
    more: &str,
    answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Application, TestServer) {
    let application = Application::start(answer);
    let server = TestServer::start(&routes(&application, more));
    (application, server)
}

/// The metric of requests to the upstream that ended in this way.
fn results(result: &str) -> String {
    format!("anteroom_upstream_requests_total{{kind=\"http\",result=\"{result}\",upstream=\"django\"}}")
}

/// A request as it is sent, the status of the answer, and what the application sees: lines that must be there,
/// and words that must not. `None`: it sees nothing.
struct Case {
    sent: &'static str,
    status: u16,
    seen: Option<(&'static [&'static str], &'static [&'static str])>,
}

const fn passed(sent: &'static str, with: &'static [&'static str], without: &'static [&'static str]) -> Case {
    Case { sent, status: 200, seen: Some((with, without)) }
}

const fn refused(sent: &'static str, status: u16) -> Case {
    Case { sent, status, seen: None }
}

/// Each is sent on a connection of its own, with `Connection: close` where `{}` stands.
const CASES: &[Case] = &[
    // Targets.
    passed("GET /a/b?c=d%20e HTTP/1.1\nHost: localhost\n{}\n", &["GET /a/b?c=d%20e HTTP/1.1"], &[]),
    passed("GET /a%2Fb//c/../d;e HTTP/1.1\nHost: localhost\n{}\n", &["GET /a%2Fb//c/../d;e HTTP/1.1"], &[]),
    passed(
        "GET http://localhost/abs?q HTTP/1.1\nHost: localhost\n{}\n",
        &["GET /abs?q HTTP/1.1", "host: localhost"],
        &[],
    ),
    passed("GET http://localhost HTTP/1.1\nHost: localhost\n{}\n", &["GET / HTTP/1.1"], &[]),
    passed("PROPFIND /dav HTTP/1.1\nHost: localhost\n{}\n", &["PROPFIND /dav HTTP/1.1"], &[]),
    passed("GET /old HTTP/1.0\nHost: localhost\n\n", &["GET /old HTTP/1.1", "host: localhost"], &[]),
    refused("PROPFINDPROPFINDPROPFINDPROPFINDP / HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("OPTIONS * HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("CONNECT localhost:22 HTTP/1.1\nHost: localhost:22\n{}\n", 400),
    refused("GET a HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("GET /\u{1} HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("GET /%00 HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("GET /a b HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("GET  / HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("GET / HTTP/3.7\nHost: localhost\n{}\n", 400),
    refused("G(T / HTTP/1.1\nHost: localhost\n{}\n", 400),
    // Hosts.
    passed("GET / HTTP/1.1\nHost: APP.example:81\n{}\n", &["host: app.example:81"], &["APP"]),
    refused("GET / HTTP/1.1\n{}\n", 400),
    refused("GET / HTTP/1.0\n\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost\nHost: localhost\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost\nHost: evil.example\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: evil.example\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost, evil.example\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: me@localhost\n{}\n", 400),
    refused("GET http://evil.example/ HTTP/1.1\nHost: localhost\n{}\n", 400),
    refused("GET http://localhost/ HTTP/1.1\nHost: evil.example\n{}\n", 400),
    // The end of a body.
    passed(
        "POST / HTTP/1.1\nHost: localhost\nContent-Length: 3\n{}\nabc",
        &["content-length: 3", "abc"],
        &["transfer-encoding"],
    ),
    passed(
        "POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n{}\n3\nabc\n0\n\n",
        &["transfer-encoding: chunked", "abc"],
        &["content-length"],
    ),
    passed(
        "POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: Chunked\n{}\n3;x=y\nabc\n0\n\n",
        &["transfer-encoding: chunked", "abc"],
        &["content-length", "x=y"],
    ),
    passed("POST / HTTP/1.1\nHost: localhost\nContent-Length: 0\n{}\n", &["content-length: 0"], &[]),
    passed("GET / HTTP/1.1\nHost: localhost\nContent-Length: 3\n{}\nabc", &["content-length: 3", "abc"], &[]),
    refused("POST / HTTP/1.1\nHost: localhost\nContent-Length: 3\nContent-Length: 4\n{}\nabcd", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nContent-Length: 3, 4\n{}\nabcd", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nContent-Length: +3\n{}\nabc", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nContent-Length: 0x3\n{}\nabc", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nContent-Length: -1\n{}\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nContent-Length: 99999999999999999999\n{}\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: identity, chunked\n{}\n0\n\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: gzip, chunked\n{}\n0\n\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked, chunked\n{}\n0\n\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: , chunked\n{}\n0\n\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: trailers, chunked\n{}\n0\n\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: gzip\n{}\nabc", 400),
    refused(
        "POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n{}\n0\n\n",
        400,
    ),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: \u{b}chunked\n{}\n0\n\n", 400),
    refused("POST / HTTP/1.0\nHost: localhost\nTransfer-Encoding: chunked\n\n0\n\n", 400),
    refused("POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding : chunked\n{}\n0\n\n", 400),
    // Names and values.
    refused("GET / HTTP/1.1\nHost: localhost\nX Y: z\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost\nX\u{0}Y: z\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost\nX: a\n folded\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost\nX: a\u{0}b\n{}\n", 400),
    refused("GET / HTTP/1.1\nHost: localhost\nX: a\rb\n{}\n", 400),
    refused("GET / HTTP/1.1\n Host: localhost\n{}\n", 400),
    passed(
        "GET / HTTP/1.1\nHost: localhost\nX-Some: a, b\nx-some: c\n{}\n",
        &["x-some: a, b", "x-some: c"],
        &[],
    ),
    passed(
        "POST / HTTP/1.1\nHost: localhost\nContent_Length: 9\nContent-Length: 1\nX_Any: y\n{}\na",
        &["content-length: 1"],
        &["content_length", "x_any"],
    ),
    // What belongs to one connection.
    passed(
        "GET / HTTP/1.1\nHost: localhost\nConnection: close, X-Secret\nX-Secret: 1\nX-Public: 2\n\n",
        &["x-public: 2"],
        &["x-secret", "close"],
    ),
    passed(
        "GET / HTTP/1.1\nHost: localhost\nKeep-Alive: timeout=5\nProxy-Connection: keep-alive\nTE: gzip\n\
         Trailer: X\nProxy-Authorization: Basic eA==\nProxy: http://evil.example\n{}\n",
        &[],
        &["keep-alive", "proxy", "te:", "trailer", "evil", "connection"],
    ),
    passed(
        "GET / HTTP/1.1\nHost: localhost\nConnection: close, TE\nTE: gzip, trailers\n\n",
        &["\nte: trailers\n", "\nconnection: te\n"],
        &["gzip", "close"],
    ),
    passed(
        "GET / HTTP/1.1\nHost: localhost\nConnection: close, Upgrade, HTTP2-Settings\nUpgrade: h2c\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\n\n",
        &[],
        &["upgrade", "http2-settings"],
    ),
    passed(
        "GET / HTTP/1.1\nHost: localhost\nConnection: close, Upgrade\nUpgrade: TLS/1.0\n\n",
        &[],
        &["upgrade"],
    ),
    // A client may not take headers away by calling them its connection's.
    passed(
        "GET / HTTP/1.1\nHost: localhost\nConnection: close, X-Forwarded-For, X-Real-IP, Host\n\n",
        &["host: localhost", "x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1"],
        &[],
    ),
    // Who the client is, from whom nobody believes it.
    passed(
        "GET / HTTP/1.1\nHost: localhost\nX-Forwarded-For: 6.6.6.6\nX-Forwarded-Proto: https\n\
         X-Forwarded-Host: evil.example\nX-Forwarded-Port: 666\nX-Forwarded-Server: evil\nX-Real-IP: 6.6.6.6\n\
         Forwarded: for=6.6.6.6;host=evil.example\nX_Forwarded_For: 6.6.6.6\nX-Request-ID: chosen\n{}\n",
        &[
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: localhost",
            "x-real-ip: 127.0.0.1",
        ],
        &["6.6.6.6", "evil", "666", "chosen"],
    ),
    passed(
        "GET / HTTP/1.1\nHost: localhost\nCookie: a=b; c=d\nAuthorization: Token x\n{}\n",
        &["cookie: a=b; c=d", "authorization: Token x"],
        &[],
    ),
    passed(
        "GET / HTTP/1.1\nHost: localhost\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n\
         tracestate: a=b\n{}\n",
        &[
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate: a=b",
            "x-request-id: ",
        ],
        &[],
    ),
    passed("GET / HTTP/1.1\nHost: localhost\ntracestate: a=b\n{}\n", &["traceparent: 00-"], &["tracestate"]),
    // Handshakes that are none are not passed on.
    refused(
        "POST / HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
        405,
    ),
    refused(
        "GET / HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 8\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
        426,
    ),
    refused(
        "GET / HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: short\n\n",
        400,
    ),
    refused(
        "GET / HTTP/1.1\nHost: localhost\nOrigin: http://evil.example\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
        403,
    ),
];

#[test]
fn every_request_has_one_reading() {
    let (application, server) = start(|_| Reply::ok("answer"));
    for Case { sent, status, seen } in CASES {
        let wire = sent.replace("{}", "Connection: close\n").replace('\n', "\r\n");
        let answer = request(server.address(), &wire);
        assert_eq!(answer.status, *status, "{sent}\n{answer:?}");
        let requests = application.take();
        let Some((with, without)) = seen else {
            assert_eq!(requests.len(), 0, "{sent}\nwas passed on: {requests:?}");
            continue;
        };
        assert_eq!((requests.len(), answer.body.as_str()), (1, "answer"), "{sent}");
        let seen = format!("{}{}", requests[0].head, String::from_utf8_lossy(&requests[0].body));
        for line in *with {
            assert!(seen.contains(line), "{sent}\nwas passed on without {line:?}:\n{seen}");
        }
        for word in *without {
            assert!(!seen.contains(word), "{sent}\nwas passed on with {word:?}:\n{seen}");
        }
        let framings =
            requests[0].header("content-length").len() + requests[0].header("transfer-encoding").len();
        assert!(framings <= 1, "{sent}\n{seen}");
        assert_eq!(requests[0].header("host").len(), 1, "{sent}\n{seen}");
    }
    server.stop();
}

#[test]
fn nothing_behind_a_bad_request_is_answered() {
    let (application, server) = start(|_| Reply::ok("answer"));
    for Case { sent, .. } in CASES.iter().filter(|case| case.status == 400) {
        let behind = "GET /behind HTTP/1.1\nHost: localhost\n\n";
        let wire = [&sent.replace("{}", ""), behind].concat().replace('\n', "\r\n");
        let mut stream = dial(server.address());
        stream.write_all(wire.as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert!(
            answers.starts_with("HTTP/1.1 400 ") || answers.starts_with("HTTP/1.0 400 "),
            "{sent}\n{answers}"
        );
        assert_eq!(answers.matches("HTTP/1.").count(), 1, "{sent}\n{answers}");
        assert_eq!(application.take().len(), 0, "{sent}");
    }
    server.stop();
}

#[test]
fn a_body_that_says_two_lengths_is_passed_on_with_one_and_its_connection_ends() {
    let (application, server) = start(|_| Reply::ok("answer"));
    let mut stream = dial(server.address());
    let sent = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(sent.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap_or_default();
    for seen in application.take() {
        let framings = seen.header("content-length").len() + seen.header("transfer-encoding").len();
        assert!(framings <= 1, "{}", seen.head);
        assert!(seen.body.is_empty() || seen.body == b"abc", "{seen:?}");
    }
    server.stop();
}

#[test]
fn a_trusted_proxy_is_believed_and_its_chain_goes_on() {
    let trust = "[trust]\nproxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\nheaders = \"x-forwarded\"\n";
    let (application, server) = start_with(trust, |_| Reply::ok("answer"));
    let sent = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2\r\n\
                X-Forwarded-Proto: https\r\nX-Forwarded-Host: app.example\r\nX-Request-ID: of-the-proxy\r\n\
                Connection: close\r\n\r\n";
    assert_eq!(request(server.address(), sent).status, 200);
    let seen = &application.take()[0];
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header("x-forwarded-host"), ["app.example"]);
    assert_eq!(seen.header("host"), ["app.example"]);
    assert_eq!(seen.header("x-real-ip"), ["203.0.113.7"]);
    assert_eq!(seen.header("x-request-id"), ["of-the-proxy"]);
    // What stands left of the client is only its word; an application that counts from the left must not meet it.
    let chain = seen.header("x-forwarded-for").join(", ");
    assert!(chain.starts_with("203.0.113.7") && !chain.contains("6.6.6.6"), "{chain}");
    server.stop();
}

#[test]
fn each_answer_of_the_application_has_one_reading_too() {
    let hop = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Inner\r\nX-Inner: 1\r\n\
               Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Outer: 2\r\n\
               Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nok";
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let lengths = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc";
    let both =
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let two =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let (_application, server) = start(move |seen| match seen.target() {
        "/hop" => Reply::text(hop),
        "/101" => Reply::text(upgrade),
        "/lengths" => Reply::Last(lengths.into()),
        "/both" => Reply::text(both),
        "/two" => Reply::text(two),
        "/twice" => Reply::text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        "/gzip" => Reply::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok".to_vec()),
        "/blank" => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok".to_vec()),
        "/multiline" => Reply::Last(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/garbage" => Reply::Last(b"not HTTP at all\r\n\r\n".to_vec()),
        "/nothing" => Reply::Last(Vec::new()),
        "/folded" => Reply::Last(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/204" => Reply::text("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Reply::text("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
        "/hints" => Reply::text(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ),
        _ => Reply::ok("answer"),
    });
    let answer = server.get("/hop");
    assert_eq!((answer.status, answer.body.as_str(), answer.header("x-outer")), (200, "ok", Some("2")));
    for gone in ["x-inner", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
    for (path, status, body) in [
        ("/101", 502, None),
        ("/lengths", 502, None),
        ("/both", 502, None),
        ("/two", 200, Some("ok")),
        ("/twice", 200, Some("ok")),
        ("/gzip", 502, None),
        ("/blank", 502, None),
        ("/multiline", 502, None),
        ("/garbage", 502, None),
        ("/nothing", 502, None),
        ("/folded", 502, None),
        ("/204", 204, Some("")),
        ("/304", 304, Some("")),
        ("/hints", 200, Some("x")),
        ("/", 200, Some("answer")),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        if let Some(body) = body {
            assert_eq!(answer.body, body, "{path}");
        }
    }
    server.stop();
}

#[test]
fn a_truncated_answer_never_looks_complete() {
    let (_application, server) = start(|seen| match seen.target() {
        "/length" => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()),
        "/chunks" => {
            Reply::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec())
        }
        "/long" => {
            let chunk = ["100000\r\n", &"x".repeat(1 << 20), "\r\n"].concat();
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Reply::Last([head, &chunk.repeat(8)].concat().into_bytes())
        }
        // Its end is that of the connection, which is all that there is to know.
        _ => Reply::Last(b"HTTP/1.1 200 OK\r\n\r\nwhole".to_vec()),
    });
    let raw = |path: &str| {
        let mut stream = dial(server.address());
        let sent = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Cut off by a reset, perhaps.
        stream.read_to_end(&mut answer).unwrap_or_default();
        String::from_utf8(answer).unwrap()
    };
    let length = raw("/length");
    assert!(length.contains("content-length: 100") && length.len() < 250, "{length}");
    let chunks = raw("/chunks");
    assert!(chunks.contains("half") && !chunks.ends_with("0\r\n\r\n"), "{chunks}");
    assert!(raw("/whole").ends_with("0\r\n\r\n"));
    // To a client of HTTP/1.0 the end of the connection is that of the answer, so it is no end but a reset.
    let old = |path: &str, mut stream: TcpStream| {
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(|error| error.kind())
    };
    assert_eq!(old("/chunks", dial(server.address())), Err(ErrorKind::ConnectionReset));
    assert_eq!(old("/long", dial_narrow(server.address())), Err(ErrorKind::ConnectionReset));
    assert!(old("/whole", dial(server.address())).is_ok());
    server.stop();
}

#[test]
fn an_answer_that_comes_before_the_upload_ends_is_not_lost_with_it() {
    let application = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = TestServer::start(&format!(
        "[upstream.django]\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"django\"\n",
        application.local_addr().unwrap()
    ));
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = application.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 1 << 10]).unwrap(), 0);
            // In two pieces, so that it has not ended when its head is passed on; of the body nothing is read.
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno").unwrap();
            pause(Duration::from_millis(200));
            stream.write_all(b"no").unwrap();
        });
        let mut stream = dial(server.address());
        let piece = vec![b'x'; 64 << 10];
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 10 * piece.len());
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..10 {
            stream.write_all(&piece).unwrap();
            pause(Duration::from_millis(80));
        }
        let (answer, body) = read_head(&mut stream);
        assert_eq!(answer.status, 403);
        let mut body = body;
        while body.len() < 4 {
            let mut more = [0; 4];
            let len = stream.read(&mut more).unwrap();
            assert_ne!(len, 0, "it ends after {body:?}");
            body.extend(&more[..len]);
        }
        assert_eq!(body, b"nono");
    });
    server.stop();
}

#[test]
fn a_bad_body_is_the_client_s_fault_and_not_the_application_s() {
    let (_application, server) = start(|_| Reply::ok("answer"));
    let chunked = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in ["3\r\nabc\r\nxyz\r\n", "zz\r\n", "3\r\nabcd\r\n0\r\n\r\n", "ffffffffffffffffff\r\n"] {
        let answer = request(server.address(), &format!("{chunked}{body}"));
        assert_eq!(answer.status, 400, "{body:?}: {answer:?}");
    }
    // The application stands as well as before.
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.metric("anteroom_upstream_server_up{server=\"any\",upstream=\"django\"}"), 0.0);
    assert_eq!(server.metric(&results("error")), 0.0);
    server.stop();
}

#[test]
fn a_body_beyond_the_limit_is_refused_however_it_comes() {
    let (application, server) = start_with("[defaults]\nmax_body = \"10B\"\n", |_| Reply::ok("answer"));
    let post = |lines: &str, body: &str| {
        request(
            server.address(),
            &format!("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n\r\n{body}"),
        )
    };
    assert_eq!(post("Content-Length: 10", "0123456789").status, 200);
    assert_eq!(post("Transfer-Encoding: chunked", "a\r\n0123456789\r\n0\r\n\r\n").status, 200);
    assert_eq!(application.take().len(), 2);
    let answer = post("Content-Length: 11", "0123456789x");
    assert_eq!((answer.status, answer.body.split(':').next()), (413, Some("too_large")));
    assert_eq!(application.take().len(), 0);
    let answer = post("Transfer-Encoding: chunked", "b\r\n0123456789x\r\n0\r\n\r\n");
    assert_eq!((answer.status, answer.body.split(':').next()), (413, Some("too_large")));
    // The request head may have gone out before its body was too long, but not a whole request.
    assert_eq!(application.take().len(), 0);
    server.stop();
}

#[test]
fn answers_come_in_the_order_of_the_requests_on_a_connection() {
    let (application, server) = start(|seen| Reply::ok(seen.target()));
    let mut stream = dial(server.address());
    let mut sent: String = (0..20)
        .map(|at| ["GET /", &at.to_string(), " HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat())
        .collect();
    sent.push_str("GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(sent.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let bodies: Vec<_> = answers.split("\r\n\r\n").filter_map(|part| part.strip_prefix('/')).collect();
    assert_eq!(bodies.len(), 21, "{answers}");
    assert!((0..20).all(|at| bodies[at].starts_with(&format!("{at}HTTP"))), "{bodies:?}");
    // One connection to the application is enough for one after the other.
    assert!(application.take().iter().all(|seen| seen.connection == 0));
    server.stop();
}

#[test]
fn the_host_is_checked_on_the_second_request_of_a_connection_too() {
    let (application, server) = start(|_| Reply::ok("answer"));
    let mut stream = dial(server.address());
    assert_eq!(exchange(&mut stream, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    let answer = exchange(&mut stream, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!((answer.status, application.take().len()), (400, 1));
    server.stop();
}

#[test]
fn an_application_that_is_away_is_a_502_and_that_is_back_is_none() {
    let vacant = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = vacant.local_addr().unwrap();
    drop(vacant);
    let server = TestServer::start(&format!(
        "[upstream.django]\nservers = [\"http://{address}\"]\nfail_timeout = \"200ms\"\n\
         [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"django\"\n"
    ));
    let begun = Instant::now();
    let answer = server.get("/");
    assert_eq!((answer.status, answer.body.split(':').next()), (502, Some("upstream")));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let application = Application::start_on(address, |_| Reply::ok("back"));
    crate::support::wait_until("the application is found again", || server.get("/").status == 200);
    assert_eq!(application.seen().last().unwrap().target(), "/");
    server.stop();
}

#[test]
fn an_application_that_says_nothing_is_a_504() {
    let application = Application::start(|_| Reply::Silence);
    let server = TestServer::start(&format!(
        "[upstream.django]\nservers = [\"http://{}\"]\nresponse_timeout = \"300ms\"\n\
         [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"django\"\n",
        application.address
    ));
    let answer = server.get("/");
    assert_eq!((answer.status, answer.body.split(':').next()), (504, Some("upstream")));
    server.stop();
}

#[test]
fn a_restarted_application_costs_no_get_but_a_post_is_not_sent_twice() {
    // Each connection takes one request more after the first and is closed instead of answered.
    let (application, server) = start(|seen| match seen.target() {
        "/first" => Reply::ok("first"),
        _ if seen.connection == 0 => Reply::Last(Vec::new()),
        _ => Reply::ok("again"),
    });
    // One connection of a client stays with one worker, and so with one connection to the application.
    let mut stream = dial(server.address());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(exchange(&mut stream, &get("/first")).status, 200);
    let answer = exchange(&mut stream, &get("/second"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "again"));
    assert_eq!(application.take().iter().filter(|seen| seen.target() == "/second").count(), 2);
    drop(server);

    let (application, server) = start(|seen| match seen.target() {
        "/first" => Reply::ok("first"),
        _ => Reply::Last(Vec::new()),
    });
    let mut stream = dial(server.address());
    assert_eq!(exchange(&mut stream, &get("/first")).status, 200);
    let post = "POST /once HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(exchange(&mut stream, post).status, 502);
    assert_eq!(application.take().iter().filter(|seen| seen.target() == "/once").count(), 1);
    server.stop();
}

#[test]
fn bodies_stream_both_ways_without_being_collected() {
    let (application, server) = start(|seen| Reply::ok(&seen.body.len().to_string()));
    let mut stream = dial(server.address());
    // More than would fit into anything that collects.
    let size = 8 << 20;
    stream
        .write_all(
            format!("POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let chunk = vec![b'x'; 64 << 10];
    for _ in 0..size / chunk.len() {
        stream.write_all(&chunk).unwrap();
    }
    let (head, body) = read_head(&mut stream);
    assert_eq!((head.status, String::from_utf8(body).unwrap()), (200, size.to_string()));
    assert_eq!(application.take()[0].body.len(), size);
    server.stop();
}

#[test]
fn a_websocket_is_tunnelled_after_a_right_101_alone() {
    let (application, server) = start(|seen| match seen.target() {
        "/echo" => Reply::Echo,
        "/wrong" => Reply::text(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        ),
        "/without" => {
            Reply::text("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
        }
        _ => Reply::text("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
    });
    let extensions = [("Sec-WebSocket-Extensions", "permessage-deflate"), ("Cookie", "a=b")];
    let mut client = server.try_connect("/echo", &extensions).unwrap();
    let seen = &application.take()[0];
    assert_eq!(seen.header("upgrade"), ["websocket"]);
    assert_eq!(seen.header("sec-websocket-extensions"), ["permessage-deflate"]);
    assert_eq!((seen.header("cookie"), seen.header("x-forwarded-for")), (vec!["a=b"], vec!["127.0.0.1"]));
    // To the application a tunnel is bytes: what comes back is what was sent, mask and all.
    let sent = frame(0x81, b"through");
    client.send_raw(&sent);
    let mut back = vec![0; sent.len()];
    client.stream.read_exact(&mut back).unwrap();
    assert_eq!(back, sent);
    // Half of it may end before the other.
    client.finish_writing();
    assert_eq!(client.stream.read(&mut [0; 16]).unwrap(), 0);

    for (path, status) in [("/wrong", 502), ("/without", 502), ("/forbidden", 403)] {
        let refused = server.try_connect(path, &[]).unwrap_err();
        assert_eq!(refused.status, status, "{path}");
    }
    let series = "anteroom_websocket_handshakes_total{result=\"accepted\",route=\"site\"}";
    assert_eq!(server.metric(series), 1.0);
    server.stop();
}

#[test]
fn frames_behind_the_handshake_go_through_the_tunnel_too() {
    let (_application, server) = start(|_| Reply::Echo);
    let early = frame(0x81, b"early");
    let bytes = [handshake("/", &[]), early.clone()].concat();
    let mut client = Client::handshake(server.address(), &bytes).unwrap();
    // The client reads its own masked frame; only the bytes count here.
    let mut back = client.take_unread();
    while back.len() < early.len() {
        let mut chunk = [0; 64];
        let read = client.stream.read(&mut chunk).unwrap();
        assert_ne!(read, 0);
        back.extend_from_slice(&chunk[..read]);
    }
    assert_eq!(back, early);
    server.stop();
}

#[test]
fn tunnels_count_against_the_limits_of_sockets() {
    let limits = "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }\n\
                  limits = { connections = 1 }\n";
    let (_application, server) = start_with(limits, |_| Reply::Echo);
    let client = server.connect("/one");
    assert_eq!(server.try_connect("/two", &[]).unwrap_err().status, 503);
    drop(client);
    crate::support::wait_until("there is room again", || server.try_connect("/three", &[]).is_ok());
    server.stop();
}

#[test]
fn a_tunnel_goes_on_through_the_drain_and_ends_with_it() {
    let application = Application::start(|_| Reply::Echo);
    let drain = "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"300ms\", shutdown = \"0s\" }\n";
    let mut server = TestServer::start(&routes(&application, drain));
    let mut client = server.connect("/");
    server.signal(rustix::process::Signal::TERM);
    server.wait_log(&["stopping"]);
    client.send_raw(b"still here");
    let mut back = [0; 10];
    client.stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).unwrap_or_default();
    assert!(server.wait_exit().success());
}

#[test]
fn an_upstream_that_a_reload_changes_is_used_by_the_next_request() {
    let first = Application::start(|_| Reply::ok("first"));
    let second = Application::start(|_| Reply::ok("second"));
    let server = TestServer::start(&routes(&first, ""));
    assert_eq!(server.get("/").body, "first");
    server.write_config(&routes(&second, ""));
    crate::support::wait_until("the other application answers", || server.get("/").body == "second");
    server.stop();
}

#[test]
fn the_client_that_leaves_ends_its_request() {
    let (application, mut server) = start(|_| Reply::Silence);
    let in_flight = "anteroom_upstream_inflight_requests{upstream=\"django\"}";
    for (sent, kind, counted, upstream) in [
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            "plain",
            "anteroom_http_requests_total{code=\"499\",route=\"site\"}",
            "anteroom_upstream_requests_total{kind=\"http\",result=\"client\",upstream=\"django\"}",
        ),
        (
            handshake("/", &[]),
            "websocket",
            "anteroom_websocket_handshakes_total{result=\"client_gone\",route=\"site\"}",
            "anteroom_upstream_requests_total{kind=\"tunnel\",result=\"client\",upstream=\"django\"}",
        ),
    ] {
        let before = application.seen().len();
        let mut stream = dial(server.address());
        stream.write_all(&sent).unwrap();
        server.wait_metric(in_flight, 1.0);
        crate::support::wait_until("the application has it", || before < application.seen().len());
        drop(stream);
        server.wait_metric(in_flight, 0.0);
        server.wait_metric(counted, 1.0);
        server.wait_metric(upstream, 1.0);
        server.wait_log(&["refused", &format!("kind=\"{kind}\""), "status=499", "reason=\"client_gone\""]);
    }
    // Whom the end of the process drops has not left.
    let mut stream = dial(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    server.wait_metric(in_flight, 1.0);
    let before = server.log().matches("client_gone").count();
    crate::support::wait_until("it stops at once", || {
        server.signal(rustix::process::Signal::TERM);
        server.log().contains("asked a second time")
    });
    server.wait_exit();
    assert_eq!(server.log().matches("client_gone").count(), before, "{}", server.log());
}

#[test]
fn clients_that_read_slowly_cost_little_and_keep_nobody_waiting() {
    let large =
        [b"HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n".to_vec(), vec![b'x'; 16 << 20]].concat();
    let (_application, server) = start(move |seen| match seen.target() {
        "/large" => Reply::Last(large.clone()),
        _ => Reply::ok("small"),
    });
    let resident = || server.metric("process_resident_memory_bytes");
    assert_eq!(server.get("/").body, "small");
    let before = resident();
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = dial(server.address());
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    server.wait_metric("anteroom_upstream_inflight_requests{upstream=\"django\"}", 20.0);
    assert_eq!(server.get("/").body, "small");
    // What waits of 20 answers of 16 MiB is in the kernel and with the application, but for a piece of each.
    let grown = resident() - before;
    assert!(grown < 20.0 * 1024.0 * 1024.0, "{grown} bytes are held");
    drop(slow);
    server.wait_metric("anteroom_upstream_inflight_requests{upstream=\"django\"}", 0.0);
    server.stop();
}

#[test]
fn a_client_that_reads_slowly_gets_all_and_one_that_reads_nothing_is_given_up() {
    const LEN: usize = 4 << 20;
    let large = [format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").into_bytes(), vec![b'x'; LEN]];
    let large = large.concat();
    let (_application, server) = start(move |_| Reply::Last(large.clone()));
    let [mut slow, mut silent] = [(); 2].map(|()| {
        let mut stream = dial_narrow(server.address());
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream
    });
    let begun = Instant::now();
    let (answer, body) = read_head(&mut slow);
    assert_eq!(answer.status, 200);
    // Longer than a kernel by itself might wait for a window that never has room for all that is next.
    let mut received = body.len();
    let mut piece = [0; 4 << 10];
    while server.metric("anteroom_http_answers_not_taken_total") == 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(90), "it waits for ever");
        received += slow.read(&mut piece).unwrap();
        pause(Duration::from_millis(200));
    }
    assert!(Duration::from_mins(1) <= begun.elapsed(), "after {:?}", begun.elapsed());
    assert_eq!(server.metric("anteroom_http_answers_not_taken_total"), 1.0);
    // What waited in the kernel is gone, too.
    let lost = silent.read_to_end(&mut Vec::new());
    assert_eq!(lost.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    while received < LEN {
        received += slow.read(&mut piece).unwrap();
    }
    assert_eq!(server.metric("anteroom_upstream_inflight_requests{upstream=\"django\"}"), 0.0);
    drop(slow);
    server.stop();
}

#[test]
fn a_client_that_sends_its_body_slowly_keeps_nobody_waiting() {
    let (application, server) = start(|seen| Reply::ok(&seen.body.len().to_string()));
    let mut slow: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = dial(server.address());
            stream.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab").unwrap();
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(server.get("/").body, "0");
    }
    assert_eq!(application.take().len(), 10);
    for stream in &mut slow {
        stream.write_all(b"cd").unwrap();
        let (answer, body) = read_head(stream);
        assert_eq!((answer.status, body.as_slice()), (200, &b"4"[..]));
    }
    server.stop();
}
