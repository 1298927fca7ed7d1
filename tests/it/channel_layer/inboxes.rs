//! What `channels_redis.core` keeps on Redis, and what it makes of what others put there.

use std::collections::HashSet;
use std::time::Duration;

use anteroom::channel_layer::{
    Capacities, ChannelPattern, CoreConfig, GroupName, Join, Joined, LayerConfig, Message, Refusal, Secret,
    Serializer, SerializerFormat, Value, WorkerId,
};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, cmd};
use tokio::time::{self, Instant};

use super::{Kind, Node, SENDER, admin, group, urls};
use crate::support::eventually;
use crate::support::redis::RedisServer;

/// Within this time rooms must work again.
const RETURN_MAX: Duration = Duration::from_secs(10);
const GROUP: &str = "asgi:group:room";

pub(super) async fn ask<T: FromRedisValue>(redis: &mut MultiplexedConnection, command: &str) -> T {
    let mut words = command.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(redis).await.unwrap()
}

pub(super) fn core(server: &RedisServer) -> CoreConfig {
    CoreConfig { hosts: urls(&[server]), ..CoreConfig::default() }
}

/// A node whose first worker is in the room: its Redis, a connection to that, the node and the room.
pub(super) async fn in_the_room(
    change: impl FnOnce(&mut CoreConfig),
) -> (RedisServer, MultiplexedConnection, Node, GroupName) {
    let server = RedisServer::start().await;
    let redis = admin(&server).await;
    let mut config = core(&server);
    change(&mut config);
    let (node, room) = (Node::start(LayerConfig::Core(config)).await, group("room"));
    node.join(0, &room).await;
    (server, redis, node, room)
}

/// The name under which a node is the only member of the room.
pub(super) async fn member(redis: &mut MultiplexedConnection) -> String {
    let members: Vec<String> = ask(redis, &format!("ZRANGE {GROUP} 0 -1")).await;
    let [member] = members.try_into().unwrap();
    member
}

pub(super) fn inbox_of(member: &str) -> String {
    format!("asgi{}!", member.split_once('!').unwrap().0)
}

/// What a process in Python puts into an inbox.
pub(super) fn envelope(message: &Message, address: impl Into<Value>) -> Vec<u8> {
    let message = message.clone().with("__asgi_channel__", address);
    [b"PREFIX12byte".to_vec(), Serializer::default().encode(&message).unwrap()].concat()
}

pub(super) async fn put(redis: &mut MultiplexedConnection, inbox: &str, score: f64, envelope: &[u8]) {
    let added: i64 = cmd("ZADD").arg(inbox).arg(score).arg(envelope).query_async(redis).await.unwrap();
    assert_eq!(added, 1);
}

pub(super) fn numbered(number: i64) -> Message {
    Message::new("test").with("n", number)
}

pub(super) fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

pub(super) fn dropped(node: &Node, reason: &str) -> i64 {
    node.metric("anteroom_layer_messages_dropped_total", &[("reason", reason)])
}

