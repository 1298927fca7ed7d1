//! What the layers of `channels_redis` know about one of their hosts, whatever they say to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::ServerError;
use tokio::sync::Notify;
use tokio::time::{self, Duration, Instant};
use tracing::{info, warn};

use crate::channel_layer::message::Message;
use crate::channel_layer::metrics::{LayerMetrics, Op, Outcome, ShardMetrics};
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::RedisHost;
use crate::channel_layer::redis::members::{Change, Confirmed, Members};
use crate::channel_layer::redis::outbox::{Outbox, Publish, Sender, Settled, Settlement};
use crate::channel_layer::redis::way::Way;
use crate::channel_layer::redis::wire::EncodeError;
use crate::channel_layer::{Delivery, Direct, Inbox, Join, Refusal, Ticket, WorkerId};

/// Bad messages are logged at most this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);
/// A subscription that Redis refused is asked for again after this, at the latest. Somebody has to allow it.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// So many kinds of refusals are logged for one connection, and so many reasons why there is none.
const REFUSALS_MAX: usize = 16;

/// A batch of commands may take this long to be answered.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The pause between two signs of life asked for. A peer that is frozen gives no error.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
/// An answer to a sign of life may take this long. One that is only slow, as from another continent, comes in
/// time; without any the connection ends, 3 s after the last one at most.
pub(super) const PING_MAX: Duration = Duration::from_secs(2);
/// Changes of memberships in one batch.
pub(super) const CHANGES_MAX: usize = 512;
/// Bytes of messages in one batch.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// One host: what it is asked for, what waits for it, how it is.
pub(super) struct Host {
    pub(super) index: usize,
    /// As it is configured.
    pub(super) place: RedisHost,
    pub(super) way: Way,
    pub(super) inboxes: Arc<[Arc<dyn Inbox>]>,
    pub(super) members: Mutex<Members>,
    pub(super) outbox: Mutex<Outbox>,
    /// There is something for the writer: a change of memberships or a message.
    pub(super) work: Notify,
    /// The first message came to wait, and may have to be given up one day.
    filled: Notify,
    status: Mutex<Status>,
    complaints: Mutex<Complaints>,
    full: Mutex<Complaints>,
    pub(super) metrics: ShardMetrics,
    pub(super) all: Arc<LayerMetrics>,
}

impl Host {
    pub(super) fn new(
        index: usize,
        place: RedisHost,
        inboxes: Arc<[Arc<dyn Inbox>]>,
        members: Members,
        outbox: Outbox,
        all: Arc<LayerMetrics>,
    ) -> Self {
        Self {
            index,
            way: Way::new(&place),
            place,
            inboxes,
            members: Mutex::new(members),
            outbox: Mutex::new(outbox),
            work: Notify::new(),
            filled: Notify::new(),
            status: Mutex::default(),
            complaints: Mutex::default(),
            full: Mutex::default(),
            metrics: all.shard(index),
            all,
        }
    }

