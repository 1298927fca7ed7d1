//! The ways to a host: at its address, or by asking for it.

use std::future;

use redis::PushInfo;
use tokio::time::Duration;

use crate::channel_layer::redis::connect::{Connection, Connector};
use crate::channel_layer::redis::sentinel::Sentinels;
use crate::channel_layer::redis::{RedisAddress, RedisHost};

/// How a host is found.
pub(super) enum Way {
    /// It is one server.
    Server(Connector),
    /// It is the master that Sentinels name.
    Sentinel { sentinels: Sentinels, master: Connector },
}

impl Way {
    pub(super) fn new(host: &RedisHost) -> Self {
        match host {
            RedisHost::Server(server) => Self::Server(Connector::new(server.clone())),
            RedisHost::Sentinel(sentinel) => Self::Sentinel {
                sentinels: Sentinels::new(sentinel),
                master: Connector::new(sentinel.master.clone()),
            },
        }
    }

    /// Finds the server to connect to now.
    pub(super) async fn find(&self) -> Result<Target<'_>, String> {
        match self {
            Self::Server(connector) => Ok(Target { connector, address: connector.address().clone() }),
            Self::Sentinel { sentinels, master } => {
                Ok(Target { connector: master, address: sentinels.find().await? })
            }
        }
    }

    /// Ends, with the reason, when another server than the target is the one to connect to.
    pub(super) async fn leaves(&self, target: &Target<'_>) -> &'static str {
        match self {
            Self::Server(_) => future::pending().await,
            Self::Sentinel { sentinels, .. } => {
                sentinels.leaves(&target.address).await;
                "the Sentinels name another master"
            }
        }
    }
}

/// A server that was found.
pub(super) struct Target<'a> {
    connector: &'a Connector,
    address: RedisAddress,
}

impl Target<'_> {
    /// How long connecting may take.
    pub(super) fn timeout(&self) -> Duration {
        self.connector.timeout()
    }

    /// Where it is.
    pub(super) fn address(&self) -> &RedisAddress {
        &self.address
    }

    /// Opens a connection as [`Connector::open`] does, whatever the server says of itself.
    pub(super) async fn open_any(
        &self,
        on_push: impl Fn(&PushInfo) + Send + Sync + 'static,
    ) -> Result<Connection, String> {
        self.connector.open(&self.address, on_push).await
    }

    /// Opens a connection as [`Connector::open`] does, to a server that can carry messages.
    pub(super) async fn open(
        &self,
        on_push: impl Fn(&PushInfo) + Send + Sync + 'static,
    ) -> Result<Connection, String> {
        let connection = self.open_any(on_push).await?;
        if connection.greeting.is_sentinel {
            let name = "`{ sentinels = [[\"host\", 26379]], master_name = \"name\" }`";
            return Err(format!("{} is a Sentinel, which is written as {name}", self.address));
        }
        if connection.greeting.is_lone_replica() {
            return Err(format!(
                "{} is a read only replica, what is sent to it is heard nowhere else",
                self.address
            ));
        }
        Ok(connection)
    }
}
