//! The task of one socket: reads, decodes, and ends it.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::channel_layer::GroupName;
use crate::handler;
use crate::listener::OpenConn;
use crate::scope::{ClientAddr, Scope};
use crate::session::socket::{Cause, Phase, Readiness, Socket};
use crate::session::{OverRate, Profile, Seat, Transport, Worker};
use crate::websocket::{CloseCode, Decoder, Event, ProtocolError};

/// What the log has for a close frame without a code, and for no close frame at all. Rule: RFC 6455 section 7.4.1.
const NO_STATUS: u16 = 1005;
const ABNORMAL_CLOSURE: u16 = 1006;
/// Reads of one socket before others have their turn.
const READS_A_TURN_MAX: usize = 8;

/// What a socket begins with: all that was decided before the 101.
pub struct Admission {
    /// The settings of the route.
    pub profile: Arc<Profile>,
    /// The facts of the handshake. Dropped once the handler has seen them.
    pub scope: Scope,
    /// The place in the room, where there is one.
    pub seat: Option<Seat>,
    /// The number of the connection below, for the log.
    pub conn_id: u64,
    /// Keeps that connection on the gauges.
    pub open: Arc<OpenConn>,
    /// Held as long as the socket lives: what counts it against the limits.
    pub hold: Box<dyn Any>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("route", &self.profile.route).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts the socket of an answered handshake. `early` is what came in behind the request.
    pub fn start(self: &Rc<Self>, transport: Transport, mut early: Vec<u8>, admission: Admission) {
        let Admission { profile, scope, seat, conn_id, open, hold } = admission;
        let group = seat.as_ref().map(|seat| seat.group().clone());
        let state = profile.handler.state(&scope);
        profile.metrics.connections.inc();
        let socket = Socket::new(self.new_id(), transport, profile, Rc::clone(self.turn()), group, state);
        if let Some(seat) = &seat {
            seat.room().seat(&socket);
        }
        let mut session = Session {
            worker: Rc::clone(self),
            socket,
            decoder: Decoder::new(),
            broken: false,
            seat,
            conn_id,
            _open: open,
            client: scope.client,
            started_at: Instant::now(),
            _hold: hold,
        };
        self.enter(&session.socket);
        // What this queues leaves with the first poll of the session.
        session.socket.attended.set(true);
        self.perform(&session.socket, handler::Event::Connect(&scope));
        session.on_bytes(&mut early);
        drop((scope, early));
        self.spawn(session);
    }
}

/// One socket from the 101 to its end.
struct Session {
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    decoder: Decoder,
    /// The client broke the protocol: what comes is thrown away until it closes.
    broken: bool,
    /// As long as it is held, this node is in the group of the socket.
    seat: Option<Seat>,
    conn_id: u64,
    _open: Arc<OpenConn>,
    client: ClientAddr,
    started_at: Instant,
    _hold: Box<dyn Any>,
}

impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let worker = Rc::clone(&self.worker);
        for _ in 0..READS_A_TURN_MAX {
            let readiness = self.socket.poll_ready(context);
            self.socket.attended.set(false);
            match readiness {
                Readiness::Read => (),
                Readiness::Wait => return Poll::Pending,
                Readiness::Ended => return self.poll_left(context),
            }
            if self.broken {
                self.socket.shut_when_flushed(context);
            }
            let read = worker.with_read_buffer(|buffer| {
                let mut read_buf = ReadBuf::new(buffer);
                match self.socket.transport().poll_read(context, &mut read_buf) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => self.socket.end(Cause::ClientGone, None),
                    Poll::Ready(Ok(())) if read_buf.filled().is_empty() => {
                        self.socket.part(Cause::ClientGone, None);
                    }
                    Poll::Ready(Ok(())) => self.on_bytes(read_buf.filled_mut()),
                }
                Poll::Ready(())
            });
            if read.is_pending() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Session {
    /// Takes leave of the client. What still comes from it is thrown away.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_left(context, |context| {
            for _ in 0..READS_A_TURN_MAX {
                let ended = self.worker.with_read_buffer(|buffer| {
                    let mut read_buf = ReadBuf::new(buffer);
                    let read = self.socket.transport().poll_read(context, &mut read_buf);
                    read.map(|read| read.is_err() || read_buf.filled().is_empty())
                });
                match ended {
                    Poll::Ready(true) => return Poll::Ready(()),
                    Poll::Ready(false) => (),
                    Poll::Pending => return Poll::Pending,
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Handles all that is complete in what came.
    fn on_bytes(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        self.socket.heard_at.set(Instant::now());
        self.socket.attended.set(true);
        let message_bytes_max = self.socket.profile().message_bytes_max;
        let mut at = 0;
        while !self.broken {
            match self.decoder.next(bytes, &mut at, message_bytes_max) {
                Ok(Some(event)) => on_event(&self.worker, &self.socket, event),
                Ok(None) => return,
                Err(error) => self.fail(error),
            }
        }
    }

    fn fail(&mut self, error: ProtocolError) {
        self.broken = true;
        let code = error.close_code();
        let cause = if code == CloseCode::MESSAGE_TOO_BIG { Cause::TooBig } else { Cause::Protocol };
        self.socket.close(code, &error.to_string(), cause);
    }
}

fn on_event(worker: &Worker, socket: &Rc<Socket>, event: Event<'_>) {
    match event {
        Event::Text(text) if socket.is_open() => {
            count(socket, text.len(), &socket.profile().metrics.received_text);
            if may_speak(socket) {
                worker.perform(socket, handler::Event::Text(text));
            }
        }
        Event::Binary(bytes) if socket.is_open() => {
            count(socket, bytes.len(), &socket.profile().metrics.received_binary);
            if may_speak(socket) {
                worker.perform(socket, handler::Event::Binary(bytes));
            }
        }
        // The client may not have seen our close frame yet when it sent this.
        Event::Text(_) | Event::Binary(_) => (),
        Event::Ping(payload) => socket.pong(payload),
        Event::Pong(_) => {
            if let Some(pinged_at) = socket.pinged_at.take() {
                socket.profile().metrics.ping_rtt.observe(pinged_at.elapsed().as_secs_f64());
            }
        }
        Event::Close(reason) => socket.close_answer(reason.map(|reason| reason.code)),
    }
}

/// Whether a message of the client is within its rate. One that is not is counted, and closes the socket if the
/// route says so.
fn may_speak(socket: &Rc<Socket>) -> bool {
    socket.spoke();
    let (Some(rate), Some(limited)) = (&socket.profile().rate, &socket.limited) else { return true };
    if limited.take(rate, socket.heard_at.get()) {
        return true;
    }
    socket.profile().metrics.rate_limited.inc();
    if rate.over == OverRate::Close {
        socket.close(CloseCode::POLICY_VIOLATION, "rate", Cause::Rate);
    }
    false
}

fn count(socket: &Socket, bytes: usize, messages: &prometheus::IntCounter) {
    let bytes = bytes as u64;
    messages.inc();
    let metrics = &socket.profile().metrics;
    metrics.received_bytes.inc_by(bytes);
    metrics.observe_size(bytes);
    let tally = &socket.tally;
    tally.received.set(tally.received.get() + 1);
    tally.received_bytes.set(tally.received_bytes.get() + bytes);
}

/// However the task ends, also when the runtime drops it: the room, the gauges and the log hear of it.
impl Drop for Session {
    fn drop(&mut self) {
        let socket = &self.socket;
        if let Some(seat) = self.seat.as_ref().filter(|_| !socket.has_left.get()) {
            seat.room().unseat(socket);
        }
        socket.leave_others();
        self.worker.leave(socket);
        self.worker.perform(socket, handler::Event::Disconnect);
        let (cause, code) = match socket.phase() {
            Phase::Ended { cause, code, .. } => (cause, code),
            Phase::Answered { code, .. } => (Cause::Client, code),
            Phase::Closing { cause, code, .. } => (cause, Some(code)),
            Phase::Open => (Cause::Internal, None),
        };
        let without_code = if cause == Cause::Client { NO_STATUS } else { ABNORMAL_CLOSURE };
        let lived = self.started_at.elapsed();
        let profile = socket.profile();
        profile.metrics.closed(cause, lived);
        tracing::info!(
            target: "anteroom::close",
            conn = self.conn_id,
            route = &*profile.route,
            client = %self.client,
            cause = cause.label(),
            code = code.map_or(without_code, CloseCode::get),
            group = socket.group.as_ref().map(GroupName::as_str),
            seconds = (lived.as_secs_f64() * 1_000.0).round() / 1_000.0,
            received = socket.tally.received.get(),
            received_bytes = socket.tally.received_bytes.get(),
            sent = socket.tally.sent.get(),
            sent_bytes = socket.tally.sent_bytes.get(),
            "closed",
        );
    }
}
