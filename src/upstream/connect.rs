//! A new connection to a server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time;
use tokio::time::Instant;

use crate::listener::NetStream;
use crate::upstream::server::{Server, Upstream};
use crate::upstream::{ServerAddress, UpstreamError, UpstreamStream};

/// Addresses older than this are looked up again.
const RESOLVED_AGE_MAX: Duration = Duration::from_secs(10);
/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Opens a connection. Cancel safe.
pub(super) async fn connect(upstream: &Upstream, server: &Server) -> Result<UpstreamStream, UpstreamError> {
    match time::timeout(upstream.settings.connect_timeout, open(upstream, server)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            // The name may have moved on.
            *server.resolved.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Err(UpstreamError::Connect(error.to_string()))
        }
        Err(_) => {
            *server.resolved.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Err(UpstreamError::ConnectTimeout)
        }
    }
}

async fn open(upstream: &Upstream, server: &Server) -> io::Result<UpstreamStream> {
    let (host, port, tls) = match &server.address {
        ServerAddress::Unix(path) => {
            return Ok(UpstreamStream::Plain(NetStream::Unix(UnixStream::connect(path).await?)));
        }
        ServerAddress::Tcp { host, port, tls } => (host.as_str(), *port, *tls),
    };
    let stream = match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await?,
        Err(_) => connect_any(&resolve(server, host, port).await?).await?,
    };
    stream.set_nodelay(true)?;
    let stream = NetStream::Tcp(stream);
    let Some(connector) = upstream.connector.as_ref().filter(|_| tls) else {
        return Ok(UpstreamStream::Plain(stream));
    };
    let name = upstream.settings.tls.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    Ok(UpstreamStream::Tls(Box::new(connector.0.connect(name, stream).await?)))
}

/// The first address that takes a connection; the error of the last one otherwise.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

async fn resolve(server: &Server, host: &str, port: u16) -> io::Result<Arc<[SocketAddr]>> {
    let known = server.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((at, addresses)) = known
        && at.elapsed() < RESOLVED_AGE_MAX
    {
        return Ok(addresses);
    }
    let addresses: Arc<[_]> = lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
    *server.resolved.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((Instant::now(), Arc::clone(&addresses)));
    Ok(addresses)
}
