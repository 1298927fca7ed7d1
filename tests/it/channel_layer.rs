//! What every backend of the channel layer promises, and what the ones on Redis promise when it fails.

mod bad_data;
mod cluster;
mod contract;
mod direct;
mod faults;
mod hosts;
mod inboxes;
mod sentinel;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anteroom::channel_layer::{
    ChannelLayer, CoreConfig, Delivery, Direct, GroupName, Inbox, Join, Joined, Key, LayerConfig,
    LayerMetrics, Message, PubSubConfig, RedisHost, Refusal, Secret, Serializer, SerializerFormat, Ticket,
    Value, WorkerId,
};
use prometheus::{Registry, TextEncoder};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel_layer::contract::{
    a_message_to_a_group_without_members_is_fine_and_counted,
    a_name_of_the_greatest_length_is_a_group_of_its_own, a_worker_that_came_back_gets_only_what_came_after,
    health_says_up_and_names_the_backend, many_groups_at_once_lose_nothing,
    memberships_and_operations_are_counted, messages_up_to_the_limit_arrive_and_larger_ones_are_refused,
    who_joins_a_group_of_this_node_is_ready_at_once,
};
use crate::channel_layer::direct::{
    a_channel_that_nobody_here_gave_is_counted_and_nothing_more,
    a_socket_and_its_group_hear_one_sender_in_its_order,
    what_is_sent_to_the_channel_of_a_socket_reaches_that_one_in_order,
};
use crate::channel_layer::inboxes::ask;
use crate::support::eventually;
use crate::support::redis::{RedisCluster, RedisServer};

const WORKERS: usize = 3;
const SENDER: Ticket = Ticket { worker: WorkerId(0), socket: 7 };

/// A worker that writes down what it gets.
#[derive(Default)]
struct Recorder {
    deliveries: Mutex<Vec<(GroupName, Arc<Message>)>>,
    directs: Mutex<Vec<Direct>>,
    /// The numbers of both, in the order in which they came.
    heard: Mutex<Vec<i64>>,
    refusals: Mutex<Vec<(Ticket, Refusal)>>,
}

impl Recorder {
    /// The numbers of the messages that came for a group.
    fn numbers(&self, group: &GroupName) -> Vec<i64> {
        let deliveries = self.deliveries.lock().unwrap();
        let mine = deliveries.iter().filter(|(to, _)| to == group);
        mine.map(|(_, message)| number_of(message)).collect()
    }

    fn messages(&self) -> Vec<Message> {
        self.deliveries.lock().unwrap().iter().map(|(_, message)| Message::clone(message)).collect()
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap().iter().map(|&(_, refusal)| refusal).collect()
    }
}

impl Inbox for Recorder {
    fn deliver(&self, delivery: Delivery) {
        self.heard.lock().unwrap().push(number_of(&delivery.message));
        self.deliveries.lock().unwrap().push((delivery.group, delivery.message));
    }

    fn direct(&self, direct: Direct) {
        self.heard.lock().unwrap().push(number_of(&direct.message));
        self.directs.lock().unwrap().push(direct);
    }

    fn refused(&self, ticket: Ticket, refusal: Refusal) {
        self.refusals.lock().unwrap().push((ticket, refusal));
    }
}

/// A layer with its task and three workers.
struct Node {
    layer: ChannelLayer,
    workers: Vec<Arc<Recorder>>,
    registry: Registry,
    stop: CancellationToken,
    tasks: TaskTracker,
    task: JoinHandle<()>,
}

impl Node {
    /// A node that need not be up yet.
    fn begin(config: LayerConfig) -> Self {
        let registry = Registry::new();
        let workers: Vec<_> = (0..WORKERS).map(|_| Arc::new(Recorder::default())).collect();
        let inboxes = workers.iter().map(|worker| Arc::clone(worker) as Arc<dyn Inbox>).collect();
        let metrics = LayerMetrics::register(&registry).unwrap();
        let (layer, task) = ChannelLayer::new(config, inboxes, metrics);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let task = tasks.spawn(task.run(stop.clone(), CancellationToken::new()));
        Self { layer, workers, registry, stop, tasks, task }
    }

