//! What each connection is at, and when it has to end.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::listener::Stream;

// Times are counted in looks of the keeper, one a second, and are a second longer at most.

/// From the greeting, or from the first byte of a later request, until the request head is complete.
pub(super) const HEAD_BEATS: u64 = 10;
/// Between two requests. Longer than proxies in front keep connections that they do not use (nginx: 60 s), so that
/// it is they who end them and no request meets a connection that is just closing.
pub(super) const IDLE_BEATS: u64 = 75;
/// An idle connection that is to end has this long to take the last bytes.
pub(super) const GOODBYE_BEATS: u64 = 5;
/// A client may take nothing of what waits for it for so long, be it dead or not reading.
pub(super) const STALL_BEATS: u64 = 60;

/// What a connection is at: waiting for a request, reading one, or answering some.
///
/// It stays on the thread of its connection; hyper upgrades only streams that could leave it, hence the atomics.
#[derive(Debug)]
pub(super) struct Pace {
    /// Over HTTP/2 bytes that come are no sign of a request: they may be pings.
    http2: bool,
    /// Whether it came while the process was draining. Then it is answered, once.
    late: bool,
    in_flight: AtomicUsize,
    reading: AtomicBool,
    /// The clock of its keeper.
    beats: Arc<AtomicU64>,
    /// Since when it waits or reads.
    since: AtomicU64,
    opened_at: Instant,
    /// Whether the kernel has no room for what is to be sent.
    full: AtomicBool,
    /// Since when it is so or not, in milliseconds after the connection was opened.
    flushed_ms: AtomicU64,
    /// When the kernel last had room, while it has not enough.
    moved: AtomicU64,
    /// Whether its end now would look like that of an answer which is not whole.
    fragile: AtomicBool,
    /// An [`Order`].
    order: AtomicU8,
    task: OnceLock<Waker>,
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// To go on.
    Serve,
    /// To end once what is being answered is.
    Finish,
    /// To end.
    End,
}

/// A request being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Pace>);

