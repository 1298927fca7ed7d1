//! The jobs, and how one is done on one server.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::audience::{Audience, text_of};
use crate::support::report::{Column, Figures, percentiles};
use crate::target::{Asgi, Layer, PATH, Target};

/// How long a message may take to reach all sockets before the run is given up.
const MESSAGE_MAX: Duration = Duration::from_secs(30);
/// How long all sockets get to show that they have joined, and how long for one message.
const JOIN_MAX: Duration = Duration::from_mins(1);
const PROBE_MAX: Duration = Duration::from_secs(1);

/// All of one `group_send`.
const BROADCAST: &[Column] = &[
    Column("cpu_us", "server CPU us", 0),
    Column("redis_cpu_us", "Redis CPU us", 0),
    Column("sender_cpu_us", "Django CPU us", 0),
    // From the call to the last socket.
    Column("p50_ms", "p50 ms", 1),
    Column("p99_ms", "p99 ms", 1),
    Column("redis_commands", "Redis commands", 1),
    Column("redis_messages", "of them ZADD or PUBLISH", 2),
    Column("redis_bytes_in", "bytes to Redis", 0),
    Column("redis_bytes_out", "bytes from Redis", 0),
];

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) layer: Layer,
    /// What holds the sockets beside anteroom.
    pub(crate) asgi: Asgi,
    members: usize,
    warm_up: u64,
    messages: u64,
}

/// All jobs, in the order in which they are done.
pub(crate) fn all() -> Vec<Job> {
    let job = |name, about, layer, asgi| Job {
        name,
        about,
        layer,
        asgi,
        members: 1_000,
        warm_up: 20,
        messages: 100,
    };
    vec![
        job("core-daphne", "channels_redis.core, Daphne", Layer::Core, Asgi::Daphne),
        job("core-uvicorn", "channels_redis.core, Uvicorn", Layer::Core, Asgi::Uvicorn),
        job("pubsub-daphne", "channels_redis.pubsub, Daphne", Layer::Pubsub, Asgi::Daphne),
        job("pubsub-uvicorn", "channels_redis.pubsub, Uvicorn", Layer::Pubsub, Asgi::Uvicorn),
    ]
}

impl Job {
    /// The same job so small that it shows only that all parts work.
    pub(crate) fn smoke(mut self) -> Self {
        (self.members, self.warm_up, self.messages) = (20, 1, 5);
        self
    }

    /// Does the job on a server that was started for it.
    pub(crate) fn run(&self, target: &mut Target) -> Result<Figures> {
        let mut audience = Audience::open(&target.endpoint, PATH, self.members)?;
        let mut number = 0;
        let deadline = Instant::now() + JOIN_MAX;
        loop {
            target.sender.send(&text_of(number))?;
            target.sender.wait()?;
            let heard = audience.hear(number, PROBE_MAX)?;
            number += 1;
            if heard == self.members {
                break;
            }
            ensure!(Instant::now() < deadline, "{heard} of {} have joined within {JOIN_MAX:?}", self.members);
        }
        let mut broadcast = |target: &mut Target| -> Result<u32> {
            let start = Instant::now();
            target.sender.send(&text_of(number))?;
            let heard = audience.hear(number, MESSAGE_MAX)?;
            let elapsed = start.elapsed();
            ensure!(heard == self.members, "{heard} of {} within {MESSAGE_MAX:?}", self.members);
            target.sender.wait()?;
            number += 1;
            Ok(u32::try_from(elapsed.as_micros())?)
        };
        for _ in 0..self.warm_up {
            broadcast(target)?;
        }
        let before = target.usage()?;
        target.redis.reset()?;
        let times = (0..self.messages).map(|_| broadcast(target)).collect::<Result<Vec<_>>>()?;
        let after = target.usage()?;
        let redis = target.redis.traffic()?.per(self.messages);
        audience.finish()?;
        let cpu = after.iter().zip(&before).map(|(after, before)| after.since(before));
        let cpu = cpu.map(|used| used.as_secs_f64() * 1e6 / self.messages as f64);
        Ok(Figures::new(BROADCAST, cpu.chain(percentiles(times)).chain(redis).collect()))
    }
}
