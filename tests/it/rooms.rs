//! What rooms do for the clients in them.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use crate::support::client::{Client, Frame, frame, handshake};
use crate::support::server::TestServer;
use crate::support::{pause, wait_within};

const CHAT: &str = r#"
[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
group = "chat_{room_name}"
"#;

/// The messages of a chat as a client sends them and as its members see them.
fn said(message: &str) -> String {
    format!("{{\"message\":\"{message}\"}}")
}

fn with_workers(workers: usize, routes: &str) -> TestServer {
    TestServer::start(&format!(
        "[server]\nadmin = \"127.0.0.1:0\"\nworkers = {workers}\ndrain = {{ grace = \"0s\", shutdown = \"0s\" }}\n\
         limits = {{ per_ip = 10000, handshakes_per_second = 10000 }}\n{routes}"
    ))
}

fn series(name: &str, label: &str, route: &str) -> String {
    let (key, value) = label.split_once('=').unwrap();
    let mut labels = [format!("{key}=\"{value}\""), format!("route=\"{route}\"")];
    labels.sort();
    format!("anteroom_{name}{{{}}}", labels.join(","))
}

#[test]
fn a_message_reaches_every_member_of_its_room_the_sender_included_and_no_other_room() {
    let server = TestServer::start(CHAT);
    let mut ann = server.connect("/chat/lobby/");
    let mut bob = server.connect("/chat/lobby/");
    let mut eve = server.connect("/chat/other/");
    ann.send_text(r#"{"message": "hi"}"#);
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text(), r#"{"message":"hi"}"#);
    }
    eve.send_text(r#"{"message": "alone"}"#);
    assert_eq!(eve.next_text(), r#"{"message":"alone"}"#);
    drop((ann, bob, eve));
    server.stop();
}

#[test]
fn json_values_pass_as_they_are_and_members_that_are_not_picked_do_not() {
    let server = TestServer::start(&format!(
        r#"{CHAT}
        [[route]]
        name = "board"
        path = "/board/"
        handler = "room"
        group = "board"
        receive = {{ type = "board.move", pick = ["from", "to"] }}
        deliver = {{ "board.move" = {{ pick = ["to", "from"] }} }}
        "#
    ));
    let mut client = server.connect("/chat/lobby/");
    let cases = [
        // sent, heard
        (r#"{"message": "κόσμε 🦀 \" \\ \n \u0000"}"#, r#"{"message":"κόσμε 🦀 \" \\ \n \u0000"}"#),
        (r#"{"message": null}"#, r#"{"message":null}"#),
        (r#"{"message": [1, -2, 3.5, true, {"a": "b"}]}"#, r#"{"message":[1,-2,3.5,true,{"a":"b"}]}"#),
        (r#"{"message": 18446744073709551615}"#, r#"{"message":18446744073709551615}"#),
        (r#"{"message": 0.36995516654807925}"#, r#"{"message":0.36995516654807925}"#),
        (r#"{"type": "websocket.close", "message": "x", "more": 1}"#, r#"{"message":"x"}"#),
        (r#"{"message": "first", "message": "last"}"#, r#"{"message":"last"}"#),
    ];
    for (sent, heard) in cases {
        client.send_text(sent);
        assert_eq!(client.next_text(), heard, "{sent}");
    }
    let mut board = server.connect("/board/");
    for (sent, heard) in [
        (r#"{"from": "e2", "to": "e4", "by": "me"}"#, r#"{"to":"e4","from":"e2"}"#),
        (r#"{"from": "e2"}"#, r#"{"from":"e2"}"#),
    ] {
        board.send_text(sent);
        assert_eq!(board.next_text(), heard, "{sent}");
    }
    drop((client, board));
    server.stop();
}

const TEXT_CHAT: &str = r#"
[[route]]
name = "talk"
path = "/talk/"
handler = "room"
format = "text"
group = "talk"
"#;

#[test]
fn a_text_room_welcomes_renames_and_says_who_speaks() {
    let server = TestServer::start(TEXT_CHAT);
    let mut ann = server.connect("/talk/");
    assert_eq!(ann.next_text(), "[Welcome Anonymous!]");
    let mut bob = server.connect("/talk/");
    assert_eq!(bob.next_text(), "[Welcome Anonymous!]");
    ann.send_text("/name Ann");
    assert_eq!(ann.next_text(), "[set your username to Ann]");
    ann.send_text("hello, all");
    bob.send_text("/names are hard");
    for client in [&mut ann, &mut bob] {
        let heard: HashSet<_> = [client.next_text(), client.next_text()].into();
        assert_eq!(heard, ["Ann: hello, all".to_owned(), "Anonymous: /names are hard".to_owned()].into());
    }
    for wrong in ["/name", "/name   ", &format!("/name {}", "x".repeat(65))] {
        ann.send_text(wrong);
        assert_eq!(ann.next_text(), "[say `/name` and a name of 1 to 64 characters]", "{wrong}");
    }
    ann.send_text("still Ann");
    assert_eq!(ann.next_text(), "Ann: still Ann");
    server.wait_metric(&series("websocket_messages_faulty_total", "reason=malformed", "talk"), 3.0);
    drop((ann, bob));
    server.stop();
}

#[test]
fn a_username_can_be_made_of_what_the_handshake_says() {
    let server = TestServer::start(
        r#"
        [[route]]
        name = "talk"
        re_path = '^talk/(?P<where>[a-z]+)/$'
        handler = "room"
        format = "text"
        group = "talk"
        username = "{header.x-name} at {where} from {client} by {query.via}"
        welcome = "Hello, {username}. Say {} or {{}}."
        "#,
    );
    let mut ann = server.try_connect("/talk/home/?via=cable", &[("X-Name", "Ann")]).unwrap();
    let name = "Ann at home from 127.0.0.1 by cable";
    assert!(ann.next_text().starts_with(&format!("Hello, {name}.")));
    ann.send_text("hi");
    assert_eq!(ann.next_text(), format!("{name}: hi"));
    let mut nobody = server.connect("/talk/home/");
    assert!(nobody.next_text().starts_with("Hello,  at home from 127.0.0.1 by ."));
    drop((ann, nobody));
    server.stop();
}

#[test]
fn a_raw_room_passes_text_and_binary_on() {
    let server = TestServer::start(
        r#"
        [[route]]
        name = "raw"
        path = "/raw/"
        handler = "room"
        format = "raw"
        group = "raw"
        "#,
    );
    let mut ann = server.connect("/raw/");
    let mut bob = server.connect("/raw/");
    let bytes: Vec<u8> = (0..=255).collect();
    ann.send_text("not {json}");
    ann.send_binary(&bytes);
    ann.send_text("");
    ann.send_binary(b"");
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next(), Frame::Text("not {json}".into()));
        assert_eq!(client.next(), Frame::Binary(bytes.clone()));
        assert_eq!(client.next(), Frame::Text(String::new()));
        assert_eq!(client.next(), Frame::Binary(Vec::new()));
    }
    drop((ann, bob));
    server.stop();
}

#[test]
fn a_room_without_a_group_is_the_socket_itself() {
    let server = TestServer::start(
        r#"
        [[route]]
        name = "mirror"
        path = "/mirror/"
        handler = "room"
        "#,
    );
    let mut ann = server.connect("/mirror/");
    let mut bob = server.connect("/mirror/");
    ann.send_text(r#"{"message": "ann"}"#);
    assert_eq!(ann.next_text(), said("ann"));
    bob.send_text(r#"{"message": "bob"}"#);
    assert_eq!(bob.next_text(), said("bob"));
    assert!(ann.is_silent_for(Duration::from_millis(100)));
    drop((ann, bob));
    server.stop();
}

#[test]
fn a_listen_only_room_takes_nothing_and_hears_what_others_publish_into_its_group() {
    let server = TestServer::start(&format!(
        r#"{CHAT}
        [[route]]
        name = "listen"
        path = "/listen/"
        handler = "room"
        group = "chat_lobby"
        publish = false
        deliver = {{ "chat.message" = {{ pick = ["message"] }} }}
        "#
    ));
    let mut listener = server.connect("/listen/");
    let mut speaker = server.connect("/chat/lobby/");
    listener.send_text(r#"{"message": "let me in"}"#);
    assert_eq!(listener.next_text(), r#"{"error":"this room is for listening only"}"#);
    listener.send_binary(b"let me in");
    assert_eq!(listener.next_text(), r#"{"error":"this room is for listening only"}"#);
    server.wait_metric(&series("websocket_messages_faulty_total", "reason=listen_only", "listen"), 2.0);
    speaker.send_text(r#"{"message": "news"}"#);
    assert_eq!(listener.next_text(), said("news"));
    assert_eq!(speaker.next_text(), said("news"));
    drop((listener, speaker));
    server.stop();
}

#[test]
fn what_does_not_parse_gets_an_error_and_the_socket_stays() {
    let server = TestServer::start(CHAT);
    let mut ann = server.connect("/chat/lobby/");
    let mut bob = server.connect("/chat/lobby/");
    let deep = "[".repeat(10_000);
    let cases = [
        "",
        "hello",
        "{",
        "[]",
        "3",
        r#"{"message": }"#,
        r#"{"other": 1}"#,
        "{}",
        r#"{"message": NaN}"#,
        r#"{"message": 1e400}"#,
        &deep,
    ];
    for text in cases {
        ann.send_text(text);
        let answer = ann.next_text();
        assert!(answer.starts_with(r#"{"error":""#), "{text}: {answer}");
        serde_json::from_str::<serde_json::Value>(&answer).unwrap();
    }
    ann.send_binary(br#"{"message": "binary"}"#);
    assert!(ann.next_text().starts_with(r#"{"error":""#));
    let faulty = series("websocket_messages_faulty_total", "reason=malformed", "chat");
    server.wait_metric(&faulty, cases.len() as f64 + 1.0);
    ann.send_text(r#"{"message": "still here"}"#);
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text(), said("still here"));
    }
    drop((ann, bob));
    server.stop();
}

#[test]
fn events_of_types_that_a_route_does_not_list_are_counted_and_skipped() {
    let server = TestServer::start(&format!(
        r#"{CHAT}
        [[route]]
        name = "alerts"
        path = "/alerts/"
        handler = "room"
        group = "chat_lobby"
        receive = {{ type = "alert", pick = ["message"] }}

        [[route]]
        name = "both"
        path = "/both/"
        handler = "room"
        group = "chat_lobby"
        publish = false
        deliver = {{ "chat_message" = {{ pick = ["message"] }}, alert = {{ pick = ["level", "message"] }} }}
        "#
    ));
    let mut chat = server.connect("/chat/lobby/");
    let mut alerts = server.connect("/alerts/");
    let mut both = server.connect("/both/");
    alerts.send_text(r#"{"message": "fire"}"#);
    assert_eq!(alerts.next_text(), said("fire"));
    assert_eq!(both.next_text(), said("fire"));
    server.wait_metric(&series("room_events_skipped_total", "reason=unlisted", "chat"), 1.0);
    chat.send_text(r#"{"message": "calm"}"#);
    // What was skipped before would have come before.
    assert_eq!(chat.next_text(), said("calm"));
    assert_eq!(both.next_text(), said("calm"));
    server.wait_metric(&series("room_events_skipped_total", "reason=unlisted", "alerts"), 1.0);
    assert!(alerts.is_silent_for(Duration::from_millis(100)));
    drop((chat, alerts, both));
    server.stop();
}

#[test]
fn every_member_sees_the_same_order_whoever_publishes_and_wherever_it_is_held() {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 100;
    let server = with_workers(2, CHAT);
    let mut listeners: Vec<_> = (0..4).map(|_| server.connect("/chat/lobby/")).collect();
    let publishers: Vec<_> = (0..PUBLISHERS).map(|_| server.connect("/chat/lobby/")).collect();
    let publish = |(of, mut client): (usize, Client)| {
        for at in 0..MESSAGES {
            client.send_text(&said(&format!("{of}-{at}")));
        }
        read_texts(&mut client, PUBLISHERS * MESSAGES)
    };
    let mut seen = thread::scope(|scope| {
        let publishing: Vec<_> =
            publishers.into_iter().enumerate().map(|one| scope.spawn(move || publish(one))).collect();
        publishing.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    seen.extend(listeners.iter_mut().map(|client| read_texts(client, PUBLISHERS * MESSAGES)));
    for other in &seen {
        assert_eq!(*other, seen[0]);
    }
    for of in 0..PUBLISHERS {
        let own: Vec<_> = seen[0].iter().filter(|text| text.contains(&format!("\"{of}-"))).cloned().collect();
        let sent: Vec<_> = (0..MESSAGES).map(|at| said(&format!("{of}-{at}"))).collect();
        assert_eq!(own, sent);
    }
    drop(listeners);
    server.stop();
}

fn read_texts(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.next_text()).collect()
}

#[test]
fn two_hundred_sockets_over_two_workers_get_every_message_exactly_once() {
    const SOCKETS: usize = 200;
    let server = with_workers(2, CHAT);
    let mut clients: Vec<_> = (0..SOCKETS).map(|_| server.connect("/chat/lobby/")).collect();
    server.wait_metric("anteroom_websocket_connections{route=\"chat\"}", SOCKETS as f64);
    // A room is counted on each worker that holds a part of it.
    server.wait_metric("anteroom_room_active{route=\"chat\"}", 2.0);
    for at in 0..20 {
        clients[at * 7].send_text(&said(&format!("message {at}")));
        for client in &mut clients {
            assert_eq!(client.next_text(), said(&format!("message {at}")));
        }
    }
    for client in &mut clients {
        client.close(1000);
        // Nothing came twice.
        assert_eq!(client.next_close(), 1000);
    }
    server
        .wait_metric(&series("websocket_messages_sent_total", "opcode=text", "chat"), 20.0 * SOCKETS as f64);
    server.wait_metric("anteroom_room_broadcasts_total{route=\"chat\"}", 40.0);
    server.wait_metric("anteroom_room_active{route=\"chat\"}", 0.0);
    drop(clients);
    server.stop();
}

#[test]
fn sockets_are_spread_evenly_over_the_workers() {
    let server = with_workers(4, CHAT);
    // A message to a room of all reaches, on each worker, the sockets there: the histogram has one entry for each.
    let mut clients: Vec<_> = (0..40).map(|_| server.connect("/chat/lobby/")).collect();
    clients[0].send_text(&said("count yourselves"));
    for client in &mut clients {
        assert_eq!(client.next_text(), said("count yourselves"));
    }
    let bucket = |le: &str| format!("anteroom_room_fanout_sockets_bucket{{le=\"{le}\"}}");
    server.wait_metric("anteroom_room_fanout_sockets_count", 4.0);
    // Ten on each: all of them in the bucket of 6 to 10.
    server.wait_metric(&bucket("5"), 0.0);
    server.wait_metric(&bucket("10"), 4.0);
    drop(clients);
    server.stop();
}

#[test]
fn who_has_left_hears_nothing_and_who_comes_back_hears_again() {
    let server = with_workers(2, CHAT);
    let mut ann = server.connect("/chat/lobby/");
    for round in 0..5 {
        let mut bob = server.connect("/chat/lobby/");
        let (here, gone) = (said(&format!("here {round}")), said(&format!("gone {round}")));
        ann.send_text(&here);
        assert_eq!(bob.next_text(), here);
        assert_eq!(ann.next_text(), here);
        if round % 2 == 0 {
            bob.close(1000);
            assert_eq!(bob.next_close(), 1000);
        } else {
            bob.hang_up();
        }
        server.wait_metric("anteroom_websocket_connections{route=\"chat\"}", 1.0);
        ann.send_text(&gone);
        assert_eq!(ann.next_text(), gone);
    }
    ann.hang_up();
    server.wait_metric("anteroom_room_active{route=\"chat\"}", 0.0);
    // The last one out and in again: the room is a new one.
    let mut ann = server.connect("/chat/lobby/");
    ann.send_text(&said("again"));
    assert_eq!(ann.next_text(), said("again"));
    server.stop();
}

#[test]
fn big_messages_reach_every_member_whole() {
    let server = with_workers(
        2,
        r#"
        [[route]]
        name = "raw"
        path = "/raw/"
        handler = "room"
        format = "raw"
        group = "raw"
        max_message = "4MiB"
        queue = { bytes = "16MiB", full = "close" }
        "#,
    );
    let mut clients: Vec<_> = (0..4).map(|_| server.connect("/raw/")).collect();
    for len in [65_535, 65_536, 1 << 20, 4 << 20] {
        let text: String = ('a'..='z').cycle().take(len).collect();
        clients[0].send_text(&text);
        for client in &mut clients {
            assert!(client.next_text() == text, "{len} bytes arrived changed");
        }
    }
    drop(clients);
    server.stop();
}

/// A room where a message of 32 KiB soon fills what may wait for a client.
fn narrow(full: &str) -> String {
    format!(
        r#"
        [defaults]
        max_message = "64KiB"
        queue = {{ bytes = "256KiB", full = "{full}" }}
        [[route]]
        name = "raw"
        path = "/raw/"
        handler = "room"
        format = "raw"
        group = "raw"
        "#
    )
}

/// The payload of a message of a flood, whose number stands in its first eight bytes.
fn numbered(number: usize) -> String {
    format!("{number:08}{}", "x".repeat(32 << 10))
}

/// A frame of the server with such a payload.
const NUMBERED_FRAME_LEN: usize = 4 + 8 + (32 << 10);

/// Publishes until the series of what was dropped grows, and more; returns how many messages it took.
///
/// Both keep up: whatever is published, they hear all of it.
fn flood(server: &TestServer, publisher: &mut Client, bystander: &mut Client) -> usize {
    let dropped = series("websocket_send_dropped_total", "reason=queue_full", "raw");
    let mut sent = 0;
    wait_within(Duration::from_secs(30), "a slow client misses something", || {
        for _ in 0..50 {
            let text = numbered(sent);
            publisher.send_text(&text);
            assert!(publisher.next_text() == text, "message {sent}");
            assert!(bystander.next_text() == text, "message {sent}");
            sent += 1;
        }
        0.0 < server.metric(&dropped)
    });
    sent
}

#[test]
fn a_client_that_does_not_read_is_closed_with_1013_and_the_others_miss_nothing() {
    let server = with_workers(1, &narrow("close"));
    let mut slow = server.connect("/raw/");
    let mut publisher = server.connect("/raw/");
    let mut bystander = server.connect("/raw/");
    let sent = flood(&server, &mut publisher, &mut bystander);
    // It reads at last: what was on its way, without a gap, then why it ends.
    let mut heard = 0;
    let code = loop {
        match slow.next() {
            Frame::Text(text) => {
                assert!(text.starts_with(&format!("{heard:08}")), "message {heard}");
                heard += 1;
            }
            Frame::Close(code, _) => break code,
            other => panic!("{other:?} after {heard} messages"),
        }
    };
    assert_eq!(code, 1013);
    assert!(heard < sent);
    slow.close(1013);
    server.wait_metric(&series("websocket_closes_total", "cause=slow", "raw"), 1.0);
    server.wait_log(&["closed", "cause=\"slow\"", "code=1013"]);
    server.wait_metric("anteroom_websocket_connections{route=\"raw\"}", 2.0);
    drop((slow, publisher, bystander));
    server.stop();
}

#[test]
fn a_slow_client_that_never_reads_again_is_let_go() {
    let server = with_workers(1, &narrow("close"));
    let slow = server.connect("/raw/");
    let mut publisher = server.connect("/raw/");
    let mut bystander = server.connect("/raw/");
    flood(&server, &mut publisher, &mut bystander);
    server.wait_metric("anteroom_websocket_connections{route=\"raw\"}", 2.0);
    server.wait_log(&["closed", "cause=\"slow\"", "code=1013"]);
    drop(slow);
    drop((publisher, bystander));
    server.stop();
}

#[test]
fn a_client_that_does_not_read_can_miss_messages_in_place_of_being_closed() {
    let server = with_workers(1, &narrow("drop"));
    let mut slow = server.connect("/raw/");
    let mut publisher = server.connect("/raw/");
    let mut bystander = server.connect("/raw/");
    let sent = flood(&server, &mut publisher, &mut bystander);
    let memory = server.metric("process_resident_memory_bytes");
    for at in 0..500 {
        let text = numbered(sent + at);
        publisher.send_text(&text);
        assert!(publisher.next_text() == text && bystander.next_text() == text);
    }
    // 16 MiB more were published, of which nothing waits.
    let grown = server.metric("process_resident_memory_bytes") - memory;
    assert!(grown < f64::from(8 << 20), "{grown} bytes");
    // It reads what is there, in order and every frame whole, and then takes part again.
    let mut heard = Vec::new();
    slow.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match slow.stream.read(&mut chunk) {
            Ok(0) => panic!("the slow client was closed"),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(bytes.len() % NUMBERED_FRAME_LEN, 0);
    for frame in bytes.chunks(NUMBERED_FRAME_LEN) {
        assert_eq!(frame[..4], [0x81, 126, 0x80, 0x08]);
        heard.push(String::from_utf8_lossy(&frame[4..12]).parse::<usize>().unwrap());
    }
    assert!(heard.is_sorted());
    assert_eq!(heard[0], 0);
    let dropped = server.metric(&series("websocket_send_dropped_total", "reason=queue_full", "raw"));
    assert!(
        (dropped - (sent + 500 - heard.len()) as f64).abs() < 1e-9,
        "{dropped} of {sent} + 500, heard {}",
        heard.len()
    );
    publisher.send_text("are you there?");
    slow.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(slow.next_text(), "are you there?");
    server.wait_metric("anteroom_websocket_connections{route=\"raw\"}", 3.0);
    drop((slow, publisher, bystander));
    server.stop();
}

#[test]
fn an_echo_client_that_does_not_read_is_not_read_from_and_costs_a_bounded_amount() {
    let server = with_workers(
        1,
        r#"
        [[route]]
        name = "echo"
        path = "/echo/"
        handler = "echo"
        queue = { bytes = "256KiB", full = "close" }
        "#,
    );
    let memory = server.metric("process_resident_memory_bytes");
    let mut client = server.connect("/echo/");
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let payload = "x".repeat(32 << 10);
    let frame = frame(0x81, payload.as_bytes());
    let (mut whole, mut part) = (0, 0);
    // Until the kernel takes no more: both queues of it are full.
    'full: while whole < 4_000 {
        part = 0;
        while part < frame.len() {
            match std::io::Write::write(&mut client.stream, &frame[part..]) {
                Ok(written) => part += written,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break 'full;
                }
                Err(error) => panic!("{error}"),
            }
        }
        whole += 1;
    }
    assert!(whole < 4_000, "125 MiB were taken from a client that reads nothing");
    let grown = server.metric("process_resident_memory_bytes") - memory;
    assert!(grown < f64::from(16 << 20), "{grown} bytes");
    // Others are served, and it gets every answer once it reads.
    let mut other = server.connect("/echo/");
    other.send_text("hi");
    assert_eq!(other.next_text(), "hi");
    for at in 0..whole {
        assert!(client.next_text() == payload, "answer {at} of {whole}");
    }
    client.send_raw(&frame[part..]);
    assert!(client.next_text() == payload);
    drop((client, other));
    server.stop();
}

#[test]
fn what_waits_for_the_end_of_a_turn_makes_no_client_a_slow_one() {
    let limits = "max_message = \"1KiB\"\nqueue = { bytes = \"1KiB\", full = \"close\" }\n";
    let server = TestServer::start(&format!("{TEXT_CHAT}{limits}"));
    let line = "y".repeat(1_000);
    let path = "/talk/";
    let bytes = [handshake(path, &[]), frame(0x81, line.as_bytes())].concat();
    let mut client = Client::handshake(server.address(), &bytes).unwrap();
    assert_eq!(client.next_text(), "[Welcome Anonymous!]");
    assert_eq!(client.next_text(), format!("Anonymous: {line}"));
    drop(client);
    server.stop();
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_taken_for_a_dead_one() {
    let ping = "ping = { every = \"1s\", timeout = \"2s\" }\n";
    let server = TestServer::start(&format!("{}{ping}", narrow("drop").replace("256KiB", "1MiB")));
    let mut slow = server.connect("/raw/");
    // A ping that stands behind what the kernel holds for this client comes to it after many seconds.
    SockRef::from(&slow.stream).set_recv_buffer_size(64 << 10).unwrap();
    let mut publisher = server.connect("/raw/");
    let mut chunk = vec![0; 50_000];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        for _ in 0..10 {
            publisher.send_text(&numbered(0));
            publisher.next_text();
        }
        let read = slow.stream.read(&mut chunk).unwrap();
        assert!(0 < read, "ended after {:?}\n{}", begun.elapsed(), server.log());
        pause(Duration::from_millis(50));
    }
    drop((slow, publisher));
    server.stop();
}
