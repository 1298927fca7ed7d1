//! Looks at files that may take as long as they like.

use std::time::Duration;

use tokio::task;
use tokio::task::JoinHandle;
use tokio::time;

/// How long a look is waited for.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Looks, one at a time: one that never comes to an end keeps a thread, and nobody else.
#[derive(Debug)]
pub(super) struct Looks<T>(Option<JoinHandle<T>>);

/// The look has not come to an end in time. It goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unanswered;

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Default + Send + 'static> Looks<T> {
    /// What is found, by a look that was late if there is one. Nothing as long as there is.
    pub(super) async fn look(&mut self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Unanswered> {
        let mut look = match self.0.take() {
            None => task::spawn_blocking(look),
            Some(late) if late.is_finished() => late,
            late @ Some(_) => {
                self.0 = late;
                return Ok(T::default());
            }
        };
        if let Ok(found) = time::timeout(LOOK_MAX, &mut look).await {
            return Ok(found.unwrap_or_default());
        }
        self.0 = Some(look);
        Err(Unanswered)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_look_that_takes_long_is_the_only_one_and_counts_in_the_end() {
        let mut looks = Looks::default();
        assert_eq!(looks.look(|| 1).await, Ok(1));
        let (end, ended) = mpsc::channel::<()>();
        let long = move || {
            ended.recv().unwrap_err();
            2
        };
        assert_eq!(looks.look(long).await, Err(Unanswered));
        // It is not waited for again.
        assert_eq!(looks.look(|| 3).await, Ok(0));
        drop(end);
        let found = async {
            loop {
                match looks.look(|| 3).await {
                    Ok(0) => time::sleep(Duration::from_millis(2)).await,
                    found => break found,
                }
            }
        };
        assert_eq!(time::timeout(Duration::from_secs(10), found).await.unwrap(), Ok(2));
        assert_eq!(looks.look(|| 3).await, Ok(3));
    }
}
