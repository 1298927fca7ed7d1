//! Rooms shared with Django through `channels_redis.pubsub`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::django::Django;
use crate::rooms::{
    self, RETURN_MAX, ROUTES, chat, hear_each_other, heard, member, quiet, wait_ready, works_within,
};
use crate::support::client::{Client, Frame};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;

/// A server on this Redis with more settings of `[layer]`, as TOML.
fn start(redis: &RedisServer, settings: &str) -> TestServer {
    rooms::start("pubsub", &[redis], settings, ROUTES)
}

/// A Django process on this Redis with more settings of `CONFIG`.
fn django(redis: &RedisServer, settings: Value) -> Django {
    rooms::django("pubsub", &[redis], settings)
}

#[tokio::test]
async fn django_and_the_sockets_hear_each_other_in_both_formats() {
    let redis = RedisServer::start().await;
    for format in ["msgpack", "json"] {
        let server = start(&redis, &format!("serializer_format = \"{format}\""));
        let mut django = django(&redis, json!({ "serializer_format": format }));
        hear_each_other(&server, &mut django, format);
        server.stop();
    }
}

#[tokio::test]
async fn the_method_name_of_a_consumer_is_as_good_as_the_type() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut django = django(&redis, json!({}));
    let mut ann = member(&server, "/chat/lobby/");
    django.group_send("chat_lobby", &json!({ "type": "chat_message", "message": "underscore" }));
    assert_eq!(heard(&mut ann), "underscore");
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn clients_of_two_nodes_and_django_see_one_order() {
    const EACH: usize = 40;
    let redis = RedisServer::start().await;
    let nodes = [start(&redis, ""), start(&redis, "")];
    let mut django = django(&redis, json!({}));
    let mut clients: Vec<_> = (0..6).map(|index| member(&nodes[index % 2], "/chat/lobby/")).collect();
    clients.iter_mut().for_each(quiet);
    django.join("chat_lobby");

    for round in 0..EACH {
        for (index, client) in clients.iter_mut().enumerate() {
            client.send_text(&json!({ "message": format!("{index}:{round}") }).to_string());
        }
        if round % 4 == 0 {
            django.group_send("chat_lobby", &chat(&format!("django:{round}")));
        }
    }
    let total = EACH * clients.len() + EACH / 4;
    let order: Vec<_> = (0..total).map(|_| django.received()["message"].take()).collect();
    for client in &mut clients {
        let seen: Vec<_> = (0..total).map(|_| heard(client)).collect();
        assert_eq!(seen, order);
    }
    for index in 0..clients.len() {
        let mine = order.iter().filter_map(|message| message.as_str()?.strip_prefix(&format!("{index}:")));
        let mine: Vec<usize> = mine.map(|round| round.parse().unwrap()).collect();
        assert_eq!(mine, (0..EACH).collect::<Vec<_>>(), "the order of one sender");
    }
    drop(clients);
    for node in nodes {
        node.stop();
    }
}

#[tokio::test]
async fn rooms_do_not_hear_each_other_and_a_left_one_is_unsubscribed() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut django = django(&redis, json!({}));
    let mut rooms: Vec<_> = (0..5).map(|room| member(&server, &format!("/chat/{room}/"))).collect();
    for room in 0..rooms.len() {
        django.group_send(&format!("chat_{room}"), &chat(&format!("to {room}")));
    }
    for (room, client) in rooms.iter_mut().enumerate() {
        assert_eq!(heard(client), format!("to {room}"));
        assert!(client.is_silent_for(Duration::from_millis(20)));
    }
    server.wait_metric("anteroom_layer_memberships{shard=\"0\"}", 5.0);
    rooms.drain(2..).for_each(Client::hang_up);
    server.wait_metric("anteroom_layer_memberships{shard=\"0\"}", 2.0);
    django.group_send("chat_4", &chat("nobody"));
    django.group_send("chat_1", &chat("somebody"));
    assert_eq!(heard(&mut rooms[1]), "somebody");
    drop(rooms);
    server.stop();
}

