//! What is measured: a child process on a processor of its own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::support::client::Endpoint;
use crate::support::process::{Process, SETTLE, free_addresses, sleep};
use crate::support::usage::{Memory, Processors, Usage};
use crate::support::{anteroom, certificate};

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
    process: Process,
    pub(crate) endpoint: Endpoint,
    _directory: TempDir,
}

impl Target {
    /// Starts a server and waits until it accepts.
    pub(crate) fn start(
        kind: Kind,
        tls: bool,
        program: &Path,
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
            Kind::Anteroom => anteroom::command(program, directory.path(), admin, &tables(&endpoint))?,
        };
        let mut process = Process::start(&mut command, directory.path().join("log"), processors)?;
        process.wait_until_up(&[address]).with_context(|| format!("{kind:?} did not come up"))?;
        Ok(Self { process, endpoint, _directory: directory })
    }

    /// The time used up to now, once the server has settled.
    pub(crate) fn usage(&self) -> Result<Usage> {
        sleep(SETTLE);
        Usage::read(&[self.process.id()])
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        Memory::read(self.process.id())
    }

    /// What the server wrote, for the message of a failed run.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

fn tables(endpoint: &Endpoint) -> String {
    let address = endpoint.address;
    let tls = if endpoint.tls.is_some() { r#"tls = [{ cert = "cert.pem", key = "key.pem" }]"# } else { "" };
    format!(
        r#"[[listener]]
name = "bench"
address = "{address}"
{tls}

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
