//! What the layers on Redis make of what no consumer could handle.

use std::time::Duration;

use anteroom::channel_layer::{Join, Joined, Message, Refusal, Secret, Serializer, SerializerFormat, Value};
use redis::aio::MultiplexedConnection;
use redis::cmd;
use sha2::{Digest as _, Sha256};

use crate::channel_layer::inboxes::{
    ask, dropped, envelope, in_the_room, inbox_of, member, now, numbered, put,
};
use crate::channel_layer::{Kind, Node, SENDER, admin, both, group};
use crate::support::eventually;
use crate::support::redis::RedisServer;

const KEY: &str = "secret";
const PREFIX: &[u8] = b"PREFIX12byte";

/// Bodies in msgpack that are no messages.
fn msgpack_bodies() -> Vec<Vec<u8>> {
    let deep = [b"\x82\xa4type\xa1x\xa1v".as_slice(), &[0x91; 1100], b"\xc0"].concat();
    [
        &b""[..],
        b"\xc1",
        // Roots that are no maps.
        b"\xc0",
        b"\x05",
        b"\xa4type",
        b"\x92\xa4type\xa1x",
        // No type, and types that are no text.
        b"\x80",
        b"\x81\xa1v\x01",
        b"\x81\xa4type\x01",
        b"\x81\xa4type\xc0",
        b"\x81\xa4type\xc4\x01x",
        b"\x81\xa4type\x91\xa1x",
        // Keys that are numbers or nothing, also deep inside.
        b"\x82\xa4type\xa1x\x01\xa1v",
        b"\x82\xa4type\xa1x\xc0\xa1v",
        b"\x82\xa4type\xa1x\xa1v\x91\x81\x01\x02",
        // Text that is not UTF-8.
        b"\x81\xa4type\xa1\xff",
        b"\x82\xa4type\xa1x\xa1v\xa2\xc3\x28",
        // Too little and too much.
        b"\x82\xa4type\xa1x\xa1v",
        b"\x81\xa4type\xdb\xff\xff\xff\xffx",
        b"\x81\xa4type\xdd\xff\xff\xff\xff",
        b"\x81\xa4type\xa1x\x00",
        &deep,
        // The other serializer.
        b"{\"type\": \"x\"}",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// Bodies in JSON that are no messages.
fn json_bodies() -> Vec<Vec<u8>> {
    let deep = ["{\"type\": \"x\", \"v\": ", &"[".repeat(1100), &"]".repeat(1100), "}"].concat();
    [
        &b""[..],
        b" ",
        b"null",
        b"5",
        b"\"type\"",
        b"[\"type\", \"x\"]",
        b"{}",
        b"{\"v\": 1}",
        b"{\"type\": 1}",
        b"{\"type\": null}",
        b"{\"type\": [\"x\"]}",
        b"{type: \"x\"}",
        b"{1: 2, \"type\": \"x\"}",
        b"{\"type\": \"\xff\"}",
        b"{\"type\": \"\\ud800\"}",
        b"{\"type\": \"x\"",
        b"{\"type\": \"x\",}",
        b"{\"type\": \"x\"} x",
        deep.as_bytes(),
        b"\x81\xa4type\xa1x",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// A token of Fernet with whatever is in it, as `channels_redis` makes it of a secret.
fn sealed(secret: &str, body: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::URL_SAFE.encode(Sha256::digest(secret));
    fernet::Fernet::new(&key).unwrap().encrypt(body).into_bytes()
}

/// Puts a payload where messages for the room are taken from.
async fn inject(kind: Kind, redis: &mut MultiplexedConnection, payload: &[u8]) {
    match kind {
        Kind::PubSub => {
            let publish = cmd("PUBLISH").arg("asgi__group__room").arg(payload).to_owned();
            assert_eq!(publish.query_async::<i64>(redis).await.unwrap(), 1);
        }
        Kind::Core => {
            let inbox = inbox_of(&member(redis).await);
            put(redis, &inbox, now(), &[PREFIX, payload].concat()).await;
        }
    }
}

both! {
    what_is_no_message_is_counted_and_skipped
    what_was_sealed_with_another_key_or_not_at_all_is_counted_and_skipped
}

async fn what_is_no_message_is_counted_and_skipped(kind: Kind) {
    for (format, bodies) in
        [(SerializerFormat::MsgPack, msgpack_bodies()), (SerializerFormat::Json, json_bodies())]
    {
        for keys in [&[][..], &[Secret::new(KEY)]] {
            let server = RedisServer::start().await;
            let mut redis = admin(&server).await;
            let node = Node::start(kind.written(&server, "asgi", Serializer::new(format, keys))).await;
            let room = group("room");
            node.join(0, &room).await;
            for (body, number) in bodies.iter().zip(1..) {
                let payload = if keys.is_empty() { body.clone() } else { sealed(KEY, body) };
                inject(kind, &mut redis, &payload).await;
                let what = format!("{format} {} is counted", body.escape_ascii());
                eventually(&what, || dropped(&node, "decode") == number).await;
            }
            node.send(&room, 1).unwrap();
            assert_eq!(node.got(0, &room, 1).await, [1]);
            assert_eq!(node.workers[0].messages().len(), 1, "nothing else was heard");
            assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
            assert!(node.layer.health().up);
            node.stop().await;
        }
    }
}

async fn what_was_sealed_with_another_key_or_not_at_all_is_counted_and_skipped(kind: Kind) {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let serializer = Serializer::new(SerializerFormat::MsgPack, &[Secret::new("new"), Secret::new("old")]);
    let node = Node::start(kind.written(&server, "asgi", serializer)).await;
    let room = group("room");
    node.join(0, &room).await;
    let plain = Serializer::default().encode(&numbered(1)).unwrap();
    let token = sealed("old", &plain);
    let mut spoilt = token.clone();
    spoilt[40] ^= 1;
    let payloads = [
        plain.clone(),
        sealed("stolen", &plain),
        spoilt,
        token[..token.len() - 4].to_vec(),
        sealed("old", &sealed("old", &plain)),
        vec![b'A'; 200],
        Vec::new(),
    ];
    for (payload, number) in payloads.iter().zip(1..) {
        inject(kind, &mut redis, payload).await;
        let what = format!("{} is counted", payload.escape_ascii());
        eventually(&what, || dropped(&node, "decode") == number).await;
    }
    node.send(&room, 2).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [2]);
    node.stop().await;
}

#[tokio::test]
async fn an_address_of_any_type_is_counted_and_skipped() {
    let (_server, mut redis, node, room) = in_the_room(|_| ()).await;
    let name = member(&mut redis).await;
    let text = |text: &str| Value::from(text);
    let addresses = [
        Value::Null,
        Value::Bool(true),
        Value::Int(-1),
        Value::UInt(u64::MAX),
        Value::Float(f64::NAN),
        Value::Bytes(name.clone().into_bytes()),
        Value::List(vec![
            Value::List(vec![text(&name)]),
            Value::Int(1),
            Value::Bytes(name.clone().into_bytes()),
        ]),
        Value::Map(vec![(anteroom::channel_layer::Key::Text(name.clone()), text(&name))]),
        text(""),
        text("!"),
        text(name.trim_end_matches(|digit| digit != '!')),
        text(&name.to_uppercase()),
        text(&format!("{name}\n")),
        text(&name.repeat(1000)),
    ];
    for (address, number) in addresses.iter().zip(1..) {
        put(&mut redis, &inbox_of(&name), now(), &envelope(&numbered(1), address.clone())).await;
        let what = format!("{address:?} is counted");
        eventually(&what, || dropped(&node, "unknown_target") == number).await;
    }
    // One good name among others is enough, and once.
    let mixed = Value::List(vec![Value::Null, text(&name), text("x!y"), Value::Int(1), text(&name)]);
    put(&mut redis, &inbox_of(&name), now(), &envelope(&numbered(2), mixed)).await;
    assert_eq!(node.got(0, &room, 1).await, [2]);
    assert_eq!(dropped(&node, "decode"), 0);
    node.stop().await;
}

#[tokio::test]
async fn times_without_sense_do_not_spoil_the_metrics() {
    let (_server, mut redis, node, room) = in_the_room(|_| ()).await;
    let name = member(&mut redis).await;
    for (time, number) in [f64::NEG_INFINITY, f64::INFINITY, -1e300, now()].into_iter().zip(0..) {
        put(&mut redis, &inbox_of(&name), time, &envelope(&numbered(number), name.as_str())).await;
        node.got(0, &room, usize::try_from(number + 1).unwrap()).await;
    }
    let page = prometheus::TextEncoder::new().encode_to_string(&node.registry.gather()).unwrap();
    let sum = page.lines().find(|line| line.starts_with("anteroom_layer_delivery_lag_seconds_sum")).unwrap();
    assert!(!sum.contains("Inf") && !sum.contains("NaN"), "{sum}");
    node.stop().await;
}

#[tokio::test]
async fn what_stands_in_the_place_of_the_inbox_is_cleared_away() {
    let (_server, mut redis, node, room) = in_the_room(|_| ()).await;
    let name = member(&mut redis).await;
    let inbox = inbox_of(&name);
    for (rubbish, number) in ["SET # x", "RPUSH # x y", "SADD # x", "HSET # x y"].iter().zip(1..) {
        let _: redis::Value = ask(&mut redis, &rubbish.replace('#', &inbox)).await;
        eventually("it is counted", || dropped(&node, "decode") == number).await;
        put(&mut redis, &inbox, now(), &envelope(&numbered(number), name.as_str())).await;
        assert_eq!(node.got(0, &room, usize::try_from(number).unwrap()).await.last(), Some(&number));
        node.send(&room, 100 * number).unwrap();
        eventually("it works", || node.workers[0].numbers(&room).last() == Some(&(100 * number))).await;
        node.workers[0].deliveries.lock().unwrap().truncate(usize::try_from(number).unwrap());
    }
    assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
    node.stop().await;
}

#[tokio::test]
async fn what_stands_in_the_place_of_a_group_is_told_and_left_and_the_rest_goes_on() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let (room, other, late) = (group("room"), group("other"), group("late"));
    node.join(0, &room).await;
    node.join(0, &other).await;
    for key in ["asgi:group:room", "asgi:group:late"] {
        let () = ask(&mut redis, &format!("SET {key} rubbish")).await;
    }
    node.send(&room, 1).unwrap();
    eventually("the sender is told", || node.workers[0].refusals() == [Refusal::LayerDown]).await;
    let Join::Pending(joining) = node.layer.join(anteroom::channel_layer::WorkerId(0), &late) else {
        panic!("not connected")
    };
    assert_eq!(joining.await, Joined::LayerDown);
    node.is_down().await;
    let error = node.layer.health().error.unwrap();
    assert!(error.to_lowercase().contains("wrong kind of value"), "{error}");
    node.send(&other, 2).unwrap();
    assert_eq!(node.got(0, &other, 1).await, [2]);
    let _: i64 = ask(&mut redis, "DEL asgi:group:room asgi:group:late").await;
    node.is_up().await;
    for room in [&room, &late] {
        node.send(room, 3).unwrap();
        assert_eq!(node.got(0, room, 1).await, [3]);
    }
    assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
    node.stop().await;
}

#[tokio::test]
async fn what_is_longer_than_allowed_is_counted_and_skipped() {
    let (_server, mut redis, node, room) = in_the_room(|config| config.message_bytes_max = 2000).await;
    let name = member(&mut redis).await;
    for len in [1500, 2000, 100_000, 3_000_000] {
        let message = Message::new("x").with("n", 1).with("v", "a".repeat(len));
        put(&mut redis, &inbox_of(&name), now(), &envelope(&message, name.as_str())).await;
    }
    assert_eq!(node.got(0, &room, 1).await, [1]);
    eventually("they are counted", || dropped(&node, "too_large") == 3).await;
    let long = Message::new("x").with("v", "a".repeat(2000));
    assert_eq!(node.layer.group_send(&room, long, SENDER), Err(Refusal::TooLarge));
    node.stop().await;
}

/// A stream of rubbish does not keep what is behind it, nor the node, for long.
#[tokio::test]
async fn a_flood_of_rubbish_is_passed_over() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::PubSub.on(&server)).await;
    let room = group("room");
    node.join(0, &room).await;
    let mut batch = redis::pipe();
    for _ in 0..20_000 {
        batch.cmd("PUBLISH").arg("asgi__group__room").arg(b"\xc1").ignore();
    }
    let () =
        tokio::time::timeout(Duration::from_secs(10), batch.exec_async(&mut redis)).await.unwrap().unwrap();
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
    assert_eq!(dropped(&node, "decode"), 20_000);
    assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
    node.stop().await;
}
