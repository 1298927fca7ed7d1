//! A WebSocket that the application holds itself: bytes both ways, unread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::task::coop;
use tokio::time;
use tokio::time::Instant;

use crate::listener::Readable;
use crate::upstream::UpstreamStream;
use crate::upstream::server::Flight;
use crate::upstream::strand::Strand;

/// What is read at once. Only what the other side does not take is kept by a tunnel, so an idle one has no buffer.
const CHUNK: usize = 16 << 10;
/// How often within `tunnel_timeout` it is looked whether anything went through.
const QUARTERS: u32 = 4;
/// Reads in one direction before others get their turn.
const READS_MAX: usize = 16;
/// For the last bytes and the end of the stream to be taken.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// The upstream's side of a tunnel. It counts as a request until it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    stream: UpstreamStream,
    /// What came right behind the 101.
    early: Bytes,
    flight: Flight,
    open: Open,
}

/// Keeps the tunnel on the gauge.
#[derive(Debug)]
struct Open(IntGauge);

impl Tunnel {
    pub(super) fn new(stream: UpstreamStream, early: Bytes, flight: Flight) -> Self {
        let open = Open(flight.upstream().metrics.tunnels.clone());
        open.0.inc();
        Self { stream, early, flight, open }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How a tunnel ended, and what went through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub cause: Cause,
    /// Bytes from the client to the server.
    pub bytes_to_server: u64,
    /// Bytes from the server to the client.
    pub bytes_to_client: u64,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides ended their streams.
    Closed,
    /// The client is gone.
    ClientLost,
    /// The server is gone.
    ServerLost,
    /// Nothing went either way for too long.
    Idle,
    /// The drain is over.
    Stopped,
}

impl Cause {
    /// A fixed word for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientLost => "client_lost",
            Self::ServerLost => "server_lost",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    /// What was read and not yet taken.
    waiting: Bytes,
    bytes: u64,
    /// Bytes went on that may still be in TLS.
    unflushed: bool,
    source: Source,
}

/// What is known of a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Source {
    /// There may be something to read.
    #[default]
    Open,
    /// There was nothing, and it wakes this task when there is.
    Awaited,
    /// It has ended, which the writer is still to be told.
    Ended,
    /// The writer has been told.
    Shut,
}

/// Which side of a direction has failed.
enum Failed {
    Reader,
    Writer,
}

/// Copies both ways until both sides have ended, one of them fails, nothing goes through for the upstream's
/// `tunnel_timeout` and at most a quarter more, or `stop` resolves.
///
/// The end of one side's stream is passed on, and the other may go on. `early` is what the client sent behind
/// its handshake. At the end both streams are shut down.
///
/// Must be polled with one waker, as tasks are.
pub async fn tunnel(
    mut client: impl Readable + AsyncWrite + Unpin,
    early: Bytes,
    tunnel: Tunnel,
    stop: impl Future<Output = ()>,
) -> Ended {
    let Tunnel { stream: mut server, early: early_answer, flight, open } = tunnel;
    let silence_max = flight.upstream().settings.tunnel_timeout;
    let mut up = Pipe { waiting: early, ..Pipe::default() };
    let mut down = Pipe { waiting: early_answer, ..Pipe::default() };
    let mut stop = pin!(stop);
    // The clock is not asked at each message: what is counted is quarters in which nothing went through.
    let quarter = silence_max / QUARTERS;
    let mut silence = pin!(time::sleep(quarter));
    let (mut moved, mut quiet_quarters) = (false, 0);
    let mut ends = None;
    let cause = poll_fn(|context| {
        let before = (up.bytes, down.bytes);
        let upwards = up.poll(context, &mut client, &mut server);
        let downwards = down.poll(context, &mut server, &mut client);
        match (upwards, downwards) {
            (Poll::Ready(Err(Failed::Reader)), _) | (_, Poll::Ready(Err(Failed::Writer))) => {
                return Poll::Ready(Cause::ClientLost);
            }
            (Poll::Ready(Err(Failed::Writer)), _) | (_, Poll::Ready(Err(Failed::Reader))) => {
                return Poll::Ready(Cause::ServerLost);
            }
            _ if up.source == Source::Shut && down.source == Source::Shut => {
                return Poll::Ready(Cause::Closed);
            }
            _ => (),
        }
        moved |= before != (up.bytes, down.bytes);
        ends.get_or_insert_with(|| Strand::new(context.waker())).poll(|context| {
            if stop.as_mut().poll(context).is_ready() {
                return Poll::Ready(Cause::Stopped);
            }
            while silence.as_mut().poll(context).is_ready() {
                quiet_quarters = if mem::take(&mut moved) { 0 } else { quiet_quarters + 1 };
                if quiet_quarters == QUARTERS {
                    return Poll::Ready(Cause::Idle);
                }
                silence.as_mut().reset(Instant::now() + quarter);
            }
            Poll::Pending
        })
    })
    .await;
    // Either side may be gone already.
    let both = async { tokio::join!(client.shutdown(), server.shutdown()) };
    if time::timeout(SHUTDOWN_TIMEOUT, both).await.is_err() {
        tracing::debug!("a side of a tunnel does not take its end");
    }
    let metrics = &flight.upstream().metrics;
    drop(open);
    metrics.bytes_to_server.inc_by(up.bytes);
    metrics.bytes_to_client.inc_by(down.bytes);
    Ended { cause, bytes_to_server: up.bytes, bytes_to_client: down.bytes }
}

