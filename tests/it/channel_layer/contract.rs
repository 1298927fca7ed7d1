//! More of what every backend promises: memberships, their counts, and the bounds of names and messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anteroom::channel_layer::{GroupName, Join, Message, Refusal, Value, WorkerId};

use crate::channel_layer::{Backend, Kind, Node, SENDER, group};
use crate::support::eventually;

impl Node {
    /// How many operations of a kind went well.
    fn done(&self, op: &str) -> i64 {
        self.metric("anteroom_layer_operations_total", &[("op", op), ("result", "ok")])
    }

    fn memberships(&self) -> i64 {
        self.metric("anteroom_layer_memberships", &[])
    }
}

pub(super) async fn health_says_up_and_names_the_backend(backend: &Backend) {
    let node = backend.node().await;
    let health = node.layer.health();
    let name = match backend {
        Backend::Memory => "memory",
        Backend::Redis(Kind::PubSub, _) | Backend::Sharded(_) => "channels_redis.pubsub",
        Backend::Redis(Kind::Core, _) => "channels_redis.core",
    };
    assert_eq!((health.backend, health.up, health.error), (name, true, None));
    node.stop().await;
}

pub(super) async fn a_message_to_a_group_without_members_is_fine_and_counted(backend: &Backend) {
    let node = backend.node().await;
    let (nobody, fence) = (group("nobody"), group("fence"));
    node.join(0, &fence).await;
    for number in 0..10 {
        node.send(&nobody, number).unwrap();
    }
    node.send(&fence, 1).unwrap();
    assert_eq!(node.got(0, &fence, 1).await, [1]);
    eventually("all are counted", || node.done("group_send") == 11).await;
    assert_eq!(node.workers[0].messages().len(), 1);
    assert!(node.workers.iter().all(|worker| worker.refusals().is_empty()));
    assert_eq!(node.memberships(), 1);
    node.stop().await;
}

pub(super) async fn who_joins_a_group_of_this_node_is_ready_at_once(backend: &Backend) {
    let node = backend.node().await;
    let room = group("room");
    node.join(0, &room).await;
    for worker in [1, 0, 1] {
        assert!(matches!(node.layer.join(WorkerId(worker), &room), Join::Ready), "{worker}");
    }
    assert_eq!(node.memberships(), 1);
    node.send(&room, 1).unwrap();
    node.send(&room, 2).unwrap();
    for worker in 0..2 {
        assert_eq!(node.got(worker, &room, 2).await, [1, 2], "once, however often it joined");
    }
    node.stop().await;
}

pub(super) async fn memberships_and_operations_are_counted(backend: &Backend) {
    let node = backend.node().await;
    let groups: Vec<_> = (0..5).map(|number| group(&format!("room{number}"))).collect();
    for (number, room) in groups.iter().enumerate() {
        node.join(0, room).await;
        assert_eq!(node.memberships(), i64::try_from(number).unwrap() + 1);
    }
    node.join(1, &groups[0]).await;
    assert_eq!(node.memberships(), 5, "groups are counted, not workers");
    eventually("each was added", || 5 <= node.done("group_add")).await;
    let before = node.done("group_discard");
    node.layer.leave(WorkerId(0), &groups[0]);
    assert_eq!(node.memberships(), 5, "another worker is in it");
    node.layer.leave(WorkerId(1), &groups[0]);
    groups[1..].iter().for_each(|room| node.layer.leave(WorkerId(0), room));
    assert_eq!(node.memberships(), 0);
    eventually("each was discarded", || before + 5 <= node.done("group_discard")).await;
    // Who is in no group leaves nothing.
    node.layer.leave(WorkerId(2), &groups[0]);
    assert_eq!(node.memberships(), 0);
    node.stop().await;
}

pub(super) async fn a_name_of_the_greatest_length_is_a_group_of_its_own(backend: &Backend) {
    let node = backend.node().await;
    let [one, other] = ["a", "b"].map(|last| group(&("x".repeat(GroupName::LEN_MAX - 1) + last)));
    node.join(0, &one).await;
    node.join(1, &other).await;
    node.send(&one, 1).unwrap();
    node.send(&other, 2).unwrap();
    assert_eq!(node.got(0, &one, 1).await, [1]);
    assert_eq!(node.got(1, &other, 1).await, [2]);
    assert_eq!(node.workers.iter().map(|worker| worker.messages().len()).sum::<usize>(), 2);
    node.stop().await;
}

