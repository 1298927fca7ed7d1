//! What is measured: Channels on a server of ASGI and anteroom, each beside a Redis and a process of Django that sends.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::redis_server::RedisServer;
use crate::sender::Sender;
use crate::support::anteroom;
use crate::support::client::Endpoint;
use crate::support::process::{Process, SETTLE, free_addresses, sleep};
use crate::support::usage::{Processors, Usage};

/// Where the sockets are opened, and the group that its consumer puts them into.
pub(crate) const PATH: &str = "/ws/chat/bench/";
const GROUP: &str = "chat_bench";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Channels,
    Anteroom,
}

/// The layers of `channels_redis`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    Core,
    Pubsub,
}

/// The servers of ASGI that people have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asgi {
    Daphne,
    Uvicorn,
}

/// The programs that may be started.
#[derive(Debug)]
pub(crate) struct Programs<'a> {
    /// The `bin` of an environment with Django.
    pub(crate) python: &'a Path,
    pub(crate) anteroom: &'a Path,
}

/// A running server and what stands behind it. All are ended when this is dropped.
pub(crate) struct Target {
    process: Process,
    pub(crate) endpoint: Endpoint,
    pub(crate) redis: RedisServer,
    pub(crate) sender: Sender,
    directory: TempDir,
}

impl Kind {
    /// What anteroom is measured beside.
    pub(crate) const BESIDE: Self = Self::Channels;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Anteroom => "anteroom",
        }
    }
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Pubsub => "pubsub",
        }
    }
}

impl Target {
    /// Starts all of it and waits until the server accepts.
    pub(crate) fn start(
        kind: Kind,
        layer: Layer,
        asgi: Asgi,
        programs: &Programs<'_>,
        processors: Option<Processors>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let [address, admin, redis] = free_addresses()?;
        let redis = RedisServer::start(redis, directory.path())?;
        let python = |program: &str| {
            let mut command = Command::new(programs.python.join(program));
            command
                .env("LAYER", layer.name())
                .env("REDIS_URL", redis.url())
                .env("DATA_DIR", directory.path());
            command
                .env("PYTHONPATH", std::env::join_paths([own("benches/django"), own("examples/migration")])?);
            command.env("DJANGO_SETTINGS_MODULE", "bench_settings").env("PYTHONDONTWRITEBYTECODE", "1");
            anyhow::Ok(command)
        };
        let mut command = match (kind, asgi) {
            (Kind::Channels, Asgi::Daphne) => {
                let mut command = python("daphne")?;
                command.args(["-b", "127.0.0.1", "-p", &address.port().to_string(), "-v", "0"]);
                command.arg("project.asgi:application");
                command
            }
            (Kind::Channels, Asgi::Uvicorn) => {
                let mut command = python("uvicorn")?;
                command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
                command.args(["--log-level", "warning", "--lifespan", "off", "project.asgi:application"]);
                command
            }
            (Kind::Anteroom, _) => {
                let tables = tables(address, layer, &redis.url());
                anteroom::command(programs.anteroom, directory.path(), admin, &tables)?
            }
        };
        let mut process = Process::start(&mut command, directory.path().join("log"), processors)?;
        process.wait_until_up(&[address]).with_context(|| format!("{kind:?} did not come up"))?;
        let log = directory.path().join("sender.log");
        let sender = Sender::start(python("python")?.arg(own("benches/django/send.py")).arg(GROUP), &log)?;
        let endpoint = Endpoint { address, tls: None };
        Ok(Self { process, endpoint, redis, sender, directory })
    }

    /// The time used up to now by the server, by Redis and by the sender, once they have settled.
    pub(crate) fn usage(&self) -> Result<[Usage; 3]> {
        sleep(SETTLE);
        Ok([Usage::read(&[self.process.id()])?, self.redis.usage()?, self.sender.usage()?])
    }

    /// What the server and the sender wrote, for the message of a failed run.
    pub(crate) fn log(&self) -> String {
        let sender = fs::read_to_string(self.directory.path().join("sender.log")).unwrap_or_default();
        self.process.log() + &sender
    }
}

/// A path of this repository.
fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What the project's `ChatConsumer` does, with the pattern of its `chat/routing.py`.
fn tables(address: SocketAddr, layer: Layer, redis: &str) -> String {
    let layer = layer.name();
    format!(
        r#"[[listener]]
name = "bench"
address = "{address}"

[layer]
backend = "channels_redis.{layer}"
hosts = ["{redis}"]

[[route]]
name = "chat"
re_path = '^ws/chat/(?P<room_name>[A-Za-z0-9_-]{{1,64}})/$'
handler = "room"
group = "chat_{{room_name}}"
receive = {{ type = "chat.message", pick = ["message"] }}
deliver = {{ "chat.message" = {{ pick = ["message"] }} }}
"#
    )
}
