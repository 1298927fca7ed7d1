//! The limits that a route may set for each of its sockets.

use std::cell::Cell;

use tokio::time::Instant;

use crate::session::rate::Bucket;
use crate::session::{Profile, Rate};

/// How old a socket gets, as parts of what its route says: a tenth less to a tenth more.
const AGE_LEAST: f64 = 0.9;
const AGE_SPREAD: f64 = 0.2;

/// What is kept of a socket for the limits that a route may set.
#[derive(Debug)]
pub(in crate::session) struct Limited {
    began_at: Instant,
    /// When anything was last said, by either side.
    pub(in crate::session) spoke_at: Cell<Instant>,
    /// When the socket gets too old.
    pub(in crate::session) expires_at: Option<Instant>,
    /// What the client may still say.
    bucket: Cell<Bucket>,
}

impl Limited {
    pub(super) fn by(profile: &Profile) -> Option<Box<Self>> {
        if profile.rate.is_none() && profile.age_max.is_none() && profile.idle_max.is_none() {
            return None;
        }
        let now = Instant::now();
        // Sockets that came together, after a restart of the other end, do not go together.
        let age_max = profile.age_max.map(|age| age.mul_f64(AGE_LEAST + AGE_SPREAD * fastrand::f64()));
        Some(Box::new(Self {
            began_at: now,
            spoke_at: Cell::new(now),
            expires_at: age_max.map(|age| now + age),
            bucket: Cell::default(),
        }))
    }

    /// Whether a message that came then is within the rate.
    pub(in crate::session) fn take(&self, rate: &Rate, at: Instant) -> bool {
        let mut bucket = self.bucket.get();
        let is_within = bucket.take(rate, at.saturating_duration_since(self.began_at));
        self.bucket.set(bucket);
        is_within
    }
}
