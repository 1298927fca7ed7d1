//! What the programs share: their options, and rounds in which both servers take turns.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::job;
use crate::job::Job;
use crate::support::report::{Figures, Report, Round};
use crate::support::usage::Processors;
use crate::target::Kind;

/// A job that is being done on a server which was started for it, part by part.
pub(crate) trait Attempt {
    /// In how many parts it is done.
    const PARTS: usize;

    /// Does the next part.
    fn go_on(&mut self) -> Result<()>;

    /// What all of it has cost.
    fn finish(self) -> Result<Figures>;
}

/// The options of every program.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The jobs to do, by name [default: all]
    jobs: Vec<String>,
    /// How often to do each job on each server
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The server to measure [default: what `cargo build --release` makes]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
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

impl Options {
    /// The program of the server to measure.
    pub(crate) fn server(&self) -> Result<PathBuf> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        // Made by cargo for this program, with what only tests need of its libraries: a clock of tokio's that can be
        // stopped takes a part of the time of each message.
        let server = PathBuf::from(env!("CARGO_BIN_EXE_anteroom"));
        if !self.is_smoke()
            && let Some(target) = server.ancestors().nth(2)
        {
            eprintln!("making the server as its users do");
            let build = ["build", "--release", "--locked", "--bin", "anteroom", "--target-dir"];
            let mut cargo = Command::new(env!("CARGO"));
            let made = cargo.args(build).arg(target).current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
            ensure!(made.success(), "the server cannot be made");
        }
        Ok(server)
    }

    fn is_smoke(&self) -> bool {
        self.test || !self.bench
    }

    /// Does each job on both servers in every round, on one after the other, and prints what was measured.
    pub(crate) fn run(&self, measure: impl Fn(&Job, Kind) -> Result<Figures>) -> Result<()> {
        self.report(|round, job| {
            // Neither of them always comes second.
            if round.is_multiple_of(2) {
                let beside = measure(job, Kind::BESIDE)?;
                Ok(Round { beside, anteroom: measure(job, Kind::Anteroom)? })
            } else {
                let anteroom = measure(job, Kind::Anteroom)?;
                Ok(Round { beside: measure(job, Kind::BESIDE)?, anteroom })
            }
        })
    }

    /// The same, where both servers take turns within a round, so that what slows the machine down for a while slows
    /// down both. Not for loads whose begin and end cost one of them more than the other, for each part has its own.
    pub(crate) fn run_in_turns<A: Attempt>(&self, start: impl Fn(&Job, Kind) -> Result<A>) -> Result<()> {
        self.report(|round, job| {
            let (mut beside, mut anteroom) = (start(job, Kind::BESIDE)?, start(job, Kind::Anteroom)?);
            for part in 0..A::PARTS {
                let mut turns = [&mut beside, &mut anteroom];
                if !(round + part).is_multiple_of(2) {
                    turns.reverse();
                }
                for attempt in turns {
                    attempt.go_on()?;
                }
            }
            Ok(Round { beside: beside.finish()?, anteroom: anteroom.finish()? })
        })
    }

    fn report(&self, measure: impl Fn(usize, &Job) -> Result<Round>) -> Result<()> {
        let smoke = self.is_smoke();
        let rounds = if smoke { 1 } else { self.rounds };
        let mut report = Report::new(self.selected(smoke)?);
        for round in 0..rounds {
            for (job, done) in report.jobs_mut() {
                let result = measure(round, job)?;
                eprintln!(
                    "round {} of {rounds}: {}: {:.2} over {:.2}, ratio {:.3}",
                    round + 1,
                    job.name,
                    result.anteroom.cost(),
                    result.beside.cost(),
                    result.ratio()
                );
                done.push(result);
            }
        }
        if self.json {
            println!("{:#}", report.json());
        } else {
            print!("{}", report.table());
        }
        Ok(())
    }

    fn selected(&self, smoke: bool) -> Result<Vec<Job>> {
        let all = job::all();
        for name in &self.jobs {
            let known: Vec<_> = all.iter().map(|job| job.name).collect();
            ensure!(known.contains(&name.as_str()), "no job is named {name}; there are {}", known.join(", "));
        }
        let wanted = all
            .into_iter()
            .filter(|job| self.jobs.is_empty() || self.jobs.iter().any(|name| name == job.name));
        Ok(wanted.map(|job| if smoke { job.smoke() } else { job }).collect())
    }
}

/// The processors of this program and of the server; from now on this program keeps to its own.
pub(crate) fn processors() -> Result<Option<Processors>> {
    let processors = Processors::detect()?;
    if processors.is_none() {
        eprintln!("only one processor: the load takes the server's time");
    }
    Ok(processors)
}
