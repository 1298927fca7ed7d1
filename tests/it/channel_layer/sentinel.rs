//! Rooms follow the master that Sentinels watch over.

use tokio::time::Instant;

use super::hosts::{KINDS, layer, round_trip};
use super::*;

/// After a failover rooms work again by then.
const LIMIT: Duration = Duration::from_secs(10);

/// A master, a replica and a Sentinel that knows both.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
}

impl Watched {
    async fn start() -> Self {
        let master = RedisServer::start().await;
        let replica =
            RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await;
        let watched = Self { sentinel: RedisServer::start_sentinel(&master).await, master, replica };
        eventually("the replica follows", || {
            watched.master.ask::<String>("INFO replication").contains("state=online")
        })
        .await;
        watched.sentinel.knows(watched.replica.port()).await;
        watched
    }

    /// The layer; a Sentinel that is away is asked first.
    fn layer(&self, kind: Kind) -> LayerConfig {
        let away = RedisServer::stopped().port();
        let hosts = format!(
            "[{{ sentinels = [['127.0.0.1', {away}], ['127.0.0.1', {}]], master_name = 'm', db = 0 }}]",
            self.sentinel.port()
        );
        layer(kind, "/nowhere".as_ref(), &hosts)
    }

    /// Two nodes in one room.
    async fn nodes(&self, kind: Kind) -> (Node, Node) {
        let (one, other) = (Node::start(self.layer(kind)).await, Node::start(self.layer(kind)).await);
        other.join(0, &group("room")).await;
        round_trip(&one, "room").await;
        (one, other)
    }
}

/// Rooms of two nodes hear each other again, through this master.
async fn works_again(one: &Node, other: &Node, master: &RedisServer, since: Instant) {
    let room = group("room");
    let moved = |node: &Node| 1 <= node.metric("anteroom_layer_gaps_total", &[]);
    let (mut number, mut first) = (100, i64::MAX);
    while !other.workers[0].numbers(&room).iter().any(|number| first <= *number) {
        assert!(since.elapsed() < LIMIT, "{:?}, {:?}", one.layer.health(), other.layer.health());
        number += 1;
        if first == i64::MAX && moved(one) && moved(other) {
            first = number;
        }
        // It may be refused meanwhile, and its sender is told.
        one.send(&room, number).ok();
        time::sleep(Duration::from_millis(50)).await;
    }
    assert!(master.ask::<String>("INFO replication").contains("role:master"));
    one.is_up().await;
    other.is_up().await;
    round_trip(other, "new").await;
}

#[tokio::test]
async fn rooms_work_again_after_the_master_was_killed() {
    for kind in KINDS {
        let mut watched = Watched::start().await;
        let (one, other) = watched.nodes(kind).await;
        let since = Instant::now();
        watched.master.kill();
        works_again(&one, &other, &watched.replica, since).await;
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn rooms_follow_a_master_that_changes_without_a_failure() {
    for kind in KINDS {
        let watched = Watched::start().await;
        let (one, other) = watched.nodes(kind).await;
        let since = Instant::now();
        let () = watched.sentinel.ask("SENTINEL FAILOVER m");
        works_again(&one, &other, &watched.replica, since).await;
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn rooms_follow_although_the_old_master_knows_of_nothing() {
    for kind in KINDS {
        let watched = Watched::start().await;
        let (one, other) = watched.nodes(kind).await;
        let since = Instant::now();
        // It takes connections and answers nothing.
        watched.master.pause();
        works_again(&one, &other, &watched.replica, since).await;
        watched.master.resume();
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn sentinels_that_know_nothing_are_named_one_by_one() {
    let watched = Watched::start().await;
    let (sentinel, away) = (watched.sentinel.port(), RedisServer::stopped().port());
    let hosts = format!(
        "[{{ sentinels = [['127.0.0.1', {away}], ['127.0.0.1', {sentinel}], ['127.0.0.1', {}]], master_name = 'other' }}]",
        watched.master.port()
    );
    let node = Node::begin(layer(Kind::PubSub, "/nowhere".as_ref(), &hosts));
    eventually("it says why", || {
        node.layer.health().error.is_some_and(|error| {
            error.contains("no Sentinel knows the master `other`")
                && error.contains(&format!("127.0.0.1:{away}: Connection refused"))
                && error.contains(&format!("127.0.0.1:{sentinel}: it knows no master of this name"))
        })
    })
    .await;
    node.stop().await;
    // A Sentinel in the place of a server.
    let node = Node::begin(layer(Kind::PubSub, "/nowhere".as_ref(), &format!("[['127.0.0.1', {sentinel}]]")));
    eventually("it says what it is", || {
        node.layer.health().error.is_some_and(|error| error.contains("is a Sentinel"))
    })
    .await;
    node.stop().await;
}