impl Pace {
    /// A connection whose first request is awaited.
    pub(super) fn new(http2: bool, late: bool, beats: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            http2,
            late,
            in_flight: AtomicUsize::new(0),
            reading: AtomicBool::new(true),
            since: AtomicU64::new(beats.load(Ordering::Relaxed)),
            beats,
            opened_at: Instant::now(),
            full: AtomicBool::new(false),
            flushed_ms: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            fragile: AtomicBool::new(false),
            order: AtomicU8::new(Order::Serve as u8),
            task: OnceLock::new(),
        })
    }

    /// A request head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Whether the connection came while the process was draining.
    pub(super) fn is_late(&self) -> bool {
        self.late
    }

    /// Whether the client has taken nothing for too long.
    pub(super) fn has_stalled(&self) -> bool {
        let stalled = self.beats.load(Ordering::Relaxed) - self.moved.load(Ordering::Relaxed);
        self.full.load(Ordering::Relaxed) && STALL_BEATS < stalled
    }

    /// Ready when there is a stricter order than the one that is known. To be polled by one task only.
    pub(super) fn poll_order(&self, known: Order, context: &Context<'_>) -> Poll<Order> {
        self.task.get_or_init(|| context.waker().clone());
        let order = self.order();
        if known < order { Poll::Ready(order) } else { Poll::Pending }
    }

    pub(super) fn order(&self) -> Order {
        match self.order.load(Ordering::Relaxed) {
            0 => Order::Serve,
            1 => Order::Finish,
            _ => Order::End,
        }
    }

    /// Gives an order, unless a stricter one was given.
    pub(super) fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::Relaxed) < order as u8
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }

    /// What is due at this beat.
    pub(super) fn due(&self) -> Order {
        if self.full.load(Ordering::Relaxed) {
            return if self.has_stalled() { Order::End } else { Order::Serve };
        }
        let waited = self.beats.load(Ordering::Relaxed) - self.since.load(Ordering::Relaxed);
        let (reading, finishing) = (self.reading.load(Ordering::Relaxed), self.order() != Order::Serve);
        match self.in_flight.load(Ordering::Relaxed) {
            0 if reading && HEAD_BEATS < waited => Order::End,
            0 if !reading && IDLE_BEATS + GOODBYE_BEATS < waited && finishing => Order::End,
            0 if !reading && IDLE_BEATS < waited => Order::Finish,
            // Nothing is due while something is answered. When that ends, the idle time begins.
            _ => Order::Serve,
        }
    }

    pub(super) fn on_bytes(&self) {
        let waiting = self.in_flight.load(Ordering::Relaxed) == 0 && !self.reading.load(Ordering::Relaxed);
        if !self.http2 && waiting {
            self.reading.store(true, Ordering::Relaxed);
            self.begin_waiting();
        }
    }

    /// Since when nothing of what was to be sent waits for the kernel.
    pub(super) fn flushed_since(&self) -> Instant {
        if self.full.load(Ordering::Relaxed) {
            return Instant::now();
        }
        self.opened_at + Duration::from_millis(self.flushed_ms.load(Ordering::Relaxed))
    }

    /// The kernel was given something to send, and has taken some of it or nothing.
    pub(super) fn on_write(&self, taken: bool) {
        if !taken {
            self.on_flush(false);
        } else if self.full.load(Ordering::Relaxed) {
            self.moved.store(self.beats.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// What was to be sent is with the kernel, or some of it has to wait.
    pub(super) fn on_flush(&self, flushed: bool) {
        if self.full.load(Ordering::Relaxed) == flushed {
            self.full.store(!flushed, Ordering::Relaxed);
            self.moved.store(self.beats.load(Ordering::Relaxed), Ordering::Relaxed);
            let now = u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.flushed_ms.store(now, Ordering::Relaxed);
            // A client that takes its answer is not idle.
            if !self.reading.load(Ordering::Relaxed) {
                self.begin_waiting();
            }
        }
    }

    /// From the next write on until all is answered and sent, its end is a reset.
    pub(super) fn mark_fragile(&self) {
        self.fragile.store(true, Ordering::Relaxed);
    }

    fn begin_waiting(&self) {
        self.since.store(self.beats.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl InFlight {
    /// Until it is answered whole, the client is to see the end of the connection as a reset.
    pub(super) fn mark_fragile(&self) {
        self.0.mark_fragile();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self(pace) = self;
        pace.in_flight.fetch_sub(1, Ordering::Relaxed);
        pace.reading.store(false, Ordering::Relaxed);
        pace.begin_waiting();
    }
}

/// A stream that tells the pace of its connection when bytes come, and whether they leave.
#[derive(Debug)]
pub(super) struct Paced {
    stream: Stream,
    pace: Arc<Pace>,
    /// Whether its end is a reset as it is.
    resets: bool,
}

impl Paced {
    pub(super) fn new(stream: Stream, pace: Arc<Pace>) -> Self {
        Self { stream, pace, resets: false }
    }

    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }

    fn before_write(&mut self) {
        if !self.resets && self.pace.fragile.load(Ordering::Relaxed) {
            self.resets = true;
            self.stream.set_reset_at_end(true);
        }
    }

    fn after_flush(&mut self) {
        if self.resets && self.pace.in_flight.load(Ordering::Relaxed) == 0 {
            self.resets = false;
            self.pace.fragile.store(false, Ordering::Relaxed);
            self.stream.set_reset_at_end(false);
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if before < buffer.filled().len() {
            self.pace.on_bytes();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pace.on_write(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.pace.on_write(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.pace.on_flush(flushed.is_ready());
        if flushed.is_ready() {
            self.after_flush();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_flushed_since_nothing_waits_for_the_kernel() {
        let pace = Pace::new(true, false, Arc::default());
        let flushed_for = || pace.flushed_since().elapsed().as_secs();
        time::advance(Duration::from_secs(5)).await;
        pace.on_flush(true);
        assert_eq!(flushed_for(), 5);
        pace.on_flush(false);
        time::advance(Duration::from_secs(5)).await;
        assert_eq!(flushed_for(), 0);
        pace.on_flush(false);
        pace.on_flush(true);
        time::advance(Duration::from_secs(5)).await;
        pace.on_flush(true);
        assert_eq!(flushed_for(), 5);
    }
}
