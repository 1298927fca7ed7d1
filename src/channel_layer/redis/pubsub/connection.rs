//! What is said on the connection to a host.
//!
//! One connection at a time, in the protocol RESP3, carries both directions. When it is lost, whatever it
//! still says is dropped, and the next one subscribes to everything that is wanted before it counts as up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, RedisError, Value};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::channel_layer::metrics::Op;
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::connect::{Connection, Greeting, greeting};
use crate::channel_layer::redis::host::{
    ANSWER_MAX, BATCH_BYTES, CHANGES_MAX, Host, PING_EVERY, PING_MAX, lock,
};
use crate::channel_layer::redis::members::{Change, Confirmed};
use crate::channel_layer::redis::pubsub::Shard;
use crate::channel_layer::redis::supervisor::{self, End};
use crate::channel_layer::redis::way::Target;
use crate::channel_layer::{Refusal, Sent};

impl supervisor::Shard for Shard {
    type Connections = Connection;

    fn host(&self) -> &Host {
        &self.host
    }

    async fn connect(
        self: &Arc<Self>,
        target: &Target<'_>,
        epoch: u64,
        lost: &CancellationToken,
    ) -> Result<Connection, String> {
        let (shard, lost) = (Arc::clone(self), lost.clone());
        target.open(move |push| shard.on_push(epoch, &lost, push)).await
    }

    async fn serve(
        &self,
        connection: Connection,
        _: u64,
        stop: &CancellationToken,
        gap: &mut Option<Instant>,
    ) -> End {
        tokio::select! {
            biased;
            end = self.write(connection.commands.clone(), stop, gap) => end,
            end = self.watch(connection.commands.clone()) => end,
        }
    }
}

impl Shard {
    /// Called for every push in the order of arrival.
    fn on_push(&self, epoch: u64, lost: &CancellationToken, push: &PushInfo) {
        self.hear();
        match (&push.kind, push.data.as_slice()) {
            (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) => {
                self.deliver(epoch, channel, payload);
            }
            (PushKind::PMessage, [_, Value::BulkString(channel), Value::BulkString(payload)]) => {
                self.direct(epoch, channel, payload);
            }
            (PushKind::PSubscribe, _) => {
                self.host.confirm(epoch, GroupName::OF_SOCKETS, Confirmed::Subscribed);
            }
            (PushKind::Subscribe, [Value::BulkString(channel), ..]) => {
                self.confirm(epoch, channel, Confirmed::Subscribed);
            }
            (PushKind::Unsubscribe, [Value::BulkString(channel), ..]) => {
                self.confirm(epoch, channel, Confirmed::Unsubscribed);
            }
            (PushKind::Disconnection, _) => lost.cancel(),
            (kind, _) => debug!(shard = self.host.index, ?kind, "ignored a push"),
        }
    }

    /// Sends what there is to send, one batch at a time, until the connection fails or everything is said at
    /// the stop.
    async fn write(
        &self,
        mut connection: MultiplexedConnection,
        stop: &CancellationToken,
        gap: &mut Option<Instant>,
    ) -> End {
        let mut announced = false;
        loop {
            let turn = match time::timeout(ANSWER_MAX, self.turn(&mut connection, announced)).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(error)) => return End::Lost(error.to_string()),
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
    async fn turn(
        &self,
        connection: &mut MultiplexedConnection,
        announced: bool,
    ) -> Result<Turn, RedisError> {
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
        let count = changes.len() + batch.len();
        let mut commands = Pipeline::with_capacity(count);
        for change in &changes {
            let keys = &self.codec.keys;
            match change {
                // Nobody leaves them again.
                Change::Subscribe(group) if group.is_of_sockets() => {
                    commands.cmd("PSUBSCRIBE").arg(keys.sockets_pattern())
                }
                Change::Subscribe(group) => commands.cmd("SUBSCRIBE").arg(keys.group_channel(group.as_str())),
                Change::Unsubscribe(group) => {
                    commands.cmd("UNSUBSCRIBE").arg(keys.group_channel(group.as_str()))
                }
            };
        }
        for publish in &batch {
            commands.cmd("PUBLISH").arg(&publish.channel).arg(&publish.payload);
        }
        let sent: Vec<_> = batch.iter().map(|publish| publish.from.op).collect();
        drop(batch);
        let started_at = Instant::now();
        let answers = connection.send_packed_commands(&commands, 0, count).await?;
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
        self.host.settle(sent.into_iter().zip(answers).map(|(op, answer)| match answer {
            Value::ServerError(error) => {
                self.host.note_refusal(op, error);
                Err(Refusal::LayerDown)
            }
            Value::Int(subscribers) => Ok(Sent::Subscribers(u64::try_from(*subscribers).unwrap_or(0))),
            _ => Ok(Sent::Subscribers(0)),
        }));
        Ok(if more { Turn::MoreChanges } else { Turn::Done })
    }

    /// Asks for signs of life until there are none.
    async fn watch(&self, mut connection: MultiplexedConnection) -> End {
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
                Err(_) if heard != self.heard.load(Ordering::Relaxed) => {}
                Err(_) => return End::Lost("Redis does not answer".to_owned()),
            }
        }
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
