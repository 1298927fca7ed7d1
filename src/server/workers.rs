//! The threads of the data plane, seen from the control plane.

use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::runtime::LocalOptions;
use tokio::sync::oneshot;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::channel_layer::{ChannelLayer, WorkerId};
use crate::request::Service;
use crate::server::STOP_TIMEOUT;
use crate::session::{Worker, WorkerInbox};

/// After the last close of a drain was sent, for clients to answer it, and some to spare.
const DRAIN_MARGIN: Duration = Duration::from_secs(6);
/// Tasks that a worker runs before it looks again at what has come in. Each look is a call of the system, and what was
/// said since the last one leaves in one write for each socket.
const TASKS_A_LOOK: u32 = 256;

/// The workers that run.
pub(super) struct Workers {
    /// One each.
    pub(super) inboxes: Vec<Arc<WorkerInbox>>,
    /// Each resolves when its thread has ended.
    ended: Vec<oneshot::Receiver<()>>,
}

impl Workers {
    /// Starts one for each inbox. What `guard` gives is dropped with the last of its thread.
    ///
    /// # Errors
    ///
    /// The system gives no thread, or no way to watch sockets.
    pub(super) async fn start<G: Send + 'static>(
        inboxes: Vec<Arc<WorkerInbox>>,
        layer: &ChannelLayer,
        service: impl Fn() -> Service + Clone + Send + 'static,
        guard: impl Fn(WorkerId) -> G,
    ) -> io::Result<Self> {
        let mut ended = Vec::new();
        for (at, inbox) in inboxes.iter().enumerate() {
            let id = WorkerId(at);
            ended.push(spawn(id, layer.clone(), Arc::clone(inbox), service.clone(), guard(id)).await?);
        }
        Ok(Self { inboxes, ended })
    }

    /// Drains every worker; false if some did not end in time.
    pub(super) async fn drain(
        &mut self,
        grace: Duration,
        over: Duration,
        accepting: &CancellationToken,
    ) -> bool {
        for inbox in &self.inboxes {
            inbox.drain(grace, over);
        }
        // Until load balancers have noticed, new connections are answered, with 503 for sockets.
        time::sleep(grace).await;
        accepting.cancel();
        for inbox in &self.inboxes {
            inbox.finish();
        }
        time::timeout(over + DRAIN_MARGIN, self.ended()).await.is_ok()
    }

    /// Ends every worker now.
    pub(super) async fn stop(&mut self) {
        for inbox in &self.inboxes {
            inbox.stop();
        }
        if time::timeout(STOP_TIMEOUT, self.ended()).await.is_err() {
            tracing::error!("a worker did not end in time");
        }
    }

    /// Waits until every thread has ended. Cancel safe.
    async fn ended(&mut self) {
        while let Some(ended) = self.ended.last_mut() {
            // An error says that the thread ended by a panic.
            if ended.await.is_err() {
                tracing::error!("a worker has failed");
            }
            self.ended.pop();
        }
    }
}

/// As many as processor affinity and cgroup allow, unless the configuration says otherwise.
pub(super) fn worker_count(configured: Option<NonZeroUsize>) -> usize {
    configured.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// Starts a worker on a thread of its own. Its runtime never leaves that thread, so it begins there.
async fn spawn<G: Send + 'static>(
    id: WorkerId,
    layer: ChannelLayer,
    inbox: Arc<WorkerInbox>,
    service: impl FnOnce() -> Service + Send + 'static,
    guard: G,
) -> io::Result<oneshot::Receiver<()>> {
    let (begun, beginning) = oneshot::channel();
    let (ending, ended) = oneshot::channel();
    let body = move || {
        // Of this function, so that it is dropped last, and by a panic too.
        let _guard = guard;
        let mut builder = runtime::Builder::new_current_thread();
        builder.enable_all().event_interval(TASKS_A_LOOK);
        let runtime = match builder.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return begun.send(Err(error)).unwrap_or_default(),
        };
        // Whoever started it waits for this.
        begun.send(Ok(())).unwrap_or_default();
        runtime.block_on(async move {
            let worker: Rc<Worker> = Worker::new(id, layer, inbox);
            let running = tokio::task::spawn_local(worker.run(service()));
            if let Err(error) = running.await {
                tracing::error!(worker = id.0, %error, "a worker has failed");
            }
        });
        // What is still open ends with the tasks.
        drop(runtime);
        ending.send(()).unwrap_or_default();
    };
    thread::Builder::new().name(format!("worker-{}", id.0)).spawn(body)?;
    beginning.await.map_err(io::Error::other)??;
    Ok(ended)
}
