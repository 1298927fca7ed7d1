//! What one `group_send` of Django to a room of 1,000 sockets costs: anteroom beside Channels, in one run on the same
//! machine.
//!
//! Each round does each job on both, each time freshly started and pinned to a processor of its own; on another are
//! this program, which is the sockets, a Redis, and a process of Django that sends, as a view does. What Channels runs
//! is the project of examples/migration, with its `ChatConsumer`. The figure to read is the ratio.
//!
//! ```text
//! cargo bench --bench django                               # everything, 5 rounds
//! cargo bench --bench django -- --rounds 3 core-daphne     # one job
//! cargo bench --bench django -- --json > django.json
//! ```
//!
//! Needs redis-server and what `tests/setup` installs. Without `--bench`, which is how `cargo test --benches` starts it,
//! or with `--test`, it does one small round of each job and measures nothing of use.

#![expect(clippy::expect_used, reason = "a fault of the load ends the run, and that is right")]
#![expect(clippy::indexing_slicing, reason = "as above: indexes are the program's own")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result and the progress")]
#![expect(clippy::disallowed_types, reason = "real time is what is measured")]
#![expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]

mod job;
mod target;
mod redis_server;
mod sender;
mod audience;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each program has a use for a part of it")]
mod support;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use crate::job::Job;
use crate::support::report::Figures;
use crate::support::rounds::{self, Options};
use crate::support::usage::Processors;
use crate::target::{Kind, Programs, Target};

/// Measures what a message from Django to 1,000 sockets costs the server and Redis, beside Channels.
#[derive(Parser)]
#[command(name = "django", bin_name = "cargo bench --bench django --")]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Where the programs of an environment with Django, Channels, Daphne and uvicorn are
    #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/interop/migration/bin"))]
    python: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let anteroom = args.options.server()?;
    let processors = rounds::processors()?;
    let programs = Programs { python: &args.python, anteroom: &anteroom };
    args.options.run(|job, kind| measure(job, kind, &programs, processors))
}

fn measure(
    job: &Job,
    kind: Kind,
    programs: &Programs<'_>,
    processors: Option<Processors>,
) -> Result<Figures> {
    let mut target = Target::start(kind, job.layer, job.asgi, programs, processors)?;
    job.run(&mut target).with_context(|| format!("{} on {kind:?}; it wrote: {}", job.name, target.log()))
}
