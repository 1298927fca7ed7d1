//! What a server uses: processor time and memory, and the processor that it has to itself.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of the generator and of the server, `None` when there is only one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors {
    pub(crate) generator: usize,
    pub(crate) server: usize,
}

/// The processor time of each thread, in nanoseconds.
pub(crate) struct Usage(HashMap<String, u64>);

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// What the process allocated.
    pub(crate) anonymous: u64,
    /// That and the touched pages of its files.
    pub(crate) resident: u64,
}

impl Processors {
    /// The first two that this process may use.
    pub(crate) fn detect() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(None)?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor));
        let found = allowed.next().zip(allowed.next());
        let Some((generator, server)) = found else { return Ok(None) };
        pin(generator)?;
        Ok(Some(Self { generator, server }))
    }
}

impl Usage {
    /// The time that this program itself has used.
    pub(crate) fn of_generator() -> Result<Self> {
        Self::read(&[std::process::id()])
    }

    /// The time that these processes have used.
    pub(crate) fn read(processes: &[u32]) -> Result<Self> {
        let mut used = HashMap::new();
        for process in processes {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                let thread = thread?;
                let schedstat = fs::read_to_string(thread.path().join("schedstat"))
                    .context("the kernel tells no processor times (CONFIG_SCHED_INFO)")?;
                let running = schedstat.split(' ').next().context("an empty schedstat")?.parse()?;
                used.insert(thread.file_name().to_string_lossy().into_owned(), running);
            }
        }
        Ok(Self(used))
    }

    /// The time used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        // By thread, so that one that ended in between takes nothing away from the sum.
        let used = self.0.iter().map(|(thread, used)| used - before.0.get(thread).unwrap_or(&0));
        Duration::from_nanos(used.sum())
    }
}

impl Memory {
    /// What a process has now.
    pub(crate) fn read(process: u32) -> Result<Self> {
        let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            let kibibytes = line.trim().strip_suffix(" kB").context("not in kB")?;
            Ok(kibibytes.parse::<u64>()? * 1024)
        };
        Ok(Self { anonymous: field("RssAnon:")?, resident: field("VmRSS:")? })
    }
}

/// Keeps this thread, and whatever it starts from now on, on one processor.
pub(crate) fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).context("sched_setaffinity")
}