    pub(super) fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        let mut members = lock(&self.members);
        let (join, work) = members.join(worker, group);
        self.metrics.memberships.set(members.wanted());
        drop(members);
        if work {
            self.work.notify_one();
        }
        join
    }

    pub(super) fn leave(&self, worker: WorkerId, group: &GroupName) {
        let mut members = lock(&self.members);
        let refused_before = members.refused();
        let work = members.leave(worker, group);
        let refused = members.refused();
        self.metrics.memberships.set(members.wanted());
        drop(members);
        if refused != refused_before {
            self.show();
        }
        if work {
            self.work.notify_one();
        }
    }

    /// Queues a message, unless it could not be written or is too long.
    pub(super) fn send(
        &self,
        op: Op,
        channel: String,
        payload: Result<Vec<u8>, EncodeError>,
        bytes_max: usize,
        ticket: Ticket,
    ) -> Result<(), Refusal> {
        let sent = match payload {
            Err(_) => Err(Refusal::Encode),
            Ok(payload) if bytes_max < payload.len() => Err(Refusal::TooLarge),
            Ok(payload) => {
                let from = Sender { ticket, op };
                self.publish(Publish { channel, payload, from, since: Instant::now() })
            }
        };
        sent.inspect_err(|refusal| self.count_refusal(op, *refusal))
    }

    fn publish(&self, publish: Publish) -> Result<(), Refusal> {
        let mut outbox = lock(&self.outbox);
        let (cost, first) = outbox.push(publish)?;
        drop(outbox);
        self.all.publish_queue_bytes.add(cost);
        self.work.notify_one();
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    fn count_refusal(&self, op: Op, refusal: Refusal) {
        let outcome = match refusal {
            Refusal::QueueFull | Refusal::ChannelFull => Outcome::Full,
            Refusal::TimedOut => Outcome::Timeout,
            Refusal::LayerDown | Refusal::TooLarge | Refusal::Encode => Outcome::Error,
        };
        self.metrics.operation(op, outcome).inc();
    }

    /// Tells who sent them what became of the messages that were under way, in their order.
    pub(super) fn settle(&self, outcomes: impl IntoIterator<Item = Settlement>) {
        let settled = lock(&self.outbox).settle();
        self.all.publish_queue_bytes.sub(settled.bytes);
        for (sender, outcome) in settled.senders.into_iter().zip(outcomes) {
            if let (Some(sent), Some(inbox)) = (outcome.sent, self.inboxes.get(sender.ticket.worker.0)) {
                inbox.sent(sender.ticket, sent);
            }
            match outcome.refusal {
                None => self.metrics.operation(sender.op, Outcome::Ok).inc(),
                Some(refusal) => self.refuse(sender, refusal),
            }
        }
    }

    /// Tells the sender that its message was given up. No lock is held.
    fn refuse(&self, sender: Sender, refusal: Refusal) {
        self.count_refusal(sender.op, refusal);
        if let Some(inbox) = self.inboxes.get(sender.ticket.worker.0) {
            inbox.refused(sender.ticket, refusal);
        }
    }

    /// Takes a message for a group from the connection of an epoch; says whether anybody is in that group.
    pub(super) fn deliver(&self, epoch: u64, group: &str, message: &Arc<Message>) -> bool {
        let members = lock(&self.members);
        let Some((group, workers)) = members.of(epoch, group) else { return false };
        for inbox in workers.iter().filter_map(|worker| self.inboxes.get(worker.0)) {
            inbox.deliver(Delivery { group: group.clone(), message: Arc::clone(message) });
        }
        true
    }

    /// Takes a message for single sockets from the connection of an epoch. `groups` are those that it was delivered
    /// to already; says whether there is any worker for it.
    pub(super) fn direct(
        &self,
        epoch: u64,
        sockets: impl IntoIterator<Item = Ticket>,
        groups: &[GroupName],
        message: &Arc<Message>,
    ) -> bool {
        if !lock(&self.members).is_current(epoch) {
            return false;
        }
        let mut by_worker: Vec<Vec<u64>> = vec![Vec::new(); self.inboxes.len()];
        for ticket in sockets {
            if let Some(sockets) = by_worker.get_mut(ticket.worker.0) {
                sockets.push(ticket.socket);
            }
        }
        let mut any = false;
        for (inbox, mut sockets) in self.inboxes.iter().zip(by_worker) {
            sockets.sort_unstable();
            sockets.dedup();
            if !sockets.is_empty() {
                any = true;
                inbox.direct(Direct { sockets, groups: groups.to_vec(), message: Arc::clone(message) });
            }
        }
        any
    }

    /// Takes the confirmation of a change from the connection of an epoch; says whether it was waited for.
    pub(super) fn confirm(&self, epoch: u64, group: &str, confirmed: Confirmed) -> bool {
        let mut members = lock(&self.members);
        let refused_before = members.refused();
        let Some(work) = members.confirm(epoch, group, confirmed) else { return false };
        let refused = members.refused();
        drop(members);
        if refused != refused_before {
            self.show();
        }
        if group != GroupName::OF_SOCKETS {
            let op = match confirmed {
                Confirmed::Subscribed => Op::Add,
                Confirmed::Unsubscribed => Op::Discard,
            };
            self.metrics.operation(op, Outcome::Ok).inc();
        }
        if work {
            self.work.notify_one();
        }
        true
    }

    /// Takes the refusal of a change.
    pub(super) fn refuse_change(&self, change: &Change, error: &ServerError) {
        lock(&self.members).refuse(change);
        let op = match change {
            Change::Subscribe(group) if group.is_of_sockets() => {
                return self.log_refusal("open_channels", error);
            }
            Change::Subscribe(_) => Op::Add,
            Change::Unsubscribe(_) => Op::Discard,
        };
        self.note_refusal(op, error);
        self.metrics.operation(op, Outcome::Error).inc();
    }

    /// Begins to use the connection of an epoch: everything that is wanted has to be asked for again.
    pub(super) fn begin(&self, epoch: u64) {
        lock(&self.members).connect(epoch);
        lock(&self.status).refusals.clear();
    }

    /// Gives a connection up. `gap` is since when messages have been missed.
    pub(super) fn give_up(&self, gap: &mut Option<Instant>) {
        let loss = lock(&self.members).lose();
        self.metrics.operation(Op::Add, Outcome::Error).inc_by(loss.unconfirmed);
        if loss.gap {
            gap.get_or_insert_with(Instant::now);
        }
        // Nobody knows whether these got through: sending them again could deliver them twice.
        let unknown = lock(&self.outbox).settle();
        self.refuse_settled(unknown, Refusal::LayerDown);
    }

    /// Logs a bad message, unless one was logged lately.
    pub(super) fn complain(&self, group: &str, reason: &str) {
        if let Some(unsaid) = lock(&self.complaints).allow() {
            warn!(shard = self.index, group, reason, unsaid, "skipped a message from the channel layer");
        }
    }

    /// Logs messages that found no room, unless some were logged lately.
    pub(super) fn complain_full(&self, inboxes: &[String], dropped: usize) {
        if let Some(unsaid) = lock(&self.full).allow() {
            let inboxes = inboxes.len();
            warn!(
                shard = self.index,
                dropped, inboxes, unsaid, "messages found no room in inboxes over capacity"
            );
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let status = lock(&self.status);
        let error = if status.up {
            let refused = lock(&self.members).refused();
            if refused == 0 {
                return None;
            }
            let reason = status.refused_subscribe.as_deref().unwrap_or_default();
            format!("subscriptions that Redis refuses: {refused}, the last with: {reason}")
        } else {
            status.error.clone().unwrap_or_else(|| "not connected yet".to_owned())
        };
        Some(format!("shard {} ({}): {error}", self.index, self.place.address()))
    }

    pub(super) fn last_refusal(&self) -> Option<String> {
        let reason = lock(&self.status).refused_send.clone()?;
        Some(format!("shard {} ({}): {reason}", self.index, self.place.address()))
    }

    /// Shows on the gauge how the host is; to be called after each change of it. A host that refuses what is
    /// wanted of it is not up: its rooms hear nothing.
    pub(super) fn show(&self) {
        // The lock is kept so that an older view cannot overwrite a newer one.
        let mut status = lock(&self.status);
        let refused = lock(&self.members).refused();
        if refused == 0 && status.refused_subscribe.take().is_some() {
            status.refusals.retain(|(command, _)| *command != Op::Add.label());
        }
        self.metrics.up.set((status.up && refused == 0).into());
    }

    /// Gives up what waits too long, whether there is a connection or not.
    pub(super) async fn expire(&self) {
        loop {
            let expires_at = lock(&self.outbox).expires_at();
            match expires_at {
                None => self.filled.notified().await,
                Some(at) => {
                    time::sleep_until(at).await;
                    let expired = lock(&self.outbox).expire(Instant::now());
                    self.refuse_settled(expired, Refusal::TimedOut);
                }
            }
        }
    }

    /// Asks again for subscriptions that were refused. Nothing else would: a connection can last for months.
    pub(super) async fn retry_refused(&self) {
        loop {
            time::sleep(REFUSED_RETRY).await;
            if lock(&self.members).retry() {
                self.work.notify_one();
            }
        }
    }

    fn refuse_settled(&self, settled: Settled, refusal: Refusal) {
        self.all.publish_queue_bytes.sub(settled.bytes);
        for sender in settled.senders {
            self.refuse(sender, refusal);
        }
    }

    pub(super) fn set_up(&self, gap: Option<Instant>) {
        let mut status = lock(&self.status);
        let again = std::mem::replace(&mut status.seen, true);
        status.up = true;
        status.error = None;
        status.failures.clear();
        drop(status);
        self.show();
        if again {
            self.metrics.reconnects.inc();
        }
        if let Some(since) = gap {
            self.metrics.gaps.inc();
            let seconds = since.elapsed().as_secs_f64();
            warn!(
                shard = self.index,
                redis = %self.place,
                seconds,
                "the channel layer is up again, what was sent meanwhile may be missed",
            );
        } else {
            info!(shard = self.index, redis = %self.place, "the channel layer is up");
        }
    }

    /// Notes that a connection was lost. One that never came to be of use is only another failure to connect.
    pub(super) fn lose(&self, reason: &str) {
        if !lock(&self.status).up {
            self.note_failure(reason);
            return;
        }
        warn!(shard = self.index, redis = %self.place, reason, "lost the channel layer");
        self.set_down(reason);
    }

    pub(super) fn set_down(&self, reason: &str) {
        let mut status = lock(&self.status);
        status.up = false;
        status.error = Some(reason.to_owned());
        drop(status);
        self.show();
    }

    /// Notes that connecting failed. In the log each reason stands once until there is a connection, also when
    /// several of them take turns.
    pub(super) fn note_failure(&self, reason: &str) {
        let mut status = lock(&self.status);
        status.error = Some(reason.to_owned());
        let new = !status.failures.iter().any(|known| known == reason);
        if new && status.failures.len() < REFUSALS_MAX {
            status.failures.push(reason.to_owned());
            drop(status);
            warn!(shard = self.index, redis = %self.place, reason, "cannot reach the channel layer");
        }
    }

    /// Notes that Redis refused a command.
    pub(super) fn note_refusal(&self, op: Op, error: &ServerError) {
        let mut status = lock(&self.status);
        match op {
            Op::Add => status.refused_subscribe = Some(error.to_string()),
            Op::GroupSend | Op::Send => status.refused_send = Some(error.to_string()),
            Op::Discard => {}
        }
        drop(status);
        self.log_refusal(op.label(), error);
    }

    /// Logs a refusal, once for each kind of command and error, for the text of an error may name the channel.
    fn log_refusal(&self, command: &'static str, error: &ServerError) {
        let mut status = lock(&self.status);
        let new = !status.refusals.iter().any(|(known, code)| *known == command && code == error.code());
        if new && status.refusals.len() < REFUSALS_MAX {
            status.refusals.push((command, error.code().to_owned()));
            drop(status);
            let reason = error.to_string();
            warn!(shard = self.index, redis = %self.place, command, reason, "the channel layer refused a command");
        }
    }
}

/// What is known about the connection.
#[derive(Default)]
struct Status {
    up: bool,
    /// Whether it was up before.
    seen: bool,
    /// Why it is not up.
    error: Option<String>,
    /// The reasons that the log has since it was up.
    failures: Vec<String>,
    /// What Redis said last when it refused a subscription, while any is refused.
    refused_subscribe: Option<String>,
    /// What Redis said last when it refused a message.
    refused_send: Option<String>,
    /// The refusals that the log has: the kind of command and the code of the error.
    refusals: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    /// How many were not logged since.
    unsaid: u64,
}

impl Complaints {
    /// How many went unsaid since the last one, when the next may be said.
    fn allow(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// What these locks guard is whole after every statement, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
