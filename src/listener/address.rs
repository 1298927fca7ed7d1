//! Where a listener listens, as it is configured and as it is bound.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Over TCP; port 0 for one that is free.
    Ip(SocketAddr),
    /// A UNIX socket at this path.
    Unix(PathBuf),
    /// A socket that a supervisor has bound, by its name or by its number, from 0.
    ///
    /// Rule: `LISTEN_FDS` and `LISTEN_FDNAMES` in `sd_listen_fds(3)`.
    Fd(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(name) => write!(f, "fd:{name}"),
        }
    }
}

/// Where a bound socket can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Over TCP, with the port that the system chose for port 0.
    Ip(SocketAddr),
    /// At this path; an empty one for a socket without a file.
    Unix(PathBuf),
}

/// What stands between `http://` and the path in a URL, as nginx writes it.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}:", path.display()),
        }
    }
}
