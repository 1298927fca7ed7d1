//! The jobs, and how one is done on one server.

use anyhow::Result;
use rustls::HandshakeKind;

use crate::handshake;
use crate::http::{self, LARGE_LEN, SMALL_LEN};
use crate::support::fanout::{Fanout, Path, Shape};
use crate::support::report::Figures;
use crate::target::{FIXED, STATIC, Target};

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    /// Processor time for each request over connections that stay.
    Requests { path: &'static str, body_len: usize, connections: usize, warm_up: usize, requests: usize },
    /// Processor time for each message that goes through to the upstream and comes back.
    Tunnel { shape: Shape, warm_up: u64, messages: u64 },
    /// Processor time for each TLS connection with one request.
    Handshakes { resume: bool, at_once: usize, warm_up: usize, cycles: usize },
}

/// All jobs, in the order in which they are done.
pub(crate) fn all() -> Vec<Job> {
    let requests =
        |path, body_len| Work::Requests { path, body_len, connections: 32, warm_up: 4_000, requests: 40_000 };
    let tunnel = |window, warm_up, messages| Work::Tunnel {
        shape: Shape { path: Path::Echo, rooms: 100, members: 1, publishers: 1, window },
        warm_up,
        messages,
    };
    let handshakes = |resume| Work::Handshakes { resume, at_once: 32, warm_up: 200, cycles: 3_000 };
    vec![
        Job { name: "proxy-100", about: "proxied, 100 B", work: requests("/small", SMALL_LEN) },
        Job { name: "proxy-16k", about: "proxied, 16 KiB", work: requests("/large", LARGE_LEN) },
        Job {
            name: "fixed",
            about: "answered by the server itself, 100 B",
            work: requests(FIXED, SMALL_LEN),
        },
        Job { name: "static-16k", about: "a file, 16 KiB", work: requests(STATIC, LARGE_LEN) },
        Job { name: "tunnel-w1", about: "WebSocket tunnel, window 1", work: tunnel(1, 100, 600) },
        Job { name: "tunnel-w16", about: "WebSocket tunnel, window 16", work: tunnel(16, 400, 4_000) },
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
                (*connections, *warm_up, *requests) = (3, 3, 40);
            }
            Work::Tunnel { shape, warm_up, messages } => {
                shape.rooms = 3;
                (*warm_up, *messages) = (1, 20);
            }
            Work::Handshakes { at_once, warm_up, cycles, .. } => {
                (*at_once, *warm_up, *cycles) = (3, 3, 20);
            }
        }
        self
    }

    /// Does the job on a server that was started for it.
    pub(crate) fn run(&self, target: &Target) -> Result<Figures> {
        match self.work {
            Work::Requests { path, body_len, connections, warm_up, requests } => {
                let mut clients = http::Clients::open(&target.endpoint, connections, path, body_len)?;
                clients.run(warm_up)?;
                Figures::of_load(|| target.usage(), || clients.run(requests))
            }
            Work::Tunnel { shape, warm_up, messages } => {
                let mut fanout = Fanout::open(&target.endpoint, shape)?;
                fanout.run(warm_up)?;
                let figures = Figures::of_load(|| target.usage(), || fanout.run(messages))?;
                fanout.finish()?;
                Ok(figures)
            }
            Work::Handshakes { resume, at_once, warm_up, cycles } => {
                let clients = handshake::Clients::new(&target.secure, &target.roots, resume, at_once)?;
                // The first handshake of a client is a full one in any case.
                clients.run(warm_up, None)?;
                let kind = if resume { HandshakeKind::Resumed } else { HandshakeKind::Full };
                Figures::of_load(|| target.usage(), || clients.run(cycles, Some(kind)))
            }
        }
    }
}