impl Pipe {
    /// Moves what can be moved; ready when the stream has ended and its end was passed on.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl Readable + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Failed>> {
        if self.source == Source::Awaited {
            if !self.unflushed && !reader.is_readable() {
                return Poll::Pending;
            }
            self.source = Source::Open;
        }
        for _ in 0..READS_MAX {
            while !self.waiting.is_empty() {
                let len = ready!(self.poll_write(context, writer)).map_err(|_| Failed::Writer)?;
                self.waiting = self.waiting.split_off(len);
            }
            if self.source == Source::Ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(context)).map_err(|_| Failed::Writer)?;
                self.source = Source::Shut;
            }
            if self.source == Source::Shut {
                return Poll::Ready(Ok(()));
            }
            let read = match self.poll_read_on(context, reader, writer)? {
                // There was room for more, so most likely there is none. What waits has to be written first.
                Poll::Ready(1..CHUNK) if self.waiting.is_empty() => reader.poll_readable(context),
                read => read.map(|_| ()),
            };
            if read.is_pending() {
                // A task out of budget was put off before its waker got anywhere.
                if coop::has_budget_remaining() {
                    self.source = Source::Awaited;
                }
                // What could not be read yet must not keep what was from going out.
                if self.unflushed
                    && Pin::new(&mut *writer).poll_flush(context).map_err(|_| Failed::Writer)?.is_ready()
                {
                    self.unflushed = false;
                }
            }
            ready!(read);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(writer).poll_write(context, &self.waiting))?;
        if len == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.bytes += len as u64;
        self.unflushed = true;
        Poll::Ready(Ok(len))
    }

    /// Reads once into the buffer of this thread and writes what the other side takes of it. Says how much it has read:
    /// nothing at the end.
    fn poll_read_on(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<usize, Failed>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(reader).poll_read(context, &mut buffer)).map_err(|_| Failed::Reader)?;
            let read = buffer.filled();
            if read.is_empty() {
                self.source = Source::Ended;
                return Poll::Ready(Ok(0));
            }
            let written = match Pin::new(writer).poll_write(context, read) {
                Poll::Ready(Ok(len)) => len,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failed::Writer)),
                Poll::Pending => 0,
            };
            if 0 < written {
                self.bytes += written as u64;
                self.unflushed = true;
            }
            if let Some(rest) = read.get(written..).filter(|rest| !rest.is_empty()) {
                self.waiting = Bytes::copy_from_slice(rest);
            }
            Poll::Ready(Ok(read.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt as _, BufWriter, DuplexStream, duplex};
    use tokio::net::UnixStream;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::listener::NetStream;

    const WAIT_MAX: Duration = Duration::from_secs(10);
    const TEXT: &[u8] = b"some bytes, more than the writer takes at once";

    /// Moves one way in a task of its own that has used so much of its budget before. Counts how often it is polled.
    fn pipe(
        reader: UnixStream,
        mut writer: impl AsyncWrite + Unpin + 'static,
        used: usize,
        polls: Rc<Cell<usize>>,
    ) {
        spawn_local(async move {
            let mut reader = NetStream::Unix(reader);
            let mut pipe = Pipe::default();
            for _ in 0..used {
                coop::consume_budget().await;
            }
            let all = poll_fn(|context| {
                polls.set(polls.get() + 1);
                pipe.poll(context, &mut reader, &mut writer)
            });
            assert!(all.await.is_ok());
        });
    }

    async fn within(work: impl Future<Output = ()>) {
        time::timeout(WAIT_MAX, LocalSet::new().run_until(work)).await.unwrap();
    }

    async fn arrives(output: &mut DuplexStream) {
        let mut received = [0; TEXT.len()];
        output.read_exact(&mut received).await.unwrap();
        assert_eq!(received, TEXT);
    }

    #[tokio::test]
    async fn a_task_that_runs_out_of_budget_is_still_woken() {
        within(async {
            let mut pipes = Vec::new();
            // More than any budget.
            for used in 0..300 {
                let (reader, theirs) = UnixStream::pair().unwrap();
                let (writer, output) = duplex(64);
                let polls = Rc::default();
                pipe(reader, writer, used, Rc::clone(&polls));
                pipes.push((theirs, output, polls));
            }
            // All find nothing at first, and those that were put off find it once more.
            while pipes.iter().any(|(.., polls)| polls.get() == 0) {
                yield_now().await;
            }
            for _ in &pipes {
                yield_now().await;
            }
            for (used, (mut theirs, mut output, _)) in pipes.into_iter().enumerate() {
                theirs.write_all(TEXT).await.unwrap();
                let arrived = time::timeout(Duration::from_secs(2), arrives(&mut output)).await;
                assert!(arrived.is_ok(), "nothing with {used} used");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_not_taken_at_once_goes_out_though_nothing_follows() {
        within(async {
            // Refused by the writer, and kept by it until it is flushed.
            for keeps in [false, true] {
                let (reader, mut theirs) = UnixStream::pair().unwrap();
                let (writer, mut output) = duplex(8);
                if keeps {
                    pipe(reader, BufWriter::new(writer), 0, Rc::default());
                } else {
                    pipe(reader, writer, 0, Rc::default());
                }
                theirs.write_all(TEXT).await.unwrap();
                arrives(&mut output).await;
            }
        })
        .await;
    }
}
