//! A child process: on a processor of its own, with a log, ended at the latest with this program's use of it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::support::usage::{Processors, pin};

/// How long a server may take to come up. Python needs some of it.
const START_MAX: Duration = Duration::from_secs(20);
/// Long enough for a server that has nothing left to do to go to sleep: its time is exact only then.
pub(crate) const SETTLE: Duration = Duration::from_millis(10);

/// A running process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program that writes to `log`, on the processor of the server if there is one for it.
    pub(crate) fn start(command: &mut Command, log: PathBuf, processors: Option<Processors>) -> Result<Self> {
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A child inherits the processor of the thread that starts it, and so do its threads and children.
        if let Some(processors) = processors {
            pin(processors.server)?;
        }
        let child = command.spawn().with_context(|| format!("starting {command:?}"));
        if let Some(processors) = processors {
            pin(processors.generator)?;
        }
        Ok(Self { child: child?, log })
    }

    /// Waits until it accepts at all of these.
    pub(crate) fn wait_until_up(&mut self, addresses: &[SocketAddr]) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        for &address in addresses {
            while TcpStream::connect(address).is_err() {
                if let Some(status) = self.child.try_wait()? {
                    bail!("it ended with {status}: {}", self.log());
                }
                if deadline < Instant::now() {
                    bail!("it does not accept at {address} within {START_MAX:?}: {}", self.log());
                }
                sleep(SETTLE);
            }
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// What it wrote, for the message of a failed run.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits, for a process that says in no other way that it is idle.
#[expect(clippy::disallowed_methods, reason = "these programs have no runtime to block")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Addresses that were free a moment ago.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        // All stay open until the last one has its own.
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(addresses)
}
