//! How the server ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::http2::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Raw, framed, get_block};
use crate::support::application::{Application, Reply};
use crate::support::client::{Client, Frame, dial, exchange, handshake, request};
use crate::support::server::{TestServer, complete};
use crate::support::tls::Authority;
use crate::support::{pause, wait_until};

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = "/echo/"
handler = "echo"

[[route]]
name = "chat"
path = "/chat/"
handler = "room"
group = "chat"

[[route]]
name = "page"
path = "/page"
handler = "respond"
body = "hello"
"#;

const GET_PAGE: &str = "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn server(drain: &str, workers: usize) -> TestServer {
    TestServer::start(&format!(
        "[server]\nadmin = \"127.0.0.1:0\"\nworkers = {workers}\ndrain = {drain}\n{ROUTES}"
    ))
}

/// Waits until the log has a line for each socket that the end of the process has closed.
fn wait_closed(server: &TestServer, sockets: usize) {
    wait_until(&format!("{sockets} sockets are logged as closed by the shutdown"), || {
        let log = server.log();
        let closed = log.lines().filter(|line| line.contains("cause=\"shutdown\" code=1012"));
        closed.count() == sockets
    });
}

#[test]
fn sigterm_and_sigint_end_it_cleanly_with_1012_for_every_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = server("{ grace = \"0s\", shutdown = \"0s\" }", 2);
        let mut clients: Vec<_> = (0..6).map(|_| server.connect("/echo/")).collect();
        server.signal(signal);
        for client in &mut clients {
            assert_eq!(client.next_close(), 1012);
            client.close(1012);
            assert!(client.ends());
        }
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
        wait_closed(&server, 6);
    }
}

#[test]
fn closes_are_spread_over_the_window() {
    let mut server = server("{ grace = \"0s\", shutdown = \"2s\" }", 1);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect("/echo/")).collect();
    for client in &clients {
        client.stream.set_nonblocking(true).unwrap();
    }
    let begun = Instant::now();
    server.signal(Signal::TERM);
    let mut closed_at = Vec::new();
    wait_until("every socket is closed", || {
        clients.retain_mut(|client| {
            let waiting = matches!(client.stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            if !waiting {
                closed_at.push(Instant::now());
                client.stream.set_nonblocking(false).unwrap();
                assert_eq!(client.next_close(), 1012);
            }
            waiting
        });
        clients.is_empty()
    });
    let (first, last) = (closed_at[0], closed_at[closed_at.len() - 1]);
    // They come 100 ms apart; the bounds leave room for a busy machine, which can only make them late.
    assert!(last - first >= Duration::from_millis(1200), "{closed_at:?}");
    assert!(last - begun < Duration::from_secs(6), "{closed_at:?}");
    let largest_gap = closed_at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(largest_gap < Duration::from_secs(1), "{closed_at:?}");
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn during_the_grace_it_is_not_ready_refuses_sockets_and_serves_those_it_has() {
    let mut server = server("{ grace = \"3s\", shutdown = \"0s\" }", 2);
    assert_eq!(server.admin("/readyz").status, 200);
    assert!((server.metric("anteroom_draining") - 0.0).abs() < 1e-9);
    let mut ann = server.connect("/chat/");
    let mut bob = server.connect("/chat/");
    let mut kept_alive = dial(server.address());
    assert_eq!(exchange(&mut kept_alive, GET_PAGE).status, 200);
    server.signal(Signal::TERM);
    wait_until("readiness fails", || server.admin("/readyz").status == 503);
    assert_eq!(server.admin("/healthz").status, 200);
    server.wait_metric("anteroom_draining", 1.0);

    for _ in 0..10 {
        let refused = server.try_connect("/echo/", &[]).unwrap_err();
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.body.starts_with("draining: "), "{refused:?}");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    server.wait_log(&["reason=\"draining\"", "status=503"]);
    server.wait_metric("anteroom_websocket_handshakes_total{result=\"draining\",route=\"echo\"}", 10.0);
    assert_eq!(request(server.address(), GET_PAGE).status, 200);

    ann.send_text(r#"{"message": "still here"}"#);
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text(), r#"{"message":"still here"}"#);
    }
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_close(), 1012);
        client.close(1012);
    }
    assert_eq!(server.wait_exit().code(), Some(0));
}

