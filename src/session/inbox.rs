//! How other threads reach a worker: one queue, one wake-up a batch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::channel_layer::{Delivery, Direct, Inbox, Refusal, Ticket};
use crate::listener::Accepted;

/// What may wait for a worker, in bytes of message content. Beyond it deliveries are dropped and counted:
/// the worker is then so far behind that its sockets would drop them anyway.
const DELIVERIES_BYTES_MAX: usize = 64 << 20;

/// The inbox of one worker. Never blocks longer than it takes to push to a list.
#[derive(Debug)]
pub struct WorkerInbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
    dropped: IntCounter,
    /// Counts messages for sockets that have ended.
    pub(super) gone: IntCounter,
}

/// What waits for the worker, in order of arrival.
#[derive(Debug, Default)]
struct Waiting {
    orders: Vec<Order>,
    deliveries_bytes: usize,
}

/// Something for a worker to do.
#[derive(Debug)]
pub(super) enum Order {
    Serve(Accepted),
    Deliver(Delivery),
    Direct(Direct),
    Refused(Ticket, Refusal),
    /// Take no new socket. After the grace, ask every socket to come back later, spread evenly over a time.
    Drain {
        grace: Duration,
        over: Duration,
    },
    /// End with the last connection.
    Finish,
    /// End everything now.
    Stop,
}

impl WorkerInbox {
    /// An empty inbox that counts there what it had to drop, and what its worker finds no socket for any more.
    pub fn new(dropped: IntCounter, gone: IntCounter) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), wake: Notify::new(), dropped, gone })
    }

    /// Hands a fresh connection to the worker.
    pub fn serve(&self, accepted: Accepted) {
        self.push(Order::Serve(accepted), 0);
    }

    /// Asks the worker to refuse new sockets, and after the grace to close those it has with 1012, spread
    /// evenly over a time.
    pub fn drain(&self, grace: Duration, over: Duration) {
        self.push(Order::Drain { grace, over }, 0);
    }

    /// Asks the worker to end with its last connection. It gets no more of them.
    pub fn finish(&self) {
        self.push(Order::Finish, 0);
    }

    /// Ends the worker and all its sockets at once.
    pub fn stop(&self) {
        self.push(Order::Stop, 0);
    }

    /// Waits until there is something to do or [`Self::wake`] was called. Cancel safe.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Makes the worker take its turn. Cheap from the worker's own thread.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Takes everything that waits, leaving `taken`'s allocation for the next batch.
    pub(super) fn take(&self, taken: &mut Vec<Order>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.deliveries_bytes = 0;
        std::mem::swap(&mut waiting.orders, taken);
    }

    fn push(&self, order: Order, bytes: usize) {
        let was_empty = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if 0 < bytes && DELIVERIES_BYTES_MAX < waiting.deliveries_bytes + bytes {
                self.dropped.inc();
                return;
            }
            waiting.deliveries_bytes += bytes;
            waiting.orders.push(order);
            waiting.orders.len() == 1
        };
        if was_empty {
            self.wake.notify_one();
        }
    }
}

impl Inbox for WorkerInbox {
    fn deliver(&self, delivery: Delivery) {
        let bytes = delivery.message.weight();
        self.push(Order::Deliver(delivery), bytes);
    }

    fn direct(&self, direct: Direct) {
        let bytes = direct.message.weight() + size_of_val(direct.sockets.as_slice());
        self.push(Order::Direct(direct), bytes);
    }

    fn refused(&self, ticket: Ticket, refusal: Refusal) {
        self.push(Order::Refused(ticket, refusal), 0);
    }
}