    /// A node that is up.
    async fn start(config: LayerConfig) -> Self {
        let node = Self::begin(config);
        node.is_up().await;
        node
    }

    async fn is_up(&self) {
        eventually("the layer is up", || self.layer.health().up).await;
    }

    async fn is_down(&self) {
        eventually("the layer is down", || !self.layer.health().up).await;
    }

    async fn join(&self, worker: usize, group: &GroupName) {
        match self.layer.join(WorkerId(worker), group) {
            Join::Ready => {}
            Join::Pending(joining) => {
                let joined = time::timeout(Duration::from_secs(5), joining).await;
                assert_eq!(joined, Ok(Joined::Confirmed));
            }
            Join::LayerDown => panic!("the layer is down: {:?}", self.layer.health()),
        }
    }

    fn send(&self, group: &GroupName, number: i64) -> Result<(), Refusal> {
        self.layer.group_send(group, Message::new("test").with("n", number), SENDER)
    }

    /// Waits until a worker has got as many messages for a group, then returns their numbers.
    async fn got(&self, worker: usize, group: &GroupName, len: usize) -> Vec<i64> {
        let what = format!("worker {worker} gets {len} messages for {group}");
        eventually(&what, || len <= self.workers[worker].numbers(group).len()).await;
        self.workers[worker].numbers(group)
    }

    /// The sum of a metric over the label values that are not named.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let lines = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let named = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        named.map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()).sum()
    }

    /// Ends without a word, as a process does that is killed.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        time::timeout(Duration::from_secs(3), self.tasks.wait()).await.expect("the task of the layer ends");
    }
}

fn number_of(message: &Message) -> i64 {
    if let Some(Value::Int(number)) = message.get("n") { *number } else { -1 }
}

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn pubsub(servers: &[&RedisServer]) -> PubSubConfig {
    PubSubConfig { hosts: urls(servers), ..PubSubConfig::default() }
}

fn urls(servers: &[&RedisServer]) -> Vec<RedisHost> {
    servers.iter().map(|server| server.url().parse().unwrap()).collect()
}

/// The two layers on Redis.
#[derive(Clone, Copy, Debug)]
enum Kind {
    PubSub,
    Core,
}

impl Kind {
    fn layer(self, hosts: Vec<RedisHost>) -> LayerConfig {
        match self {
            Self::PubSub => LayerConfig::PubSub(PubSubConfig { hosts, ..PubSubConfig::default() }),
            Self::Core => LayerConfig::Core(CoreConfig { hosts, ..CoreConfig::default() }),
        }
    }

    fn on(self, server: &RedisServer) -> LayerConfig {
        self.layer(urls(&[server]))
    }

    fn limited(self, server: &RedisServer, age_max: Duration, bytes_max: usize) -> LayerConfig {
        let mut layer = self.on(server);
        match &mut layer {
            LayerConfig::PubSub(PubSubConfig { publish_age_max, publish_queue_bytes_max, .. })
            | LayerConfig::Core(CoreConfig { publish_age_max, publish_queue_bytes_max, .. }) => {
                (*publish_age_max, *publish_queue_bytes_max) = (age_max, bytes_max);
            }
            LayerConfig::Memory => {}
        }
        layer
    }

    fn written(self, server: &RedisServer, prefix: &str, serializer: Serializer) -> LayerConfig {
        let (hosts, prefix) = (urls(&[server]), prefix.to_owned());
        match self {
            Self::PubSub => {
                LayerConfig::PubSub(PubSubConfig { hosts, prefix, serializer, ..PubSubConfig::default() })
            }
            Self::Core => {
                LayerConfig::Core(CoreConfig { hosts, prefix, serializer, ..CoreConfig::default() })
            }
        }
    }
}

/// What a contract is run over.
enum Backend {
    Memory,
    Redis(Kind, RedisServer),
    Sharded(RedisCluster),
}

impl Backend {
    async fn node(&self) -> Node {
        match self {
            Self::Memory => Node::start(LayerConfig::Memory).await,
            Self::Redis(kind, server) => Node::start(kind.on(server)).await,
            Self::Sharded(nodes) => Node::start(cluster::named(&[nodes.replica.port()], true)).await,
        }
    }
}