/// Sends until something comes back.
async fn works_again(node: &Node, room: &str) {
    let (room, since) = (group(room), Instant::now());
    let before = node.workers[0].numbers(&room).len();
    while node.workers[0].numbers(&room).len() == before {
        assert!(since.elapsed() < RETURN_MAX, "{room} does not work again: {:?}", node.layer.health());
        node.send(&room, 1000).ok();
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_node_is_one_member_of_a_group_as_long_as_it_has_workers_there() {
    let (_server, mut redis, node, room) = in_the_room(|config| config.group_expiry = 500).await;
    node.join(1, &room).await;
    let name = member(&mut redis).await;
    let (_, local) = name.strip_prefix("specific.").and_then(|rest| rest.split_once('!')).unwrap();
    assert!(local.starts_with("anteroom.") && name.len() < 100, "{name}");
    let score: f64 = ask(&mut redis, &format!("ZSCORE {GROUP} {name}")).await;
    assert!((now() - score).abs() < 5.0);
    let expires: i64 = ask(&mut redis, &format!("TTL {GROUP}")).await;
    assert!((490..=500).contains(&expires), "{expires}");

    node.layer.leave(WorkerId(0), &room);
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(1, &room, 1).await, [1]);
    assert_eq!(member(&mut redis).await, name);
    node.layer.leave(WorkerId(1), &room);
    eventually("it is counted", || {
        let discarded = [("op", "group_discard"), ("result", "ok")];
        node.metric("anteroom_layer_operations_total", &discarded) == 1
    })
    .await;
    assert_eq!(ask::<i64>(&mut redis, &format!("EXISTS {GROUP}")).await, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_membership_outlives_its_expiry_for_it_is_renewed() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(LayerConfig::Core(CoreConfig { group_expiry: 4, ..core(&server) })).await;
    node.join(0, &group("room")).await;
    let name = member(&mut redis).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        let score: f64 = ask(&mut redis, &format!("ZSCORE {GROUP} {name}")).await;
        assert!(now() - score < 3.0, "well before Python takes it for too old");
        time::sleep(Duration::from_millis(200)).await;
    }
    let refused = [("op", "refresh"), ("result", "error")];
    assert_eq!(node.metric("anteroom_layer_operations_total", &refused), 0);
    node.stop().await;
}

#[tokio::test]
async fn nothing_of_a_node_is_left_when_it_has_ended() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let rooms: Vec<_> = (0..700).map(|number| group(&format!("room_{number}"))).collect();
    for room in &rooms {
        drop(node.layer.join(WorkerId(0), room));
    }
    node.join(0, &group("last")).await;
    assert_eq!(ask::<Vec<String>>(&mut redis, "KEYS *").await.len(), 702);
    node.stop().await;
    assert_eq!(ask::<Vec<String>>(&mut redis, "KEYS *").await, Vec::<String>::new());
}

#[tokio::test]
async fn messages_that_others_put_into_the_inbox_are_delivered_in_their_order() {
    let (_server, mut redis, node, room) = in_the_room(|_| ()).await;
    node.join(2, &room).await;
    let name = member(&mut redis).await;
    let inbox = inbox_of(&name);
    let mut batch = redis::pipe();
    for number in 0..200 {
        // The later ones are put in first.
        let time = now() - f64::from(u32::try_from(number).unwrap());
        let address = if number % 2 == 0 {
            Value::from(name.as_str())
        } else {
            Value::List(vec![
                Value::from("specific.x!y"),
                Value::from(name.as_str()),
                Value::from(name.as_str()),
            ])
        };
        batch.atomic().cmd("ZADD").arg(&inbox).arg(time).arg(envelope(&numbered(number), address)).ignore();
    }
    let () = batch.query_async(&mut redis).await.unwrap();
    let expected: Vec<_> = (0..200).rev().collect();
    assert_eq!(node.got(0, &room, 200).await, expected);
    assert_eq!(node.got(2, &room, 200).await, expected);
    assert_eq!(node.workers[0].messages()[0], numbered(199), "nothing of the address is left");
    assert_eq!(node.metric("anteroom_layer_messages_received_total", &[]), 200);
    assert_eq!(node.metric("anteroom_layer_delivery_lag_seconds_count", &[]), 200);
    node.stop().await;
}

#[tokio::test]
async fn what_is_wrong_in_the_inbox_is_counted_and_skipped() {
    let (_server, mut redis, node, room) = in_the_room(|config| config.message_bytes_max = 2000).await;
    let name = member(&mut redis).await;
    let inbox = inbox_of(&name);
    let address = |body: &[u8]| {
        let name =
            [b"\xb0__asgi_channel__\xd9", &[u8::try_from(name.len()).unwrap()][..], name.as_bytes()].concat();
        [b"PREFIX12byte", body, &name].concat()
    };
    let deep = [b"\x83\xa4type\xa1x\xa1v".as_slice(), &[0x91; 1100], b"\xc0"].concat();
    let undecodable = [
        b"".to_vec(),
        b"short".to_vec(),
        b"PREFIX12byte".to_vec(),
        b"PREFIX12byte\xc1rubbish".to_vec(),
        b"PREFIX12byte\x05".to_vec(),
        b"PREFIX12byte{\"type\": \"x\"}".to_vec(),
        // An integer key, no type, a type that is a number, text that is not UTF-8.
        address(b"\x83\xa4type\xa1x\x01\xa1a"),
        address(b"\x82\xa1v\x01"),
        address(b"\x82\xa4type\x01"),
        address(b"\x82\xa4type\xa1\xff"),
        address(&deep),
    ];
    let unaddressed = [
        envelope(&numbered(1), "specific.somebody!else"),
        envelope(&numbered(2), Value::List(vec![])),
        envelope(&numbered(3), 5),
        [b"PREFIX12byte".to_vec(), Serializer::default().encode(&numbered(4)).unwrap()].concat(),
    ];
    let long = envelope(&Message::new("x").with("v", "a".repeat(2000)), name.as_str());
    // An unknown type is no fault of the message: the room decides.
    let unknown = envelope(&Message::new("no.such.thing").with("n", 5), name.as_str());
    let all = undecodable.iter().chain(&unaddressed).chain([&long, &unknown]);
    for envelope in all {
        put(&mut redis, &inbox, now(), envelope).await;
    }
    assert_eq!(node.got(0, &room, 1).await, [5]);
    let counted = ["decode", "unknown_target", "too_large", "expired"].map(|reason| dropped(&node, reason));
    assert_eq!(counted, [11, 4, 1, 0]);
    node.send(&room, 6).unwrap();
    assert_eq!(node.got(0, &room, 2).await, [5, 6]);
    node.stop().await;
}

