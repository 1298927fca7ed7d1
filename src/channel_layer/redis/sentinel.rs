//! Finding the master that Sentinels watch over, and noticing that it is another.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{Value, cmd};
use tokio::time::{self, Duration};
use tracing::warn;

use crate::channel_layer::redis::connect::{Connection, Connector, text};
use crate::channel_layer::redis::{RedisAddress, Sentinel};

/// The pause between two looks whether the master is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The Sentinels of a host.
pub(super) struct Sentinels {
    all: Vec<Connector>,
    master_name: String,
    /// The one that answered last. It is asked first.
    first: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(settings: &Sentinel) -> Self {
        Self {
            all: settings.sentinels.iter().cloned().map(Connector::new).collect(),
            master_name: settings.master_name.clone(),
            first: AtomicUsize::new(0),
        }
    }

    /// Asks one after the other where the master is, until one of them knows.
    ///
    /// # Errors
    ///
    /// None does. It says why, one by one.
    pub(super) async fn find(&self) -> Result<RedisAddress, String> {
        let mut why = format!("no Sentinel knows the master `{}`", self.master_name);
        let first = self.first.load(Ordering::Relaxed);
        for step in 0..self.all.len() {
            let index = (first + step) % self.all.len();
            let Some(sentinel) = self.all.get(index) else { continue };
            let asked = async {
                let mut connection = sentinel.open(sentinel.address(), |_| {}).await?;
                self.ask(&mut connection).await
            };
            match sentinel.limited(asked).await {
                Ok(address) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(address);
                }
                Err(error) => {
                    // Writing to a `String` does not fail.
                    let _infallible = write!(why, "; {}: {error}", sentinel.address());
                }
            }
        }
        Err(why)
    }

    async fn ask(&self, connection: &mut Connection) -> Result<RedisAddress, String> {
        let mut command = cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master_name);
        let answer = connection.commands.send_packed_command(&command).await;
        match answer.map_err(|error| error.to_string())? {
            Value::Array(parts) => {
                let parts: Vec<_> = parts.iter().filter_map(text).collect();
                match parts.as_slice() {
                    [host, port] => {
                        let port = port.parse().map_err(|_| "it names no port".to_owned())?;
                        Ok(RedisAddress::Tcp((*host).to_owned(), port))
                    }
                    _ => Err("its answer is not understood".to_owned()),
                }
            }
            Value::Nil => Err("it knows no master of this name".to_owned()),
            Value::ServerError(error) => Err(error.to_string()),
            _ => Err("its answer is not understood".to_owned()),
        }
    }

    /// Ends when the master is not at this address any more. While no Sentinel answers it stays where it is.
    pub(super) async fn leaves(&self, address: &RedisAddress) {
        let mut silent = false;
        let mut open: Option<(&Connector, Connection)> = None;
        loop {
            time::sleep(LOOK_EVERY).await;
            // Mostly the Sentinel of the last time, on the connection of the last time.
            let known = match &mut open {
                Some((sentinel, connection)) => sentinel.limited(self.ask(connection)).await,
                None => Err(String::new()),
            };
            let found = if known.is_ok() {
                known
            } else {
                open = None;
                self.find().await
            };
            match found {
                Ok(found) if found != *address => return,
                Ok(_) => {
                    silent = false;
                    if open.is_none() {
                        open = self.reopen().await;
                    }
                }
                Err(reason) => {
                    if !std::mem::replace(&mut silent, true) {
                        warn!(reason, "nobody can say whether the master of Redis has changed");
                    }
                }
            }
        }
    }

    async fn reopen(&self) -> Option<(&Connector, Connection)> {
        let sentinel = self.all.get(self.first.load(Ordering::Relaxed))?;
        let connection = sentinel.limited(sentinel.open(sentinel.address(), |_| {})).await.ok()?;
        Some((sentinel, connection))
    }
}
