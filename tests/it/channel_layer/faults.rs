//! What becomes of messages when the way to Redis, or Redis itself, is at fault.
//!
//! In each scene one node sends and listens over a link that can be spoiled, and another listens beside it. What
//! was taken to be sent reaches the other once and in order, or its sender is told; what the first one misses,
//! it has reported as a gap.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use anteroom::channel_layer::{GroupName, LayerConfig, Message, RedisHost, Refusal, Ticket, WorkerId};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use crate::channel_layer::inboxes::ask;
use crate::channel_layer::{Kind, Node, both, group};
use crate::support::eventually;
use crate::support::link::{Cut, Link, Way};
use crate::support::redis::RedisServer;

/// A connection whose answers may take their time.
async fn patient(server: &RedisServer) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Within this time of the end of a fault rooms must work again.
const RETURN_MAX: Duration = Duration::from_secs(10);
const NONE: [i64; 0] = [];

struct Scene {
    link: Link,
    one: Node,
    two: Node,
    room: GroupName,
    accepted: Vec<i64>,
    next: i64,
}

impl Scene {
    async fn begin(kind: Kind, server: &RedisServer) -> Self {
        Self::begin_in(kind, server, group("room")).await
    }

    async fn begin_in(kind: Kind, server: &RedisServer, room: GroupName) -> Self {
        let link = Link::to(server.port());
        let one = Node::start(kind.layer(vec![link.url().parse().unwrap()])).await;
        let two = Node::start(kind.on(server)).await;
        one.join(0, &room).await;
        two.join(0, &room).await;
        Self { link, one, two, room, accepted: Vec::new(), next: 0 }
    }

    /// Sends the next message; its number is the socket's, so that each refusal says which it is.
    fn send(&mut self) -> i64 {
        self.send_long(0)
    }

    fn send_long(&mut self, len: usize) -> i64 {
        let number = self.next;
        self.next += 1;
        let message = Message::new("test").with("n", number).with("long", "a".repeat(len));
        let from = Ticket { worker: WorkerId(0), socket: u64::try_from(number).unwrap() };
        if self.one.layer.group_send(&self.room, message, from).is_ok() {
            self.accepted.push(number);
        }
        number
    }

    async fn send_for(&mut self, time: Duration, every: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.send();
            time::sleep(every).await;
        }
    }

    fn heard(&self, node: &Node) -> Vec<i64> {
        node.workers[0].numbers(&self.room)
    }

    fn refused(&self) -> Vec<i64> {
        let refusals = self.one.workers[0].refusals.lock().unwrap();
        refusals.iter().map(|(ticket, _)| i64::try_from(ticket.socket).unwrap()).collect()
    }

    fn count(&self, name: &str) -> i64 {
        self.one.metric(name, &[])
    }

    /// Sends until both hear it, which must be soon.
    async fn works_again(&mut self) {
        let since = Instant::now();
        loop {
            let number = self.send();
            time::sleep(Duration::from_millis(50)).await;
            if [&self.one, &self.two].iter().all(|node| self.heard(node).contains(&number)) {
                return;
            }
            let health = [self.one.layer.health(), self.two.layer.health()];
            assert!(since.elapsed() < RETURN_MAX, "the room does not work again: {health:?}");
        }
    }

    /// Ends with a look at the books.
    async fn end(mut self) {
        self.works_again().await;
        let whole = |heard: &[i64]| heard.is_sorted_by(|a, b| a < b);
        let settled = [("op", "group_send")];
        eventually("each message is counted", || {
            self.one.metric("anteroom_layer_operations_total", &settled) == self.next
        })
        .await;
        assert_eq!(self.count("anteroom_layer_publish_queue_bytes"), 0);
        let (one, two, refused) = (self.heard(&self.one), self.heard(&self.two), self.refused());
        assert!(whole(&one) && whole(&two), "twice or out of order: {one:?} {two:?}");
        let told: HashSet<_> = refused.iter().copied().collect();
        assert_eq!(told.len(), refused.len(), "a sender is told once: {refused:?}");
        assert!(told.iter().all(|number| self.accepted.contains(number)), "{refused:?}");
        // What comes last needs a moment.
        let missed = |node: &Node| -> Vec<i64> {
            let heard: HashSet<_> = self.heard(node).into_iter().collect();
            let mut missed = self.accepted.clone();
            missed.retain(|number| !told.contains(number) && !heard.contains(number));
            missed
        };
        for node in [&self.one, &self.two] {
            if node.metric("anteroom_layer_gaps_total", &[]) == 0 {
                eventually("nothing is lost without a word", || missed(node).is_empty()).await;
            }
        }
        for node in [self.one, self.two] {
            node.stop().await;
        }
    }
}

