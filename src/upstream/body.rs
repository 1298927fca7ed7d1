//! The bodies on their way through: nothing is collected, the slower side sets the pace.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time;
use tokio::time::{Instant, Sleep};

use crate::upstream::BoxError;
use crate::upstream::client::Lease;
use crate::upstream::server::Flight;

/// The body of a request, as it goes to a server.
#[derive(Debug)]
pub struct Outgoing<B>(Option<(B, Rc<Progress>)>);

/// How far the body of a request has come, for who waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    /// When the client last sent something.
    pub(super) moved_at: Cell<Instant>,
    /// Whether the client is waited for: then silence is not the server's fault.
    pub(super) awaited: Cell<bool>,
    /// Why the client's body has ended too early.
    pub(super) error: RefCell<Option<BoxError>>,
}

/// The client's body has failed; why is in the error of the request.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request is broken")]
pub struct BrokenRequest;

impl<B> Outgoing<B> {
    pub(super) fn empty() -> Self {
        Self(None)
    }

    pub(super) fn streaming(body: B) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress {
            moved_at: Cell::new(Instant::now()),
            awaited: Cell::new(false),
            error: RefCell::default(),
        });
        (Self(Some((body, Rc::clone(&progress)))), progress)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<B> Body for Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BrokenRequest;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenRequest>>> {
        let Some((body, progress)) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            progress.awaited.set(true);
            return Poll::Pending;
        };
        progress.awaited.set(false);
        progress.moved_at.set(Instant::now());
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                *progress.error.borrow_mut() = Some(error.into());
                BrokenRequest
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

/// The body of an answer. Its request counts until it is dropped, and its connection is kept once it has come
/// to its end.
pub struct AnswerBody<B> {
    body: Incoming,
    lease: Option<Lease<B>>,
    flight: Option<Flight>,
    silence_max: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    /// Whether the timer runs for the silence of now, and not for an earlier one.
    silent: bool,
}

/// Why an answer has no more body. What was sent of it must not look complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenAnswer {
    /// The connection ended, or what came is no body.
    #[error("the answer of the upstream is broken off")]
    Truncated,
    /// Nothing came for too long.
    #[error("the answer of the upstream stopped coming")]
    Timeout,
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl<B: 'static> AnswerBody<B> {
    pub(super) fn new(
        body: Incoming,
        lease: Option<Lease<B>>,
        flight: Flight,
        silence_max: Duration,
    ) -> Self {
        let mut answer =
            Self { body, lease, flight: Some(flight), silence_max, silence: None, silent: false };
        if answer.body.is_end_stream() {
            answer.finish();
        }
        answer
    }

    /// The whole of it has come.
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.flight = None;
        self.silence = None;
    }

    fn fail(&mut self, error: BrokenAnswer) -> BrokenAnswer {
        if let Some(flight) = self.flight.take() {
            let upstream = flight.upstream();
            upstream.metrics.broken.inc();
            tracing::debug!(upstream = &**upstream.name(), %error, "an answer is broken");
        }
        self.lease = None;
        error
    }
}

impl<B: 'static> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let answer = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut answer.body).poll_frame(context) else {
            let silence_max = answer.silence_max;
            let silence = answer.silence.get_or_insert_with(|| Box::pin(time::sleep(silence_max)));
            if !answer.silent {
                silence.as_mut().reset(Instant::now() + silence_max);
                answer.silent = true;
            }
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Some(Err(answer.fail(BrokenAnswer::Timeout))));
        };
        answer.silent = false;
        match frame {
            Some(Ok(frame)) => {
                if answer.body.is_end_stream() {
                    answer.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => Poll::Ready(Some(Err(answer.fail(BrokenAnswer::Truncated)))),
            None => {
                answer.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