pub(super) async fn many_groups_at_once_lose_nothing(backend: &Backend) {
    const GROUPS: usize = 200;
    const EACH: i64 = 10;
    let node = backend.node().await;
    let groups: Vec<_> = (0..GROUPS).map(|number| group(&format!("room{number}"))).collect();
    for (number, room) in groups.iter().enumerate() {
        node.join(number % 3, room).await;
    }
    for number in 0..EACH {
        for room in &groups {
            node.send(room, number).unwrap();
        }
    }
    let expected: Vec<_> = (0..EACH).collect();
    for (number, room) in groups.iter().enumerate() {
        for worker in 0..3 {
            let mine = if worker == number % 3 { &expected[..] } else { &[] };
            assert_eq!(node.got(worker, room, mine.len()).await, mine, "{room} on worker {worker}");
        }
    }
    assert!(node.workers.iter().all(|worker| worker.refusals().is_empty()));
    node.stop().await;
}

pub(super) async fn a_worker_that_came_back_gets_only_what_came_after(backend: &Backend) {
    const ROUNDS: i64 = 50;
    let node = backend.node().await;
    let room = group("room");
    node.join(0, &room).await;
    let over = Arc::new(AtomicBool::new(false));
    // Another one comes and goes all the time, beside the one that is looked at.
    let (layer, group, ended) = (node.layer.clone(), room.clone(), Arc::clone(&over));
    let restless = thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            drop(layer.join(WorkerId(2), &group));
            thread::yield_now();
            layer.leave(WorkerId(2), &group);
        }
    });
    let mut heard = 0;
    for number in 0..ROUNDS {
        node.join(1, &room).await;
        node.send(&room, number * 2).unwrap();
        node.got(0, &room, heard + 1).await;
        node.got(1, &room, heard / 2 + 1).await;
        node.layer.leave(WorkerId(1), &room);
        node.send(&room, number * 2 + 1).unwrap();
        heard = node.got(0, &room, heard + 2).await.len();
    }
    over.store(true, Ordering::Relaxed);
    restless.join().unwrap();
    let all: Vec<_> = (0..ROUNDS * 2).collect();
    assert_eq!(node.workers[0].numbers(&room), all);
    let even: Vec<_> = all.iter().copied().filter(|number| number % 2 == 0).collect();
    assert_eq!(node.workers[1].numbers(&room), even);
    assert!(node.workers[2].numbers(&room).is_sorted_by(|one, next| one < next), "nothing twice");
    assert_eq!(node.memberships(), 1);
    node.stop().await;
}

pub(super) async fn messages_up_to_the_limit_arrive_and_larger_ones_are_refused(backend: &Backend) {
    let node = backend.node().await;
    let room = group("room");
    node.join(0, &room).await;
    let message = |len| Message::new("test").with("n", 1).with("long", "a".repeat(len));
    let long = |message: &Message| match message.get("long") {
        Some(Value::Text(text)) => text.len(),
        _ => 0,
    };
    node.layer.group_send(&room, message(1_040_000), SENDER).unwrap();
    node.got(0, &room, 1).await;
    let larger = node.layer.group_send(&room, message(1024 * 1024), SENDER);
    let expected = match backend {
        // Nothing is copied, so there is no limit but that of the socket.
        Backend::Memory => Ok(()),
        Backend::Redis(..) | Backend::Sharded(_) => Err(Refusal::TooLarge),
    };
    assert_eq!(larger, expected);
    node.send(&room, 2).unwrap();
    let mut lens = vec![1_040_000, 0];
    if larger.is_ok() {
        lens.insert(1, 1024 * 1024);
    }
    node.got(0, &room, lens.len()).await;
    assert_eq!(node.workers[0].messages().iter().map(long).collect::<Vec<_>>(), lens);
    let failed = [("op", "group_send"), ("result", "error")];
    assert_eq!(node.metric("anteroom_layer_operations_total", &failed), i64::from(larger.is_err()));
    eventually("nothing waits", || node.metric("anteroom_layer_publish_queue_bytes", &[]) == 0).await;
    node.stop().await;
}
