//! Rooms under a closed loop: a publisher has `window` messages outstanding, and a message leaves the window when
//! every member has it.
//!
//! The first member of a room to receive its n-th message fixes what that message is; every other member has to
//! receive the same one there, and each publisher's messages have to come in the order of its sending, without a
//! gap. So each member receives each message once, and all in one order, or the run fails.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::support::client;
use crate::support::client::{Endpoint, Stream};
use crate::support::frame;
use crate::support::poll::{Poller, Trigger};
use crate::support::report::Counts;

/// The size of every message. The first bytes say which one it is, the rest is filling.
const MESSAGE_LEN: usize = 128;
const FILLING: u8 = b'.';
/// How long a phase may take before the run is given up.
const PHASE_MAX: Duration = Duration::from_mins(1);
/// How long a room gets to show that all are in before it is asked again.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// How long nothing comes before nothing is taken to come any more.
const SILENCE: Duration = Duration::from_millis(20);

/// What the rooms look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) path: Path,
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    /// How many members of each room send.
    pub(crate) publishers: usize,
    /// Messages that each publisher has outstanding.
    pub(crate) window: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// One group for each room.
    Room,
    /// Each socket receives what it sends: a room of one.
    Echo,
}

/// All sockets of a job, in their rooms.
pub(crate) struct Fanout {
    poller: Poller,
    ready: Vec<usize>,
    input: Vec<u8>,
    shape: Shape,
    conns: Vec<Conn>,
    rooms: Vec<Room>,
    /// Publishers, as (room, publisher), that may send again.
    due: Vec<(usize, usize)>,
    counts: Counts,
    probed: usize,
}

struct Conn {
    stream: Stream,
    room: usize,
    /// How many messages of the room it has received.
    position: u64,
    probed: bool,
    /// The beginning of a frame whose rest has not come.
    tail: Vec<u8>,
}

struct Room {
    publishers: Vec<Publisher>,
    /// What every member has or is going to receive, from the `log_start`-th message of the room on.
    log: VecDeque<Entry>,
    log_start: u64,
}

struct Publisher {
    conn: usize,
    sent: u64,
    /// How many of its messages stand in the log or did.
    logged: u64,
    left: u64,
    due: u64,
    sent_at: VecDeque<Instant>,
}

struct Entry {
    message: Tag,
    sent_at: Instant,
    receipts: usize,
}

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// Sent until all members have received one, so that all are known to have joined.
    Probe,
    Message {
        room: u32,
        publisher: u32,
        sequence: u64,
    },
}

impl Fanout {
    /// Opens the sockets and waits until every one is a member of its room.
    pub(crate) fn open(to: &Endpoint, shape: Shape) -> Result<Self> {
        let paths: Vec<String> = (0..shape.rooms)
            .flat_map(|room| (0..shape.members).map(move |_| shape.path.text(room)))
            .collect();
        let streams = client::open_all(to, &paths)?;
        let poller = Poller::new()?;
        let mut conns = Vec::with_capacity(streams.len());
        for (token, stream) in streams.into_iter().enumerate() {
            poller.add(&stream, token, Trigger::Edge)?;
            let room = token / shape.members;
            conns.push(Conn { stream, room, position: 0, probed: false, tail: Vec::new() });
        }
        let rooms = (0..shape.rooms).map(|room| Room::new(room * shape.members, shape)).collect();
        let mut fanout = Self {
            poller,
            ready: Vec::new(),
            input: vec![0; 64 * 1024],
            shape,
            conns,
            rooms,
            due: Vec::new(),
            counts: Counts::default(),
            probed: 0,
        };
        fanout.probe().context("waiting for all members to join")?;
        Ok(fanout)
    }

