//! An upstream and its servers: who gets the next request, and who is out.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::Instant;

use crate::listener::DescriptorLimit;
use crate::upstream::metrics::UpstreamMetrics;
use crate::upstream::tls::Connector;
use crate::upstream::{ServerAddress, Settings, UpstreamError};

/// An application, as all workers see it.
pub struct Upstream {
    pub(super) name: Arc<str>,
    pub(super) settings: Settings,
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) connector: Option<Connector>,
    /// Which descriptors its connections may have.
    pub(super) descriptors: DescriptorLimit,
    pub(super) metrics: Arc<UpstreamMetrics>,
    /// Shared with those of the same name that a reload has replaced, for what they have counts too.
    pub(super) inflight: Arc<AtomicUsize>,
    /// Where the search begins, so that equals take turns.
    pub(super) turn: AtomicUsize,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The servers that a request has been to, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried(u64);

/// Whether it is out, until when, and how many requests it has: the least is the best.
type Rank = (bool, u64, usize);

impl Upstream {
    /// Its name, as the configuration and the metrics have it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the configuration says of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts one more request in, if there is room.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Entered, UpstreamError> {
        let before = self.inflight.fetch_add(1, Ordering::Relaxed);
        self.metrics.inflight.inc();
        let entered = Entered(Arc::clone(self));
        match self.settings.inflight_max {
            Some(max) if max <= before => Err(UpstreamError::Busy),
            _ => Ok(entered),
        }
    }

    /// The server with the fewest requests of those that are up and not tried yet. When failures have taken out
    /// all of them, the one that has been out longest: a wrong guess costs one connect, and none tells a
    /// restarted server.
    pub(super) fn pick(&self, tried: &mut Tried) -> Option<&Arc<Server>> {
        let count = self.servers.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<(usize, &Arc<Server>, Rank)> = None;
        for at in (0..count).map(|step| turn.wrapping_add(step) % count) {
            let Some(server) = self.servers.get(at).filter(|_| tried.0 & (1 << at) == 0) else { continue };
            if !server.healthy.load(Ordering::Relaxed) {
                continue;
            }
            // Those that are up compare by their load alone.
            let rank = match server.out_until() {
                None => (false, 0, server.inflight.load(Ordering::Relaxed)),
                Some(until) => (true, until, 0),
            };
            if best.is_none_or(|(_, _, best)| rank < best) {
                best = Some((at, server, rank));
            }
        }
        let (at, server, _) = best?;
        tried.0 |= 1 << at;
        server.begin_probe(self.settings.fail_timeout);
        Some(server)
    }

    /// Counts a failure of a server. An only server is never taken out: there is nobody to go to instead. What is
    /// no fault of the server does not count.
    pub(super) fn failed(&self, server: &Server, error: &UpstreamError) {
        if matches!(error, UpstreamError::Shortage(_) | UpstreamError::ClientBody(_)) {
            return;
        }
        tracing::debug!(upstream = &*self.name, server = server.label, %error, "a server has failed");
        if self.servers.len() == 1 || self.settings.fails_max == 0 {
            return;
        }
        let now = Instant::now();
        let mut failures = server.failures.lock().unwrap_or_else(PoisonError::into_inner);
        server.troubled.store(true, Ordering::Relaxed);
        let window = self.settings.fail_timeout;
        if failures.since.is_none_or(|since| window < now - since) {
            failures.since = Some(now);
            failures.count = 0;
        }
        failures.count += 1;
        if failures.count < self.settings.fails_max && !failures.out {
            return;
        }
        server.out_until_ms.store(server.millis(now + window), Ordering::Relaxed);
        // Each time, for a reload that was refused may have shown a new one of the same address.
        server.show();
        if !failures.out {
            failures.out = true;
            drop(failures);
            tracing::warn!(upstream = &*self.name, server = server.label, %error, "a server is taken out");
        }
    }

    /// Takes a server back in that has answered.
    pub(super) fn succeeded(&self, server: &Server) {
        if !server.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut failures = server.failures.lock().unwrap_or_else(PoisonError::into_inner);
        server.troubled.store(false, Ordering::Relaxed);
        server.out_until_ms.store(0, Ordering::Relaxed);
        let was_out = failures.out;
        *failures = Failures::default();
        if was_out {
            drop(failures);
            server.show();
            tracing::info!(upstream = &*self.name, server = server.label, "a server is back");
        }
    }

    /// Takes the word of a health check.
    pub(super) fn checked(&self, server: &Server, found: Result<(), String>) {
        let was = server.healthy.swap(found.is_ok(), Ordering::Relaxed);
        match found {
            Ok(()) => {
                if !was {
                    tracing::info!(upstream = &*self.name, server = server.label, "a server is well again");
                }
                self.succeeded(server);
            }
            Err(reason) if was => {
                let upstream = &*self.name;
                tracing::warn!(upstream, server = server.label, reason, "a server fails its health check");
            }
            Err(_) => (),
        }
        server.show();
    }
}

