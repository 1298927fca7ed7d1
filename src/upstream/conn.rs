//! A connection to a server, for one request after the other, in the task of the request.
//!
//! A task of its own for each connection, with channels between, costs more than all that is done here.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time;
use tokio::time::{Instant, Sleep};

use crate::upstream::answer::Head;
use crate::upstream::outgoing::{Outgoing, Unsent};
use crate::upstream::{BoxError, UpstreamError, UpstreamStream};

/// What is read at once.
const CHUNK: usize = 32 << 10;
/// Heads that a server may send ahead of the answer: 100, 102, 103.
const INTERIM_MAX: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// A connection to a server. An idle one has no buffer.
pub(super) struct Conn {
    pub(super) stream: UpstreamStream,
    /// What has come and was not taken yet.
    pub(super) input: Bytes,
    silence: Silence,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("input", &self.input.len()).finish_non_exhaustive()
    }
}

impl Conn {
    pub(super) fn new(stream: UpstreamStream) -> Self {
        Self { stream, input: Bytes::new(), silence: Silence::default() }
    }

    /// Whether the server waits for another request. It must not have spoken or left since the last one.
    pub(super) fn is_fit(&mut self) -> bool {
        // Costs a call of the system only if there is something to read.
        let look = pin!(unconstrained(poll_fn(|context| self.poll_fill(context))));
        let is_quiet = look.poll(&mut Context::from_waker(Waker::noop())).is_pending();
        is_quiet && self.input.is_empty()
    }

    /// Reads once; 0 when the server has ended its stream.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let read = buffer.filled();
            self.input = if self.input.is_empty() {
                Bytes::copy_from_slice(read)
            } else {
                // A part of a head, or of a line before a chunk.
                [&self.input, read].concat().into()
            };
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Ready when the server has been silent until the time that [`Conn::begin_silence`] was given.
    pub(super) fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.silence.poll(context)
    }

    pub(super) fn begin_silence(&mut self, until: Instant) {
        self.silence.begin(until);
    }

    /// Sends a request from its beginning and waits for the head of its answer. The body of the request may not have
    /// gone out then. One that was begun elsewhere must be bare.
    ///
    /// Only silence that is the server's counts, from `began_at` on: while the client is waited for, it does not.
    ///
    /// # Errors
    ///
    /// There is no answer. The connection is of no use any more.
    pub(super) async fn exchange<B>(
        &mut self,
        outgoing: &mut Outgoing<B>,
        to_head: bool,
        began_at: Instant,
        silence_max: Duration,
    ) -> Result<Head, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        outgoing.rewind();
        self.begin_silence(began_at + silence_max);
        let mut searched = 0;
        let mut interim = 0;
        poll_fn(|context| {
            match outgoing.poll_send(context, &mut self.stream) {
                Poll::Ready(Err(Unsent::Client(error))) => {
                    return Poll::Ready(Err(UpstreamError::ClientBody(error)));
                }
                Poll::Ready(Err(Unsent::Server)) if outgoing.is_untouched() => {
                    return Poll::Ready(Err(UpstreamError::Closed));
                }
                // It may have answered before it left.
                Poll::Ready(Err(Unsent::Server) | Ok(())) | Poll::Pending => (),
            }
            while let Poll::Ready(read) = self.poll_fill(context) {
                if matches!(read, Ok(0) | Err(_)) {
                    return Poll::Ready(Err(UpstreamError::Closed));
                }
                while let Some(head) =
                    Head::take(&mut self.input, &mut searched, to_head).map_err(UpstreamError::BadResponse)?
                {
                    if !head.is_interim() {
                        return Poll::Ready(Ok(head));
                    }
                    interim += 1;
                    if INTERIM_MAX < interim {
                        return Poll::Ready(Err(UpstreamError::BadResponse("it never gets to the answer")));
                    }
                }
            }
            while self.poll_silence(context).is_ready() {
                let now = Instant::now();
                let since = if outgoing.awaited { now } else { outgoing.moved_at };
                if outgoing.is_bare() || since + silence_max <= now {
                    return Poll::Ready(Err(UpstreamError::ResponseTimeout));
                }
                self.begin_silence(since + silence_max);
            }
            Poll::Pending
        })
        .await
    }
}

/// How long a server may still be silent.
///
/// To move a timer at each request costs more than to look once more when it fires, so it is moved only to an
/// earlier time, and stays set while the connection is idle.
#[derive(Default)]
struct Silence {
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn begin(&mut self, until: Instant) {
        self.until = Some(until);
        if let Some(timer) = self.timer.as_mut().filter(|timer| until < timer.deadline()) {
            timer.as_mut().reset(until);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(time::sleep_until(until)));
        while timer.as_mut().poll(context).is_ready() {
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}