/// The text of an answer of 200 over HTTP/2, and whether it came to its end.
fn answer_over_http_2(raw: &mut Raw) -> (String, bool) {
    let (mut body, mut is_whole) = (Vec::new(), false);
    while !is_whole && let Some((kind, flags, payload)) = raw.next() {
        match kind {
            // `:status: 200`. Rule: RFC 7541, appendix A.
            HEADERS => assert_eq!(payload[0], 0x88),
            DATA => body.extend(payload),
            _ => continue,
        }
        is_whole = flags & END_STREAM != 0;
    }
    (String::from_utf8(body).unwrap(), is_whole)
}

/// The kinds of the frames that come until the end of the stream.
fn to_end(raw: &mut Raw) -> impl Iterator<Item = u8> {
    std::iter::from_fn(|| raw.next()).map(|(kind, ..)| kind)
}

#[test]
fn what_is_being_answered_is_answered_whole_and_idle_connections_end_at_once() {
    let gate = Arc::new(RwLock::new(()));
    let slow = Arc::clone(&gate);
    // Two of them fit into the first window of an HTTP/2 client.
    let text = "x".repeat(16 << 10);
    let whole = Reply::ok(&text);
    let application = Application::start(move |seen| {
        if seen.target() == "/slow" {
            drop(slow.read());
        }
        whole.clone()
    });
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.issue(&["localhost"]).write(folder.path(), "localhost");
    let path = folder.path().join("routes.toml");
    let config = complete(&format!(
        "[[listener]]\nname = \"clear\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         tls = [{{ cert = \"localhost.pem\", key = \"localhost.key\" }}]\n\
         [upstream.django]\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"django\"\n",
        application.address
    ));
    std::fs::write(&path, config).unwrap();
    let mut server = TestServer::start_at(folder, &path, &[]);
    let client = authority.client().alpn(&["h2"]);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let get_over_http_2 =
        |stream, path: &str| framed(HEADERS, END_HEADERS | END_STREAM, stream, &get_block(path));

    // Each has been answered once.
    let [mut idle, mut busy] = [(); 2].map(|()| {
        let mut stream = dial(server.addresses[0]);
        assert_eq!(exchange(&mut stream, &get("/")).body, text);
        stream
    });
    let [mut idle_2, mut busy_2] = [(); 2].map(|()| {
        let mut raw = Raw::connect(server.addresses[1], &client);
        raw.write(&get_over_http_2(1, "/")).unwrap();
        assert_eq!(answer_over_http_2(&mut raw), (text.clone(), true));
        raw
    });
    let shut = gate.write().unwrap();
    busy.write_all(get("/slow").as_bytes()).unwrap();
    busy_2.write(&get_over_http_2(3, "/slow")).unwrap();
    wait_until("the application has both", || {
        application.seen().iter().filter(|seen| seen.target() == "/slow").count() == 2
    });
    server.signal(Signal::TERM);

    assert_eq!(idle.read(&mut [0; 16]).unwrap(), 0);
    let farewell: Vec<_> = to_end(&mut idle_2).collect();
    assert!(farewell.contains(&GOAWAY), "{farewell:?}");
    drop(shut);
    let answer = exchange(&mut busy, "");
    assert_eq!((answer.status, answer.body), (200, text.clone()));
    assert_eq!(busy.read(&mut [0; 16]).unwrap(), 0);
    assert_eq!(answer_over_http_2(&mut busy_2), (text, true));
    assert!(to_end(&mut busy_2).all(|kind| kind != DATA));
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = server("{ grace = \"1h\", shutdown = \"1h\" }", 2);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect("/echo/")).collect();
    server.signal(Signal::TERM);
    wait_until("readiness fails", || server.admin("/readyz").status == 503);
    ask_again(&server);
    for client in &mut clients {
        assert_eq!(client.next_close(), 1012);
    }
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
    wait_closed(&server, 4);
    server.wait_log(&["asked a second time", "connections=4"]);
}