both! {
    a_link_that_is_slow_loses_nothing
    a_link_slower_than_the_deadlines_is_given_up
    a_narrow_link_loses_nothing_that_fits
    more_than_a_narrow_link_takes_is_refused
    a_connection_may_end_after_any_byte
    a_link_that_swallows_everything_is_given_up
    a_server_that_is_no_redis_is_not_taken_for_one
    a_redis_that_refuses_to_write_is_asked_again
    a_redis_with_no_room_for_clients_is_asked_again
    a_redis_that_loads_is_waited_for
    a_redis_that_is_busy_is_waited_for
    a_redis_that_pauses_its_clients_loses_nothing
    a_redis_that_pauses_its_clients_for_long_is_given_up
}

async fn a_link_that_is_slow_loses_nothing(kind: Kind) {
    for delay in [50, 400] {
        let server = RedisServer::start().await;
        let mut scene = Scene::begin(kind, &server).await;
        scene.link.slow(Duration::from_millis(delay));
        // Long enough for several signs of life.
        scene.send_for(Duration::from_secs(6), Duration::from_millis(100)).await;
        assert_eq!(scene.refused(), NONE, "{delay} ms");
        assert_eq!(scene.count("anteroom_layer_reconnects_total"), 0, "{delay} ms");
        // A new connection is made over it, too.
        scene.link.cut(Cut::Close);
        scene.one.is_down().await;
        scene.one.is_up().await;
        scene.send_for(Duration::from_secs(1), Duration::from_millis(100)).await;
        scene.link.heal();
        scene.end().await;
    }
}

async fn a_link_slower_than_the_deadlines_is_given_up(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    scene.link.slow(Duration::from_secs(3));
    scene.send_for(Duration::from_secs(8), Duration::from_millis(100)).await;
    assert!(!scene.one.layer.health().up);
    assert_ne!(scene.refused(), NONE);
    scene.link.heal();
    scene.end().await;
}

