//! HTTP/2: the same routes, rules and sockets as over HTTP/1.1, and what floods come to.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, StatusCode, Version};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::support::application::{Application, Reply};
use crate::support::client::{Client, Frame, frame, handshake, parse_frame};
use crate::support::eventually;
use crate::support::server::TestServer;
use crate::support::tls::{Authority, TlsClient, TlsStream};

/// How long anything may take to come.
const TIMEOUT: Duration = Duration::from_secs(10);

const ROUTES: &str = r#"
[[listener]]
name = "public"
address = "127.0.0.1:0"
tls = [{ cert = "localhost.pem", key = "localhost.key" }]

[defaults]
hosts = ["localhost", "app.example"]

[[route]]
name = "echo"
path = '/echo/'
handler = "echo"
subprotocols = ["chat"]
max_message = "1KiB"

[[route]]
name = "watched"
path = '/watched/'
handler = "echo"
ping = { every = "100ms", timeout = "2s" }

[[route]]
name = "limited"
path = '/limited/'
handler = "echo"
rate = { messages = 1, per = "1h", burst = 2 }

[[route]]
name = "quiet"
path = '/quiet/'
handler = "echo"
idle = "200ms"

[[route]]
name = "old"
path = '/old/'
handler = "echo"
max_age = "200ms"

[[route]]
name = "room"
re_path = '^room/(?P<room_name>[a-z]+)/$'
handler = "room"
format = "text"
group = "room_{room_name}"
username = "{client}"

[[route]]
name = "narrow"
path = '/narrow/'
handler = "room"
format = "text"
group = "narrow"
username = "{client}"
max_message = "1KiB"
queue = { bytes = "1KiB", full = "close" }

[[route]]
name = "page"
path = '/page'
handler = "respond"
body = "the page\n"
"#;

/// A server with a certificate for `localhost`, and a client that trusts it.
fn start(more: &str) -> (TestServer, TlsClient) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(&["localhost", "other.example"]).write(folder.path(), "localhost");
    (start_in(folder, more), authority.client().alpn(&["h2"]))
}

fn start_in(folder: TempDir, more: &str) -> TestServer {
    let path = folder.path().join("routes.toml");
    std::fs::write(&path, crate::support::server::complete(&format!("{more}{ROUTES}"))).unwrap();
    TestServer::start_at(folder, &path, &[])
}

/// A connection of a well-behaved client.
async fn connect(server: &TestServer, client: &TlsClient) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(client.config()).connect(name, stream).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    let mut send = send.ready().await.unwrap();
    // The settings of the server come with its first bytes.
    let ready = async {
        while !send.is_extended_connect_protocol_enabled() {
            send = send.clone().ready().await.unwrap();
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(TIMEOUT, ready).await.unwrap();
    send
}

/// Waits for something without keeping the client's side of its connections from their work.
async fn off_thread<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(wait).await.unwrap()
}

/// An answer with all of its body.
async fn get(send: &mut SendRequest<Bytes>, request: Request<()>) -> (StatusCode, String) {
    let (answer, _) = send.send_request(request, true).unwrap();
    let answer = time::timeout(TIMEOUT, answer).await.unwrap().unwrap();
    let status = answer.status();
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        text.extend_from_slice(&chunk);
    }
    (status, String::from_utf8(text).unwrap())
}

fn page(authority: &str) -> Request<()> {
    Request::get(format!("https://{authority}/page")).version(Version::HTTP_2).body(()).unwrap()
}

/// A WebSocket in one stream of a connection.
struct Socket {
    send: SendStream<Bytes>,
    receive: RecvStream,
    unread: Vec<u8>,
}

