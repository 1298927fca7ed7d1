//! Accepting, and spreading what came evenly over the workers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time;

use crate::listener::{ConnInfo, ListenerMetrics, StdStream, Stream};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4_096;
/// First and longest pause after an error of `accept`.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What was sent may stay unacknowledged, or a peer's window closed, for so long.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Numbers all connections of the process.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    name: Arc<str>,
    socket: std::net::TcpListener,
    metrics: ListenerMetrics,
}

/// A connection that a worker is to greet: nothing has been read from it.
#[derive(Debug)]
pub struct Accepted {
    stream: StdStream,
    conn: ConnInfo,
}

impl Accepted {
    /// Does what comes before the first request.
    ///
    /// # Errors
    ///
    /// The runtime of this thread cannot watch the stream.
    #[expect(clippy::unused_async, reason = "a greeting may wait for the peer")]
    pub async fn greet(self) -> io::Result<(Stream, ConnInfo)> {
        let Self { stream, conn } = self;
        Ok((Stream::Plain(stream.watch()?), conn))
    }
}

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("listener `{name}` cannot listen on {address}")]
pub struct ListenError {
    name: Arc<str>,
    address: SocketAddr,
    source: io::Error,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// The address is taken, not ours or not allowed.
    pub fn bind(name: Arc<str>, address: SocketAddr, metrics: ListenerMetrics) -> Result<Self, ListenError> {
        match bind(address) {
            Ok(socket) => Ok(Self { name, socket, metrics }),
            Err(source) => Err(ListenError { name, address, source }),
        }
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bound address, with the port that the system chose for port 0.
    ///
    /// # Errors
    ///
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts for ever, each connection for the worker that has the fewest.
    ///
    /// `connections_max` is asked for each connection: it is a live setting. What comes beyond is closed
    /// at once. An error of `accept` (no descriptor left, most likely) is waited out, longer each time.
    ///
    /// A connection ends when what was sent on it has waited 30 s for its peer, dead or not reading. Rule:
    /// `TCP_USER_TIMEOUT` in tcp(7).
    ///
    /// # Errors
    ///
    /// The runtime cannot watch the socket for readiness.
    pub async fn run(
        self,
        loads: Arc<[Arc<AtomicUsize>]>,
        connections_max: impl Fn() -> usize,
        serve: impl Fn(usize, Accepted),
    ) -> io::Result<()> {
        let Self { name, socket, metrics } = self;
        let socket = TcpListener::from_std(socket)?;
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
            if connections_max() <= open {
                metrics.refused_limit.inc();
                continue;
            }
            let Some((worker, load)) = least(&loads) else { continue };
            metrics.accepted.inc();
            let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
            let conn = ConnInfo::new(
                id,
                peer.into(),
                Arc::clone(&name),
                metrics.connections.clone(),
                Arc::clone(load),
            );
            // The worker's runtime watches the stream from here on, not this one.
            match prepare(&stream).and_then(|()| stream.into_std()) {
                Ok(stream) => serve(worker, Accepted { stream: StdStream::Tcp(stream), conn }),
                Err(error) => tracing::debug!(conn = id, %error, "a connection ended before it was served"),
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Sockets of a process that just ended must not keep its successor from the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn prepare(stream: &tokio::net::TcpStream) -> io::Result<()> {
    // What leaves in one write is a whole batch already; nothing is won by waiting for more.
    stream.set_nodelay(true)?;
    // Nothing else ends a connection whose peer does not read the answer to a request.
    SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
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
    async fn what_is_accepted_waits_neither_to_send_nor_for_ever_for_its_peer() {
        let metrics = Metrics::register(&Registry::new()).unwrap().listener("public");
        let listener = Listener::bind("public".into(), "127.0.0.1:0".parse().unwrap(), metrics).unwrap();
        let address = listener.address().unwrap();
        let (served, mut streams) = mpsc::channel(1);
        let serve = |_, accepted: Accepted| served.try_send(accepted.stream).unwrap();
        let accepting = listener.run(Arc::new([Arc::default()]), || 1, serve);
        let _peer = std::net::TcpStream::connect(address).unwrap();
        let stream = tokio::select! {
            ended = accepting => panic!("{ended:?}"),
            stream = streams.recv() => stream.unwrap(),
        };
        let StdStream::Tcp(stream) = stream else { panic!("{stream:?}") };
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
    }
}
