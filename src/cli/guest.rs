//! A channel layer for the time of one command.

use std::sync::Arc;

use prometheus::Registry;
use tokio::sync::mpsc;
use tokio::time::{self, Duration};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel_layer::{
    ChannelLayer, Delivery, Direct, Inbox, LayerConfig, LayerMetrics, RedisHost, Refusal, Sent, Ticket,
    WorkerId,
};

/// What is told and not yet asked for.
const NEWS_MAX: usize = 64;
/// How often it is looked whether the layer is up.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// No host is waited for longer than this, whatever is configured.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How much more than an attempt takes.
const CONNECT_SPARE: Duration = Duration::from_millis(300);
/// Saying farewell may take this long: the layer gives itself a second.
const FAREWELL_MAX: Duration = Duration::from_millis(1500);

/// A layer with one worker, whose news wait in a queue.
pub(super) struct Guest {
    pub(super) layer: ChannelLayer,
    news: mpsc::Receiver<News>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What a layer has to tell.
#[derive(Debug)]
pub(super) enum News {
    Delivered(Delivery),
    Sent(Sent),
    Refused(Refusal),
}

impl Guest {
    /// The only worker there is.
    pub(super) const WORKER: WorkerId = WorkerId(0);
    /// Whoever sends.
    pub(super) const TICKET: Ticket = Ticket { worker: Self::WORKER, socket: 0 };

    /// How long the hosts of a layer may take to connect: a little more than the layer gives to one attempt, so
    /// that it can say why it failed.
    pub(super) fn patience(config: &LayerConfig) -> Duration {
        let servers = config.hosts().iter().filter_map(RedisHost::server);
        let timeouts = servers.map(|server| server.connect_timeout);
        timeouts.max().unwrap_or_default().min(CONNECT_MAX) + CONNECT_SPARE
    }

    /// Begins to connect.
    ///
    /// # Errors
    ///
    /// Ours: metrics do not go together.
    pub(super) fn arrive(config: LayerConfig) -> anyhow::Result<Self> {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let metrics = LayerMetrics::register(&Registry::new())?;
        let (layer, task) = ChannelLayer::new(config, vec![Arc::new(Desk(tell))], metrics);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(task.run(stop.clone(), CancellationToken::new()));
        Ok(Self { layer, news, stop, tasks })
    }

    /// Waits until all hosts are connected, for so long at most; says whether they are.
    pub(super) async fn is_up_within(&self, limit: Duration) -> bool {
        let up = async {
            while !self.layer.health().up {
                time::sleep(LOOK_EVERY).await;
            }
        };
        time::timeout(limit, up).await.is_ok()
    }

    /// The next thing that the layer tells. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }

    /// What failed, and what the layer says to that.
    pub(super) fn reason(&self, what: &str) -> String {
        match self.layer.last_refusal().or(self.layer.health().error) {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }

    /// Withdraws what Redis knows of us, and ends.
    pub(super) async fn leave(self) {
        self.stop.cancel();
        self.tasks.close();
        // What is left of us then expires.
        time::timeout(FAREWELL_MAX, self.tasks.wait()).await.unwrap_or_default();
    }
}

struct Desk(mpsc::Sender<News>);

impl Desk {
    fn put(&self, news: News) {
        // A command asks for each thing that it has caused, so the queue has room.
        self.0.try_send(news).unwrap_or_default();
    }
}

impl Inbox for Desk {
    fn deliver(&self, delivery: Delivery) {
        self.put(News::Delivered(delivery));
    }

    fn direct(&self, _direct: Direct) {}

    fn refused(&self, _ticket: Ticket, refusal: Refusal) {
        self.put(News::Refused(refusal));
    }

    fn sent(&self, _ticket: Ticket, sent: Sent) {
        self.put(News::Sent(sent));
    }
}
