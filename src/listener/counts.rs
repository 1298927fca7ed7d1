//! How many connections there are from each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections there are from each address.
#[derive(Debug, Default)]
pub(super) struct PeerCounts(Mutex<HashMap<IpAddr, usize>>);

/// A connection in the count of its address, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<PeerCounts>,
    address: IpAddr,
}

impl PeerCounts {
    /// Counts a connection in, unless there are this many already.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr, connections_max: usize) -> Option<Place> {
        let address = counted_as(ip);
        let mut counts = self.lock();
        let here = counts.entry(address).or_default();
        if connections_max <= *here {
            return None;
        }
        *here += 1;
        Some(Place { counts: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(here) = counts.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The address that limits count by: an IPv6 client owns at least a /64.
pub fn counted_as(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_places_as_are_free() {
        let counts: Arc<PeerCounts> = Arc::default();
        let enter = |ip: &str| counts.enter(ip.parse().unwrap(), 2);
        let one = enter("2001:db8:1:2::1").unwrap();
        let _two = enter("2001:db8:1:2:ffff::2").unwrap();
        assert!(enter("2001:db8:1:2::3").is_none());
        assert!(enter("2001:db8:1:3::1").is_some());
        drop(one);
        assert!(enter("2001:db8:1:2::3").is_some());
        assert_eq!(counts.lock().len(), 1);
    }
}
