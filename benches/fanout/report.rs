//! What was measured, as a table for people and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::job::Job;
use crate::target::Kind;
use crate::usage::Memory;

/// One job on one server.
#[derive(Debug)]
pub(crate) enum Figures {
    Load(Load),
    PerSocket(PerSocket),
}

/// Figures of a load; a unit is a delivery or a cycle.
#[derive(Debug)]
pub(crate) struct Load {
    /// Processor time of the server for each unit, in microseconds.
    cpu: f64,
    per_second: f64,
    /// In milliseconds.
    p50: f64,
    p99: f64,
    /// Parts of a processor that were used.
    server_share: f64,
    generator_share: f64,
}

/// Bytes for each idle socket.
#[derive(Debug)]
pub(crate) struct PerSocket {
    anonymous: f64,
    resident: f64,
    sockets: usize,
}

/// All rounds of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Report {
    jobs: Vec<(Job, Vec<Round>)>,
}

#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) beside: Figures,
    pub(crate) anteroom: Figures,
}

impl Load {
    pub(crate) fn new(
        units: u64,
        elapsed: Duration,
        mut latencies: Vec<u32>,
        server: Duration,
        generator: Duration,
    ) -> Self {
        latencies.sort_unstable();
        let percentile = |percent: usize| {
            let at = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies.get(at).map_or(0.0, |&micros| f64::from(micros) / 1e3)
        };
        let seconds = elapsed.as_secs_f64();
        Self {
            cpu: server.as_secs_f64() * 1e6 / units as f64,
            per_second: units as f64 / seconds,
            p50: percentile(50),
            p99: percentile(99),
            server_share: server.as_secs_f64() / seconds,
            generator_share: generator.as_secs_f64() / seconds,
        }
    }
}

impl PerSocket {
    pub(crate) fn new(sockets: usize, before: Memory, after: Memory) -> Self {
        let per_socket = |before: u64, after: u64| after.saturating_sub(before) as f64 / sockets as f64;
        Self {
            anonymous: per_socket(before.anonymous, after.anonymous),
            resident: per_socket(before.resident, after.resident),
            sockets,
        }
    }
}

impl Figures {
    /// What the ratio is taken of.
    pub(crate) fn cost(&self) -> f64 {
        match self {
            Self::Load(load) => load.cpu,
            Self::PerSocket(memory) => memory.anonymous,
        }
    }

    fn fields(&self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Load(load) => vec![
                ("cpu_us", load.cpu),
                ("per_second", load.per_second),
                ("p50_ms", load.p50),
                ("p99_ms", load.p99),
                ("server_share", load.server_share),
                ("generator_share", load.generator_share),
            ],
            Self::PerSocket(memory) => vec![
                ("anonymous_bytes", memory.anonymous),
                ("resident_bytes", memory.resident),
                ("sockets", memory.sockets as f64),
            ],
        }
    }
}

impl Round {
    pub(crate) fn ratio(&self) -> f64 {
        self.anteroom.cost() / self.beside.cost()
    }

    fn of(&self, kind: Kind) -> &Figures {
        if kind == Kind::BESIDE { &self.beside } else { &self.anteroom }
    }
}

impl Report {
    pub(crate) fn new(jobs: Vec<Job>) -> Self {
        Self { jobs: jobs.into_iter().map(|job| (job, Vec::new())).collect() }
    }

    pub(crate) fn jobs_mut(&mut self) -> impl Iterator<Item = (&Job, &mut Vec<Round>)> {
        self.jobs.iter_mut().map(|(job, rounds)| (&*job, rounds))
    }

    /// Medians over the rounds; a ratio is that of two figures of the same round.
    pub(crate) fn table(&self) -> String {
        let mut loads = String::new();
        let mut memories = String::new();
        for (job, rounds) in &self.jobs {
            for kind in [Kind::BESIDE, Kind::Anteroom] {
                let ratio = if kind == Kind::BESIDE { 1.0 } else { median(rounds.iter().map(Round::ratio)) };
                let fields = medians(rounds, kind);
                let name = kind.name();
                let about = job.about;
                let (table, row) = match *fields {
                    [cpu, per_second, p50, p99, server, generator] => (
                        &mut loads,
                        format!(
                            "| {about} | {name} | {cpu:.2} | {ratio:.2} | {per_second:.0} | {p50:.1} | {p99:.1} \
                             | {server:.2} | {generator:.2} |"
                        ),
                    ),
                    [anonymous, resident, sockets] => (
                        &mut memories,
                        format!("| {sockets:.0} {about} | {name} | {anonymous:.0} | {resident:.0} |"),
                    ),
                    _ => continue,
                };
                writeln!(table, "{row}").expect("a String takes all");
            }
        }
        let mut text = String::new();
        if !loads.is_empty() {
            let beside = Kind::BESIDE.name();
            writeln!(
                text,
                "| job | server | CPU us each | x {beside} | per second | p50 ms | p99 ms | server share | generator \
                 share |\n|---|---|---|---|---|---|---|---|---|"
            )
            .expect("a String takes all");
            text += &loads;
        }
        if !memories.is_empty() {
            text += "\n| job | server | bytes each, anonymous | resident |\n|---|---|---|---|\n";
            text += &memories;
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let jobs: Vec<Value> = self.jobs.iter().map(|(job, rounds)| job_json(job, rounds)).collect();
        json!({ "jobs": jobs })
    }
}

fn job_json(job: &Job, rounds: &[Round]) -> Value {
    let server = |kind: Kind| -> Value {
        let names = rounds.first().map(|round| round.of(kind).fields()).unwrap_or_default();
        let medians = medians(rounds, kind);
        names.iter().zip(medians).map(|((field, _), median)| ((*field).to_owned(), json!(median))).collect()
    };
    json!({
        "job": job.name,
        "about": job.about,
        "ratio": median(rounds.iter().map(Round::ratio)),
        "ratios": rounds.iter().map(Round::ratio).collect::<Vec<_>>(),
        Kind::BESIDE.name(): server(Kind::BESIDE),
        Kind::Anteroom.name(): server(Kind::Anteroom),
    })
}

fn medians(rounds: &[Round], kind: Kind) -> Vec<f64> {
    let all: Vec<_> = rounds.iter().map(|round| round.of(kind).fields()).collect();
    let fields = all.first().map_or(0, Vec::len);
    (0..fields).map(|field| median(all.iter().map(|figures| figures[field].1))).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
