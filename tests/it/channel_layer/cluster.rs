//! Rooms on a Redis Cluster, over classic and over sharded pub/sub.

use tokio::time::Instant;

use super::hosts::{layer, round_trip};
use super::*;

/// After a failover rooms work again by then.
const LIMIT: Duration = Duration::from_secs(10);

/// The layer; the nodes of these ports are named.
pub(super) fn named(ports: &[u16], sharded: bool) -> LayerConfig {
    let urls: Vec<_> = ports.iter().map(|port| format!("'redis://127.0.0.1:{port}'")).collect();
    let hosts = format!("[{{ cluster = [{}], sharded = {sharded} }}]", urls.join(", "));
    layer(Kind::PubSub, "/nowhere".as_ref(), &hosts)
}

/// Groups whose slots are with different masters, so that all three have some.
fn groups() -> Vec<GroupName> {
    (0..24).map(|number| group(&format!("room{number}"))).collect()
}

async fn join_all(node: &Node) {
    for group in groups() {
        node.join(0, &group).await;
    }
}

/// Every group of one node is heard on another again, in order.
async fn all_work_again(one: &Node, other: &Node, since: Instant) {
    for (at, room) in groups().iter().enumerate() {
        let first = 1000 * i64::try_from(at + 1).unwrap();
        let mut number = first;
        let last = |node: &Node| node.workers[0].numbers(room).last().copied().unwrap_or_default();
        while last(other) < first {
            assert!(since.elapsed() < LIMIT, "{room}: {:?}, {:?}", one.layer.health(), other.layer.health());
            number += 1;
            // It may be refused meanwhile, and its sender is told.
            one.send(room, number).ok();
            time::sleep(Duration::from_millis(20)).await;
        }
        let numbers = other.workers[0].numbers(room);
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }
}