macro_rules! contract {
    ($($claim:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $claim() {
                super::$claim(&super::Backend::Memory).await;
            })*
        }

        mod on_pubsub {
            $(#[tokio::test]
            async fn $claim() {
                let server = super::RedisServer::start().await;
                super::$claim(&super::Backend::Redis(super::Kind::PubSub, server)).await;
            })*
        }

        mod on_core {
            $(#[tokio::test]
            async fn $claim() {
                let server = super::RedisServer::start().await;
                super::$claim(&super::Backend::Redis(super::Kind::Core, server)).await;
            })*
        }

        mod on_sharded_pubsub {
            $(#[tokio::test]
            async fn $claim() {
                let cluster = super::RedisCluster::start().await;
                super::$claim(&super::Backend::Sharded(cluster)).await;
            })*
        }
    };
}

/// Claims about both layers on Redis.
macro_rules! both {
    ($($claim:ident)*) => {
        mod pubsub {
            $(#[tokio::test]
            async fn $claim() {
                super::$claim(super::Kind::PubSub).await;
            })*
        }

        mod core {
            $(#[tokio::test]
            async fn $claim() {
                super::$claim(super::Kind::Core).await;
            })*
        }
    };
}

pub(crate) use both;

contract! {
    a_message_reaches_each_joined_worker_once_and_in_order
    a_worker_that_left_gets_nothing_more
    every_worker_sees_the_order_of_the_others
    every_value_arrives_as_it_was_sent
    a_worker_may_come_and_go_at_once
    what_is_sent_to_the_channel_of_a_socket_reaches_that_one_in_order
    a_socket_and_its_group_hear_one_sender_in_its_order
    a_channel_that_nobody_here_gave_is_counted_and_nothing_more
    health_says_up_and_names_the_backend
    a_message_to_a_group_without_members_is_fine_and_counted
    who_joins_a_group_of_this_node_is_ready_at_once
    memberships_and_operations_are_counted
    a_name_of_the_greatest_length_is_a_group_of_its_own
    many_groups_at_once_lose_nothing
    a_worker_that_came_back_gets_only_what_came_after
    messages_up_to_the_limit_arrive_and_larger_ones_are_refused
}

async fn a_message_reaches_each_joined_worker_once_and_in_order(backend: &Backend) {
    let node = backend.node().await;
    let (room, other) = (group("room"), group("other"));
    node.join(0, &room).await;
    node.join(2, &room).await;
    node.join(1, &other).await;
    for number in 0..200 {
        node.send(&room, number).unwrap();
        node.send(&other, 1000).unwrap();
    }
    let expected: Vec<_> = (0..200).collect();
    assert_eq!(node.got(0, &room, 200).await, expected);
    assert_eq!(node.got(2, &room, 200).await, expected);
    node.got(1, &other, 200).await;
    assert_eq!(node.workers.iter().map(|worker| worker.messages().len()).sum::<usize>(), 600);
    assert_eq!(node.metric("anteroom_layer_memberships", &[]), 2);
    eventually("all are counted", || {
        let sent = [("op", "group_send"), ("result", "ok")];
        node.metric("anteroom_layer_operations_total", &sent) == 400
    })
    .await;
    node.stop().await;
}

async fn a_worker_that_left_gets_nothing_more(backend: &Backend) {
    let node = backend.node().await;
    let (room, fence) = (group("room"), group("fence"));
    node.join(0, &room).await;
    node.join(1, &room).await;
    node.join(0, &fence).await;
    node.send(&room, 1).unwrap();
    node.got(0, &room, 1).await;
    node.layer.leave(WorkerId(0), &room);
    node.send(&room, 2).unwrap();
    assert_eq!(node.got(1, &room, 2).await, [1, 2]);
    node.layer.leave(WorkerId(1), &room);
    node.send(&room, 3).unwrap();
    node.send(&fence, 1).unwrap();
    node.got(0, &fence, 1).await;
    assert_eq!(node.workers[0].numbers(&room), [1]);
    assert_eq!(node.workers[1].numbers(&room), [1, 2]);
    node.join(0, &room).await;
    node.send(&room, 4).unwrap();
    assert_eq!(node.got(0, &room, 2).await, [1, 4]);
    node.stop().await;
}

