//! Which groups a host is asked for, and how far it has confirmed that.

use std::collections::{HashMap, HashSet, VecDeque};

use tokio::sync::oneshot;

use crate::channel_layer::name::GroupName;
use crate::channel_layer::{Join, Joining, WorkerId};

/// The memberships of all workers and the state of their subscriptions on the connection of one epoch.
///
/// At most one command is under way for a channel, so that a confirmation says which state it confirms.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// The connection in use. What comes from another one does not count.
    epoch: Option<u64>,
    groups: HashMap<GroupName, Membership>,
    /// Groups whose subscription has to be looked at, each once.
    changes: VecDeque<GroupName>,
    /// Groups with workers that Redis refused to subscribe to, until it has confirmed them.
    refused: HashSet<GroupName>,
    /// Groups that all had left when Redis refused to end the subscription, until that is asked for again.
    lingering: HashSet<GroupName>,
    /// How many groups have workers.
    wanted: i64,
    /// Memberships outlive the connection: Redis keeps them until they are withdrawn.
    lasting: bool,
    /// Groups to ask for again although Redis has confirmed them.
    renewals: VecDeque<GroupName>,
}

#[derive(Debug, Default)]
struct Membership {
    workers: Vec<WorkerId>,
    state: State,
    /// It stands in `changes`, and so may not be forgotten.
    queued: bool,
    /// Redis may have it, from an earlier connection perhaps, and so may have to be told that it ended.
    kept: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Off,
    TurningOn,
    On,
    TurningOff,
}

/// A command to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Subscribe(GroupName),
    Unsubscribe(GroupName),
}

/// What Redis has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    Subscribed,
    Unsubscribed,
}

/// What a lost connection took with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Whether messages to anyone are missed from now on.
    pub(super) gap: bool,
    /// How many subscriptions were under way.
    pub(super) unconfirmed: u64,
}

impl Members {
    /// Memberships that Redis keeps when the connection is lost.
    pub(super) fn lasting() -> Self {
        Self { lasting: true, ..Self::default() }
    }

    /// Notes a member; also says whether there is work for the writer.
    pub(super) fn join(&mut self, worker: WorkerId, group: &GroupName) -> (Join, bool) {
        let membership = self.groups.entry(group.clone()).or_default();
        if membership.workers.is_empty() && !group.is_of_sockets() {
            self.wanted += 1;
        }
        if !membership.workers.contains(&worker) {
            membership.workers.push(worker);
        }
        if self.epoch.is_none() {
            return (Join::LayerDown, false);
        }
        if membership.state == State::On {
            return (Join::Ready, false);
        }
        let (confirm, joining) = oneshot::channel();
        membership.waiting.retain(|waiting| !waiting.is_closed());
        membership.waiting.push(confirm);
        let work = membership.state == State::Off && queue(&mut self.changes, group, membership);
        (Join::Pending(Joining(joining)), work)
    }

    /// Forgets a member; also says whether there is work for the writer.
    pub(super) fn leave(&mut self, worker: WorkerId, group: &GroupName) -> bool {
        let Some(membership) = self.groups.get_mut(group) else { return false };
        let before = membership.workers.len();
        membership.workers.retain(|known| *known != worker);
        if before == 0 || !membership.workers.is_empty() {
            return false;
        }
        self.wanted -= 1;
        self.refused.remove(group);
        membership.waiting.clear();
        match membership.state {
            State::Off if membership.queued => false,
            State::Off if membership.kept => {
                self.epoch.is_some() && queue(&mut self.changes, group, membership)
            }
            State::Off => {
                self.groups.remove(group);
                false
            }
            State::On => queue(&mut self.changes, group, membership),
            // Looked at again when the command under way is confirmed.
            State::TurningOn | State::TurningOff => false,
        }
    }

    /// How many groups have members.
    pub(super) fn wanted(&self) -> i64 {
        self.wanted
    }

    /// How many groups hear nothing because Redis refused the subscription. Channels of sockets are none: without
    /// them rooms still work.
    pub(super) fn refused(&self) -> usize {
        self.refused.len() - usize::from(self.refused.contains(GroupName::OF_SOCKETS))
    }