#[tokio::test]
async fn every_room_works_on_a_cluster_and_keeps_its_order() {
    let cluster = RedisCluster::start().await;
    for sharded in [false, true] {
        // Each knows another node first.
        let one = Node::start(named(&[cluster.masters[1].port()], sharded)).await;
        let other = Node::start(named(&[cluster.masters[2].port()], sharded)).await;
        join_all(&other).await;
        for number in 1..=50 {
            for room in groups() {
                one.send(&room, number).unwrap();
            }
        }
        for room in groups() {
            assert_eq!(other.got(0, &room, 50).await, (1..=50).collect::<Vec<_>>(), "{room}");
        }
        let heard_on = |command: &str| {
            let masters = cluster.masters.iter();
            masters.filter(|node| !node.ask::<Vec<String>>(command).is_empty()).count()
        };
        assert_eq!(heard_on("PUBSUB SHARDCHANNELS"), if sharded { 3 } else { 0 });
        assert_eq!(heard_on("PUBSUB CHANNELS *group*"), usize::from(!sharded));
        for room in groups() {
            other.layer.leave(WorkerId(0), &room);
        }
        eventually("every group is left", || {
            heard_on("PUBSUB SHARDCHANNELS") + heard_on("PUBSUB CHANNELS *group*") == 0
        })
        .await;
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn rooms_work_again_after_a_node_of_the_cluster_was_killed() {
    for sharded in [false, true] {
        let mut cluster = RedisCluster::start().await;
        // Only the node that dies is known by its name.
        let dies = [cluster.masters[0].port()];
        let (one, other) =
            (Node::start(named(&dies, sharded)).await, Node::start(named(&dies, sharded)).await);
        join_all(&one).await;
        join_all(&other).await;
        let since = Instant::now();
        cluster.masters[0].kill();
        one.is_down().await;
        all_work_again(&one, &other, since).await;
        one.is_up().await;
        other.is_up().await;
        if sharded {
            assert!(cluster.replica.ask::<String>("INFO replication").contains("role:master"));
        }
        for node in [&one, &other] {
            assert!(1 <= node.metric("anteroom_layer_gaps_total", &[]), "the gap is counted");
        }
        round_trip(&other, "new").await;
        // The node comes back as a replica, and nothing happens.
        let gaps = one.metric("anteroom_layer_gaps_total", &[]);
        cluster.masters[0].restart().await;
        cluster.is_whole().await;
        all_work_again(&one, &other, Instant::now()).await;
        assert_eq!(one.metric("anteroom_layer_gaps_total", &[]), gaps);
        one.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn sharded_rooms_follow_a_slot_that_moves() {
    let cluster = RedisCluster::start().await;
    let all: Vec<_> = cluster.masters.iter().map(RedisServer::port).collect();
    let (one, other) = (Node::start(named(&all, true)).await, Node::start(named(&all, true)).await);
    join_all(&one).await;
    join_all(&other).await;
    let since = Instant::now();
    let () = cluster.replica.ask("CLUSTER FAILOVER");
    eventually("the replica is promoted", || {
        cluster.replica.ask::<String>("INFO replication").contains("role:master")
    })
    .await;
    eventually("its groups are heard there", || {
        !cluster.replica.ask::<Vec<String>>("PUBSUB SHARDCHANNELS").is_empty()
    })
    .await;
    all_work_again(&one, &other, since).await;

    // One slot goes to another master.
    let room = &groups()[0];
    let slot: u16 = cluster.masters[1].ask(&format!("CLUSTER KEYSLOT asgi__group__{room}"));
    let to: String = cluster.masters[1].ask("CLUSTER MYID");
    let to = if (5461..=10_922).contains(&slot) { cluster.masters[2].ask("CLUSTER MYID") } else { to };
    let since = Instant::now();
    for node in cluster.masters.iter().chain([&cluster.replica]) {
        if node.ask::<String>("INFO replication").contains("role:master") {
            let () = node.ask(&format!("CLUSTER SETSLOT {slot} NODE {to}"));
        }
    }
    all_work_again(&one, &other, since).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn while_a_part_of_the_cluster_is_away_the_other_rooms_go_on() {
    let mut cluster = RedisCluster::start().await;
    for node in cluster.masters.iter().chain([&cluster.replica]) {
        let () = node.ask("CONFIG SET cluster-require-full-coverage no");
    }
    let ports = [cluster.masters[0].port(), cluster.masters[1].port()];
    let (one, other) = (Node::start(named(&ports, true)).await, Node::start(named(&ports, true)).await);
    join_all(&one).await;
    join_all(&other).await;
    // It has no replica.
    cluster.masters[2].kill();
    one.is_down().await;
    let slot =
        |room: &GroupName| -> u16 { cluster.masters[0].ask(&format!("CLUSTER KEYSLOT asgi__group__{room}")) };
    let (away, here): (Vec<_>, Vec<_>) = groups().into_iter().partition(|room| 10_923 <= slot(room));
    assert!(!away.is_empty() && !here.is_empty());
    for room in &here {
        let mut number = 100;
        eventually(&format!("{room} is heard"), || {
            number += 1;
            one.send(room, number).ok();
            100 < other.workers[0].numbers(room).last().copied().unwrap_or_default()
        })
        .await;
    }
    eventually("who speaks into the rest is told", || {
        one.send(&away[0], 7).ok();
        one.workers[0].refusals().contains(&Refusal::LayerDown)
    })
    .await;
    assert!(one.layer.health().error.is_some(), "readiness says so, too");
    let since = Instant::now();
    cluster.masters[2].restart().await;
    all_work_again(&one, &other, since).await;
    one.is_up().await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_is_no_cluster_is_refused_with_the_reason() {
    let server = RedisServer::start().await;
    for sharded in [false, true] {
        let node = Node::begin(named(&[server.port()], sharded));
        eventually("it says why", || {
            node.layer.health().error.is_some_and(|error| error.contains("it is no node of a Redis Cluster"))
        })
        .await;
        node.stop().await;
    }
}