async fn every_worker_sees_the_order_of_the_others(backend: &Backend) {
    let node = backend.node().await;
    let room = group("room");
    for worker in 0..WORKERS {
        node.join(worker, &room).await;
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (node, room) = (&node, &room);
            scope.spawn(move || (0..100).for_each(|number| node.send(room, thread * 100 + number).unwrap()));
        }
    });
    let order = node.got(0, &room, 400).await;
    assert_eq!(node.got(1, &room, 400).await, order);
    assert_eq!(node.got(2, &room, 400).await, order);
    node.stop().await;
}

async fn every_value_arrives_as_it_was_sent(backend: &Backend) {
    let node = backend.node().await;
    let room = group("room");
    node.join(0, &room).await;
    let sent = Message::new("chat.message")
        .with("text", "h\u{e9} \u{1F600} \0 \"")
        .with("bytes", vec![0, 255, 10, 13])
        .with("none", Value::Null)
        .with(
            "list",
            Value::List(vec![Value::Bool(true), Value::Int(-1), Value::UInt(u64::MAX), Value::Float(0.5)]),
        )
        .with("map", Value::Map(vec![(Key::Text("k".to_owned()), Value::List(vec![]))]))
        .with("long", "a".repeat(100_000));
    node.layer.group_send(&room, sent.clone(), SENDER).unwrap();
    eventually("it arrives", || !node.workers[0].messages().is_empty()).await;
    assert_eq!(node.workers[0].messages(), [sent]);
    node.stop().await;
}

async fn a_worker_may_come_and_go_at_once(backend: &Backend) {
    let node = backend.node().await;
    let room = group("room");
    for _ in 0..200 {
        drop(node.layer.join(WorkerId(0), &room));
        node.layer.leave(WorkerId(0), &room);
    }
    node.join(0, &room).await;
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
    node.stop().await;
}

both! {
    nodes_agree_on_prefix_format_and_keys
    rooms_work_again_after_redis_was_killed
    a_frozen_redis_is_left_and_found_again
    cuts_lose_messages_but_never_repeat_or_reorder_them
    the_layer_starts_without_redis
    what_the_format_cannot_carry_is_refused_to_the_sender
    groups_are_spread_over_hosts_that_fail_alone
    thousands_of_groups_are_asked_for_again
    a_password_is_used_and_never_shown
    a_group_that_redis_refused_to_end_is_ended_once_it_is_allowed
    a_peer_that_hangs_up_is_not_hammered
    what_waits_at_the_stop_is_still_sent
}

#[tokio::test]
async fn nodes_share_groups_and_their_order() {
    let server = RedisServer::start().await;
    let config = || LayerConfig::PubSub(pubsub(&[&server]));
    let (room, nodes) = (group("room"), [Node::start(config()).await, Node::start(config()).await]);
    for node in &nodes {
        node.join(1, &room).await;
    }
    for number in 0..100 {
        nodes[usize::from(number % 2 == 0)].send(&room, number).unwrap();
    }
    let order = nodes[0].got(1, &room, 100).await;
    assert_eq!(nodes[1].got(1, &room, 100).await, order);
    for node in nodes {
        node.stop().await;
    }
}

async fn nodes_agree_on_prefix_format_and_keys(kind: Kind) {
    let server = RedisServer::start().await;
    let config = |prefix: &str, format, keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|&key| Secret::new(key)).collect();
        let serializer = Serializer::new(format, &keys);
        kind.written(&server, prefix, serializer)
    };
    let room = group("room");
    for format in [SerializerFormat::MsgPack, SerializerFormat::Json] {
        let old = Node::start(config("app:", format, &["old"])).await;
        let new = Node::start(config("app:", format, &["new", "old"])).await;
        let elsewhere = Node::start(config("app", format, &["old"])).await;
        new.join(0, &room).await;
        old.join(0, &room).await;
        elsewhere.join(0, &room).await;
        old.send(&room, 1).unwrap();
        assert_eq!(new.got(0, &room, 1).await, [1]);
        // The rotation is not finished: what is sealed with the new key cannot be read everywhere yet.
        new.send(&room, 2).unwrap();
        assert_eq!(new.got(0, &room, 2).await, [1, 2]);
        eventually("it is counted", || {
            old.metric("anteroom_layer_messages_dropped_total", &[("reason", "decode")]) == 1
        })
        .await;
        assert_eq!(old.workers[0].numbers(&room), [1]);
        assert_eq!(elsewhere.workers[0].messages(), []);
        for node in [old, new, elsewhere] {
            node.stop().await;
        }
    }
}