impl Socket {
    /// Opens one, or gives the status and the body of the answer that refused it.
    async fn open(
        send: &mut SendRequest<Bytes>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, (StatusCode, String)> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri(format!("https://localhost{path}"))
            .header("sec-websocket-version", "13");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (answer, send) = send.send_request(request, false).unwrap();
        let answer = time::timeout(TIMEOUT, answer).await.unwrap().unwrap();
        if answer.status() == StatusCode::OK {
            let offered = headers.iter().find(|(name, _)| *name == "sec-websocket-protocol");
            let chosen =
                answer.headers().get("sec-websocket-protocol").map(|chosen| chosen.to_str().unwrap());
            assert_eq!(chosen, offered.map(|(_, value)| *value));
            for header in ["upgrade", "connection", "sec-websocket-accept"] {
                assert!(!answer.headers().contains_key(header), "{header}");
            }
            return Ok(Self { send, receive: answer.into_body(), unread: Vec::new() });
        }
        let status = answer.status();
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(Ok(chunk)) = body.data().await {
            text.extend_from_slice(&chunk);
        }
        Err((status, String::from_utf8(text).unwrap()))
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.send.send_data(frame(first, payload).into(), false).unwrap();
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some((frame, len)) = parse_frame(&self.unread) {
                self.unread.drain(..len);
                return frame;
            }
            match time::timeout(TIMEOUT, self.receive.data()).await.unwrap() {
                Some(Ok(mut chunk)) => {
                    self.receive.flow_control().release_capacity(chunk.len()).unwrap();
                    self.unread.extend_from_slice(&chunk.copy_to_bytes(chunk.len()));
                }
                Some(Err(error)) => panic!("the stream was reset: {error}"),
                None => return Frame::End,
            }
        }
    }
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned())
}

