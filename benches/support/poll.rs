//! Which sockets are ready: epoll behind two methods.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// When a socket that stays readable is reported.
#[derive(Clone, Copy)]
pub(crate) enum Trigger {
    /// Again and again until it is read.
    Level,
    /// Once; the reader has to read until a read comes short.
    Edge,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(1024) })
    }

    /// Watches `socket` for something to read until it is closed.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize, trigger: Trigger) -> io::Result<()> {
        let flags = match trigger {
            Trigger::Level => epoll::EventFlags::IN,
            Trigger::Edge => epoll::EventFlags::IN | epoll::EventFlags::ET,
        };
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token as u64), flags)?;
        Ok(())
    }

    /// Fills `tokens` with the sockets that are ready; with none when `timeout` has passed.
    pub(crate) fn wait(&mut self, tokens: &mut Vec<usize>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        tokens.clear();
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        tokens.extend(self.events.iter().map(|event| {
            let token = event.data.u64();
            usize::try_from(token).expect("it was a usize when it went in")
        }));
        Ok(())
    }
}
