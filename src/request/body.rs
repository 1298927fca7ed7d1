//! The bodies of requests and answers.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use tokio::task::spawn_local;
use tokio::time;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::files::FileBody;
use crate::request::pace::InFlight;
use crate::request::patience::Offer;
use crate::upstream::AnswerBody;

/// What a client may keep us waiting for its body, in all.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// For the rest of a body that is not wanted.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// For so many bytes that came it may keep us waiting a second more.
const BYTES_A_SECOND_MIN: u64 = 1 << 10;

/// What breaks off an answer.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub(super) struct Body {
    kind: Kind,
    /// The connection is not idle while this is sent.
    in_flight: Option<InFlight>,
    /// What is answered. A stream of HTTP/2 whose body is dropped before all of it came is cancelled, and the answer
    /// with it, unless that has gone out before.
    request: Option<SharedBody>,
    /// Over HTTP/2, for a client that does not take it.
    offer: Option<Rc<Offer>>,
}

/// The body of a request, for who reads it and for who answers.
pub(super) type SharedBody<B = Incoming> = Rc<RefCell<B>>;

enum Kind {
    Full(Full<Bytes>),
    File(FileBody),
    Upstream(AnswerBody<RequestBody>),
    /// What is said to a handshake that is not taken.
    Refusal(AnswerBody<Empty<Bytes>>),
}

impl Body {
    pub(super) fn hold(&mut self, in_flight: InFlight, request: SharedBody) {
        self.in_flight = Some(in_flight);
        self.request = Some(request);
        self.offer = Offer::of_task();
    }

    /// The answer is over; the request may not be.
    fn end(&mut self) {
        let is_left =
            |request: &mut SharedBody| Rc::strong_count(request) == 1 && !request.borrow().is_end_stream();
        if let Some(rest) = self.request.take_if(is_left) {
            spawn_local(linger(rest));
        }
    }
}

/// Takes what a client still sends of a body that nobody wants: many read no answer before they have sent all, and
/// would lose it to the end of the connection.
pub(super) async fn linger(body: SharedBody) {
    let rest = async {
        while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut *body.borrow_mut()).poll_frame(context)).await
        {
        }
    };
    // Whoever takes longer has had its chance.
    time::timeout(LINGER_TIMEOUT, rest).await.unwrap_or_default();
}

impl Default for Body {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, in_flight: None, request: None, offer: None }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::from(Kind::Full(Full::new(bytes)))
    }
}

impl From<AnswerBody<RequestBody>> for Body {
    fn from(body: AnswerBody<RequestBody>) -> Self {
        Self::from(Kind::Upstream(body))
    }
}

impl From<AnswerBody<Empty<Bytes>>> for Body {
    fn from(body: AnswerBody<Empty<Bytes>>) -> Self {
        Self::from(Kind::Refusal(body))
    }
}

