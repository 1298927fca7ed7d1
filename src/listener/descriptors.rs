//! The descriptors that connections leave to the rest of the process.

use std::os::fd::{AsRawFd, RawFd};

/// Descriptors kept for what is no connection: Redis, the reload, the admin listener.
const SPARE: u64 = 128;
/// Of the others those that clients leave for connections to applications.
const UPSTREAM_SPARE: u64 = 1 << 10;

/// Which descriptors connections may have, those of clients and those to applications.
///
/// Clients have fewer, for requests of those that are there already go on to applications.
///
/// The system gives the lowest number that is free. So a number says how many are open at least, whatever they are, and
/// nothing need be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    connections: RawFd,
    clients: RawFd,
}

impl DescriptorLimit {
    /// For a process that may have so many descriptors; `None` for as many as it likes.
    pub fn new(descriptors_max: Option<u64>) -> Self {
        let connections = descriptors_max.map_or(u64::MAX, |max| max - SPARE.min(max / 4));
        let clients = connections - UPSTREAM_SPARE.min(connections / 8);
        let number = |count| RawFd::try_from(count).unwrap_or(RawFd::MAX);
        Self { connections: number(connections), clients: number(clients) }
    }

    /// How many descriptors a process should be allowed that has so many connections of clients.
    pub fn wanted(clients: usize) -> u64 {
        let clients = clients as u64;
        // An eighth of all is a seventh of the others.
        clients.saturating_add(UPSTREAM_SPARE.min(clients.div_ceil(7))).saturating_add(SPARE)
    }

    /// Whether a connection of a client may have this one; otherwise it is to be closed at once.
    pub fn allows_client(self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() < self.clients
    }

    /// Whether a connection to an application may.
    pub fn allows_upstream(self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() < self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_of_many_and_a_part_of_few() {
        let cases = [
            (Some(131_072), 130_944, 129_920),
            (Some(1_024), 896, 784),
            (Some(256), 192, 168),
            (Some(4), 3, 3),
            (Some(u64::MAX), RawFd::MAX, RawFd::MAX),
            (None, RawFd::MAX, RawFd::MAX),
        ];
        for (max, connections, clients) in cases {
            assert_eq!(DescriptorLimit::new(max), DescriptorLimit { connections, clients }, "{max:?}");
        }
    }

    #[test]
    fn what_is_wanted_is_enough() {
        for clients in [1, 7, 100, 1_000, 7_168, 50_000] {
            let limit = DescriptorLimit::new(Some(DescriptorLimit::wanted(clients)));
            assert!(clients <= usize::try_from(limit.clients).unwrap(), "{clients}: {limit:?}");
        }
    }

    #[test]
    fn a_high_number_is_not_allowed() {
        let (one, two) = std::os::unix::net::UnixStream::pair().unwrap();
        let (low, high) = if one.as_raw_fd() < two.as_raw_fd() { (one, two) } else { (two, one) };
        let limit = DescriptorLimit { connections: high.as_raw_fd() + 1, clients: high.as_raw_fd() };
        assert_eq!([&low, &high].map(|stream| limit.allows_client(stream)), [true, false]);
        assert_eq!([&low, &high].map(|stream| limit.allows_upstream(stream)), [true, true]);
        let limit = DescriptorLimit { connections: high.as_raw_fd(), ..limit };
        assert_eq!([&low, &high].map(|stream| limit.allows_upstream(stream)), [true, false]);
    }
}
