//! The ways to a host: at its address, or by asking for it.

use std::future;

use redis::PushInfo;
use tokio::time::Duration;

use crate::channel_layer::redis::cluster::{Nodes, View};
use crate::channel_layer::redis::connect::{Connection, Connector};
use crate::channel_layer::redis::sentinel::Sentinels;
use crate::channel_layer::redis::slots::{Slots, slot};
use crate::channel_layer::redis::{RedisAddress, RedisHost};

/// How a host is found.
pub(super) enum Way {
    /// It is one server.
    Server(Connector),
    /// It is the master that Sentinels name.
    Sentinel { sentinels: Sentinels, master: Connector },
    /// It is a cluster.
    Cluster(Nodes),
}

impl Way {
    pub(super) fn new(host: &RedisHost) -> Self {
        match host {
            RedisHost::Server(server) => Self::Server(Connector::new(server.clone())),
            RedisHost::Sentinel(sentinel) => Self::Sentinel {
                sentinels: Sentinels::new(sentinel),
                master: Connector::new(sentinel.master.clone()),
            },
            RedisHost::Cluster(cluster) => Self::Cluster(Nodes::new(cluster)),
        }
    }

    /// Finds the server to connect to now.
    pub(super) async fn find(&self) -> Result<Target<'_>, String> {
        Ok(match self {
            Self::Server(connector) => {
                Target { connector, address: connector.address().clone(), cluster: None }
            }
            Self::Sentinel { sentinels, master } => {
                Target { connector: master, address: sentinels.find().await?, cluster: None }
            }
            Self::Cluster(nodes) => {
                let view = nodes.find().await?;
                Target {
                    connector: nodes.connector(),
                    address: view.node.clone(),
                    cluster: Some((nodes, view)),
                }
            }
        })
    }

    /// Ends, with the reason, when another server than the target is the one to connect to.
    pub(super) async fn leaves(&self, target: &Target<'_>) -> &'static str {
        match (self, &target.cluster) {
            (Self::Sentinel { sentinels, .. }, _) => {
                sentinels.leaves(&target.address).await;
                "the Sentinels name another master"
            }
            (Self::Cluster(nodes), Some((_, view))) => {
                nodes.leaves(view).await;
                if nodes.sharded { "the cluster has changed" } else { "its part of the cluster is cut off" }
            }
            (Self::Server(_) | Self::Cluster(_), _) => future::pending().await,
        }
    }
}

/// A server that was found.
pub(super) struct Target<'a> {
    connector: &'a Connector,
    address: RedisAddress,
    /// The cluster that it is a node of.
    cluster: Option<(&'a Nodes, View)>,
}

impl Target<'_> {
    /// How long connecting may take.
    pub(super) fn timeout(&self) -> Duration {
        match &self.cluster {
            // Each of its masters may take that long.
            Some((nodes, _)) if nodes.sharded => self.connector.timeout() * 3 / 2,
            _ => self.connector.timeout(),
        }
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
            let address = &self.address;
            return Err(format!(
                "{address} is a read only replica, what is sent to it is heard nowhere else"
            ));
        }
        Ok(connection)
    }

    /// Opens the connections of a host for pub/sub, to every master of a cluster that is sharded.
    pub(super) async fn open_links<F: Fn(&PushInfo) + Send + Sync + 'static>(
        &self,
        on_push: impl Fn() -> F,
    ) -> Result<Links, String> {
        if let Some((nodes, view)) = &self.cluster
            && nodes.sharded
        {
            let open = nodes.open_all(view, on_push).await?;
            return Ok(Links { open, slots: Some(view.slots.clone()) });
        }
        Ok(Links { open: vec![(self.address.clone(), self.open(on_push()).await?)], slots: None })
    }
}

/// The connections of a host for pub/sub, at least one.
pub(super) struct Links {
    pub(super) open: Vec<(RedisAddress, Connection)>,
    /// Which of them has a channel, when that is not the same for all.
    slots: Option<Slots>,
}

impl Links {
    /// Whether each channel is on one node alone.
    pub(super) fn are_sharded(&self) -> bool {
        self.slots.is_some()
    }

    /// The connection for a channel; `None` when the master of its slot is away.
    pub(super) fn of(&self, channel: &str) -> Option<usize> {
        let Some(slots) = &self.slots else { return Some(0) };
        let master = slots.master(slot(channel.as_bytes()))?;
        self.open.iter().position(|(address, _)| address == master)
    }
}
