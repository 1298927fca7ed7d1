//! Looks after connections.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::request::access_log::AccessLog;
use crate::request::pace::{Order, Pace};
use crate::session::Worker;

/// Between two looks.
const BEAT: Duration = Duration::from_secs(1);

/// Looks after the connections of one worker, so that none needs timers of its own, or asks the clock.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// What is refused on these connections; no more is written of it in a beat than anybody reads.
    pub(super) log: AccessLog,
    /// Looks so far.
    beats: Arc<AtomicU64>,
    /// Those of its connections, by their numbers.
    paces: RefCell<BTreeMap<u64, Arc<Pace>>>,
    /// Whether a task does it. An idle worker has nothing to do.
    running: Cell<bool>,
}

/// A connection that is looked after until this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    keeper: Rc<Keeper>,
    id: u64,
    pub(super) pace: Arc<Pace>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.keeper.paces.borrow_mut().remove(&self.id);
    }
}

impl Keeper {
    /// A connection, by its number, whose first request is awaited.
    pub(super) fn watch(self: &Rc<Self>, worker: &Worker, id: u64, http2: bool) -> Watched {
        let pace = self.add(id, http2, worker.draining().is_cancelled());
        if !self.running.replace(true) {
            let keeper = Rc::clone(self);
            spawn_local(keeper.run(worker.draining().clone(), worker.finishing().clone()));
        }
        Watched { keeper: Rc::clone(self), id, pace }
    }

    fn add(&self, id: u64, http2: bool, late: bool) -> Arc<Pace> {
        let pace = Pace::new(http2, late, Arc::clone(&self.beats));
        self.paces.borrow_mut().insert(id, Arc::clone(&pace));
        pace
    }

    /// Runs while there are connections.
    async fn run(self: Rc<Self>, draining: CancellationToken, finishing: CancellationToken) {
        let (mut drained, mut finished) = (false, false);
        while self.running.get() {
            tokio::select! {
                () = draining.cancelled(), if !drained => {
                    drained = true;
                    self.finish(|pace| !pace.is_late());
                }
                () = finishing.cancelled(), if !finished => {
                    finished = true;
                    self.finish(|_| true);
                }
                () = time::sleep(BEAT) => self.running.set(self.beat()),
            }
        }
    }

    /// What is being answered still is; a connection between two requests ends.
    fn finish(&self, which: impl Fn(&Pace) -> bool) {
        for pace in self.paces.borrow().values().filter(|pace| which(pace)) {
            pace.tell(Order::Finish);
        }
    }

    /// Looks at all connections; tells whether there are any.
    fn beat(&self) -> bool {
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.log.beat();
        let paces = self.paces.borrow();
        for pace in paces.values() {
            pace.tell(pace.due());
        }
        !paces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::pace::{GOODBYE_BEATS, HEAD_BEATS, IDLE_BEATS, STALL_BEATS};

    fn beat(keeper: &Keeper, times: u64) {
        for _ in 0..times {
            keeper.beat();
        }
    }

    #[test]
    fn a_request_head_has_ten_seconds_and_a_quiet_connection_more() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        let answering = pace.begin();
        beat(&keeper, 3_600);
        assert_eq!(pace.order(), Order::Serve);
        drop(answering);
        beat(&keeper, IDLE_BEATS);
        assert_eq!(pace.order(), Order::Serve);

        pace.on_bytes();
        beat(&keeper, 5);
        // Only the first byte counts: a head may not come byte by byte for ever.
        pace.on_bytes();
        beat(&keeper, 5);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn a_connection_that_asks_for_nothing_ends_after_a_goodbye() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        drop(pace.begin());
        beat(&keeper, IDLE_BEATS);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::Finish);
        beat(&keeper, GOODBYE_BEATS - 1);
        assert_eq!(pace.order(), Order::Finish);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn a_first_head_is_awaited_for_ten_seconds() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        beat(&keeper, HEAD_BEATS);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn a_client_that_takes_nothing_has_a_minute() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, false, false);
        let answering = pace.begin();
        pace.on_write(false);
        for _ in 0..5 {
            beat(&keeper, STALL_BEATS);
            assert_eq!(pace.order(), Order::Serve);
            // However little it takes, it lives.
            pace.on_write(true);
            pace.on_write(false);
        }
        // The rest may take long after the last piece was handed over.
        drop(answering);
        beat(&keeper, STALL_BEATS);
        pace.on_write(true);
        beat(&keeper, STALL_BEATS);
        pace.on_write(true);
        pace.on_flush(true);
        beat(&keeper, IDLE_BEATS);
        assert_eq!(pace.order(), Order::Serve);

        let _answering = pace.begin();
        pace.on_flush(false);
        beat(&keeper, STALL_BEATS);
        assert_eq!(pace.order(), Order::Serve);
        beat(&keeper, 1);
        assert_eq!(pace.order(), Order::End);
    }

    #[test]
    fn pings_keep_no_connection_of_http_2() {
        let keeper = Keeper::default();
        let pace = keeper.add(1, true, false);
        drop(pace.begin());
        for _ in 0..=IDLE_BEATS {
            assert_eq!(pace.order(), Order::Serve);
            keeper.beat();
            pace.on_bytes();
        }
        assert_eq!(pace.order(), Order::Finish);
    }

    #[test]
    fn a_connection_that_came_late_is_answered_first() {
        let keeper = Keeper::default();
        let (early, late) = (keeper.add(1, false, false), keeper.add(2, false, true));
        keeper.finish(|pace| !pace.is_late());
        assert_eq!((early.order(), late.order()), (Order::Finish, Order::Serve));
        keeper.finish(|_| true);
        assert_eq!(late.order(), Order::Finish);
    }

    #[test]
    fn a_connection_is_forgotten_with_its_end_and_then_nothing_is_to_do() {
        let keeper = Rc::<Keeper>::default();
        let watch = |id| Watched { keeper: Rc::clone(&keeper), id, pace: keeper.add(id, false, false) };
        let watched = [watch(1), watch(2)];
        assert!(keeper.beat());
        drop(watched);
        assert!(!keeper.beat());
    }
}
