//! The jobs, and how one is done on one server.

use std::time::Duration;

use anyhow::Result;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::cycle;
use crate::support::client::Endpoint;
use crate::support::fanout::{Fanout, Path, Shape};
use crate::support::process::sleep;
use crate::support::report::{Column, Figures};
use crate::target::Target;

/// Descriptors that are not sockets of the load, on either side.
const DESCRIPTORS_SPARE: u64 = 200;
const PER_SOCKET: &[Column] = &[
    Column("anonymous_bytes", "bytes each, anonymous", 0),
    Column("resident_bytes", "resident", 0),
    Column("sockets", "sockets", 0),
];
/// How long an allocator gets to give memory back before it is read.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The server speaks TLS; the floor never does.
    pub(crate) tls: bool,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    /// Processor time for each delivery. `warm_up` and `messages` are sent by each publisher.
    Fanout { shape: Shape, warm_up: u64, messages: u64 },
    /// Processor time for each cycle.
    Cycle { at_once: usize, warm_up: usize, cycles: usize },
    /// Memory for each idle socket that has joined a room and seen a message.
    Memory { shape: Shape },
}

/// All jobs, in the order in which they are done.
pub(crate) fn all() -> Vec<Job> {
    let job = |name, about, work| Job { name, about, tls: false, work };
    let tls_job = |name, about, work| Job { name, about, tls: true, work };
    let rooms = |path, rooms, members| Shape { path, rooms, members, publishers: 1, window: 1 };
    let room = |members, publishers, window| Shape { publishers, window, ..rooms(Path::Room, 1, members) };
    let fanout = |shape, warm_up, messages| Work::Fanout { shape, warm_up, messages };
    let cycle = |warm_up, cycles| Work::Cycle { at_once: 32, warm_up, cycles };
    let idle = Work::Memory { shape: rooms(Path::Room, 100, 50) };
    vec![
        job("room-100-w1", "1 room of 100, window 1", fanout(room(100, 1, 1), 500, 3_000)),
        job("room-1000-w1", "1 room of 1000, window 1", fanout(room(1000, 1, 1), 50, 300)),
        job("room-100-w16", "1 room of 100, window 16", fanout(room(100, 1, 16), 500, 5_000)),
        job("room-1000-w16", "1 room of 1000, window 16", fanout(room(1000, 1, 16), 50, 500)),
        job("room-1000-p50", "1 room of 1000, 50 publishers, window 1", fanout(room(1000, 50, 1), 2, 10)),
        job("rooms-100x10", "100 rooms of 10, window 1", fanout(rooms(Path::Room, 100, 10), 50, 300)),
        job("echo", "echo, 100 sockets, window 1", fanout(rooms(Path::Echo, 100, 1), 300, 2_000)),
        job("cycle", "connect, handshake, one echo, close; 32 at once", cycle(400, 4_000)),
        job("idle", "idle sockets in rooms of 50", idle.clone()),
        tls_job("tls-room-100-w1", "TLS, 1 room of 100, window 1", fanout(room(100, 1, 1), 500, 3_000)),
        tls_job("tls-room-1000-w1", "TLS, 1 room of 1000, window 1", fanout(room(1000, 1, 1), 50, 300)),
        tls_job("tls-room-100-w16", "TLS, 1 room of 100, window 16", fanout(room(100, 1, 16), 500, 5_000)),
        tls_job("tls-room-1000-w16", "TLS, 1 room of 1000, window 16", fanout(room(1000, 1, 16), 50, 500)),
        tls_job("tls-cycle", "TLS: connect, both handshakes, one echo, close; 32 at once", cycle(200, 1_000)),
        tls_job("tls-idle", "TLS, idle sockets in rooms of 50", idle),
    ]
}

impl Job {
    /// The same job so small that it shows only that all parts work.
    pub(crate) fn smoke(mut self) -> Self {
        match &mut self.work {
            Work::Fanout { shape, warm_up, messages } => {
                shape.rooms = shape.rooms.min(3);
                shape.members = shape.members.min(10);
                shape.publishers = shape.publishers.min(shape.members);
                (*warm_up, *messages) = (1, 20);
            }
            Work::Cycle { warm_up, cycles, .. } => (*warm_up, *cycles) = (1, 40),
            Work::Memory { shape } => shape.rooms = 2,
        }
        self
    }

    /// Does the job on a server that was started for it.
    pub(crate) fn run(&self, target: &Target) -> Result<Figures> {
        match self.work {
            Work::Fanout { shape, warm_up, messages } => {
                let mut fanout = Fanout::open(&target.endpoint, shape)?;
                fanout.run(warm_up)?;
                let figures = Figures::of_load(|| target.usage(), || fanout.run(messages))?;
                fanout.finish()?;
                Ok(figures)
            }
            Work::Cycle { at_once, warm_up, cycles } => {
                cycle::run(&target.endpoint, at_once, warm_up)?;
                Figures::of_load(|| target.usage(), || cycle::run(&target.endpoint, at_once, cycles))
            }
            Work::Memory { shape } => idle(target, shape),
        }
    }
}

/// Raises the limit of descriptors as far as it goes, for this program and the servers it starts.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}

fn idle(target: &Target, mut shape: Shape) -> Result<Figures> {
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        let sockets = usize::try_from(limit.saturating_sub(DESCRIPTORS_SPARE))?;
        shape.rooms = shape.rooms.min(sockets / shape.members).max(1);
    }
    // The first socket brings in code and buffers that the others share.
    one_socket(&target.endpoint, shape)?;
    sleep(IDLE);
    let before = target.memory()?;
    let fanout = Fanout::open(&target.endpoint, shape)?;
    sleep(IDLE);
    let after = target.memory()?;
    drop(fanout);
    let sockets = (shape.rooms * shape.members) as f64;
    let per_socket = |before: u64, after: u64| after.saturating_sub(before) as f64 / sockets;
    let anonymous = per_socket(before.anonymous, after.anonymous);
    Ok(Figures::new(PER_SOCKET, vec![anonymous, per_socket(before.resident, after.resident), sockets]))
}

fn one_socket(to: &Endpoint, shape: Shape) -> Result<()> {
    Fanout::open(to, Shape { rooms: 1, members: 1, ..shape })?.run(1)?;
    Ok(())
}
