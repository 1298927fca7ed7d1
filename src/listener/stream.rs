//! The bytes of a connection, over whatever they come.

use std::io;
use std::io::{IoSlice, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// Pieces that come to no more than this are written as one, in bytes.
const JOINED_LEN_MAX: usize = 1 << 10;

/// A stream as the system gives it, which no runtime watches yet: it goes to the thread that serves it.
#[derive(Debug)]
pub enum StdStream {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a UNIX socket.
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
    /// The same stream, watched by the runtime of this thread.
    ///
    /// # Errors
    ///
    /// The runtime cannot watch it.
    pub fn watch(self) -> io::Result<NetStream> {
        Ok(match self {
            Self::Tcp(stream) => NetStream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => NetStream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A stream of the system: what is written to it is in the kernel's hands.
#[derive(Debug)]
pub enum NetStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a UNIX socket.
    Unix(UnixStream),
}

impl NetStream {
    /// Waits for bytes and looks at those that are there, without taking them. Cancel safe.
    pub(super) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(buffer).await,
            Self::Unix(stream) => {
                let look = || Ok(rustix::net::recv(stream, &mut *buffer, RecvFlags::PEEK)?.0);
                stream.async_io(Interest::READABLE, look).await
            }
        }
    }

    /// Writes what the kernel takes now; `WouldBlock` when that is nothing.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// The same for several pieces, in one call of the system.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(pieces),
            Self::Unix(stream) => stream.try_write_vectored(pieces),
        }
    }

    /// Ready when the kernel may take more.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
        }
    }

    /// Gives the kernel so long to hand over what is left of the last bytes. Without it a peer that reads nothing
    /// keeps them for minutes. Rule: `TCP_USER_TIMEOUT` in tcp(7).
    pub fn set_farewell(&self, timeout: Duration) {
        if let Self::Tcp(stream) = self {
            // A stream that does not take it is gone already.
            SockRef::from(stream).set_tcp_user_timeout(Some(timeout)).unwrap_or_default();
        }
    }

    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    ///
    /// The connection is gone already, most likely.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        }
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The kernel takes one piece with less ado than a list, by more than it costs to copy little ones together.
        if let [piece] = pieces {
            return self.poll_write(context, piece);
        }
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() <= JOINED_LEN_MAX {
            let mut whole = [0; JOINED_LEN_MAX];
            let mut rest = whole.as_mut_slice();
            for piece in pieces {
                // Does not fail, for there is room.
                rest.write_all(piece)?;
            }
            let left = rest.len();
            let (whole, _) = whole.split_at(JOINED_LEN_MAX - left);
            return self.poll_write(context, whole);
        }
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A connection that HTTP is spoken on, by default as a server.
#[derive(Debug)]
pub enum Stream<T = TlsStream<NetStream>> {
    /// In clear.
    Plain(NetStream),
    /// Through TLS, which is much the larger of the two.
    Tls(Box<T>),
}

impl Stream {
    /// Whether the peer is to see a reset instead of an end, where there are resets. What was not sent is dropped then.
    pub fn set_reset_at_end(&self, resets: bool) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        if let NetStream::Tcp(stream) = stream {
            // A stream that does not take it is gone already.
            SockRef::from(stream).set_linger(resets.then_some(Duration::ZERO)).unwrap_or_default();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
