//! What a socket is read from and written to.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listener::{NetStream, Stream};

/// The stream below a socket, after the handshake.
pub struct Transport(RefCell<Kind>);

enum Kind {
    /// Anyone on the thread may write; the kernel says at once what it takes.
    Net(NetStream),
    /// Only the session task may write, for what takes the bytes must know whom to wake.
    Polled(Box<dyn Duplex>),
}

/// A stream that is read and written by polling.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        Self(RefCell::new(match stream {
            Stream::Plain(stream) => Kind::Net(stream),
            Stream::Tls(stream) => Kind::Polled(stream),
        }))
    }
}

impl Transport {
    /// Over a stream of an HTTP/2 connection.
    pub fn polled(stream: impl Duplex + 'static) -> Self {
        Self(RefCell::new(Kind::Polled(Box::new(stream))))
    }

    /// Whether anyone on the thread may write at any time; otherwise the session task alone, when it is polled.
    pub(super) fn is_direct(&self) -> bool {
        matches!(&*self.0.borrow(), Kind::Net(_))
    }

    /// Writes what is taken now. `WouldBlock` also when only the session task may write: it is to be woken.
    pub(super) fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match (&*self.0.borrow(), pieces) {
            (Kind::Net(stream), [only]) => stream.try_write(only),
            (Kind::Net(stream), pieces) => stream.try_write_vectored(pieces),
            (Kind::Polled(_), _) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes what is taken now; when that is nothing, the session task is woken once it may be more.
    pub(super) fn poll_write(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Kind::Polled(stream) = &mut *self.0.borrow_mut() {
            return Pin::new(stream).poll_write_vectored(context, pieces);
        }
        loop {
            match self.try_write(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                written => return Poll::Ready(written),
            }
            if let Kind::Net(stream) = &*self.0.borrow()
                && stream.poll_write_ready(context)?.is_pending()
            {
                return Poll::Pending;
            }
        }
    }

    /// Tells the client that nothing more will come.
    pub(super) fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.borrow_mut() {
            Kind::Net(stream) => Poll::Ready(stream.shutdown_write()),
            Kind::Polled(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    /// Reads what is there.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self.0.borrow_mut() {
            Kind::Net(stream) => Pin::new(stream).poll_read(context, buffer),
            Kind::Polled(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.borrow() {
            Kind::Net(stream) => f.debug_tuple("Transport").field(stream).finish(),
            Kind::Polled(_) => f.debug_tuple("Transport").finish_non_exhaustive(),
        }
    }
}
