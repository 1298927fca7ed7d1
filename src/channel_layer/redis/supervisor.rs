//! The tasks that keep the layers connected, one for each host.
//!
//! What connects a host is replaced as a whole when any part of it is lost. Each time has a number, its
//! epoch: what an old connection still says does not count.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{self, Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::channel_layer::redis::host::Host;
use crate::channel_layer::redis::way::Target;

/// At the stop, waiting messages may take this long.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// The pauses between attempts to connect grow from the first to the second, each shortened by up to a half
/// at random.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// A connection that lasted so long was a good one: after it the pauses begin small again.
const STEADY: Duration = Duration::from_secs(2);

/// What a layer does with one of its hosts.
pub(super) trait Shard: Send + Sync + 'static {
    /// All that connects it.
    type Connections: Send;

    fn host(&self) -> &Host;

    /// Connects to the server that was found. Whatever notices that a connection was lost cancels `lost`.
    fn connect(
        self: &Arc<Self>,
        target: &Target<'_>,
        epoch: u64,
        lost: &CancellationToken,
    ) -> impl Future<Output = Result<Self::Connections, String>> + Send;

    /// Uses the connections until they fail, or until everything is said at the stop. It may be dropped
    /// before that. `gap` is since when messages have been missed, until the host is up.
    fn serve(
        &self,
        connections: Self::Connections,
        epoch: u64,
        stop: &CancellationToken,
        gap: &mut Option<Instant>,
    ) -> impl Future<Output = End> + Send;
}

/// Why a connection ended.
pub(super) enum End {
    /// We were told to stop.
    Stopped,
    /// It is no good any more.
    Lost(String),
}

/// Keeps all hosts of a layer connected until the stop. Cancels `broken` when the task of one breaks.
pub(super) async fn run(shards: &[Arc<impl Shard>], stop: CancellationToken, broken: CancellationToken) {
    // A set aborts its tasks when this future is dropped.
    let mut tasks = JoinSet::new();
    for shard in shards {
        tasks.spawn(supervise(Arc::clone(shard), stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(panicked) = ended {
            error!(error = %panicked, "the task of a Redis host broke");
            broken.cancel();
        }
    }
}

async fn supervise(shard: Arc<impl Shard>, stop: CancellationToken) {
    let host = shard.host();
    let _down = DownAtEnd(host);
    tokio::select! {
        () = keep_connected(&shard, &stop) => {}
        () = host.expire() => {}
        () = host.retry_refused() => {}
    }
}

async fn keep_connected<S: Shard>(shard: &Arc<S>, stop: &CancellationToken) {
    let host = shard.host();
    let mut backoff = Backoff::new();
    let mut gap = None;
    for epoch in 1.. {
        let lost = CancellationToken::new();
        let connected = tokio::select! {
            () = stop.cancelled() => return,
            connected = connect(shard, epoch, &lost) => connected,
        };
        match connected {
            Ok((target, connections)) => {
                let since = Instant::now();
                host.begin(epoch);
                let end = tokio::select! {
                    biased;
                    () = lost.cancelled() => End::Lost("the connection was closed".to_owned()),
                    end = shard.serve(connections, epoch, stop, &mut gap) => end,
                    reason = host.way.leaves(&target) => End::Lost(reason.to_owned()),
                    () = async { stop.cancelled().await; time::sleep(FAREWELL_MAX).await } => End::Stopped,
                };
                host.give_up(&mut gap);
                match end {
                    End::Stopped => return,
                    End::Lost(reason) => host.lose(&reason),
                }
                backoff.lasted(since.elapsed());
            }
            Err(reason) => host.note_failure(&reason),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = time::sleep(backoff.pause()) => {}
        }
    }
}

async fn connect<'a, S: Shard>(
    shard: &'a Arc<S>,
    epoch: u64,
    lost: &CancellationToken,
) -> Result<(Target<'a>, S::Connections), String> {
    let target = shard.host().way.find().await?;
    match time::timeout(target.timeout(), shard.connect(&target, epoch, lost)).await {
        Ok(connected) => Ok((target, connected?)),
        Err(_) => Err("connecting took too long".to_owned()),
    }
}

/// The pauses between attempts to connect.
struct Backoff {
    pause_max: Duration,
}

impl Backoff {
    fn new() -> Self {
        Self { pause_max: BACKOFF.0 }
    }

    /// A connection ended that lasted so long.
    fn lasted(&mut self, time: Duration) {
        if STEADY < time {
            self.pause_max = BACKOFF.0;
        }
    }

    /// The next pause.
    fn pause(&mut self) -> Duration {
        let pause = self.pause_max.mul_f64(1.0 - fastrand::f64() / 2.0);
        self.pause_max = BACKOFF.1.min(self.pause_max * 2);
        pause
    }
}

/// However the task of a host ends, by a panic too, the host does not count as up any more.
struct DownAtEnd<'a>(&'a Host);

impl Drop for DownAtEnd<'_> {
    fn drop(&mut self) {
        self.0.set_down(if std::thread::panicking() { "its task broke" } else { "stopped" });
    }
}
