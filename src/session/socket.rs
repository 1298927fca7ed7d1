//! The writing side of a socket, and what is known of it.
//!
//! The session task owns the reading; rooms and the worker's loop write. Nothing here waits: what the
//! kernel does not take stays in the outbox, and the session task sends it when the socket is writable.

mod phase;
mod outbox;
mod limited;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::Instant;

use crate::channel_layer::GroupName;
use crate::handler::State;
use crate::session::room::Room;
use crate::session::transport::Leave;
use crate::session::worker::Turn;
use crate::session::{FullQueue, Profile, Seat, Transport};
use crate::websocket::{CloseCode, OpCode, close_payload, write_frame};

pub(super) use self::phase::{Cause, Phase};

use self::limited::Limited;
use self::outbox::Outbox;

/// How long a client has to answer a close frame.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The rooms that a socket may hear beside its own.
const OTHERS_MAX: usize = 64;

/// One open WebSocket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: u64,
    transport: Transport,
    profile: Arc<Profile>,
    turn: Rc<Turn>,
    /// The group that hears what this client says; without one it hears itself.
    pub(super) group: Option<GroupName>,
    /// What the handler remembers of this client.
    pub(super) state: RefCell<State>,
    outbox: RefCell<Outbox>,
    phase: Cell<Phase>,
    /// Wakes the session task.
    reader: RefCell<Option<Waker>>,
    /// Whether the session task is at work: it flushes when it is done, so nobody else need be asked to.
    pub(super) attended: Cell<bool>,
    /// Where the socket stands among the members of its room.
    place: Cell<usize>,
    /// Whether it does not hear that room any more, for it was told to leave it.
    pub(super) has_left: Cell<bool>,
    /// The rooms that it hears beside its own. Most sockets never hear any.
    others: OnceCell<Box<RefCell<Vec<Other>>>>,
    /// When the client last sent anything, or came.
    pub(super) heard_at: Cell<Instant>,
    /// When a ping was sent that is not answered yet.
    pub(super) pinged_at: Cell<Option<Instant>>,
    /// Most routes set no such limits, and their sockets keep nothing for them.
    pub(super) limited: Option<Box<Limited>>,
    /// When the drain closes this socket.
    pub(super) drain_at: Cell<Option<Instant>>,
    /// The entry of the worker's timers that counts; others of this socket are stale. 0 for none.
    pub(super) timer_step: Cell<u64>,
    pub(super) tally: Tally,
}

/// A room that a socket hears beside its own.
#[derive(Debug)]
struct Other {
    seat: Seat,
    /// Where the socket stands among the members.
    place: Cell<usize>,
}

/// What went over a socket, for its line in the log.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) received: Cell<u64>,
    pub(super) received_bytes: Cell<u64>,
    pub(super) sent: Cell<u64>,
    pub(super) sent_bytes: Cell<u64>,
}

/// What a session task may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Read from the client.
    Read,
    /// Nothing: the client must take what is queued first.
    Wait,
    /// Finish.
    Ended,
}

impl Socket {
    pub(super) fn new(
        id: u64,
        transport: Transport,
        profile: Arc<Profile>,
        turn: Rc<Turn>,
        group: Option<GroupName>,
        state: State,
    ) -> Rc<Self> {
        let limited = Limited::by(&profile);
        Rc::new(Self {
            id,
            transport,
            profile,
            turn,
            group,
            state: RefCell::new(state),
            outbox: RefCell::default(),
            phase: Cell::new(Phase::Open),
            reader: RefCell::default(),
            attended: Cell::new(false),
            place: Cell::new(0),
            has_left: Cell::new(false),
            others: OnceCell::new(),
            heard_at: Cell::new(Instant::now()),
            limited,
            pinged_at: Cell::new(None),
            drain_at: Cell::new(None),
            timer_step: Cell::new(0),
            tally: Tally::default(),
        })
    }

