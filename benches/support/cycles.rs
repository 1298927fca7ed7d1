//! Connections that come and go.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::support::poll::Poller;
use crate::support::report::Counts;

const RUN_MAX: Duration = Duration::from_mins(1);

/// Goes through `cycles` cycles, `at_once` of them at any time.
///
/// `begin` opens a connection for the token that it gets and has the poller watch it; `advance` takes one read from it,
/// and says whether the cycle is complete.
pub(crate) fn run<C>(
    at_once: usize,
    cycles: usize,
    begin: impl Fn(&Poller, usize) -> Result<C>,
    advance: impl Fn(&mut C) -> Result<bool>,
) -> Result<Counts> {
    let mut poller = Poller::new()?;
    let mut ready = Vec::new();
    let mut latencies = Vec::with_capacity(cycles);
    let mut slots = Vec::with_capacity(at_once);
    let begin = |poller: &Poller, token: usize| -> Result<_> {
        let begun_at = Instant::now();
        Ok(Some((begin(poller, token)?, begun_at)))
    };
    let start = Instant::now();
    let mut begun = 0;
    while begun < cycles.min(at_once) {
        slots.push(begin(&poller, begun)?);
        begun += 1;
    }
    while latencies.len() < cycles {
        let left = (start + RUN_MAX).saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "{} of {cycles} cycles within {RUN_MAX:?}", latencies.len());
        poller.wait(&mut ready, Some(left))?;
        for &token in &ready {
            let Some((cycle, begun_at)) = slots[token].as_mut() else { continue };
            if !advance(cycle)? {
                continue;
            }
            latencies.push(u32::try_from(begun_at.elapsed().as_micros())?);
            // Closed before the next one is opened, so that `at_once` is never exceeded.
            slots[token] = None;
            if begun < cycles {
                slots[token] = begin(&poller, token)?;
                begun += 1;
            }
        }
    }
    Ok(Counts { units: cycles as u64, elapsed: start.elapsed(), latencies })
}