async fn rooms_work_again_after_redis_was_killed(kind: Kind) {
    let mut server = RedisServer::start().await;
    let node = Node::start(kind.on(&server)).await;
    let (room, late) = (group("room"), group("late"));
    node.join(0, &room).await;
    server.kill();
    node.is_down().await;
    assert!(node.layer.health().error.unwrap().contains(&format!("127.0.0.1:{}", server.port())));
    // What is asked for meanwhile is done on return, in order.
    assert!(matches!(node.layer.join(WorkerId(1), &late), Join::LayerDown));
    for number in 0..50 {
        node.send(&room, number).unwrap();
        node.send(&late, number).unwrap();
    }
    assert!(0 < node.metric("anteroom_layer_publish_queue_bytes", &[]));
    server.restart().await;
    let expected: Vec<_> = (0..50).collect();
    assert_eq!(node.got(0, &room, 50).await, expected);
    assert_eq!(node.got(1, &late, 50).await, expected);
    node.is_up().await;
    assert_eq!(node.workers[0].refusals(), []);
    let metrics = [
        ("anteroom_layer_up", 1),
        ("anteroom_layer_reconnects_total", 1),
        ("anteroom_layer_gaps_total", 1),
        ("anteroom_layer_publish_queue_bytes", 0),
    ];
    for (name, value) in metrics {
        eventually(name, || node.metric(name, &[]) == value).await;
    }
    node.stop().await;
}

