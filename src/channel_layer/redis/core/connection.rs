//! What is said on the connections to a host.
//!
//! There are two at a time: one for commands and one that waits at the inbox. When either is lost both are
//! replaced, and every membership that is wanted is told to Redis again before the host counts as up.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushKind, Value};
use tokio::time::{self, Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::channel_layer::Refusal;
use crate::channel_layer::metrics::{Op, Outcome};
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::connect::Connection;
use crate::channel_layer::redis::core::letters::{Outcomes, Post};
use crate::channel_layer::redis::core::post::{CLEAR, CLEAR_INBOX, buckets};
use crate::channel_layer::redis::core::{Shard, clock, names};
use crate::channel_layer::redis::host::{
    ANSWER_MAX, BATCH_BYTES, CHANGES_MAX, Host, PING_EVERY, PING_MAX, lock,
};
use crate::channel_layer::redis::members::{Change, Confirmed};
use crate::channel_layer::redis::outbox::Publish;
use crate::channel_layer::redis::shard::host_index;
use crate::channel_layer::redis::supervisor::{self, End};
use crate::channel_layer::redis::way::Target;

/// How long Redis waits for a message before it says that there is none.
const POP_WAIT: Duration = Duration::from_secs(2);
/// How much later that answer may come.
const POP_SPARE: Duration = Duration::from_millis(1500);
/// Messages that are taken out of the inbox at once.
const POP_MAX: usize = 64;
/// Messages of one batch. An inbox of 100, the usual capacity, has room for it unless its reader is behind.
const BATCH_MAX: u64 = 50;
/// A message waits so long for room in our own inbox, which we empty ourselves.
const ROOM_MAX: Duration = Duration::from_secs(1);
/// Memberships are renewed this often at least, for a group may have been evicted or deleted.
const RENEW_MAX: Duration = Duration::from_mins(10);
/// So many nodes are remembered, so many of them asked for in a batch, and so many names of one cleared.
const NODES_MAX: usize = 1024;
const CLEARED_MAX: usize = 32;
const NAMES_MAX: usize = 256;

impl supervisor::Shard for Shard {
    /// One for commands and one for the inbox.
    type Connections = (Connection, Connection);

    fn host(&self) -> &Host {
        &self.host
    }

    async fn connect(
        self: &Arc<Self>,
        target: &Target<'_>,
        _: u64,
        lost: &CancellationToken,
    ) -> Result<Self::Connections, String> {
        let open = || {
            let lost = lost.clone();
            target.open(move |push| {
                if push.kind == PushKind::Disconnection {
                    lost.cancel();
                }
            })
        };
        let connections = tokio::try_join!(open(), open())?;
        if connections.0.greeting.is_cluster {
            return Err("it is a Redis Cluster, where only `channels_redis.pubsub` works".to_owned());
        }
        Ok(connections)
    }

    async fn serve(
        &self,
        (commands, inbox): Self::Connections,
        epoch: u64,
        stop: &CancellationToken,
        gap: &mut Option<Instant>,
    ) -> End {
        let link = self.common.links.get(self.host.index);
        let _link = link.map(|link| Linked::new(link, commands.commands.clone()));
        tokio::select! {
            biased;
            end = self.write(commands.commands.clone(), epoch, stop, gap) => end,
            end = self.watch(commands.commands.clone()) => end,
            end = self.read(inbox.commands.clone(), epoch) => end,
        }
    }
}

/// Lends a connection to the other hosts, for as long as this value lives.
struct Linked<'a>(&'a Mutex<Option<MultiplexedConnection>>);

