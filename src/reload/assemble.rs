//! From a configuration to the snapshot that requests are decided by.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use thiserror::Error;

use crate::channel_layer::ChannelLayer;
use crate::config::{Config, HandlerConfig, UpstreamConfig};
use crate::files::Files;
use crate::handler::Handler;
use crate::request;
use crate::request::{Drain, Live, Proxy, RouteRules, Rules, Snapshot, Takes, Target, TargetKind};
use crate::route::PatternError;
use crate::session;
use crate::session::Profile;
use crate::upstream::{Upstream, Upstreams};

/// Digits of the SHA-256 that stand for a configuration in metrics and logs.
const HASH_LEN: usize = 8;

/// Gives each route its metric handles.
#[derive(Clone, Debug)]
pub struct Assembly {
    requests: Arc<request::Metrics>,
    sessions: Arc<session::Metrics>,
    upstreams: Upstreams,
    layer: ChannelLayer,
    /// Where relative paths begin.
    folder: Arc<Path>,
    /// How many snapshots have their handles and are not in force yet.
    pending: Arc<Mutex<usize>>,
}

/// A snapshot's way into force, to be dropped once it is.
///
/// No route is forgotten meanwhile: the new ones are in nobody's table yet and would be taken for removed
/// ones, and their counts would never be seen.
#[derive(Debug)]
#[must_use]
pub struct Pending(Arc<Mutex<usize>>);

/// What has series and is of no use any more.
#[derive(Debug)]
pub struct Gone {
    routes: Vec<Arc<str>>,
    upstreams: Vec<Arc<str>>,
}

impl Assembly {
    /// Handles and upstreams are taken from these, and the layer is asked for what routes need of it; relative
    /// paths begin at the folder of the configuration.
    pub fn new(
        requests: Arc<request::Metrics>,
        sessions: Arc<session::Metrics>,
        upstreams: Upstreams,
        layer: ChannelLayer,
        folder: &Path,
    ) -> Self {
        Self { requests, sessions, upstreams, layer, folder: folder.into(), pending: Arc::default() }
    }

    /// Open sockets, of whatever route.
    pub fn open_sockets(&self) -> i64 {
        self.sessions.open()
    }

    /// Makes the snapshot of a configuration with this SHA-256, in hex.
    ///
    /// # Errors
    ///
    /// The operator's: the patterns are each right, but together larger than the matcher may be, or TLS cannot be
    /// spoken with an upstream as its settings say.
    pub fn snapshot(
        &self,
        config: Config,
        generation: u64,
        digest: &str,
    ) -> Result<(Snapshot, Pending), AssemblyError> {
        // Before the first handle is taken.
        let pending = Pending::begin(&self.pending);
        let limits = config.server.limits;
        let drain = Drain { grace: config.server.drain.grace, over: config.server.drain.shutdown };
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut addressable = false;
        for route in config.routes {
            let name: Arc<str> = route.name.into();
            let metrics = self.requests.route(&name);
            let socket = |handler| {
                TargetKind::WebSocket(Arc::new(Profile {
                    route: Arc::clone(&name),
                    handler,
                    ping: route.ping,
                    message_bytes_max: route.message_bytes_max,
                    queue: route.queue,
                    rate: route.rate,
                    age_max: route.age_max,
                    idle_max: route.idle_max,
                    metrics: self.sessions.route(&name),
                }))
            };
            let (takes, kind) = match route.handler {
                HandlerConfig::Room(room) => {
                    let handler = Handler::Room(room);
                    addressable |= handler.is_addressable();
                    (Takes::WebSocket, socket(handler))
                }
                HandlerConfig::Echo => (Takes::WebSocket, socket(Handler::Echo)),
                HandlerConfig::Proxy(proxy) => {
                    let upstream = self.upstream(&config.upstreams, &proxy.upstream)?;
                    let try_files = proxy.try_files.map(|files| self.below(files));
                    let body_bytes_max = proxy.body_bytes_max;
                    (Takes::Both, TargetKind::Proxy(Proxy { upstream, body_bytes_max, try_files }))
                }
                HandlerConfig::Static(files) => (Takes::Plain, TargetKind::Static(self.below(files))),
                HandlerConfig::Respond(respond) => (Takes::Plain, TargetKind::Respond(respond)),
            };
            let body_bytes_max = match &kind {
                TargetKind::Proxy(proxy) => Some(proxy.body_bytes_max),
                TargetKind::WebSocket(_) | TargetKind::Static(_) | TargetKind::Respond(_) => None,
            };
            match &kind {
                TargetKind::WebSocket(_) => metrics.begin(&[StatusCode::UPGRADE_REQUIRED]),
                TargetKind::Proxy(_) => metrics.begin(&[
                    StatusCode::OK,
                    StatusCode::BAD_REQUEST,
                    StatusCode::BAD_GATEWAY,
                    StatusCode::GATEWAY_TIMEOUT,
                ]),
                TargetKind::Static(_) => metrics.begin(&[StatusCode::OK, StatusCode::NOT_FOUND]),
                TargetKind::Respond(respond) => metrics.begin(&[respond.status, StatusCode::BAD_REQUEST]),
            }
            let rules = RouteRules {
                name,
                hosts: route.hosts,
                origins: route.origins,
                subprotocols: route.subprotocols,
                takes,
                body_bytes_max,
                target: Target { metrics, kind },
            };
            routes.push((route.pattern, rules));
        }
        let rules =
            Rules::new(config.trust.trusted_proxies(), config.trust.headers, config.server.sizes, routes)?;
        let hash = digest.chars().take(HASH_LEN).collect();
        if addressable {
            // Before the first socket has a channel whose name it can tell.
            self.layer.open_channels();
        }
        Ok((Snapshot { generation, hash, rules, limits, drain }, pending))
    }

