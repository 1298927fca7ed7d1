//! The jobs, and how one is done on one server.

use anyhow::{Context, Result};
use rustls::HandshakeKind;

use crate::handshake;
use crate::http::{self, LARGE_LEN, SMALL_LEN};
use crate::support::fanout::{Fanout, Path, Shape};
use crate::support::report::{Figures, Meter};
use crate::support::rounds;
use crate::target::{FIXED, STATIC, Target};

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    work: Work,
}

/// What is sent in each part; the warm-up comes before the first.
#[derive(Clone, Debug)]
enum Work {
    /// Processor time for each request over connections that stay.
    Requests { path: &'static str, body_len: usize, connections: usize, warm_up: usize, requests: usize },
    /// Processor time for each message that goes through to the upstream and comes back.
    Tunnel { tls: bool, shape: Shape, warm_up: u64, messages: u64 },
    /// Processor time for each TLS connection with one request.
    Handshakes { resume: bool, at_once: usize, warm_up: usize, cycles: usize },
}

/// A job that is being done on a server.
pub(crate) struct Attempt {
    job: &'static str,
    target: Target,
    load: Load,
    meter: Meter,
}

/// The clients of a server, and how much they do in each part.
enum Load {
    Requests(http::Clients, usize),
    Tunnel(Fanout, u64),
    Handshakes(handshake::Clients, usize, HandshakeKind),
}

/// All jobs, in the order in which they are done.
pub(crate) fn all() -> Vec<Job> {
    let requests =
        |path, body_len| Work::Requests { path, body_len, connections: 32, warm_up: 4_000, requests: 2_000 };
    let tunnel = |tls, window, warm_up, messages| Work::Tunnel {
        tls,
        shape: Shape { path: Path::Echo, rooms: 100, members: 1, publishers: 1, window },
        warm_up,
        messages,
    };
    let handshakes = |resume| Work::Handshakes { resume, at_once: 32, warm_up: 200, cycles: 150 };
    vec![
        Job { name: "proxy-100", about: "proxied, 100 B", work: requests("/small", SMALL_LEN) },
        Job { name: "proxy-16k", about: "proxied, 16 KiB", work: requests("/large", LARGE_LEN) },
        Job {
            name: "fixed",
            about: "answered by the server itself, 100 B",
            work: requests(FIXED, SMALL_LEN),
        },
        Job { name: "static-16k", about: "a file, 16 KiB", work: requests(STATIC, LARGE_LEN) },
        Job { name: "tunnel-w1", about: "WebSocket tunnel, window 1", work: tunnel(false, 1, 100, 30) },
        Job { name: "tunnel-w16", about: "WebSocket tunnel, window 16", work: tunnel(false, 16, 400, 200) },
        Job {
            name: "tls-tunnel-w1",
            about: "WebSocket tunnel through TLS, window 1",
            work: tunnel(true, 1, 100, 30),
        },
        Job {
            name: "tls-tunnel-w16",
            about: "WebSocket tunnel through TLS, window 16",
            work: tunnel(true, 16, 400, 200),
        },
        Job {
            name: "tls-full",
            about: "TLS 1.3: connect, handshake, request, close",
            work: handshakes(false),
        },
        Job { name: "tls-resumed", about: "the same, resumed", work: handshakes(true) },
    ]
}

impl Job {
    /// The same job so small that it shows only that all parts work.
    pub(crate) fn smoke(mut self) -> Self {
        match &mut self.work {
            Work::Requests { connections, warm_up, requests, .. } => {
                (*connections, *warm_up, *requests) = (3, 3, 4);
            }
            Work::Tunnel { shape, warm_up, messages, .. } => {
                shape.rooms = 3;
                (*warm_up, *messages) = (1, 2);
            }
            Work::Handshakes { at_once, warm_up, cycles, .. } => {
                (*at_once, *warm_up, *cycles) = (3, 3, 4);
            }
        }
        self
    }

    /// Brings a server that was started for it to where the measuring begins.
    pub(crate) fn start(&self, target: Target) -> Result<Attempt> {
        let load = self.work.load(&target).with_context(|| describe(self.name, &target))?;
        Ok(Attempt { job: self.name, target, load, meter: Meter::default() })
    }
}

impl Work {
    fn load(&self, target: &Target) -> Result<Load> {
        Ok(match *self {
            Self::Requests { path, body_len, connections, warm_up, requests } => {
                let mut clients = http::Clients::open(&target.endpoint, connections, path, body_len)?;
                clients.run(warm_up)?;
                Load::Requests(clients, requests)
            }
            Self::Tunnel { tls, shape, warm_up, messages } => {
                let endpoint = if tls { &target.secure } else { &target.endpoint };
                let mut fanout = Fanout::open(endpoint, shape)?;
                fanout.run(warm_up)?;
                Load::Tunnel(fanout, messages)
            }
            Self::Handshakes { resume, at_once, warm_up, cycles } => {
                let clients = handshake::Clients::new(&target.secure, resume, at_once)?;
                // The first handshake of a client is a full one in any case.
                clients.run(warm_up, None)?;
                let kind = if resume { HandshakeKind::Resumed } else { HandshakeKind::Full };
                Load::Handshakes(clients, cycles, kind)
            }
        })
    }
}

impl rounds::Attempt for Attempt {
    const PARTS: usize = 20;

    fn go_on(&mut self) -> Result<()> {
        let Self { job, target, load, meter } = self;
        let part = || match load {
            Load::Requests(clients, requests) => clients.run(*requests),
            Load::Tunnel(fanout, messages) => fanout.run(*messages),
            Load::Handshakes(clients, cycles, kind) => clients.run(*cycles, Some(*kind)),
        };
        meter.measure(|| target.usage(), part).with_context(|| describe(job, target))
    }

    fn finish(self) -> Result<Figures> {
        if let Load::Tunnel(fanout, _) = self.load {
            fanout.finish().with_context(|| describe(self.job, &self.target))?;
        }
        Ok(self.meter.figures())
    }
}

fn describe(job: &str, target: &Target) -> String {
    format!("{job} on {}; it wrote: {}", target.kind.name(), target.log())
}
