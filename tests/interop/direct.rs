//! One socket, which Django knows by the name of its channel.

use std::time::Duration;

use anteroom::channel_layer::{CoreConfig, LayerConfig, Message, PubSubConfig, Refusal};
use serde_json::{Value, json};

use crate::django::Django;
use crate::peer::{Peer, SENDER};
use crate::rooms::{self, chat, django, heard};
use crate::support::client::{Client, Frame};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::wait_until;

const ROUTES: &str = r#"
[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
group = "chat_{room_name}"
receive = { type = "chat.message", pick = ["message"], reply_channel = true }
direct = ["websocket.send", "websocket.close", "edge.group_add", "edge.group_discard", "chat.message"]
announce = { connect = "chat.joined", disconnect = "chat.left" }

[[route]]
name = "locked"
re_path = '^locked/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
group = "chat_{room_name}"
direct = ["websocket.close"]
announce = { connect = "chat.joined" }
"#;

/// `channels_redis.core` and `channels_redis.pubsub`, as both sides call them.
const LAYERS: [&str; 2] = ["core", "pubsub"];
/// Nothing came for so long, so nothing will.
const SILENCE: Duration = Duration::from_millis(200);

fn start(layer: &str, hosts: &[&RedisServer], settings: &str) -> TestServer {
    rooms::start(layer, hosts, settings, ROUTES)
}

/// A server, and a Django that is in the lobby.
fn in_the_lobby(layer: &str, redis: &RedisServer) -> (TestServer, Django) {
    let (server, mut django) = (start(layer, &[redis], ""), django(layer, &[redis], json!({})));
    django.join("chat_lobby");
    (server, django)
}

/// A client of a room that Django is in, and the name of its channel, which Django has heard.
fn enter(server: &TestServer, django: &mut Django, path: &str) -> (Client, String) {
    let client = server.connect(path);
    let joined = django.received();
    assert_eq!(joined["type"], "chat.joined", "{joined}");
    (client, joined["reply_channel"].as_str().unwrap().to_owned())
}

fn text(text: &str) -> Value {
    json!({ "type": "websocket.send", "text": text })
}

fn group_event(kind: &str, group: &str) -> Value {
    json!({ "type": kind, "group": group })
}

fn skipped(server: &TestServer, route: &str, reason: &str) -> f64 {
    server.metric(&format!("anteroom_room_events_skipped_total{{reason=\"{reason}\",route=\"{route}\"}}"))
}

#[tokio::test]
async fn django_speaks_to_one_socket_and_no_other() {
    let redis = RedisServer::start().await;
    for layer in LAYERS {
        for (toml, settings) in [
            ("", json!({})),
            (
                "prefix = \"s*p:\"\nserializer_format = \"json\"\nsymmetric_encryption_keys = [\"k\"]",
                json!({ "prefix": "s*p:", "serializer_format": "json", "symmetric_encryption_keys": ["k"] }),
            ),
        ] {
            let server = start(layer, &[&redis], toml);
            let mut django = django(layer, &[&redis], settings);
            django.join("chat_lobby");
            let (mut ann, to_ann) = enter(&server, &mut django, "/chat/lobby/");
            let (mut bob, to_bob) = enter(&server, &mut django, "/chat/lobby/");
            assert_ne!(to_ann, to_bob);
            django.send(&to_ann, &text("for Ann"));
            assert_eq!(ann.next_text(), "for Ann");
            // JSON has no bytes.
            if toml.is_empty() {
                django.send(&to_bob, &json!({ "type": "websocket.send", "bytes": { "__bytes__": "AP8=" } }));
                assert_eq!(bob.next(), Frame::Binary(vec![0, 255]));
            }
            django.send(&to_bob, &chat("as the group would"));
            assert_eq!(heard(&mut bob), "as the group would");
            ann.send_text(r#"{"message":"who am I?"}"#);
            let asked = django.received();
            assert_eq!((&asked["message"], &asked["reply_channel"]), (&json!("who am I?"), &json!(to_ann)));
            assert_eq!(heard(&mut ann), "who am I?");
            assert_eq!(heard(&mut bob), "who am I?", "a client is not shown the name: it is not picked");
            django.send(&to_ann, &json!({ "type": "websocket.close", "code": 4001, "reason": "enough" }));
            assert_eq!(ann.next_close(), 4001);
            drop(ann);
            let left = django.received();
            assert_eq!(left, json!({ "type": "chat.left", "reply_channel": to_ann }));
            // It is too late for that, and nobody minds.
            django.send(&to_ann, &text("gone"));
            server.wait_metric("anteroom_websocket_direct_gone_total", 1.0);
            django.send(&to_bob, &text("still there"));
            assert_eq!(bob.next_text(), "still there");
            assert!(bob.is_silent_for(SILENCE));
            drop(bob);
            server.stop();
        }
    }
}

#[tokio::test]
async fn a_route_says_what_may_come_to_its_sockets() {
    let redis = RedisServer::start().await;
    for layer in LAYERS {
        let (server, mut django) = in_the_lobby(layer, &redis);
        let (mut client, channel) = enter(&server, &mut django, "/locked/lobby/");
        for refused in [
            text("no"),
            chat("no"),
            group_event("edge.group_add", "vip"),
            json!({ "type": "websocket.accept" }),
            json!({ "type": "no.such.thing" }),
        ] {
            django.send(&channel, &refused);
        }
        server.wait_metric("anteroom_room_events_skipped_total{reason=\"unlisted\",route=\"locked\"}", 5.0);
        django.group_send("vip", &chat("no"));
        assert!(client.is_silent_for(SILENCE));
        django.send(&channel, &json!({ "type": "websocket.close" }));
        assert_eq!(client.next_close(), 1000);
        drop(client);
        server.stop();
    }
}

#[tokio::test]
async fn django_puts_one_socket_into_other_groups_and_takes_it_out() {
    let redis = RedisServer::start().await;
    for layer in LAYERS {
        let (server, mut django) = in_the_lobby(layer, &redis);
        let (mut ann, to_ann) = enter(&server, &mut django, "/chat/lobby/");
        let (mut bob, to_bob) = enter(&server, &mut django, "/chat/lobby/");
        // Ann in one more group, Bob in another and back out of it.
        for (channel, group) in
            [(&to_ann, "vip"), (&to_ann, "vip"), (&to_bob, "press"), (&to_ann, "chat_lobby")]
        {
            django.send(channel, &group_event("edge.group_add", group));
        }
        let memberships = "anteroom_layer_memberships{shard=\"0\"}";
        server.wait_metric(memberships, 3.0);
        // Once Redis has them.
        for (group, client) in [("vip", &mut ann), ("press", &mut bob)] {
            wait_until(&format!("{group} is heard"), || {
                django.group_send(group, &chat("are you there?"));
                !client.is_silent_for(Duration::from_millis(50))
            });
            while !client.is_silent_for(SILENCE) {
                assert_eq!(heard(client), "are you there?");
            }
        }
        django.group_send("vip", &chat("for the vip"));
        assert_eq!(heard(&mut ann), "for the vip");
        assert!(ann.is_silent_for(SILENCE), "once, although it was added twice");
        django.send(&to_ann, &group_event("edge.group_discard", "vip"));
        django.send(&to_bob, &group_event("edge.group_discard", "chat_lobby"));
        server.wait_metric(memberships, 2.0);
        django.group_send("vip", &chat("nobody"));
        django.group_send("chat_lobby", &chat("Ann alone"));
        assert_eq!(heard(&mut ann), "Ann alone");
        assert_eq!(django.received(), chat("Ann alone"));
        assert!(bob.is_silent_for(SILENCE), "he left his own room");
        django.send(&to_bob, &group_event("edge.group_add", "chat_lobby"));
        django.send(&to_bob, &text("back again"));
        assert_eq!(bob.next_text(), "back again");
        django.group_send("chat_lobby", &chat("both"));
        assert_eq!((heard(&mut ann), heard(&mut bob)), (json!("both"), json!("both")));
        // Whoever ends leaves all of them.
        bob.close(1000);
        assert_eq!(bob.next_close(), 1000);
        server.wait_metric(memberships, 1.0);
        drop((ann, bob));
        server.wait_metric(memberships, 0.0);
        server.stop();
    }
}

#[tokio::test]
async fn a_socket_is_in_so_many_groups_and_no_more() {
    let redis = RedisServer::start().await;
    let (server, mut django) = in_the_lobby("pubsub", &redis);
    let (client, channel) = enter(&server, &mut django, "/chat/lobby/");
    for group in 0..66 {
        django.send(&channel, &group_event("edge.group_add", &format!("group_{group}")));
    }
    django.send(&channel, &group_event("edge.group_add", "no group"));
    wait_until("the bad one is counted", || skipped(&server, "chat", "bad_group") > 0.0);
    // The last three, of which one is no name.
    server.wait_metric("anteroom_room_events_skipped_total{reason=\"too_many_groups\",route=\"chat\"}", 2.0);
    server.wait_metric("anteroom_layer_memberships{shard=\"0\"}", 65.0);
    // Those that were in the middle of a list can leave it as well as the last.
    for group in 0..64 {
        django.send(&channel, &group_event("edge.group_discard", &format!("group_{group}")));
    }
    server.wait_metric("anteroom_layer_memberships{shard=\"0\"}", 1.0);
    drop(client);
    server.stop();
}

#[tokio::test]
async fn django_adds_sockets_to_groups_itself_and_each_hears_a_message_once() {
    let redis = RedisServer::start().await;
    let (server, mut django) = in_the_lobby("core", &redis);
    let (mut ann, to_ann) = enter(&server, &mut django, "/chat/lobby/");
    let (mut bob, to_bob) = enter(&server, &mut django, "/chat/lobby/");
    django.join("chat_other");
    let (mut eve, to_eve) = enter(&server, &mut django, "/chat/other/");
    // Ann is in her room by name too, Eve by name alone.
    for channel in [&to_ann, &to_eve] {
        django.add_channel("chat_lobby", channel);
    }
    django.group_send("chat_lobby", &chat("once"));
    for client in [&mut ann, &mut bob, &mut eve] {
        assert_eq!(heard(client), "once");
        assert!(client.is_silent_for(SILENCE));
    }
    // What a room does not deliver is for those that were named.
    django.group_send("chat_lobby", &group_event("edge.group_add", "named"));
    server.wait_metric("anteroom_layer_memberships{shard=\"0\"}", 3.0);
    wait_until("those that were named are in the group", || {
        django.group_send("named", &chat("named"));
        !ann.is_silent_for(Duration::from_millis(50))
    });
    django.group_send("named", &chat("the end"));
    for client in [&mut ann, &mut eve] {
        while heard(client) != "the end" {}
    }
    assert!(bob.is_silent_for(SILENCE));
    // Somebody who heard it in a room that it was told to join.
    django.send(&to_eve, &group_event("edge.group_add", "chat_lobby"));
    django.group_send("chat_lobby", &chat("once more"));
    for client in [&mut ann, &mut bob, &mut eve] {
        assert_eq!(heard(client), "once more");
        assert!(client.is_silent_for(SILENCE));
    }
    django.send(&to_eve, &group_event("edge.group_discard", "chat_lobby"));
    // A group of Django's own, with names only.
    for channel in [&to_bob, &to_eve] {
        django.add_channel("staff", channel);
    }
    django.group_send("staff", &text("to the staff"));
    assert_eq!((bob.next_text(), eve.next_text()), ("to the staff".to_owned(), "to the staff".to_owned()));
    django.discard_channel("staff", &to_bob);
    django.discard_channel("chat_lobby", &to_eve);
    django.group_send("staff", &text("Eve alone"));
    django.group_send("chat_lobby", &chat("not Eve"));
    assert_eq!(eve.next_text(), "Eve alone");
    assert_eq!((heard(&mut ann), heard(&mut bob)), (json!("not Eve"), json!("not Eve")));
    for client in [&mut ann, &mut bob, &mut eve] {
        assert!(client.is_silent_for(SILENCE));
    }
    drop((ann, bob, eve));
    server.stop();
}

#[tokio::test]
async fn what_comes_to_a_socket_and_to_its_room_comes_in_order() {
    let redis = RedisServer::start().await;
    for layer in LAYERS {
        let (server, mut django) = in_the_lobby(layer, &redis);
        let (mut ann, to_ann) = enter(&server, &mut django, "/chat/lobby/");
        for number in 0..20 {
            django.send(&to_ann, &chat(&format!("to Ann {number}")));
            django.group_send("chat_lobby", &chat(&format!("to all {number}")));
        }
        for number in 0..20 {
            assert_eq!(heard(&mut ann), format!("to Ann {number}"));
            assert_eq!(heard(&mut ann), format!("to all {number}"));
        }
        drop(ann);
        server.stop();
    }
}

/// A server with one worker, and Redis as the test speaks to it: what is sent in one piece comes in one turn.
fn start_alone(redis: &RedisServer, settings: &str) -> (TestServer, redis::Connection) {
    let server = "[server]\nworkers = 1\nadmin = \"127.0.0.1:0\"\n\
        drain = { grace = \"0s\", shutdown = \"0s\" }\n";
    let format = "serializer_format = \"json\"";
    let layer =
        format!("[layer]\nbackend = \"channels_redis.pubsub\"\n{format}\nhosts = [\"{}\"]\n", redis.url());
    let server = TestServer::start(&format!("{server}{layer}{settings}{ROUTES}"));
    (server, redis::Client::open(redis.url()).unwrap().get_connection().unwrap())
}

#[tokio::test]
async fn what_comes_in_one_turn_comes_in_order_and_leaves_in_few_writes() {
    let redis = RedisServer::start().await;
    let (server, mut connection) = start_alone(&redis, "");
    let mut django = django("pubsub", &[&redis], json!({ "serializer_format": "json" }));
    django.join("chat_lobby");
    let (mut ann, to_ann) = enter(&server, &mut django, "/chat/lobby/");
    let (mut bob, _) = enter(&server, &mut django, "/chat/lobby/");
    let writes = "anteroom_room_fanout_sockets_count";
    let before = server.metric(writes);
    let mut sent = redis::pipe();
    for number in 0..200 {
        sent.publish("asgi__group__chat_lobby", chat(&format!("all {number}")).to_string()).ignore();
        sent.publish(&to_ann, chat(&format!("Ann {number}")).to_string()).ignore();
    }
    let () = sent.query(&mut connection).unwrap();
    for number in 0..200 {
        assert_eq!(heard(&mut ann), format!("all {number}"));
        assert_eq!(heard(&mut ann), format!("Ann {number}"));
        assert_eq!(heard(&mut bob), format!("all {number}"));
    }
    assert!(ann.is_silent_for(SILENCE) && bob.is_silent_for(SILENCE));
    server.wait_metric("anteroom_websocket_messages_sent_total{opcode=\"text\",route=\"chat\"}", 600.0);
    let writes = server.metric(writes) - before;
    assert!(writes < 100.0, "the room is written {writes} times");
    drop((ann, bob));
    server.stop();
}

#[tokio::test]
async fn a_client_that_does_not_read_misses_messages_or_is_closed() {
    let redis = RedisServer::start().await;
    for (full, code) in [("close", Some(1013)), ("drop", None)] {
        let queue = format!("[defaults]\nqueue = {{ bytes = \"1MiB\", full = \"{full}\" }}\n");
        let (server, mut connection) = start_alone(&redis, &queue);
        let mut django = django("pubsub", &[&redis], json!({ "serializer_format": "json" }));
        django.join("chat_lobby");
        let (mut ann, to_ann) = enter(&server, &mut django, "/chat/lobby/");
        let event = text(&"x".repeat(200_000)).to_string();
        for _ in 0..100 {
            let () = redis::Commands::publish(&mut connection, &to_ann, &event).unwrap();
        }
        let dropped = |reason: &str| {
            let labels = format!("{{reason=\"{reason}\",route=\"chat\"}}");
            server.metric(&format!("anteroom_websocket_send_dropped_total{labels}"))
        };
        wait_until("some are dropped", || 50.0 < dropped("queue_full") + dropped("closing"));
        let queued = server.metric("anteroom_websocket_send_queue_bytes{route=\"chat\"}");
        assert!(queued < 1.3e6, "{queued} bytes are queued");
        let mut heard = 0;
        let closed = loop {
            match ann.next() {
                Frame::Text(_) => heard += 1,
                Frame::Close(code, _) => break Some(code),
                other => panic!("{other:?}"),
            }
            if code.is_none() && ann.is_silent_for(SILENCE) {
                break None;
            }
        };
        assert_eq!(closed, code);
        assert!((1..50).contains(&heard), "{heard}");
        drop(ann);
        server.stop();
    }
}

#[tokio::test]
async fn sockets_come_and_go_in_many_rooms_and_each_hears_its_own() {
    let redis = RedisServer::start().await;
    let (server, mut connection) = start_alone(&redis, "");
    let mut django = django("pubsub", &[&redis], json!({ "serializer_format": "json" }));
    let groups = ["chat_a", "chat_b", "chat_c", "vip"];
    // One in each that never leaves, for a group that is joined anew is heard a moment later.
    let mut stay = Vec::new();
    for room in ["a", "b", "c"] {
        django.join(&format!("chat_{room}"));
        stay.push(enter(&server, &mut django, &format!("/chat/{room}/")));
    }
    let to_one = |connection: &mut redis::Connection, name: &str, event: &Value| {
        let () = redis::Commands::publish(connection, name, event.to_string()).unwrap();
    };
    to_one(&mut connection, &stay[0].1, &group_event("edge.group_add", "vip"));
    wait_until("vip is subscribed", || {
        redis::Commands::publish(&mut connection, "asgi__group__vip", chat("?").to_string()) == Ok(1)
    });
    let mut members: Vec<(Client, String, Vec<&str>)> = Vec::new();
    for room in ["a", "a", "a", "b", "b", "c"] {
        let (client, name) = enter(&server, &mut django, &format!("/chat/{room}/"));
        let hears = groups.into_iter().filter(|group| *group == format!("chat_{room}")).collect();
        members.push((client, name, hears));
    }
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    for step in 0..60 {
        let mut sent = redis::pipe();
        for _ in 0..6 {
            let (at, group) = (rng.usize(..members.len()), groups[rng.usize(..groups.len())]);
            let (_, name, hears) = &mut members[at];
            let kind = if rng.bool() { "edge.group_add" } else { "edge.group_discard" };
            sent.publish(&*name, group_event(kind, group).to_string()).ignore();
            hears.retain(|known| *known != group);
            if kind == "edge.group_add" {
                hears.push(group);
            }
        }
        let said = |group: &str| format!("{group} {step}");
        for group in groups {
            sent.publish(format!("asgi__group__{group}"), chat(&said(group)).to_string()).ignore();
        }
        for (_, name, _) in &members {
            sent.publish(name, chat("that is all").to_string()).ignore();
        }
        let () = sent.query(&mut connection).unwrap();
        for (at, (client, _, hears)) in members.iter_mut().enumerate() {
            let mut got = Vec::new();
            loop {
                match heard(client) {
                    text if text == "that is all" => break,
                    text => got.push(text.as_str().unwrap().to_owned()),
                }
            }
            got.sort_unstable();
            let expected: Vec<_> =
                groups.into_iter().filter(|group| hears.contains(group)).map(said).collect();
            assert_eq!(got, expected, "socket {at}, step {step}, seed {seed}");
        }
    }
    // Some end while they are in other rooms.
    members.truncate(3);
    drop((members, stay));
    server.wait_metric("anteroom_layer_memberships{shard=\"0\"}", 0.0);
    server.stop();
}

#[tokio::test]
async fn a_client_is_not_told_that_its_coming_could_not_be_announced() {
    let server = start("pubsub", &[&RedisServer::stopped()], "");
    let mut client = server.connect("/chat/lobby/");
    server.wait_metric(
        "anteroom_layer_operations_total{op=\"group_send\",result=\"timeout\",shard=\"0\"}",
        1.0,
    );
    assert!(client.is_silent_for(SILENCE));
    drop(client);
    server.stop();
}

#[tokio::test]
async fn nothing_is_lost_on_several_hosts() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let hosts = servers.each_ref();
    for layer in LAYERS {
        let server = start(layer, &hosts, "");
        let mut django = django(layer, &hosts, json!({}));
        for room in 0..9 {
            let group = format!("chat_{room}");
            django.join(&group);
            let (mut ann, to_ann) = enter(&server, &mut django, &format!("/chat/{room}/"));
            let (mut bob, to_bob) = enter(&server, &mut django, &format!("/chat/{room}/"));
            django.send(&to_ann, &text("to Ann"));
            django.send(&to_bob, &text("to Bob"));
            assert_eq!((ann.next_text(), bob.next_text()), ("to Ann".to_owned(), "to Bob".to_owned()));
            if layer == "core" {
                django.add_channel(&group, &to_ann);
            }
            django.group_send(&group, &chat("to all"));
            assert_eq!((heard(&mut ann), heard(&mut bob)), (json!("to all"), json!("to all")));
            assert_eq!(django.received(), chat("to all"));
            assert!(ann.is_silent_for(SILENCE), "once");
            drop((ann, bob));
            for _ in 0..2 {
                assert_eq!(django.received()["type"], "chat.left");
            }
        }
        server.stop();
    }
}

#[tokio::test]
async fn consumers_and_workers_in_python_are_sent_to_by_name() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    for (layer, hosts) in [("core", 1), ("core", 3), ("pubsub", 1), ("pubsub", 3)] {
        let hosts: Vec<_> = servers.iter().take(hosts).collect();
        let mut django = django(layer, &hosts, json!({}));
        let urls = hosts.iter().map(|host| host.url().parse().unwrap()).collect();
        let peer = Peer::start(if layer == "core" {
            LayerConfig::Core(CoreConfig { hosts: urls, ..CoreConfig::default() })
        } else {
            LayerConfig::PubSub(PubSubConfig { hosts: urls, ..PubSubConfig::default() })
        });
        let mut channels: Vec<_> = (0..8).map(|_| django.consume()).collect();
        if layer == "core" {
            // One for each case: Python takes up what the last worker had not put away when it ended.
            let general = format!("thumbnails_{}", hosts.len());
            django.work(&general);
            channels.push(general);
        }
        for (number, channel) in (0..).zip(&channels) {
            let message = Message::new("any.thing").with("n", number);
            peer.layer.send(&channel.parse().unwrap(), message, SENDER).unwrap();
            assert_eq!(django.received(), json!({ "type": "any.thing", "n": number }), "{channel}");
        }
        assert_eq!(peer.refusals(), []);
        peer.stop();
    }
}

