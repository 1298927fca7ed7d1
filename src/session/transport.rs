//! What a socket is read from and written to.

mod tls;
mod polled;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listener::{NetStream, Stream};
use crate::session::transport::polled::Polled;
use crate::session::transport::tls::Tls;

/// The stream below a socket, after the handshake.
pub struct Transport(RefCell<Kind>);

enum Kind {
    /// Anyone on the thread may write; the kernel says at once what it takes.
    Net(NetStream),
    /// The same, through TLS: a batch becomes a record.
    Tls(Box<Tls>),
    /// Only the session task may write, for what takes the bytes must know whom to wake.
    Polled(Polled),
}

/// A stream that is read and written by polling.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// What the kernel still holds for a client when its socket has ended has so long to be taken.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(30);

impl Drop for Transport {
    fn drop(&mut self) {
        match self.0.get_mut() {
            Kind::Net(stream) => stream.set_farewell(FAREWELL_TIMEOUT),
            Kind::Tls(stream) => stream.set_farewell(FAREWELL_TIMEOUT),
            // Within a connection of HTTP/2, which goes on.
            Kind::Polled(_) => (),
        }
    }
}

impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        Self(RefCell::new(match stream {
            Stream::Plain(stream) => Kind::Net(stream),
            Stream::Tls(stream) => Kind::Tls(Box::new(Tls::new(*stream))),
        }))
    }
}

impl Transport {
    /// Over a stream of an HTTP/2 connection.
    pub fn polled(stream: impl Duplex + 'static) -> Self {
        Self(RefCell::new(Kind::Polled(Polled::new(Box::new(stream)))))
    }

    /// Whether anyone on the thread may write at any time; otherwise the session task alone, when it is polled.
    pub(super) fn is_direct(&self) -> bool {
        !matches!(&*self.0.borrow(), Kind::Polled(_))
    }

    /// Writes what is taken now; `WouldBlock` when that is nothing. The task of the context, if there is one, is
    /// then woken once it may be more; without one a stream that is not direct takes nothing.
    pub(super) fn write(
        &self,
        context: Option<&mut Context<'_>>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        match &mut *self.0.borrow_mut() {
            Kind::Net(stream) => write_net(stream, context, pieces),
            Kind::Tls(stream) => stream.write(context, pieces),
            Kind::Polled(stream) => stream.write(context, pieces),
        }
    }

    /// Sends on what was taken and is still held; `WouldBlock` when some of it remains.
    pub(super) fn flush(&self, context: Option<&mut Context<'_>>) -> io::Result<()> {
        match &mut *self.0.borrow_mut() {
            Kind::Net(_) => Ok(()),
            Kind::Tls(stream) => stream.flush(context),
            Kind::Polled(stream) => stream.flush(context),
        }
    }

    /// Whether something that was taken is still held.
    pub(super) fn is_behind(&self) -> bool {
        match &*self.0.borrow() {
            Kind::Net(_) => false,
            Kind::Tls(stream) => stream.is_behind(),
            Kind::Polled(stream) => stream.is_behind(),
        }
    }

    /// Whether it is the client that is waited for, after a `WouldBlock`.
    pub(super) fn is_blocked(&self) -> bool {
        match &*self.0.borrow() {
            Kind::Net(_) | Kind::Tls(_) => true,
            Kind::Polled(stream) => stream.is_blocked(),
        }
    }

    /// Counts what left after it was held: when this moves, the kernel has made room.
    pub(super) fn sent(&self) -> u64 {
        match &*self.0.borrow() {
            Kind::Tls(stream) => stream.sent(),
            Kind::Net(_) | Kind::Polled(_) => 0,
        }
    }

    /// Tells the client that nothing more will come.
    pub(super) fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.borrow_mut() {
            Kind::Net(stream) => Poll::Ready(stream.shutdown_write()),
            Kind::Tls(stream) => stream.poll_shutdown(context),
            Kind::Polled(stream) => stream.poll_shutdown(context),
        }
    }

    /// How a connection is left: closing the descriptor says it all on a stream of the system.
    pub(super) fn leave(&self) -> Leave {
        match &*self.0.borrow() {
            Kind::Net(_) => Leave::Drop,
            Kind::Tls(_) => Leave::Shutdown,
            Kind::Polled(_) => Leave::ShutdownAndDrain,
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
            Kind::Tls(stream) => stream.poll_read(context, buffer),
            Kind::Polled(stream) => stream.poll_read(context, buffer),
        }
    }
}

/// What is due before a transport may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Nothing.
    Drop,
    /// The client is to be told the end.
    Shutdown,
    /// The same, and its own end is awaited: a stream that goes before is reset.
    ShutdownAndDrain,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.borrow() {
            Kind::Net(stream) => f.debug_tuple("Transport").field(stream).finish(),
            Kind::Tls(stream) => f.debug_tuple("Transport").field(stream).finish(),
            Kind::Polled(_) => f.debug_tuple("Transport").finish_non_exhaustive(),
        }
    }
}

/// Writes what the kernel takes now.
fn write_net(
    stream: &NetStream,
    context: Option<&mut Context<'_>>,
    pieces: &[IoSlice<'_>],
) -> io::Result<usize> {
    let try_write = || match pieces {
        [only] => stream.try_write(only),
        pieces => stream.try_write_vectored(pieces),
    };
    let Some(context) = context else { return try_write() };
    loop {
        match try_write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            written => return written,
        }
        if stream.poll_write_ready(context)?.is_pending() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
}

#[cfg(test)]
pub(in crate::session) mod tests;
