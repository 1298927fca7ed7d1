//! The composition root: builds every part, starts it, and takes it down again.
//!
//! The data plane is workers, each a thread of its own. Everything else, the accept loops, the channel
//! layer's connection, the reload and the admin listener, is the control plane and runs where [`run`] does.

mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fmt, io};

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::channel_layer::{ChannelLayer, Inbox, LayerMetrics, WorkerId};
use crate::config::{Config, ListenerConfig, LogConfig};
use crate::listener;
use crate::listener::{
    AcceptLimits, CertificateStore, DescriptorLimit, HandedOver, ListenError, Listener, Policy, Tls, TlsError,
};
use crate::reload;
use crate::reload::{Assembly, AssemblyError, Origin, Reloader, Running};
use crate::request;
use crate::request::{Drain, Limits, Live, Service};
use crate::server::workers::{Workers, worker_count};
use crate::session;
use crate::session::WorkerInbox;
use crate::upstream;
use crate::upstream::Upstreams;

/// For the rest of the process to end, and for workers once they were told to drop everything.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Signals so shortly after the first are the same wish: timeout(1), for one, signals its child and the group.
const SAME_WISH: Duration = Duration::from_millis(200);

/// What the server starts with.
pub struct Start {
    /// The configuration, with what the command line puts in place of its own.
    pub config: Config,
    /// What the file itself asks for, to tell later what in it waits for the next start.
    pub running: Running,
    /// What it was read from.
    pub origin: Origin,
    /// Where it came from, to be watched; `None` for the built-in one.
    pub file: Option<PathBuf>,
    /// Puts the log settings in force.
    pub apply_log: Box<dyn Fn(LogConfig) + Send>,
    /// Told once, when everything listens.
    pub announce: Box<dyn FnOnce(&Addresses)>,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("file", &self.file)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The name of each listener and its URL; `http://unix:/path:/` for a UNIX socket, as nginx writes it.
    pub listeners: Vec<(String, String)>,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Why the server does not start, or does not go on.
#[derive(Debug, Error)]
pub enum StartError {
    /// The admin address cannot be listened on.
    #[error("the admin listener cannot listen on {address}")]
    Admin {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A part that should go on to the end has ended: our fault. The log says which.
    #[error("a part of the server has failed, the log says which")]
    Failed,
    /// The system does not give what every server needs.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A listener's address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A listener cannot speak TLS.
    #[error("listener `{listener}`")]
    Tls {
        /// The name of the listener.
        listener: String,
        /// Why not.
        source: TlsError,
    },
    /// A metric's name is taken: our fault.
    #[error("a metric cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// What the configuration asks for cannot be had.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
}

/// The signals that the process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// What every part counts, in one registry.
struct Metrics {
    registry: Registry,
    requests: Arc<request::Metrics>,
    sessions: Arc<session::Metrics>,
    upstreams: Arc<upstream::Metrics>,
    listeners: listener::Metrics,
    reload: reload::Metrics,
    layer: LayerMetrics,
    draining: IntGauge,
    drain_pending: IntGauge,
}

/// The tasks of the control plane, and whether anything has failed that should not.
struct Parts {
    tasks: TaskTracker,
    failed: CancellationToken,
}

/// Goes with a part of the server to its end, which is a failure before it was asked for.
struct Guard {
    part: String,
    asked: CancellationToken,
    failed: CancellationToken,
}

/// Runs the server until it is asked to stop, and drains it.
///
/// It also drains, without a grace, when a part of it fails: a worker, a listener, the channel layer, the
/// reload or the admin listener. What is left could not do without it, and a supervisor starts a whole one.
///
/// # Errors
///
/// Something that it needs to start is not to be had, or a part has failed.
#[expect(clippy::too_many_lines, reason = "one sequence, which reads best as one")]
pub async fn run(start: Start) -> Result<(), StartError> {
    let Start { config, running, origin, file, apply_log, announce } = start;
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let hup = signal(SignalKind::hangup())?;

    let metrics = Metrics::register()?;
    let files_max = raise_descriptor_limit();
    if file.is_some() {
        warn_of_few_descriptors(files_max, config.server.limits.connections);
    }

    // Everything is bound before anything runs, so that a taken port stops the start and nothing else.
    let admin = bind_admin(config.server.admin, file.is_none()).await?;
    let mut handed = HandedOver::from_env();
    let (mut listeners, mut tls) = (Vec::new(), Vec::new());
    for listener in &config.listeners {
        let settings = listener_settings(listener, &metrics.listeners)?;
        let handles = metrics.listeners.listener(&listener.name, settings.tls.is_some());
        tls.extend(settings.tls.clone());
        listeners.push(Listener::bind(settings, &mut handed, handles)?);
    }

    let count = worker_count(config.server.workers);
    let sessions = &metrics.sessions;
    let inboxes: Vec<_> =
        (0..count).map(|_| WorkerInbox::new(sessions.inbox_dropped(), sessions.direct_gone())).collect();
    let layer_inboxes = inboxes.iter().map(|inbox| Arc::clone(inbox) as Arc<dyn Inbox>).collect();
    let (layer, layer_task) =
        ChannelLayer::new(config.layer.to_channel_layer(), layer_inboxes, metrics.layer);

    let folder = file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    let descriptors = DescriptorLimit::new(files_max);
    let upstreams = Upstreams::new(metrics.upstreams, runtime::Handle::current(), descriptors);
    let requests = Arc::clone(&metrics.requests);
    let assembly = Assembly::new(requests, metrics.sessions, upstreams, layer.clone(), folder);
    let routes = config.routes.len();
    let (snapshot, pending) = assembly.snapshot(config, 1, &origin.digest)?;
    metrics.reload.started(&snapshot, routes);
    let live = Live::new(snapshot);
    drop(pending);
    let limits = Limits::new();

    let (accepting, draining, stop) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let parts = Parts { tasks: TaskTracker::new(), failed: CancellationToken::new() };

    let service = {
        let (live, requests) = (Arc::clone(&live), Arc::clone(&metrics.requests));
        move || Service::new(Arc::clone(&live), Arc::clone(&limits), Arc::clone(&requests))
    };
    let guard = |id: WorkerId| parts.guard(format!("worker {}", id.0), &draining);
    let mut workers = Workers::start(inboxes, &layer, service, guard).await?;
    parts.tasks.spawn(layer_task.run(stop.clone(), parts.failed.clone()));

    let addresses = Addresses {
        listeners: listeners
            .iter()
            .map(|one| {
                let scheme = if one.is_tls() { "https" } else { "http" };
                Ok((one.name().to_owned(), format!("{scheme}://{}/", one.bound()?)))
            })
            .collect::<io::Result<_>>()?,
        admin: admin.local_addr()?,
    };
    let loads: Arc<[Arc<AtomicUsize>]> = (0..count).map(|_| Arc::default()).collect();
    let policy = policy(&live, descriptors);
    for listener in listeners {
        let part = format!("listener {}", listener.name());
        let inboxes = workers.inboxes.clone();
        let accept = listener.run(Arc::clone(&loads), Arc::clone(&policy), move |worker, accepted| {
            if let Some(inbox) = inboxes.get(worker) {
                inbox.serve(accepted);
            }
        });
        let stopped = accepting.clone();
        parts.spawn(part, &accepting, async move {
            tokio::select! {
                Err(error) = accept => tracing::error!(%error, "a listener has failed"),
                () = stopped.cancelled() => (),
            }
        });
    }

    let status = match &file {
        Some(path) => {
            let reloader = Reloader::new(
                path.clone(),
                origin,
                running,
                Arc::clone(&live),
                assembly.clone(),
                tls,
                metrics.reload,
                apply_log,
            );
            let status = reloader.status();
            parts.spawn("the reload".to_owned(), &stop, reloader.run(hup, stop.clone()));
            status
        }
        None => Arc::default(),
    };
    let file = file.map(|path| path.display().to_string());
    let admin_page = Admin {
        registry: metrics.registry,
        live: Arc::clone(&live),
        assembly,
        status,
        layer,
        file,
        draining: draining.clone(),
        draining_gauge: metrics.draining,
        drain_pending: metrics.drain_pending,
    };
    parts.spawn("the admin listener".to_owned(), &stop, admin_page.run(admin, stop.clone()));
    announce(&addresses);

    let failed = tokio::select! {
        () = signals.wait() => false,
        () = parts.failed.cancelled() => true,
    };
    let Drain { grace, over } = live.load().drain;
    // Connections must not go to what does not work.
    let grace = if failed { Duration::ZERO } else { grace };
    tracing::info!(failed, grace_s = grace.as_secs(), over_s = over.as_secs(), "stopping");
    draining.cancel();
    let open = || loads.iter().map(|load| load.load(Ordering::Relaxed)).sum::<usize>();
    let clean = tokio::select! {
        clean = workers.drain(grace, over, &accepting) => {
            if !clean {
                tracing::warn!(connections = open(), "the drain ran out of time, what is open is dropped");
            }
            clean
        }
        () = signals.wait_again() => {
            tracing::warn!(connections = open(), "asked a second time: stopping at once");
            false
        }
    };
    accepting.cancel();
    if !clean {
        workers.stop().await;
    }
    stop.cancel();
    parts.tasks.close();
    if time::timeout(STOP_TIMEOUT, parts.tasks.wait()).await.is_err() {
        tracing::warn!("the control plane did not end in time");
    }
    tracing::info!("stopped");
    if failed { Err(StartError::Failed) } else { Ok(()) }
}

impl Metrics {
    fn register() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let info = IntGaugeVec::new(Opts::new("anteroom_build_info", "The version that runs"), &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(info))?;
        let draining = IntGauge::new("anteroom_draining", "Whether the process has been asked to stop")?;
        registry.register(Box::new(draining.clone()))?;
        let pending =
            Opts::new("anteroom_drain_pending_connections", "Sockets that the drain has still to close");
        let pending = IntGaugeVec::new(pending, &["reason"])?;
        let drain_pending = pending.with_label_values(&["shutdown"]);
        registry.register(Box::new(pending))?;
        Ok(Self {
            requests: Arc::new(request::Metrics::register(&registry)?),
            sessions: Arc::new(session::Metrics::register(&registry)?),
            upstreams: Arc::new(upstream::Metrics::register(&registry)?),
            listeners: listener::Metrics::register(&registry)?,
            reload: reload::Metrics::register(&registry)?,
            layer: LayerMetrics::register(&registry)?,
            draining,
            drain_pending,
            registry,
        })
    }
}

impl Signals {
    /// Waits for the next wish that the process stop. Cancel safe.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }

