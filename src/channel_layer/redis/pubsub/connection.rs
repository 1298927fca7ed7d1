//! The task that keeps a connection to a host.
//!
//! One connection at a time, in the protocol RESP3, carries both directions. Each has a number, its epoch;
//! when it is lost, whatever it still says is dropped, and the next one subscribes to everything that is
//! wanted before it counts as up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, RedisError, ServerError, Value,
};
use tokio::time::{self, Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::channel_layer::Refusal;
use crate::channel_layer::metrics::{Op, Outcome};
use crate::channel_layer::redis::Secret;
use crate::channel_layer::redis::pubsub::members::{Change, Confirmed};
use crate::channel_layer::redis::pubsub::outbox::Settled;
use crate::channel_layer::redis::pubsub::{Shard, lock};

/// Connecting and logging in may take this long.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A batch of commands may take this long to be answered.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The pause between two signs of life asked for. A peer that is frozen gives no error.
const PING_EVERY: Duration = Duration::from_secs(1);
/// An answer to PING may take this long.
const PING_MAX: Duration = Duration::from_millis(500);
/// So many unanswered PINGs in a row end a connection.
const PINGS_MISSED_MAX: u32 = 2;
/// The pauses between attempts to connect grow from the first to the second, each shortened by up to a half
/// at random.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// A connection that lasted so long was a good one: after it the pauses begin small again.
const STEADY: Duration = Duration::from_secs(2);
/// Changes of memberships in one batch.
const CHANGES_MAX: usize = 512;
/// Bytes of messages in one batch.
const BATCH_BYTES: usize = 256 * 1024;
/// A subscription that Redis refused is asked for again after this, at the latest. Somebody has to allow it.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// So many kinds of refusals are logged for one connection.
const REFUSALS_MAX: usize = 16;
/// At the stop, waiting messages may take this long.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Why a connection ended.
enum End {
    /// We were told to stop.
    Stopped,
    /// It is no good any more.
    Lost(String),
}

impl Shard {
    /// Keeps a connection until the stop.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let _down = DownAtEnd(&self);
        tokio::select! {
            () = self.keep_connected(&stop) => {}
            () = self.expire() => {}
            () = self.retry_refused() => {}
        }
    }

    async fn keep_connected(self: &Arc<Self>, stop: &CancellationToken) {
        let mut pause_max = BACKOFF.0;
        let mut gap = None;
        for epoch in 1.. {
            let lost = CancellationToken::new();
            let connected = tokio::select! {
                () = stop.cancelled() => return,
                connected = time::timeout(CONNECT_MAX, self.connect(epoch, &lost)) => connected,
            };
            match connected {
                Ok(Ok(connection)) => {
                    let since = Instant::now();
                    match self.serve(connection, epoch, &lost, stop, &mut gap).await {
                        End::Stopped => return,
                        End::Lost(reason) => {
                            warn!(shard = self.index, redis = %self.url, reason, "lost the channel layer");
                            self.set_down(&reason);
                        }
                    }
                    if STEADY < since.elapsed() {
                        pause_max = BACKOFF.0;
                    }
                }
                Ok(Err(error)) => self.note_failure(&error.to_string()),
                Err(_) => self.note_failure("connecting took too long"),
            }
            let pause = pause_max.mul_f64(1.0 - fastrand::f64() / 2.0);
            pause_max = BACKOFF.1.min(pause_max * 2);
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(pause) => {}
            }
        }
    }

    async fn connect(
        self: &Arc<Self>,
        epoch: u64,
        lost: &CancellationToken,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(self.url.database.into())
            .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.url.user {
            login = login.set_username(user);
        }
        if let Some(password) = self.url.password.as_ref().map(Secret::reveal) {
            login = login.set_password(password);
        }
        let place = ConnectionAddr::Tcp(self.url.host.clone(), self.url.port)
            .into_connection_info()?
            .set_redis_settings(login)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        // Every wait has its limit here, where it is known what it means.
        let (shard, lost) = (Arc::clone(self), lost.clone());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                shard.on_push(epoch, &lost, &push);
                Ok::<_, std::convert::Infallible>(())
            });
        Client::open(place)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Called for every push in the order of arrival. The task of the connection waits meanwhile.
    fn on_push(&self, epoch: u64, lost: &CancellationToken, push: &PushInfo) {
        self.hear();
        match (&push.kind, push.data.as_slice()) {
            (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) => {
                self.deliver(epoch, channel, payload);
            }
            (PushKind::Subscribe, [Value::BulkString(channel), ..]) => {
                self.confirm(epoch, channel, Confirmed::Subscribed);
            }
            (PushKind::Unsubscribe, [Value::BulkString(channel), ..]) => {
                self.confirm(epoch, channel, Confirmed::Unsubscribed);
            }
            (PushKind::Disconnection, _) => lost.cancel(),
            (kind, _) => debug!(shard = self.index, ?kind, "ignored a push"),
        }
    }

    /// Uses a connection until its end. `gap` is since when messages have been missed.
    async fn serve(
        &self,
        connection: MultiplexedConnection,
        epoch: u64,
        lost: &CancellationToken,
        stop: &CancellationToken,
        gap: &mut Option<Instant>,
    ) -> End {
        lock(&self.members).connect(epoch);
        lock(&self.status).refusals.clear();
        let end = tokio::select! {
            biased;
            () = lost.cancelled() => End::Lost("the connection was closed".to_owned()),
            end = self.write(connection.clone(), stop, gap) => end,
            end = self.watch(connection.clone()) => end,
            () = async { stop.cancelled().await; time::sleep(FAREWELL_MAX).await } => End::Stopped,
        };
        let loss = lock(&self.members).lose();
        self.metrics.operation(Op::Add, Outcome::Error).inc_by(loss.unconfirmed);
        if loss.gap {
            gap.get_or_insert_with(Instant::now);
        }
        // Nobody knows whether these got through: sending them again could deliver them twice.
        let unknown = lock(&self.outbox).settle();
        self.refuse_settled(unknown, Refusal::LayerDown);
        end
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
                self.set_up(gap.take());
            }
            if turn == Turn::Idle {
                if stop.is_cancelled() {
                    return End::Stopped;
                }
                tokio::select! {
                    () = self.work.notified() => {}
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
        let changes = lock(&self.members).take_changes(CHANGES_MAX);
        let more = changes.len() == CHANGES_MAX;
        // After a reconnect messages wait until every group is subscribed: their senders want to hear them.
        let batch = if announced || !more { lock(&self.outbox).take(BATCH_BYTES) } else { Vec::new() };
        if changes.is_empty() && batch.is_empty() {
            return Ok(Turn::Idle);
        }
        let count = changes.len() + batch.len();
        let mut commands = Pipeline::with_capacity(count);
        for change in &changes {
            let (command, group) = match change {
                Change::Subscribe(group) => ("SUBSCRIBE", group),
                Change::Unsubscribe(group) => ("UNSUBSCRIBE", group),
            };
            commands.cmd(command).arg(self.codec.keys.group_channel(group.as_str()));
        }
        for publish in &batch {
            commands.cmd("PUBLISH").arg(&publish.channel).arg(&publish.payload);
        }
        let publishes = !batch.is_empty();
        drop(batch);
        let started_at = Instant::now();
        let answers = connection.send_packed_commands(&commands, 0, count).await?;
        let ops = [
            (Op::Send, publishes),
            (Op::Add, changes.iter().any(|change| matches!(change, Change::Subscribe(_)))),
            (Op::Discard, changes.iter().any(|change| matches!(change, Change::Unsubscribe(_)))),
        ];
        for (op, _) in ops.into_iter().filter(|(_, present)| *present) {
            self.metrics.took(op, started_at.elapsed());
        }
        let mut answers = answers.iter();
        for (change, answer) in changes.iter().zip(&mut answers) {
            if let Value::ServerError(error) = answer {
                let op = match change {
                    Change::Subscribe(_) => Op::Add,
                    Change::Unsubscribe(_) => Op::Discard,
                };
                lock(&self.members).refuse(change);
                self.note_refusal(op, error);
                self.metrics.operation(op, Outcome::Error).inc();
            }
        }
        if !changes.is_empty() {
            self.show();
        }
        let settled = lock(&self.outbox).settle();
        self.all.publish_queue_bytes.sub(settled.bytes);
        let mut refused = Vec::new();
        for (ticket, answer) in settled.tickets.into_iter().zip(answers) {
            if let Value::ServerError(error) = answer {
                self.note_refusal(Op::Send, error);
                refused.push(ticket);
            } else {
                self.metrics.operation(Op::Send, Outcome::Ok).inc();
            }
        }
        self.refuse(refused, Refusal::LayerDown);
        Ok(if more { Turn::MoreChanges } else { Turn::Done })
    }

    /// Asks for signs of life until there are none.
    async fn watch(&self, mut connection: MultiplexedConnection) -> End {
        let mut missed = 0;
        loop {
            time::sleep(PING_EVERY).await;
            let heard = self.heard.load(Ordering::Relaxed);
            match time::timeout(PING_MAX, connection.send_packed_command(&redis::cmd("PING"))).await {
                Ok(Ok(_)) => missed = 0,
                Ok(Err(error)) => return End::Lost(error.to_string()),
                // The answer stands in line behind messages: as long as they come, the peer lives.
                Err(_) if heard != self.heard.load(Ordering::Relaxed) => missed = 0,
                Err(_) => missed += 1,
            }
            if PINGS_MISSED_MAX <= missed {
                return End::Lost("Redis does not answer".to_owned());
            }
        }
    }

    /// Gives up what waits too long, whether there is a connection or not.
    async fn expire(&self) {
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
    async fn retry_refused(&self) {
        loop {
            time::sleep(REFUSED_RETRY).await;
            if lock(&self.members).retry() {
                self.work.notify_one();
            }
        }
    }

    fn refuse_settled(&self, settled: Settled, refusal: Refusal) {
        self.all.publish_queue_bytes.sub(settled.bytes);
        self.refuse(settled.tickets, refusal);
    }

    fn set_up(&self, gap: Option<Instant>) {
        let mut status = lock(&self.status);
        let again = std::mem::replace(&mut status.seen, true);
        status.up = true;
        status.error = None;
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
                redis = %self.url,
                seconds,
                "the channel layer is up again, what was sent meanwhile is missed",
            );
        } else {
            info!(shard = self.index, redis = %self.url, "the channel layer is up");
        }
    }

    fn set_down(&self, reason: &str) {
        let mut status = lock(&self.status);
        status.up = false;
        status.error = Some(reason.to_owned());
        drop(status);
        self.show();
    }

    /// Notes that connecting failed. In the log it stands once for each new reason.
    fn note_failure(&self, reason: &str) {
        let known = lock(&self.status).error.replace(reason.to_owned());
        if known.as_deref() != Some(reason) {
            warn!(shard = self.index, redis = %self.url, reason, "cannot reach the channel layer");
        }
    }

    /// Notes that Redis refused a command. In the log it stands once for each kind of command and error, for
    /// the text of an error may name the channel.
    fn note_refusal(&self, op: Op, error: &ServerError) {
        let reason = error.to_string();
        let mut status = lock(&self.status);
        if matches!(op, Op::Add) {
            status.refused_subscribe = Some(reason.clone());
        }
        let new = !status.refusals.iter().any(|(known, code)| *known == op && code == error.code());
        if new && status.refusals.len() < REFUSALS_MAX {
            status.refusals.push((op, error.code().to_owned()));
            drop(status);
            let command = op.label();
            warn!(shard = self.index, redis = %self.url, command, reason, "the channel layer refused a command");
        }
    }
}

/// However the task of a host ends, by a panic too, the host does not count as up any more.
struct DownAtEnd<'a>(&'a Shard);

impl Drop for DownAtEnd<'_> {
    fn drop(&mut self) {
        self.0.set_down(if std::thread::panicking() { "its task broke" } else { "stopped" });
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
