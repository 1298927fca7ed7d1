//! RFC 6455 on a real socket: what clients may send, and what they are told when they send something else.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::{Client, Frame, dial, frame, handshake};
use crate::support::server::TestServer;
use crate::support::wait_until;

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
"#;

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

const PROTOCOL_ERROR: u16 = 1002;
const INVALID_DATA: u16 = 1007;
const TOO_BIG: u16 = 1009;

/// The default of `max_message`.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// A masked frame whose length is written as given, and which ends before its payload.
fn head(first: u8, len: &[u8]) -> Vec<u8> {
    let mut head = vec![first, FIN | len[0]];
    head.extend_from_slice(&len[1..]);
    head.extend_from_slice(&[0; 4]);
    head
}

fn closes(cause: &str) -> String {
    format!("anteroom_websocket_closes_total{{cause=\"{cause}\",route=\"echo\"}}")
}

const OPEN: &str = "anteroom_websocket_connections{route=\"echo\"}";

/// Sends bytes over a fresh socket each and expects that it is closed with the code: first the frame, then the end.
fn assert_closed_with(server: &TestServer, code: u16, cases: &[(&str, Vec<u8>)]) {
    for (what, bytes) in cases {
        let mut client = server.connect("/echo/");
        client.send_raw(bytes);
        match client.next() {
            Frame::Close(closed_with, reason) => {
                assert_eq!(closed_with, code, "{what}: {reason}");
                assert!(!reason.is_empty(), "{what}");
            }
            other => panic!("{what}: {other:?} in place of a close frame"),
        }
        assert!(client.ends(), "{what}");
    }
}

#[test]
fn a_breach_of_the_protocol_is_closed_with_1002() {
    let server = TestServer::start(ROUTES);
    let mut unmasked = frame(FIN | TEXT, b"hello");
    unmasked[1] &= !FIN;
    let mut cases = vec![
        ("unmasked", unmasked),
        ("unmasked and empty", vec![FIN | TEXT, 0]),
        ("RSV1", frame(FIN | 0x40 | TEXT, b"hello")),
        ("RSV2", frame(FIN | 0x20 | TEXT, b"hello")),
        ("RSV3", frame(FIN | 0x10 | TEXT, b"hello")),
        ("RSV1 of a ping", frame(FIN | 0x40 | PING, b"hello")),
        ("5 in 16 bits", head(FIN | TEXT, &[126, 0, 5])),
        ("125 in 16 bits", head(FIN | TEXT, &[126, 0, 125])),
        ("126 in 64 bits", head(FIN | TEXT, &[127, 0, 0, 0, 0, 0, 0, 0, 126])),
        ("65535 in 64 bits", head(FIN | TEXT, &[127, 0, 0, 0, 0, 0, 0, 255, 255])),
        ("the top bit of 64", head(FIN | TEXT, &[127, 128, 0, 0, 0, 0, 0, 0, 0])),
        ("5 in 16 bits of a ping", head(FIN | PING, &[126, 0, 5])),
        ("a ping of 126 bytes", frame(FIN | PING, &[b'x'; 126])),
        ("a pong of 126 bytes", frame(FIN | PONG, &[b'x'; 126])),
        ("a close of 126 bytes", frame(FIN | CLOSE, &[3; 126])),
        ("a ping in fragments", frame(PING, b"x")),
        ("a close in fragments", frame(CLOSE, &[])),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"x")),
        ("a first continuation of nothing", frame(CONTINUATION, b"x")),
        ("text inside of text", [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat()),
        ("binary inside of text", [frame(TEXT, b"a"), frame(BINARY, b"b")].concat()),
        (
            "a continuation after the end",
            [frame(TEXT, b""), frame(FIN | CONTINUATION, b""), frame(FIN | CONTINUATION, b"b")].concat(),
        ),
        ("a close of one byte", frame(FIN | CLOSE, &[3])),
    ];
    // The empty message before the stray continuation is echoed.
    let stray = cases.remove(cases.len() - 2);
    cases.extend((3..8).chain(11..16).map(|opcode| ("a reserved opcode", frame(FIN | opcode, b""))));
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        cases.push(("a close code that may not be sent", frame(FIN | CLOSE, &code.to_be_bytes())));
    }
    assert_closed_with(&server, PROTOCOL_ERROR, &cases);
    server.wait_metric(&closes("protocol"), cases.len() as f64);

    let mut client = server.connect("/echo/");
    client.send_raw(&stray.1);
    assert_eq!(client.next_text(), "");
    assert_eq!(client.next_close(), PROTOCOL_ERROR);
    drop(client);
    server.stop();
}