async fn a_narrow_link_loses_nothing_that_fits(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    scene.link.narrow(64 * 1024);
    for _ in 0..20 {
        scene.send_long(5000);
        time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(scene.refused(), NONE);
    assert_eq!(scene.count("anteroom_layer_reconnects_total"), 0);
    scene.end().await;
}

async fn more_than_a_narrow_link_takes_is_refused(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    scene.link.narrow(16 * 1024);
    for _ in 0..100 {
        scene.send_long(10_000);
        time::sleep(Duration::from_millis(50)).await;
    }
    eventually("senders are told", || !scene.refused().is_empty()).await;
    scene.link.heal();
    scene.end().await;
}

async fn a_connection_may_end_after_any_byte(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scenes = JoinSet::new();
    for step in 0..96 {
        let room = group(&format!("room_{step}"));
        let mut scene = Scene::begin_in(kind, &server, room).await;
        scenes.spawn(async move {
            // What a connection begins with, and the first messages.
            let bytes = step * 7;
            for (way, cut) in [
                (Way::ToServer, Cut::Close),
                (Way::FromServer, Cut::Reset),
                (Way::FromServer, Cut::Close),
                (Way::ToServer, Cut::Reset),
            ] {
                let before = scene.link.cuts();
                scene.link.cut_after(way, bytes, cut);
                let cutting = async {
                    while scene.link.cuts() == before {
                        scene.send();
                        time::sleep(Duration::from_millis(10)).await;
                    }
                };
                time::timeout(Duration::from_mins(1), cutting).await.expect("it is cut within a minute");
            }
            scene.one.is_up().await;
            assert!(0 < scene.count("anteroom_layer_gaps_total"), "{bytes}");
            scene.end().await;
        });
    }
    while let Some(ended) = scenes.join_next().await {
        ended.unwrap();
    }
}

async fn a_link_that_swallows_everything_is_given_up(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    scene.link.deafen();
    scene.send_for(Duration::from_secs(5), Duration::from_millis(50)).await;
    scene.one.is_down().await;
    scene.send_for(Duration::from_secs(2), Duration::from_millis(50)).await;
    assert_ne!(scene.refused(), NONE);
    scene.link.heal();
    scene.works_again().await;
    assert_eq!(scene.count("anteroom_layer_gaps_total"), 1);
    scene.end().await;
}

/// A port where everybody gets the same answer to each of the commands with which a client introduces itself, and
/// to whatever else they say.
fn stand_in(answer: &'static [u8]) -> RedisHost {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap()).parse().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(1..) = stream.read(&mut chunk) {
                    // Whoever has had enough hangs up.
                    stream.write_all(&answer.repeat(4)).unwrap_or_default();
                }
            });
        }
    });
    url
}

async fn a_server_that_is_no_redis_is_not_taken_for_one(kind: Kind) {
    let cases = [
        // what it says, what health says of it
        (&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], ""),
        (b"220 mail.example.com ESMTP\r\n", ""),
        (b"\x16\x03\x01\x00\xa5\x00\xff\xfe", ""),
        (b"*1000000000\r\n", "took too long"),
        (b"$1000000000\r\n", "took too long"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-BUSY Redis is busy running a script.\r\n", "busy"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTER"),
        (b"-ERR max number of clients reached\r\n", "max number of clients"),
    ];
    let mut nodes = Vec::new();
    for (answer, words) in cases {
        let mut config = kind.layer(vec![stand_in(answer)]);
        shorten(&mut config);
        let node = Node::begin(config);
        node.send(&group("room"), 1).unwrap();
        nodes.push((answer.escape_ascii().to_string(), words, node));
    }
    for (answer, words, node) in nodes {
        eventually("the sender is told", || node.workers[0].refusals() == [Refusal::TimedOut]).await;
        let says = || node.layer.health().error.unwrap_or_default();
        eventually(&format!("{answer}: health says {words:?}"), || {
            says() != "not connected yet" && says().to_lowercase().contains(&words.to_lowercase())
        })
        .await;
        assert!(!node.layer.health().up, "{answer}");
        assert_eq!(node.metric("anteroom_layer_reconnects_total", &[]), 0, "{answer}");
        node.stop().await;
    }
}

fn shorten(config: &mut LayerConfig) {
    match config {
        LayerConfig::PubSub(config) => config.publish_age_max = Duration::from_secs(1),
        LayerConfig::Core(config) => config.publish_age_max = Duration::from_secs(1),
        LayerConfig::Memory => {}
    }
}

