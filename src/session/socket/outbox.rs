//! What the kernel has not taken of a socket's frames.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::task::Context;

use bytes::{Buf as _, Bytes};

use crate::session::{RouteMetrics, Transport};

/// Buffers handed to the kernel in one call; it takes 1,024 at most.
const SLICES_MAX: usize = 64;

/// Frames that the kernel did not take yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) bytes: usize,
    /// As many of them are on the gauge. What leaves in the turn that it came in never is.
    gauged: usize,
    /// Part of the first buffer is on its way, so it must be finished.
    pub(super) torn: bool,
    /// Whether the worker's list of sockets to flush has this one.
    pub(super) listed: bool,
    /// The kernel took nothing more when it was last asked.
    pub(super) blocked: bool,
}

impl Outbox {
    /// Writes until everything is with the kernel, or fails, with `WouldBlock` when it takes no more.
    pub(super) fn flush(
        &mut self,
        metrics: &RouteMetrics,
        transport: &Transport,
        mut context: Option<&mut Context<'_>>,
    ) -> io::Result<()> {
        let written = self.write_all(transport, context.as_deref_mut());
        let flushed = written.and_then(|()| transport.flush(context));
        let is_full = matches!(&flushed, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.blocked = is_full && transport.is_blocked();
        self.gauge(metrics);
        flushed
    }

    fn write_all(&mut self, transport: &Transport, mut context: Option<&mut Context<'_>>) -> io::Result<()> {
        while !self.queue.is_empty() {
            let written = if let (1, Some(only)) = (self.queue.len(), self.queue.front()) {
                transport.write(context.as_deref_mut(), &[IoSlice::new(only)])?
            } else {
                let slices: Vec<_> =
                    self.queue.iter().take(SLICES_MAX).map(|part| IoSlice::new(part)).collect();
                transport.write(context.as_deref_mut(), &slices)?
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        // The queue of an idle socket owns nothing.
        self.queue = VecDeque::new();
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                first.advance(written);
                self.torn |= 0 < written;
                return;
            }
            written -= first.len();
            self.queue.pop_front();
            self.torn = false;
        }
    }

    pub(super) fn clear(&mut self, metrics: &RouteMetrics) {
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.torn = false;
        self.gauge(metrics);
    }

    /// Brings the gauge up to date.
    pub(super) fn gauge(&mut self, metrics: &RouteMetrics) {
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.bytes != self.gauged {
            metrics.queued_bytes.add(signed(self.bytes) - signed(self.gauged));
            self.gauged = self.bytes;
        }
    }

    /// Drops what is queued but for a frame that is partly sent.
    pub(super) fn forget(&mut self) {
        self.queue.truncate(usize::from(self.torn));
        self.bytes = self.queue.iter().map(Bytes::len).sum();
    }
}
