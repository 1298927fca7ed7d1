//! Messages that wait for Redis.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

use crate::channel_layer::metrics::Op;
use crate::channel_layer::{Refusal, Sent, Ticket};

/// What a waiting message costs beyond its bytes, so that empty ones are bounded too.
const OVERHEAD: usize = 128;

/// A message to send.
#[derive(Debug)]
pub(super) struct Publish {
    /// Whom it is for: what a layer sends it to.
    pub(super) channel: String,
    pub(super) payload: Vec<u8>,
    pub(super) from: Sender,
    /// When it came.
    pub(super) since: Instant,
}

impl Publish {
    fn cost(&self) -> usize {
        self.channel.len() + self.payload.len() + OVERHEAD
    }
}

/// Who sent a message, and by which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) ticket: Ticket,
    pub(super) op: Op,
}

/// What became of a message that was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settlement {
    /// For whom Redis has taken it, unless it is for nobody.
    pub(super) sent: Option<Sent>,
    /// Why it was not taken, or not for all.
    pub(super) refusal: Option<Refusal>,
}

/// A queue bounded by bytes and age. What is being sent counts until it is answered.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Publish>,
    /// Who sent what is under way, in order.
    under_way: Vec<Sender>,
    under_way_bytes: usize,
    bytes: usize,
    bytes_max: usize,
    age_max: Duration,
}

/// What left the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Who sent it.
    pub(super) senders: Vec<Sender>,
    /// How many bytes became free.
    pub(super) bytes: i64,
}

impl Outbox {
    pub(super) fn new(bytes_max: usize, age_max: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            under_way: Vec::new(),
            under_way_bytes: 0,
            bytes: 0,
            bytes_max,
            age_max,
        }
    }

    /// Takes a message in; returns what it costs, and whether it is the only one that waits.
    ///
    /// # Errors
    ///
    /// There is no room, or there would be none in an empty queue either.
    pub(super) fn push(&mut self, publish: Publish) -> Result<(i64, bool), Refusal> {
        let cost = publish.cost();
        if self.bytes_max < cost {
            return Err(Refusal::TooLarge);
        }
        if self.bytes_max - cost < self.bytes {
            return Err(Refusal::QueueFull);
        }
        self.bytes += cost;
        self.waiting.push_back(publish);
        Ok((signed(cost), self.waiting.len() == 1))
    }

    /// The next messages to send, at most so many and so many bytes, but one at least. The last ones have been
    /// settled.
    pub(super) fn take(&mut self, bytes_max: usize, len_max: usize) -> Vec<Publish> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(publish) = self.waiting.pop_front() {
            bytes += publish.cost();
            self.under_way.push(publish.from);
            taken.push(publish);
            if bytes_max <= bytes || len_max <= taken.len() {
                break;
            }
        }
        self.under_way_bytes += bytes;
        taken
    }

    /// What was taken has been answered, or never will be.
    pub(super) fn settle(&mut self) -> Settled {
        let bytes = std::mem::take(&mut self.under_way_bytes);
        self.bytes -= bytes;
        Settled { senders: std::mem::take(&mut self.under_way), bytes: signed(bytes) }
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self, now: Instant) -> Settled {
        let mut settled = Settled::default();
        while let Some(publish) = self.waiting.pop_front_if(|publish| publish.since + self.age_max <= now) {
            self.bytes -= publish.cost();
            settled.bytes += signed(publish.cost());
            settled.senders.push(publish.from);
        }
        settled
    }

    /// When the oldest will have waited too long.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.waiting.front().map(|publish| publish.since + self.age_max)
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel_layer::WorkerId;

    fn sender(socket: u64) -> Sender {
        Sender { ticket: Ticket { worker: WorkerId(0), socket }, op: Op::GroupSend }
    }

    fn publish(socket: u64, len: usize, since: Instant) -> Publish {
        Publish { channel: String::new(), payload: vec![0; len], from: sender(socket), since }
    }

    #[test]
    fn bytes_count_until_they_are_settled() {
        let now = Instant::now();
        let mut outbox = Outbox::new(2 * OVERHEAD + 20, Duration::from_secs(5));
        assert_eq!(outbox.push(publish(1, 10, now)), Ok((138, true)));
        assert_eq!(outbox.push(publish(2, 11, now)), Err(Refusal::QueueFull));
        assert_eq!(outbox.push(publish(2, 10, now)), Ok((138, false)));
        assert_eq!(outbox.push(publish(3, 0, now)), Err(Refusal::QueueFull));
        assert_eq!(outbox.push(publish(3, 1000, now)), Err(Refusal::TooLarge));
        assert_eq!(outbox.take(1, 9).len(), 1);
        assert_eq!(outbox.push(publish(3, 10, now)), Err(Refusal::QueueFull));
        assert_eq!(outbox.settle(), Settled { senders: vec![sender(1)], bytes: 138 });
        assert_eq!(outbox.settle(), Settled::default());
        assert_eq!(outbox.push(publish(3, 10, now)), Ok((138, false)));
        let order: Vec<_> = outbox.take(1000, 9).iter().map(|publish| publish.from.ticket.socket).collect();
        assert_eq!(order, [2, 3]);
    }

    #[test]
    fn what_waited_too_long_is_given_up() {
        let now = Instant::now();
        let mut outbox = Outbox::new(1000, Duration::from_secs(5));
        outbox.push(publish(1, 0, now)).unwrap();
        outbox.push(publish(2, 0, now + Duration::from_secs(1))).unwrap();
        assert_eq!(outbox.expires_at(), Some(now + Duration::from_secs(5)));
        assert_eq!(outbox.expire(now + Duration::from_secs(4)), Settled::default());
        let settled = outbox.expire(now + Duration::from_secs(5));
        assert_eq!(settled, Settled { senders: vec![sender(1)], bytes: 128 });
        assert_eq!(outbox.expires_at(), Some(now + Duration::from_secs(6)));
    }
}