impl<'a> Linked<'a> {
    fn new(link: &'a Mutex<Option<MultiplexedConnection>>, connection: MultiplexedConnection) -> Self {
        *lock(link) = Some(connection);
        Self(link)
    }
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

impl Shard {
    /// Sends what there is to send, one batch at a time, until the connection fails or everything is said at
    /// the stop.
    async fn write(
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

    async fn take_lease(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("SET").arg(&self.lease).arg(1).arg("EX").arg(self.common.lease);
        match ask(connection, &commands).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Ends all memberships. Whatever fails here expires.
    async fn withdraw(&self, connection: &mut MultiplexedConnection) {
        loop {
            let groups = lock(&self.host.members).withdraw(CHANGES_MAX);
            let mut commands = Pipeline::with_capacity(groups.len() + 1);
            for group in &groups {
                self.add_discard(&mut commands, group);
            }
            if groups.is_empty() {
                commands.cmd("DEL").arg(&self.inbox).arg(&self.lease);
            }
            let answered = ask(connection, &commands).await;
            if groups.is_empty() || answered.is_err() {
                return;
            }
            self.host.metrics.operation(Op::Discard, Outcome::Ok).inc_by(groups.len() as u64);
        }
    }

    fn add_join(&self, commands: &mut Pipeline, group: &GroupName) {
        let key = self.common.keys.group(group.as_str());
        let member = self.node.member(group.as_str());
        commands.cmd("ZADD").arg(&key).arg(clock::text(self.common.clock.next())).arg(member);
        commands.cmd("EXPIRE").arg(&key).arg(self.common.group_expiry);
    }

    fn add_discard(&self, commands: &mut Pipeline, group: &GroupName) {
        let key = self.common.keys.group(group.as_str());
        commands.cmd("ZREM").arg(key).arg(self.node.member(group.as_str()));
    }

    /// Keeps the lease, renews the memberships, and notices when Redis does not answer or has forgotten us.
    async fn watch(&self, mut connection: MultiplexedConnection) -> End {
        let renew_every = RENEW_MAX.min(Duration::from_secs(self.common.group_expiry) / 4);
        let mut renewed_at = Instant::now();
        loop {
            time::sleep(PING_EVERY).await;
            let mut commands = Pipeline::with_capacity(2);
            commands.cmd("EXPIRE").arg(&self.lease).arg(self.common.lease);
            commands.cmd("ZCARD").arg(&self.inbox);
            match time::timeout(PING_MAX, connection.send_packed_commands(&commands, 0, 2)).await {
                Ok(Ok(answers)) => {
                    if let Some(Value::Int(waiting)) = answers.get(1) {
                        self.metrics.messages.set(*waiting);
                    }
                    match answers.first() {
                        Some(Value::ServerError(error)) => return End::Lost(error.to_string()),
                        Some(Value::Int(0)) => {
                            if let Err(reason) = self.remind(&mut connection).await {
                                return End::Lost(reason);
                            }
                            renewed_at = Instant::now();
                        }
                        _ => {}
                    }
                }
                Ok(Err(error)) => return End::Lost(error.to_string()),
                Err(_) => return End::Lost("Redis does not answer".to_owned()),
            }
            if renew_every <= renewed_at.elapsed() {
                renewed_at = Instant::now();
                lock(&self.host.members).renew();
                self.host.work.notify_one();
            }
        }
    }

    /// Redis has lost our lease: it was emptied, or we were away so long that others took us for dead.
    async fn remind(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        self.take_lease(connection).await?;
        let mut members = lock(&self.host.members);
        members.renew();
        let gap = members.wanted() != 0;
        drop(members);
        if gap {
            self.host.metrics.gaps.inc();
            warn!(shard = self.host.index, redis = %self.host.place, "Redis had lost our memberships, they are renewed");
        }
        self.host.work.notify_one();
        Ok(())
    }

    /// Takes messages out of the inbox, as many as there are, and hands them over.
    async fn read(&self, mut connection: MultiplexedConnection, epoch: u64) -> End {
        let mut way = Pop::Many;
        loop {
            let commands = way.commands(&self.inbox);
            let asked = connection.send_packed_commands(&commands, 0, 1);
            let answers = match time::timeout(POP_WAIT + POP_SPARE, asked).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => return End::Lost(error.to_string()),
                Err(_) => return End::Lost("Redis does not answer at the inbox".to_owned()),
            };
            let popped = match answers.into_iter().next() {
                Some(Value::ServerError(error)) if error.code() == "WRONGTYPE" => {
                    if let Err(reason) = self.clear_inbox(&mut connection).await {
                        return End::Lost(reason);
                    }
                    continue;
                }
                // Redis before 7 does not know the command.
                Some(Value::ServerError(_)) if way == Pop::Many => {
                    way = Pop::One;
                    continue;
                }
                Some(Value::ServerError(error)) => return End::Lost(error.to_string()),
                Some(answer) => messages(answer),
                None => Vec::new(),
            };
            way = match way {
                // Where one was there may be more.
                Pop::One if !popped.is_empty() => Pop::Rest,
                Pop::Rest if popped.len() < POP_MAX => Pop::One,
                way => way,
            };
            if popped.is_empty() {
                continue;
            }
            self.taken.notify_one();
            self.metrics.received.inc();
            for (member, sent_at) in popped {
                self.deliver(epoch, &member, sent_at);
            }
            // A full inbox must not keep the runtime from everything else.
            tokio::task::yield_now().await;
        }
    }

    /// Makes room for an inbox where somebody has put something else: nobody but us could, and all who send to us
    /// would fail for ever.
    async fn clear_inbox(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("EVAL").arg(CLEAR_INBOX).arg(1).arg(&self.inbox);
        match ask(connection, &commands).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(error.to_string()),
            cleared => {
                if cleared == Some(Value::Int(1)) {
                    self.host.all.dropped_decode.inc();
                    self.host.complain(&self.inbox, "it was not put into the inbox but in its place");
                }
                Ok(())
            }
        }
    }
}

/// How messages are taken out of the inbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pop {
    /// Many, and it waits for the first.
    Many,
    /// One, and it waits for it.
    One,
    /// Those that are there.
    Rest,
}

