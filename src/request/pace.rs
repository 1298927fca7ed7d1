//! What each connection is at, and when it has to end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;
use tokio::time;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::listener::Stream;
use crate::session::Worker;

/// Between two looks of a keeper. The times below are counted in these, and are that much longer at most.
const BEAT: Duration = Duration::from_secs(1);
/// From the greeting, or from the first byte of a later request, until the request head is complete.
const HEAD_BEATS: u64 = 10;
/// Between two requests. Longer than proxies in front keep connections that they do not use (nginx: 60 s), so that
/// it is they who end them and no request meets a connection that is just closing.
const IDLE_BEATS: u64 = 75;
/// An idle connection that is to end has this long to take the last bytes.
const GOODBYE_BEATS: u64 = 5;
/// A client may take nothing of what waits for it for so long, be it dead or not reading.
const STALL_BEATS: u64 = 60;

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

    fn order(&self) -> Order {
        match self.order.load(Ordering::Relaxed) {
            0 => Order::Serve,
            1 => Order::Finish,
            _ => Order::End,
        }
    }

    fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::Relaxed) < order as u8
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }

    /// What is due at this beat.
    fn due(&self) -> Order {
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

    fn on_bytes(&self) {
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
    fn on_write(&self, taken: bool) {
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

/// Looks after the connections of one worker, so that none needs timers of its own, or asks the clock.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Looks so far.
    beats: Arc<AtomicU64>,
    /// Those of its connections, by their numbers.
    paces: RefCell<BTreeMap<u64, Arc<Pace>>>,
    /// Whether a task does it. An idle worker has nothing to do.
    running: Cell<bool>,
}

/// A connection that is looked after until this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    keeper: Rc<Keeper>,
    id: u64,
    pub(super) pace: Arc<Pace>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.keeper.paces.borrow_mut().remove(&self.id);
    }
}

impl Keeper {
    /// A connection, by its number, whose first request is awaited.
    pub(super) fn watch(self: &Rc<Self>, worker: &Worker, id: u64, http2: bool) -> Watched {
        let pace = self.add(id, http2, worker.draining().is_cancelled());
        if !self.running.replace(true) {
            let keeper = Rc::clone(self);
            spawn_local(keeper.run(worker.draining().clone(), worker.finishing().clone()));
        }
        Watched { keeper: Rc::clone(self), id, pace }
    }

    pub(super) fn add(&self, id: u64, http2: bool, late: bool) -> Arc<Pace> {
        let pace = Arc::new(Pace {
            http2,
            late,
            in_flight: AtomicUsize::new(0),
            reading: AtomicBool::new(true),
            beats: Arc::clone(&self.beats),
            since: AtomicU64::new(self.beats.load(Ordering::Relaxed)),
            opened_at: Instant::now(),
            full: AtomicBool::new(false),
            flushed_ms: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            fragile: AtomicBool::new(false),
            order: AtomicU8::new(Order::Serve as u8),
            task: OnceLock::new(),
        });
        self.paces.borrow_mut().insert(id, Arc::clone(&pace));
        pace
    }

    /// Runs while there are connections.
    async fn run(self: Rc<Self>, draining: CancellationToken, finishing: CancellationToken) {
        let (mut drained, mut finished) = (false, false);
        while self.running.get() {
            tokio::select! {
                () = draining.cancelled(), if !drained => {
                    drained = true;
                    self.finish(|pace| !pace.late);
                }
                () = finishing.cancelled(), if !finished => {
                    finished = true;
                    self.finish(|_| true);
                }
                () = time::sleep(BEAT) => self.running.set(self.beat()),
            }
        }
    }

    /// What is being answered still is; a connection between two requests ends.
    fn finish(&self, which: impl Fn(&Pace) -> bool) {
        for pace in self.paces.borrow().values().filter(|pace| which(pace)) {
            pace.tell(Order::Finish);
        }
    }

    /// Looks at all connections; tells whether there are any.
    fn beat(&self) -> bool {
        self.beats.fetch_add(1, Ordering::Relaxed);
        let paces = self.paces.borrow();
        for pace in paces.values() {
            pace.tell(pace.due());
        }
        !paces.is_empty()
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
    use super::*;

    fn beat(keeper: &Keeper, times: u64) {
        for _ in 0..times {
            keeper.beat();
        }
    }

    #[test]
    fn a_request_head_has_ten_seconds_and_a_quiet_connection_more() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        let answering = pace.begin();
        beat(&keeper, 3_600);
        assert_eq!(pace.order(), Order::Serve);
        drop(answering);
        beat(&keeper, IDLE_BEATS);
        assert_eq!(pace.order(), Order::Serve);

        pace.on_bytes();
        beat(&keeper, 5);
        // Only the first byte counts: a head may not come byte by byte for ever.
        pace.on_bytes();
        beat(&keeper, 5);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn a_connection_that_asks_for_nothing_ends_after_a_goodbye() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        drop(pace.begin());
        beat(&keeper, IDLE_BEATS);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::Finish);
        beat(&keeper, GOODBYE_BEATS - 1);
        assert_eq!(pace.order(), Order::Finish);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn a_first_head_is_awaited_for_ten_seconds() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        beat(&keeper, HEAD_BEATS);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn a_client_that_takes_nothing_has_a_minute() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        let answering = pace.begin();
        pace.on_write(false);
        for _ in 0..5 {
            beat(&keeper, STALL_BEATS);
            assert_eq!(pace.order(), Order::Serve);
            // However little it takes, it lives.
            pace.on_write(true);
            pace.on_write(false);
        }
        // The rest may take long after the last piece was handed over.
        drop(answering);
        beat(&keeper, STALL_BEATS);
        pace.on_write(true);
        beat(&keeper, STALL_BEATS);
        pace.on_write(true);
        pace.on_flush(true);
        beat(&keeper, IDLE_BEATS);
        assert_eq!(pace.order(), Order::Serve);

        let _answering = pace.begin();
        pace.on_flush(false);
        beat(&keeper, STALL_BEATS);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn pings_keep_no_connection_of_http_2() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, true, false);
        drop(pace.begin());
        for _ in 0..=IDLE_BEATS {
            assert_eq!(pace.order(), Order::Serve);
            keeper.beat();
            pace.on_bytes();
        }
        assert_eq!(pace.order(), Order::Finish);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_flushed_since_nothing_waits_for_the_kernel() {
        let pace = Keeper::default().add(1, true, false);
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

    #[test]
    fn a_connection_that_came_late_is_answered_first() {
        let keeper = Keeper::default();
        let (early, late) = (keeper.add(1, false, false), keeper.add(2, false, true));
        keeper.finish(|pace| !pace.late);
        assert_eq!((early.order(), late.order()), (Order::Finish, Order::Serve));
        keeper.finish(|_| true);
        assert_eq!(late.order(), Order::Finish);
    }

    #[test]
    fn a_connection_is_forgotten_with_its_end_and_then_nothing_is_to_do() {
        let keeper = Rc::<Keeper>::default();
        let watch = |id| Watched { keeper: Rc::clone(&keeper), id, pace: keeper.add(id, false, false) };
        let watched = [watch(1), watch(2)];
        assert!(keeper.beat());
        drop(watched);
        assert!(!keeper.beat());
    }
}