    /// Has what Redis refused asked for again; says whether there is work for the writer.
    pub(super) fn retry(&mut self) -> bool {
        let mut work = false;
        for group in self.lingering.drain() {
            let Some(membership) = self.groups.get_mut(&group) else { continue };
            let lingers = membership.state == State::On && membership.workers.is_empty();
            work |= lingers && queue(&mut self.changes, &group, membership);
        }
        for group in &self.refused {
            let Some(membership) = self.groups.get_mut(group) else { continue };
            work |= membership.state == State::Off && queue(&mut self.changes, group, membership);
        }
        work
    }

    /// Has Redis asked again for all that it has confirmed; what it was told may be lost or about to expire.
    pub(super) fn renew(&mut self) {
        let confirmed = self.groups.iter().filter(|(_, membership)| membership.is_heard());
        self.renewals = confirmed.map(|(group, _)| group.clone()).collect();
    }

    /// Has Redis asked again for one group, which it should know and does not; says whether it should.
    pub(super) fn renew_one(&mut self, group: &GroupName) -> bool {
        let heard = self.groups.get(group).is_some_and(Membership::is_heard);
        if heard && !self.renewals.contains(group) {
            self.renewals.push_back(group.clone());
        }
        heard
    }

    /// The next groups to ask for again, at most so many. Whoever takes them does it.
    pub(super) fn take_renewals(&mut self, len_max: usize) -> Vec<GroupName> {
        let mut taken = Vec::new();
        while taken.len() < len_max {
            let Some(group) = self.renewals.pop_front() else { break };
            if self.groups.get(&group).is_some_and(Membership::is_heard) {
                taken.push(group);
            }
        }
        taken
    }

    /// The next groups that Redis may have, at most so many, which are forgotten: we are about to end.
    pub(super) fn withdraw(&mut self, len_max: usize) -> Vec<GroupName> {
        let kept = self.groups.iter().filter(|(_, membership)| membership.kept);
        let taken: Vec<_> = kept.map(|(group, _)| group.clone()).take(len_max).collect();
        for group in &taken {
            self.groups.remove(group);
        }
        taken
    }

    /// Whether a group has workers here.
    pub(super) fn wants(&self, group: &GroupName) -> bool {
        self.groups.get(group).is_some_and(|membership| !membership.workers.is_empty())
    }

    /// Whether the connection of an epoch is the one in use.
    pub(super) fn is_current(&self, epoch: u64) -> bool {
        self.epoch == Some(epoch)
    }

    /// The members of a group, for a message on the connection of an epoch.
    pub(super) fn of(&self, epoch: u64, group: &str) -> Option<(&GroupName, &[WorkerId])> {
        if self.epoch != Some(epoch) {
            return None;
        }
        let (group, membership) = self.groups.get_key_value(group)?;
        (!membership.workers.is_empty()).then_some((group, membership.workers.as_slice()))
    }

    /// A new connection: everything that is wanted has to be subscribed.
    pub(super) fn connect(&mut self, epoch: u64) {
        self.lose();
        self.epoch = Some(epoch);
        for (group, membership) in &mut self.groups {
            queue(&mut self.changes, group, membership);
        }
    }

    /// The connection is gone, and with it every subscription. Those who wait are told.
    pub(super) fn lose(&mut self) -> Loss {
        let connected = self.epoch.take().is_some();
        let mut unconfirmed = 0;
        self.changes.clear();
        self.renewals.clear();
        self.refused.clear();
        self.lingering.clear();
        self.groups.retain(|_, membership| !membership.workers.is_empty() || membership.kept);
        for membership in self.groups.values_mut() {
            unconfirmed += u64::from(membership.state == State::TurningOn);
            membership.state = State::Off;
            membership.queued = false;
            membership.waiting.clear();
        }
        Loss { gap: connected && self.wanted != 0, unconfirmed }
    }

