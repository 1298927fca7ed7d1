//! How many sockets there may be, in all and from one address, and how fast they may come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::listener::counted_as;
use crate::request::Rejection;
use crate::scope::ClientAddr;

/// Limits on sockets, as configured. Live: they hold for the next handshake, and close nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Open sockets in all.
    pub connections: usize,
    /// Open sockets of one client address; IPv6 addresses count by their /64.
    pub per_ip: usize,
    /// Handshakes a second in all; as many may come at once.
    pub handshakes_per_second: u32,
}

/// What is open now, over all workers.
#[derive(Debug)]
pub struct Limits {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Handshakes that may still come at once.
    allowance: f64,
    refilled_at: Instant,
}

/// One admitted socket. Dropping it makes room for another.
#[derive(Debug)]
pub struct Admittance {
    limits: Arc<Limits>,
    /// None behind a UNIX socket, where only the number of all sockets is a limit.
    address: Option<IpAddr>,
}

impl Limits {
    /// Nothing is open; the first second's handshakes may come at once.
    pub fn new() -> Arc<Self> {
        let state = State {
            open: 0,
            by_address: HashMap::new(),
            allowance: f64::INFINITY,
            refilled_at: Instant::now(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Counts a socket of this client in. Clients without an address count towards the limit of all alone.
    ///
    /// # Errors
    ///
    /// [`Rejection::Limit`] (503), [`Rejection::PerIp`] (429) or [`Rejection::Rate`] (429), in this order.
    pub fn admit(
        self: &Arc<Self>,
        settings: &LimitSettings,
        client: ClientAddr,
    ) -> Result<Admittance, Rejection> {
        let address = client.ip().map(counted_as);
        let now = Instant::now();
        let mut state = self.lock();
        let per_second = f64::from(settings.handshakes_per_second);
        let gained = (now - state.refilled_at).as_secs_f64() * per_second;
        state.allowance = (state.allowance + gained).min(per_second);
        state.refilled_at = now;
        // The allowance comes last: whoever is refused for another reason must not use it up for all.
        if settings.connections <= state.open {
            return Err(Rejection::Limit);
        }
        let here = address.and_then(|address| state.by_address.get(&address)).copied().unwrap_or_default();
        if settings.per_ip <= here {
            return Err(Rejection::PerIp);
        }
        if state.allowance < 1.0 {
            return Err(Rejection::Rate);
        }
        state.allowance -= 1.0;
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        state.open += 1;
        Ok(Admittance { limits: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admittance {
    fn drop(&mut self) {
        let mut state = self.limits.lock();
        state.open -= 1;
        let Some(address) = &self.address else { return };
        if let Some(here) = state.by_address.get_mut(address) {
            *here -= 1;
            if *here == 0 {
                state.by_address.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::listener::Peer;

    const SETTINGS: LimitSettings = LimitSettings { connections: 3, per_ip: 2, handshakes_per_second: 100 };

    fn ip(text: &str) -> ClientAddr {
        ClientAddr::new(text.parse().unwrap(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn what_closes_makes_room_again() {
        let limits = Limits::new();
        let one = limits.admit(&SETTINGS, ip("192.0.2.1")).unwrap();
        let _two = limits.admit(&SETTINGS, ip("192.0.2.1")).unwrap();
        assert!(matches!(limits.admit(&SETTINGS, ip("192.0.2.1")), Err(Rejection::PerIp)));
        let _three = limits.admit(&SETTINGS, ip("192.0.2.2")).unwrap();
        assert!(matches!(limits.admit(&SETTINGS, ip("192.0.2.3")), Err(Rejection::Limit)));
        drop(one);
        assert!(limits.admit(&SETTINGS, ip("192.0.2.1")).is_ok());
        assert_eq!(limits.lock().by_address.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_at_its_limit_uses_up_no_handshakes_of_others() {
        let settings = LimitSettings { connections: 100, per_ip: 1, handshakes_per_second: 2 };
        let limits = Limits::new();
        let _one = limits.admit(&settings, ip("192.0.2.1")).unwrap();
        for _ in 0..10 {
            assert!(matches!(limits.admit(&settings, ip("192.0.2.1")), Err(Rejection::PerIp)));
        }
        assert!(limits.admit(&settings, ip("192.0.2.2")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_without_an_address_share_the_limit_of_all_alone() {
        let limits = Limits::new();
        let open: Vec<_> = (0..3).map(|_| limits.admit(&SETTINGS, Peer::Unix.into())).collect();
        assert!(open.iter().all(Result::is_ok));
        assert!(matches!(limits.admit(&SETTINGS, Peer::Unix.into()), Err(Rejection::Limit)));
        drop(open);
        assert!(limits.admit(&SETTINGS, Peer::Unix.into()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn ipv6_counts_by_its_64_and_mapped_ipv4_as_ipv4() {
        let cases = [
            ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
        ];
        for (client, counted) in cases {
            assert_eq!(ip(client).ip().map(counted_as), ip(counted).ip(), "{client}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_beyond_the_rate_wait_for_the_next_second() {
        let settings = LimitSettings { connections: 100, per_ip: 100, handshakes_per_second: 2 };
        let limits = Limits::new();
        let open = [limits.admit(&settings, ip("192.0.2.1")), limits.admit(&settings, ip("192.0.2.2"))];
        assert!(open.iter().all(Result::is_ok));
        assert!(matches!(limits.admit(&settings, ip("192.0.2.3")), Err(Rejection::Rate)));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(limits.admit(&settings, ip("192.0.2.3")).is_ok());
        assert!(matches!(limits.admit(&settings, ip("192.0.2.3")), Err(Rejection::Rate)));
    }
}
