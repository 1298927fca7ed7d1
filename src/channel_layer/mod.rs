//! The channel layer: groups whose members live on workers of this server and on other nodes.
//!
//! A worker joins a group when its first socket does and leaves with its last one; what is sent to a group
//! reaches each worker that joined, once, through its [`Inbox`]. Within a group every worker sees the same
//! order.

mod address;
mod memory;
mod message;
mod metrics;
mod name;
mod redis;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::channel_layer::memory::Memory;
use crate::channel_layer::redis::core::Core;
use crate::channel_layer::redis::pubsub::PubSub;

pub use self::message::{Key, Message, Value};
pub use self::metrics::LayerMetrics;
pub use self::name::{ChannelName, GroupName, InvalidChannel, InvalidName};
pub use self::redis::checkup::{
    Answer, ClientFacts, ClockFacts, Denied, GroupFacts, HostFacts, InboxFacts, Info, Store, Traffic,
    Unreached, Why, examine,
};
pub use self::redis::{
    Capacities, ChannelPattern, Cluster, CoreConfig, DecodeError, EncodeError, InvalidRedisUrl, Login,
    PubSubConfig, RedisAddress, RedisHost, RedisServer, RedisTls, RedisUrl, Secret, Sentinel, Serializer,
    SerializerFormat, UnknownFormat,
};

/// The number of a worker: its place in the list of inboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub usize);

/// Who published, to tell them when it came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The worker of the socket.
    pub worker: WorkerId,
    /// The socket's number on its worker.
    pub socket: u64,
}

/// A message on its way to the members of a group on one worker.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The group it was sent to.
    pub group: GroupName,
    /// The message, shared by all who get it.
    pub message: Arc<Message>,
}

/// A message on its way to single sockets of one worker, by the names of their channels.
#[derive(Clone, Debug)]
pub struct Direct {
    /// The numbers of the sockets, each once. They may be gone.
    pub sockets: Vec<u64>,
    /// The groups of this worker that the same message was delivered to just before. A socket that heard it
    /// there is not to hear it again.
    pub groups: Vec<GroupName>,
    /// The message, shared by all who get it.
    pub message: Arc<Message>,
}

/// Where a worker takes in what the layer has for it.
///
/// All functions are called from other threads, must not block and must not call the layer. Deliveries of a
/// group come in its order.
pub trait Inbox: Send + Sync {
    /// Takes a message for the worker's members of a group.
    fn deliver(&self, delivery: Delivery);

    /// Takes a message for single sockets of the worker.
    fn direct(&self, direct: Direct);

    /// Takes the news that a message that was accepted by [`ChannelLayer::group_send`] or [`ChannelLayer::send`]
    /// was given up later.
    fn refused(&self, ticket: Ticket, refusal: Refusal);

    /// Takes the news that Redis has taken such a message, and for whom; when not for all, [`Inbox::refused`] follows.
    /// Who does not ask is not told.
    fn sent(&self, _ticket: Ticket, _sent: Sent) {}
}

/// For whom Redis has taken a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// With `channels_redis.pubsub`: so many connections heard it.
    Subscribers(u64),
    /// With `channels_redis.core`.
    Inboxes(Posted),
}

/// What became of a message that was put into inboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Posted {
    /// The members of the group.
    pub members: u64,
    /// The inboxes of their processes.
    pub inboxes: u64,
    /// Those of the members who do not get it, for their inbox is over capacity.
    pub members_full: u64,
    /// Their inboxes.
    pub inboxes_full: u64,
    /// Those of the members whose inbox could not be written to, which is a refusal, too.
    pub members_lost: u64,
    /// Their inboxes.
    pub inboxes_lost: u64,
}

impl Posted {
    /// The members who get the message.
    pub fn members_reached(&self) -> u64 {
        self.members - self.members_full - self.members_lost
    }

    /// Their inboxes.
    pub fn inboxes_reached(&self) -> u64 {
        self.inboxes - self.inboxes_full - self.inboxes_lost
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// As many bytes as allowed are waiting already.
    QueueFull,
    /// It waited longer than allowed for Redis.
    TimedOut,
    /// The connection was lost before Redis answered, or Redis refused. In the first case it may still have
    /// reached the group; it is not sent again.
    LayerDown,
    /// Its payload is longer than allowed.
    TooLarge,
    /// It holds something that the layer's format cannot express.
    Encode,
    /// The one channel that it was for holds as many messages as it may: `ChannelFull` in Channels.
    ChannelFull,
}

impl Refusal {
    /// All refusals.
    pub const ALL: [Self; 6] =
        [Self::QueueFull, Self::TimedOut, Self::LayerDown, Self::TooLarge, Self::Encode, Self::ChannelFull];