async fn a_redis_that_refuses_to_write_is_asked_again(kind: Kind) {
    let cases = [
        // what a replica does without its master, what spoils it, what mends it
        ("yes", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("no", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("yes", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("yes", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ];
    for (serves_stale, spoil, mend) in cases {
        let server = RedisServer::start_with(&["--replica-serve-stale-data", serves_stale]).await;
        let mut redis = patient(&server).await;
        let mut scene = Scene::begin(kind, &server).await;
        let () = ask(&mut redis, spoil).await;
        scene.send_for(Duration::from_secs(4), Duration::from_millis(50)).await;
        match kind {
            // Nothing is written for it.
            Kind::PubSub if !spoil.starts_with("REPLICAOF") => {
                assert_eq!(scene.refused(), NONE, "{spoil}");
                assert_eq!(scene.count("anteroom_layer_reconnects_total"), 0, "{spoil}");
            }
            // What it still takes is heard nowhere else.
            Kind::PubSub => assert!(!scene.one.layer.health().up, "{spoil}"),
            Kind::Core => {
                eventually("senders are told", || !scene.refused().is_empty()).await;
                assert_eq!(scene.heard(&scene.two), NONE, "{spoil}");
            }
        }
        let () = ask(&mut redis, mend).await;
        scene.end().await;
    }
}

async fn a_redis_with_no_room_for_clients_is_asked_again(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    let mut redis = patient(&server).await;
    let () = ask(&mut redis, "CONFIG SET maxclients 1").await;
    let _: i64 = ask(&mut redis, "CLIENT KILL TYPE normal SKIPME yes").await;
    let _: i64 = ask(&mut redis, "CLIENT KILL TYPE pubsub").await;
    scene.one.is_down().await;
    scene.send_for(Duration::from_secs(3), Duration::from_millis(50)).await;
    assert!(!scene.one.layer.health().up);
    let () = ask(&mut redis, "CONFIG SET maxclients 1000").await;
    scene.works_again().await;
    assert_eq!(scene.count("anteroom_layer_gaps_total"), 1);
    scene.end().await;
}

async fn a_redis_that_loads_is_waited_for(kind: Kind) {
    let debug = ["--enable-debug-command", "yes"];
    // A key takes 20 ms.
    let slowly = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
    let mut server = RedisServer::start_with(&[&debug[..], &slowly].concat()).await;
    let mut redis = patient(&server).await;
    let () = ask(&mut redis, "DEBUG POPULATE 200 key 1000").await;
    let () = ask(&mut redis, "SAVE").await;
    let mut scene = Scene::begin(kind, &server).await;
    server.kill();
    scene.one.is_down().await;
    server.restart().await;
    scene.send_for(Duration::from_secs(1), Duration::from_millis(50)).await;
    let mut redis = patient(&server).await;
    let loading: String = ask(&mut redis, "INFO persistence").await;
    assert!(loading.contains("loading:1"), "{loading}");
    scene.end().await;
}

async fn a_redis_that_is_busy_is_waited_for(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    let mut redis = patient(&server).await;
    let () = ask(&mut redis, "CONFIG SET lua-time-limit 100").await;
    let mut script = patient(&server).await;
    let endless = async {
        let ended = redis::cmd("EVAL").arg(&["while true do end", "0"]).query_async::<()>(&mut script).await;
        ended.unwrap_err()
    };
    let sending = async {
        scene.send_for(Duration::from_secs(4), Duration::from_millis(50)).await;
        let () = ask(&mut redis, "SCRIPT KILL").await;
    };
    tokio::join!(endless, sending);
    assert_ne!(scene.refused(), NONE);
    scene.end().await;
}

async fn a_redis_that_pauses_its_clients_loses_nothing(kind: Kind) {
    for what in ["ALL", "WRITE"] {
        let server = RedisServer::start().await;
        let mut scene = Scene::begin(kind, &server).await;
        let mut redis = patient(&server).await;
        let () = ask(&mut redis, &format!("CLIENT PAUSE 1500 {what}")).await;
        scene.send_for(Duration::from_secs(3), Duration::from_millis(50)).await;
        assert_eq!(scene.refused(), NONE, "{what}");
        assert_eq!(scene.count("anteroom_layer_reconnects_total"), 0, "{what}");
        scene.end().await;
    }
}

async fn a_redis_that_pauses_its_clients_for_long_is_given_up(kind: Kind) {
    let server = RedisServer::start().await;
    let mut scene = Scene::begin(kind, &server).await;
    let mut redis = patient(&server).await;
    let () = ask(&mut redis, "CLIENT PAUSE 9000 ALL").await;
    scene.send_for(Duration::from_secs(7), Duration::from_millis(50)).await;
    assert!(!scene.one.layer.health().up);
    assert_ne!(scene.refused(), NONE);
    scene.end().await;
}