#[tokio::test]
async fn a_message_with_the_name_of_its_address_is_refused_to_the_sender() {
    let server = RedisServer::start().await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let message = numbered(1).with("__asgi_channel__", "specific.a!b");
    assert_eq!(node.layer.group_send(&group("room"), message, SENDER), Err(Refusal::Encode));
    node.stop().await;
}

#[tokio::test]
async fn a_token_of_another_key_or_time_is_counted_and_skipped() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let serializer = |keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|&key| Secret::new(key)).collect();
        Serializer::new(SerializerFormat::MsgPack, &keys)
    };
    let node = Node::start(Kind::Core.written(&server, "asgi", serializer(&["k1"]))).await;
    let room = group("room");
    node.join(0, &room).await;
    let name = member(&mut redis).await;
    let inbox = inbox_of(&name);
    // Made by Python in June 2025 with the key `k1`.
    let old = "PREFIX12bytegAAAAABoTuGAAAECAwQFBgcICQoLDA0ODyvY8EY9_S6K4W9xQcmm1MCsQQMh1W8fDvw48PDXQ7uM-BVCc-gXGYe9teC7_8l-cg==";
    put(&mut redis, &inbox, now(), old.as_bytes()).await;
    let message = numbered(1).with("__asgi_channel__", name.as_str());
    for key in ["k1", "stolen"] {
        let token = serializer(&[key]).encode(&message).unwrap();
        put(&mut redis, &inbox, now(), &[b"PREFIX12byte".to_vec(), token].concat()).await;
    }
    assert_eq!(node.got(0, &room, 1).await, [1]);
    eventually("both are counted", || (dropped(&node, "expired"), dropped(&node, "decode")) == (1, 1)).await;
    node.stop().await;
}

