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
mod fanout;
mod cycle;
mod client;
mod certificate;
mod frame;
mod poll;
mod usage;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::job::Job;
use crate::report::{Figures, Report, Round};
use crate::target::{Kind, Target};
use crate::usage::Processors;

/// Measures the server's processor time for each delivery beside that of a bare send loop.
#[derive(Parser)]
#[command(name = "fanout", bin_name = "cargo bench --bench fanout --")]
struct Args {
    /// The jobs to do, by name [default: all]
    jobs: Vec<String>,
    /// How often to do each job on each server
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The server to measure
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_anteroom"))]
    server: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// One small round, to see that all works
    #[arg(long)]
    test: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
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
    let smoke = args.test || !args.bench;
    let rounds = if smoke { 1 } else { args.rounds };
    let processors = Processors::detect()?;
    if processors.is_none() {
        eprintln!("only one processor: the load takes the server's time");
    }
    let mut report = Report::new(selected(&args.jobs, smoke)?);
    for round in 0..rounds {
        for (job, done) in report.jobs_mut() {
            let measure = |kind| measure(job, kind, &args.server, processors);
            // Neither of them always comes second.
            let result = if round % 2 == 0 {
                let beside = measure(Kind::Floor)?;
                Round { beside, anteroom: measure(Kind::Anteroom)? }
            } else {
                let anteroom = measure(Kind::Anteroom)?;
                Round { beside: measure(Kind::Floor)?, anteroom }
            };
            eprintln!(
                "round {} of {rounds}: {}: {:.2} over {:.2}, ratio {:.2}",
                round + 1,
                job.name,
                result.anteroom.cost(),
                result.beside.cost(),
                result.ratio()
            );
            done.push(result);
        }
    }
    if args.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

fn selected(names: &[String], smoke: bool) -> Result<Vec<Job>> {
    let all = job::all();
    for name in names {
        let known: Vec<_> = all.iter().map(|job| job.name).collect();
        ensure!(known.contains(&name.as_str()), "no job is named {name}; there are {}", known.join(", "));
    }
    let wanted = all.into_iter().filter(|job| names.is_empty() || names.iter().any(|name| name == job.name));
    Ok(wanted.map(|job| if smoke { job.smoke() } else { job }).collect())
}

fn measure(job: &Job, kind: Kind, anteroom: &Path, processors: Option<Processors>) -> Result<Figures> {
    let tls = job.tls && kind == Kind::Anteroom;
    let target = Target::start(kind, tls, anteroom, processors)?;
    job.run(&target).with_context(|| format!("{} on {kind:?}; it wrote: {}", job.name, target.log()))
}
