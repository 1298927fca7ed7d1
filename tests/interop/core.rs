//! Rooms shared with Django through `channels_redis.core`.

use std::collections::HashMap;
use std::time::Duration;

use anteroom::channel_layer::{
    CoreConfig, Key, LayerConfig, Message, PubSubConfig, Secret, Serializer, SerializerFormat, Value as Field,
};
use redis::Commands as _;
use serde_json::{Value, json};

use crate::django::Django;
use crate::peer::{Peer, SENDER};
use crate::rooms::{
    self, RETURN_MAX, ROUTES, chat, hear_each_other, heard, member, quiet, wait_ready, works_within,
};
use crate::support::client::{Client, Frame};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::wait_until;

/// A server on these hosts with more settings of `[layer]`, as TOML.
fn start(hosts: &[&RedisServer], settings: &str) -> TestServer {
    rooms::start("core", hosts, settings, ROUTES)
}

/// A Django process on these hosts with more settings of `CONFIG`.
fn django(hosts: &[&RedisServer], settings: Value) -> Django {
    rooms::django("core", hosts, settings)
}

fn admin(redis: &RedisServer) -> redis::Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

fn inboxes(redis: &RedisServer) -> HashMap<String, usize> {
    let mut redis = admin(redis);
    let inboxes: Vec<String> = redis.keys("asgispecific.*!").unwrap();
    inboxes.into_iter().map(|inbox| (inbox.clone(), redis.zcard(&inbox).unwrap())).collect()
}

#[tokio::test]
async fn django_and_the_sockets_hear_each_other_whatever_the_settings_are() {
    let redis = RedisServer::start().await;
    let cases = [
        ("", json!({})),
        (
            "serializer_format = \"json\"\nprefix = \"shop:\"",
            json!({ "serializer_format": "json", "prefix": "shop:" }),
        ),
        (
            "symmetric_encryption_keys = [\"new\", \"old\"]\nrandom_prefix_length = 4",
            json!({ "symmetric_encryption_keys": ["new", "old"], "random_prefix_length": 4 }),
        ),
        (
            "symmetric_encryption_keys = [\"new\"]\nrandom_prefix_length = 0\nserializer_format = \"json\"\nprefix = \"\"",
            json!({
                "symmetric_encryption_keys": ["new"], "random_prefix_length": 0, "serializer_format": "json", "prefix": ""
            }),
        ),
    ];
    for (settings, config) in cases {
        let server = start(&[&redis], settings);
        let mut django = django(&[&redis], config);
        hear_each_other(&server, &mut django, settings);
        server.stop();
    }
}

#[tokio::test]
async fn many_sockets_are_one_member_and_one_write_of_django() {
    let redis = RedisServer::start().await;
    let server = start(&[&redis], "");
    let mut django = django(&[&redis], json!({}));
    let mut clients: Vec<_> = (0..20).map(|_| member(&server, "/chat/lobby/")).collect();
    clients.iter_mut().for_each(quiet);
    let members: usize = admin(&redis).zcard("asgi:group:chat_lobby").unwrap();
    assert_eq!(members, 1);
    let before = server.metric("anteroom_layer_messages_received_total{shard=\"0\"}");
    django.group_send("chat_lobby", &chat("to all"));
    for client in &mut clients {
        assert_eq!(heard(client), "to all");
    }
    server.wait_metric("anteroom_layer_messages_received_total{shard=\"0\"}", before + 1.0);
    drop(clients);
    server.stop();
    let left: Vec<String> = admin(&redis).keys("*").unwrap();
    assert_eq!(left, Vec::<String>::new(), "nothing of the node is left");
}

