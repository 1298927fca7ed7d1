//! The body of an answer on its way through: nothing is collected, the slower side sets the pace.

use std::fmt;
use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::upstream::BoxError;
use crate::upstream::answer::{Decoder, Piece};
use crate::upstream::client::Client;
use crate::upstream::conn::Conn;
use crate::upstream::forward;
use crate::upstream::outgoing::{Outgoing, Unsent};
use crate::upstream::server::Flight;

/// The body of an answer. Its request counts until it is dropped, and its connection is kept once it has come
/// to its end.
pub struct AnswerBody<B> {
    decoder: Decoder,
    /// A piece that came with the head.
    first: Option<Piece>,
    /// Until the end of the body.
    link: Option<Box<Link<B>>>,
    flight: Option<Flight>,
    /// Whether the timer runs for the silence of now, and not for an earlier one.
    silent: bool,
    /// Why there is no more. Told a turn late, so that what came before goes out before.
    failure: Option<BrokenAnswer>,
}

/// The connection that an answer comes over.
pub(super) struct Link<B> {
    pub(super) conn: Box<Conn>,
    /// The request, whose body may be longer on its way than its answer.
    pub(super) outgoing: Outgoing<B>,
    /// Whose the connection is afterwards, if the server keeps it.
    pub(super) home: Option<Weak<Client>>,
    /// How long the server may be silent.
    pub(super) silence_max: Duration,
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
    /// The client broke off the body of its request while it was being answered: no fault of the upstream.
    #[error("the body of the request is broken off")]
    Client,
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl<B> AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(mut decoder: Decoder, mut link: Link<B>, flight: Flight, now: Instant) -> Self {
        // Most answers come whole, and their connections are free before they are passed on. A malformed body
        // still is one when it is asked for.
        let first = decoder.next(&mut link.conn.input).unwrap_or_default();
        let mut answer =
            Self { decoder, first, link: None, flight: Some(flight), silent: false, failure: None };
        if answer.decoder.is_done() {
            answer.finish(link, now);
        } else {
            answer.link = Some(Box::new(link));
        }
        answer
    }

    /// The whole of it has come.
    fn finish(&mut self, link: Link<B>, now: Instant) {
        let flight = self.flight.take();
        if let (Some(flight), Some(home)) = (&flight, &link.home)
            && link.outgoing.is_sent()
            && let Some(client) = home.upgrade()
        {
            client.keep(link.conn, flight, now);
        }
    }

    fn fail(&mut self, error: BrokenAnswer) -> BrokenAnswer {
        if let Some(flight) = self.flight.take() {
            let upstream = flight.upstream();
            if error != BrokenAnswer::Client {
                upstream.metrics.broken.inc();
            }
            tracing::debug!(upstream = &**upstream.name(), %error, "an answer is broken");
        }
        self.link = None;
        error
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>, BrokenAnswer>> {
        if self.first.is_some() {
            return Poll::Ready(Ok(self.first.take()));
        }
        let Some(link) = &mut self.link else { return Poll::Ready(Ok(None)) };
        match link.outgoing.poll_send(context, &mut link.conn.stream) {
            Poll::Ready(Err(Unsent::Client(_))) => return Poll::Ready(Err(BrokenAnswer::Client)),
            // A server may answer without having read all.
            Poll::Ready(Err(Unsent::Server) | Ok(())) | Poll::Pending => (),
        }
        // Each turn reads or returns, and the runtime lets no task read for ever.
        loop {
            let piece = self.decoder.next(&mut link.conn.input).map_err(|_| BrokenAnswer::Truncated)?;
            if piece.is_some() || self.decoder.is_done() {
                self.silent = false;
                return Poll::Ready(Ok(piece));
            }
            match link.conn.poll_fill(context) {
                Poll::Ready(Ok(1..)) => (),
                Poll::Ready(Ok(0)) if self.decoder.close() => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(BrokenAnswer::Truncated)),
                Poll::Pending => {
                    if !self.silent {
                        link.conn.begin_silence(Instant::now() + link.silence_max);
                        self.silent = true;
                    }
                    ready!(link.conn.poll_silence(context));
                    return Poll::Ready(Err(BrokenAnswer::Timeout));
                }
            }
        }
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let answer = self.get_mut();
        if let Some(failure) = answer.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        let piece = match ready!(answer.poll_piece(context)) {
            Ok(piece) => piece,
            Err(error) => {
                answer.failure = Some(answer.fail(error));
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        if answer.decoder.is_done()
            && let Some(link) = answer.link.take()
        {
            answer.finish(*link, Instant::now());
        }
        Poll::Ready(piece.map(|piece| {
            Ok(match piece {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(mut trailers) => {
                    forward::clean_answer(&mut trailers);
                    Frame::trailers(*trailers)
                }
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_done() && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let first = match &self.first {
            Some(Piece::Data(data)) => data.len() as u64,
            Some(Piece::Trailers(_)) | None => 0,
        };
        let left = self.decoder.len_left();
        left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(first.saturating_add(left)))
    }
}
