//! What is said on the connection to a host.
//!
//! One connection at a time, in the protocol RESP3, carries both directions; with a sharded cluster it is one
//! to each master. When it is lost, whatever it still says is dropped, and the next one subscribes to
//! everything that is wanted before it counts as up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, Value};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::channel_layer::metrics::Op;
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::connect::{Greeting, greeting};
use crate::channel_layer::redis::host::{
    ANSWER_MAX, BATCH_BYTES, CHANGES_MAX, Host, PING_EVERY, PING_MAX, lock,
};
use crate::channel_layer::redis::members::{Change, Confirmed};
use crate::channel_layer::redis::outbox::Settlement;
use crate::channel_layer::redis::pubsub::Shard;
use crate::channel_layer::redis::supervisor::{self, End};
use crate::channel_layer::redis::way::{Links, Target};
use crate::channel_layer::{Refusal, Sent};

impl supervisor::Shard for Shard {
    type Connections = Links;

    fn host(&self) -> &Host {
        &self.host
    }

    async fn connect(
        self: &Arc<Self>,
        target: &Target<'_>,
        epoch: u64,
        lost: &CancellationToken,
    ) -> Result<Links, String> {
        let on_push = || {
            let (shard, lost) = (Arc::clone(self), lost.clone());
            move |push: &PushInfo| shard.on_push(epoch, &lost, push)
        };
        target.open_links(on_push).await
    }

    async fn serve(&self, links: Links, _: u64, stop: &CancellationToken, gap: &mut Option<Instant>) -> End {
        tokio::select! {
            biased;
            end = self.write(&links, stop, gap) => end,
            end = self.watch(&links) => end,
        }
    }
}

impl Shard {
    /// Called for every push in the order of arrival.
    fn on_push(&self, epoch: u64, lost: &CancellationToken, push: &PushInfo) {
        self.hear();
        match (&push.kind, push.data.as_slice()) {
            (
                PushKind::Message | PushKind::SMessage,
                [Value::BulkString(channel), Value::BulkString(payload)],
            ) => {
                self.deliver(epoch, channel, payload);
            }
            (PushKind::PMessage, [_, Value::BulkString(channel), Value::BulkString(payload)]) => {
                self.direct(epoch, channel, payload);
            }
            (PushKind::PSubscribe, _) => {
                self.host.confirm(epoch, GroupName::OF_SOCKETS, Confirmed::Subscribed);
            }
            (PushKind::Subscribe | PushKind::SSubscribe, [Value::BulkString(channel), ..]) => {
                self.confirm(epoch, channel, Confirmed::Subscribed);
            }
            (PushKind::Unsubscribe, [Value::BulkString(channel), ..]) => {
                self.confirm(epoch, channel, Confirmed::Unsubscribed);
            }
            (PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                // Nobody asked: its slot has moved to another node.
                if !self.confirm(epoch, channel, Confirmed::Unsubscribed) {
                    lost.cancel();
                }
            }
            (PushKind::Disconnection, _) => lost.cancel(),
            (kind, _) => debug!(shard = self.host.index, ?kind, "ignored a push"),
        }
    }

