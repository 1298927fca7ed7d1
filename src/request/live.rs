//! The table in force, swapped whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::files::Files;
use crate::handler::Respond;
use crate::request::{LimitSettings, Proxy, RouteMetrics, Rules};
use crate::session::Profile;

/// Everything that a request is decided by. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises by one with each table that is put in force.
    pub generation: u64,
    /// The first 8 hex digits of the SHA-256 of the file.
    pub hash: String,
    /// What may come in, and where it goes.
    pub rules: Rules<Target>,
    /// How many sockets, and how fast.
    pub limits: LimitSettings,
    /// How the process ends, when it does.
    pub drain: Drain,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long readiness fails before the first close.
    pub grace: Duration,
    /// Over how long the closes are spread.
    pub over: Duration,
}

/// Where a route leads.
#[derive(Debug)]
pub struct Target {
    /// Handles resolved when the route was loaded.
    pub metrics: Arc<RouteMetrics>,
    /// What happens there.
    pub kind: TargetKind,
}

/// What a route does with what it takes.
#[derive(Debug)]
pub enum TargetKind {
    /// Upgrades become sockets.
    WebSocket(Arc<Profile>),
    /// Both are passed on.
    Proxy(Proxy),
    /// Plain requests are answered with files.
    Static(Files),
    /// Plain requests get this answer.
    Respond(Respond),
}

/// The snapshot in force. Requests load it once; only a reload replaces it.
pub struct Live(ArcSwap<Snapshot>);

impl Live {
    /// Puts the first snapshot in force.
    pub fn new(snapshot: Snapshot) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(snapshot)))
    }

    /// The snapshot in force now. Whoever holds it goes on with it when another comes.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts a snapshot in force, for requests from now on.
    pub fn replace(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.load().generation).finish()
    }
}
