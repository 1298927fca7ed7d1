//! What comes before the first request: the PROXY header, then TLS.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::time;
use tokio::time::Instant;

use crate::listener::proxy_protocol::{Header, InvalidHeader, ProxyProtocol, is_certain, parse};
use crate::listener::{ConnInfo, ListenerMetrics, NetStream, Policy, StdStream, Stream, Tls};

/// From the accept until the PROXY header is complete.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at bytes that may yet become a header or a request.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What is looked at of a connection at once.
const LOOK_BYTES: usize = 256;

/// What the connections of one listener are greeted with.
#[derive(Debug)]
pub(super) struct Greeter {
    pub(super) proxy_protocol: ProxyProtocol,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) policy: Arc<Policy>,
    pub(super) metrics: ListenerMetrics,
}

/// A connection that a worker is to greet: nothing has been read from it.
#[derive(Debug)]
pub struct Accepted {
    pub(super) stream: StdStream,
    pub(super) conn: ConnInfo,
    pub(super) greeter: Arc<Greeter>,
}

/// Why a connection has no first request.
#[derive(Debug, Error)]
pub enum GreetError {
    /// The runtime of this thread cannot watch the stream: our fault.
    #[error("a connection cannot be watched for readiness: {0}")]
    Unwatched(#[from] io::Error),
    /// The peer did not do its part; this is counted and in the log.
    #[error("a connection was refused before its first request")]
    Refused,
}

/// Why a PROXY header was not taken.
#[derive(Debug, Error)]
enum HeaderRefusal {
    #[error("the peer is no trusted proxy")]
    Untrusted,
    #[error("its PROXY header did not come within 3 s")]
    Late,
    #[error("it left within its PROXY header: {0}")]
    Gone(io::Error),
    #[error("its PROXY header cannot be used: {0}")]
    Invalid(#[from] InvalidHeader),
}

impl Accepted {
    /// Does what comes before the first request. For the worker that serves the connection.
    ///
    /// # Errors
    ///
    /// The runtime of this thread cannot watch the stream, or the peer did not do its part in time.
    pub async fn greet(self) -> Result<(Stream, ConnInfo), GreetError> {
        let Self { stream, mut conn, greeter } = self;
        let mut stream = stream.watch()?;
        if greeter.proxy_protocol != ProxyProtocol::Off {
            // In boxes of their own, so that a connection does not keep the room for them.
            let header = Box::pin(greeter.header(&mut stream, &conn)).await;
            let header = header.map_err(|refusal| {
                greeter.metrics.refused_proxy_protocol.inc();
                refused(&conn, &refusal)
            })?;
            if let Some(client) = header.and_then(|header| header.client) {
                conn.proxy = Some(conn.peer);
                conn.peer = client;
                // Its proxy had no place to take.
                let place = greeter.policy.place(client).map_err(|full| {
                    greeter.metrics.refused_per_ip.inc();
                    refused(&conn, &full)
                })?;
                if let Some(place) = place {
                    conn.open.hold(place);
                }
            }
        }
        let Some(tls) = &greeter.tls else { return Ok((Stream::Plain(stream), conn)) };
        match Box::pin(tls.accept(stream, greeter.metrics.tls.as_ref())).await {
            Ok((stream, info)) => {
                conn.tls = Some(info);
                Ok((Stream::Tls(stream), conn))
            }
            Err(refusal) => Err(refused(&conn, &format_args!("the TLS handshake failed: {refusal}"))),
        }
    }
}

fn refused(conn: &ConnInfo, why: &dyn fmt::Display) -> GreetError {
    let (listener, peer) = (&*conn.listener, conn.peer);
    tracing::debug!(conn = conn.id, listener, %peer, "refused: {why}");
    GreetError::Refused
}

impl Greeter {
    /// Takes the PROXY header off the stream; `None` for a client without one.
    async fn header(&self, stream: &mut NetStream, conn: &ConnInfo) -> Result<Option<Header>, HeaderRefusal> {
        let is_required = self.proxy_protocol == ProxyProtocol::Require;
        if !self.policy.trusts(conn.peer) {
            return if is_required { Err(HeaderRefusal::Untrusted) } else { Ok(None) };
        }
        let deadline = Instant::now() + HEADER_TIMEOUT;
        // A peer that says nothing may be a client that waits for its first request, and is given its time.
        let is_expected =
            is_required || time::timeout_at(deadline, is_announced(stream)).await.unwrap_or(Ok(false))?;
        if !is_expected {
            return Ok(None);
        }
        time::timeout_at(deadline, take(stream)).await.unwrap_or(Err(HeaderRefusal::Late)).map(Some)
    }
}

/// Whether a connection begins with a header, as its first bytes tell. They stay where they are.
async fn is_announced(stream: &NetStream) -> Result<bool, HeaderRefusal> {
    let mut bytes = [0; LOOK_BYTES];
    loop {
        let len = stream.peek(&mut bytes).await.map_err(HeaderRefusal::Gone)?;
        let bytes = bytes.get(..len).unwrap_or_default();
        if is_certain(bytes) {
            return Ok(true);
        }
        // A client that has left is none of ours to judge.
        if bytes.is_empty() || parse(bytes) == Err(InvalidHeader::Absent) {
            return Ok(false);
        }
        // The bytes that are there keep the stream ready, so more of them give no sign.
        time::sleep(LOOK_AGAIN).await;
    }
}

/// Reads one header and nothing behind it.
async fn take(stream: &mut NetStream) -> Result<Header, HeaderRefusal> {
    let mut bytes = Vec::new();
    let mut look = [0; LOOK_BYTES];
    loop {
        let taken = bytes.len();
        let len = stream.peek(&mut look).await.map_err(HeaderRefusal::Gone)?;
        if len == 0 {
            return Err(HeaderRefusal::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.extend_from_slice(look.get(..len).unwrap_or_default());
        let header = parse(&bytes)?;
        // All that was looked at is of the header, unless it is complete.
        let ours = header.map_or(bytes.len(), |header| header.len).saturating_sub(taken);
        if let Some(ours) = look.get_mut(..ours) {
            stream.read_exact(ours).await.map_err(HeaderRefusal::Gone)?;
        }
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n";

    fn pair() -> (NetStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (NetStream::Unix(ours), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_is_taken_to_its_last_byte_however_it_comes() {
        for step in [1, 2, 7, 64] {
            let (mut ours, mut theirs) = pair();
            let write = async {
                for part in [LINE, b"GET /"].concat().chunks(step) {
                    theirs.write_all(part).await.unwrap();
                    time::sleep(Duration::from_millis(1)).await;
                }
            };
            let (header, ()) = tokio::join!(take(&mut ours), write);
            assert_eq!(
                header.unwrap().client,
                Some("203.0.113.7:56324".parse::<std::net::SocketAddr>().unwrap().into())
            );
            let mut rest = [0; 5];
            ours.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"GET /");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_header_keeps_its_first_bytes() {
        for (first, then, announced) in [
            (&b"P"[..], &b"UT / HTTP/1.1"[..], false),
            (b"P", b"ROXY TCP4", true),
            (b"\r", b"\nGET /", false),
            (b"\r\n\r\n\0", b"\r\nQUIT\n", true),
            (b"", b"GET /", false),
            (b"\x16", b"\x03\x01", false),
        ] {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(first).await.unwrap();
            let write = async {
                time::sleep(Duration::from_millis(100)).await;
                theirs.write_all(then).await.unwrap();
            };
            let (found, ()) = tokio::join!(is_announced(&ours), write);
            assert_eq!(found.unwrap(), announced, "{}", first.escape_ascii());
            let mut kept = vec![0; first.len() + then.len()];
            ours.read_exact(&mut kept).await.unwrap();
            assert_eq!(kept, [first, then].concat());
        }
    }
}
