//! The members of a group that are on this worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::channel_layer::{GroupName, Message};
use crate::handler::Rendering;
use crate::session::socket::{Cause, Socket};
use crate::session::{Profile, Worker};
use crate::websocket::{OpCode, write_frame};

/// Frames collected for a room beyond this leave before the end of the turn, so that what a slow member
/// must queue comes in pieces of a bounded size.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// A group as one worker sees it.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) group: GroupName,
    /// Sockets that hold a [`Seat`], also those whose handshake is not answered yet.
    seats: Cell<usize>,
    confirmed: Cell<bool>,
    confirmation: Notify,
    /// Nearly always one: a group is fed by one route. Members of other routes see other frames.
    benches: RefCell<Vec<Bench>>,
    /// Whether the worker's list of rooms with collected frames has this one.
    pub(super) listed: Cell<bool>,
}

/// The members that share a profile, and so every frame.
#[derive(Debug)]
struct Bench {
    profile: Arc<Profile>,
    members: Vec<Rc<Socket>>,
    batch: Batch,
    /// The members, by their numbers, that have the beginning of the batch already. Mostly nobody.
    ahead: HashMap<u64, Ahead>,
}

/// What one member has of a batch that the others are still to hear.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    upto: Mark,
    /// Whether it heard any of it, and did not miss all.
    heard: bool,
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    bytes: usize,
    texts: u64,
    binaries: u64,
    payload_bytes: u64,
}

/// The frames of one turn, back to back.
#[derive(Debug, Default)]
struct Batch {
    frames: BytesMut,
    mark: Mark,
}

impl Room {
    pub(super) fn new(group: GroupName) -> Rc<Self> {
        Rc::new(Self {
            group,
            seats: Cell::new(0),
            confirmed: Cell::new(false),
            confirmation: Notify::new(),
            benches: RefCell::default(),
            listed: Cell::new(false),
        })
    }

    /// Notes that the channel layer has this node in the group.
    pub(super) fn confirm(&self) {
        self.confirmed.set(true);
        self.confirmation.notify_waiters();
    }

    /// Waits until the channel layer has this node in the group. Cancel safe.
    pub(super) async fn confirmed(&self) {
        let notified = self.confirmation.notified();
        if !self.confirmed.get() {
            notified.await;
        }
    }

    /// Collects an event for the members; true if there is now something to flush.
    pub(super) fn collect(&self, message: &Message, payload: &mut Vec<u8>) -> bool {
        let mut collected = false;
        for bench in self.benches.borrow_mut().iter_mut() {
            payload.clear();
            let rendering = bench.profile.handler.render(message, payload);
            bench.profile.metrics.broadcasts.inc();
            match rendering {
                Rendering::Text => bench.batch.add(OpCode::Text, payload),
                Rendering::Binary => bench.batch.add(OpCode::Binary, payload),
                Rendering::Close { code, reason } => {
                    // What was said before the close still goes out first.
                    bench.flush();
                    for member in &bench.members {
                        member.close(code, &reason, Cause::Application);
                    }
                }
                Rendering::Skip(skip) => bench.profile.metrics.skipped(skip),
                Rendering::Ignore => (),
            }
            if BATCH_BYTES_MAX < bench.batch.frames.len() {
                bench.flush();
            }
            collected |= !bench.batch.frames.is_empty();
        }
        collected
    }

    /// Writes to one member what was collected so far; to be called before it hears anything else.
    pub(super) fn catch_up(&self, socket: &Rc<Socket>) {
        for bench in self.benches.borrow_mut().iter_mut() {
            if Arc::ptr_eq(&bench.profile, socket.profile()) {
                bench.catch_up(socket);
            }
        }
    }

    /// Writes what was collected to every member.
    pub(super) fn flush(&self) {
        for bench in self.benches.borrow_mut().iter_mut() {
            bench.flush();
        }
    }

    /// From now on the socket hears the room.
    pub(super) fn seat(&self, socket: &Rc<Socket>) {
        let mut benches = self.benches.borrow_mut();
        let found = benches.iter().position(|bench| Arc::ptr_eq(&bench.profile, socket.profile()));
        let at = found.unwrap_or_else(|| {
            socket.profile().metrics.rooms.inc();
            let profile = Arc::clone(socket.profile());
            benches.push(Bench {
                profile,
                members: Vec::new(),
                batch: Batch::default(),
                ahead: HashMap::new(),
            });
            benches.len() - 1
        });
        let Some(bench) = benches.get_mut(at) else { return };
        // What was published before this socket joined is not for it.
        bench.flush();
        socket.set_place(&self.group, bench.members.len());
        bench.members.push(Rc::clone(socket));
    }

