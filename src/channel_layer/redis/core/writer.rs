//! What is written to a host: memberships, and messages for the inboxes of others, in batches.

use std::collections::{HashMap, HashSet};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::time::{self, Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::channel_layer::Refusal;
use crate::channel_layer::metrics::Op;
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::core::connection::ask;
use crate::channel_layer::redis::core::letters::{Outcomes, Post};
use crate::channel_layer::redis::core::post::{CLEAR, buckets};
use crate::channel_layer::redis::core::{Shard, clock, names};
use crate::channel_layer::redis::host::{BATCH_BYTES, CHANGES_MAX, lock};
use crate::channel_layer::redis::members::{Change, Confirmed};
use crate::channel_layer::redis::outbox::Publish;
use crate::channel_layer::redis::shard::host_index;
use crate::channel_layer::redis::supervisor::End;

/// Messages of one batch. An inbox of 100, the usual capacity, has room for it unless its reader is behind.
const BATCH_MAX: u64 = 50;
/// A message waits so long for room in our own inbox, which we empty ourselves.
const ROOM_MAX: Duration = Duration::from_secs(1);
/// So many nodes are remembered, so many of them asked for in a batch, and so many names of one cleared.
const NODES_MAX: usize = 1024;
const CLEARED_MAX: usize = 32;
const NAMES_MAX: usize = 256;

impl Shard {
    /// Sends what there is to send, one batch at a time, until the connection fails or everything is said at
    /// the stop.
    pub(super) async fn write(
        &self,
        mut connection: MultiplexedConnection,
        epoch: u64,
        stop: &CancellationToken,
        gap: &mut Option<Instant>,
    ) -> End {
        // Before any membership, or another node could take us for dead and clear it.
        if let Err(reason) = self.take_lease(&mut connection).await {
            return End::Lost(reason);
        }
        let mut writer = Writer { shard: self, epoch, connection, announced: false, alive: HashMap::new() };
        loop {
            let turn = match writer.turn().await {
                Ok(turn) => turn,
                Err(reason) => return End::Lost(reason),
            };
            if !writer.announced && turn != Turn::MoreChanges {
                writer.announced = true;
                self.host.set_up(gap.take());
            }
            if turn == Turn::Idle {
                if stop.is_cancelled() {
                    self.withdraw(&mut writer.connection).await;
                    return End::Stopped;
                }
                tokio::select! {
                    () = self.host.work.notified() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

/// What writes to a host, for as long as a connection lasts.
struct Writer<'a> {
    shard: &'a Shard,
    epoch: u64,
    connection: MultiplexedConnection,
    /// All memberships have been told.
    announced: bool,
    /// Nodes that were found alive, and when.
    alive: HashMap<String, Instant>,
}

impl Writer<'_> {
    /// One batch: changes of memberships first, so that whoever joins and then sends hears itself.
    async fn turn(&mut self) -> Result<Turn, String> {
        let shard = self.shard;
        let host = &shard.host;
        let (changes, renewals) = {
            let mut members = lock(&host.members);
            let changes = members.take_changes(CHANGES_MAX);
            let renewals = members.take_renewals(CHANGES_MAX - changes.len());
            (changes, renewals)
        };
        let more = changes.len() + renewals.len() == CHANGES_MAX;
        // After a reconnect messages wait until every membership is told: their senders want to hear them.
        let batch = if self.announced || !more {
            let len_max = (shard.capacity / 2).clamp(1, BATCH_MAX);
            lock(&host.outbox).take(BATCH_BYTES, usize::try_from(len_max).unwrap_or(1))
        } else {
            Vec::new()
        };
        if changes.is_empty() && renewals.is_empty() && batch.is_empty() {
            return Ok(Turn::Idle);
        }
        let mut groups: Vec<&str> = Vec::new();
        for publish in batch.iter().filter(|publish| publish.from.op == Op::GroupSend) {
            if !groups.contains(&publish.channel.as_str()) {
                groups.push(&publish.channel);
            }
        }
        let mut commands = Pipeline::with_capacity(2 * (changes.len() + renewals.len() + groups.len()));
        for change in &changes {
            match change {
                Change::Subscribe(group) => shard.add_join(&mut commands, group),
                Change::Unsubscribe(group) => shard.add_discard(&mut commands, group),
            }
        }
        for group in &renewals {
            shard.add_join(&mut commands, group);
        }
        let oldest = clock::now_whole().saturating_sub(shard.common.group_expiry);
        for group in &groups {
            let key = shard.common.keys.group(group);
            commands.cmd("ZREMRANGEBYSCORE").arg(&key).arg(0).arg(oldest);
            commands.cmd("ZRANGE").arg(&key).arg(0).arg(-1);
        }
        let started_at = Instant::now();
        let mut answers = ask(&mut self.connection, &commands).await?.into_iter();
        self.changed(&changes, &renewals, &mut answers, started_at);
        if !batch.is_empty() {
            let members = groups.iter().map(|group| {
                let members = members(answers.by_ref().take(2));
                (*group, members)
            });
            let members: HashMap<_, _> = members.collect();
            self.send(&batch, members).await?;
            for op in [Op::GroupSend, Op::Send] {
                if batch.iter().any(|publish| publish.from.op == op) {
                    host.metrics.took(op, started_at.elapsed());
                }
            }
        }
        Ok(if more { Turn::MoreChanges } else { Turn::Done })
    }

    /// Notes what became of changes and renewals, each of which has two answers, or one when it is a farewell.
    fn changed(
        &self,
        changes: &[Change],
        renewals: &[GroupName],
        answers: &mut impl Iterator<Item = Value>,
        started_at: Instant,
    ) {
        let host = &self.shard.host;
        let mut seen = (false, false);
        for change in changes {
            let (len, group, confirmed) = match change {
                Change::Subscribe(group) => (2, group, Confirmed::Subscribed),
                Change::Unsubscribe(group) => (1, group, Confirmed::Unsubscribed),
            };
            seen = (seen.0 || len == 2, seen.1 || len == 1);
            match refusal(answers.by_ref().take(len)) {
                Some(error) => host.refuse_change(change, &error),
                None => {
                    host.confirm(self.epoch, group.as_str(), confirmed);
                }
            }
        }
        for group in renewals {
            match refusal(answers.by_ref().take(2)) {
                Some(error) => {
                    host.refuse_change(&Change::Subscribe(group.clone()), &error);
                    self.shard.metrics.refresh_refused.inc();
                }
                None => self.shard.metrics.refreshed.inc(),
            }
        }
        for (op, seen) in [(Op::Add, seen.0), (Op::Discard, seen.1)] {
            if seen {
                host.metrics.took(op, started_at.elapsed());
            }
        }
        if !renewals.is_empty() {
            self.shard.metrics.refresh_duration.observe(started_at.elapsed().as_secs_f64());
        }
        if !changes.is_empty() || !renewals.is_empty() {
            host.show();
        }
    }

    /// Puts a batch into the inboxes of its channels and of the members of its groups.
    async fn send(
        &mut self,
        batch: &[Publish],
        mut members: HashMap<&str, Result<Vec<String>, redis::ServerError>>,
    ) -> Result<(), String> {
        let shard = self.shard;
        let host = &shard.host;
        for (group, names) in &mut members {
            let (Ok(names), Ok(group)) = (names, group.parse::<GroupName>()) else { continue };
            let own = shard.node.member(group.as_str());
            // Redis has forgotten us, in this group at least. Those who send from here shall hear themselves.
            if !names.contains(&own) && lock(&host.members).renew_one(&group) {
                names.push(own);
            }
        }
        let hosts = shard.common.links.len();
        let sorted: HashMap<_, _> = members
            .iter()
            .filter_map(|(group, names)| {
                let names: Vec<_> = names.as_ref().ok()?.iter().map(String::as_str).collect();
                Some((*group, buckets(&names, &shard.common.keys, &shard.common.capacities, hosts)))
            })
            .collect();
        let mut outcomes = Outcomes::new(batch.len());
        let mut posts: Vec<Post> = (0..hosts).map(|_| Post::default()).collect();
        for (number, publish) in batch.iter().enumerate() {
            let channel = publish.channel.as_str();
            let envelope = &shard.common.envelope;
            let to_one;
            let buckets = match publish.from.op {
                Op::Send => {
                    to_one = buckets(&[channel], &shard.common.keys, &shard.common.capacities, hosts);
                    to_one.as_slice()
                }
                _ => sorted.get(channel).map_or(&[][..], Vec::as_slice),
            };
            if let (Op::GroupSend, Some(Err(error))) = (publish.from.op, members.get(channel)) {
                host.note_refusal(Op::GroupSend, error);
                outcomes.fail(number, Refusal::LayerDown);
            }
            for bucket in buckets {
                let Some(post) = posts.get_mut(bucket.host) else { continue };
                let sealed = match publish.from.op {
                    // It says whom it is for already.
                    Op::Send => Ok(envelope.wrap(publish.payload.clone(), random)),
                    _ => envelope.seal(&publish.payload, &bucket.channels, random),
                };
                match sealed {
                    Ok(member) => {
                        outcomes.address(number, bucket);
                        post.add(number, publish.from.op, bucket, member);
                    }
                    Err(_) => outcomes.fail(number, Refusal::Encode),
                }
                if post.is_full() {
                    let post = std::mem::take(post);
                    self.post(bucket.host, post, &mut outcomes).await?;
                }
            }
        }
        for (index, post) in posts.into_iter().enumerate().filter(|(_, post)| !post.letters.is_empty()) {
            self.post(index, post, &mut outcomes).await?;
        }
        host.settle(outcomes.settlements());
        self.clear_dead(&members).await
    }

    /// Puts letters into inboxes on one host. What finds no room is dropped, or refused when it was for one channel,
    /// as in Python; but our own inbox is one that we empty ourselves, and for that a letter waits a little.
    async fn post(&mut self, index: usize, mut post: Post, outcomes: &mut Outcomes) -> Result<(), String> {
        let shard = self.shard;
        let deadline = Instant::now() + ROOM_MAX;
        loop {
            let commands = post.commands(shard);
            let answer = if index == shard.host.index {
                ask(&mut self.connection, &commands).await?
            } else {
                let link = shard.common.links.get(index).and_then(|link| lock(link).clone());
                let answered = match link {
                    Some(mut link) => ask(&mut link, &commands).await.ok(),
                    None => None,
                };
                // Its own task finds out what is wrong with that host.
                let Some(answer) = answered else {
                    outcomes.lose(&post.letters, Refusal::LayerDown);
                    return Ok(());
                };
                answer
            };
            let full = match answer.into_iter().next_back() {
                Some(Value::ServerError(error)) => {
                    let op = post.letters.first().map_or(Op::GroupSend, |letter| letter.op);
                    shard.host.note_refusal(op, &error);
                    outcomes.lose(&post.letters, Refusal::LayerDown);
                    return Ok(());
                }
                Some(Value::Array(full)) => full,
                _ => Vec::new(),
            };
            let places: HashSet<_> = full.iter().filter_map(place).collect();
            let full = post.keep(&places);
            let in_time = Instant::now() < deadline;
            let (waiting, lost): (Vec<_>, Vec<_>) = full.into_iter().partition(|letter| {
                let own = index == shard.host.index && post.inboxes.get(letter.inbox) == Some(&shard.inbox);
                own && in_time
            });
            let (to_groups, to_one): (Vec<_>, Vec<_>) =
                lost.into_iter().partition(|letter| letter.op == Op::GroupSend);
            outcomes.lose(&to_one, Refusal::ChannelFull);
            outcomes.leave_out(&to_groups);
            if !to_groups.is_empty() {
                shard.host.all.dropped_over_capacity.inc_by(to_groups.len() as u64);
                shard.host.complain_full(&post.inboxes, to_groups.len());
            }
            if waiting.is_empty() {
                return Ok(());
            }
            post = Post { inboxes: vec![shard.inbox.clone()], bytes: 0, letters: waiting };
            post.letters.iter_mut().for_each(|letter| letter.inbox = 0);
            tokio::select! {
                () = shard.taken.notified() => {}
                () = time::sleep_until(deadline) => {}
            }
        }
    }

    /// Ends memberships of nodes that are dead, in the groups of a batch.
    async fn clear_dead(
        &mut self,
        members: &HashMap<&str, Result<Vec<String>, redis::ServerError>>,
    ) -> Result<(), String> {
        let shard = self.shard;
        let now = Instant::now();
        // A node that was found alive is not asked about again for the time of a lease.
        let lease = Duration::from_secs(shard.common.lease);
        self.alive.retain(|_, seen| now.duration_since(*seen) < lease);
        let hosts = shard.common.links.len();
        let mut asked: Vec<(&str, &str, Vec<&str>)> = Vec::new();
        for (group, names) in members {
            for name in names.iter().flatten() {
                let Some(node) = names::node_of(name).filter(|node| *node != shard.node.id) else { continue };
                // A node with other hosts than ours has its lease elsewhere.
                let here = host_index(names::non_local(name).as_bytes(), hosts) == shard.host.index;
                if !here || self.alive.contains_key(node) {
                    continue;
                }
                let room = asked.len() < CLEARED_MAX;
                match asked.iter_mut().find(|(of, known, _)| of == group && *known == node) {
                    Some((_, _, names)) if names.len() < NAMES_MAX => names.push(name),
                    None if room => asked.push((group, node, vec![name])),
                    Some(_) | None => {}
                }
            }
        }
        let mut commands = Pipeline::with_capacity(asked.len());
        for (group, node, names) in &asked {
            let (lease, group) = (shard.common.keys.lease(node), shard.common.keys.group(group));
            commands.cmd("EVAL").arg(CLEAR).arg(2).arg(lease).arg(group).arg(names);
        }
        if asked.is_empty() {
            return Ok(());
        }
        let answers = ask(&mut self.connection, &commands).await?;
        for ((_, node, _), answer) in asked.into_iter().zip(answers) {
            // Who may not run this script can send nothing either: that is said there.
            if answer != Value::Int(0) && self.alive.len() < NODES_MAX {
                self.alive.insert(node.to_owned(), now);
            }
        }
        Ok(())
    }
}

/// What a batch came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There was nothing to send.
    Idle,
    /// It was answered.
    Done,
    /// It was answered, and there may be more changes of memberships.
    MoreChanges,
}

fn place(value: &Value) -> Option<usize> {
    if let Value::Int(place) = value { usize::try_from(*place).ok() } else { None }
}

fn random(bytes: &mut [u8]) {
    fastrand::fill(bytes);
}

/// The first refusal among the answers to one change.
fn refusal(answers: impl Iterator<Item = Value>) -> Option<redis::ServerError> {
    let refusals: Vec<_> = answers
        .filter_map(|answer| if let Value::ServerError(error) = answer { Some(error) } else { None })
        .collect();
    refusals.into_iter().next()
}

/// The names in the second of two answers. One that is no text is no channel.
fn members(mut answers: impl Iterator<Item = Value>) -> Result<Vec<String>, redis::ServerError> {
    let (_pruned, members) = (answers.next(), answers.next());
    match members {
        Some(Value::ServerError(error)) => Err(error),
        Some(Value::Array(names)) => Ok(names
            .into_iter()
            .filter_map(
                |name| if let Value::BulkString(name) = name { String::from_utf8(name).ok() } else { None },
            )
            .collect()),
        _ => Ok(Vec::new()),
    }
}
