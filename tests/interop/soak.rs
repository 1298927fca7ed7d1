//! Half a minute of talk between two nodes and Python, with a loss of Redis in the middle, in which each message is
//! accounted for.
//!
//! The numbers that each sender has reached are noted four times:
//!
//! 1. `before`: a moment before the loss. Redis is killed once everybody has heard everything up to here.
//! 2. `lost`: Redis is gone. What is sent from here on finds none.
//! 3. `hopeless`: six seconds before Redis is back, empty. What is sent from 2 to here cannot be sent within the 5 s that
//!    a message may wait: each is refused to its sender. Python's own fail at once.
//! 4. `after`: all is reported as up: `/readyz` of both nodes, and on Redis the memberships, that of Python included. That
//!    takes 10 s at most.
//!
//! Everybody hears each message before 1 and from 4 on, once. Between them a message is in the gap: it is heard once or
//! not at all, and never when it was refused for its age. At all times each sender is heard in its order. No socket is
//! closed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::django::Django;
use crate::rooms::{RETURN_MAX, ROUTES, chat, wait_ready};
use crate::support::client::{Client, Frame};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::{pause, wait_within};

const ROOMS: [&str; 2] = ["lobby", "kitchen"];
const NODES: usize = 2;
/// Each sender says something this often.
const EVERY: Duration = Duration::from_millis(50);
/// How long all is well, and how long Redis is away: until nothing new is hopeless, and from then on.
const BEFORE: Duration = Duration::from_secs(9);
const HOPELESS: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(6);
const AFTER: Duration = Duration::from_secs(12);
/// Within this time everything that can be heard is heard.
const HEARD_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    PubSub,
    Core,
}

impl Kind {
    fn backend(self) -> &'static str {
        match self {
            Self::PubSub => "channels_redis.pubsub",
            Self::Core => "channels_redis.core",
        }
    }

    /// A node with room for whatever a busy machine leaves lying.
    fn node(self, redis: &RedisServer) -> TestServer {
        let capacity = if self == Self::Core { "capacity = 10000" } else { "" };
        let layer =
            format!("[layer]\nbackend = \"{}\"\nhosts = [\"{}\"]\n{capacity}\n", self.backend(), redis.url());
        TestServer::start(&(layer + ROUTES))
    }

    fn django(self, redis: &RedisServer) -> Django {
        match self {
            Self::PubSub => Django::start("pubsub", &json!({ "hosts": [redis.url()] })),
            Self::Core => Django::start("core", &json!({ "hosts": [redis.url()], "capacity": 10_000 })),
        }
    }

    /// How many hear what is sent to a group of a room: the two nodes and Python.
    fn members(self, redis: &RedisServer, room: &str) -> usize {
        match self {
            Self::PubSub => {
                let (_, members): (String, usize) =
                    redis.ask(&format!("PUBSUB NUMSUB asgi__group__chat_{room}"));
                members
            }
            Self::Core => redis.ask(&format!("ZCARD asgi:group:chat_{room}")),
        }
    }
}

/// Somebody who sends to a room. Its numbers begin at 0.
struct Sender {
    name: String,
    room: &'static str,
    /// The node, or none for Python.
    node: Option<usize>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    sent: usize,
    /// How often it was told that something was not sent. Who speaks over a socket is not told which.
    refusals: usize,
    /// Which failed; Python's alone.
    failed: Vec<usize>,
}

impl Sender {
    fn new(name: String, room: &'static str, node: Option<usize>) -> Arc<Self> {
        Arc::new(Self { name, room, node, ledger: Mutex::default() })
    }

    /// The next number, which counts as sent, and the text that says it.
    fn next(&self) -> (usize, String) {
        let mut ledger = self.ledger.lock().unwrap();
        let number = ledger.sent;
        ledger.sent += 1;
        (number, format!("{}:{number}", self.name))
    }

    fn sent(&self) -> usize {
        self.ledger.lock().unwrap().sent
    }

    fn refusals(&self) -> usize {
        self.ledger.lock().unwrap().refusals
    }
}

/// Somebody who listens.
struct Receiver {
    name: String,
    rooms: Vec<&'static str>,
    node: Option<usize>,
    /// The numbers by the name of their sender, as they came.
    heard: Mutex<HashMap<String, Vec<usize>>>,
}

