//! A request on its way to a server: the bytes of its head, and of its body as they come.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::upstream::BoxError;
use crate::upstream::forward::BodyLength;

/// With so much in hand, no more of the body is asked for.
const BUFFERED_MAX: usize = 16 << 10;

/// A request as bytes. Nothing of the body is collected: the server sets the pace.
pub(super) struct Outgoing<B> {
    /// What is being written. A request without a body is kept to its end, for it may be sent again.
    buffer: Vec<u8>,
    written: usize,
    /// The body, until it has ended.
    body: Option<B>,
    /// What it has said of its length at first.
    length: BodyLength,
    /// What of it must still come, if it has said so.
    left: Option<u64>,
    begun: bool,
    flushed: bool,
    /// Whether the client is waited for: then silence is not the server's fault.
    pub(super) awaited: bool,
    /// When the client last sent something.
    pub(super) moved_at: Instant,
}

/// Why a request does not go out.
#[derive(Debug)]
pub(super) enum Unsent {
    /// Its body is broken.
    Client(BoxError),
    /// The server does not take it.
    Server,
}

impl<B> fmt::Debug for Outgoing<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("written", &self.written).finish_non_exhaustive()
    }
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// A request whose head is written by `head`.
    pub(super) fn new(body: B, now: Instant, head: impl FnOnce(BodyLength, &mut Vec<u8>)) -> Self {
        let left = body.size_hint().exact();
        let length = match left {
            _ if body.is_end_stream() => BodyLength::Empty,
            Some(len) => BodyLength::Known(len),
            None => BodyLength::Unknown,
        };
        let mut buffer = Vec::new();
        head(length, &mut buffer);
        let body = (length != BodyLength::Empty).then_some(body);
        Self {
            buffer,
            written: 0,
            body,
            length,
            left,
            begun: false,
            flushed: false,
            awaited: false,
            moved_at: now,
        }
    }

    /// Whether it has no body.
    pub(super) fn is_bare(&self) -> bool {
        self.length == BodyLength::Empty
    }

    /// Whether nothing of it has gone out.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun
    }

    /// Whether all of it has gone out.
    pub(super) fn is_sent(&self) -> bool {
        self.body.is_none() && self.written == self.buffer.len() && self.flushed
    }

    /// Begins anew, which is possible if it is bare or untouched.
    pub(super) fn rewind(&mut self) {
        self.written = 0;
        self.begun = false;
        self.flushed = false;
    }

    /// Writes what can be written; ready when all of it is.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Unsent>> {
        // Each turn writes bytes or returns, and the runtime lets no task write for ever.
        while !self.is_sent() {
            let body = self.poll_body(context).map_err(Unsent::Client)?;
            match self.buffer.get(self.written..) {
                Some(rest) if !rest.is_empty() => {
                    match ready!(Pin::new(&mut *stream).poll_write(context, rest)) {
                        Ok(0) | Err(_) => return Poll::Ready(Err(Unsent::Server)),
                        Ok(len) => self.written += len,
                    }
                    self.begun = true;
                    self.flushed = false;
                }
                _ => {
                    ready!(Pin::new(&mut *stream).poll_flush(context))
                        .map_err(|_: io::Error| Unsent::Server)?;
                    self.flushed = true;
                    ready!(body);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Asks for more of the body, if there is room for it; pending while the client is waited for.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if BUFFERED_MAX <= self.buffer.len() - self.written {
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            self.awaited = true;
            return Poll::Pending;
        };
        self.awaited = false;
        self.moved_at = Instant::now();
        let frame = frame.transpose().map_err(Into::into)?;
        // A server that never takes all of it at once would make it grow with the whole body otherwise.
        self.buffer.drain(..self.written);
        self.written = 0;
        let Some(frame) = frame else {
            self.body = None;
            return Poll::Ready(match self.left {
                Some(1..) => Err("the body of the request is shorter than it said".into()),
                Some(0) => Ok(()),
                None => {
                    self.buffer.extend_from_slice(b"0\r\n\r\n");
                    Ok(())
                }
            });
        };
        // Trailers were not announced, for `Trailer` is of one connection.
        let Ok(data) = frame.into_data() else { return Poll::Ready(Ok(())) };
        match &mut self.left {
            Some(left) => {
                let rest = left.checked_sub(data.len() as u64);
                *left = rest.ok_or("the body of the request is longer than it said")?;
                self.buffer.extend_from_slice(&data);
            }
            None if data.is_empty() => (),
            None => {
                self.buffer.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.buffer.extend_from_slice(&data);
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Frame;

    use super::*;

    const PIECE: usize = 8 << 10;

    /// A body of so many pieces.
    struct Pieces(usize);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let Some(left) = self.0.checked_sub(1) else { return Poll::Ready(None) };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(vec![b'x'; PIECE].into()))))
        }
    }

    /// Takes a little less than a piece each time, and then nothing until it is asked again.
    #[derive(Default)]
    struct Reluctant {
        taken: Vec<u8>,
        has_taken: bool,
    }

    impl AsyncWrite for Reluctant {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.has_taken = !self.has_taken;
            if !self.has_taken {
                return Poll::Pending;
            }
            let len = bytes.len().min(PIECE - 1);
            self.taken.extend(&bytes[..len]);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_held_of_a_body_does_not_grow_with_it() {
        const COUNT: usize = 200;
        let mut outgoing = Outgoing::new(Pieces(COUNT), Instant::now(), |length, out| {
            assert_eq!(length, BodyLength::Unknown);
            out.extend_from_slice(b"head");
        });
        let mut server = Reluctant::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = 0;
        while outgoing.poll_send(&mut context, &mut server).is_pending() {
            let held = outgoing.buffer.len();
            assert!(held <= BUFFERED_MAX + 2 * PIECE, "{held} bytes are held");
            turns += 1;
            assert!(turns <= 2 * COUNT, "it never ends");
        }
        assert!(outgoing.is_sent());
        let piece = format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE));
        assert!(server.taken == format!("head{}0\r\n\r\n", piece.repeat(COUNT)).as_bytes());
    }
}