#[tokio::test]
async fn requests_and_sockets_share_a_connection() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    assert_eq!(get(&mut send, page("localhost")).await, (StatusCode::OK, "the page\n".to_owned()));
    let mut one = Socket::open(&mut send, "/echo/", &[("sec-websocket-protocol", "chat")]).await.unwrap();
    let mut two = Socket::open(&mut send, "/echo/", &[]).await.unwrap();
    one.send(0x81, b"one");
    two.send(0x82, b"two");
    assert_eq!(one.next().await, text("one"));
    assert_eq!(two.next().await, Frame::Binary(b"two".to_vec()));
    one.send(0x89, b"ping");
    assert_eq!(one.next().await, Frame::Pong(b"ping".to_vec()));
    assert_eq!(get(&mut send, page("localhost")).await.0, StatusCode::OK);
    one.send(0x88, &1000_u16.to_be_bytes());
    assert_eq!(one.next().await, Frame::Close(1000, String::new()));
    // The stream ends; it is not reset.
    assert_eq!(one.next().await, Frame::End);
    one.send.send_data(Bytes::new(), true).unwrap();
    let open = "anteroom_websocket_connections{route=\"echo\"}";
    eventually("the first socket is gone", || server.metric(open) < 2.0).await;
    two.send(0x81, b"still here");
    assert_eq!(two.next().await, text("still here"));
    assert_eq!(server.metric("anteroom_tcp_connections{listener=\"public\"}"), 1.0);
    let line = server.wait_log(&["accepted", "route=\"echo\"", "HTTP/2.0"]);
    assert!(line.contains("client=127.0.0.1"), "{line}");
    drop((one, two, send));
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn a_room_is_one_whichever_way_its_members_came() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let mut over_2 = Socket::open(&mut send, "/room/lobby/", &[]).await.unwrap();
    let over_1 = client.alpn(&["http/1.1"]).connect(server.address(), "localhost").unwrap();
    let mut over_1 = Client::handshake_over(over_1, &handshake("/room/lobby/", &[])).unwrap();
    assert_eq!(over_2.next().await, text("[Welcome 127.0.0.1!]"));
    assert_eq!(over_1.next_text(), "[Welcome 127.0.0.1!]");
    over_2.send(0x81, b"from the one");
    over_1.send_text("from the other");
    for _ in 0..2 {
        let (here, there) = (over_2.next().await, over_1.next());
        assert_eq!(here, there, "both hear the same in the same order");
    }
    drop((over_1, over_2, send));
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn close_codes_are_those_of_http_1() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let cases: [(Vec<u8>, u16); 5] = [
        // An unmasked frame, reserved bits, text that is not UTF-8, too long a message, a close code of its own.
        (vec![0x81, 0x01, b'x'], 1002),
        (frame(0xc1, b"x"), 1002),
        (frame(0x81, b"\xff"), 1007),
        (frame(0x82, &[0; 2000]), 1009),
        (frame(0x88, &3001_u16.to_be_bytes()), 3001),
    ];
    for (bytes, code) in cases {
        let mut socket = Socket::open(&mut send, "/echo/", &[]).await.unwrap();
        socket.send.send_data(bytes.into(), false).unwrap();
        match socket.next().await {
            Frame::Close(closed, _) => assert_eq!(closed, code),
            other => panic!("{other:?} in place of {code}"),
        }
        assert_eq!(socket.next().await, Frame::End, "{code}");
    }
    drop(send);
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn pings_and_limits_of_a_socket_are_those_of_http_1() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let mut watched = Socket::open(&mut send, "/watched/", &[]).await.unwrap();
    for _ in 0..5 {
        assert_eq!(watched.next().await, Frame::Ping(Vec::new()));
        watched.send(0x8a, b"");
    }
    // Whoever answers no more is given up, though its connection lives.
    assert_eq!(watched.next().await, Frame::Ping(Vec::new()));
    assert_eq!(watched.next().await, Frame::Close(1001, "ping timeout".to_owned()));

    let mut limited = Socket::open(&mut send, "/limited/", &[]).await.unwrap();
    for _ in 0..3 {
        limited.send(0x81, b"again");
    }
    assert_eq!((limited.next().await, limited.next().await), (text("again"), text("again")));
    assert_eq!(limited.next().await, Frame::Close(1008, "rate".to_owned()));

    let mut old = Socket::open(&mut send, "/old/", &[]).await.unwrap();
    assert_eq!(old.next().await, Frame::Close(1012, "max age".to_owned()));
    let mut quiet = Socket::open(&mut send, "/quiet/", &[]).await.unwrap();
    assert_eq!(quiet.next().await, Frame::Close(1001, "idle".to_owned()));
    assert_eq!(get(&mut send, page("localhost")).await.0, StatusCode::OK);
    drop((watched, limited, old, quiet, send));
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn handshakes_are_refused_for_the_same_reasons() {
    let limits = "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }\n\
                  limits = { per_ip = 2 }\n";
    let (server, client) = start(limits);
    let mut send = connect(&server, &client).await;
    let mut refused = async |path: &str, headers: &[(&str, &str)]| {
        let (status, body) = Socket::open(&mut send, path, headers).await.map(drop).unwrap_err();
        format!("{} {}", status.as_u16(), body.split(':').next().unwrap())
    };
    assert_eq!(refused("/nowhere/", &[]).await, "404 no_route");
    assert_eq!(refused("/page", &[]).await, "404 no_route");
    assert_eq!(refused("/echo/", &[("origin", "https://evil.example")]).await, "403 origin");
    assert_eq!(refused("/echo/", &[("origin", "null")]).await, "403 origin");
    assert_eq!(refused("/echo/", &[("sec-websocket-protocol", "other")]).await, "400 subprotocol");
    assert_eq!(refused("/echo/", &[("host", "app.example")]).await, "400 bad_request");
    let port = server.address().port();
    let origin = format!("https://localhost:{port}");
    // `:authority` has no port here, so the origin with one is another.
    assert_eq!(refused("/echo/", &[("origin", &origin)]).await, "403 origin");
    let first = Socket::open(&mut send, "/echo/", &[("origin", "https://localhost")]).await.unwrap();
    let second = Socket::open(&mut send, "/echo/", &[]).await.unwrap();
    let (status, _) = Socket::open(&mut send, "/echo/", &[]).await.map(drop).unwrap_err();
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    drop((first, second, send));
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn every_request_names_a_host_of_ours_that_tls_was_asked_for() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let mut status = async |authority: &str| get(&mut send, page(authority)).await.0.as_u16();
    assert_eq!(status("localhost").await, 200);
    assert_eq!(status("LOCALHOST:8443").await, 200);
    assert_eq!(status("evil.example").await, 421);
    // Allowed here, but not by the name that this connection was opened for.
    assert_eq!(status("app.example").await, 421);
    assert_eq!(status("localhost").await, 200);
    let connect = Request::connect("localhost:22").version(Version::HTTP_2).body(()).unwrap();
    assert_eq!(get(&mut send, connect).await.0, StatusCode::BAD_REQUEST);
    drop(send);
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn sockets_are_drained_like_all_others() {
    let drain = "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"100ms\", shutdown = \"100ms\" }\n";
    let (mut server, client) = start(drain);
    let mut send = connect(&server, &client).await;
    let mut socket = Socket::open(&mut send, "/echo/", &[]).await.unwrap();
    server.signal(Signal::TERM);
    assert_eq!(socket.next().await, Frame::Close(1012, "restart".to_owned()));
    socket.send(0x88, &1012_u16.to_be_bytes());
    assert_eq!(socket.next().await, Frame::End);
    drop((socket, send));
    assert!(off_thread(move || server.wait_exit()).await.success());
}

#[tokio::test]
async fn a_second_signal_ends_sockets_with_a_close_frame() {
    let drain = "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"1h\", shutdown = \"1h\" }\n";
    let (mut server, client) = start(drain);
    let mut send = connect(&server, &client).await;
    let mut polite = Socket::open(&mut send, "/echo/", &[]).await.unwrap();
    let mut silent = Socket::open(&mut send, "/echo/", &[]).await.unwrap();
    server.signal(Signal::TERM);
    eventually("readiness fails", || server.admin("/readyz").status == 503).await;
    let mut begun = Instant::now();
    // So soon it counts as the first.
    eventually("it is asked a second time", || {
        begun = Instant::now();
        server.signal(Signal::INT);
        server.log().contains("asked a second time")
    })
    .await;
    for socket in [&mut polite, &mut silent] {
        assert_eq!(socket.next().await, Frame::Close(1012, "restart".to_owned()));
    }
    polite.send(0x88, &1012_u16.to_be_bytes());
    assert_eq!(polite.next().await, Frame::End);
    assert!(off_thread(move || server.wait_exit()).await.success());
    assert!(begun.elapsed() < Duration::from_secs(3), "ended after {:?}", begun.elapsed());
}

#[tokio::test]
async fn one_message_has_room_in_any_queue() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let mut socket = Socket::open(&mut send, "/narrow/", &[]).await.unwrap();
    assert_eq!(socket.next().await, text("[Welcome 127.0.0.1!]"));
    // With the name before it, it is longer than the queue.
    let line = "x".repeat(1 << 10);
    for _ in 0..3 {
        socket.send(0x81, line.as_bytes());
        assert_eq!(socket.next().await, text(&format!("127.0.0.1: {line}")));
    }
    drop((socket, send));
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_too_slow_for_its_room() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let mut slow = Socket::open(&mut send, "/room/lobby/", &[]).await.unwrap();
    assert_eq!(slow.next().await, text("[Welcome 127.0.0.1!]"));
    let over_1 = client.alpn(&["http/1.1"]).connect(server.address(), "localhost").unwrap();
    let mut talker = Client::handshake_over(over_1, &handshake("/room/lobby/", &[])).unwrap();
    assert_eq!(talker.next_text(), "[Welcome 127.0.0.1!]");
    let closes = "anteroom_websocket_closes_total{cause=\"slow\",route=\"room\"}";
    let line = "x".repeat(32 << 10);
    let deadline = Instant::now() + TIMEOUT;
    // The windows of this client hold some of it, then the queue does, and then it is enough.
    while server.metric(closes) < 1.0 {
        assert!(Instant::now() < deadline, "everything is kept for a client that takes nothing");
        talker.send_text(&line);
        assert!(talker.next_text().ends_with(&line));
    }
    assert_eq!(server.metric("anteroom_websocket_connections{route=\"room\"}"), 1.0);
    // The connection and its other streams go on.
    assert_eq!(get(&mut send, page("localhost")).await.0, StatusCode::OK);
    drop((talker, slow, send));
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_loses_it_after_thirty_seconds() {
    let application = Application::start(|_| Reply::ok(&"x".repeat(1 << 20)));
    let more = format!(
        "[upstream.django]\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"app\"\npath = '/app'\nhandler = \"proxy\"\nupstream = \"django\"\n",
        application.address
    );
    let (server, client) = start(&more);
    let mut send = connect(&server, &client).await;
    let request = Request::get("https://localhost/app").version(Version::HTTP_2).body(()).unwrap();
    let begun = Instant::now();
    let (answer, _) = send.send_request(request, true).unwrap();
    let mut body = time::timeout(TIMEOUT, answer).await.unwrap().unwrap().into_body();
    let broken = async {
        loop {
            if let Err(error) = body.data().await.unwrap() {
                break error.reason();
            }
        }
    };
    assert_eq!(time::timeout(Duration::from_secs(45), broken).await.unwrap(), Some(Reason::CANCEL));
    assert!(Duration::from_secs(30) <= begun.elapsed(), "after {:?}", begun.elapsed());
    // The application is free for others, as is the connection.
    assert_eq!(server.metric("anteroom_upstream_inflight_requests{upstream=\"django\"}"), 0.0);
    assert_eq!(server.metric("anteroom_http_answers_not_taken_total"), 1.0);
    // What came of it fills the window of the connection as long as it is kept.
    drop(body);
    assert_eq!(get(&mut send, page("localhost")).await.0, StatusCode::OK);
    drop(send);
    off_thread(move || server.stop()).await;
}

#[tokio::test]
async fn http_1_is_spoken_with_those_who_do_not_offer_http_2() {
    let (server, client) = start("");
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = client.alpn(protocols).connect(server.address(), "localhost").unwrap();
        let sent = "GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(crate::support::client::exchange(&mut stream, sent).body, "the page\n", "{protocols:?}");
    }
    off_thread(move || server.stop()).await;
}

