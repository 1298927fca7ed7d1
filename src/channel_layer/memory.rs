//! Groups within this process.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounter, IntGauge};

use crate::channel_layer::address::Addresses;
use crate::channel_layer::message::Message;
use crate::channel_layer::metrics::{LayerMetrics, Op, Outcome};
use crate::channel_layer::name::{ChannelName, GroupName};
use crate::channel_layer::{Delivery, Direct, Inbox, Ticket, WorkerId};

/// Groups are spread over this many locks.
const SHARDS: usize = 64;

/// What the names of channels begin with.
const PREFIX: &str = "specific.memory!";

/// The layer for one process: a group's lock is held while its message goes to the inboxes, which makes one
/// order for all.
pub(super) struct Memory {
    shards: Vec<Mutex<Members>>,
    hasher: RandomState,
    inboxes: Vec<Arc<dyn Inbox>>,
    addresses: Addresses,
    memberships: IntGauge,
    added: IntCounter,
    discarded: IntCounter,
    group_sent: IntCounter,
    sent: IntCounter,
    dropped_unknown_target: IntCounter,
}

type Members = HashMap<GroupName, Vec<WorkerId>>;

impl Memory {
    pub(super) fn new(inboxes: Vec<Arc<dyn Inbox>>, metrics: &LayerMetrics) -> Self {
        let dropped_unknown_target = metrics.dropped_unknown_target.clone();
        let metrics = metrics.shard(0);
        metrics.up.set(1);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            inboxes,
            addresses: Addresses::default(),
            added: metrics.operation(Op::Add, Outcome::Ok).clone(),
            discarded: metrics.operation(Op::Discard, Outcome::Ok).clone(),
            group_sent: metrics.operation(Op::GroupSend, Outcome::Ok).clone(),
            sent: metrics.operation(Op::Send, Outcome::Ok).clone(),
            dropped_unknown_target,
            memberships: metrics.memberships,
        }
    }

    pub(super) fn join(&self, worker: WorkerId, group: &GroupName) {
        let Some(mut members) = self.shard(group) else { return };
        if !members.contains_key(group) {
            self.memberships.inc();
        }
        let workers = members.entry(group.clone()).or_default();
        if !workers.contains(&worker) {
            workers.push(worker);
        }
        self.added.inc();
    }

    pub(super) fn leave(&self, worker: WorkerId, group: &GroupName) {
        let Some(mut members) = self.shard(group) else { return };
        if let Some(workers) = members.get_mut(group) {
            workers.retain(|known| *known != worker);
            if workers.is_empty() {
                members.remove(group);
                self.memberships.dec();
            }
        }
        self.discarded.inc();
    }

    /// Delivers to a socket of this process; nobody else has a channel here.
    pub(super) fn send(&self, channel: &ChannelName, message: Message) {
        self.sent.inc();
        let local = channel.as_str().strip_prefix(PREFIX);
        let socket = local.and_then(|local| self.addresses.find(local));
        let inbox = socket.and_then(|socket| self.inboxes.get(socket.worker.0));
        match (socket, inbox) {
            (Some(socket), Some(inbox)) => {
                let (sockets, message) = (vec![socket.socket], Arc::new(message));
                inbox.direct(Direct { sockets, groups: Vec::new(), message });
            }
            _ => self.dropped_unknown_target.inc(),
        }
    }

    pub(super) fn channel(&self, socket: Ticket) -> ChannelName {
        ChannelName::made(format!("{PREFIX}{}", self.addresses.name(socket, 0)))
    }

    pub(super) fn group_send(&self, group: &GroupName, message: Message) {
        self.group_sent.inc();
        let message = Arc::new(message);
        let Some(members) = self.shard(group) else { return };
        for inbox in members.get(group).into_iter().flatten().filter_map(|worker| self.inboxes.get(worker.0))
        {
            inbox.deliver(Delivery { group: group.clone(), message: Arc::clone(&message) });
        }
    }

    fn shard(&self, group: &GroupName) -> Option<MutexGuard<'_, Members>> {
        let hash = self.hasher.hash_one(group) % self.shards.len() as u64;
        // An inbox that panicked has left the map as it was.
        self.shards
            .get(usize::try_from(hash).ok()?)
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("workers", &self.inboxes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::channel_layer::Refusal;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Arc<Message>>>);

    impl Inbox for Seen {
        fn deliver(&self, delivery: Delivery) {
            self.0.lock().unwrap().push(delivery.message);
        }

        fn direct(&self, direct: Direct) {
            self.0.lock().unwrap().push(direct.message);
        }

        fn refused(&self, _: Ticket, _: Refusal) {}
    }

    #[test]
    fn a_message_is_shared_by_all_workers_and_never_copied() {
        let registry = Registry::new();
        let seen: [Arc<Seen>; 3] = Default::default();
        let inboxes = seen.iter().map(|inbox| Arc::clone(inbox) as Arc<dyn Inbox>).collect();
        let memory = Memory::new(inboxes, &LayerMetrics::register(&registry).unwrap());
        let group: GroupName = "g".parse().unwrap();
        memory.join(WorkerId(0), &group);
        memory.join(WorkerId(1), &group);
        memory.group_send(&group, Message::new("x"));
        let first = Arc::clone(&seen[0].0.lock().unwrap()[0]);
        assert!(Arc::ptr_eq(&first, &seen[1].0.lock().unwrap()[0]));
        assert!(seen[2].0.lock().unwrap().is_empty());
        assert_eq!(memory.memberships.get(), 1);
        memory.leave(WorkerId(0), &group);
        memory.leave(WorkerId(1), &group);
        assert_eq!(memory.memberships.get(), 0);
        assert!(memory.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