#[tokio::test]
async fn inboxes_of_others_get_what_they_have_room_for_and_old_entries_go() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let pattern = |text: &str| ChannelPattern::new(text).unwrap();
    let patterns = vec![(pattern("general"), 2), (pattern("gen*"), 7), (pattern("*!first"), 4)];
    let capacities = Capacities::new(3, patterns);
    let config = CoreConfig { capacities, expiry: 40, group_expiry: 500, ..core(&server) };
    let node = Node::start(LayerConfig::Core(config)).await;
    let room = group("room");
    for (age, name) in
        [(9.0, "specific.a!first"), (8.0, "specific.b!x"), (7.0, "general"), (6.0, "specific.a!second")]
    {
        put(&mut redis, GROUP, now() - age, name.as_bytes()).await;
    }
    put(&mut redis, GROUP, now() - 501.0, b"specific.old!x").await;
    put(&mut redis, GROUP, now() - 5.0, b"specific.\xff!x").await;
    // Of these one is too old to count, and one is what no inbox is.
    put(&mut redis, "asgispecific.b!", now() - 41.0, b"old").await;
    put(&mut redis, "asgispecific.b!", now() - 39.0, b"young").await;
    put(&mut redis, GROUP, now() - 5.0, b"specific.string!x").await;
    let () = ask(&mut redis, "SET asgispecific.string! rubbish").await;
    for number in 0..6 {
        node.send(&room, number).unwrap();
    }
    eventually("all are counted", || {
        node.metric("anteroom_layer_operations_total", &[("op", "group_send"), ("result", "ok")]) == 6
    })
    .await;
    let mut waiting = Vec::new();
    for inbox in ["asgispecific.a!", "asgispecific.b!", "asgigeneral", "asgispecific.old!"] {
        waiting.push(ask::<i64>(&mut redis, &format!("ZCARD {inbox}")).await);
        let expires: i64 = ask(&mut redis, &format!("TTL {inbox}")).await;
        assert!(inbox.contains("old") || (35..=40).contains(&expires), "{inbox}: {expires}");
    }
    assert_eq!(waiting, [4, 3, 2, 0]);
    assert_eq!(dropped(&node, "over_capacity"), 2 + 4 + 4 + 6);
    assert_eq!(ask::<i64>(&mut redis, &format!("ZCARD {GROUP}")).await, 6, "what is too old is no member");
    let envelopes: Vec<(Vec<u8>, f64)> = cmd("ZRANGE")
        .arg(&["asgispecific.a!", "0", "-1", "WITHSCORES"])
        .query_async(&mut redis)
        .await
        .unwrap();
    let times: Vec<_> = envelopes.iter().map(|(_, time)| *time).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let prefixes: HashSet<_> = envelopes.iter().map(|(envelope, _)| envelope[..12].to_vec()).collect();
    assert_eq!(prefixes.len(), 4);
    let names = ["specific.a!first", "specific.a!second"].map(Value::from);
    for ((envelope, _), number) in envelopes.iter().zip(0..) {
        let sent = numbered(number).with("__asgi_channel__", Value::List(names.to_vec()));
        assert_eq!(Serializer::default().decode(&envelope[12..]), Ok(sent));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_burst_above_the_capacity_reaches_those_who_sent_it() {
    let server = RedisServer::start().await;
    let config = CoreConfig { capacities: Capacities::new(1, Vec::new()), ..core(&server) };
    let node = Node::start(LayerConfig::Core(config)).await;
    let room = group("room");
    node.join(0, &room).await;
    for number in 0..300 {
        node.send(&room, number).unwrap();
    }
    assert_eq!(node.got(0, &room, 300).await, (0..300).collect::<Vec<_>>());
    assert_eq!(dropped(&node, "over_capacity"), 0);
    node.stop().await;
}

#[tokio::test]
async fn each_node_hears_all_and_each_sender_in_its_order() {
    let server = RedisServer::start().await;
    let nodes = [Node::start(Kind::Core.on(&server)).await, Node::start(Kind::Core.on(&server)).await];
    let room = group("room");
    for node in &nodes {
        node.join(1, &room).await;
    }
    for number in 0..90 {
        nodes[usize::from(number % 2 == 0)].send(&room, number).unwrap();
    }
    for node in &nodes {
        let got = node.got(1, &room, 90).await;
        for parity in [0, 1] {
            let mine: Vec<_> = got.iter().copied().filter(|number| number % 2 == parity).collect();
            assert_eq!(mine, (0..90).filter(|number| number % 2 == parity).collect::<Vec<_>>());
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn memberships_return_to_a_redis_that_was_emptied() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let rooms: Vec<_> = (0..1500).map(|number| group(&format!("room_{number}"))).collect();
    for room in &rooms {
        drop(node.layer.join(WorkerId(0), room));
    }
    let room = group("room");
    node.join(0, &room).await;
    let name = member(&mut redis).await;
    let () = ask(&mut redis, "FLUSHALL").await;
    // Who sends from here hears itself at once.
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
    eventually("the loss is noticed", || node.metric("anteroom_layer_gaps_total", &[]) == 1).await;
    eventually("all is renewed", || {
        let renewed = [("op", "refresh"), ("result", "ok")];
        1501 <= node.metric("anteroom_layer_operations_total", &renewed)
    })
    .await;
    assert_eq!(ask::<Vec<String>>(&mut redis, "KEYS asgi:group:*").await.len(), 1501);
    assert_eq!(member(&mut redis).await, name);
    assert!(node.layer.health().up);
    assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
    node.stop().await;
}

#[tokio::test]
async fn one_membership_that_was_lost_is_noticed_by_who_sends() {
    let (_server, mut redis, node, room) = in_the_room(|_| ()).await;
    let name = member(&mut redis).await;
    let () = ask(&mut redis, &format!("DEL {GROUP}")).await;
    node.send(&room, 1).unwrap();
    node.send(&room, 2).unwrap();
    assert_eq!(node.got(0, &room, 2).await, [1, 2]);
    eventually("it is renewed", || {
        node.metric("anteroom_layer_operations_total", &[("op", "refresh"), ("result", "ok")]) == 1
    })
    .await;
    assert_eq!(member(&mut redis).await, name);
    node.stop().await;
}

#[tokio::test]
async fn rooms_work_again_when_redis_may_be_written_again() {
    let (_server, mut redis, node, _) = in_the_room(|_| ()).await;
    let () = ask(&mut redis, "REPLICAOF 127.0.0.1 1").await;
    node.is_down().await;
    eventually("it says why", || {
        node.layer.health().error.is_some_and(|error| error.to_lowercase().contains("read only"))
    })
    .await;
    node.send(&group("room"), 1).unwrap();
    let () = ask(&mut redis, "REPLICAOF NO ONE").await;
    node.is_up().await;
    works_again(&node, "room").await;
    node.stop().await;
}

#[tokio::test]
async fn a_redis_without_memory_refuses_and_rooms_work_again_after_it() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let (room, late) = (group("room"), group("late"));
    node.join(0, &room).await;
    let () = ask(&mut redis, "CONFIG SET maxmemory 1").await;
    node.send(&room, 1).unwrap();
    eventually("the sender is told", || node.workers[0].refusals() == [Refusal::LayerDown]).await;
    let Join::Pending(joining) = node.layer.join(WorkerId(0), &late) else { panic!("not connected") };
    assert_eq!(joining.await, Joined::LayerDown);
    node.is_down().await;
    let error = node.layer.health().error.unwrap();
    assert!(error.contains("OOM") || error.contains("memory"), "{error}");
    let () = ask(&mut redis, "CONFIG SET maxmemory 0").await;
    works_again(&node, "room").await;
    node.is_up().await;
    works_again(&node, "late").await;
    assert_eq!(node.workers[0].numbers(&room)[0], 1000, "what was refused never comes");
    node.stop().await;
}

#[tokio::test]
async fn a_group_that_was_left_while_redis_was_away_is_withdrawn_on_return() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let (room, other) = (group("room"), group("other"));
    node.join(0, &room).await;
    node.join(0, &other).await;
    server.pause();
    node.is_down().await;
    node.layer.leave(WorkerId(0), &room);
    server.resume();
    node.is_up().await;
    assert_eq!(ask::<Vec<String>>(&mut redis, "KEYS asgi:group:*").await, ["asgi:group:other"]);
    node.stop().await;
}

#[tokio::test]
async fn what_is_sent_while_a_node_reconnects_waits_in_its_inbox() {
    let (_server, mut redis, node, room) = in_the_room(|_| ()).await;
    let name = member(&mut redis).await;
    let envelopes: Vec<_> = (0..10).map(|number| envelope(&numbered(number), name.as_str())).collect();
    let mut batch = redis::pipe();
    batch.atomic().cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).ignore();
    for (envelope, number) in envelopes.iter().zip(0_u32..) {
        batch.cmd("ZADD").arg(inbox_of(&name)).arg(now() + f64::from(number) / 1000.0).arg(envelope).ignore();
    }
    let () = batch.query_async(&mut redis).await.unwrap();
    assert_eq!(node.got(0, &room, 10).await, (0..10).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn memberships_of_a_dead_node_are_cleared_and_those_of_a_live_one_are_not() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let config = || LayerConfig::Core(CoreConfig { lease: 2, ..core(&server) });
    let (dead, idle, node) =
        (Node::start(config()).await, Node::start(config()).await, Node::start(config()).await);
    let room = group("room");
    for node in [&dead, &idle, &node] {
        node.join(0, &room).await;
    }
    put(
        &mut redis,
        GROUP,
        now(),
        b"specific.0123456789abcdef0123456789abcdef!aaaaaaaaaaaabbbbbbbbbbbbcccccccc",
    )
    .await;
    dead.crash().await;
    let since = Instant::now();
    let mut number = 0;
    while 3 < ask::<i64>(&mut redis, &format!("ZCARD {GROUP}")).await {
        assert!(since.elapsed() < RETURN_MAX, "the dead node is still a member");
        node.send(&room, number).unwrap();
        number += 1;
        time::sleep(Duration::from_millis(100)).await;
    }
    assert!(Duration::from_millis(900) < since.elapsed(), "it was given the time of its lease");
    node.send(&room, number).unwrap();
    for node in [&idle, &node] {
        let got = node.got(0, &room, usize::try_from(number + 1).unwrap()).await;
        assert_eq!(got, (0..=number).collect::<Vec<_>>());
    }
    assert_eq!(ask::<i64>(&mut redis, &format!("ZCARD {GROUP}")).await, 3);
    idle.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_was_taken_for_dead_comes_back() {
    let (_server, mut redis, node, _) = in_the_room(|_| ()).await;
    let name = member(&mut redis).await;
    let leases: Vec<String> = ask(&mut redis, "KEYS asgi:node:*").await;
    let () = ask(&mut redis, &format!("DEL {} {GROUP}", leases[0])).await;
    let since = Instant::now();
    while ask::<i64>(&mut redis, &format!("ZCARD {GROUP}")).await == 0 {
        assert!(since.elapsed() < RETURN_MAX, "it does not come back");
        time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(member(&mut redis).await, name);
    assert_eq!(ask::<Vec<String>>(&mut redis, "KEYS asgi:node:*").await, leases);
    node.stop().await;
}

#[tokio::test]
async fn a_redis_that_cannot_hand_out_many_at_once_hands_out_what_it_can() {
    let server = RedisServer::start_with(&["--rename-command", "BZMPOP", ""]).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    let room = group("room");
    node.join(0, &room).await;
    for number in 0..300 {
        node.send(&room, number).unwrap();
    }
    assert_eq!(node.got(0, &room, 300).await, (0..300).collect::<Vec<_>>());
    time::sleep(Duration::from_secs(3)).await;
    node.send(&room, 300).unwrap();
    assert_eq!(node.got(0, &room, 301).await.last(), Some(&300));
    assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
    node.stop().await;
}

#[tokio::test]
async fn an_idle_node_asks_little_of_redis() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(Kind::Core.on(&server)).await;
    for number in 0..1000 {
        drop(node.layer.join(WorkerId(0), &group(&format!("room_{number}"))));
    }
    node.join(0, &group("room")).await;
    let count = async |redis: &mut MultiplexedConnection| {
        let stats: String = ask(redis, "INFO stats").await;
        let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = count(&mut redis).await;
    time::sleep(Duration::from_secs(4)).await;
    let asked = count(&mut redis).await - before;
    assert!((4..=16).contains(&asked), "{asked} commands in 4 s");
    node.stop().await;
}

#[tokio::test]
async fn members_of_a_group_on_any_host_are_reached() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let node = Node::start(Kind::Core.layer(urls(&servers.each_ref()))).await;
    let room = group("room");
    node.join(0, &room).await;
    let mut connections = Vec::new();
    for server in &servers {
        connections.push(admin(server).await);
    }
    let mut home = 0;
    while ask::<i64>(&mut connections[home], &format!("EXISTS {GROUP}")).await == 0 {
        home += 1;
    }
    let own = member(&mut connections[home]).await;
    for number in 0..30 {
        put(&mut connections[home], GROUP, now(), format!("specific.{number}!x").as_bytes()).await;
    }
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
    eventually("it is counted", || {
        node.metric("anteroom_layer_operations_total", &[("op", "group_send"), ("result", "ok")]) == 1
    })
    .await;
    let mut reached = Vec::new();
    for redis in &mut connections {
        reached.push(ask::<Vec<String>>(redis, "KEYS asgispecific.*").await.len());
    }
    assert_eq!(reached.iter().sum::<usize>(), 30, "{reached:?}");
    assert!(reached.iter().all(|&reached| 0 < reached), "{reached:?}");
    // What Python sends to this one name goes to the host of the whole name: it is read there.
    put(&mut connections[home], &inbox_of(&own), now(), &envelope(&numbered(2), own.as_str())).await;
    assert_eq!(node.got(0, &room, 2).await, [1, 2]);
    node.stop().await;
}