    /// Sends `messages` from each publisher and returns when every member has all of them.
    pub(crate) fn run(&mut self, messages: u64) -> Result<Counts> {
        let publishers = self.shape.rooms * self.shape.publishers;
        let deliveries = messages * (publishers * self.shape.members) as u64;
        self.counts =
            Counts { latencies: Vec::with_capacity(usize::try_from(deliveries)?), ..Counts::default() };
        for room in 0..self.rooms.len() {
            for publisher in 0..self.shape.publishers {
                let state = &mut self.rooms[room].publishers[publisher];
                state.due = messages.min(self.shape.window);
                state.left = messages - state.due;
                self.due.push((room, publisher));
            }
        }
        let start = Instant::now();
        while self.counts.units < deliveries {
            // All that became due in a turn leaves in one write for each publisher.
            self.send_due()?;
            self.receive_ready(start + PHASE_MAX)
                .with_context(|| format!("after {} of {deliveries} deliveries", self.counts.units))?;
        }
        self.counts.elapsed = start.elapsed();
        Ok(std::mem::take(&mut self.counts))
    }

    /// Makes sure that nothing comes that was not waited for: a message once too often, at the very end.
    pub(crate) fn finish(mut self) -> Result<()> {
        loop {
            self.receive(Some(SILENCE)).context("after the last delivery")?;
            if self.ready.is_empty() {
                return Ok(());
            }
        }
    }

    fn probe(&mut self) -> Result<()> {
        let deadline = Instant::now() + PHASE_MAX;
        let mut output = Vec::new();
        frame::push_client(&mut output, frame::BINARY, &Tag::Probe.payload());
        while self.probed < self.conns.len() {
            ensure!(Instant::now() < deadline, "{} of {} have joined", self.probed, self.conns.len());
            for room in 0..self.rooms.len() {
                let members = room * self.shape.members..(room + 1) * self.shape.members;
                if self.conns[members.clone()].iter().any(|conn| !conn.probed) {
                    client::send(&mut self.conns[members.start].stream, &output)?;
                }
            }
            let again = Instant::now() + PROBE_EVERY;
            while self.probed < self.conns.len() && Instant::now() < again {
                self.receive(Some(PROBE_EVERY))?;
            }
        }
        Ok(())
    }

    fn send_due(&mut self) -> Result<()> {
        let mut output = Vec::new();
        for (room, publisher) in self.due.drain(..) {
            let state = &mut self.rooms[room].publishers[publisher];
            output.clear();
            let now = Instant::now();
            for _ in 0..state.due {
                let message = Tag::Message {
                    room: u32::try_from(room)?,
                    publisher: u32::try_from(publisher)?,
                    sequence: state.sent,
                };
                frame::push_client(&mut output, frame::BINARY, &message.payload());
                state.sent += 1;
                state.sent_at.push_back(now);
            }
            state.due = 0;
            client::send(&mut self.conns[state.conn].stream, &output)?;
        }
        Ok(())
    }

    fn receive_ready(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no end within {PHASE_MAX:?}");
        self.receive(Some(left))
    }

