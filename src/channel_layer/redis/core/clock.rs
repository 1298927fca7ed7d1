//! The time of messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A clock that never shows a time twice: Redis hands out messages in the order of their times, and those of
/// one time in any order.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The last time that was shown, in microseconds since 1970.
    last: AtomicU64,
}

impl Clock {
    /// The next time, in seconds since 1970.
    pub(super) fn next(&self) -> f64 {
        let now = micros();
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        seconds(now.max(last.unwrap_or(now).saturating_add(1)))
    }
}

/// The time, in seconds since 1970.
pub(super) fn now() -> f64 {
    seconds(micros())
}

/// The time in whole seconds since 1970.
pub(super) fn now_whole() -> u64 {
    micros() / 1_000_000
}

/// A time as Python writes it: the shortest text that reads back as the same number.
pub(super) fn text(time: f64) -> String {
    format!("{time:?}")
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_stands_still() {
        let clock = Clock::default();
        let times: Vec<_> = (0..10_000).map(|_| clock.next()).collect();
        assert!(times.is_sorted_by(|a, b| a < b));
        assert!((times[0] - now()).abs() < 1.0);
        // A clock of the machine that was turned back.
        clock.last.store(micros() + 3_600_000_000, Ordering::Relaxed);
        let ahead = clock.next();
        assert!(now() + 3000.0 < ahead && ahead < clock.next());
    }

    #[test]
    fn times_are_written_as_python_does() {
        for (time, expected) in [
            (1_750_000_000.25, "1750000000.25"),
            (1_750_000_000.0, "1750000000.0"),
            (1_750_000_000.123_456_7, "1750000000.1234567"),
        ] {
            assert_eq!(text(time), expected);
        }
    }
}