    /// The next commands, at most so many. Whoever takes them sends them.
    pub(super) fn take_changes(&mut self, len_max: usize) -> Vec<Change> {
        let mut taken = Vec::new();
        while taken.len() < len_max {
            let Some(group) = self.changes.pop_front() else { break };
            let Some(membership) = self.groups.get_mut(&group) else { continue };
            membership.queued = false;
            match (membership.workers.is_empty(), membership.state) {
                (false, State::Off) => {
                    membership.state = State::TurningOn;
                    membership.kept = self.lasting;
                    taken.push(Change::Subscribe(group));
                }
                (true, State::Off) if !membership.kept => {
                    self.groups.remove(&group);
                }
                (true, State::On | State::Off) => {
                    membership.state = State::TurningOff;
                    taken.push(Change::Unsubscribe(group));
                }
                (false, State::On) | (_, State::TurningOn | State::TurningOff) => {}
            }
        }
        taken
    }

    /// Takes a confirmation; says whether there is work for the writer, or nothing when it was not waited
    /// for.
    pub(super) fn confirm(&mut self, epoch: u64, group: &str, confirmed: Confirmed) -> Option<bool> {
        if self.epoch != Some(epoch) {
            return None;
        }
        let (group, _) = self.groups.get_key_value(group)?;
        let group = group.clone();
        let membership = self.groups.get_mut(&group)?;
        let unwanted = membership.workers.is_empty();
        match (confirmed, membership.state) {
            (Confirmed::Subscribed, State::TurningOn) => {
                membership.state = State::On;
                self.refused.remove(&group);
                for waiting in membership.waiting.drain(..) {
                    // Who waited may have gone.
                    waiting.send(()).ok();
                }
                Some(unwanted && queue(&mut self.changes, &group, membership))
            }
            (Confirmed::Unsubscribed, State::TurningOff) if unwanted => {
                self.groups.remove(&group);
                Some(false)
            }
            (Confirmed::Unsubscribed, State::TurningOff) => {
                membership.state = State::Off;
                membership.kept = false;
                Some(queue(&mut self.changes, &group, membership))
            }
            _ => None,
        }
    }

    /// Redis refused a command, which [`Members::retry`] tries again if it is still needed. A group that is wanted
    /// is tried before that for whoever joins.
    pub(super) fn refuse(&mut self, change: &Change) {
        let (Change::Subscribe(group) | Change::Unsubscribe(group)) = change;
        let Some(membership) = self.groups.get_mut(group) else { return };
        membership.waiting.clear();
        let unwanted = membership.workers.is_empty();
        match change {
            Change::Subscribe(_) => {
                membership.state = State::Off;
                if !unwanted {
                    self.refused.insert(group.clone());
                } else if membership.kept {
                    queue(&mut self.changes, group, membership);
                } else {
                    self.groups.remove(group);
                }
            }
            Change::Unsubscribe(_) => {
                membership.state = State::On;
                if unwanted {
                    self.lingering.insert(group.clone());
                }
            }
        }
    }
}

impl Membership {
    /// Somebody is in it and Redis has confirmed it.
    fn is_heard(&self) -> bool {
        self.state == State::On && !self.workers.is_empty()
    }
}