    /// Reads every socket that is ready to its end.
    fn receive(&mut self, timeout: Option<Duration>) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        let mut input = std::mem::take(&mut self.input);
        self.poller.wait(&mut ready, timeout)?;
        for &token in &ready {
            self.read(token, &mut input).with_context(|| format!("socket {token}"))?;
        }
        self.ready = ready;
        self.input = input;
        Ok(())
    }

    fn read(&mut self, token: usize, input: &mut [u8]) -> Result<()> {
        loop {
            let Some(len) = client::receive(&mut self.conns[token].stream, input)? else { return Ok(()) };
            if len == 0 {
                bail!("the server hung up");
            }
            let now = Instant::now();
            if self.conns[token].tail.is_empty() {
                let used = self.take(token, &input[..len], now)?;
                self.conns[token].tail.extend_from_slice(&input[used..len]);
            } else {
                let mut whole = std::mem::take(&mut self.conns[token].tail);
                whole.extend_from_slice(&input[..len]);
                let used = self.take(token, &whole, now)?;
                whole.drain(..used);
                self.conns[token].tail = whole;
            }
            if len < input.len() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, token: usize, input: &[u8], now: Instant) -> Result<usize> {
        let mut used = 0;
        while let Some(frame) = frame::parse(&input[used..])? {
            let Range { start, end } = frame.payload;
            let payload = &input[used + start..used + end];
            used += end;
            match frame.opcode {
                frame::BINARY => self.delivered(token, payload, now)?,
                frame::PING => {
                    let mut output = Vec::new();
                    frame::push_client(&mut output, frame::PONG, payload);
                    client::send(&mut self.conns[token].stream, &output)?;
                }
                frame::CLOSE => bail!("the server closed the socket: {payload:?}"),
                opcode => bail!("a frame with the opcode {opcode}"),
            }
        }
        Ok(used)
    }

    fn delivered(&mut self, token: usize, payload: &[u8], now: Instant) -> Result<()> {
        let message = Tag::parse(payload)?;
        let conn = &mut self.conns[token];
        let Tag::Message { room, publisher, sequence } = message else {
            if !std::mem::replace(&mut conn.probed, true) {
                self.probed += 1;
            }
            return Ok(());
        };
        ensure!(usize::try_from(room)? == conn.room, "{message:?} in room {}", conn.room);
        let publisher_index = usize::try_from(publisher)?;
        let room = &mut self.rooms[conn.room];
        let Room { publishers, log, log_start } = room;
        let publisher = publishers.get_mut(publisher_index).context("an unknown publisher")?;
        let offset = usize::try_from(conn.position - *log_start)?;
        if offset == log.len() {
            ensure!(sequence == publisher.logged, "{message:?} came where {} was due", publisher.logged);
            let sent_at = publisher.sent_at.pop_front().context("a message that was not sent")?;
            publisher.logged += 1;
            log.push_back(Entry { message, sent_at, receipts: 0 });
        }
        let entry = log.get_mut(offset).context("a member is ahead of the room")?;
        ensure!(entry.message == message, "{message:?} came where {:?} was due", entry.message);
        entry.receipts += 1;
        conn.position += 1;
        self.counts.units += 1;
        let latency = now.saturating_duration_since(entry.sent_at);
        self.counts.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        if entry.receipts == self.shape.members {
            log.pop_front();
            *log_start += 1;
            if 0 < publisher.left {
                publisher.left -= 1;
                publisher.due += 1;
                if publisher.due == 1 {
                    self.due.push((conn.room, publisher_index));
                }
            }
        }
        Ok(())
    }
}

impl Room {
    fn new(first_conn: usize, shape: Shape) -> Self {
        let publishers = (0..shape.publishers)
            .map(|publisher| Publisher {
                conn: first_conn + publisher,
                sent: 0,
                logged: 0,
                left: 0,
                due: 0,
                sent_at: VecDeque::new(),
            })
            .collect();
        Self { publishers, log: VecDeque::new(), log_start: 0 }
    }
}

impl Path {
    fn text(self, room: usize) -> String {
        match self {
            Self::Room => format!("/room/bench-{room}/"),
            Self::Echo => "/echo/".to_owned(),
        }
    }
}

impl Tag {
    const PROBE: u8 = b'p';
    const MESSAGE: u8 = b'm';
    /// Kind, room, publisher, sequence.
    const LEN: usize = 1 + 4 + 4 + 8;

    fn payload(self) -> [u8; MESSAGE_LEN] {
        let mut payload = [FILLING; MESSAGE_LEN];
        match self {
            Self::Probe => payload[0] = Self::PROBE,
            Self::Message { room, publisher, sequence } => {
                payload[0] = Self::MESSAGE;
                payload[1..5].copy_from_slice(&room.to_be_bytes());
                payload[5..9].copy_from_slice(&publisher.to_be_bytes());
                payload[9..Self::LEN].copy_from_slice(&sequence.to_be_bytes());
            }
        }
        payload
    }

    fn parse(payload: &[u8]) -> Result<Self> {
        let payload: &[u8; MESSAGE_LEN] = payload.try_into().context("a message of another length")?;
        ensure!(payload[Self::LEN..] == [FILLING; MESSAGE_LEN - Self::LEN], "a message with another filling");
        match payload[0] {
            Self::PROBE => Ok(Self::Probe),
            Self::MESSAGE => Ok(Self::Message {
                room: u32::from_be_bytes(payload[1..5].try_into()?),
                publisher: u32::from_be_bytes(payload[5..9].try_into()?),
                sequence: u64::from_be_bytes(payload[9..Self::LEN].try_into()?),
            }),
            kind => bail!("a message of the kind {kind:#04x}"),
        }
    }
}
