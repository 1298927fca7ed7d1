//! What one socket may do, and how long: limits that a route sets.

use std::io::Read as _;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::{Client, Frame, frame, handshake};
use crate::support::pause;
use crate::support::server::TestServer;
use crate::support::tls::Authority;

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

/// An echo with one more line.
fn echo(name: &str, line: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\npath = \"/{name}/\"\nhandler = \"echo\"\n{line}\n")
}

/// A room with one more line.
fn room(name: &str, line: &str) -> String {
    let keys = "handler = \"room\"\nformat = \"raw\"\ngroup = \"room\"";
    format!("[[route]]\nname = \"{name}\"\npath = \"/{name}/\"\n{keys}\n{line}\n")
}

fn rate_limited(route: &str) -> String {
    format!("anteroom_websocket_rate_limited_total{{route=\"{route}\"}}")
}

fn closes(cause: &str, route: &str) -> String {
    format!("anteroom_websocket_closes_total{{cause=\"{cause}\",route=\"{route}\"}}")
}

fn assert_closed(client: &mut Client, code: u16, reason: &str) {
    match client.next() {
        Frame::Close(closed_with, why) => assert_eq!((closed_with, why.as_str()), (code, reason)),
        other => panic!("{other:?} in place of a close frame"),
    }
    client.close(code);
    assert!(client.ends());
}

#[test]
fn sockets_limits_close_who_says_too_much_with_1008() {
    let server = TestServer::start(&echo("a", "rate = { messages = 2, per = \"1h\", burst = 3 }"));
    let mut client = server.connect("/a/");
    for at in 0..3 {
        client.send_text(&at.to_string());
        assert_eq!(client.next_text(), at.to_string());
    }
    // Control frames are no messages.
    client.send(PING, b"");
    assert!(matches!(client.next(), Frame::Pong(_)));
    client.send_text("one too many");
    client.send_text("and another");
    assert_closed(&mut client, 1008, "rate");
    server.wait_metric(&closes("rate", "a"), 1.0);
    assert!((server.metric(&rate_limited("a")) - 1.0).abs() < f64::EPSILON);

    // Each socket has a bucket of its own.
    let mut other = server.connect("/a/");
    other.send_text("hello");
    assert_eq!(other.next_text(), "hello");
    drop(other);
    server.stop();
}

#[test]
fn sockets_limits_drop_and_count_what_is_beyond_the_rate() {
    let route = echo("a", "rate = { messages = 5, per = \"500ms\", over = \"drop\" }");
    let server = TestServer::start(&route);
    let mut client = server.connect("/a/");
    let burst: Vec<u8> = (0..50).flat_map(|_| frame(TEXT, b"x")).collect();
    let begun = Instant::now();
    client.send_raw(&burst);
    for _ in 0..5 {
        assert_eq!(client.next_text(), "x");
    }
    server.wait_metric(&rate_limited("a"), 45.0);
    // A token comes back every 100 ms, and the socket is none the worse.
    while begun.elapsed() < Duration::from_millis(250) {
        pause(Duration::from_millis(10));
    }
    client.send_text("again");
    assert_eq!(client.next_text(), "again");
    client.close(1000);
    assert_eq!(client.next_close(), 1000);
    drop(client);
    server.stop();
}

#[test]
fn sockets_limits_send_old_sockets_away_with_1012_and_not_all_at_once() {
    let server = TestServer::start(&echo("a", "max_age = \"2s\""));
    let ages: Vec<_> = thread::scope(|scope| {
        let live = || {
            let mut client = server.connect("/a/");
            let begun = Instant::now();
            assert_closed(&mut client, 1012, "max age");
            begun.elapsed()
        };
        let lives: Vec<_> = (0..20).map(|_| scope.spawn(live)).collect();
        lives.into_iter().map(|life| life.join().unwrap()).collect()
    });
    let (first, last) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    // A tenth less to a tenth more, and the step of the timers.
    assert!(Duration::from_millis(1_750) <= *first, "{first:?}");
    assert!(*last <= Duration::from_millis(3_500), "{last:?}");
    assert!(*first + Duration::from_millis(100) <= *last, "{ages:?}");
    server.wait_metric(&closes("max_age", "a"), 20.0);
    server.stop();
}

#[test]
fn sockets_limits_close_who_is_silent_with_1001_however_often_it_is_pinged() {
    let ping = "ping = { every = \"50ms\", timeout = \"5s\" }";
    let routes = [room("idle", &format!("idle = \"800ms\"\n{ping}")), room("free", ping)].concat();
    let server = TestServer::start(&routes);
    let mut talker = server.connect("/free/");
    let mut speaker = server.connect("/idle/");
    let begun = Instant::now();
    // What others say counts for who hears it, and what one says counts, too.
    for at in 0..8 {
        if at < 4 {
            talker.send_text("listen");
        } else {
            speaker.send_text("I do");
        }
        assert!(matches!(speaker.next(), Frame::Text(_)));
        assert!(matches!(talker.next(), Frame::Text(_)));
        pause(Duration::from_millis(200));
    }
    assert!(Duration::from_millis(1_600) <= begun.elapsed());
    assert_closed(&mut speaker, 1001, "idle");
    server.wait_metric(&closes("idle", "idle"), 1.0);
    // The other route sets no limit.
    talker.send_text("still here");
    assert!(matches!(talker.next(), Frame::Text(_)));
    drop((talker, speaker));
    server.stop();
}

#[test]
fn sockets_limits_of_a_new_file_are_for_new_sockets() {
    let server = TestServer::start(&echo("a", ""));
    let mut old = server.connect("/a/");
    let strict = "rate = { messages = 1, per = \"1h\" }\nidle = \"500ms\"";
    server.write_config(&echo("a", strict));
    server.wait_metric("anteroom_config_generation", 2.0);
    let mut new = server.connect("/a/");
    new.send_text("one");
    assert_eq!(new.next_text(), "one");
    assert_closed(&mut new, 1001, "idle");
    for _ in 0..5 {
        old.send_text("as before");
        assert_eq!(old.next_text(), "as before");
    }
    drop((old, new));
    server.stop();
}

#[test]
fn a_room_is_heard_alike_through_tls_and_its_end_is_told() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).write(folder.path(), "a");
    let [cert, key] = ["pem", "key"].map(|kind| folder.path().join(format!("a.{kind}")));
    let listener = format!(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\ntls = [{{ cert = {cert:?}, key = {key:?} }}]\n"
    );
    let server = TestServer::start(&[listener, room("room", "")].concat());
    let mut members: Vec<_> = (0..10)
        .map(|_| {
            let stream = authority.client().connect(server.address(), "localhost").unwrap();
            Client::handshake_over(stream, &handshake("/room/", &[])).unwrap()
        })
        .collect();
    for at in 0..200 {
        members[at % 10].send_text(&format!("{at} {}", "x".repeat(at * 100)));
        if at % 10 == 9 {
            for member in &mut members {
                let mut heard: Vec<_> = (0..10).map(|_| member.next_text()).collect();
                heard.sort_by_key(String::len);
                assert!(
                    heard.iter().enumerate().all(|(one, text)| text.starts_with(&(at - 9 + one).to_string()))
                );
            }
        }
    }
    for mut member in members {
        member.close(1000);
        assert_eq!(member.next_close(), 1000);
        // An end without a `close_notify` is an error here.
        assert_eq!(member.stream.read(&mut [0; 1]).unwrap(), 0);
    }
    server.wait_metric(&closes("client", "room"), 10.0);
    server.stop();
}
