//! Messages for single sockets, by the names of their channels.

use std::time::Duration;

use anteroom::channel_layer::{
    ChannelName, CoreConfig, LayerConfig, Message, PubSubConfig, Refusal, Ticket, Value, WorkerId,
};

use crate::channel_layer::inboxes::{ask, core, dropped, envelope, inbox_of, now, put};
use crate::channel_layer::{Backend, Node, SENDER, admin, group, number_of, urls};
use crate::support::eventually;
use crate::support::redis::RedisServer;

fn socket(worker: usize, socket: u64) -> Ticket {
    Ticket { worker: WorkerId(worker), socket }
}

fn message(number: i64) -> Message {
    Message::new("test").with("n", number)
}

impl Node {
    /// The sockets and groups of each message that a worker got for single sockets, with its number.
    fn directs(&self, worker: usize) -> Vec<(i64, Vec<u64>, Vec<String>)> {
        let directs = self.workers[worker].directs.lock().unwrap();
        let groups = |groups: &[_]| groups.iter().map(ToString::to_string).collect();
        directs
            .iter()
            .map(|direct| {
                (number_of(&direct.message), direct.sockets.clone(), groups(direct.groups.as_slice()))
            })
            .collect()
    }

    async fn got_direct(&self, worker: usize, len: usize) -> Vec<(i64, Vec<u64>, Vec<String>)> {
        let what = format!("worker {worker} gets {len} messages for single sockets");
        eventually(&what, || len <= self.directs(worker).len()).await;
        self.directs(worker)
    }
}

pub(super) async fn what_is_sent_to_the_channel_of_a_socket_reaches_that_one_in_order(backend: &Backend) {
    let node = backend.node().await;
    node.layer.open_channels();
    let room = group("room");
    node.join(1, &room).await;
    eventually("the channels are open", || node.layer.health().up).await;
    let (one, other) = (socket(1, 7), socket(2, 7));
    let channel = node.layer.channel(one, Some(&room));
    assert_eq!(channel, node.layer.channel(one, Some(&room)), "a socket keeps its name");
    assert_ne!(channel, node.layer.channel(other, Some(&room)));
    for number in 0..50 {
        node.layer.send(&channel, message(number), SENDER).unwrap();
    }
    node.layer.send(&node.layer.channel(other, None), message(100), SENDER).unwrap();
    let expected: Vec<_> = (0..50).map(|number| (number, vec![7], vec![])).collect();
    assert_eq!(node.got_direct(1, 50).await, expected);
    assert_eq!(node.got_direct(2, 1).await, [(100, vec![7], vec![])]);
    assert!(node.workers.iter().all(|worker| worker.messages().is_empty()), "no group hears it");
    eventually("all are counted", || {
        node.metric("anteroom_layer_operations_total", &[("op", "send"), ("result", "ok")]) == 51
    })
    .await;
    node.stop().await;
}

/// In memory both are calls, with core both go through the inbox of the node, with pub/sub over its one connection.
/// With sharded pub/sub a group is with the master that has it and sockets are not, so each goes its own way.
pub(super) async fn a_socket_and_its_group_hear_one_sender_in_its_order(backend: &Backend) {
    const ROUNDS: i64 = 100;
    let node = backend.node().await;
    node.layer.open_channels();
    let room = group("room");
    node.join(1, &room).await;
    eventually("the channels are open", || node.layer.health().up).await;
    let channel = node.layer.channel(socket(1, 7), Some(&room));
    for number in 0..ROUNDS {
        node.send(&room, 2 * number).unwrap();
        node.layer.send(&channel, message(2 * number + 1), SENDER).unwrap();
    }
    let heard = || node.workers[1].heard.lock().unwrap().clone();
    let all: Vec<_> = (0..2 * ROUNDS).collect();
    eventually("all have come", || all.len() <= heard().len()).await;
    if matches!(backend, Backend::Sharded(_)) {
        let (to_group, to_socket): (Vec<_>, Vec<_>) = heard().into_iter().partition(|number| number % 2 == 0);
        assert!(to_group.is_sorted() && to_socket.is_sorted(), "{to_group:?} {to_socket:?}");
    } else {
        assert_eq!(heard(), all);
    }
    assert!(node.workers.iter().all(|worker| worker.refusals().is_empty()));
    node.stop().await;
}