    /// A fixed word, for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TimedOut => "timed_out",
            Self::LayerDown => "layer_down",
            Self::TooLarge => "too_large",
            Self::Encode => "encode",
            Self::ChannelFull => "channel_full",
        }
    }
}

/// One line for the client that published.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "too many messages are waiting to be sent",
            Self::TimedOut => "the message could not be sent in time",
            Self::LayerDown => "the channel layer is not available",
            Self::TooLarge => "the message is too large",
            Self::Encode => "the message holds a value that the channel layer cannot carry",
            Self::ChannelFull => "the channel is full",
        })
    }
}

/// Which layer, with everything it needs.
#[derive(Clone, Debug)]
pub enum LayerConfig {
    /// Groups of this process only.
    Memory,
    /// `channels_redis.pubsub`.
    PubSub(PubSubConfig),
    /// `channels_redis.core`.
    Core(CoreConfig),
}

impl LayerConfig {
    /// The word in the configuration.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::PubSub(_) => "channels_redis.pubsub",
            Self::Core(_) => "channels_redis.core",
        }
    }

    /// The Redis servers that groups are spread over, in their order.
    pub fn hosts(&self) -> &[RedisHost] {
        match self {
            Self::Memory => &[],
            Self::PubSub(config) => &config.hosts,
            Self::Core(config) => &config.hosts,
        }
    }

    /// Which of the hosts a group is on.
    pub fn host_of(&self, group: &GroupName) -> usize {
        match self {
            Self::Memory => 0,
            Self::PubSub(config) => config.host_of(group),
            Self::Core(config) => config.host_of(group),
        }
    }
}

/// A handle to the layer, for every worker.
#[derive(Clone, Debug)]
pub struct ChannelLayer {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Memory(Arc<Memory>),
    PubSub(Arc<PubSub>),
    Core(Arc<Core>),
}

impl ChannelLayer {
    /// A layer for the workers whose inboxes are given, and the task that keeps it going.
    pub fn new(
        config: LayerConfig,
        inboxes: Vec<Arc<dyn Inbox>>,
        metrics: LayerMetrics,
    ) -> (Self, LayerTask) {
        let backend = match config {
            LayerConfig::Memory => Backend::Memory(Arc::new(Memory::new(inboxes, &metrics))),
            LayerConfig::PubSub(config) => Backend::PubSub(Arc::new(PubSub::new(config, inboxes, metrics))),
            LayerConfig::Core(config) => Backend::Core(Arc::new(Core::new(config, inboxes, metrics))),
        };
        (Self { backend: backend.clone() }, LayerTask { backend })
    }

    /// Makes a worker a member of a group. Called once per worker and group: when its first socket joins.
    pub fn join(&self, worker: WorkerId, group: &GroupName) -> Join {
        match &self.backend {
            Backend::Memory(memory) => {
                memory.join(worker, group);
                Join::Ready
            }
            Backend::PubSub(pubsub) => pubsub.join(worker, group),
            Backend::Core(core) => core.join(worker, group),
        }
    }

    /// Ends a worker's membership: when its last socket left.
    pub fn leave(&self, worker: WorkerId, group: &GroupName) {
        match &self.backend {
            Backend::Memory(memory) => memory.leave(worker, group),
            Backend::PubSub(pubsub) => pubsub.leave(worker, group),
            Backend::Core(core) => core.leave(worker, group),
        }
    }

    /// Sends a message to all members of a group, the sender included if it is one. Never blocks.
    ///
    /// With Redis `Ok` means that the message waits to be sent. What becomes of it shows by its return as a
    /// delivery, and by [`Inbox::sent`] or [`Inbox::refused`]. A message is never sent twice: when the
    /// connection dies before Redis has answered for it, it is refused, although it may have got through.
    ///
    /// # Errors
    ///
    /// The message was not taken.
    pub fn group_send(&self, group: &GroupName, message: Message, from: Ticket) -> Result<(), Refusal> {
        match &self.backend {
            Backend::Memory(memory) => {
                memory.group_send(group, message);
                Ok(())
            }
            Backend::PubSub(pubsub) => pubsub.group_send(group, &message, from),
            Backend::Core(core) => core.group_send(group, &message, from),
        }
    }