impl Pop {
    fn commands(self, inbox: &str) -> Pipeline {
        let mut commands = Pipeline::with_capacity(1);
        let wait = POP_WAIT.as_secs();
        match self {
            Self::Many => {
                let command = commands.cmd("BZMPOP").arg(wait).arg(1).arg(inbox);
                command.arg("MIN").arg("COUNT").arg(POP_MAX)
            }
            Self::One => commands.cmd("BZPOPMIN").arg(inbox).arg(wait),
            Self::Rest => commands.cmd("ZPOPMIN").arg(inbox).arg(POP_MAX),
        };
        commands
    }
}

/// The messages and their times in an answer to any of the commands: `[key, [[message, time]…]]`,
/// `[key, message, time]` or `[[message, time]…]`.
fn messages(answer: Value) -> Vec<(Vec<u8>, f64)> {
    fn pair(value: Value) -> Option<(Vec<u8>, f64)> {
        let Value::Array(pair) = value else { return None };
        match <[Value; 2]>::try_from(pair).ok()? {
            [Value::BulkString(member), time] => Some((member, seconds(&time)?)),
            _ => None,
        }
    }
    let Value::Array(items) = answer else { return Vec::new() };
    match items.as_slice() {
        [Value::BulkString(_), Value::BulkString(member), time] => {
            seconds(time).map(|time| (member.clone(), time)).into_iter().collect()
        }
        [Value::BulkString(_), Value::Array(pairs)] => pairs.iter().cloned().filter_map(pair).collect(),
        _ => items.into_iter().filter_map(pair).collect(),
    }
}

fn seconds(time: &Value) -> Option<f64> {
    match time {
        Value::Double(time) => Some(*time),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
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

/// Sends commands and waits for all answers.
async fn ask(connection: &mut MultiplexedConnection, commands: &Pipeline) -> Result<Vec<Value>, String> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let asked = connection.send_packed_commands(commands, 0, commands.len());
    match time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("Redis does not answer".to_owned()),
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