impl From<FileBody> for Body {
    fn from(body: FileBody) -> Self {
        Self::from(Kind::File(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match &mut self.kind {
            Kind::Full(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Kind::File(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Kind::Upstream(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Kind::Refusal(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        };
        if let Some(offer) = &self.offer {
            offer.asked(polled.is_ready());
        }
        if polled.is_ready() && self.is_end_stream() {
            self.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(body) => body.is_end_stream(),
            Kind::File(body) => body.is_end_stream(),
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Refusal(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(body) => body.size_hint(),
            Kind::File(body) => body.size_hint(),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Refusal(body) => body.size_hint(),
        }
    }
}

/// The body of a request, with an end to its length and to the patience with its client.
pub(super) struct RequestBody<B = Incoming> {
    body: SharedBody<B>,
    bytes: u64,
    bytes_max: u64,
    /// Waited so far, without the wait that goes on.
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Why a request has no more body: the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    /// The client went away, or sent something that is no body.
    #[error("the body of the request is broken off or malformed")]
    Broken,
    /// It is longer than it may be; with the limit, in bytes.
    #[error("the body of the request is longer than {0} bytes; `max_body` says how long it may be")]
    TooLarge(u64),
    /// The client sends it too slowly.
    #[error("the body of the request comes too slowly")]
    TooSlow,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: SharedBody<B>, bytes_max: u64) -> Self {
        Self { body, bytes: 0, bytes_max, waited: Duration::ZERO, waiting: None }
    }

    /// When the client has kept us waiting too long, if nothing comes before.
    fn wait_until(&self, since: Instant) -> Instant {
        let allowed = WAIT_MAX + Duration::from_secs(self.bytes / BYTES_A_SECOND_MIN);
        since + allowed.saturating_sub(self.waited)
    }

    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some((now, Box::pin(sleep_until(self.wait_until(now)))));
        }
        match &mut self.waiting {
            Some((_, sleep)) => sleep.as_mut().poll(context).map(|()| BodyError::TooSlow),
            None => Poll::Pending,
        }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for RequestBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut *self.body.borrow_mut()).poll_frame(context);
        let Poll::Ready(frame) = polled else {
            return Poll::Ready(Some(Err(ready!(self.poll_patience(context)))));
        };
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(|_| BodyError::Broken)?;
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len() as u64;
            if self.bytes_max < self.bytes {
                return Poll::Ready(Some(Err(BodyError::TooLarge(self.bytes_max))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.borrow().size_hint()
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt as _;

    use super::*;

    /// Pieces, each after a pause; `None` for one that breaks the body.
    struct Paced(VecDeque<(Duration, Option<usize>)>, Option<Pin<Box<Sleep>>>);

    impl http_body::Body for Paced {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            let Some(&(pause, len)) = self.0.front() else { return Poll::Ready(None) };
            let pausing = self.1.get_or_insert_with(|| Box::pin(time::sleep(pause)));
            ready!(pausing.as_mut().poll(context));
            self.1 = None;
            self.0.pop_front();
            Poll::Ready(Some(len.map(|len| Frame::data(vec![b'x'; len].into())).ok_or(())))
        }
    }

    async fn collect(pieces: impl IntoIterator<Item = (u64, Option<usize>)>) -> Result<usize, BodyError> {
        let pieces = pieces.into_iter().map(|(pause_s, len)| (Duration::from_secs(pause_s), len));
        let body = RequestBody::new(Rc::new(RefCell::new(Paced(pieces.collect(), None))), 100_000);
        body.collect().await.map(|body| body.to_bytes().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_at_its_limit_and_at_the_end_of_all_patience() {
        let drip = |pause_s, len| std::iter::repeat_n((pause_s, Some(len)), 80);
        assert_eq!(collect([(0, Some(100_000))]).await, Ok(100_000));
        assert_eq!(collect([(0, Some(100_000)), (0, Some(1))]).await, Err(BodyError::TooLarge(100_000)));
        assert_eq!(collect([(29, Some(1))]).await, Ok(1));
        assert_eq!(collect([(31, Some(1))]).await, Err(BodyError::TooSlow));
        // A byte a second is a way to hold a connection to the application for ever; a thousand are a slow line.
        assert_eq!(collect(drip(1, 1)).await, Err(BodyError::TooSlow));
        assert_eq!(collect(drip(1, 1_024)).await, Ok(80 * 1_024));
        assert_eq!(collect([(0, Some(3)), (0, None)]).await, Err(BodyError::Broken));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_waited_for_while_nobody_asks_for_its_body() {
        let paced = Paced([(Duration::ZERO, Some(1)); 3].into(), None);
        let mut body = RequestBody::new(Rc::new(RefCell::new(paced)), 10);
        for _ in 0..3 {
            time::advance(Duration::from_mins(1)).await;
            assert!(body.frame().await.unwrap().is_ok());
        }
        assert!(body.frame().await.is_none());
    }
}