    /// Waits for another wish after the first, which was just now. Cancel safe.
    async fn wait_again(&mut self) {
        let again_at = Instant::now() + SAME_WISH;
        loop {
            self.wait().await;
            if again_at <= Instant::now() {
                return;
            }
        }
    }
}

impl Parts {
    /// Runs a part that ends once it is `asked` to.
    fn spawn(
        &self,
        part: String,
        asked: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = self.guard(part, asked);
        self.tasks.spawn(async move {
            work.await;
            drop(guard);
        });
    }

    fn guard(&self, part: String, asked: &CancellationToken) -> Guard {
        Guard { part, asked: asked.clone(), failed: self.failed.clone() }
    }
}

/// Also runs when the part ends by a panic.
impl Drop for Guard {
    fn drop(&mut self) {
        if !self.asked.is_cancelled() {
            tracing::error!(part = self.part, "a part of the server has failed");
            self.failed.cancel();
        }
    }
}

fn listener_settings(
    config: &ListenerConfig,
    metrics: &listener::Metrics,
) -> Result<listener::Settings, StartError> {
    let name: Arc<str> = config.name.as_str().into();
    let tls = if config.tls.is_empty() {
        None
    } else {
        let certificates = CertificateStore::new(Arc::clone(&name), config.tls.clone(), metrics);
        let tls = Tls::new(certificates, config.http2, config.client_auth.clone());
        Some(tls.map_err(|source| StartError::Tls { listener: config.name.clone(), source })?)
    };
    let (address, mode, proxy_protocol) = (config.address.clone(), config.mode, config.proxy_protocol);
    Ok(listener::Settings { name, address, mode, proxy_protocol, tls })
}

/// What listeners ask the snapshot about each connection.
fn policy(live: &Arc<Live>, descriptors: DescriptorLimit) -> Arc<Policy> {
    let (limits, trust) = (Arc::clone(live), Arc::clone(live));
    Policy::new(
        move || {
            let limits = limits.load().limits;
            // As many again may be on their way to a handshake, or plain requests.
            AcceptLimits {
                connections: limits.connections.saturating_mul(2),
                per_ip: limits.per_ip.saturating_mul(2),
                descriptors,
            }
        },
        move |peer| trust.load().rules.trusted_proxies().trusts(peer.into()),
    )
}

/// Listens on the admin address, or on a free port if that is taken and nobody chose it.
async fn bind_admin(address: SocketAddr, built_in: bool) -> Result<TcpListener, StartError> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if built_in && error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    };
    bound.map_err(|source| StartError::Admin { address, source })
}

