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

/// Opens a connection within this time. Cancel safe.
pub(super) async fn connect(
    upstream: &Upstream,
    server: &Server,
    timeout: Duration,
) -> Result<UpstreamStream, UpstreamError> {
    let deadline = Instant::now() + timeout;
    match time::timeout_at(deadline, open(upstream, server, deadline)).await {
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

async fn open(upstream: &Upstream, server: &Server, deadline: Instant) -> io::Result<UpstreamStream> {
    let (host, port, tls) = match &server.address {
        ServerAddress::Unix(path) => {
            return Ok(UpstreamStream::Plain(NetStream::Unix(UnixStream::connect(path).await?)));
        }
        ServerAddress::Tcp { host, port, tls } => (host.as_str(), *port, *tls),
    };
    let stream = match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await?,
        Err(_) => connect_any(&resolve(server, host, port).await?, deadline).await?,
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
///
/// The addresses that are left share the time until the deadline, which the caller keeps: one of them that does not
/// answer, as those of IPv6 do where a firewall swallows it, must not keep the others from being tried.
async fn connect_any(mut left: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    while let [address, others @ ..] = left {
        if others.is_empty() {
            return TcpStream::connect(address).await;
        }
        let shares = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / shares;
        if let Ok(Ok(stream)) = time::timeout(share, TcpStream::connect(address)).await {
            return Ok(stream);
        }
        left = others;
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
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
