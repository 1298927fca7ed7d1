//! What a delivery costs: the server beside a bare `send` loop, in one run on the same machine.
//!
//! Each round does each job on both, each time freshly started and pinned to a processor of its own, with this
//! program as the clients on another. The figure to read is the ratio: the machine's speed falls out of it.
//!
//! ```text
//! cargo bench --bench fanout                                # everything, 5 rounds
//! cargo bench --bench fanout -- --rounds 3 room-1000-w1     # one job
//! cargo bench --bench fanout -- --json > fanout.json
//! ```
//!
//! Without `--bench`, which is how `cargo test --benches` starts it, or with `--test`, it does one small round of each
//! job and measures nothing of use.

#![expect(clippy::expect_used, reason = "a fault of the load ends the run, and that is right")]
#![expect(clippy::indexing_slicing, reason = "as above: indexes are the program's own")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result and the progress")]
#![expect(clippy::disallowed_types, reason = "real time is what is measured")]
#![expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]

mod job;
mod target;
mod floor;
mod cycle;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each program has a use for a part of it")]
mod support;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;

use crate::job::Job;
use crate::support::report::Figures;
use crate::support::rounds::{self, Options};
use crate::support::usage::Processors;
use crate::target::{Kind, Target};

/// Measures the server's processor time for each delivery beside that of a bare send loop.
#[derive(Parser)]
#[command(name = "fanout", bin_name = "cargo bench --bench fanout --")]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Be the floor
    #[arg(long, hide = true, value_name = "ADDRESS")]
    floor: Option<SocketAddr>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    job::raise_descriptor_limit()?;
    if let Some(address) = args.floor {
        return floor::serve(address);
    }
    let server = args.options.server()?;
    let processors = rounds::processors()?;
    args.options.run(|job, kind| measure(job, kind, &server, processors))
}

fn measure(job: &Job, kind: Kind, anteroom: &Path, processors: Option<Processors>) -> Result<Figures> {
    let tls = job.tls && kind == Kind::Anteroom;
    let target = Target::start(kind, tls, anteroom, processors)?;
    job.run(&target).with_context(|| format!("{} on {kind:?}; it wrote: {}", job.name, target.log()))
}
