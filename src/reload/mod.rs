//! The configuration file in force: read, compiled and put in place of the last one while the server runs.
//!
//! A file that cannot be used changes nothing but a gauge and the log; the next good one is taken.

mod assemble;
mod certificates;
mod look;
mod metrics;
mod read;
mod watch;

pub use assemble::{Assembly, AssemblyError, Gone, Pending};
pub use metrics::Metrics;
pub use read::{FileSecrets, Origin, ReadError, digest, read};

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::Signal;
use tokio::time;
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::config;
use crate::config::{Code, Config, Diagnostics, ListenerConfig, LogConfig, ReadFiles};
use crate::listener::Tls;
use crate::reload::certificates::Certificates;
use crate::reload::look::{Looks, Unanswered};
use crate::reload::watch::Watch;
use crate::request::{Live, Snapshot};

/// Quiet after the last sign of a change, before the file is read.
const QUIET: Duration = Duration::from_millis(75);
/// The longest that a file which keeps changing is left unread.
const UNREAD_MAX: Duration = Duration::from_secs(1);
/// A file that cannot be used is read again after this, for it may have been half written.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// How often the file's metadata is looked at, for file systems that send no events.
const POLL: Duration = Duration::from_secs(1);

/// Watches one file and puts in force what it says.
pub struct Reloader {
    path: PathBuf,
    assembly: Assembly,
    live: Arc<Live>,
    metrics: Metrics,
    status: Arc<Status>,
    /// What cannot change while the process runs.
    running: Running,
    apply_log: Box<dyn Fn(LogConfig) + Send>,
    /// Of the content last accepted or rejected.
    seen: String,
    /// What the configuration in force has from other files.
    files: ReadFiles,
    /// The looks at those.
    others: Looks<Option<String>>,
    certificates: Certificates,
    /// Whether the file is rejected for what stands in another one.
    waits_for_others: bool,
}

/// What the process was started with and keeps.
#[derive(Debug)]
pub struct Running {
    /// The admin address.
    pub admin: std::net::SocketAddr,
    /// How many workers were asked for.
    pub workers: Option<std::num::NonZeroUsize>,
    /// The listeners, and whether each speaks TLS.
    pub listeners: Vec<(ListenerConfig, bool)>,
    /// The channel layer.
    pub layer: config::LayerConfig,
}

impl Running {
    /// What a configuration starts with.
    pub fn of(config: &Config) -> Self {
        Self {
            admin: config.server.admin,
            workers: config.server.workers,
            listeners: config.listeners.iter().map(fixed).collect(),
            layer: config.layer.clone(),
        }
    }

    /// The names of the settings in which what is asked for differs from what runs.
    fn differences(&self, asked: &Self) -> Vec<&'static str> {
        let differences = [
            ("server.admin", self.admin != asked.admin),
            ("server.workers", self.workers != asked.workers),
            ("listener", self.listeners != asked.listeners),
            ("layer", self.layer != asked.layer),
        ];
        differences.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// What of a listener takes a restart: all but which certificates it has, and whose it asks clients for.
fn fixed(listener: &ListenerConfig) -> (ListenerConfig, bool) {
    (ListenerConfig { tls: Vec::new(), client_auth: None, ..listener.clone() }, !listener.tls.is_empty())
}

/// What became of the last reload, for the admin page.
#[derive(Debug, Default)]
pub struct Status(Mutex<Last>);

/// A reload, as the admin page shows it.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// When it was, as RFC 3339 writes it, in UTC.
    pub at: Option<String>,
    /// Why the file is not in force, with all that is wrong with it; `None` if it is.
    pub error: Option<serde_json::Value>,
    /// Settings of the file in force that take effect with the next start.
    pub restart_pending: Vec<&'static str>,
    /// The certificates whose files have changed to what cannot be used, so that the last ones stay in force.
    pub certificates: Vec<CertificateProblem>,
}

/// Files of a certificate, or of the authorities for clients, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateProblem {
    /// The name of the listener.
    pub listener: String,
    /// The file of the certificate or of the authorities, as it is configured.
    pub file: String,
    /// Why they cannot be used.
    pub error: String,
}

impl Status {
    /// The last reload.
    pub fn last(&self) -> Last {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: Option<serde_json::Value>, restart_pending: Vec<&'static str>) {
        let mut now = String::new();
        let at = SystemTime.format_time(&mut Writer::new(&mut now)).is_ok().then_some(now);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (last.at, last.error, last.restart_pending) = (at, error, restart_pending);
    }

    fn set_certificates(&self, problems: Vec<CertificateProblem>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).certificates = problems;
    }
}

/// A file that can be put in force.
struct Table {
    snapshot: Snapshot,
    /// Held until the snapshot is in force.
    pending: Pending,
    /// What it asks for that takes a restart.
    asked: Running,
    /// Whose certificates are to be in force.
    listeners: Vec<ListenerConfig>,
    /// What it has from other files.
    files: ReadFiles,
    log: LogConfig,
    routes: usize,
    warnings: Option<String>,
}