async fn a_frozen_redis_is_left_and_found_again(kind: Kind) {
    let server = RedisServer::start().await;
    let node = Node::start(kind.on(&server)).await;
    let (room, late) = (group("room"), group("late"));
    node.join(0, &room).await;
    server.pause();
    node.send(&room, 1).unwrap();
    let Join::Pending(joining) = node.layer.join(WorkerId(0), &late) else { panic!("still connected") };
    node.is_down().await;
    assert_eq!(joining.await, Joined::LayerDown);
    // Redis may still read it when it wakes up, so it must not be sent again.
    eventually("the sender is told", || node.workers[0].refusals() == [Refusal::LayerDown]).await;
    server.resume();
    node.is_up().await;
    node.send(&room, 2).unwrap();
    node.send(&late, 3).unwrap();
    assert_eq!(node.got(0, &late, 1).await, [3]);
    let got = node.got(0, &room, 1).await;
    assert!(got == [2] || got == [1, 2], "{got:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_cut_connection_is_replaced_and_nothing_comes_twice() {
    let server = RedisServer::start().await;
    let node = Node::start(LayerConfig::PubSub(pubsub(&[&server]))).await;
    let room = group("room");
    node.join(0, &room).await;
    let mut admin = admin(&server).await;
    for number in 1..=5 {
        let _: i64 =
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query_async(&mut admin).await.unwrap();
        eventually("it is connected again", || node.metric("anteroom_layer_reconnects_total", &[]) == number)
            .await;
        let receivers: i64 =
            redis::cmd("PUBLISH").arg(&["asgi__group__room", "\u{0}"]).query_async(&mut admin).await.unwrap();
        assert_eq!(receivers, 1);
        node.send(&room, number).unwrap();
        let all: Vec<_> = (1..=number).collect();
        assert_eq!(node.got(0, &room, all.len()).await, all);
    }
    node.stop().await;
}

async fn cuts_lose_messages_but_never_repeat_or_reorder_them(kind: Kind) {
    let kill = match kind {
        Kind::PubSub => "CLIENT KILL TYPE pubsub",
        Kind::Core => "CLIENT KILL TYPE normal SKIPME yes",
    };
    let server = RedisServer::start().await;
    let (one, two) = (Node::start(kind.on(&server)).await, Node::start(kind.on(&server)).await);
    let room = group("room");
    one.join(0, &room).await;
    two.join(0, &room).await;
    let mut redis = admin(&server).await;
    for number in 0..1000 {
        one.send(&room, number).unwrap();
        if number % 100 == 50 {
            let _: i64 = ask(&mut redis, kill).await;
        }
        time::sleep(Duration::from_millis(1)).await;
    }
    one.is_up().await;
    two.is_up().await;
    one.send(&room, 1000).unwrap();
    for node in [&one, &two] {
        eventually("the last one comes", || node.workers[0].numbers(&room).last() == Some(&1000)).await;
        let numbers = node.workers[0].numbers(&room);
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert!(300 < numbers.len(), "{} of 1001 came", numbers.len());
    }
    // Each of the sender's messages was sent, or refused once.
    let sent = [("op", "group_send")];
    eventually("all are counted", || one.metric("anteroom_layer_operations_total", &sent) == 1001).await;
    one.stop().await;
    two.stop().await;
}

async fn the_layer_starts_without_redis(kind: Kind) {
    let mut server = RedisServer::stopped();
    let age_max = Duration::from_millis(300);
    let node = Node::begin(kind.limited(&server, age_max, 1000));
    let room = group("room");
    assert!(!node.layer.health().up);
    assert!(matches!(node.layer.join(WorkerId(0), &room), Join::LayerDown));
    let sent: Vec<_> = (0..10).map(|number| node.send(&room, number)).collect();
    let taken = sent.iter().filter(|result| result.is_ok()).count();
    assert!(0 < taken && taken < 10, "{sent:?}");
    assert_eq!(sent[9], Err(Refusal::QueueFull));
    let long = Message::new("x").with("v", "a".repeat(2000));
    assert_eq!(node.layer.group_send(&room, long, SENDER), Err(Refusal::TooLarge));
    eventually("what waited too long is refused", || node.workers[0].refusals().len() == taken).await;
    assert!(node.workers[0].refusals().iter().all(|&refusal| refusal == Refusal::TimedOut));
    assert!(node.workers[0].refusals.lock().unwrap().iter().all(|&(ticket, _)| ticket == SENDER));
    server.restart().await;
    node.is_up().await;
    node.send(&room, 10).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [10]);
    assert_eq!(node.metric("anteroom_layer_gaps_total", &[]), 0, "nobody was subscribed before");
    node.stop().await;
}

#[tokio::test]
async fn rubbish_is_counted_and_skipped() {
    let server = RedisServer::start().await;
    let config = PubSubConfig { message_bytes_max: 1000, ..pubsub(&[&server]) };
    let node = Node::start(LayerConfig::PubSub(config)).await;
    let room = group("room");
    node.join(0, &room).await;
    let mut admin = admin(&server).await;
    let long = [b"\x82\xa4type\xa1x\xa1v\xda\x07\xd0".as_slice(), &[b'a'; 2000]].concat();
    for payload in [&b""[..], b"\xc1", b"{}", b"\x81\xa4type\x01", b"\x05", &long] {
        let publish = redis::cmd("PUBLISH").arg("asgi__group__room").arg(payload).to_owned();
        let receivers: i64 = publish.query_async(&mut admin).await.unwrap();
        assert_eq!(receivers, 1);
    }
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
    let dropped = |reason| node.metric("anteroom_layer_messages_dropped_total", &[("reason", reason)]);
    assert_eq!((dropped("decode"), dropped("too_large")), (5, 1));
    let long = Message::new("x").with("v", "a".repeat(1000));
    assert_eq!(node.layer.group_send(&room, long, SENDER), Err(Refusal::TooLarge));
    node.stop().await;
}

async fn what_the_format_cannot_carry_is_refused_to_the_sender(kind: Kind) {
    let server = RedisServer::start().await;
    let serializer = Serializer::new(SerializerFormat::Json, &[]);
    let node = Node::start(kind.written(&server, "asgi", serializer)).await;
    let binary = Message::new("x").with("bytes", vec![1]);
    assert_eq!(node.layer.group_send(&group("room"), binary, SENDER), Err(Refusal::Encode));
    node.stop().await;
}

