//! The applications behind: what plain requests and sockets are passed on to.
//!
//! An [`Upstream`] is shared by all workers and knows how its servers are. A [`Client`] belongs to one worker and
//! holds its idle connections, which live on that worker's runtime. [`forward`] says what of a head goes through.

pub mod answer;
pub mod forward;
mod settings;
mod error;
mod server;
mod tls;
mod connect;
mod outgoing;
mod conn;
mod body;
mod client;
mod strand;
mod tunnel;
mod health;
mod registry;
mod metrics;

pub use body::{AnswerBody, BrokenAnswer};
pub use client::{Client, Handshaken};
pub use error::{BoxError, UpstreamError};
pub use metrics::Metrics;
pub use registry::Upstreams;
pub use server::Upstream;
pub use settings::{HealthCheck, InvalidServer, ServerAddress, Settings, TlsSettings, Traceparent};
pub use tunnel::{Cause, Ended, Tunnel, tunnel};

use tokio_rustls::client::TlsStream;

use crate::listener::{NetStream, Stream};

/// A connection to a server.
pub type UpstreamStream = Stream<TlsStream<NetStream>>;