    pub(super) fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase.get(), Phase::Open)
    }

    /// Whether the socket hears a group.
    pub(super) fn hears(&self, group: &GroupName) -> bool {
        match &self.group {
            Some(own) if own == group => !self.has_left.get(),
            _ => self.other(group).is_some(),
        }
    }

    /// Hands each room that the socket hears beside its own to a function, which must not change them.
    pub(super) fn with_others(&self, mut use_room: impl FnMut(&Room)) {
        if let Some(others) = self.others.get() {
            others.borrow().iter().for_each(|other| use_room(other.seat.room()));
        }
    }

    /// Whether the socket hears as many rooms beside its own as it may.
    pub(super) fn is_everywhere(&self) -> bool {
        self.others.get().is_some_and(|others| OTHERS_MAX <= others.borrow().len())
    }

    /// From now on the socket hears this room beside its own.
    pub(super) fn join(self: &Rc<Self>, seat: Seat) {
        let room = Rc::clone(seat.room());
        self.others.get_or_init(Box::default).borrow_mut().push(Other { seat, place: Cell::new(0) });
        room.seat(self);
    }

    /// From now on the socket does not hear that room any more, which is not its own.
    pub(super) fn leave(&self, group: &GroupName) {
        if let (Some(at), Some(others)) = (self.other(group), self.others.get()) {
            let room = others.borrow().get(at).map(|other| Rc::clone(other.seat.room()));
            if let Some(room) = room {
                room.unseat(self);
            }
            // The seat is given up when the list is not borrowed any more.
            let left = others.borrow_mut().swap_remove(at);
            drop(left);
        }
    }

    /// From now on the socket hears no room beside its own.
    pub(super) fn leave_others(&self) {
        while let Some(others) = self.others.get() {
            let last = others.borrow().last().map(|other| other.seat.group().clone());
            let Some(last) = last else { return };
            self.leave(&last);
        }
    }

    fn other(&self, group: &GroupName) -> Option<usize> {
        self.others.get()?.borrow().iter().position(|other| other.seat.group() == group)
    }

    /// Where the socket stands among the members of a room.
    pub(super) fn place(&self, group: &GroupName) -> usize {
        self.with_place(group, Cell::get)
    }

    pub(super) fn set_place(&self, group: &GroupName, place: usize) {
        self.with_place(group, |cell| cell.set(place));
    }

    fn with_place<T>(&self, group: &GroupName, use_place: impl FnOnce(&Cell<usize>) -> T) -> T {
        if self.group.as_ref() != Some(group)
            && let (Some(at), Some(others)) = (self.other(group), self.others.get())
            && let Some(other) = others.borrow().get(at)
        {
            return use_place(&other.place);
        }
        use_place(&self.place)
    }

    /// Whether more waits for the client than its queue may hold: then nothing more is read from it.
    pub(super) fn is_clogged(&self) -> bool {
        self.profile.queue.bytes_max < self.outbox.borrow().bytes
    }

    /// Sends the frames of a room; false if this socket misses them.
    ///
    /// The usual case is one write of bytes that all members share, with nothing queued.
    pub(super) fn deliver(self: &Rc<Self>, frames: &Bytes, messages: u64, payload_bytes: u64) -> bool {
        if !self.is_open() {
            self.profile.metrics.dropped_closing.inc_by(messages);
            return false;
        }
        let mut outbox = self.outbox.borrow_mut();
        self.catch_up(&mut outbox);
        let mut rest = frames.clone();
        if self.transport.is_direct() && outbox.queue.is_empty() {
            match self.transport.write(None, &[IoSlice::new(frames)]) {
                Ok(written) => {
                    if outbox.blocked {
                        self.heard_at.set(Instant::now());
                    }
                    rest.advance(written);
                    outbox.torn = 0 < written && !rest.is_empty();
                    outbox.blocked = self.transport.is_behind();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => outbox.blocked = true,
                Err(_) => {
                    drop(outbox);
                    self.end(Cause::ClientGone, None);
                    return false;
                }
            }
        } else if !self.has_room(&outbox, frames.len()) {
            drop(outbox);
            self.fall_behind(messages);
            return false;
        }
        self.tally.sent.set(self.tally.sent.get() + messages);
        self.tally.sent_bytes.set(self.tally.sent_bytes.get() + payload_bytes);
        self.spoke();
        if !rest.is_empty() {
            outbox.bytes += rest.len();
            outbox.queue.push_back(rest);
            // A record of TLS may have taken only the first of it.
            self.catch_up(&mut outbox);
            outbox.gauge(&self.profile.metrics);
        }
        if outbox.blocked || !outbox.queue.is_empty() {
            drop(outbox);
            self.wake();
        }
        true
    }

    /// Sends a data frame to this socket alone, whose client did not ask for it and so may be too slow for it.
    pub(super) fn push(self: &Rc<Self>, opcode: OpCode, payload: &[u8]) {
        let metrics = &self.profile.metrics;
        if !self.is_open() {
            metrics.dropped_closing.inc();
            return;
        }
        let is_full = {
            let mut outbox = self.outbox.borrow_mut();
            if !self.has_room(&outbox, payload.len()) {
                self.catch_up(&mut outbox);
            }
            !self.has_room(&outbox, payload.len())
        };
        if is_full { self.fall_behind(1) } else { self.send(opcode, payload) }
    }

    /// Whether so many bytes may wait behind what waits already. One message may always, or what a room collects in a
    /// turn, however long.
    fn has_room(&self, outbox: &Outbox, len: usize) -> bool {
        outbox.bytes == 0 || outbox.bytes + len <= self.profile.queue.bytes_max
    }

    /// Offers the kernel what it was not offered yet, which is no sign of a slow client.
    fn catch_up(&self, outbox: &mut Outbox) {
        if self.transport.is_direct() && !outbox.blocked && !outbox.queue.is_empty() {
            // An error comes again with the next look at the stream.
            self.offer(outbox, None).unwrap_or_default();
        }
    }

    /// The client does not keep up: it misses these messages, or is closed.
    fn fall_behind(self: &Rc<Self>, messages: u64) {
        self.profile.metrics.dropped_full.inc_by(messages);
        if self.profile.queue.full == FullQueue::Close {
            self.close(CloseCode::TRY_AGAIN_LATER, "too slow", Cause::Slow);
        }
    }

    /// Queues a data frame for this socket alone; it leaves before the end of the turn.
    pub(super) fn send(self: &Rc<Self>, opcode: OpCode, payload: &[u8]) {
        if !self.is_open() {
            return;
        }
        let metrics = &self.profile.metrics;
        if opcode == OpCode::Binary { &metrics.sent_binary } else { &metrics.sent_text }.inc();
        metrics.sent_bytes.inc_by(payload.len() as u64);
        self.tally.sent.set(self.tally.sent.get() + 1);
        self.tally.sent_bytes.set(self.tally.sent_bytes.get() + payload.len() as u64);
        self.spoke();
        self.queue(opcode, payload);
    }

    /// Notes that something was said.
    pub(super) fn spoke(&self) {
        if let Some(limited) = &self.limited {
            limited.spoke_at.set(Instant::now());
        }
    }

    /// Answers a ping. A client that reads nothing gets no more answers: its queue is bounded too.
    pub(super) fn pong(self: &Rc<Self>, payload: &[u8]) {
        if self.is_open() && !self.is_clogged() {
            self.queue(OpCode::Pong, payload);
        }
    }

    pub(super) fn ping(self: &Rc<Self>, now: Instant) {
        self.pinged_at.set(Some(now));
        self.queue(OpCode::Ping, b"");
    }

    /// Begins the close handshake; without effect on a socket that is closing already.
    ///
    /// What is queued goes out before the close frame, except to a client that reads too slowly.
    pub(super) fn close(self: &Rc<Self>, code: CloseCode, reason: &str, cause: Cause) {
        if !self.is_open() {
            return;
        }
        if cause == Cause::Slow {
            self.outbox.borrow_mut().forget();
        }
        let mut payload = Vec::new();
        close_payload(code, reason, &mut payload);
        self.queue(OpCode::Close, &payload);
        let until = Instant::now() + CLOSE_TIMEOUT;
        self.phase.set(Phase::Closing { cause, code, until });
        self.turn.deadline(self, until);
    }

    /// Answers the client's close frame; the socket ends once the answer has left.
    pub(super) fn close_answer(self: &Rc<Self>, code: Option<CloseCode>) {
        match self.phase.get() {
            Phase::Open => {
                let mut payload = Vec::new();
                if let Some(code) = code {
                    close_payload(code, "", &mut payload);
                }
                self.queue(OpCode::Close, &payload);
                let until = Instant::now() + CLOSE_TIMEOUT;
                self.phase.set(Phase::Answered { code, until });
                self.turn.deadline(self, until);
            }
            Phase::Closing { cause, code, .. } => self.part(cause, Some(code)),
            Phase::Answered { .. } | Phase::Ended { .. } => (),
        }
    }

    /// Ends the socket without further exchange.
    pub(super) fn end(&self, cause: Cause, code: Option<CloseCode>) {
        self.end_until(cause, code, None);
    }

    /// Ends the socket of a client that is there: as far as the stream below has a farewell, it is waited for.
    pub(super) fn part(&self, cause: Cause, code: Option<CloseCode>) {
        if self.transport.leave() == Leave::Drop {
            return self.end(cause, code);
        }
        let until = Instant::now() + CLOSE_TIMEOUT;
        self.end_until(cause, code, Some(until));
        self.turn.deadline(self, until);
    }

    fn end_until(&self, cause: Cause, code: Option<CloseCode>, until: Option<Instant>) {
        let (cause, code) = match self.phase.get() {
            Phase::Open => (cause, code),
            Phase::Closing { cause, code, .. } => (cause, Some(code)),
            Phase::Answered { code, .. } => (Cause::Client, code),
            Phase::Ended { .. } => return,
        };
        self.phase.set(Phase::Ended { cause, code, until });
        self.wake();
    }

    /// Writes what is queued, as far as the kernel takes it.
    pub(super) fn flush(&self) {
        let mut outbox = self.outbox.borrow_mut();
        outbox.listed = false;
        if !self.transport.is_direct() {
            drop(outbox);
            return self.wake();
        }
        if let Err(error) = self.offer(&mut outbox, None) {
            drop(outbox);
            if error.kind() == io::ErrorKind::WouldBlock {
                self.wake();
            } else {
                self.end(Cause::ClientGone, None);
            }
        }
    }

    /// Sends what is queued, as far as it goes, and says what the session task may do now.
    ///
    /// The task is woken when more can be sent and when the phase changes.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Readiness {
        {
            let mut reader = self.reader.borrow_mut();
            if !reader.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *reader = Some(context.waker().clone());
            }
        }
        let flushed = self.poll_flushed(context).is_ready();
        match self.phase.get() {
            // The timer has the patience for it.
            Phase::Answered { .. } if !flushed => Readiness::Wait,
            Phase::Answered { .. } | Phase::Ended { .. } => Readiness::Ended,
            Phase::Open if self.is_clogged() => Readiness::Wait,
            Phase::Open | Phase::Closing { .. } => Readiness::Read,
        }
    }

    /// Tells the client that nothing more will come, once everything is sent.
    pub(super) fn shut_when_flushed(&self, context: &mut Context<'_>) {
        if self.outbox.borrow().queue.is_empty() {
            // A connection that is gone already needs no telling.
            let _told = self.transport.poll_shutdown(context);
        }
    }

    /// Takes leave of the client, once there is nothing else to send; true when nothing more is to be waited for.
    /// Otherwise the task is woken when it goes on, and when the time for it is over.
    ///
    /// `read` reads once, for those streams whose client takes leave too, and throws away what comes.
    pub(super) fn poll_left(
        &self,
        context: &mut Context<'_>,
        read: impl FnOnce(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<()> {
        let leave = self.transport.leave();
        if leave == Leave::Drop {
            return Poll::Ready(());
        }
        // A client that is gone already needs no telling.
        let told = self.transport.poll_shutdown(context);
        let until = match self.phase.get() {
            Phase::Answered { until, .. } => Some(until),
            Phase::Ended { until, .. } => until,
            Phase::Open | Phase::Closing { .. } => None,
        };
        if until.is_none_or(|until| until <= Instant::now()) {
            return Poll::Ready(());
        }
        match told {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if leave == Leave::ShutdownAndDrain => read(context),
            Poll::Ready(_) => Poll::Ready(()),
        }
    }

    /// Gives up on what is queued, and on taking leave.
    pub(super) fn abandon(&self) {
        self.outbox.borrow_mut().clear(&self.profile.metrics);
        match self.phase.get() {
            Phase::Answered { code, .. } => {
                self.phase.set(Phase::Ended { cause: Cause::Client, code, until: None });
            }
            Phase::Ended { cause, code, .. } => self.phase.set(Phase::Ended { cause, code, until: None }),
            Phase::Open | Phase::Closing { .. } => (),
        }
        self.wake();
    }

    fn poll_flushed(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut outbox = self.outbox.borrow_mut();
        if outbox.queue.is_empty() && !self.transport.is_behind() {
            return Poll::Ready(());
        }
        let flushed = self.offer(&mut outbox, Some(context));
        match flushed {
            Ok(()) => Poll::Ready(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(_) => {
                outbox.clear(&self.profile.metrics);
                drop(outbox);
                self.end(Cause::ClientGone, None);
                Poll::Ready(())
            }
        }
    }

    /// Offers what is queued to the stream below.
    fn offer(&self, outbox: &mut Outbox, context: Option<&mut Context<'_>>) -> io::Result<()> {
        let (blocked, waiting, sent) = (outbox.blocked, outbox.bytes, self.transport.sent());
        let flushed = outbox.flush(&self.profile.metrics, &self.transport, context);
        if blocked && (outbox.bytes < waiting || self.transport.sent() != sent) {
            // The client has taken what filled the kernel: it is slow, not dead.
            self.heard_at.set(Instant::now());
        }
        flushed
    }

    fn queue(self: &Rc<Self>, opcode: OpCode, payload: &[u8]) {
        let mut outbox = self.outbox.borrow_mut();
        let mut frame = BytesMut::with_capacity(payload.len() + 10);
        write_frame(&mut frame, opcode, payload);
        outbox.bytes += frame.len();
        outbox.queue.push_back(frame.freeze());
        if !outbox.listed && !self.attended.get() {
            outbox.listed = true;
            self.turn.flush_later(self);
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.reader.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// What a socket takes with it is off the gauge.
impl Drop for Socket {
    fn drop(&mut self) {
        self.outbox.get_mut().clear(&self.profile.metrics);
    }
}

#[cfg(test)]
mod tests;