/// A client that writes frames as it likes. Rule: RFC 9113, 4.1.
pub(crate) struct Raw(TlsStream);

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

impl Raw {
    pub(crate) fn connect(address: SocketAddr, client: &TlsClient) -> Self {
        let mut raw = Self(client.connect(address, "localhost").unwrap());
        raw.0.sock.set_read_timeout(Some(TIMEOUT)).unwrap();
        raw.0.sock.set_write_timeout(Some(TIMEOUT)).unwrap();
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.write(&framed(SETTINGS, 0, 0, b"")).unwrap();
        raw
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// The kind, the flags and the payload of the next frame; `None` at the end of the stream. Pings are answered.
    pub(crate) fn next(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        if self.0.read(&mut head[..1]).unwrap() == 0 {
            return None;
        }
        self.0.read_exact(&mut head[1..]).unwrap();
        let (kind, flags) = (head[3], head[4]);
        let mut payload =
            vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        self.0.read_exact(&mut payload).unwrap();
        if kind == PING && flags & ACK == 0 {
            self.write(&framed(PING, ACK, 0, &payload)).unwrap();
        }
        Some((kind, flags, payload))
    }

    /// Whether the server ends the connection, and before that says so or not.
    fn is_ended(&mut self) -> bool {
        let deadline = Instant::now() + TIMEOUT;
        let mut chunk = [0; 16_384];
        while Instant::now() < deadline {
            match self.0.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => (),
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
        false
    }
}

pub(crate) fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers without compression. Rule: RFC 7541, 6.2.2.
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer texts take more than one byte of length");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A request of this path.
pub(crate) fn get_block(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)])
}

