//! A bound port becomes a stream of connections, spread over the workers.

mod conn;
mod stream;
mod accept;
mod metrics;

pub use accept::{Accepted, ListenError, Listener};
pub use conn::{ConnInfo, OpenConn, Peer, TlsInfo};
pub use metrics::{ListenerMetrics, Metrics};
pub use stream::{NetStream, StdStream, Stream};