/// A request that counts.
#[derive(Debug)]
pub(super) struct Entered(pub(super) Arc<Upstream>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.inflight.dec();
    }
}

/// One server of an upstream.
pub(super) struct Server {
    /// Unique in this process; idle connections go by it.
    pub(super) id: u64,
    pub(super) address: ServerAddress,
    pub(super) label: String,
    /// When its name was looked up, and the addresses: the one that took the last connection, then the others.
    pub(super) resolved: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    inflight: AtomicUsize,
    /// What the last health check found.
    healthy: AtomicBool,
    /// Whether `failures` holds any.
    troubled: AtomicBool,
    /// In milliseconds from `born_at`; 0 for a server that is not out.
    out_until_ms: AtomicU64,
    failures: Mutex<Failures>,
    born_at: Instant,
    up: Mutex<IntGauge>,
}

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    since: Option<Instant>,
    out: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(address: ServerAddress, up: IntGauge) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        up.set(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            label: address.to_string(),
            address,
            resolved: Mutex::default(),
            inflight: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            troubled: AtomicBool::new(false),
            out_until_ms: AtomicU64::new(0),
            failures: Mutex::default(),
            born_at: Instant::now(),
            up: Mutex::new(up),
        }
    }

    /// Puts an address of its name before the others, for it takes connections.
    pub(super) fn prefer(&self, address: SocketAddr) {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, addresses)) = resolved.as_mut() else { return };
        let at = addresses.iter().position(|known| *known == address);
        if let Some(at @ 1..) = at
            && let Some(upto) = Arc::make_mut(addresses).get_mut(..=at)
        {
            upto.rotate_right(1);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from((at - self.born_at).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn out_until(&self) -> Option<u64> {
        let until = self.out_until_ms.load(Ordering::Relaxed);
        // The clock is not asked for the many that are in.
        (until != 0 && self.millis(Instant::now()) < until).then_some(until)
    }

    /// One request finds out whether a server is back; the others keep away from it meanwhile.
    fn begin_probe(&self, window: Duration) {
        self.put_off(self.out_until_ms.load(Ordering::Relaxed), window);
    }

    /// Keeps a server out for longer that is out until then. If it has come back since that was seen it stays in, for
    /// nothing would take it in again.
    fn put_off(&self, seen: u64, window: Duration) {
        if seen != 0 {
            let until = self.millis(Instant::now() + window);
            let _newer_stays =
                self.out_until_ms.compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Shows from now on with this gauge whether it is up: that of before may have been forgotten.
    pub(super) fn show_on(&self, up: IntGauge) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = up;
        self.show();
    }

    fn show(&self) {
        // Looked at under the lock, so that who looked first does not show it last.
        let up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let out = self.out_until_ms.load(Ordering::Relaxed) != 0;
        up.set(i64::from(self.healthy.load(Ordering::Relaxed) && !out));
    }
}

/// A request that is with a server.
#[derive(Debug)]
pub(super) struct Flight {
    with: WithServer,
    entered: Entered,
}

#[derive(Debug)]
struct WithServer(Arc<Server>);

impl Flight {
    pub(super) fn new(server: &Arc<Server>, entered: Entered) -> Self {
        server.inflight.fetch_add(1, Ordering::Relaxed);
        Self { with: WithServer(Arc::clone(server)), entered }
    }

    /// The request goes on to another server, and still counts once.
    pub(super) fn into_entered(self) -> Entered {
        self.entered
    }

    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.entered.0
    }

    pub(super) fn server(&self) -> &Server {
        &self.with.0
    }
}

impl Drop for WithServer {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::new("http://127.0.0.1:1".parse().unwrap(), IntGauge::new("up", "up").unwrap())
    }

    #[test]
    fn a_probe_that_comes_too_late_keeps_no_server_out() {
        let server = server();
        let out_until = || server.out_until_ms.load(Ordering::Relaxed);
        server.begin_probe(Duration::from_secs(10));
        assert_eq!(out_until(), 0);
        server.out_until_ms.store(5, Ordering::Relaxed);
        server.begin_probe(Duration::from_secs(10));
        let seen = out_until();
        assert!((10_000..20_000).contains(&seen), "{seen}");
        // Another request has had its answer meanwhile.
        server.out_until_ms.store(0, Ordering::Relaxed);
        server.put_off(seen, Duration::from_secs(10));
        assert_eq!(out_until(), 0);
    }
}
