//! What a route gives to each of its sockets.

use std::sync::Arc;
use std::time::Duration;

use crate::handler::Handler;
use crate::session::{Rate, RouteMetrics};

/// The settings of the sockets of one route. A socket keeps the profile that it was admitted with.
#[derive(Debug)]
pub struct Profile {
    /// The route's name: log lines only, for metrics have their handles.
    pub route: Arc<str>,
    /// Decides what follows from each event.
    pub handler: Handler,
    /// When silence is answered by a ping.
    pub ping: Ping,
    /// The longest message over all its fragments, in payload bytes.
    pub message_bytes_max: usize,
    /// What may wait for a client that reads slowly.
    pub queue: Queue,
    /// How much a client may say; `None` for as much as it likes.
    pub rate: Option<Rate>,
    /// How old a socket may get, give or take a tenth.
    pub age_max: Option<Duration>,
    /// How long nothing may be said, by either side.
    pub idle_max: Option<Duration>,
    /// Handles resolved when the route was loaded.
    pub metrics: Arc<RouteMetrics>,
}

/// Pings of a quiet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Silence from the client after which it is pinged.
    pub every: Duration,
    /// Silence after a ping that ends the socket.
    pub timeout: Duration,
}

/// The queue of frames that the kernel did not take yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Checked before anything is added to what waits; what one turn of the loop brings is added whole or not at all.
    /// Where nothing waits, one message has room, or what a room collects in a turn, however long.
    pub bytes_max: usize,
    /// What happens beyond that.
    pub full: FullQueue,
}

/// What happens to a client that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullQueue {
    /// It is closed with 1013.
    Close,
    /// It misses what does not fit.
    Drop,
}
