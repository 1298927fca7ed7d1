//! A new connection to a server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, UnixSocket, lookup_host};
use tokio::time;
use tokio::time::Instant;

use crate::listener::{DescriptorLimit, NetStream};
use crate::upstream::server::{Server, Upstream};
use crate::upstream::{ServerAddress, UpstreamError, UpstreamStream};

/// Addresses older than this are looked up again.
const RESOLVED_AGE_MAX: Duration = Duration::from_secs(10);
/// How long an address has to itself before the next one is tried, too. Rule: RFC 8305, 5 ("Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);
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
        Ok(Err(error)) if is_shortage(&error) => Err(UpstreamError::Shortage(error.to_string())),
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
            let socket = UnixSocket::new_stream()?;
            within(upstream.descriptors, &socket)?;
            return Ok(UpstreamStream::Plain(NetStream::Unix(socket.connect(path).await?)));
        }
        ServerAddress::Tcp { host, port, tls } => (host.as_str(), *port, *tls),
    };
    let stream = if let Ok(ip) = host.parse::<IpAddr>() {
        dial(SocketAddr::new(ip, port), upstream.descriptors).await?
    } else {
        let addresses = resolve(server, host, port).await?;
        let stream = connect_any(&addresses, deadline, upstream.descriptors).await?;
        server.prefer(stream.peer_addr()?);
        stream
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

async fn dial(address: SocketAddr, descriptors: DescriptorLimit) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    within(descriptors, &socket)?;
    socket.connect(address).await.map_err(|error| {
        if address.is_ipv6() && error.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) {
            // Most likely a machine without IPv6, which is no shortage that passes: others are to be asked.
            return io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "no address of ours leads to one of IPv6",
            );
        }
        error
    })
}

/// As if the system had no more descriptors, when those that are left are kept for others.
fn within(descriptors: DescriptorLimit, socket: &impl AsRawFd) -> io::Result<()> {
    if descriptors.allows_upstream(socket) { Ok(()) } else { Err(Errno::MFILE.into()) }
}

/// Whether it is we who have run out of something.
fn is_shortage(error: &io::Error) -> bool {
    // The third says that no port of ours is left towards the server.
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    shortages.iter().any(|one| error.raw_os_error() == Some(one.raw_os_error()))
}

/// The later of two errors, but rather one of a server than a shortage: a machine without IPv6 has no address of its own
/// towards one of IPv6 either.
fn more_telling(before: Option<io::Error>, failed: io::Error) -> io::Error {
    before.filter(|before| is_shortage(&failed) && !is_shortage(before)).unwrap_or(failed)
}

/// A connection to the address that is the first to take one; the error of the last one otherwise.
///
/// The next address is tried as soon as one has failed or has not answered for a while, as those of IPv6 do not where a
/// firewall swallows them. The caller keeps the deadline, before which each has its turn. Rule: RFC 8305, 5.
async fn connect_any(
    addresses: &[SocketAddr],
    deadline: Instant,
    descriptors: DescriptorLimit,
) -> io::Result<TcpStream> {
    let shares = u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let pause = HEAD_START.min(deadline.saturating_duration_since(Instant::now()) / shares);
    let mut left = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut error = None;
    loop {
        attempts.extend(left.next().map(|address| dial(*address, descriptors)));
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(failed) => error = Some(more_telling(error, failed)),
            },
            () = time::sleep(pause), if 0 < left.len() => (),
            else => break,
        }
    }
    Err(error.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_have_run_out_of_is_told_from_what_a_server_does() {
        let cases = [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::CONNREFUSED, false),
            (Errno::CONNRESET, false),
            (Errno::HOSTUNREACH, false),
            (Errno::NOENT, false),
            (Errno::AGAIN, false),
        ];
        for (errno, shortage) in cases {
            assert_eq!(is_shortage(&errno.into()), shortage, "{errno}");
        }
    }

    #[test]
    fn what_a_server_does_is_told_before_what_we_have_run_out_of() {
        let cases = [
            (None, Errno::ADDRNOTAVAIL, Errno::ADDRNOTAVAIL),
            (Some(Errno::CONNREFUSED), Errno::ADDRNOTAVAIL, Errno::CONNREFUSED),
            (Some(Errno::ADDRNOTAVAIL), Errno::CONNREFUSED, Errno::CONNREFUSED),
            (Some(Errno::CONNREFUSED), Errno::HOSTUNREACH, Errno::HOSTUNREACH),
        ];
        for (before, failed, told) in cases {
            let error = more_telling(before.map(io::Error::from), failed.into());
            assert_eq!(error.raw_os_error(), Some(told.raw_os_error()), "{before:?} {failed:?}");
        }
    }
}
