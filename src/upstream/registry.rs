//! The upstreams in force, kept over reloads as far as they stay the same.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::Handle;

use crate::listener::DescriptorLimit;
use crate::upstream::health::watch;
use crate::upstream::server::{Server, Upstream};
use crate::upstream::tls::Connector;
use crate::upstream::{Metrics, ServerAddress, Settings};

/// Makes the upstreams of each configuration. Clones share what they hold.
#[derive(Clone)]
pub struct Upstreams {
    metrics: Arc<Metrics>,
    /// Where health is checked.
    control: Handle,
    descriptors: DescriptorLimit,
    made: Arc<Mutex<Made>>,
}

/// By name all that may still be used, the latest last: one that a reload has replaced has tunnels perhaps, and the
/// reload that has made the latest may have been refused.
type Made = HashMap<Arc<str>, Vec<Weak<Upstream>>>;

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

impl Upstreams {
    /// None yet. Health will be checked on the runtime of `control`; no connection has a descriptor beyond the limit.
    pub fn new(metrics: Arc<Metrics>, control: Handle, descriptors: DescriptorLimit) -> Self {
        Self { metrics, control, descriptors, made: Arc::default() }
    }

    /// The upstream of this name: the one that is used already if its settings are the same, with the servers of
    /// that one, and what is known of them, where addresses are the same. What that one has at the moment counts
    /// against `max_inflight` here, too.
    ///
    /// # Errors
    ///
    /// Why TLS cannot be spoken as the settings say.
    pub fn get(&self, name: &str, settings: &Settings) -> Result<Arc<Upstream>, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let last = made.get(name).and_then(|of_name| latest(of_name));
        if let Some(last) = &last
            && last.settings == *settings
        {
            return Ok(Arc::clone(last));
        }
        let is_tls = |address: &ServerAddress| matches!(address, ServerAddress::Tcp { tls: true, .. });
        let connector = settings.servers.iter().any(is_tls).then(|| Connector::new(&settings.tls));
        let connector = connector.transpose()?;
        // A connection that was made to other rules must not be used by these.
        let kept = last
            .as_ref()
            .filter(|last| last.settings.tls == settings.tls && last.settings.health == settings.health);
        let server = |address: &ServerAddress| {
            let known = kept.and_then(|last| last.servers.iter().find(|server| server.address == *address));
            known.map_or_else(
                || {
                    let up = self.metrics.server_up(name, &address.to_string());
                    Arc::new(Server::new(address.clone(), up))
                },
                Arc::clone,
            )
        };
        let servers: Vec<_> = settings.servers.iter().map(server).collect();
        let name: Arc<str> = name.into();
        let metrics = self.metrics.upstream(&name);
        let inflight = last.as_ref().map(|last| Arc::clone(&last.inflight)).unwrap_or_default();
        let settings = settings.clone();
        let upstream = Arc::new(Upstream {
            name: Arc::clone(&name),
            settings,
            servers,
            connector,
            descriptors: self.descriptors,
            metrics,
            inflight,
            turn: AtomicUsize::new(0),
        });
        let of_name = made.entry(name).or_default();
        of_name.retain(is_used);
        of_name.push(Arc::downgrade(&upstream));
        if upstream.settings.health.is_some() {
            for server in &upstream.servers {
                self.control.spawn(watch(self.clone(), Arc::downgrade(&upstream), Arc::clone(server)));
            }
        }
        Ok(upstream)
    }

    /// Whether requests go to this upstream of its name, and not to one that was made later.
    pub(super) fn is_latest(&self, upstream: &Arc<Upstream>) -> bool {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = made.get(upstream.name()).and_then(|of_name| latest(of_name));
        latest.is_some_and(|latest| Arc::ptr_eq(&latest, upstream))
    }

    /// The upstreams and servers with series that nobody uses any more. To be asked before a scrape, which
    /// shows their last values, and forgotten after it.
    pub fn gone(&self) -> Vec<Arc<str>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = self.metrics.upstream_names();
        names.retain(|name| !made.get(name).is_some_and(|of_name| of_name.iter().any(is_used)));
        names
    }

    /// Forgets the series of those of these upstreams that are still gone, and of servers that the latest of their
    /// name does not have.
    pub fn forget(&self, gone: &[Arc<str>]) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, of_name| {
            of_name.retain(is_used);
            !of_name.is_empty()
        });
        for name in gone.iter().filter(|name| !made.contains_key(*name)) {
            self.metrics.forget_upstream(name);
        }
        let latest: Vec<_> = made.values().filter_map(|of_name| latest(of_name)).collect();
        let servers = latest.iter().flat_map(|upstream| {
            upstream.servers.iter().map(|server| (Arc::clone(&upstream.name), server.label.clone()))
        });
        self.metrics.keep_servers(&servers.collect());
        // One that was refused may have lived for a moment, in which the servers of the one in force were forgotten, or
        // shown as its own were.
        for upstream in &latest {
            for server in &upstream.servers {
                server.show_on(self.metrics.server_up(&upstream.name, &server.label));
            }
        }
    }
}

fn is_used(upstream: &Weak<Upstream>) -> bool {
    0 < upstream.strong_count()
}

fn latest(of_name: &[Weak<Upstream>]) -> Option<Arc<Upstream>> {
    of_name.iter().rev().find_map(Weak::upgrade)
}
