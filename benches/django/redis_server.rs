//! The Redis between Django and the server, and what goes through it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::support::process::Process;
use crate::support::usage::Usage;

/// A server of its own, on the processor of this program. It is killed when this is dropped.
pub(crate) struct RedisServer {
    process: Process,
    address: SocketAddr,
    connection: redis::Connection,
}

/// What Redis has counted up to now.
pub(crate) struct Traffic {
    /// Each command that was executed, those of scripts included.
    commands: u64,
    /// Those of them that put a message where it is read from.
    messages: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl RedisServer {
    pub(crate) fn start(address: SocketAddr, directory: &Path) -> Result<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no"]).arg("--dir").arg(directory);
        let mut process = Process::start(&mut command, directory.join("redis.log"), None)?;
        process.wait_until_up(&[address]).context("redis-server did not come up")?;
        let connection = redis::Client::open(url(address))?.get_connection()?;
        Ok(Self { process, address, connection })
    }

    pub(crate) fn url(&self) -> String {
        url(self.address)
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::read(&[self.process.id()])
    }

    /// Sets all counts back to zero.
    pub(crate) fn reset(&mut self) -> Result<()> {
        Ok(redis::cmd("CONFIG").arg("RESETSTAT").query(&mut self.connection)?)
    }

    pub(crate) fn traffic(&mut self) -> Result<Traffic> {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut self.connection)?;
        let bytes = |name: &str| -> Result<u64> {
            let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(value.with_context(|| format!("no {name} in {stats}"))?.parse()?)
        };
        let (bytes_in, bytes_out) = (bytes("total_net_input_bytes")?, bytes("total_net_output_bytes")?);
        let commands: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection)?;
        let mut traffic = Traffic { commands: 0, messages: 0, bytes_in, bytes_out };
        for line in commands.lines() {
            let Some((name, rest)) =
                line.strip_prefix("cmdstat_").and_then(|line| line.split_once(":calls="))
            else {
                continue;
            };
            let calls: u64 = rest.split(',').next().unwrap_or_default().parse()?;
            // What this program asks is no traffic of the others.
            if !matches!(name, "info" | "config|resetstat") {
                traffic.commands += calls;
            }
            if matches!(name, "zadd" | "publish") {
                traffic.messages += calls;
            }
        }
        Ok(traffic)
    }
}

impl Traffic {
    /// The counts for each of so many units.
    pub(crate) fn per(&self, units: u64) -> [f64; 4] {
        [self.commands, self.messages, self.bytes_in, self.bytes_out].map(|count| count as f64 / units as f64)
    }
}

fn url(address: SocketAddr) -> String {
    format!("redis://{address}/0")
}