async fn groups_are_spread_over_hosts_that_fail_alone(kind: Kind) {
    let mut servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let config = || kind.layer(urls(&servers.each_ref()));
    let (one, two) = (Node::start(config()).await, Node::start(config()).await);
    let rooms: Vec<_> = (0..60).map(|number| group(&format!("room_{number}"))).collect();
    for room in &rooms {
        two.join(0, room).await;
    }
    for room in &rooms {
        one.send(room, 1).unwrap();
    }
    for room in &rooms {
        assert_eq!(two.got(0, room, 1).await, [1], "{room}");
    }
    let held = |shard| two.metric("anteroom_layer_memberships", &[("shard", shard)]);
    assert!(["0", "1", "2"].iter().all(|shard| 5 < held(shard)));
    servers[1].kill();
    one.is_down().await;
    two.is_down().await;
    let dead = held("1");
    for room in &rooms {
        one.send(room, 2).unwrap();
    }
    let second = || rooms.iter().filter(|room| two.workers[0].numbers(room) == [1, 2]).count();
    let alive = rooms.len() - usize::try_from(dead).unwrap();
    eventually("the other hosts deliver", || second() == alive).await;
    servers[1].restart().await;
    one.is_up().await;
    two.is_up().await;
    for room in &rooms {
        one.send(room, 3).unwrap();
    }
    let third = || rooms.iter().filter(|room| two.workers[0].numbers(room).last() == Some(&3)).count();
    eventually("all hosts deliver", || third() == rooms.len()).await;
    one.stop().await;
    two.stop().await;
}

async fn thousands_of_groups_are_asked_for_again(kind: Kind) {
    let mut server = RedisServer::start().await;
    let node = Node::start(kind.on(&server)).await;
    let rooms: Vec<_> = (0..3000).map(|number| group(&format!("room_{number}"))).collect();
    for room in &rooms {
        drop(node.layer.join(WorkerId(1), room));
    }
    server.kill();
    node.is_down().await;
    for room in &rooms[..500] {
        node.send(room, 1).unwrap();
    }
    server.restart().await;
    node.is_up().await;
    for room in &rooms[500..] {
        while node.send(room, 1) == Err(Refusal::QueueFull) {
            time::sleep(Duration::from_millis(5)).await;
        }
    }
    eventually("each room gets its message", || node.workers[1].messages().len() == rooms.len()).await;
    let mut admin = admin(&server).await;
    let held: Vec<String> = match kind {
        Kind::PubSub => redis::cmd("PUBSUB").arg("CHANNELS").query_async(&mut admin).await.unwrap(),
        Kind::Core => redis::cmd("KEYS").arg("asgi:group:*").query_async(&mut admin).await.unwrap(),
    };
    assert_eq!(held.len(), rooms.len());
    node.stop().await;
}

async fn a_password_is_used_and_never_shown(kind: Kind) {
    let server = RedisServer::start_with(&["--requirepass", "s3cret"]).await;
    let config = |password: &str| {
        let url = format!("redis://:{password}@127.0.0.1:{}", server.port()).parse().unwrap();
        kind.layer(vec![url])
    };
    let node = Node::start(config("s3cret")).await;
    node.stop().await;
    let stranger = Node::begin(config("wr0ng"));
    eventually("it says why", || {
        stranger.layer.health().error.is_some_and(|error| error.contains("assword"))
    })
    .await;
    let seen = format!("{:?} {:?}", stranger.layer.health(), config("wr0ng"));
    assert!(!seen.contains("wr0ng"), "{seen}");
    stranger.stop().await;
}