impl Receiver {
    fn new(name: String, rooms: &[&'static str], node: Option<usize>) -> Arc<Self> {
        Arc::new(Self { name, rooms: rooms.to_vec(), node, heard: Mutex::default() })
    }

    fn hear(&self, message: &Value) {
        let (sender, number) = message.as_str().and_then(|text| text.split_once(':')).unwrap();
        let mut heard = self.heard.lock().unwrap();
        heard.entry(sender.to_owned()).or_default().push(number.parse().unwrap());
    }

    fn numbers(&self, sender: &Sender) -> Vec<usize> {
        self.heard.lock().unwrap().get(&sender.name).cloned().unwrap_or_default()
    }

    /// How many of these numbers it has not heard.
    fn missing(&self, sender: &Sender, mut numbers: std::ops::Range<usize>) -> usize {
        let heard: HashSet<_> = self.numbers(sender).into_iter().collect();
        let all = numbers.len();
        all - numbers.by_ref().filter(|number| heard.contains(number)).count()
    }
}

/// What all threads look at.
#[derive(Default)]
struct Signals {
    /// Nothing new is sent.
    enough: AtomicBool,
    /// Nobody listens any more.
    over: AtomicBool,
    /// Consumers in Python are to join again.
    join: AtomicBool,
}

impl Signals {
    fn is_enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A socket that listens, and speaks as this sender.
fn socket(mut client: Client, receiver: &Receiver, sender: Option<&Sender>, signals: &Signals) {
    let mut next = Instant::now();
    while !signals.is_over() {
        if let Some(sender) = sender
            && next <= Instant::now()
            && !signals.is_enough()
        {
            client.send_text(&json!({ "message": sender.next().1 }).to_string());
            next += EVERY;
        }
        if client.is_silent_for(Duration::from_millis(10)) {
            continue;
        }
        let Frame::Text(text) = client.next() else { panic!("{} is closed", receiver.name) };
        let frame: Value = serde_json::from_str(&text).unwrap();
        if let Some(error) = frame["error"].as_str() {
            assert!(error.starts_with("not sent: "), "{error}");
            sender.expect("who says nothing is refused nothing").ledger.lock().unwrap().refusals += 1;
        } else {
            receiver.hear(&frame["message"]);
        }
    }
}

/// A process of Python that publishes to each room in turn.
fn publisher(mut django: Django, senders: &[Arc<Sender>], signals: &Signals) {
    let mut next = Instant::now();
    for sender in senders.iter().cycle() {
        if signals.is_enough() {
            break;
        }
        let (number, text) = sender.next();
        if !django.try_group_send(&format!("chat_{}", sender.room), &chat(&text)) {
            let mut ledger = sender.ledger.lock().unwrap();
            ledger.refusals += 1;
            ledger.failed.push(number);
        }
        next += EVERY;
        pause(next.saturating_duration_since(Instant::now()));
    }
}

/// A process of Python whose consumers listen in each room.
fn consumer(mut django: Django, receiver: &Receiver, signals: &Signals) {
    while !signals.is_over() {
        if signals.join.swap(false, Ordering::Relaxed) {
            for room in ROOMS {
                django.join(&format!("chat_{room}"));
            }
        }
        if let Some(message) = django.received_within(Duration::from_millis(20)) {
            receiver.hear(&message["message"]);
        }
    }
}

struct Scene {
    kind: Kind,
    redis: RedisServer,
    nodes: Vec<TestServer>,
    senders: Vec<Arc<Sender>>,
    receivers: Vec<Arc<Receiver>>,
    signals: Arc<Signals>,
    threads: Vec<JoinHandle<()>>,
}

impl Scene {
    async fn start(kind: Kind) -> Self {
        let redis = RedisServer::start().await;
        let nodes: Vec<_> = (0..NODES).map(|_| kind.node(&redis)).collect();
        let signals = Arc::new(Signals::default());
        let (mut senders, mut receivers, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        let mut clients = Vec::new();
        for (node, server) in nodes.iter().enumerate() {
            wait_ready(server, true);
            for room in ROOMS {
                for part in ["talker", "listener"] {
                    let name = format!("{part} of {room} on node {node}");
                    let receiver = Receiver::new(name.clone(), &[room], Some(node));
                    let sender = (part == "talker").then(|| Sender::new(name, room, Some(node)));
                    senders.extend(sender.clone());
                    receivers.push(Arc::clone(&receiver));
                    clients.push((server.connect(&format!("/chat/{room}/")), receiver, sender));
                }
            }
        }
        let mut listening = kind.django(&redis);
        for room in ROOMS {
            listening.join(&format!("chat_{room}"));
        }
        let receiver = Receiver::new("Python".to_owned(), &ROOMS, None);
        receivers.push(Arc::clone(&receiver));
        let ours = Arc::clone(&signals);
        threads.push(thread::spawn(move || consumer(listening, &receiver, &ours)));
        for (client, receiver, sender) in clients {
            let ours = Arc::clone(&signals);
            threads.push(thread::spawn(move || socket(client, &receiver, sender.as_deref(), &ours)));
        }
        let python = ROOMS.map(|room| Sender::new(format!("Python to {room}"), room, None));
        senders.extend(python.clone());
        let (speaking, ours) = (kind.django(&redis), Arc::clone(&signals));
        threads.push(thread::spawn(move || publisher(speaking, &python, &ours)));
        Self { kind, redis, nodes, senders, receivers, signals, threads }
    }

    /// The numbers that the senders have reached.
    fn reached(&self) -> Vec<usize> {
        self.senders.iter().map(|sender| sender.sent()).collect()
    }

    /// Each receiver and each sender of its rooms, by the place of the sender.
    fn pairs(&self) -> impl Iterator<Item = (&Receiver, usize, &Sender)> {
        self.receivers.iter().flat_map(|receiver| {
            let senders = self.senders.iter().enumerate();
            senders
                .filter(|(_, sender)| receiver.rooms.contains(&sender.room))
                .map(|(index, sender)| (&**receiver, index, &**sender))
        })
    }

    /// Waits until everybody has heard what was sent from one note to another.
    fn all_heard(&self, from: &[usize], to: &[usize]) {
        wait_within(HEARD_MAX, "everybody has heard all", || {
            self.assert_threads_live();
            self.pairs().all(|(receiver, at, sender)| receiver.missing(sender, from[at]..to[at]) == 0)
        });
    }

    fn assert_threads_live(&self) {
        let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
        let publishers = usize::from(self.signals.is_enough());
        assert!(ended <= publishers, "a socket or a process of Python has failed");
    }

    /// Waits until all says that it is up again.
    fn is_back(&self) {
        if self.kind == Kind::Core {
            // The memberships of Python went with what Redis held.
            self.signals.join.store(true, Ordering::Relaxed);
        }
        wait_within(RETURN_MAX, "both nodes and Python are members again", || {
            self.assert_threads_live();
            self.nodes.iter().all(|node| node.admin("/readyz").status == 200)
                && ROOMS.iter().all(|room| self.kind.members(&self.redis, room) == NODES + 1)
        });
    }

    /// The sum of a metric of a node over its series with this label.
    fn sum(&self, node: usize, metric: &str, label: &str) -> usize {
        let metrics = self.nodes[node].metrics();
        let series = metrics.iter().filter(|(name, _)| name.split('{').next() == Some(metric));
        let sum: f64 = series.filter(|(name, _)| name.contains(label)).map(|(_, value)| value).sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of a test")]
        let sum = sum as usize;
        sum
    }

    /// The metrics of each node agree with what its clients saw.
    fn assert_metrics(&self) {
        for node in 0..NODES {
            let of_node = || self.senders.iter().filter(|sender| sender.node == Some(node));
            let sent: usize = of_node().map(|sender| sender.sent()).sum();
            let told: usize = of_node().map(|sender| sender.refusals()).sum();
            let refused = |label| self.sum(node, "anteroom_websocket_publish_refused_total", label);
            assert_eq!(refused(""), told, "refusals of node {node}");
            // An answer may come after the message itself.
            wait_within(RETURN_MAX, "each message is settled, once", || {
                self.sum(node, "anteroom_layer_operations_total", "group_send") == sent
            });
            // What was refused for its age has reached nobody.
            let mut reached = HashSet::new();
            for (receiver, at, sender) in self.pairs().filter(|(_, _, sender)| sender.node == Some(node)) {
                reached.extend(receiver.numbers(sender).into_iter().map(|number| (at, number)));
            }
            let late = refused("timed_out");
            assert!(reached.len() <= sent - late, "{} of {sent} were heard, {late} refused", reached.len());

            // Of those of one room on one node the one who heard the most has heard what came.
            let heard = |receiver: &Receiver| -> usize {
                receiver.heard.lock().unwrap().values().map(Vec::len).sum()
            };
            let of_room = |room: &&'static str| {
                let here = self.receivers.iter().filter(|receiver| receiver.node == Some(node));
                here.filter(|receiver| receiver.rooms.contains(room)).map(|receiver| heard(receiver)).max()
            };
            let deliveries: usize = ROOMS.iter().filter_map(of_room).sum();
            assert!(deliveries <= self.sum(node, "anteroom_layer_messages_received_total", ""));
            for gone in [
                "anteroom_layer_messages_dropped_total",
                "anteroom_websocket_send_dropped_total",
                "anteroom_worker_inbox_dropped_total",
                "anteroom_websocket_closes_total",
            ] {
                assert_eq!(self.sum(node, gone, ""), 0, "{gone} of node {node}");
            }
            assert_eq!(self.sum(node, "anteroom_layer_gaps_total", ""), 1, "gaps of node {node}");
            assert_eq!(self.sum(node, "anteroom_layer_memberships", ""), ROOMS.len());
            wait_within(RETURN_MAX, "nothing waits any more", || {
                ["layer_publish_queue_bytes", "websocket_send_queue_bytes", "layer_inbox_messages"]
                    .iter()
                    .all(|gauge| self.sum(node, &format!("anteroom_{gauge}"), "") == 0)
            });
        }
    }

