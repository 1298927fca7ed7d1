//! A bound address becomes a stream of connections, spread over the workers, each up to its first byte of HTTP.

mod address;
mod bind;
mod accept;
mod conn;
mod counts;
mod descriptors;
mod stream;
mod greet;
mod proxy_protocol;
mod tls;
mod metrics;

pub use accept::{AcceptLimits, ListenError, Listener, Policy, Settings};
pub use address::{Address, Bound};
pub use bind::HandedOver;
pub use conn::{ClientCertificate, ConnInfo, OpenConn, Peer, TlsInfo};
pub use counts::counted_as;
pub use descriptors::DescriptorLimit;
pub use greet::{Accepted, GreetError};
pub use metrics::{ListenerMetrics, Metrics, TlsMetrics};
pub use proxy_protocol::{Header, InvalidHeader, ProxyProtocol};
pub use stream::{NetStream, Readable, StdStream, Stream};
pub use tls::{Certificate, CertificateStore, ClientAuth, InvalidCertificate, Tls, TlsError};

/// Reads a PROXY header, for the fuzzer: it lives outside of this crate, where nothing else needs this.
///
/// # Errors
///
/// The bytes are no header.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    proxy_protocol::parse(bytes)
}
