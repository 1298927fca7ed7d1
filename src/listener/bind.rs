//! Bound sockets: of our own, and handed over by a supervisor.

use std::fs;
use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::listener::{Address, Bound};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4_096;

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    /// With its file, if it is ours to remove.
    Unix(UnixListener, Option<SocketFile>),
}

impl Listening {
    pub(super) fn bind(address: &Address, mode: Option<u32>, handed: &mut HandedOver) -> io::Result<Self> {
        match address {
            Address::Ip(address) => tcp(*address).map(Self::Tcp),
            Address::Unix(path) => unix(path, mode),
            Address::Fd(name) => handed.take(name),
        }
    }

    pub(super) fn bound(&self) -> io::Result<Bound> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Bound::Ip),
            Self::Unix(socket, _) => {
                let address = socket.local_addr()?;
                Ok(Bound::Unix(address.as_pathname().map(Path::to_owned).unwrap_or_default()))
            }
        }
    }
}

/// The sockets that whoever started the process has bound for it.
pub struct HandedOver {
    sockets: ListenFd,
    names: Vec<String>,
}

impl HandedOver {
    /// Those of the environment. To be called once: it takes them.
    ///
    /// Rule: `sd_listen_fds(3)`.
    pub fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self { sockets: ListenFd::from_env(), names: names.split(':').map(str::to_owned).collect() }
    }

    fn take(&mut self, name: &str) -> io::Result<Listening> {
        let named = self.names.iter().position(|known| known == name);
        let number = named.or_else(|| name.parse().ok()).filter(|&number| number < self.sockets.len());
        let Some(number) = number else {
            let text = match self.sockets.len() {
                0 => "no socket was handed over (LISTEN_FDS)".to_owned(),
                count => format!("none of the {count} sockets handed over has this name or number"),
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        };
        let taken = || io::Error::new(io::ErrorKind::AddrInUse, "another listener has this socket");
        // What is of another kind is left at its place.
        if let Ok(tcp) = self.sockets.take_tcp_listener(number) {
            let tcp = tcp.ok_or_else(taken)?;
            check_listens(&SockRef::from(&tcp))?;
            tcp.set_nonblocking(true)?;
            return Ok(Listening::Tcp(tcp));
        }
        let unix = self.sockets.take_unix_listener(number)?.ok_or_else(taken)?;
        check_listens(&SockRef::from(&unix))?;
        unix.set_nonblocking(true)?;
        // Its file belongs to whoever bound it.
        Ok(Listening::Unix(unix, None))
    }
}

fn check_listens(socket: &SockRef<'_>) -> io::Result<()> {
    if socket.is_listener()? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket handed over does not listen"))
}

impl std::fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandedOver").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The file of a UNIX socket, removed with this value unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the file of a UNIX socket stays behind");
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Sockets of a process that just ended must not keep its successor from the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unix(path: &Path, mode: Option<u32>) -> io::Result<Listening> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address)? => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile::of(path)?;
    if let Some(mode) = mode {
        // Nobody can connect before `listen`, so nobody comes in by the mode that it was made with.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok(Listening::Unix(socket.into(), Some(file)))
}

/// Whether a socket file is what a process that has ended left behind.
///
/// # Errors
///
/// There is something else at the path, or it cannot be told.
fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let text = "there is something at this path that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One that is alive and busy must not hold us up.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path, mode: Option<u32>) -> io::Result<Listening> {
        let mut handed = HandedOver { sockets: ListenFd::empty(), names: Vec::new() };
        Listening::bind(&Address::Unix(path.to_owned()), mode, &mut handed)
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_or_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // The standard library leaves the file behind.
        drop(UnixListener::bind(&path).unwrap());
        let socket = bind(&path, Some(0o660)).unwrap();
        assert_eq!(socket.bound().unwrap(), Bound::Unix(path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(bind(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_file_that_another_has_put_in_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
