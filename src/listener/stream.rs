//! The bytes of a connection, over whatever they come.

use std::io;
use std::io::{IoSlice, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;
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

    /// Reads what is there, or asks to be woken.
    fn poll_recv(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_io(context, Interest::READABLE, buffer.len(), |stream| {
            Ok(rustix::net::recv(stream, &mut *buffer, RecvFlags::empty())?.1)
        })
    }

    /// Writes what the kernel takes, or asks to be woken.
    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(context, Interest::WRITABLE, bytes.len(), |stream| {
            Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
        })
    }

    /// Moves at most `len_max` bytes by a call of the system, or asks to be woken.
    ///
    /// As `poll_read` and `poll_write` of tokio, without the cancellation points of the C library around the call, which
    /// count where a message costs little else.
    #[inline]
    fn poll_io(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
        len_max: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let budget = ready!(coop::poll_proceed(context));
            let mut moved = None;
            let done = self.try_io(interest, |stream| {
                let len = call(stream)?;
                moved = Some(len);
                // There was no more, or no more room, which need not be found out by another call.
                if 0 < len && len < len_max { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (moved, done) {
                (Some(len), _) => {
                    budget.made_progress();
                    return Poll::Ready(Ok(len));
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                (None, _) => (),
            }
            // Given back first: one who has no more would be put off without being registered.
            drop(budget);
            ready!(match interest {
                Interest::READABLE => self.poll_read_ready(context),
                _ => self.poll_write_ready(context),
            })?;
        }
    }

    fn try_io(
        &self,
        interest: Interest,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, || call(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(interest, || call(stream.as_fd())),
        }
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
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

impl AsRawFd for NetStream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // What was never written to would have to be filled with zeros first.
        if buffer.initialized().len() == buffer.capacity() {
            let len = ready!(self.poll_recv(context, buffer.initialize_unfilled()))?;
            buffer.advance(len);
            return Poll::Ready(Ok(()));
        }
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes)
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

/// A stream that may tell whether there is anything to read. By default it always says that there may be.
pub trait Readable: AsyncRead {
    /// Whether a read may find something, be it the end. As long as it may not, the task whose read was pending last
    /// is woken by what comes.
    fn is_readable(&self) -> bool {
        true
    }

    /// Ready as soon as a read may find something; until then this is as good as a read that is pending.
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Readable for NetStream {
    fn is_readable(&self) -> bool {
        self.try_io(Interest::READABLE, |_| Ok(())).is_ok()
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // What has failed says so when it is read.
        self.poll_read_ready(context).map(|_| ())
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

impl<T: AsyncRead + Unpin> Readable for Stream<T> {
    fn is_readable(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_readable(),
            // There may be something between the two.
            Self::Tls(_) => true,
        }
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(stream) => stream.poll_readable(context),
            Self::Tls(_) => Poll::Ready(()),
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time;

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(10);

    /// Both ends of a connection, over TCP and over a UNIX socket.
    async fn pairs() -> [(NetStream, NetStream); 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (left, right) = UnixStream::pair().unwrap();
        [
            (NetStream::Tcp(one.unwrap()), NetStream::Tcp(other.unwrap().0)),
            (NetStream::Unix(left), NetStream::Unix(right)),
        ]
    }

    async fn within<T>(work: impl Future<Output = T>) -> T {
        time::timeout(WAIT_MAX, work).await.unwrap()
    }

    #[tokio::test]
    async fn what_comes_after_a_short_read_wakes_the_reader() {
        for (mut ours, mut theirs) in pairs().await {
            let mut buffer = [0; 16];
            for sent in [b"one".as_slice(), b"two", b"0123456789abcdef"] {
                theirs.write_all(sent).await.unwrap();
                within(poll_fn(|context| ours.poll_readable(context))).await;
                assert!(ours.is_readable());
                let len = within(ours.read(&mut buffer)).await.unwrap();
                assert_eq!(&buffer[..len], sent);
                if len < buffer.len() {
                    assert!(!ours.is_readable(), "it was not read to the end");
                }
            }
            let pending = poll_fn(|context| Poll::Ready(Pin::new(&mut ours).poll_recv(context, &mut buffer)));
            assert!(pending.await.is_pending());
            assert!(!ours.is_readable());
        }
    }

    #[tokio::test]
    async fn an_end_that_came_with_the_last_bytes_is_seen() {
        for (mut ours, mut theirs) in pairs().await {
            theirs.write_all(b"last").await.unwrap();
            theirs.shutdown().await.unwrap();
            let mut buffer = [0; 16];
            assert_eq!(within(ours.read(&mut buffer)).await.unwrap(), 4);
            within(poll_fn(|context| ours.poll_readable(context))).await;
            assert_eq!(within(ours.read(&mut buffer)).await.unwrap(), 0);
            assert!(ours.is_readable());
        }
    }

    #[tokio::test]
    async fn a_writer_goes_on_when_the_kernel_takes_more() {
        for (mut ours, mut theirs) in pairs().await {
            let sent: Vec<u8> = (0..8 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
            let mut received = vec![0; sent.len()];
            let (written, read) =
                within(async { tokio::join!(ours.write_all(&sent), theirs.read_exact(&mut received)) }).await;
            written.unwrap();
            read.unwrap();
            assert!(received == sent);
        }
    }

    #[tokio::test]
    async fn what_has_failed_says_so() {
        for (mut ours, theirs) in pairs().await {
            drop(theirs);
            let mut buffer = [0; 16];
            assert_eq!(within(ours.read(&mut buffer)).await.unwrap(), 0);
            // The first write may be taken before the peer answers it with a reset.
            let failed = within(async {
                loop {
                    if let Err(error) = ours.write_all(b"more").await {
                        return error.kind();
                    }
                    time::sleep(Duration::from_millis(1)).await;
                }
            });
            assert!(matches!(failed.await, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset));
        }
    }
}