    /// From now on it does not.
    pub(super) fn unseat(&self, socket: &Socket) {
        let mut benches = self.benches.borrow_mut();
        let Some(at) = benches.iter().position(|bench| Arc::ptr_eq(&bench.profile, socket.profile())) else {
            return;
        };
        let Some(bench) = benches.get_mut(at) else { return };
        let place = socket.place(&self.group);
        if bench.members.get(place).is_some_and(|member| member.id == socket.id) {
            bench.members.swap_remove(place);
            if let Some(moved) = bench.members.get(place) {
                moved.set_place(&self.group, place);
            }
        }
        if bench.members.is_empty() {
            bench.profile.metrics.rooms.dec();
            benches.swap_remove(at);
        }
    }
}

impl Bench {
    /// One write for each member, of the same bytes.
    fn flush(&mut self) {
        if self.batch.frames.is_empty() {
            return;
        }
        let Batch { frames, mark } = std::mem::take(&mut self.batch);
        let ahead = std::mem::take(&mut self.ahead);
        let frames: Bytes = frames.freeze();
        let (mut whole, mut rest) = (0, 0);
        for member in &self.members {
            match ahead.get(&member.id) {
                Some(ahead) => {
                    let heard = self.tell(member, &frames, ahead.upto, mark);
                    rest += u64::from(ahead.heard || heard);
                }
                None => whole += u64::from(member.deliver(&frames, mark.messages(), mark.payload_bytes)),
            }
        }
        self.count(mark, whole);
        self.profile.metrics.observe_fanout(whole + rest);
    }

    fn catch_up(&mut self, socket: &Rc<Socket>) {
        let Ahead { upto: from, heard } = self.ahead.get(&socket.id).copied().unwrap_or_default();
        if from.bytes < self.batch.mark.bytes {
            // Copied, for the batch may grow on.
            let frames = Bytes::copy_from_slice(&self.batch.frames);
            let heard = self.tell(socket, &frames, from, self.batch.mark) || heard;
            self.ahead.insert(socket.id, Ahead { upto: self.batch.mark, heard });
        }
    }

    /// One member hears a part of the batch; false if there is none, or it misses that.
    fn tell(&self, member: &Rc<Socket>, frames: &Bytes, from: Mark, to: Mark) -> bool {
        let part = to.since(from);
        if part.bytes == 0 {
            return false;
        }
        let heard = member.deliver(&frames.slice(from.bytes..to.bytes), part.messages(), part.payload_bytes);
        if heard {
            self.count(part, 1);
        }
        heard
    }

    fn count(&self, part: Mark, members: u64) {
        let metrics = &self.profile.metrics;
        metrics.sent_text.inc_by(part.texts * members);
        metrics.sent_binary.inc_by(part.binaries * members);
        metrics.sent_bytes.inc_by(part.payload_bytes * members);
    }
}

impl Mark {
    fn messages(self) -> u64 {
        self.texts + self.binaries
    }

    fn since(self, from: Self) -> Self {
        Self {
            bytes: self.bytes - from.bytes,
            texts: self.texts - from.texts,
            binaries: self.binaries - from.binaries,
            payload_bytes: self.payload_bytes - from.payload_bytes,
        }
    }
}

impl Batch {
    fn add(&mut self, opcode: OpCode, payload: &[u8]) {
        write_frame(&mut self.frames, opcode, payload);
        match opcode {
            OpCode::Binary => self.mark.binaries += 1,
            _ => self.mark.texts += 1,
        }
        self.mark.payload_bytes += payload.len() as u64;
        self.mark.bytes = self.frames.len();
    }
}

/// A place in a room: as long as one is held, this node is in the group.
#[derive(Debug)]
pub struct Seat {
    room: Rc<Room>,
    worker: Rc<Worker>,
}

impl Seat {
    pub(super) fn new(room: Rc<Room>, worker: Rc<Worker>) -> Self {
        room.seats.set(room.seats.get() + 1);
        Self { room, worker }
    }

    /// The group of the room.
    pub(super) fn group(&self) -> &GroupName {
        &self.room.group
    }

    /// Waits until the channel layer has this node in the group. Cancel safe.
    pub async fn confirmed(&self) {
        self.room.confirmed().await;
    }

    pub(super) fn room(&self) -> &Rc<Room> {
        &self.room
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = self.room.seats.get() - 1;
        self.room.seats.set(seats);
        if seats == 0 {
            self.worker.forget(&self.room);
        }
    }
}