#[test]
fn text_that_is_not_utf_8_is_closed_with_1007() {
    let server = TestServer::start(ROUTES);
    let cases = [
        ("a lone continuation byte", frame(FIN | TEXT, b"ab\x80")),
        ("a surrogate", frame(FIN | TEXT, b"\xed\xa0\x80")),
        ("an overlong slash", frame(FIN | TEXT, b"\xc0\xaf")),
        ("beyond U+10FFFF", frame(FIN | TEXT, b"\xf4\x90\x80\x80")),
        ("an end inside of a character", frame(FIN | TEXT, b"ab\xe2\x82")),
        (
            "an end inside of a character, after fragments",
            [frame(TEXT, b"ab"), frame(FIN | CONTINUATION, b"\xe2\x82")].concat(),
        ),
        ("a character torn by another", [frame(TEXT, b"\xe2\x82"), frame(FIN | CONTINUATION, b"x")].concat()),
        ("an unfinished message", frame(TEXT, b"\xff")),
        ("a reason to close", frame(FIN | CLOSE, b"\x03\xe8\xff")),
    ];
    assert_closed_with(&server, INVALID_DATA, &cases);
    server.stop();
}

#[test]
fn wrong_utf_8_is_noticed_before_the_frame_is_complete() {
    let server = TestServer::start(ROUTES);
    let whole = frame(FIN | TEXT, &[&[b'x'; 20][..], b"\xff", &[b'x'; 1000]].concat());
    assert_closed_with(&server, INVALID_DATA, &[("the first 40 bytes", whole[..40].to_vec())]);
    server.stop();
}

#[test]
fn a_character_may_be_cut_by_fragments_and_by_segments() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    let text = "κόσμε 🦀";
    for (at, byte) in text.bytes().enumerate() {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        let fin = if at + 1 == text.len() { FIN } else { 0 };
        client.send(fin | opcode, &[byte]);
        // Control frames may stand between, and are answered at once.
        client.send(FIN | PING, &[byte]);
        assert_eq!(
            client.next_frame(),
            if fin == 0 { Frame::Pong(vec![byte]) } else { Frame::Text(text.into()) }
        );
    }
    assert_eq!(client.next_frame(), Frame::Pong(text.bytes().last().into_iter().collect()));
    drop(client);
    server.stop();
}

#[test]
fn a_message_above_the_limit_is_closed_with_1009_by_its_head_or_its_fragments() {
    let server = TestServer::start(ROUTES);
    let half = vec![b'x'; MESSAGE_BYTES_MAX / 2];
    let cases = [
        ("one byte too many", head(FIN | BINARY, &[127, 0, 0, 0, 0, 0, 1, 0, 1])),
        ("64 MiB", head(FIN | BINARY, &[127, 0, 0, 0, 0, 4, 0, 0, 0])),
        ("more than there is", head(FIN | BINARY, &[127, 127, 255, 255, 255, 255, 255, 255, 255])),
        (
            "fragments",
            [frame(BINARY, &half), frame(CONTINUATION, &half), head(FIN | CONTINUATION, &[1])].concat(),
        ),
    ];
    assert_closed_with(&server, TOO_BIG, &cases);
    server.wait_metric(&closes("too_big"), cases.len() as f64);

    let mut client = server.connect("/echo/");
    for opcode in [BINARY, CONTINUATION, FIN | CONTINUATION] {
        client.send(opcode, if opcode & FIN == 0 { &half } else { &[] });
    }
    assert_eq!(client.next(), Frame::Binary([&half[..], &half[..]].concat()));
    drop(client);
    server.stop();
}

#[test]
fn text_and_binary_of_every_length_are_echoed_in_order() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    let lens = [0, 1, 125, 126, 127, 65_535, MESSAGE_BYTES_MAX];
    for len in lens {
        client.send_text(&"x".repeat(len));
        client.send_binary(&vec![0xff; len]);
        assert_eq!(client.next(), Frame::Text("x".repeat(len)));
        assert_eq!(client.next(), Frame::Binary(vec![0xff; len]));
    }
    let many: Vec<_> = (0..500).flat_map(|at| frame(FIN | TEXT, format!("{at}").as_bytes())).collect();
    client.send_raw(&many);
    for at in 0..500 {
        assert_eq!(client.next_text(), at.to_string());
    }
    client.close(1000);
    assert_eq!(client.next_close(), 1000);
    server.wait_log(&["closed", "cause=\"client\"", "code=1000", "received=514", "sent=514"]);
    drop(client);
    server.stop();
}