#[tokio::test]
async fn floods_end_their_connection_or_nothing_and_others_are_served_meanwhile() {
    let (server, client) = start("");
    let request = |stream| framed(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/page"));
    let streams = || (1..20_000_u32).step_by(2);
    // What is sent again and again, and whether the connection must end by it.
    let floods: [(&str, bool, Vec<u8>); 6] = [
        (
            "opened and reset",
            true,
            streams()
                .flat_map(|at| [request(at), framed(RST_STREAM, 0, at, &8_u32.to_be_bytes())].concat())
                .collect(),
        ),
        (
            "headers without an end",
            true,
            [
                framed(HEADERS, END_STREAM, 1, &get_block("/page")),
                framed(CONTINUATION, 0, 1, &block(&[("x", "y")])).repeat(100_000),
            ]
            .concat(),
        ),
        ("data for a stream that is none", true, framed(DATA, 0, 1, b"x").repeat(10_000)),
        (
            "window beyond all bounds",
            true,
            framed(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2),
        ),
        ("pings", false, framed(PING, 0, 0, b"12345678").repeat(50_000)),
        ("settings", false, framed(SETTINGS, 0, 0, b"").repeat(50_000)),
    ];
    for (what, must_end, bytes) in floods {
        let mut raw = Raw::connect(server.address(), &client);
        // A client that never reads what it causes, too.
        let ended = raw.write(&bytes).is_err() || (must_end && raw.is_ended());
        assert!(ended || !must_end, "{what}: the connection goes on");
        let begun = Instant::now();
        let mut send = connect(&server, &client).await;
        assert_eq!(get(&mut send, page("localhost")).await.0, StatusCode::OK, "{what}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: others wait");
    }
    off_thread(move || {
        server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 0.0);
        server.stop();
    })
    .await;
}