/// Why a file is not put in force.
#[derive(Debug)]
enum Unusable {
    Unreadable(ReadError),
    Wrong(Diagnostics),
    /// The configuration is right, but its table cannot be built: our fault.
    Unbuilt(String),
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("path", &self.path).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Reloader {
    /// A reloader for a file that is in force already, as it was read, and for the certificates of these listeners.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the server that it acts on")]
    pub fn new(
        path: PathBuf,
        origin: Origin,
        running: Running,
        live: Arc<Live>,
        assembly: Assembly,
        tls: Vec<Arc<Tls>>,
        metrics: Metrics,
        apply_log: Box<dyn Fn(LogConfig) + Send>,
    ) -> Self {
        let certificates = Certificates::new(tls, &path);
        let status = Arc::default();
        Self {
            path,
            assembly,
            live,
            metrics,
            status,
            running,
            apply_log,
            seen: origin.digest,
            files: origin.files,
            others: Looks::default(),
            certificates,
            waits_for_others: false,
        }
    }

    /// What became of the last reload.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Reloads at each change of the file and each signal, until stopped.
    pub async fn run(self, hup: Signal, stop: CancellationToken) {
        // Whatever it is at, for a file system may never answer.
        tokio::select! {
            () = self.follow(hup) => (),
            () = stop.cancelled() => (),
        }
    }

    async fn follow(mut self, mut hup: Signal) {
        let mut watch = Watch::new(&self.path, self.metrics.watch_errors.clone()).await;
        // What was written between the first reading and now has given no sign.
        if !matches!(self.load().await, Ok(None)) {
            self.reload(false).await;
        }
        let mut look = time::interval(POLL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = watch.changed() => false,
                _ = look.tick() => {
                    self.look_at_certificates().await;
                    // The file itself gives no sign when what it refers to has come, or is another.
                    if self.waits_for_others || self.have_others_changed().await {
                        self.reload(false).await;
                    }
                    if watch.differs().await { false } else { continue }
                }
                Some(()) = hup.recv() => true,
            };
            if asked {
                self.look_at_certificates().await;
            } else {
                settle(&watch).await;
                // Most signs are of other files. While the file is rejected they count all the same: what it
                // refers to may have come.
                if self.status.last().error.is_none() && watch.is_same().await {
                    continue;
                }
            }
            watch.renew().await;
            self.reload(asked).await;
        }
    }

    /// Takes the certificates whose files have changed.
    async fn look_at_certificates(&mut self) {
        let (changes, problems) = self.certificates.look().await;
        for change in changes {
            self.metrics.certificate_reloaded(change.is_ok());
            match change {
                Ok(file) => tracing::info!(file, "the file has changed and is in force"),
                Err(problem) => tracing::error!(
                    listener = problem.listener,
                    file = problem.file,
                    "the file has changed and cannot be used, the last one stays in force: {}",
                    problem.error,
                ),
            }
        }
        if problems != self.status.last().certificates {
            self.status.set_certificates(problems);
        }
    }

    /// Whether a file that the configuration in force names has changed.
    async fn have_others_changed(&mut self) -> bool {
        // Nothing of a file that cannot be used counts; once it can, all of it does.
        if self.files.is_empty() || self.status.last().error.is_some() {
            return false;
        }
        let (files, secrets) = (self.files.clone(), FileSecrets::beside(&self.path));
        let look = move || files.changed(&secrets).map(str::to_owned);
        let file = match self.others.look(look).await {
            Ok(Some(file)) => file,
            Ok(None) => return false,
            Err(Unanswered) => {
                self.metrics.watch_errors.inc();
                tracing::warn!("the file system of a file that the configuration names does not answer");
                return false;
            }
        };
        tracing::info!(file, "a file that the configuration names has changed");
        // It is not known for how long it has been quiet.
        time::sleep(SECOND_LOOK).await;
        true
    }

    /// Takes the file as it is now. `asked` by a person: then also an unchanged file is said to be read.
    async fn reload(&mut self, asked: bool) {
        let started_at = Instant::now();
        let mut usable = self.load().await;
        if usable.is_err() {
            time::sleep(SECOND_LOOK).await;
            usable = self.load().await;
        }
        match usable {
            Ok(None) => {
                self.metrics.unchanged.inc();
                if asked {
                    tracing::info!(file = %self.path.display(), "the configuration is unchanged");
                }
            }
            Ok(Some((table, digest))) => {
                self.apply(table, digest);
                self.metrics.duration.observe(started_at.elapsed().as_secs_f64());
            }
            Err((unusable, digest)) => self.reject(&unusable, digest, asked),
        }
    }

