//! The descriptors that connections leave to the rest of the process.

use std::os::fd::{AsRawFd, RawFd};

/// Descriptors kept for what is no connection: Redis, the reload, the admin listener.
const SPARE: u64 = 128;

/// Which descriptors connections may have, those of clients and those to applications.
///
/// The system gives the lowest number that is free. So a number says how many are open at least, whatever they are, and
/// nothing need be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit(RawFd);

impl DescriptorLimit {
    /// For a process that may have so many descriptors; `None` for as many as it likes.
    pub fn new(descriptors_max: Option<u64>) -> Self {
        let kept = |max: u64| max - SPARE.min(max / 4);
        Self(descriptors_max.and_then(|max| RawFd::try_from(kept(max)).ok()).unwrap_or(RawFd::MAX))
    }

    /// How many a process should be allowed that has so many connections.
    pub fn wanted(connections: usize) -> u64 {
        (connections as u64).saturating_add(SPARE)
    }

    /// Whether a connection may have this one; otherwise it is to be closed at once.
    pub fn allows(self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_of_many_and_a_quarter_of_few() {
        for (max, kept) in [(Some(1_024), 896), (Some(256), 192), (Some(4), 3), (Some(u64::MAX), RawFd::MAX)]
        {
            assert_eq!(DescriptorLimit::new(max), DescriptorLimit(kept), "{max:?}");
        }
        assert_eq!(DescriptorLimit::new(None), DescriptorLimit(RawFd::MAX));
    }

    #[test]
    fn a_high_number_is_not_allowed() {
        let (one, two) = std::os::unix::net::UnixStream::pair().unwrap();
        let limit = DescriptorLimit(one.as_raw_fd().max(two.as_raw_fd()));
        assert_eq!([&one, &two].map(|stream| limit.allows(stream)).iter().filter(|&&is| is).count(), 1);
    }
}