/// Signals until one counts as another wish, and not as the first.
fn ask_again(server: &TestServer) {
    wait_until("it is asked a second time", || {
        server.signal(Signal::INT);
        server.log().contains("asked a second time")
    });
}

#[test]
fn signals_that_come_together_are_one() {
    let mut server = server("{ grace = \"1h\", shutdown = \"0s\" }", 1);
    let mut client = server.connect("/echo/");
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        server.signal(signal);
    }
    server.wait_log(&["stopping"]);
    // Through the grace everything is served.
    client.send_text("still here");
    assert_eq!(client.next_text(), "still here");
    assert!(!server.log().contains("asked a second time"), "{}", server.log());
    ask_again(&server);
    assert_eq!(client.next_close(), 1012);
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn a_drain_that_runs_out_of_time_says_what_it_drops() {
    let mut server = server("{ grace = \"0s\", shutdown = \"0s\" }", 1);
    // An answer that is not read, by requests one behind the other.
    let mut deaf = dial(server.address());
    deaf.set_nonblocking(true).unwrap();
    let requests = GET_PAGE.repeat(1_000);
    wait_until("nothing more is taken", || {
        let mut blocked = 0;
        while deaf.write(requests.as_bytes()).is_err() && blocked < 100 {
            blocked += 1;
            pause(Duration::from_millis(2));
        }
        100 <= blocked
    });
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
    server.wait_log(&["the drain ran out of time", "connections=1"]);
}

#[test]
fn clients_that_answer_nothing_hold_it_up_for_five_seconds_at_most() {
    let mut server = server("{ grace = \"0s\", shutdown = \"0s\" }", 2);
    let _silent: Vec<_> = (0..4).map(|_| server.connect("/echo/")).collect();
    let mut half_a_head = dial(server.address());
    half_a_head.write_all(b"GET /page HTTP/1.1\r\n").unwrap();
    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
    assert!(begun.elapsed() < Duration::from_secs(9), "ended after {:?}", begun.elapsed());
}

#[test]
fn a_client_that_does_not_read_does_not_hold_it_up() {
    let mut server = TestServer::start(&format!(
        "[server]\nadmin = \"127.0.0.1:0\"\ndrain = {{ grace = \"0s\", shutdown = \"0s\" }}\n\
         [defaults]\nqueue = {{ bytes = \"64MiB\", full = \"close\" }}\n{ROUTES}"
    ));
    let mut clogged = server.connect("/echo/");
    // More than the kernel keeps for it, so that our close frame waits behind the rest.
    for _ in 0..400 {
        clogged.send_binary(&vec![0; 65_536]);
    }
    server.wait_metric("anteroom_websocket_messages_received_total{opcode=\"binary\",route=\"echo\"}", 400.0);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
    assert!(begun.elapsed() < Duration::from_secs(9), "ended after {:?}", begun.elapsed());
    wait_closed(&server, 1);
}

#[test]
fn closed_output_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    std::fs::write(&path, complete(ROUTES)).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_anteroom"))
        .arg("-c")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some((_, url)) = line.split_once("http://") {
            break url.trim_end_matches('/').parse().unwrap();
        }
    };
    // Whoever read its output is gone: from now on each write fails.
    drop((lines, process.stderr.take()));
    for _ in 0..20 {
        let mut client = Client::handshake(address, &handshake("/echo/", &[])).unwrap();
        client.send_text("hi");
        assert_eq!(client.next(), Frame::Text("hi".into()));
        client.close(1000);
        assert_eq!(client.next_close(), 1000);
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&process), Signal::TERM).unwrap();
    let mut status = None;
    wait_until("the server has ended", || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}