    /// Sends a message to one channel, of a consumer in Python, a socket of any node or, with Redis, a general
    /// channel. Never blocks; what `Ok` means is said at [`ChannelLayer::group_send`].
    ///
    /// # Errors
    ///
    /// The message was not taken.
    pub fn send(&self, channel: &ChannelName, message: Message, from: Ticket) -> Result<(), Refusal> {
        match &self.backend {
            Backend::Memory(memory) => {
                memory.send(channel, message);
                Ok(())
            }
            Backend::PubSub(pubsub) => pubsub.send(channel, &message, from),
            Backend::Core(core) => core.send(channel, &message, from),
        }
    }

    /// The name of the channel of one socket, always the same one. What is sent to it comes as [`Direct`].
    ///
    /// `group` is the group that the socket is in, if any. With several hosts of `channels_redis.core` the channel is
    /// then on the host of the group, so that a message to the group and to its member comes as one.
    pub fn channel(&self, socket: Ticket, group: Option<&GroupName>) -> ChannelName {
        match &self.backend {
            Backend::Memory(memory) => memory.channel(socket),
            Backend::PubSub(pubsub) => pubsub.channel(socket),
            Backend::Core(core) => core.channel(socket, group),
        }
    }

    /// Has what is sent to the channels of sockets come here. To be called before the first of these names is given
    /// to anybody; with `channels_redis.pubsub` it takes a subscription.
    pub fn open_channels(&self) {
        if let Backend::PubSub(pubsub) = &self.backend {
            pubsub.open_channels();
        }
    }

    /// How the layer is at the moment.
    pub fn health(&self) -> Health {
        match &self.backend {
            Backend::Memory(_) => Health { backend: "memory", up: true, error: None },
            Backend::PubSub(pubsub) => pubsub.health(),
            Backend::Core(core) => core.health(),
        }
    }

    /// What Redis said when it last refused to take a message, without secrets.
    pub fn last_refusal(&self) -> Option<String> {
        match &self.backend {
            Backend::Memory(_) => None,
            Backend::PubSub(pubsub) => pubsub.last_refusal(),
            Backend::Core(core) => core.last_refusal(),
        }
    }
}

/// What keeps a layer going; nothing for one in memory.
#[derive(Debug)]
pub struct LayerTask {
    backend: Backend,
}

impl LayerTask {
    /// Runs until the stop, then sends what is waiting, for a second at most. Cancels `broken` when a part of
    /// it ends by a panic, which is our fault: what that part did is done no more, while the rest goes on.
    pub async fn run(self, stop: CancellationToken, broken: CancellationToken) {
        match self.backend {
            Backend::Memory(_) => {}
            Backend::PubSub(pubsub) => pubsub.run(stop, broken).await,
            Backend::Core(core) => core.run(stop, broken).await,
        }
    }
}

/// What became of a [`ChannelLayer::join`].
#[derive(Debug)]
pub enum Join {
    /// From now on messages come.
    Ready,
    /// Redis has been asked; messages come when it has confirmed.
    Pending(Joining),
    /// There is no connection. The membership is noted and takes effect when there is one.
    LayerDown,
}

/// The wait for a confirmation. It ends: a connection that does not answer is given up.
///
/// Cancel safe. Dropping it does not undo the join.
#[derive(Debug)]
pub struct Joining(oneshot::Receiver<()>);

impl Future for Joining {
    type Output = Joined;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Joined> {
        Pin::new(&mut self.0).poll(cx).map(|confirmed| match confirmed {
            Ok(()) => Joined::Confirmed,
            Err(_) => Joined::LayerDown,
        })
    }
}

/// How the wait for a confirmation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// From now on messages come.
    Confirmed,
    /// The connection was lost, or Redis refused, or the worker left again. The membership, unless withdrawn,
    /// is noted and takes effect with the next connection, or when Redis is asked again and allows it.
    LayerDown,
}

/// How a layer is, for readiness checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The backend's name in the configuration.
    pub backend: &'static str,
    /// Whether everything can be sent and received, what is subscribed included.
    pub up: bool,
    /// Why not: the first trouble, without secrets.
    pub error: Option<String>,
}
