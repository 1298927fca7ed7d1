//! Finding the nodes of a Redis Cluster, and noticing that they are others.

use std::fmt::Write as _;
use std::sync::Mutex;

use futures_util::future::join_all;
use redis::{Pipeline, PushInfo};
use tokio::time::{self, Duration};
use tracing::warn;

use crate::channel_layer::redis::connect::{Connection, Connector, text};
use crate::channel_layer::redis::host::lock;
use crate::channel_layer::redis::slots::Slots;
use crate::channel_layer::redis::{Cluster, RedisAddress};

/// The pause between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many nodes are remembered beside those that were configured.
const LEARNED_MAX: usize = 64;

/// The nodes of a host that is a cluster.
pub(super) struct Nodes {
    connector: Connector,
    configured: Vec<RedisAddress>,
    pub(super) sharded: bool,
    known: Mutex<Known>,
}

/// What was learned from the nodes.
#[derive(Default)]
struct Known {
    /// The one that answered last. It is asked first.
    first: Option<RedisAddress>,
    others: Vec<RedisAddress>,
    /// Masters that could not be reached when the last connections were opened.
    away: Vec<RedisAddress>,
}

/// The cluster as one of its nodes sees it.
#[derive(Clone)]
pub(super) struct View {
    pub(super) node: RedisAddress,
    pub(super) slots: Slots,
    /// Whether it is with the greater part of the cluster, and all slots are served.
    is_whole: bool,
}

impl Nodes {
    pub(super) fn new(settings: &Cluster) -> Self {
        Self {
            connector: Connector::new(settings.nodes.first().cloned().unwrap_or_default()),
            configured: settings.nodes.iter().map(|node| node.address.clone()).collect(),
            sharded: settings.sharded,
            known: Mutex::default(),
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Asks one node after the other until one sees the whole cluster; when none does, any will do.
    ///
    /// # Errors
    ///
    /// None answers. It says why, one by one.
    pub(super) async fn find(&self) -> Result<View, String> {
        let mut why = "no node of the cluster can be used".to_owned();
        let mut part = None;
        for address in self.candidates() {
            let asked = async {
                let mut connection = self.connector.open(&address, |_| {}).await?;
                self.ask(&mut connection, &address).await
            };
            match self.connector.limited(asked).await {
                Ok(view) if view.is_whole => {
                    part = Some(view);
                    break;
                }
                Ok(view) => part = part.or(Some(view)),
                Err(error) => {
                    // Writing to a `String` does not fail.
                    let _infallible = write!(why, "; {address}: {error}");
                }
            }
        }
        let view = part.ok_or(why)?;
        lock(&self.known).first = Some(view.node.clone());
        Ok(view)
    }

    fn candidates(&self) -> Vec<RedisAddress> {
        let known = lock(&self.known);
        let mut all: Vec<RedisAddress> = Vec::new();
        for address in known.first.iter().chain(&self.configured).chain(&known.others) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    async fn ask(&self, connection: &mut Connection, address: &RedisAddress) -> Result<View, String> {
        if !connection.greeting.is_cluster {
            return Err("it is no node of a Redis Cluster".to_owned());
        }
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("CLUSTER").arg("INFO");
        commands.cmd("CLUSTER").arg("SLOTS");
        let answers = connection.commands.send_packed_commands(&commands, 0, 2).await;
        let answers = answers.map_err(|error| error.to_string())?;
        let [info, slots] = answers.as_slice() else { return Err("its answer is not understood".to_owned()) };
        for answer in [info, slots] {
            if let redis::Value::ServerError(error) = answer {
                return Err(error.to_string());
            }
        }
        let is_whole = text(info).is_some_and(|info| info.contains("cluster_state:ok"));
        let (slots, mut nodes) = Slots::read(slots, address);
        nodes.truncate(LEARNED_MAX);
        lock(&self.known).others = nodes;
        Ok(View { node: address.clone(), slots, is_whole })
    }

    /// Opens a connection to every master that can be reached, at least one.
    pub(super) async fn open_all<F: Fn(&PushInfo) + Send + Sync + 'static>(
        &self,
        view: &View,
        on_push: impl Fn() -> F,
    ) -> Result<Vec<(RedisAddress, Connection)>, String> {
        let masters = view.slots.masters();
        let opening = masters.iter().map(|master| {
            let on_push = on_push();
            async move {
                let opening = self.connector.open(master, on_push);
                let opened = time::timeout(self.connector.timeout(), opening).await;
                (master.clone(), opened.unwrap_or_else(|_| Err("connecting took too long".to_owned())))
            }
        });
        let (mut open, mut away) = (Vec::new(), Vec::new());
        let mut why = "no master of the cluster can be reached".to_owned();
        for (master, opened) in join_all(opening).await {
            match opened {
                Ok(connection) => open.push((master, connection)),
                Err(error) => {
                    // Writing to a `String` does not fail.
                    let _infallible = write!(why, "; {master}: {error}");
                    away.push(master);
                }
            }
        }
        if open.is_empty() {
            return Err(why);
        }
        if !away.is_empty() {
            warn!(why, "a part of the cluster is away, its groups hear nothing");
        }
        lock(&self.known).away = away;
        Ok(open)
    }

    /// Ends when what a view says is not so any more, as far as it matters.
    pub(super) async fn leaves(&self, view: &View) {
        let mut open: Option<Connection> = None;
        loop {
            time::sleep(LOOK_EVERY).await;
            if open.is_none() {
                open = self.connector.limited(self.connector.open(&view.node, |_| {})).await.ok();
            }
            let seen = match &mut open {
                Some(connection) => self.connector.limited(self.ask(connection, &view.node)).await,
                None => Err(String::new()),
            };
            // A node that is cut off from the others does not know what they do.
            let now = match seen {
                Ok(seen) if seen.is_whole => seen,
                seen => {
                    if seen.is_err() {
                        open = None;
                    }
                    let Ok(found) = self.find().await else { continue };
                    found
                }
            };
            let has_moved = if self.sharded {
                now.slots != view.slots || self.is_back().await
            } else {
                now.is_whole && now.node != view.node
            };
            if has_moved {
                return;
            }
        }
    }

    /// Whether a master that was away can be reached.
    async fn is_back(&self) -> bool {
        let away = lock(&self.known).away.clone();
        let opening = away.iter().map(|master| self.connector.limited(self.connector.open(master, |_| {})));
        join_all(opening).await.iter().any(Result::is_ok)
    }
}
