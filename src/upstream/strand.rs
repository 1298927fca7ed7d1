//! A part of a task that is polled for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A part of a task that is polled only when it was woken itself, so that what is rarely ready costs the others nothing.
#[derive(Debug)]
pub(super) struct Strand {
    knot: Arc<Knot>,
    waker: Waker,
}

/// Where a strand hangs on its task.
#[derive(Debug)]
struct Knot {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for Knot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Strand {
    /// A strand of the task with this waker; it has its first turn at once.
    pub(super) fn new(task: &Waker) -> Self {
        let knot = Arc::new(Knot { woken: AtomicBool::new(true), task: task.clone() });
        Self { waker: Arc::clone(&knot).into(), knot }
    }

    /// Polls if it was woken since the last time; pending otherwise.
    pub(super) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Knot { woken, .. } = &*self.knot;
        // Taken back before: whatever wakes it meanwhile gives it another turn.
        if !woken.load(Ordering::Relaxed) || !woken.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        poll(&mut Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_strand_is_polled_when_it_was_woken_itself() {
        let task = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&task));
        let (one, other) = (Strand::new(&waker), Strand::new(&waker));
        let mut kept = None;
        let turn = one.poll(|context| {
            kept = Some(context.waker().clone());
            Poll::Ready(())
        });
        assert!(turn.is_ready());
        assert!(one.poll(|_| Poll::Ready(())).is_pending());
        kept.unwrap().wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(other.poll(|_| Poll::Ready(())).is_ready());
        // What wakes it while it is polled gives it another turn.
        assert!(
            one.poll(|context| -> Poll<()> {
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .is_pending()
        );
        assert!(one.poll(|_| Poll::Ready(())).is_ready());
        assert!(other.poll(|_| Poll::Ready(())).is_pending());
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
    }
}