#[tokio::test]
async fn a_prefix_keeps_projects_on_one_redis_apart() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "prefix = \"shop\"");
    let mut same = django(&redis, json!({ "prefix": "shop" }));
    let mut other = django(&redis, json!({}));
    let mut ann = member(&server, "/chat/lobby/");
    same.join("chat_lobby");
    other.join("chat_lobby");
    other.group_send("chat_lobby", &chat("from elsewhere"));
    same.group_send("chat_lobby", &chat("from the shop"));
    assert_eq!(heard(&mut ann), "from the shop");
    assert_eq!(other.received(), chat("from elsewhere"));
    assert_eq!(same.received(), chat("from the shop"));
    ann.send_text(r#"{"message":"to the shop"}"#);
    assert_eq!(same.received(), chat("to the shop"));
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn messages_are_encrypted_with_the_first_key_and_read_with_any() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "symmetric_encryption_keys = [\"new\", \"old\"]");
    let mut rotated = django(&redis, json!({ "symmetric_encryption_keys": ["new", "old"] }));
    let mut late = django(&redis, json!({ "symmetric_encryption_keys": ["old"] }));
    let mut stranger = django(&redis, json!({ "symmetric_encryption_keys": ["stolen"] }));
    let mut plain = django(&redis, json!({}));
    let mut ann = member(&server, "/chat/lobby/");
    rotated.join("chat_lobby");

    rotated.group_send("chat_lobby", &chat("new key"));
    assert_eq!(heard(&mut ann), "new key");
    assert_eq!(rotated.received(), chat("new key"));
    late.group_send("chat_lobby", &chat("old key"));
    assert_eq!(heard(&mut ann), "old key");
    assert_eq!(rotated.received(), chat("old key"));

    ann.send_text(r#"{"message":"secret"}"#);
    assert_eq!(rotated.received(), chat("secret"));
    assert_eq!(heard(&mut ann), "secret");

    // What has no right key is counted and nothing else. Python's own consumers die of it, so there is none.
    drop(rotated);
    let before = server.metric("anteroom_layer_messages_dropped_total{reason=\"decode\"}");
    stranger.group_send("chat_lobby", &chat("stolen"));
    plain.group_send("chat_lobby", &chat("in the clear"));
    server.wait_metric("anteroom_layer_messages_dropped_total{reason=\"decode\"}", before + 2.0);
    late.group_send("chat_lobby", &chat("still here"));
    assert_eq!(heard(&mut ann), "still here");
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn what_a_room_does_not_list_or_understand_is_counted_and_the_socket_stays() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut django = django(&redis, json!({}));
    let mut ann = member(&server, "/chat/lobby/");
    for kind in ["chat.join", "websocket.receive", "room.message", ""] {
        django.group_send("chat_lobby", &json!({ "type": kind, "message": "not for you" }));
    }
    // Rubbish, nothing, half of a map, a list, text in a wrong encoding, no `type`.
    for payload in ["/////w==", "", "gqR0eXBl", "kwECAw==", "gaR0eXBlo//+/Q==", "gadtZXNzYWdloWE="] {
        django.publish("asgi__group__chat_lobby", payload);
    }
    django.group_send("chat_lobby", &json!({ "type": "chat.message", "text": "not picked" }));
    django.group_send("chat_lobby", &chat("at last"));
    assert_eq!(heard(&mut ann), "at last");

    let skipped = |reason: &str| {
        server.metric(&format!("anteroom_room_events_skipped_total{{reason=\"{reason}\",route=\"chat\"}}"))
    };
    let metrics = server.metrics();
    let dropped =
        metrics.iter().filter(|(name, _)| name.starts_with("anteroom_layer_messages_dropped_total"));
    let seen = (skipped("unlisted"), skipped("empty"), dropped.map(|(_, value)| value).sum::<f64>());
    assert_eq!(seen, (4.0, 1.0, 6.0), "{metrics:#?}");
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn django_sends_and_closes_with_the_events_of_asgi() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut django = django(&redis, json!({}));
    let mut ann = member(&server, "/chat/lobby/");
    let bytes = json!({ "__bytes__": "AP+A" });
    django.group_send("chat_lobby", &json!({ "type": "websocket.send", "text": "as it is" }));
    django.group_send("chat_lobby", &json!({ "type": "websocket.send", "bytes": bytes }));
    assert_eq!(ann.next(), Frame::Text("as it is".to_owned()));
    assert_eq!(ann.next(), Frame::Binary(vec![0, 255, 128]));
    django.group_send(
        "chat_lobby",
        &json!({ "type": "websocket.close", "code": 4004, "reason": "room closed" }),
    );
    assert_eq!(ann.next(), Frame::Close(4004, "room closed".to_owned()));
    ann.close(4004);
    assert_eq!(ann.next(), Frame::End);

    let mut bob = member(&server, "/chat/lobby/");
    django.group_send("chat_lobby", &json!({ "type": "websocket.close" }));
    assert_eq!(bob.next(), Frame::Close(1000, String::new()));
    drop((ann, bob));
    server.stop();
}