    /// Reads and compiles; `None` if it is the one in force, with all that it names.
    async fn load(&mut self) -> Result<Option<(Table, String)>, (Unusable, String)> {
        let (path, assembly) = (self.path.clone(), self.assembly.clone());
        let in_force = self.status.last().error.is_none();
        let in_force = in_force.then(|| Origin { digest: self.seen.clone(), files: self.files.clone() });
        let generation = self.live.load().generation + 1;
        // A thousand regexes take some tenths of a second to compile. The accept loops must not wait for them.
        let load = move || load(&path, in_force.as_ref(), &assembly, generation);
        match tokio::task::spawn_blocking(load).await {
            Ok(loaded) => loaded,
            Err(panicked) => Err((Unusable::Unbuilt(panicked.to_string()), String::new())),
        }
    }

    fn apply(&mut self, table: Table, digest: String) {
        let Table { snapshot, pending: on_its_way, asked, listeners, files, log, routes, warnings } = table;
        let file = self.path.display().to_string();
        if let Some(warnings) = warnings {
            tracing::warn!(file, "the configuration has warnings\n{warnings}");
        }
        let pending = self.running.differences(&asked);
        let generation = snapshot.generation;
        self.metrics.applied(&snapshot, routes, !pending.is_empty());
        self.live.replace(snapshot);
        drop(on_its_way);
        for _ in 0..self.certificates.replace(listeners) {
            self.metrics.certificate_reloaded(true);
        }
        self.waits_for_others = false;
        (self.apply_log)(log);
        tracing::info!(file, generation, routes, "the configuration is in force");
        if !pending.is_empty() {
            tracing::warn!(settings = pending.join(", "), "these settings take effect with the next start");
        }
        self.status.set(None, pending);
        (self.seen, self.files) = (digest, files);
    }

    fn reject(&mut self, unusable: &Unusable, digest: String, asked: bool) {
        self.waits_for_others = unusable.refers_to_others();
        // One report for one content, however often it is written or polled.
        if digest == self.seen && self.status.last().error == Some(unusable.to_json()) && !asked {
            return;
        }
        self.metrics.rejected();
        let in_force = self.live.load();
        let file = self.path.display().to_string();
        tracing::error!(
            file,
            generation = in_force.generation,
            "the configuration cannot be used, the last one stays in force\n{unusable}",
        );
        self.status.set(Some(unusable.to_json()), self.status.last().restart_pending);
        self.seen = digest;
    }
}

impl Unusable {
    /// Whether it is another file that cannot be used.
    fn refers_to_others(&self) -> bool {
        match self {
            Self::Wrong(diagnostics) => {
                diagnostics.iter().any(|one| matches!(one.code(), Code::Certificate | Code::Secret))
            }
            Self::Unreadable(_) | Self::Unbuilt(_) => false,
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Unreadable(error) => serde_json::json!([{ "message": error.to_string() }]),
            Self::Wrong(diagnostics) => diagnostics.to_json(),
            Self::Unbuilt(error) => serde_json::json!([{ "message": error }]),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Wrong(diagnostics) => f.write_str(&diagnostics.render(false)),
            Self::Unbuilt(error) => error.fmt(f),
        }
    }
}

/// Reads and compiles; `None` if it is what is `in_force`, with all that it names. With each goes the digest.
fn load(
    path: &Path,
    in_force: Option<&Origin>,
    assembly: &Assembly,
    generation: u64,
) -> Result<Option<(Table, String)>, (Unusable, String)> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => {
            // An error has no content: its text stands for it, so that it is reported once.
            let digest = error.to_string();
            return Err((Unusable::Unreadable(error), digest));
        }
    };
    let digest = digest(&text);
    let secrets = FileSecrets::beside(path);
    let is_same = |origin: &Origin| origin.digest == digest && origin.files.changed(&secrets).is_none();
    if in_force.is_some_and(is_same) {
        return Ok(None);
    }
    let loaded = match config::load(&path.display().to_string(), &text, &secrets) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return Err((Unusable::Wrong(diagnostics), digest)),
    };
    let warnings = (!loaded.warnings.is_empty()).then(|| loaded.warnings.render(false));
    let (config, files) = (loaded.config, loaded.files);
    let (asked, log, routes) = (Running::of(&config), config.server.log, config.routes.len());
    let listeners = config.listeners.clone();
    match assembly.snapshot(config, generation, &digest) {
        Ok((snapshot, pending)) => {
            Ok(Some((Table { snapshot, pending, asked, listeners, files, log, routes, warnings }, digest)))
        }
        Err(error) => Err((Unusable::Unbuilt(error.to_string()), digest)),
    }
}

/// Waits until nothing has changed for a moment, but not for ever.
async fn settle(watch: &Watch) {
    let deadline = Instant::now() + UNREAD_MAX;
    loop {
        let quiet_at = (Instant::now() + QUIET).min(deadline);
        tokio::select! {
            () = watch.changed() => if deadline <= Instant::now() { return },
            () = time::sleep_until(quiet_at) => return,
        }
    }
}
