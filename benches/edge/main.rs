//! What proxying and TLS cost: anteroom beside nginx, in one run on the same machine.
//!
//! Each round does each job on both, each time freshly started with one worker and pinned to a processor of its own;
//! this program is the clients and the application behind them on another. The figure to read is the ratio.
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
#![expect(clippy::disallowed_methods, reason = "this program has no runtime to block")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result and the progress")]
#![expect(clippy::disallowed_types, reason = "real time is what is measured")]
#![expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]

mod job;
mod target;
mod upstream;
mod http;
mod handshake;
#[path = "../fanout/certificate.rs"]
mod certificate;
#[path = "../fanout/client.rs"]
mod client;
#[path = "../fanout/fanout.rs"]
#[expect(dead_code, reason = "rooms and memory are measured by the other program")]
mod fanout;
#[path = "../fanout/frame.rs"]
mod frame;
#[path = "../fanout/poll.rs"]
mod poll;
#[path = "../fanout/report.rs"]
#[expect(dead_code, reason = "rooms and memory are measured by the other program")]
mod report;
#[path = "../fanout/usage.rs"]
#[expect(dead_code, reason = "rooms and memory are measured by the other program")]
mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::job::Job;
use crate::report::{Figures, Report, Round};
use crate::target::{Kind, Programs, Target};
use crate::usage::Processors;

/// Measures the server's processor time for each request, message and handshake beside that of nginx.
#[derive(Parser)]
#[command(name = "edge", bin_name = "cargo bench --bench edge --")]
struct Args {
    /// The jobs to do, by name [default: all]
    jobs: Vec<String>,
    /// How often to do each job on each server
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The server to measure
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_anteroom"))]
    server: PathBuf,
    /// What it is measured beside
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// One small round, to see that all works
    #[arg(long)]
    test: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let smoke = args.test || !args.bench;
    let rounds = if smoke { 1 } else { args.rounds };
    let processors = Processors::detect()?;
    if processors.is_none() {
        eprintln!("only one processor: the load takes the server's time");
    }
    let upstream = upstream::start()?;
    let programs = Programs { nginx: &args.nginx, anteroom: &args.server };
    let mut report = Report::new(selected(&args.jobs, smoke)?);
    for round in 0..rounds {
        for (job, done) in report.jobs_mut() {
            let measure = |kind| measure(job, kind, &programs, upstream, processors);
            // Neither of them always comes second.
            let result = if round % 2 == 0 {
                let beside = measure(Kind::Nginx)?;
                Round { beside, anteroom: measure(Kind::Anteroom)? }
            } else {
                let anteroom = measure(Kind::Anteroom)?;
                Round { beside: measure(Kind::Nginx)?, anteroom }
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

fn measure(
    job: &Job,
    kind: Kind,
    programs: &Programs<'_>,
    upstream: SocketAddr,
    processors: Option<Processors>,
) -> Result<Figures> {
    let target = Target::start(kind, programs, upstream, processors)?;
    job.run(&target).with_context(|| format!("{} on {kind:?}; it wrote: {}", job.name, target.log()))
}
