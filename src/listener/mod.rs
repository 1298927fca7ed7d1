//! A bound port becomes a stream of connections, spread over the workers.

mod conn;
mod accept;
mod metrics;

pub use accept::{ListenError, Listener};
pub use conn::{ConnInfo, OpenConn};
pub use metrics::{ListenerMetrics, Metrics};
