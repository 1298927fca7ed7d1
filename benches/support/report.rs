//! What was measured, as a table for people and as JSON.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::job::Job;
use crate::support::usage::Usage;
use crate::target::Kind;

/// One job on one server: a figure for each column.
#[derive(Debug)]
pub(crate) struct Figures {
    columns: &'static [Column],
    values: Vec<f64>,
}

/// What a figure is called in JSON and in a table, and with how many decimals it stands there. The ratio is that of the
/// first one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str, pub(crate) usize);

/// Of a load.
const LOAD: &[Column] = &[
    Column("cpu_us", "CPU us each", 2),
    Column("per_second", "per second", 0),
    Column("p50_ms", "p50 ms", 1),
    Column("p99_ms", "p99 ms", 1),
    // Parts of a processor that were used.
    Column("server_share", "server share", 2),
    Column("generator_share", "generator share", 2),
];

/// What was counted while a part of a load went through.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Deliveries, requests or cycles.
    pub(crate) units: u64,
    pub(crate) elapsed: Duration,
    /// Of each unit, in microseconds, unsorted: of a delivery or a request from the sending to the last byte.
    pub(crate) latencies: Vec<u32>,
}

/// What the parts of a load cost both sides up to now.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    counts: Counts,
    server: Duration,
    generator: Duration,
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

impl Figures {
    /// One value for each column, in their order.
    pub(crate) fn new(columns: &'static [Column], values: Vec<f64>) -> Self {
        assert_eq!(columns.len(), values.len(), "each column has a value");
        Self { columns, values }
    }

    /// What a load costs that goes through in one part.
    pub(crate) fn of_load(
        usage: impl Fn() -> Result<Usage>,
        load: impl FnOnce() -> Result<Counts>,
    ) -> Result<Self> {
        let mut meter = Meter::default();
        meter.measure(usage, load)?;
        Ok(meter.figures())
    }

    /// What the ratio is taken of.
    pub(crate) fn cost(&self) -> f64 {
        self.values[0]
    }
}

impl Meter {
    /// Lets a part of the load through; `usage` says what the server has used up to now.
    pub(crate) fn measure(
        &mut self,
        usage: impl Fn() -> Result<Usage>,
        part: impl FnOnce() -> Result<Counts>,
    ) -> Result<()> {
        let before = (usage()?, Usage::of_generator()?);
        let Counts { units, elapsed, latencies } = part()?;
        self.generator += Usage::of_generator()?.since(&before.1);
        self.server += usage()?.since(&before.0);
        self.counts.units += units;
        self.counts.elapsed += elapsed;
        self.counts.latencies.extend(latencies);
        Ok(())
    }

    pub(crate) fn figures(self) -> Figures {
        let Self { counts, server, generator } = self;
        let (units, seconds) = (counts.units as f64, counts.elapsed.as_secs_f64());
        let [p50, p99] = percentiles(counts.latencies);
        let cpu = server.as_secs_f64() * 1e6 / units;
        let shares = [server.as_secs_f64() / seconds, generator.as_secs_f64() / seconds];
        Figures::new(LOAD, vec![cpu, units / seconds, p50, p99, shares[0], shares[1]])
    }
}

/// The 50th and the 99th percentile, in milliseconds, of times in microseconds.
pub(crate) fn percentiles(mut micros: Vec<u32>) -> [f64; 2] {
    micros.sort_unstable();
    [50, 99].map(|percent| {
        let at = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
        micros.get(at).map_or(0.0, |&micros| f64::from(micros) / 1e3)
    })
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

    /// Medians over the rounds; a ratio is that of two figures of the same round. Jobs with the same columns share a
    /// table.
    pub(crate) fn table(&self) -> String {
        let mut tables: Vec<(&[Column], String)> = Vec::new();
        for (job, rounds) in &self.jobs {
            let columns = columns(rounds);
            let known = tables.iter().position(|&(shown, _)| shown == columns);
            let at = known.unwrap_or(tables.len());
            if known.is_none() {
                tables.push((columns, heading(columns)));
            }
            for kind in [Kind::BESIDE, Kind::Anteroom] {
                tables[at].1 += &row(job, rounds, kind);
            }
        }
        tables.into_iter().map(|(_, table)| table).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn json(&self) -> Value {
        let jobs: Vec<Value> = self.jobs.iter().map(|(job, rounds)| job_json(job, rounds)).collect();
        json!({ "jobs": jobs })
    }
}

fn heading(columns: &[Column]) -> String {
    let titles: Vec<_> = columns.iter().map(|Column(_, title, _)| *title).collect();
    let (first, others) = titles.split_first().expect("there is a column");
    let ratio = format!("x {}", Kind::BESIDE.name());
    let titles = [&["job", "server", first, &ratio], others].concat();
    format!("| {} |\n|{}\n", titles.join(" | "), "---|".repeat(titles.len()))
}

fn row(job: &Job, rounds: &[Round], kind: Kind) -> String {
    let ratio = if kind == Kind::BESIDE { 1.0 } else { median(rounds.iter().map(Round::ratio)) };
    let values = columns(rounds).iter().zip(medians(rounds, kind));
    let mut cells: Vec<_> =
        values.map(|(&Column(.., decimals), value)| format!("{value:.decimals$}")).collect();
    cells.insert(1, format!("{ratio:.3}"));
    format!("| {} | {} | {} |\n", job.about, kind.name(), cells.join(" | "))
}

fn job_json(job: &Job, rounds: &[Round]) -> Value {
    let server = |kind: Kind| -> Value {
        let medians = medians(rounds, kind);
        columns(rounds).iter().zip(medians).map(|(Column(field, ..), value)| (*field, json!(value))).collect()
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

fn columns(rounds: &[Round]) -> &'static [Column] {
    rounds.first().map_or(&[], |round| round.anteroom.columns)
}

fn medians(rounds: &[Round], kind: Kind) -> Vec<f64> {
    let values = |at: usize| rounds.iter().map(move |round| round.of(kind).values[at]);
    (0..columns(rounds).len()).map(|at| median(values(at))).collect()
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