#[tokio::test]
async fn more_streams_than_allowed_wait_for_others_to_end() {
    let (server, client) = start("");
    let mut send = connect(&server, &client).await;
    let mut sockets = Vec::new();
    // h2 itself waits until the server lets it open another one.
    for _ in 0..128 {
        send = send.ready().await.unwrap();
        sockets.push(Socket::open(&mut send, "/echo/", &[]).await.unwrap());
    }
    {
        let mut another = pin!(Socket::open(&mut send, "/echo/", &[]));
        for said in ["one", "two"] {
            sockets[0].send(0x81, said.as_bytes());
            tokio::select! {
                biased;
                _ = &mut another => panic!("a 129th stream was opened"),
                heard = sockets[0].next() => assert_eq!(heard, text(said)),
            }
        }
        // One that ends makes room for it.
        sockets.pop();
        sockets.push(time::timeout(TIMEOUT, another).await.unwrap().unwrap());
    }
    assert_eq!(server.metric("anteroom_websocket_connections{route=\"echo\"}"), 128.0);
    drop((sockets, send));
    off_thread(move || server.stop()).await;
}

#[test]
fn a_connection_of_http_2_without_a_request_ends_after_ten_seconds() {
    let (server, client) = start("");
    let begun = Instant::now();
    let mut raw = Raw::connect(server.address(), &client);
    raw.0.sock.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut chunk = [0; 1024];
    while raw.0.read(&mut chunk).is_ok_and(|read| 0 < read) {
        assert!(begun.elapsed() < Duration::from_secs(20), "still open");
    }
    assert!(Duration::from_secs(9) < begun.elapsed(), "after {:?}", begun.elapsed());
    server.stop();
}