#[tokio::test]
async fn django_sends_and_closes_with_the_events_of_asgi_and_bytes_pass() {
    let redis = RedisServer::start().await;
    let server = start(&[&redis], "");
    let mut django = django(&[&redis], json!({}));
    let mut ann = server.connect("/raw/lobby/");
    ann.send_text("ready");
    assert_eq!(ann.next_text(), "ready");
    django.join("raw_lobby");
    let bytes = json!({ "__bytes__": "AP+A" });
    ann.send_binary(&[0, 255, 128]);
    assert_eq!(django.received(), json!({ "type": "room.message", "bytes": bytes }));
    assert_eq!(ann.next(), Frame::Binary(vec![0, 255, 128]));
    django.group_send("raw_lobby", &json!({ "type": "room.message", "bytes": bytes }));
    assert_eq!(ann.next(), Frame::Binary(vec![0, 255, 128]));
    django.group_send("raw_lobby", &json!({ "type": "websocket.close", "code": 4004, "reason": "over" }));
    assert_eq!(ann.next(), Frame::Close(4004, "over".to_owned()));
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn what_finds_no_room_is_dropped_as_python_drops_it() {
    let redis = RedisServer::start().await;
    let capacities = "capacity = 5\nchannel_capacity = { \"*!small\" = 2, \"*!*\" = 7 }";
    let config = json!({ "capacity": 5, "channel_capacity": { "*!small": 2, "*!*": 7 } });
    let server = start(&[&redis], capacities);
    for (channel, room) in [("small", 2), ("big", 7)] {
        let group = format!("chat_{channel}");
        let mut sleepy = django(&[&redis], config.clone());
        sleepy.group_add(&group, channel);
        let mut ann = server.connect(&format!("/chat/{channel}/"));
        for number in 0..10 {
            ann.send_text(&json!({ "message": number }).to_string());
            assert_eq!(heard(&mut ann), number);
        }
        let waiting = inboxes(&redis).into_values().max();
        assert_eq!(waiting, Some(room));
        // What Python sends finds no room either, and there is as much as if Python had sent all.
        sleepy.group_send(&group, &chat("from Python"));
        assert_eq!(inboxes(&redis).into_values().max(), Some(room));
        assert_eq!(heard(&mut ann), "from Python");
        sleepy.listen(channel);
        for number in 0..room {
            assert_eq!(sleepy.received(), json!({ "type": "chat.message", "message": number }));
        }
        assert!(sleepy.is_silent_for(Duration::from_millis(300)));
        ann.close(1000);
    }
    let dropped = server.metric("anteroom_layer_messages_dropped_total{reason=\"over_capacity\"}");
    assert!((dropped - 11.0).abs() < 1e-9, "{dropped}");
    server.stop();
}

#[tokio::test]
async fn what_waits_too_long_is_gone() {
    let redis = RedisServer::start().await;
    let server = start(&[&redis], "expiry = 2");
    let mut sleepy = django(&[&redis], json!({ "expiry": 2 }));
    sleepy.group_add("chat_lobby", "late");
    let mut ann = server.connect("/chat/lobby/");
    ann.send_text(r#"{"message":"early"}"#);
    assert_eq!(heard(&mut ann), "early");
    assert_eq!(inboxes(&redis).into_values().max(), Some(1));
    wait_until("it has expired", || inboxes(&redis).is_empty());
    ann.send_text(r#"{"message":"late"}"#);
    sleepy.listen("late");
    assert_eq!(sleepy.received(), chat("late"));
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn rooms_and_direct_sends_meet_on_several_hosts() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let hosts = servers.each_ref();
    let server = start(&hosts, "");
    let mut django = django(&hosts, json!({}));
    let mut clients: Vec<_> = (0..12).map(|room| server.connect(&format!("/chat/{room}/"))).collect();
    for (room, client) in clients.iter_mut().enumerate() {
        let group = format!("chat_{room}");
        django.join(&group);
        django.group_send(&group, &chat("from Python"));
        assert_eq!(heard(client), "from Python");
        assert_eq!(django.received(), chat("from Python"));
        client.send_text(r#"{"message":"to Python"}"#);
        assert_eq!(heard(client), "to Python");
        assert_eq!(django.received(), chat("to Python"));
        // Python loses most of its direct sends with several hosts, but none to us.
        let key = format!("asgi:group:{group}");
        let members = servers.iter().flat_map(|host| {
            let members: Vec<String> = admin(host).zrange(&key, 0, -1).unwrap();
            members
        });
        let own: Vec<_> = members.filter(|member| member.contains("!anteroom.")).collect();
        assert_eq!(own.len(), 1);
        django.send(&own[0], &chat("direct"));
        assert_eq!(heard(client), "direct");
    }
    drop(clients);
    server.stop();
}

#[tokio::test]
async fn rooms_outlive_a_redis_that_is_killed_emptied_or_frozen() {
    let mut redis = RedisServer::start().await;
    let server = start(&[&redis], "");
    let mut rooms = [member(&server, "/chat/lobby/"), member(&server, "/chat/kitchen/")];
    let mut echo = server.connect("/echo/");
    let still = |echo: &mut Client| {
        echo.send_text("still here");
        assert_eq!(echo.next_text(), "still here");
    };

    redis.kill();
    wait_ready(&server, false);
    still(&mut echo);
    redis.restart().await;
    for room in &mut rooms {
        works_within(room, RETURN_MAX);
        quiet(room);
    }
    wait_ready(&server, true);
    django(&[&redis], json!({})).group_send("chat_kitchen", &chat("tea"));
    assert_eq!(heard(&mut rooms[1]), "tea");

    let () = redis::cmd("FLUSHALL").query(&mut admin(&redis)).unwrap();
    let members = |redis: &RedisServer| admin(redis).zcard::<_, usize>("asgi:group:chat_kitchen").unwrap();
    wait_until("the membership is back", || members(&redis) == 1);
    django(&[&redis], json!({})).group_send("chat_kitchen", &chat("cake"));
    assert_eq!(heard(&mut rooms[1]), "cake");

    redis.pause();
    still(&mut echo);
    wait_ready(&server, false);
    let mut late = server.connect("/chat/late/");
    redis.resume();
    for room in rooms.iter_mut().chain([&mut late]) {
        works_within(room, RETURN_MAX);
    }
    still(&mut echo);
    drop((rooms, echo, late));
    server.stop();
}

/// A value that JSON can show, and what it shows.
fn any_value(rng: &mut fastrand::Rng, depth: usize, bytes: bool) -> (Field, Value) {
    let len = rng.usize(..20);
    match rng.u8(if depth == 0 { ..8 } else { ..10 }) {
        0 => (Field::Null, Value::Null),
        1 => {
            let flag = rng.bool();
            (Field::Bool(flag), json!(flag))
        }
        2 => {
            let number = rng.i64(..) >> rng.u32(..64);
            (Field::Int(number), json!(number))
        }
        3 => {
            let number = rng.u64(..) >> rng.u32(..64);
            (Field::UInt(number), json!(number))
        }
        4 => {
            let number = f64::from(rng.i32(..)) / 8.0;
            (Field::Float(number), json!(number))
        }
        5 if bytes => {
            use base64::Engine as _;
            let bytes: Vec<_> = (0..len).map(|_| rng.u8(..)).collect();
            let shown = base64::engine::general_purpose::STANDARD.encode(&bytes);
            (Field::Bytes(bytes), json!({ "__bytes__": shown }))
        }
        5..8 => {
            let text: String = (0..len * len).map(|_| rng.char(..)).collect();
            (Field::Text(text.clone()), json!(text))
        }
        8 => {
            let items: Vec<_> = (0..len).map(|_| any_value(rng, depth - 1, bytes)).collect();
            let (fields, shown): (Vec<_>, Vec<_>) = items.into_iter().unzip();
            (Field::List(fields), Value::Array(shown))
        }
        _ => {
            let mut shown = serde_json::Map::new();
            let mut fields = Vec::new();
            for number in 0..len {
                let key = format!("{number}{}", rng.char(..));
                let (field, value) = any_value(rng, depth - 1, bytes);
                fields.push((Key::Text(key.clone()), field));
                shown.insert(key, value);
            }
            (Field::Map(fields), Value::Object(shown))
        }
    }
}

/// A layer of each kind beside Python, in each format, plain and encrypted.
fn pairs(redis: &RedisServer) -> impl Iterator<Item = (String, Peer, Django, SerializerFormat)> {
    let formats = [(SerializerFormat::MsgPack, &[][..]), (SerializerFormat::Json, &["k"])];
    let formats =
        formats.into_iter().chain([(SerializerFormat::MsgPack, &["k"][..]), (SerializerFormat::Json, &[])]);
    let cases = formats.flat_map(|(format, keys)| ["core", "pubsub"].map(|kind| (kind, format, keys)));
    cases.map(|(kind, format, keys)| {
        let secrets: Vec<_> = keys.iter().map(|&key| Secret::new(key)).collect();
        let (hosts, serializer) = (vec![redis.url().parse().unwrap()], Serializer::new(format, &secrets));
        let peer = Peer::start(if kind == "core" {
            LayerConfig::Core(CoreConfig { hosts, serializer, ..CoreConfig::default() })
        } else {
            LayerConfig::PubSub(PubSubConfig { hosts, serializer, ..PubSubConfig::default() })
        });
        let settings = json!({
            "hosts": [redis.url()], "serializer_format": format.as_str(), "symmetric_encryption_keys": keys
        });
        (format!("{kind} {format} {keys:?}"), peer, Django::start(kind, &settings), format)
    })
}

#[tokio::test]
async fn python_reads_whatever_is_written() {
    let redis = RedisServer::start().await;
    for (case, peer, mut django, format) in pairs(&redis) {
        django.join("room");
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        for number in 0..100 {
            let (field, shown) = any_value(&mut rng, 3, format == SerializerFormat::MsgPack);
            let message = Message::new("any.thing").with("v", field).with("n", number);
            peer.layer.group_send(&"room".parse().unwrap(), message, SENDER).unwrap();
            let received = django.received();
            assert_eq!(received, json!({ "type": "any.thing", "v": shown, "n": number }), "{case} {seed}");
        }
        assert_eq!(peer.refusals(), []);
        peer.stop();
    }
}

/// Whether a value that came is the one that was sent. Positive numbers have one form on the wire.
fn same(came: &Field, sent: &Field) -> bool {
    match (came, sent) {
        (Field::Int(one), Field::UInt(other)) | (Field::UInt(other), Field::Int(one)) => {
            u64::try_from(*one) == Ok(*other)
        }
        (Field::List(one), Field::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Field::Map(one), Field::Map(other)) => {
            one.len() == other.len()
                && other
                    .iter()
                    .all(|(key, sent)| one.iter().any(|(name, came)| name == key && same(came, sent)))
        }
        (one, other) => one == other,
    }
}

#[tokio::test]
async fn whatever_python_writes_is_read() {
    let redis = RedisServer::start().await;
    for (case, peer, mut django, format) in pairs(&redis) {
        peer.join("room");
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        for number in 0..100 {
            let (field, shown) = any_value(&mut rng, 3, format == SerializerFormat::MsgPack);
            django.group_send("room", &json!({ "type": "any.thing", "v": shown, "n": number }));
            wait_until("the message comes", || number < peer.heard().len());
            let message = peer.heard().pop().unwrap();
            assert_eq!(message.kind, "any.thing");
            let came = message.get("v").unwrap();
            assert!(same(came, &field), "{case} {seed}: {came:?} in place of {field:?}");
        }
        peer.stop();
    }
}
