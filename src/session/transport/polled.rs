//! A stream inside of another connection: HTTP/2.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use crate::session::Duplex;

/// What is handed over at a time: as much as an HTTP/2 frame holds unless the client asks for more. A few such
/// pieces wait below for the window of the client to open, whatever its size.
const WRITE_BYTES_MAX: usize = 16 << 10;

/// Turns of the loop that the tasks below get to carry on what was handed to them. Who takes nothing after them
/// waits for the client.
const TURNS_MAX: u8 = 3;

/// A stream that is written by the session task alone.
///
/// What takes the bytes is a queue to another task, and it is also full while that task has just not had its turn:
/// no sign of the client follows from its being emptied then.
pub(super) struct Polled {
    stream: Box<dyn Duplex>,
    /// Something was written since the last flush.
    is_behind: bool,
    /// Turns in a row in which nothing was taken.
    refusals: u8,
}

impl Polled {
    pub(super) fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, is_behind: false, refusals: 0 }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.refusals == TURNS_MAX
    }

    /// Hands over the pieces in one buffer.
    pub(super) fn write(
        &mut self,
        context: Option<&mut Context<'_>>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let Some(context) = context else { return Err(io::ErrorKind::WouldBlock.into()) };
        let stream = Pin::new(&mut *self.stream);
        let written = if let [only] = pieces {
            stream.poll_write(context, only.get(..WRITE_BYTES_MAX).unwrap_or(only))
        } else {
            stream.poll_write(context, &gather(pieces))
        };
        match written {
            Poll::Ready(written) => {
                self.is_behind = true;
                self.refusals = 0;
                written
            }
            Poll::Pending => {
                if self.refusals < TURNS_MAX {
                    self.refusals += 1;
                    context.waker().wake_by_ref();
                }
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    pub(super) fn flush(&mut self, context: Option<&mut Context<'_>>) -> io::Result<()> {
        if !self.is_behind {
            return Ok(());
        }
        let Some(context) = context else { return Err(io::ErrorKind::WouldBlock.into()) };
        match Pin::new(&mut *self.stream).poll_flush(context) {
            Poll::Ready(flushed) => {
                self.is_behind = false;
                flushed
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Ends our side: the client sees the end of the stream, after all that was written.
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(context, buffer)
    }
}

/// The first bytes of the pieces, side by side: each buffer that is handed over costs a turn below.
fn gather(pieces: &[IoSlice<'_>]) -> Vec<u8> {
    let mut gathered = Vec::new();
    for piece in pieces {
        let room = WRITE_BYTES_MAX - gathered.len();
        if room == 0 {
            break;
        }
        gathered.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }
    gathered
}