    /// The upstream of a route, made when the first one asks for it.
    fn upstream(&self, upstreams: &[UpstreamConfig], name: &str) -> Result<Arc<Upstream>, AssemblyError> {
        let found = upstreams.iter().find(|upstream| upstream.name == name);
        let UpstreamConfig { name, settings } =
            found.ok_or_else(|| AssemblyError::NoUpstream(name.to_owned()))?;
        let failed = |error| AssemblyError::Upstream { name: name.clone(), error };
        self.upstreams.get(name, settings).map_err(failed)
    }

    /// The same files, with a relative folder where the configuration means it.
    fn below(&self, files: Files) -> Files {
        Files { root: self.folder.join(&files.root), ..files }
    }

    /// The routes that are not in force and have no socket any more, and the upstreams that nobody uses. To be
    /// asked before a scrape, which shows their last values, and forgotten after it.
    pub fn gone(&self, in_force: &Snapshot) -> Gone {
        Gone { routes: self.gone_routes(in_force), upstreams: self.upstreams.gone() }
    }

    fn gone_routes(&self, in_force: &Snapshot) -> Vec<Arc<str>> {
        let kept: HashSet<_> = in_force.rules.routes().iter().map(|route| &*route.name).collect();
        let mut gone = self.requests.route_names();
        gone.retain(|name| !kept.contains(&**name) && !self.sessions.has_sockets(name));
        gone
    }

    /// Forgets the series of those of these that are still gone. While a snapshot is on its way into force it
    /// forgets nothing, for the next scrape can.
    pub fn forget(&self, gone: &Gone, live: &Live) {
        // Whoever wants handles for a snapshot waits for this lock.
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if 0 < *pending {
            return;
        }
        self.upstreams.forget(&gone.upstreams);
        if gone.routes.is_empty() {
            return;
        }
        for name in self.gone_routes(&live.load()).iter().filter(|name| gone.routes.contains(name)) {
            self.requests.forget_route(name);
            self.sessions.forget_route(name);
        }
    }
}

/// Why a configuration that is right by itself cannot be put in force.
#[derive(Debug, Error)]
pub enum AssemblyError {
    /// The patterns are too large together.
    #[error("the routes are too large: {0}")]
    Routes(#[from] PatternError),
    /// TLS cannot be spoken with an upstream.
    #[error("the upstream `{name}` cannot be reached as it says: {error}")]
    Upstream {
        /// Its name.
        name: String,
        /// Why.
        error: String,
    },
    /// A route leads to an upstream that is not there: our fault, for the configuration is checked for it.
    #[error("there is no upstream `{0}`")]
    NoUpstream(String),
}

impl Pending {
    fn begin(pending: &Arc<Mutex<usize>>) -> Self {
        *pending.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(pending))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::channel_layer::{LayerConfig, LayerMetrics};
    use crate::config;
    use crate::listener::DescriptorLimit;
    use crate::reload::FileSecrets;
    use crate::upstream;

    #[test]
    fn routes_on_their_way_into_force_are_not_forgotten() {
        let registry = Registry::new();
        let requests = Arc::new(request::Metrics::register(&registry).unwrap());
        let sessions = Arc::new(session::Metrics::register(&registry).unwrap());
        let upstreams = Arc::new(upstream::Metrics::register(&registry).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let upstreams = Upstreams::new(upstreams, runtime.handle().clone(), DescriptorLimit::new(None));
        let layer = LayerMetrics::register(&registry).unwrap();
        let (layer, _task) = ChannelLayer::new(LayerConfig::Memory, Vec::new(), layer);
        let assembly = Assembly::new(requests, sessions, upstreams, layer, Path::new(""));
        let config = |name: &str| {
            let text = format!(
                "version = 1\n[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
                 [[route]]\nname = \"{name}\"\npath = \"/\"\nhandler = \"echo\"\n"
            );
            config::load("routes.toml", &text, &FileSecrets::beside("routes.toml".as_ref())).unwrap().config
        };
        let seen = |name: &str| {
            let page = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            page.contains(&format!("anteroom_websocket_connections{{route=\"{name}\"}}"))
                && page.contains(&format!(
                    "anteroom_websocket_handshakes_total{{result=\"accepted\",route=\"{name}\"}}"
                ))
        };
        let scrape = |live: &Live| {
            let gone = assembly.gone(&live.load());
            assembly.forget(&gone, live);
        };
        let (first, pending) = assembly.snapshot(config("first"), 1, "").unwrap();
        let live = Live::new(first);
        drop(pending);
        let (second, pending) = assembly.snapshot(config("second"), 2, "").unwrap();
        scrape(&live);
        assert!(seen("first") && seen("second"));
        // A scrape may also begin before the table is replaced and end after it.
        let gone = assembly.gone(&live.load());
        live.replace(second);
        drop(pending);
        assembly.forget(&gone, &live);
        assert!(seen("first") && seen("second"));
        scrape(&live);
        assert!(!seen("first") && seen("second"));
    }
}