pub(super) async fn a_channel_that_nobody_here_gave_is_counted_and_nothing_more(backend: &Backend) {
    let node = backend.node().await;
    node.layer.open_channels();
    node.join(0, &group("room")).await;
    let channel = node.layer.channel(socket(0, 7), None);
    // The last digit is of the seal.
    let mut forged = channel.to_string();
    let other = if forged.pop() == Some('0') { '1' } else { '0' };
    forged.push(other);
    node.layer.send(&forged.parse().unwrap(), message(1), SENDER).unwrap();
    node.layer.send(&channel, message(2), SENDER).unwrap();
    assert_eq!(node.got_direct(0, 1).await, [(2, vec![7], vec![])]);
    assert_eq!(dropped(&node, "unknown_target"), 1);
    node.stop().await;
}

#[tokio::test]
async fn each_node_gets_what_is_for_its_sockets() {
    let server = RedisServer::start().await;
    for config in [
        LayerConfig::Core(core(&server)),
        LayerConfig::PubSub(PubSubConfig { hosts: urls(&[&server]), ..PubSubConfig::default() }),
    ] {
        let (one, other) = (Node::start(config.clone()).await, Node::start(config).await);
        one.layer.open_channels();
        other.layer.open_channels();
        for node in [&one, &other] {
            node.join(0, &group("room")).await;
        }
        for number in 0..20 {
            let to = if number % 2 == 0 { &one } else { &other };
            let channel = to.layer.channel(socket(0, 1), None);
            one.layer.send(&channel, message(number), SENDER).unwrap();
        }
        let numbers = |directs: Vec<(i64, _, _)>| directs.into_iter().map(|(number, ..)| number).collect();
        let (even, odd): (Vec<i64>, Vec<i64>) =
            (numbers(one.got_direct(0, 10).await), numbers(other.got_direct(0, 10).await));
        assert_eq!(even, (0..20).step_by(2).collect::<Vec<_>>());
        assert_eq!(odd, (1..20).step_by(2).collect::<Vec<_>>());
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn channels_are_open_again_when_redis_is() {
    let mut server = RedisServer::start().await;
    for config in [
        LayerConfig::Core(core(&server)),
        LayerConfig::PubSub(PubSubConfig { hosts: urls(&[&server]), ..PubSubConfig::default() }),
    ] {
        let node = Node::start(config).await;
        node.layer.open_channels();
        let channel = node.layer.channel(socket(0, 1), None);
        node.layer.send(&channel, message(1), SENDER).unwrap();
        node.got_direct(0, 1).await;
        server.kill();
        node.is_down().await;
        server.restart().await;
        node.is_up().await;
        node.layer.send(&channel, message(2), SENDER).unwrap();
        assert_eq!(node.got_direct(0, 2).await[1].0, 2, "the name is still good");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_list_of_groups_and_sockets_tells_each_worker_what_it_told_already() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(LayerConfig::Core(core(&server))).await;
    let room = group("room");
    node.join(0, &room).await;
    let member: Vec<String> = ask(&mut redis, "ZRANGE asgi:group:room 0 -1").await;
    let name = |ticket| Value::from(node.layer.channel(ticket, Some(&room)).as_str());
    let (one, two, three) = (name(socket(0, 3)), name(socket(0, 2)), name(socket(2, 1)));
    let address = vec![one.clone(), Value::from(member[0].as_str()), three, two, one];
    let letter = envelope(&message(1), Value::List(address));
    put(&mut redis, &inbox_of(&member[0]), now(), &letter).await;
    let groups = vec!["room".to_owned()];
    assert_eq!(node.got_direct(0, 1).await, [(1, vec![2, 3], groups.clone())]);
    assert_eq!(node.got_direct(2, 1).await, [(1, vec![1], groups)]);
    assert_eq!(node.got(0, &room, 1).await, [1]);
    assert_eq!(dropped(&node, "unknown_target"), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_full_channel_is_refused_to_the_sender() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let node = Node::start(LayerConfig::Core(CoreConfig { expiry: 60, ..core(&server) })).await;
    for number in 0..100 {
        put(&mut redis, "asgispecific.python!", now(), format!("twelve bytes{number}").as_bytes()).await;
    }
    let channel: ChannelName = "specific.python!consumer".parse().unwrap();
    node.layer.send(&channel, message(1), SENDER).unwrap();
    eventually("it is refused", || node.workers[0].refusals() == [Refusal::ChannelFull]).await;
    let full = [("op", "send"), ("result", "full")];
    assert_eq!(node.metric("anteroom_layer_operations_total", &full), 1);
    assert_eq!(ask::<i64>(&mut redis, "ZCARD asgispecific.python!").await, 100);
    assert_eq!(dropped(&node, "over_capacity"), 0, "that is for groups");
    // Whoever reads makes room.
    assert_eq!(ask::<Vec<String>>(&mut redis, "ZPOPMIN asgispecific.python!").await.len(), 2);
    node.layer.send(&channel, message(2), SENDER).unwrap();
    eventually("it is sent", || {
        node.metric("anteroom_layer_operations_total", &[("op", "send"), ("result", "ok")]) == 1
    })
    .await;
    assert_eq!(node.workers[0].refusals().len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn names_of_a_dead_nodes_sockets_are_cleared_too() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let config = || LayerConfig::Core(CoreConfig { lease: 2, ..core(&server) });
    let (dead, node) = (Node::start(config()).await, Node::start(config()).await);
    let room = group("room");
    node.join(0, &room).await;
    // As Django does it.
    for (ticket, from) in [(socket(0, 1), &dead), (socket(0, 2), &dead), (socket(0, 1), &node)] {
        let name = from.layer.channel(ticket, Some(&room));
        let added: i64 = ask(&mut redis, &format!("ZADD asgi:group:room {} {name}", now())).await;
        assert_eq!(added, 1);
    }
    dead.crash().await;
    let mut number = 0;
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while 2 < ask::<i64>(&mut redis, "ZCARD asgi:group:room").await {
        assert!(tokio::time::Instant::now() < until, "the name of a dead node's socket is still there");
        node.send(&room, number).unwrap();
        number += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_pattern_that_redis_refuses_is_no_trouble_for_rooms_and_is_asked_for_again() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    let () = ask(&mut redis, "ACL SETUSER edge on >secret ~* +@all resetchannels &asgi*").await;
    let url = format!("redis://edge:secret@127.0.0.1:{}", server.port());
    let hosts = vec![url.parse().unwrap()];
    let node = Node::start(LayerConfig::PubSub(PubSubConfig { hosts, ..PubSubConfig::default() })).await;
    node.join(0, &group("room")).await;
    node.layer.open_channels();
    for number in 0..10 {
        node.send(&group("room"), number).unwrap();
        node.got(0, &group("room"), usize::try_from(number + 1).unwrap()).await;
        assert!(node.layer.health().up);
    }
    node.layer.send(&node.layer.channel(socket(0, 1), None), message(1), SENDER).unwrap();
    let () = ask(&mut redis, "ACL SETUSER edge allchannels").await;
    eventually("what is sent to a socket comes", || {
        node.layer.send(&node.layer.channel(socket(0, 1), None), message(2), SENDER).unwrap();
        !node.directs(0).is_empty()
    })
    .await;
    assert_eq!(node.directs(0)[0].0, 2);
    assert_eq!(node.metric("anteroom_layer_memberships", &[]), 1, "the pattern is no group");
    node.stop().await;
}
