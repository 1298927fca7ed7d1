//! What proxying and TLS cost: anteroom beside nginx, in one run on the same machine.
//!
//! Each round does each job on both, each time freshly started with one worker; they take turns on a processor of their
//! own, part by part. This program is the clients and the application behind them on another. The figure to read is the
//! ratio.
//!
//! ```text
//! cargo bench --bench edge                              # everything, 5 rounds
//! cargo bench --bench edge -- --rounds 3 proxy-100      # one job
//! cargo bench --bench edge -- --json > edge.json
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
mod upstream;
mod http;
mod handshake;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each program has a use for a part of it")]
mod support;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use crate::support::rounds::{self, Options};
use crate::target::{Programs, Target};

/// Measures the server's processor time for each request, message and handshake beside that of nginx.
#[derive(Parser)]
#[command(name = "edge", bin_name = "cargo bench --bench edge --")]
struct Args {
    #[command(flatten)]
    options: Options,
    /// What it is measured beside
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// Have nginx start threads, too, which it uses for files alone. In a process with threads each call of the
    /// system costs more, for they share the descriptors
    #[arg(long)]
    nginx_threads: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let anteroom = args.options.server()?;
    let processors = rounds::processors()?;
    let upstream = upstream::start()?;
    let programs = Programs { nginx: &args.nginx, nginx_threads: args.nginx_threads, anteroom: &anteroom };
    args.options.run_in_turns(|job, kind| job.start(Target::start(kind, &programs, upstream, processors)?))
}
