//! The server that is measured.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// The command that starts it with one worker, no limit that the load would meet, and these tables.
pub(crate) fn command(program: &Path, directory: &Path, admin: SocketAddr, tables: &str) -> Result<Command> {
    let text = format!(
        r#"version = 1

[server]
admin = "{admin}"
workers = 1
log = {{ level = "warn" }}
limits = {{ connections = 50000, per_ip = 50000, handshakes_per_second = 100000 }}

[defaults]
hosts = ["127.0.0.1"]
origins = ["same-host"]

{tables}"#
    );
    let routes = directory.join("routes.toml");
    fs::write(&routes, text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(routes);
    Ok(command)
}