#[tokio::test]
async fn what_a_user_may_not_do_is_refused_and_the_rest_goes_on() {
    let options = ["--user", "default", "on", "nopass", "+@all", "~*", "resetchannels", "&asgi__group__mine"];
    let server = RedisServer::start_with(&options).await;
    let node = Node::start(LayerConfig::PubSub(pubsub(&[&server]))).await;
    let (mine, theirs) = (group("mine"), group("theirs"));
    let Join::Pending(joining) = node.layer.join(WorkerId(0), &theirs) else { panic!("not connected") };
    assert_eq!(joining.await, Joined::LayerDown);
    node.join(0, &mine).await;
    node.send(&theirs, 1).unwrap();
    node.send(&mine, 2).unwrap();
    assert_eq!(node.got(0, &mine, 1).await, [2]);
    eventually("the sender is told", || node.workers[0].refusals() == [Refusal::LayerDown]).await;
    let health = node.layer.health();
    assert!(!health.up, "{health:?}");
    assert!(health.error.is_some_and(|error| error.contains("subscriptions that Redis refuses: 1")));
    assert_eq!(node.metric("anteroom_layer_up", &[]), 0);
    // Whom nobody waits for is no trouble.
    node.layer.leave(WorkerId(0), &theirs);
    assert!(node.layer.health().up);
    assert_eq!(node.metric("anteroom_layer_up", &[]), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_group_that_was_refused_is_heard_once_it_is_allowed() {
    let options = ["--user", "default", "on", "nopass", "+@all", "~*", "resetchannels"];
    let server = RedisServer::start_with(&options).await;
    let node = Node::start(LayerConfig::PubSub(pubsub(&[&server]))).await;
    let room = group("room");
    let Join::Pending(joining) = node.layer.join(WorkerId(0), &room) else { panic!("not connected") };
    assert_eq!(joining.await, Joined::LayerDown);
    node.is_down().await;
    let mut admin = admin(&server).await;
    let allow = redis::cmd("ACL").arg(&["SETUSER", "default", "allchannels"]).to_owned();
    let () = allow.query_async(&mut admin).await.unwrap();
    node.is_up().await;
    assert_eq!(node.layer.health().error, None);
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
    assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0);
    node.stop().await;
}

async fn a_group_that_redis_refused_to_end_is_ended_once_it_is_allowed(kind: Kind) {
    let command = match kind {
        Kind::PubSub => "unsubscribe",
        Kind::Core => "zrem",
    };
    let without = format!("-{command}");
    let options = ["--user", "default", "on", "nopass", "~*", "&*", "+@all", &without];
    let server = RedisServer::start_with(&options).await;
    let node = Node::start(kind.on(&server)).await;
    let room = group("room");
    node.join(0, &room).await;
    node.layer.leave(WorkerId(0), &room);
    let ended = |result| {
        let labels = [("op", "group_discard"), ("result", result)];
        node.metric("anteroom_layer_operations_total", &labels)
    };
    eventually("it is refused", || ended("error") == 1).await;
    assert!(node.layer.health().up, "nobody misses anything by it");
    let mut admin = admin(&server).await;
    let allow = redis::cmd("ACL").arg(&["SETUSER", "default", &format!("+{command}")]).to_owned();
    let () = allow.query_async(&mut admin).await.unwrap();
    eventually("it is asked for again", || ended("ok") == 1).await;
    node.stop().await;
}

async fn a_peer_that_hangs_up_is_not_hammered(kind: Kind) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap()).parse().unwrap();
    let node = Node::begin(kind.layer(vec![url]));
    let mut attempts = 0;
    let counting = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            attempts += 1;
            let asked = stream.read(&mut [0; 64]).await.unwrap();
            assert_ne!(asked, 0);
        }
    };
    assert!(time::timeout(Duration::from_secs(3), counting).await.is_err());
    assert!((5..20).contains(&attempts), "{attempts} attempts in 3 s");
    node.stop().await;
}

async fn what_waits_at_the_stop_is_still_sent(kind: Kind) {
    let server = RedisServer::start().await;
    let config = || kind.on(&server);
    let (one, two) = (Node::start(config()).await, Node::start(config()).await);
    let room = group("room");
    two.join(0, &room).await;
    for number in 0..100 {
        one.send(&room, number).unwrap();
    }
    one.stop().await;
    assert_eq!(two.got(0, &room, 100).await, (0..100).collect::<Vec<_>>());
    two.stop().await;
}

async fn admin(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}
