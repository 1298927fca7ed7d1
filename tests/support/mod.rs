//! What the tests stand on: real servers, a client, and waits for conditions.

pub mod application;
pub mod client;
pub mod command;
pub mod link;
pub mod redis;
pub mod server;
pub mod tls;

use std::thread;
use std::time::Duration;

use tokio::time::{self, Instant};

/// How long a condition has to come true.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until a condition holds.
///
/// # Panics
///
/// It does not hold within 10 seconds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a condition holds, in a test without a runtime.
///
/// # Panics
///
/// It does not hold within 10 seconds.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, holds);
}

/// Waits until a condition holds, for no longer than it may take.
///
/// # Panics
///
/// It does not hold in time.
pub fn wait_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        pause(Duration::from_millis(10));
    }
}

/// Lets time pass: between two looks at a condition, or the steps of someone slow.
#[expect(clippy::disallowed_methods, reason = "a test without a runtime has a thread to itself")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}