#[test]
fn a_frame_in_the_segment_of_the_handshake_is_not_lost() {
    let server = TestServer::start(ROUTES);
    let early =
        [handshake("/echo/", &[]), frame(FIN | TEXT, b"one"), frame(FIN | TEXT, b"two")[..3].to_vec()]
            .concat();
    let mut client = Client::handshake(server.address(), &early).unwrap();
    assert_eq!(client.next_text(), "one");
    client.send_raw(&frame(FIN | TEXT, b"two")[3..]);
    assert_eq!(client.next_text(), "two");
    drop(client);
    server.stop();
}

#[test]
fn much_that_comes_behind_a_handshake_is_not_lost() {
    let server = TestServer::start(ROUTES);
    let frames = (0..300).flat_map(|at| frame(FIN | TEXT, format!("{at:01000}").as_bytes()));
    let early: Vec<u8> = handshake("/echo/", &[]).into_iter().chain(frames).collect();
    let mut client = Client::handshake(server.address(), &early).unwrap();
    for at in 0..300 {
        assert_eq!(client.next_text(), format!("{at:01000}"));
    }
    drop(client);
    server.stop();
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let server = TestServer::start(ROUTES);
    let mut stream = dial(server.address());
    let bytes = handshake("/echo/", &[]);
    let (last, bytes) = bytes.split_last().unwrap();
    for byte in bytes {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut client = Client::handshake_over(stream, &[*last]).unwrap();
    client.send_text("hi");
    assert_eq!(client.next_text(), "hi");
    drop(client);
    server.stop();
}

#[test]
fn a_close_in_the_segment_of_the_handshake_is_answered() {
    let server = TestServer::start(ROUTES);
    let early = [handshake("/echo/", &[]), frame(FIN | CLOSE, &1000_u16.to_be_bytes())].concat();
    let mut client = Client::handshake(server.address(), &early).unwrap();
    assert_eq!(client.next_close(), 1000);
    assert!(client.ends());
    drop(client);
    server.stop();
}

#[test]
fn frames_dripped_byte_by_byte_arrive_while_the_room_is_busy() {
    let server = TestServer::start(ROUTES);
    let mut slow = server.connect("/chat/");
    let mut busy = server.connect("/chat/");
    for round in 0..5 {
        for (at, byte) in
            frame(FIN | TEXT, format!("{{\"message\": {round}}}").as_bytes()).into_iter().enumerate()
        {
            slow.send_raw(&[byte]);
            // The slow one hears the busy one between any two of its bytes.
            let last = at == frame(FIN | TEXT, br#"{"message": 0}"#).len() - 1;
            if !last {
                busy.send_text(r#"{"message": "noise"}"#);
                assert_eq!(slow.next_text(), r#"{"message":"noise"}"#);
                assert_eq!(busy.next_text(), r#"{"message":"noise"}"#);
            }
        }
        for client in [&mut slow, &mut busy] {
            assert_eq!(client.next_text(), format!("{{\"message\":{round}}}"));
        }
    }
    drop((slow, busy));
    server.stop();
}

#[test]
fn an_announced_length_costs_nothing() {
    let server = TestServer::start(
        r#"
        [[route]]
        name = "echo"
        path = "/echo/"
        handler = "echo"
        max_message = "64MiB"
        queue = { bytes = "64MiB", full = "close" }
        "#,
    );
    let clients = |announcing: bool| -> Vec<Client> {
        let connect = |_| {
            let mut client = server.connect("/echo/");
            // The answer says that what came before it has been read.
            client.send_raw(&frame(FIN | PING, b""));
            if announcing {
                let announced = head(FIN | BINARY, &[127, 0, 0, 0, 0, 4, 0, 0, 0]);
                client.send_raw(&[announced, b"some of it".to_vec()].concat());
            }
            assert_eq!(client.next_frame(), Frame::Pong(Vec::new()));
            client
        };
        (0..100).map(connect).collect()
    };
    let quiet = clients(false);
    let before = server.metric("process_resident_memory_bytes");
    let announcing = clients(true);
    let grown = server.metric("process_resident_memory_bytes") - before;
    assert!(grown < f64::from(16 << 20), "{grown} bytes for 100 announcements of 64 MiB");
    drop((quiet, announcing));
    server.wait_metric(OPEN, 0.0);
    server.stop();
}

#[test]
fn a_close_is_answered_with_its_code_and_the_end_at_once() {
    let server = TestServer::start(ROUTES);
    let cases = [
        // the payload, the code of the answer
        (&b""[..], 1005),
        (b"\x03\xe8", 1000),
        (b"\x03\xe9going", 1001),
        (b"\x0b\xb8", 3000),
        (b"\x13\x87", 4999),
    ];
    for (payload, code) in cases {
        let mut client = server.connect("/echo/");
        client.send_text("last words");
        client.send(FIN | CLOSE, payload);
        // Nothing is read after a close frame, however well it is formed.
        client.send_text("too late");
        let begun = Instant::now();
        assert_eq!(client.next_text(), "last words");
        assert_eq!(client.next(), Frame::Close(code, String::new()));
        assert!(client.ends());
        assert!(begun.elapsed() < Duration::from_secs(2), "{code}: ended after {:?}", begun.elapsed());
    }
    server.wait_metric(OPEN, 0.0);
    server.wait_metric(&closes("client"), cases.len() as f64);
    server.wait_log(&["cause=\"client\"", "code=4999"]);
    server.stop();
}

#[test]
fn what_was_queued_before_a_close_is_sent_though_the_client_takes_its_time() {
    const MESSAGES: usize = 400;
    let server = TestServer::start(
        r#"
        [defaults]
        ping = { every = "500ms", timeout = "30s" }
        queue = { bytes = "64MiB", full = "close" }
        [[route]]
        name = "echo"
        path = "/echo/"
        handler = "echo"
        "#,
    );
    let mut client = server.connect("/echo/");
    let payload = vec![0; MESSAGE_BYTES_MAX];
    // Far more than the kernel keeps for a client that reads nothing.
    for _ in 0..MESSAGES {
        client.send_binary(&payload);
    }
    client.close(1000);
    // The time of a ping comes and goes.
    let mut other = server.connect("/echo/");
    for _ in 0..2 {
        assert_eq!(other.next_frame(), Frame::Ping(Vec::new()));
        other.send(FIN | PONG, b"");
    }
    for at in 0..MESSAGES {
        assert!(client.next() == Frame::Binary(payload.clone()), "message {at} of {MESSAGES}");
    }
    assert_eq!(client.next_close(), 1000);
    assert!(client.ends());
    server.wait_log(&["closed", "cause=\"client\"", "code=1000", "sent=400"]);
    drop(other);
    server.stop();
}

#[test]
fn a_client_that_does_not_answer_our_close_is_let_go_after_five_seconds() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    let begun = Instant::now();
    client.send(FIN | 0x3, b"");
    assert_eq!(client.next_close(), PROTOCOL_ERROR);
    // It neither answers nor ends.
    server.wait_metric(OPEN, 0.0);
    let lasted = begun.elapsed();
    assert!((4.5..9.0).contains(&lasted.as_secs_f64()), "let go after {lasted:?}");
    drop(client);
    server.stop();
}

#[test]
fn a_client_that_answers_our_close_is_let_go_at_once() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    let begun = Instant::now();
    client.send(FIN | 0x3, b"");
    assert_eq!(client.next_close(), PROTOCOL_ERROR);
    client.hang_up();
    server.wait_metric(OPEN, 0.0);
    assert!(begun.elapsed() < Duration::from_secs(4), "let go after {:?}", begun.elapsed());
    server.wait_metric(&closes("protocol"), 1.0);
    server.stop();
}

#[test]
fn pings_are_answered_with_their_payload_and_pongs_are_not() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        client.send(FIN | PONG, payload);
        client.send(FIN | PING, payload);
        assert_eq!(client.next_frame(), Frame::Pong(payload.to_vec()));
    }
    assert!(client.is_silent_for(Duration::from_millis(100)));
    drop(client);
    server.stop();
}

const IMPATIENT: &str = r#"
[defaults]
ping = { every = "1s", timeout = "1s" }
[[route]]
name = "chat"
path = "/chat/"
handler = "room"
group = "chat"
"#;

#[test]
fn a_dead_peer_is_noticed_though_its_room_is_busy_and_one_that_answers_stays() {
    let server = TestServer::start(IMPATIENT);
    let mut dead = server.connect("/chat/");
    let mut alive = server.connect("/chat/");
    let mut pings = 0;
    let begun = Instant::now();
    let dead_for = loop {
        assert!(begun.elapsed() < Duration::from_secs(10), "not noticed within 10 s");
        // Neither what the room says to it nor the silence of its socket counts.
        alive.send_text(r#"{"message": "noise"}"#);
        assert_eq!(alive.next_text(), r#"{"message":"noise"}"#);
        match dead.next_frame() {
            Frame::Ping(_) => pings += 1,
            Frame::Text(_) => (),
            Frame::Close(code, _) => {
                assert_eq!(code, 1001);
                break begun.elapsed();
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pings, 1);
    assert!((1.5..6.0).contains(&dead_for.as_secs_f64()), "noticed after {dead_for:?}");
    assert!(dead.ends());
    server.wait_metric("anteroom_websocket_closes_total{cause=\"ping_timeout\",route=\"chat\"}", 1.0);
    // From here on it is quiet and answers pings only.
    for _ in 0..3 {
        assert_eq!(alive.next_frame(), Frame::Ping(Vec::new()));
        alive.send(FIN | PONG, b"");
    }
    alive.send_text(r#"{"message": "still here"}"#);
    assert_eq!(alive.next_text(), r#"{"message":"still here"}"#);
    assert!(server.metric("anteroom_websocket_ping_rtt_seconds_count") >= 2.0);
    drop((dead, alive));
    server.stop();
}

#[test]
fn a_quiet_client_is_pinged_again_and_again_however_patient_the_timeout_is() {
    let server = TestServer::start(
        r#"
        [[route]]
        name = "echo"
        path = "/echo/"
        handler = "echo"
        ping = { every = "300ms", timeout = "1h" }
        "#,
    );
    let mut client = server.connect("/echo/");
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(client.next_frame(), Frame::Ping(Vec::new()));
        client.send(FIN | PONG, b"");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "four pings took {:?}", begun.elapsed());
    drop(client);
    server.stop();
}

#[test]
fn a_client_that_ends_its_side_still_gets_its_answer() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    client.send_text("last words");
    client.finish_writing();
    assert_eq!(client.next_text(), "last words");
    assert!(client.ends());
    server.wait_metric(OPEN, 0.0);
    server.wait_log(&["closed", "cause=\"client_gone\"", "received=1"]);
    drop(client);
    server.stop();
}

#[test]
fn connections_that_vanish_leave_nothing_behind() {
    let server = TestServer::start(ROUTES);
    for at in 0..50 {
        let mut client = server.connect("/echo/");
        // Some in the middle of a frame.
        client.send_raw(&frame(FIN | TEXT, b"hello")[..at % 11]);
        client.hang_up();
    }
    server.wait_metric(OPEN, 0.0);
    wait_until("no connection is open", || {
        server.metric("anteroom_tcp_connections{listener=\"public\"}") == 0.0
    });
    server.wait_metric(&closes("client_gone"), 50.0);
    server.stop();
}

#[test]
fn ten_thousand_fragments_make_one_message() {
    let server = TestServer::start(ROUTES);
    let mut client = server.connect("/echo/");
    let mut bytes = frame(TEXT, b"x");
    for _ in 0..10_000 {
        bytes.extend(frame(CONTINUATION, b"x"));
    }
    bytes.extend(frame(FIN | CONTINUATION, b""));
    client.send_raw(&bytes);
    assert_eq!(client.next_text(), "x".repeat(10_001));
    drop(client);
    server.stop();
}

#[test]
fn the_log_tells_a_close_without_a_code_from_no_close_at_all() {
    let server = TestServer::start(ROUTES);
    let mut polite = server.connect("/echo/");
    polite.send(0x88, &[]);
    assert_eq!(polite.next(), Frame::Close(1005, String::new()));
    server.wait_log(&["closed", "cause=\"client\"", "code=1005"]);
    server.connect("/echo/").hang_up();
    server.wait_log(&["closed", "cause=\"client_gone\"", "code=1006"]);
    server.stop();
}
