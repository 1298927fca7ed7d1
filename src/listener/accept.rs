//! Accepting, and spreading what came evenly over the workers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::time;

use crate::listener::bind::{Listening, SocketFile};
use crate::listener::counts::{PeerCounts, Place};
use crate::listener::greet::Greeter;
use crate::listener::{
    Accepted, Address, Bound, ConnInfo, DescriptorLimit, HandedOver, ListenerMetrics, NetStream, Peer,
    ProxyProtocol, StdStream, Tls,
};

/// First and longest pause after an error of `accept`.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What the kernel holds of what the peer has no window for yet, in bytes. More would say nothing of the peer: with
/// megabytes in the kernel, one that reads slowly gives no sign for minutes.
const NOT_SENT_MAX: u32 = 128 << 10;

/// Numbers all connections of the process.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    settings: Settings,
    socket: Listening,
    metrics: ListenerMetrics,
}

/// What a listener is, for as long as the process runs.
#[derive(Debug)]
pub struct Settings {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// The permissions of a UNIX socket; `None` for what the umask leaves.
    pub mode: Option<u32>,
    /// Whether it takes PROXY headers.
    pub proxy_protocol: ProxyProtocol,
    /// With TLS; `None` for connections in clear.
    pub tls: Option<Arc<Tls>>,
}

/// How many connections there may be. The first two are live settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptLimits {
    /// In all.
    pub connections: usize,
    /// From one address that is no trusted proxy, be it one that a PROXY header names; IPv6 addresses count by their
    /// /64.
    pub per_ip: usize,
    /// Which descriptors a connection may have.
    pub descriptors: DescriptorLimit,
}

/// What all listeners ask about a connection.
pub struct Policy {
    limits: Box<dyn Fn() -> AcceptLimits + Send + Sync>,
    trusts: Box<dyn Fn(Peer) -> bool + Send + Sync>,
    counts: Arc<PeerCounts>,
}

impl Policy {
    /// A policy that asks anew for each connection: `limits`, and whether a peer is a trusted proxy.
    pub fn new(
        limits: impl Fn() -> AcceptLimits + Send + Sync + 'static,
        trusts: impl Fn(Peer) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { limits: Box::new(limits), trusts: Box::new(trusts), counts: Arc::default() })
    }

    pub(super) fn trusts(&self, peer: Peer) -> bool {
        (self.trusts)(peer)
    }

    /// Counts a connection of this peer in. A trusted proxy, or whoever comes over a UNIX socket, speaks for many
    /// clients and has no place to take.
    pub(super) fn place(&self, peer: Peer) -> Result<Option<Place>, NoPlace> {
        let Some(ip) = peer.ip().filter(|_| !self.trusts(peer)) else { return Ok(None) };
        self.counts.enter(ip, (self.limits)().per_ip).map(Some).ok_or(NoPlace)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("limits", &(self.limits)()).finish_non_exhaustive()
    }
}

/// As many connections of an address as there may be are open.
#[derive(Clone, Copy, Debug, Error)]
#[error("its address has too many connections; twice `limits.per_ip` are allowed")]
pub(super) struct NoPlace;

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("listener `{name}` cannot listen on {address}")]
pub struct ListenError {
    name: Arc<str>,
    address: Address,
    source: io::Error,
}

impl Listener {
    /// Binds the address, or takes the socket that was handed over.
    ///
    /// # Errors
    ///
    /// The address is taken, not ours or not allowed, or no such socket was handed over.
    pub fn bind(
        settings: Settings,
        handed: &mut HandedOver,
        metrics: ListenerMetrics,
    ) -> Result<Self, ListenError> {
        match Listening::bind(&settings.address, settings.mode, handed) {
            Ok(socket) => Ok(Self { settings, socket, metrics }),
            Err(source) => Err(ListenError { name: settings.name, address: settings.address, source }),
        }
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.settings.tls.is_some()
    }

    /// The bound address.
    ///
    /// # Errors
    ///
    /// The system does not say.
    pub fn bound(&self) -> io::Result<Bound> {
        self.socket.bound()
    }

