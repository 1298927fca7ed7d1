//! TLS driven from outside of a task: whoever has a batch encrypts it and gives it to the kernel.

use std::fmt;
use std::io;
use std::io::{IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConnection;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::listener::NetStream;
use crate::session::transport::write_net;

/// What is encrypted at a time: one record. As much may wait here for the kernel, beside the socket's own queue.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Reads from the kernel, of 4 KiB each, before others have their turn.
const READS_MAX: usize = 16;

/// An established TLS connection.
///
/// Plaintext is taken only while no ciphertext waits, so that what a slow client has to wait for stays in the
/// queue of the socket, where it is bounded and counted.
pub(super) struct Tls {
    stream: NetStream,
    session: ServerConnection,
    /// Bytes of ciphertext that the kernel has taken.
    sent: u64,
    /// What ended the connection, kept until the plaintext before it is read.
    fault: Option<io::Error>,
}

impl Tls {
    pub(super) fn new(stream: TlsStream<NetStream>) -> Self {
        let (stream, mut session) = stream.into_inner();
        session.set_buffer_limit(Some(RECORD_BYTES_MAX));
        Self { stream, session, sent: 0, fault: None }
    }

    pub(super) fn set_farewell(&self, timeout: Duration) {
        self.stream.set_farewell(timeout);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.session.wants_write()
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Takes up to a record of plaintext and gives it to the kernel, as far as it goes.
    pub(super) fn write(
        &mut self,
        mut context: Option<&mut Context<'_>>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        self.flush(context.as_deref_mut())?;
        let taken = self.session.writer().write_vectored(pieces)?;
        self.send(context)?;
        Ok(taken)
    }

    /// Sends the ciphertext that waits; `WouldBlock` when some remains.
    pub(super) fn flush(&mut self, context: Option<&mut Context<'_>>) -> io::Result<()> {
        let mut kernel = Kernel { stream: &mut self.stream, context };
        while self.session.wants_write() {
            let sent = self.session.write_tls(&mut kernel)?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent = self.sent.wrapping_add(sent as u64);
        }
        Ok(())
    }

    /// Says that nothing more will come, so that the client can tell the end from a cut.
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        match self.flush(Some(context)) {
            Ok(()) => Poll::Ready(self.stream.shutdown_write()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Reads plaintext, first what was decrypted before. Nothing is filled in after a `close_notify`; an end
    /// without one is an error.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut reads = 0;
        loop {
            match self.session.reader().read(buffer.initialize_unfilled()) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(len) => buffer.advance(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) => self.fault = Some(error),
            }
            let is_empty = buffer.filled().is_empty();
            if self.fault.is_some() && is_empty {
                return Poll::Ready(self.fault.take().map_or(Ok(()), Err));
            }
            if self.fault.is_some() || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if READS_MAX == reads {
                if !is_empty {
                    return Poll::Ready(Ok(()));
                }
                // Records without content are not worth more than this at a time.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match self.receive(context) {
                Ok(()) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if is_empty { Poll::Pending } else { Poll::Ready(Ok(())) };
                }
                // What was decrypted before it still counts.
                Err(error) => self.fault = Some(error),
            }
        }
    }

    /// Takes one read from the kernel and decrypts it. At the end of the stream, the next look for plaintext says
    /// how it ended.
    fn receive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.session.read_tls(&mut Kernel { stream: &mut self.stream, context: Some(&mut *context) })?;
        let processed = self.session.process_new_packets();
        // Answers to the client's TLS, and the alert that says why it is refused.
        self.send(Some(context))?;
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(())
    }

    /// Sends what goes; that some remains is for the next [`Self::flush`] to say.
    fn send(&mut self, context: Option<&mut Context<'_>>) -> io::Result<()> {
        match self.flush(context) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// The kernel as rustls sees it.
struct Kernel<'a, 'c, 'w> {
    stream: &'a mut NetStream,
    /// The task to be woken when there is more to read, or room to write.
    context: Option<&'c mut Context<'w>>,
}

impl Read for Kernel<'_, '_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(context) = self.context.as_deref_mut() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let mut buffer = ReadBuf::new(bytes);
        match Pin::new(&mut *self.stream).poll_read(context, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Kernel<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        write_net(self.stream, self.context.as_deref_mut(), pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