/// Puts a group on the list; says whether it was not there.
fn queue(changes: &mut VecDeque<GroupName>, group: &GroupName, membership: &mut Membership) -> bool {
    if membership.queued {
        return false;
    }
    membership.queued = true;
    changes.push_back(group.clone());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    fn group() -> GroupName {
        "g".parse().unwrap()
    }

    fn subscribe() -> Vec<Change> {
        vec![Change::Subscribe(group())]
    }

    fn unsubscribe() -> Vec<Change> {
        vec![Change::Unsubscribe(group())]
    }

    fn joined(members: &Members, epoch: u64) -> Option<Vec<WorkerId>> {
        members.of(epoch, "g").map(|(_, workers)| workers.to_vec())
    }

    /// One worker is in the group, as Redis has confirmed.
    fn subscribed(members: &mut Members) {
        members.connect(1);
        members.join(A, &group());
        members.take_changes(9);
        members.confirm(1, "g", Confirmed::Subscribed);
    }

    #[test]
    fn one_subscription_serves_all_workers() {
        let mut members = Members::default();
        members.connect(1);
        let (Join::Pending(Joining(mut first)), true) = members.join(A, &group()) else { panic!() };
        let (Join::Pending(Joining(mut second)), false) = members.join(B, &group()) else { panic!() };
        assert_eq!(members.take_changes(9), subscribe());
        assert!(first.try_recv().is_err());
        assert_eq!(members.confirm(1, "g", Confirmed::Subscribed), Some(false));
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(()), Ok(())));
        assert!(matches!(members.join(A, &group()), (Join::Ready, false)));
        assert_eq!(joined(&members, 1), Some(vec![A, B]));
        assert!(!members.leave(A, &group()));
        assert_eq!(joined(&members, 1), Some(vec![B]));
        assert!(members.leave(B, &group()));
        assert_eq!(joined(&members, 1), None);
        assert_eq!(members.take_changes(9), unsubscribe());
        assert_eq!(members.confirm(1, "g", Confirmed::Unsubscribed), Some(false));
        assert!(members.groups.is_empty() && members.wanted() == 0);
    }

    #[test]
    fn who_comes_back_during_the_unsubscribe_is_subscribed_after_it() {
        let mut members = Members::default();
        subscribed(&mut members);
        members.leave(A, &group());
        assert_eq!(members.take_changes(9), unsubscribe());
        let (Join::Pending(Joining(mut joining)), false) = members.join(A, &group()) else { panic!() };
        assert_eq!(members.take_changes(9), []);
        assert_eq!(members.confirm(1, "g", Confirmed::Unsubscribed), Some(true));
        assert_eq!(members.take_changes(9), subscribe());
        members.confirm(1, "g", Confirmed::Subscribed);
        assert_eq!(joining.try_recv(), Ok(()));
    }

    #[test]
    fn who_leaves_during_the_subscribe_is_unsubscribed_after_it() {
        let mut members = Members::default();
        members.connect(1);
        members.join(A, &group());
        assert_eq!(members.take_changes(9), subscribe());
        assert!(!members.leave(A, &group()));
        assert_eq!(members.confirm(1, "g", Confirmed::Subscribed), Some(true));
        assert_eq!(members.take_changes(9), unsubscribe());
    }

    #[test]
    fn coming_and_going_leaves_one_entry_at_most() {
        let mut members = Members::default();
        members.connect(1);
        for _ in 0..100 {
            members.join(A, &group());
            members.leave(A, &group());
        }
        assert_eq!((members.changes.len(), members.groups.len()), (1, 1));
        assert_eq!(members.take_changes(9), []);
        assert!(members.groups.is_empty());
    }

    #[test]
    fn a_new_connection_asks_for_everything_wanted_again() {
        let mut members = Members::default();
        assert!(matches!(members.join(A, &group()), (Join::LayerDown, false)));
        assert_eq!(members.take_changes(9), []);
        members.connect(1);
        assert_eq!(members.take_changes(9), subscribe());
        let (Join::Pending(Joining(mut joining)), false) = members.join(B, &group()) else { panic!() };
        assert_eq!(members.lose(), Loss { gap: true, unconfirmed: 1 });
        assert_eq!(joining.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(members.lose(), Loss { gap: false, unconfirmed: 0 });
        members.connect(2);
        assert_eq!(members.take_changes(9), subscribe());
        // What an old connection still says does not count.
        assert_eq!(members.confirm(1, "g", Confirmed::Subscribed), None);
        assert_eq!(joined(&members, 1), None);
        assert_eq!(members.confirm(2, "g", Confirmed::Subscribed), Some(false));
        assert_eq!(joined(&members, 2), Some(vec![A, B]));
    }

    #[test]
    fn a_refused_subscription_ends_the_wait_and_is_tried_again_later() {
        let mut members = Members::default();
        members.connect(1);
        let (Join::Pending(Joining(mut joining)), true) = members.join(A, &group()) else { panic!() };
        let changes = members.take_changes(9);
        members.refuse(&changes[0]);
        assert_eq!(joining.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!((members.take_changes(9), members.refused()), (vec![], 1));
        assert!(members.retry() && !members.retry());
        assert_eq!(members.take_changes(9), subscribe());
        // Nobody asks twice at a time.
        assert!(!members.retry());
        members.refuse(&changes[0]);
        members.connect(2);
        assert_eq!((members.take_changes(9), members.refused()), (subscribe(), 0));
        members.refuse(&changes[0]);
        members.retry();
        members.take_changes(9);
        assert_eq!(members.refused(), 1);
        members.confirm(2, "g", Confirmed::Subscribed);
        assert_eq!(members.refused(), 0);
    }

    #[test]
    fn a_refused_group_that_all_have_left_is_forgotten() {
        let mut members = Members::default();
        members.connect(1);
        members.join(A, &group());
        let changes = members.take_changes(9);
        members.refuse(&changes[0]);
        assert!(!members.leave(A, &group()));
        assert!(!members.retry());
        assert_eq!(members.refused(), 0);
        assert!(members.groups.is_empty());
    }

    #[test]
    fn a_subscription_that_redis_refused_to_end_is_ended_later() {
        for mut members in [Members::default(), Members::lasting()] {
            subscribed(&mut members);
            assert!(members.leave(A, &group()));
            for _ in 0..2 {
                let changes = members.take_changes(9);
                assert_eq!(changes, unsubscribe());
                members.refuse(&changes[0]);
                // Nobody misses anything by it.
                assert_eq!((members.take_changes(9), members.refused()), (vec![], 0));
                assert!(members.retry() && !members.retry());
            }
            assert_eq!(members.take_changes(9), unsubscribe());
            assert_eq!(members.confirm(1, "g", Confirmed::Unsubscribed), Some(false));
            assert!(members.groups.is_empty() && !members.retry());
        }
    }

    #[test]
    fn a_subscription_that_redis_refused_to_end_serves_who_comes_back() {
        let mut members = Members::default();
        subscribed(&mut members);
        members.leave(A, &group());
        let changes = members.take_changes(9);
        members.refuse(&changes[0]);
        assert!(matches!(members.join(B, &group()), (Join::Ready, false)));
        assert!(!members.retry());
        assert_eq!((members.take_changes(9), joined(&members, 1)), (vec![], Some(vec![B])));
    }

    #[test]
    fn a_lasting_membership_that_ended_during_an_outage_is_withdrawn_after_it() {
        let mut members = Members::lasting();
        subscribed(&mut members);
        members.lose();
        assert!(!members.leave(A, &group()));
        assert_eq!((members.wanted(), members.take_changes(9)), (0, vec![]));
        members.connect(2);
        assert_eq!(members.take_changes(9), unsubscribe());
        members.confirm(2, "g", Confirmed::Unsubscribed);
        assert!(members.groups.is_empty());
        // One that Redis never heard of needs no farewell.
        members.lose();
        members.join(A, &group());
        members.leave(A, &group());
        assert!(members.groups.is_empty());
    }

    #[test]
    fn a_lasting_membership_is_withdrawn_when_redis_refused_to_renew_it() {
        let mut members = Members::lasting();
        members.connect(1);
        members.join(A, &group());
        let changes = members.take_changes(9);
        members.confirm(1, "g", Confirmed::Subscribed);
        members.renew();
        assert_eq!(members.take_renewals(9), [group()]);
        members.refuse(&changes[0]);
        assert_eq!(members.refused(), 1);
        assert!(members.leave(A, &group()));
        assert_eq!(members.take_changes(9), unsubscribe());
    }

    #[test]
    fn only_what_is_confirmed_and_wanted_is_renewed() {
        let mut members = Members::lasting();
        members.connect(1);
        members.join(A, &group());
        members.renew();
        assert!(!members.renew_one(&group()));
        assert_eq!(members.take_renewals(9), []);
        members.take_changes(9);
        members.confirm(1, "g", Confirmed::Subscribed);
        assert!(members.renew_one(&group()) && members.renew_one(&group()));
        assert_eq!(members.take_renewals(9), [group()]);
        members.renew();
        members.leave(A, &group());
        assert_eq!(members.take_renewals(9), []);
        assert_eq!(members.withdraw(9), [group()]);
        assert_eq!(members.withdraw(9), []);
    }
}