    /// Accepts for ever, each connection for the worker that has the fewest.
    ///
    /// What comes beyond the limits of the `policy` is closed at once. An error of `accept` (no descriptor left,
    /// most likely) is waited out, longer each time.
    ///
    /// How long a peer may take nothing is for who serves it: the time of the kernel (`TCP_USER_TIMEOUT`) also runs
    /// out for one that reads slowly, as long as its window has no room for all that is next.
    ///
    /// # Errors
    ///
    /// The runtime cannot watch the socket for readiness.
    pub async fn run(
        self,
        loads: Arc<[Arc<AtomicUsize>]>,
        policy: Arc<Policy>,
        serve: impl Fn(usize, Accepted),
    ) -> io::Result<()> {
        let Self { settings: Settings { name, proxy_protocol, tls, .. }, socket, metrics } = self;
        let socket = Socket::watch(socket)?;
        let greeter =
            Arc::new(Greeter { proxy_protocol, tls, policy: Arc::clone(&policy), metrics: metrics.clone() });
        let mut pause = PAUSE_MIN;
        loop {
            let (stream, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    metrics.accept_errors.inc();
                    tracing::warn!(listener = &*name, %error, pause_ms = pause.as_millis(), "cannot accept");
                    time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
            };
            pause = PAUSE_MIN;
            let open: usize = loads.iter().map(|load| load.load(Ordering::Relaxed)).sum();
            let limits = (policy.limits)();
            if limits.connections <= open || !limits.descriptors.allows_client(&stream) {
                metrics.refused_limit.inc();
                continue;
            }
            let Ok(place) = policy.place(peer) else {
                metrics.refused_per_ip.inc();
                continue;
            };
            let Some((worker, load)) = least(&loads) else { continue };
            metrics.accepted.inc();
            let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
            let gauge = metrics.connections.clone();
            let conn = ConnInfo::new(id, peer, Arc::clone(&name), gauge, Arc::clone(load));
            if let Some(place) = place {
                conn.open.hold(place);
            }
            // The worker's runtime watches the stream from here on, not this one.
            match prepare(stream) {
                Ok(stream) => serve(worker, Accepted { stream, conn, greeter: Arc::clone(&greeter) }),
                Err(error) => tracing::debug!(conn = id, %error, "a connection ended before it was served"),
            }
        }
    }
}

/// A listening socket that the runtime watches.
enum Socket {
    Tcp(TcpListener),
    /// With its file, which goes with it.
    Unix(UnixListener, #[expect(dead_code, reason = "held for its drop")] Option<SocketFile>),
}

impl Socket {
    fn watch(socket: Listening) -> io::Result<Self> {
        Ok(match socket {
            Listening::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket, file) => Self::Unix(UnixListener::from_std(socket)?, file),
        })
    }

    async fn accept(&self) -> io::Result<(NetStream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                socket.accept().await.map(|(stream, peer)| (NetStream::Tcp(stream), peer.into()))
            }
            Self::Unix(socket, _) => {
                socket.accept().await.map(|(stream, _)| (NetStream::Unix(stream), Peer::Unix))
            }
        }
    }
}

fn prepare(stream: NetStream) -> io::Result<StdStream> {
    match stream {
        NetStream::Tcp(stream) => {
            // What leaves in one write is a whole batch already; nothing is won by waiting for more.
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_notsent_lowat(NOT_SENT_MAX)?;
            stream.into_std().map(StdStream::Tcp)
        }
        NetStream::Unix(stream) => stream.into_std().map(StdStream::Unix),
    }
}

fn least(loads: &[Arc<AtomicUsize>]) -> Option<(usize, &Arc<AtomicUsize>)> {
    loads.iter().enumerate().min_by_key(|(_, load)| load.load(Ordering::Relaxed))
}

/// Errors of a connection that was gone before it was accepted, not of the listening socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::listener::Metrics;

    #[tokio::test]
    async fn what_is_accepted_is_sent_at_once_or_waits_here() {
        let metrics = Metrics::register(&Registry::new()).unwrap().listener("public", false);
        let settings = Settings {
            name: "public".into(),
            address: Address::Ip("127.0.0.1:0".parse().unwrap()),
            mode: None,
            proxy_protocol: ProxyProtocol::Off,
            tls: None,
        };
        let listener = Listener::bind(settings, &mut HandedOver::from_env(), metrics).unwrap();
        let Bound::Ip(address) = listener.bound().unwrap() else { panic!("over TCP") };
        let policy = Policy::new(
            || AcceptLimits { connections: 1, per_ip: 1, descriptors: DescriptorLimit::new(None) },
            |_| false,
        );
        let (served, mut streams) = mpsc::channel(1);
        let serve = |_, accepted: Accepted| served.try_send(accepted.stream).unwrap();
        let accepting = listener.run(Arc::new([Arc::default()]), policy, serve);
        let _peer = std::net::TcpStream::connect(address).unwrap();
        let stream = tokio::select! {
            ended = accepting => panic!("{ended:?}"),
            stream = streams.recv() => stream.unwrap(),
        };
        let StdStream::Tcp(stream) = stream else { panic!("{stream:?}") };
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), NOT_SENT_MAX);
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), None);
    }
}