    fn end(self) {
        self.signals.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.nodes.into_iter().for_each(TestServer::stop);
    }
}

async fn each_message_is_accounted_for(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    pause(BEFORE);
    let before = scene.reached();
    scene.all_heard(&vec![0; before.len()], &before);
    assert!(scene.senders.iter().all(|sender| sender.refusals() == 0), "nothing was refused yet");

    scene.redis.kill();
    let lost = scene.reached();
    pause(HOPELESS);
    let hopeless = scene.reached();
    for node in &scene.nodes {
        wait_ready(node, false);
    }
    pause(REST);
    scene.redis.restart().await;
    scene.is_back();
    let after = scene.reached();
    pause(AFTER);

    scene.signals.enough.store(true, Ordering::Relaxed);
    // A call of Python may be under way.
    let publisher = scene.threads.last().unwrap();
    wait_within(RETURN_MAX, "Python has said its last", || publisher.is_finished());
    // And one round of a socket.
    pause(EVERY * 4);
    let total = scene.reached();
    scene.all_heard(&after, &total);

    for (receiver, _, sender) in scene.pairs() {
        let numbers = receiver.numbers(sender);
        let whole = numbers.is_sorted_by(|one, next| one < next);
        assert!(whole, "{} heard {} twice or out of order: {numbers:?}", receiver.name, sender.name);
    }
    for (at, sender) in scene.senders.iter().enumerate() {
        let (name, refusals) = (&sender.name, sender.refusals());
        assert!(lost[at] < hopeless[at] && after[at] < total[at], "{name} went on");
        assert!(hopeless[at] - lost[at] <= refusals, "{name} was told of {refusals}");
        assert!(refusals <= after[at] - before[at], "{name} was told of {refusals}");
        for failed in &sender.ledger.lock().unwrap().failed {
            assert!((before[at]..after[at]).contains(failed), "{name} failed with {failed}");
        }
    }
    scene.assert_metrics();
    scene.end();
}

#[tokio::test]
async fn each_message_is_accounted_for_on_pubsub() {
    each_message_is_accounted_for(Kind::PubSub).await;
}

#[tokio::test]
async fn each_message_is_accounted_for_on_core() {
    each_message_is_accounted_for(Kind::Core).await;
}
