//! The connections to a host, and the lease that is kept over them.
//!
//! There are two at a time: one for commands (`writer`) and one that waits at the inbox (`reader`). When either
//! is lost both are replaced, and every membership that is wanted is told to Redis again before the host counts
//! as up.

use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushKind, Value};
use tokio::time::{self, Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::channel_layer::metrics::{Op, Outcome};
use crate::channel_layer::name::GroupName;
use crate::channel_layer::redis::connect::Connection;
use crate::channel_layer::redis::core::{Shard, clock};
use crate::channel_layer::redis::host::{ANSWER_MAX, CHANGES_MAX, Host, PING_EVERY, PING_MAX, lock};
use crate::channel_layer::redis::supervisor::{self, End};
use crate::channel_layer::redis::way::Target;

/// Memberships are renewed this often at least, for a group may have been evicted or deleted.
const RENEW_MAX: Duration = Duration::from_mins(10);

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
    pub(super) async fn take_lease(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("SET").arg(&self.lease).arg(1).arg("EX").arg(self.common.lease);
        match ask(connection, &commands).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Ends all memberships. Whatever fails here expires.
    pub(super) async fn withdraw(&self, connection: &mut MultiplexedConnection) {
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

    pub(super) fn add_join(&self, commands: &mut Pipeline, group: &GroupName) {
        let key = self.common.keys.group(group.as_str());
        let member = self.node.member(group.as_str());
        commands.cmd("ZADD").arg(&key).arg(clock::text(self.common.clock.next())).arg(member);
        commands.cmd("EXPIRE").arg(&key).arg(self.common.group_expiry);
    }

    pub(super) fn add_discard(&self, commands: &mut Pipeline, group: &GroupName) {
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
}

/// Sends commands and waits for all answers.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
) -> Result<Vec<Value>, String> {
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
