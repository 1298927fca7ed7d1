//! How long a client may take for its next request.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::listener::Stream;

/// From the greeting, or from the first byte of a later request, until the request head is complete.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two requests. Longer than proxies in front keep connections that they do not use (nginx: 60 s), so that
/// it is they who end them and no request meets a connection that is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What a connection is at: waiting for a request, reading one, or answering some.
///
/// It stays on the thread of its connection; hyper upgrades only streams that could leave it, hence the atomics.
#[derive(Debug)]
pub(super) struct Pace {
    /// Over HTTP/2 bytes that come are no sign of a request: they may be pings.
    http2: bool,
    in_flight: AtomicUsize,
    reading: AtomicBool,
    opened_at: Instant,
    /// Since when it waits or reads, in milliseconds after it was opened.
    since_ms: AtomicU64,
}

/// What is to be done with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before then.
    Later(Instant),
    /// It is not needed: it may be ended politely.
    Idle,
    /// The client does not finish its request head.
    Head,
}

/// A request being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Pace>);

impl Pace {
    /// A connection whose first request is awaited.
    pub(super) fn new(http2: bool) -> Arc<Self> {
        Arc::new(Self {
            http2,
            in_flight: AtomicUsize::new(0),
            reading: AtomicBool::new(true),
            opened_at: Instant::now(),
            since_ms: AtomicU64::new(0),
        })
    }

    /// A request head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// What is to be done at this moment.
    pub(super) fn due(&self, now: Instant) -> Due {
        let (limit, due) =
            match (self.in_flight.load(Ordering::Relaxed), self.reading.load(Ordering::Relaxed)) {
                (0, true) => (HEAD_TIMEOUT, Due::Head),
                (0, false) => (IDLE_TIMEOUT, Due::Idle),
                // Nothing is due while something is answered. When that ends, the idle time begins.
                (_, _) => return Due::Later(now + HEAD_TIMEOUT),
            };
        let at = self.opened_at + Duration::from_millis(self.since_ms.load(Ordering::Relaxed)) + limit;
        if at <= now { due } else { Due::Later(at.min(now + HEAD_TIMEOUT)) }
    }

    fn on_bytes(&self) {
        let waiting = self.in_flight.load(Ordering::Relaxed) == 0 && !self.reading.load(Ordering::Relaxed);
        if !self.http2 && waiting {
            self.reading.store(true, Ordering::Relaxed);
            self.now();
        }
    }

    fn now(&self) {
        let since = u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(since, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self(pace) = self;
        pace.in_flight.fetch_sub(1, Ordering::Relaxed);
        pace.reading.store(false, Ordering::Relaxed);
        pace.now();
    }
}

/// A stream that tells the pace of its connection when bytes come.
#[derive(Debug)]
pub(super) struct Paced {
    stream: Stream,
    pace: Arc<Pace>,
}

impl Paced {
    pub(super) fn new(stream: Stream, pace: Arc<Pace>) -> Self {
        Self { stream, pace }
    }

    pub(super) fn into_inner(self) -> Stream {
        self.stream
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
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    fn due(pace: &Pace) -> Due {
        match pace.due(Instant::now()) {
            // What matters is that it is not due, not when to look again.
            Due::Later(_) => Due::Later(Instant::now()),
            due => due,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_head_has_ten_seconds_and_a_quiet_connection_more() {
        let pace = Pace::new(false);
        let later = || Due::Later(Instant::now());
        time::advance(Duration::from_secs(9)).await;
        assert_eq!(due(&pace), later());
        time::advance(Duration::from_secs(1)).await;
        assert_eq!(due(&pace), Due::Head);

        let answering = pace.begin();
        time::advance(Duration::from_hours(1)).await;
        assert_eq!(due(&pace), later());
        drop(answering);
        time::advance(Duration::from_secs(74)).await;
        assert_eq!(due(&pace), later());
        time::advance(Duration::from_secs(1)).await;
        assert_eq!(due(&pace), Due::Idle);

        pace.on_bytes();
        assert_eq!(due(&pace), later());
        time::advance(Duration::from_secs(5)).await;
        // Only the first byte counts: a head may not come byte by byte for ever.
        pace.on_bytes();
        time::advance(Duration::from_secs(5)).await;
        assert_eq!(due(&pace), Due::Head);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_keep_no_connection_of_http_2() {
        let pace = Pace::new(true);
        drop(pace.begin());
        for _ in 0..75 {
            assert_ne!(due(&pace), Due::Idle);
            time::advance(Duration::from_secs(1)).await;
            pace.on_bytes();
        }
        assert_eq!(due(&pace), Due::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_look_is_never_far() {
        let pace = Pace::new(false);
        drop(pace.begin());
        let Due::Later(at) = pace.due(Instant::now()) else { panic!("due at once") };
        // A byte may come at any time, and then the head has only so long.
        assert_eq!(at - Instant::now(), HEAD_TIMEOUT);
    }
}