    /// Sends what there is to send, one batch at a time, until the connection fails or everything is said at
    /// the stop.
    async fn write(&self, links: &Links, stop: &CancellationToken, gap: &mut Option<Instant>) -> End {
        let mut announced = false;
        loop {
            let turn = match time::timeout(ANSWER_MAX, self.turn(links, announced)).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(reason)) => return End::Lost(reason),
                Err(_) => return End::Lost("Redis does not answer".to_owned()),
            };
            if !announced && turn != Turn::MoreChanges {
                announced = true;
                self.host.set_up(gap.take());
            }
            if turn == Turn::Idle {
                if stop.is_cancelled() {
                    return End::Stopped;
                }
                tokio::select! {
                    () = self.host.work.notified() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// One batch: changes of memberships first, so that whoever joins and then sends hears itself.
    async fn turn(&self, links: &Links, announced: bool) -> Result<Turn, String> {
        let changes = lock(&self.host.members).take_changes(CHANGES_MAX);
        let more = changes.len() == CHANGES_MAX;
        // After a reconnect messages wait until every group is subscribed: their senders want to hear them.
        let batch = if announced || !more {
            lock(&self.host.outbox).take(BATCH_BYTES, usize::MAX)
        } else {
            Vec::new()
        };
        if changes.is_empty() && batch.is_empty() {
            return Ok(Turn::Idle);
        }
        let mut commands = Commands::new(links);
        for change in &changes {
            let keys = &self.codec.keys;
            match change {
                // Nobody leaves them again. Patterns are heard on any node.
                Change::Subscribe(group) if group.is_of_sockets() => {
                    commands.add(Some(0), "PSUBSCRIBE", &keys.sockets_pattern(), None);
                }
                Change::Subscribe(group) => {
                    commands.add_group("SUBSCRIBE", &keys.group_channel(group.as_str()), None);
                }
                Change::Unsubscribe(group) => {
                    commands.add_group("UNSUBSCRIBE", &keys.group_channel(group.as_str()), None);
                }
            }
        }
        for publish in &batch {
            match publish.from.op {
                Op::GroupSend => commands.add_group("PUBLISH", &publish.channel, Some(&publish.payload)),
                // Who is called by name listens to a pattern, or is in Python.
                _ => commands.add(Some(0), "PUBLISH", &publish.channel, Some(&publish.payload)),
            }
        }
        let sent: Vec<_> = batch.iter().map(|publish| publish.from.op).collect();
        drop(batch);
        let started_at = Instant::now();
        let answers = commands.ask().await?;
        let has_moved = answers.iter().any(is_of_another_node);
        let ops = [
            (Op::GroupSend, sent.contains(&Op::GroupSend)),
            (Op::Send, sent.contains(&Op::Send)),
            (Op::Add, changes.iter().any(|change| matches!(change, Change::Subscribe(_)))),
            (Op::Discard, changes.iter().any(|change| matches!(change, Change::Unsubscribe(_)))),
        ];
        for (op, _) in ops.into_iter().filter(|(_, present)| *present) {
            self.host.metrics.took(op, started_at.elapsed());
        }
        let mut answers = answers.iter();
        for (change, answer) in changes.iter().zip(&mut answers) {
            if let Value::ServerError(error) = answer {
                self.host.refuse_change(change, error);
            }
        }
        if !changes.is_empty() {
            self.host.show();
        }
        let taken = |subscribers| Settlement { sent: Some(Sent::Subscribers(subscribers)), refusal: None };
        self.host.settle(sent.into_iter().zip(answers).map(|(op, answer)| match answer {
            Value::ServerError(error) => {
                self.host.note_refusal(op, error);
                Settlement { sent: None, refusal: Some(Refusal::LayerDown) }
            }
            Value::Int(subscribers) => taken(u64::try_from(*subscribers).unwrap_or(0)),
            _ => taken(0),
        }));
        if has_moved {
            return Err("a slot of the cluster has moved".to_owned());
        }
        Ok(if more { Turn::MoreChanges } else { Turn::Done })
    }

    /// Asks for signs of life until there are none.
    async fn watch(&self, links: &Links) -> End {
        // Among several what one says is no sign of another.
        let alone = links.open.len() == 1;
        let watches = links.open.iter().map(|(_, link)| self.watch_one(link.commands.clone(), alone));
        let ended = watches.collect::<FuturesUnordered<_>>().next().await;
        ended.unwrap_or_else(|| End::Lost("there is no connection".to_owned()))
    }

    async fn watch_one(&self, mut connection: MultiplexedConnection, alone: bool) -> End {
        loop {
            time::sleep(PING_EVERY).await;
            let heard = self.heard.load(Ordering::Relaxed);
            match time::timeout(PING_MAX, connection.send_packed_command(&greeting())).await {
                // It still takes what is published, but nobody hears it any more.
                Ok(Ok(answer)) if Greeting::from(answer.clone()).is_lone_replica() => {
                    return End::Lost("it has become a replica".to_owned());
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return End::Lost(error.to_string()),
                // The answer stands in line behind messages: as long as they come, the peer lives.
                Err(_) if alone && heard != self.heard.load(Ordering::Relaxed) => {}
                Err(_) => return End::Lost("Redis does not answer".to_owned()),
            }
        }
    }
}

/// Commands for the connections of a host, and the order of their answers.
struct Commands<'a> {
    links: &'a Links,
    pipelines: Vec<Pipeline>,
    /// The connection that each command went to, if there is one.
    order: Vec<Option<usize>>,
}

impl<'a> Commands<'a> {
    fn new(links: &'a Links) -> Self {
        Self { links, pipelines: links.open.iter().map(|_| Pipeline::new()).collect(), order: Vec::new() }
    }

    /// For the channel of a group, on the node that has it.
    fn add_group(&mut self, name: &str, channel: &str, payload: Option<&[u8]>) {
        if self.links.are_sharded() {
            self.add(self.links.of(channel), &format!("S{name}"), channel, payload);
        } else {
            self.add(Some(0), name, channel, payload);
        }
    }

    fn add(&mut self, link: Option<usize>, name: &str, channel: &str, payload: Option<&[u8]>) {
        self.order.push(link);
        if let Some(pipeline) = link.and_then(|link| self.pipelines.get_mut(link)) {
            pipeline.cmd(name).arg(channel).arg(payload);
        }
    }

    /// The answers in the order of the commands.
    async fn ask(&self) -> Result<Vec<Value>, String> {
        let asked =
            self.pipelines.iter().zip(&self.links.open).map(|(commands, (_, connection))| async move {
                if commands.is_empty() {
                    return Ok(Vec::new());
                }
                connection.commands.clone().send_packed_commands(commands, 0, commands.len()).await
            });
        let mut answers = Vec::with_capacity(self.pipelines.len());
        for answer in join_all(asked).await {
            answers.push(answer.map_err(|error| error.to_string())?.into_iter());
        }
        let away = || redis::parse_redis_value(AWAY).unwrap_or(Value::Nil);
        let one = |link: &Option<usize>| match link.and_then(|link| answers.get_mut(link)) {
            Some(answers) => answers.next().unwrap_or(Value::Nil),
            None => away(),
        };
        Ok(self.order.iter().map(one).collect())
    }
}

/// What a cluster would say of a slot whose master cannot be reached.
const AWAY: &[u8] = b"-CLUSTERDOWN the master of this slot cannot be reached\r\n";

fn is_of_another_node(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "MOVED")
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
