//! How much a client may say: a bucket of tokens that needs no timer.

use core::num::NonZeroU32;
use core::time::Duration;

/// What a client may send: `burst` messages at once, and `messages` in each `per` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages that the bucket gains in each `per`.
    pub messages: NonZeroU32,
    /// The time that `messages` is for.
    pub per: Duration,
    /// Messages that a full bucket holds.
    pub burst: NonZeroU32,
    /// What happens to a message beyond that.
    pub over: OverRate,
}

/// What happens to a message beyond the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverRate {
    /// The socket is closed with 1008.
    Close,
    /// The message is dropped.
    Drop,
}

/// The tokens of one socket, kept as the moment at which the bucket is full again. It begins full.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// Takes a token for a message; false when there is none. `now` is counted from when the socket began.
    pub(super) fn take(&mut self, rate: &Rate, now: Duration) -> bool {
        let each = rate.per / rate.messages.get();
        let full_at = self.full_at.max(now);
        // As long as this the bucket has gained tokens when it is full, so as many are gone.
        let missing = full_at.saturating_sub(now);
        if each.saturating_mul(rate.burst.get() - 1) < missing {
            return false;
        }
        self.full_at = full_at.saturating_add(each);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(messages: u32, per_ms: u64, burst: u32) -> Rate {
        Rate {
            messages: NonZeroU32::new(messages).unwrap(),
            per: Duration::from_millis(per_ms),
            burst: NonZeroU32::new(burst).unwrap(),
            over: OverRate::Drop,
        }
    }

    /// How many of so many messages pass at a moment.
    fn passed(bucket: &mut Bucket, rate: &Rate, now_ms: u64, messages: usize) -> usize {
        (0..messages).filter(|_| bucket.take(rate, Duration::from_millis(now_ms))).count()
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rate_in_the_long_run() {
        let cases = [
            // messages, per in ms, burst; then the moment in ms, messages that come and that pass
            (10, 1_000, 10, &[(0, 20, 10), (100, 20, 1), (150, 20, 0), (200, 20, 1), (1_200, 20, 10)][..]),
            (10, 1_000, 30, &[(0, 50, 30), (1_000, 50, 10), (10_000, 50, 30)]),
            (1, 1_000, 1, &[(0, 2, 1), (999, 1, 0), (1_000, 2, 1), (5_000, 2, 1)]),
            (1, 3_600_000, 2, &[(0, 3, 2), (3_599_999, 1, 0), (3_600_000, 2, 1)]),
            // What is refused costs nothing.
            (2, 1_000, 2, &[(0, 1_000, 2), (500, 1_000, 1), (1_000, 1_000, 1)]),
            (1_000_000, 10, 1_000_000, &[(0, 1_000_001, 1_000_000), (1, 200_000, 100_000)]),
        ];
        for (messages, per, burst, moments) in cases {
            let (rate, mut bucket) = (rate(messages, per, burst), Bucket::default());
            for &(now, sent, wanted) in moments {
                let passed = passed(&mut bucket, &rate, now, sent);
                assert_eq!(passed, wanted, "{messages} per {per} ms, burst {burst}, at {now} ms");
            }
        }
    }

    #[test]
    fn a_steady_sender_at_the_rate_is_never_refused() {
        let (rate, mut bucket) = (rate(50, 1_000, 50), Bucket::default());
        assert_eq!((0..10_000).map(|at| passed(&mut bucket, &rate, at * 20, 1)).sum::<usize>(), 10_000);
    }
}
