//! What is measured: a child process on a processor of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::certificate;
use crate::client::Endpoint;
use crate::usage::{Memory, Processors, Usage, pin};

const START_MAX: Duration = Duration::from_secs(10);
/// Long enough for a server that has nothing left to do to go to sleep: its time is exact only then.
const SETTLE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Floor,
    Anteroom,
}

impl Kind {
    /// What anteroom is measured beside.
    pub(crate) const BESIDE: Self = Self::Floor;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Anteroom => "anteroom",
        }
    }
}

/// A running server. It is killed when this is dropped.
pub(crate) struct Target {
    child: Child,
    pub(crate) endpoint: Endpoint,
    directory: TempDir,
}

impl Target {
    /// Starts a server and waits until it accepts.
    pub(crate) fn start(
        kind: Kind,
        tls: bool,
        anteroom: &Path,
        processors: Option<Processors>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let [address, admin] = free_addresses()?;
        let tls =
            if tls { Some(Arc::new(trusting(certificate::write(directory.path(), address)?))) } else { None };
        let endpoint = Endpoint { address, tls };
        let mut command = match kind {
            Kind::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--floor", &address.to_string()]);
                command
            }
            Kind::Anteroom => {
                let routes = directory.path().join("routes.toml");
                fs::write(&routes, routes_toml(&endpoint, admin))?;
                let mut command = Command::new(anteroom);
                command.arg("-c").arg(routes);
                command
            }
        };
        let log = File::create(directory.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A child inherits the processor of the thread that starts it, and so do its threads.
        if let Some(processors) = processors {
            pin(processors.server)?;
        }
        let child = command.spawn().with_context(|| format!("starting {kind:?}"));
        if let Some(processors) = processors {
            pin(processors.generator)?;
        }
        let mut target = Self { child: child?, endpoint, directory };
        target.wait_until_up().with_context(|| format!("{kind:?} did not come up: {}", target.log()))?;
        Ok(target)
    }

    /// The time used up to now, once the server has settled.
    pub(crate) fn usage(&self) -> Result<Usage> {
        sleep(SETTLE);
        Usage::read(&[self.child.id()])
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        Memory::read(self.child.id())
    }

    /// What the server wrote, for the message of a failed run.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(self.endpoint.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if deadline < Instant::now() {
                bail!("it does not accept at {} within {START_MAX:?}", self.endpoint.address);
            }
            sleep(SETTLE);
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits, for a process that says in no other way that it is idle.
#[expect(clippy::disallowed_methods, reason = "the generator has no runtime to block")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Two addresses that were free a moment ago.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok([first.local_addr()?, second.local_addr()?])
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

fn routes_toml(endpoint: &Endpoint, admin: SocketAddr) -> String {
    let address = endpoint.address;
    let tls = if endpoint.tls.is_some() { r#"tls = [{ cert = "cert.pem", key = "key.pem" }]"# } else { "" };
    format!(
        r#"version = 1

[server]
admin = "{admin}"
workers = 1
log = {{ level = "warn" }}
limits = {{ connections = 50000, per_ip = 50000, handshakes_per_second = 100000 }}

[[listener]]
name = "bench"
address = "{address}"
{tls}

[defaults]
hosts = ["127.0.0.1"]
origins = ["same-host"]

[[route]]
name = "room"
re_path = '^room/(?P<room>[A-Za-z0-9_-]{{1,64}})/$'
handler = "room"
format = "raw"
group = "bench_{{room}}"

[[route]]
name = "echo"
re_path = '^echo/$'
handler = "echo"
"#
    )
}
