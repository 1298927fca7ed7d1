//! What is measured: a child process on a processor of its own, and what it has used.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rcgen::CertifiedKey;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::client::Endpoint;

const START_MAX: Duration = Duration::from_secs(10);
/// Long enough for a server that has nothing left to do to go to sleep: its time is exact only then.
const SETTLE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Floor,
    Anteroom,
}

/// A running server. It is killed when this is dropped.
pub(crate) struct Target {
    child: Child,
    pub(crate) endpoint: Endpoint,
    directory: TempDir,
}

/// The processors of the generator and of the server, `None` when there is only one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors {
    generator: usize,
    server: usize,
}

/// The processor time of each thread, in nanoseconds.
pub(crate) struct Usage(HashMap<String, u64>);

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// What the process allocated.
    pub(crate) anonymous: u64,
    /// That and the touched pages of its files.
    pub(crate) resident: u64,
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
        let tls = if tls { Some(Arc::new(certify(directory.path(), address)?)) } else { None };
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
        Usage::read(&self.proc())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(self.proc().join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            let kibibytes = line.trim().strip_suffix(" kB").context("not in kB")?;
            Ok(kibibytes.parse::<u64>()? * 1024)
        };
        Ok(Memory { anonymous: field("RssAnon:")?, resident: field("VmRSS:")? })
    }

    /// What the server wrote, for the message of a failed run.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.child.id()))
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

impl Processors {
    /// The first two that this process may use.
    pub(crate) fn detect() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(None)?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor));
        let found = allowed.next().zip(allowed.next());
        let Some((generator, server)) = found else { return Ok(None) };
        pin(generator)?;
        Ok(Some(Self { generator, server }))
    }
}

impl Usage {
    /// The time that this program itself has used.
    pub(crate) fn of_generator() -> Result<Self> {
        Self::read(Path::new("/proc/self"))
    }

    /// The time used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        // By thread, so that one that ended in between takes nothing away from the sum.
        let used = self.0.iter().map(|(thread, used)| used - before.0.get(thread).unwrap_or(&0));
        Duration::from_nanos(used.sum())
    }

    fn read(process: &Path) -> Result<Self> {
        let mut used = HashMap::new();
        for thread in fs::read_dir(process.join("task"))? {
            let thread = thread?;
            let schedstat = fs::read_to_string(thread.path().join("schedstat"))
                .context("the kernel tells no processor times (CONFIG_SCHED_INFO)")?;
            let running = schedstat.split(' ').next().context("an empty schedstat")?.parse()?;
            used.insert(thread.file_name().to_string_lossy().into_owned(), running);
        }
        Ok(Self(used))
    }
}

/// Waits, for a process that says in no other way that it is idle.
#[expect(clippy::disallowed_methods, reason = "the generator has no runtime to block")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).context("sched_setaffinity")
}

/// Two addresses that were free a moment ago.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok([first.local_addr()?, second.local_addr()?])
}

/// Writes a certificate for the address into the directory, and says how to trust it.
fn certify(directory: &Path, address: SocketAddr) -> Result<ClientConfig> {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([address.ip().to_string()])?;
    fs::write(directory.join("cert.pem"), cert.pem())?;
    fs::write(directory.join("key.pem"), signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone())?;
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
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