#[tokio::test]
async fn a_raw_room_carries_text_and_bytes_both_ways() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut django = django(&redis, json!({}));
    let mut ann = server.connect("/raw/lobby/");
    ann.send_text("ready");
    assert_eq!(ann.next_text(), "ready");
    django.join("raw_lobby");
    ann.send_text("plain");
    assert_eq!(django.received(), json!({ "type": "room.message", "text": "plain" }));
    assert_eq!(ann.next_text(), "plain");
    ann.send_binary(&[0, 255, 128]);
    let bytes = json!({ "__bytes__": "AP+A" });
    assert_eq!(django.received(), json!({ "type": "room.message", "bytes": bytes }));
    assert_eq!(ann.next(), Frame::Binary(vec![0, 255, 128]));
    django.group_send("raw_lobby", &json!({ "type": "room.message", "bytes": bytes }));
    assert_eq!(ann.next(), Frame::Binary(vec![0, 255, 128]));
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn a_server_started_without_redis_echoes_and_its_rooms_work_once_redis_is_there() {
    let mut redis = RedisServer::stopped();
    let server = start(&redis, "");
    wait_ready(&server, false);
    let mut echo = server.connect("/echo/");
    echo.send_text("hello?");
    assert_eq!(echo.next_text(), "hello?");
    let mut ann = server.connect("/chat/lobby/");
    ann.send_text(r#"{"message":"anybody?"}"#);
    let answer = ann.next_text();
    assert!(answer.starts_with(r#"{"error":"#), "{answer}");

    redis.restart().await;
    works_within(&mut ann, RETURN_MAX);
    wait_ready(&server, true);
    quiet(&mut ann);
    django(&redis, json!({})).group_send("chat_lobby", &chat("Django is here, too"));
    assert_eq!(heard(&mut ann), "Django is here, too");
    drop((ann, echo));
    server.stop();
}

#[tokio::test]
async fn rooms_outlive_a_redis_that_is_killed_and_one_that_is_restarted_at_once() {
    let mut redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut rooms = [member(&server, "/chat/lobby/"), member(&server, "/chat/kitchen/")];
    let mut echo = server.connect("/echo/");

    redis.kill();
    wait_ready(&server, false);
    echo.send_text("still here");
    assert_eq!(echo.next_text(), "still here");
    // Nobody takes it, so the sender hears of it.
    rooms[0].send_text(r#"{"message":"into the void"}"#);
    let answer = rooms[0].next_text();
    assert!(answer.starts_with(r#"{"error":"#), "{answer}");
    let refused = server.metrics().into_iter();
    let refused = refused.filter(|(name, _)| name.starts_with("anteroom_websocket_publish_refused_total"));
    assert!((refused.map(|(_, value)| value).sum::<f64>() - 1.0).abs() < 1e-9);

    redis.restart().await;
    for room in &mut rooms {
        works_within(room, RETURN_MAX);
        quiet(room);
    }
    wait_ready(&server, true);
    let mut django = django(&redis, json!({}));
    django.group_send("chat_kitchen", &chat("tea"));
    assert_eq!(heard(&mut rooms[1]), "tea");

    // So short an outage that what is sent in it waits and arrives, or its sender hears that it did not.
    redis.kill();
    rooms[0].send_text(r#"{"message":"in between"}"#);
    redis.restart().await;
    let answer = rooms[0].next_text();
    assert!(answer == r#"{"message":"in between"}"# || answer.starts_with(r#"{"error":"#), "{answer}");
    for room in &mut rooms {
        works_within(room, RETURN_MAX);
    }
    echo.send_text("all the time");
    assert_eq!(echo.next_text(), "all the time");
    assert!(1.0 <= server.metric("anteroom_layer_gaps_total{shard=\"0\"}"), "{:#?}", server.metrics());
    drop((rooms, echo));
    server.stop();
}

#[tokio::test]
async fn rooms_outlive_a_redis_that_freezes() {
    let redis = RedisServer::start().await;
    let server = start(&redis, "");
    let mut ann = member(&server, "/chat/lobby/");
    let mut echo = server.connect("/echo/");
    redis.pause();
    ann.send_text(r#"{"message":"frozen"}"#);
    echo.send_text("still here");
    assert_eq!(echo.next_text(), "still here");
    wait_ready(&server, false);
    let answer = ann.next_text();
    assert!(answer.starts_with(r#"{"error":"#), "{answer}");
    let mut bob = server.connect("/chat/lobby/");

    redis.resume();
    works_within(&mut ann, RETURN_MAX);
    works_within(&mut bob, RETURN_MAX);
    wait_ready(&server, true);
    quiet(&mut ann);
    quiet(&mut bob);
    bob.send_text(r#"{"message":"both again"}"#);
    for client in [&mut ann, &mut bob] {
        assert_eq!(heard(client), "both again");
    }
    drop((ann, bob, echo));
    server.stop();
}