/// Lets the process open as many descriptors as the system allows; says how many those are.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::Resource;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
        return limit.current;
    }
    limit.maximum
}

fn warn_of_few_descriptors(files_max: Option<u64>, connections: usize) {
    let wanted = DescriptorLimit::wanted(connections);
    if let Some(allowed) = files_max.filter(|&allowed| allowed < wanted) {
        tracing::warn!(
            allowed,
            wanted,
            "fewer files may be open than `limits.connections` needs; raise `ulimit -Hn`"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_before_it_is_asked_to_has_failed() {
        let asked = CancellationToken::new();
        asked.cancel();
        for (asked, panics, fails) in [
            (&CancellationToken::new(), false, true),
            (&CancellationToken::new(), true, true),
            (&asked, false, false),
            (&asked, true, false),
        ] {
            let parts = Parts { tasks: TaskTracker::new(), failed: CancellationToken::new() };
            parts.spawn("a task".to_owned(), asked, async move { assert!(!panics, "as it should") });
            parts.tasks.close();
            parts.tasks.wait().await;
            assert_eq!(parts.failed.is_cancelled(), fails);

            let parts = Parts { tasks: TaskTracker::new(), failed: CancellationToken::new() };
            let guard = parts.guard("a thread".to_owned(), asked);
            let ended = thread::spawn(move || {
                let _guard = guard;
                assert!(!panics, "as it should");
            });
            assert_eq!(ended.join().is_err(), panics);
            assert_eq!(parts.failed.is_cancelled(), fails);
        }
    }
}