#[tokio::test]
async fn a_consumer_that_takes_nothing_is_full_one_day() {
    let redis = RedisServer::start().await;
    let mut django = django("core", &[&redis], json!({}));
    django.group_add("room", "sleepy");
    let channel = {
        let mut redis = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        let members: Vec<String> = redis::Commands::zrange(&mut redis, "asgi:group:room", 0, -1).unwrap();
        members[0].clone()
    };
    let hosts = vec![redis.url().parse().unwrap()];
    let peer = Peer::start(LayerConfig::Core(CoreConfig { hosts, ..CoreConfig::default() }));
    for number in 0..103 {
        let message = Message::new("any.thing").with("n", number);
        peer.layer.send(&channel.parse().unwrap(), message, SENDER).unwrap();
    }
    wait_until("the last ones are refused", || peer.refusals() == [Refusal::ChannelFull; 3]);
    django.listen("sleepy");
    for number in 0..100 {
        assert_eq!(django.received()["n"], number);
    }
    peer.stop();
}

#[tokio::test]
async fn a_route_that_is_edited_gives_new_sockets_channels() {
    let redis = RedisServer::start().await;
    let mut django = django("pubsub", &[&redis], json!({}));
    django.join("chat_lobby");
    // A user that may subscribe to groups, but not to the pattern.
    let mut admin = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut allow = |words: &str| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("edge").arg(words.split(' ').collect::<Vec<_>>());
        let () = command.query(&mut admin).unwrap();
    };
    allow("on >secret ~* +@all resetchannels &asgi*");
    let file = |direct: &str| {
        let url = format!("redis://edge:secret@127.0.0.1:{}", redis.port());
        let layer = format!("[layer]\nbackend = \"channels_redis.pubsub\"\nhosts = [\"{url}\"]\n");
        let route =
            "[[route]]\nname = \"chat\"\npath = \"/chat/\"\nhandler = \"room\"\ngroup = \"chat_lobby\"\n";
        format!("{layer}{route}{direct}announce = {{ connect = \"chat.joined\" }}\n")
    };
    let server = TestServer::start(&file(""));
    let client = server.connect("/chat/");
    assert_eq!(django.received(), json!({ "type": "chat.joined" }), "nothing may be sent to it");
    server.write_config(&crate::support::server::complete(&file("direct = [\"websocket.send\"]\n")));
    server.wait_metric("anteroom_config_generation", 2.0);
    let (mut addressed, channel) = enter(&server, &mut django, "/chat/");
    server.wait_log(&["the channel layer refused a command", "open_channels"]);
    assert_eq!(server.admin("/readyz").status, 200, "rooms work");
    allow("allchannels");
    wait_until("it is allowed", || {
        django.send(&channel, &text("hello"));
        !addressed.is_silent_for(Duration::from_millis(100))
    });
    assert_eq!(addressed.next_text(), "hello");
    drop((client, addressed));
    server.stop();
}
