//! `anteroom doctor`: whether the channel layer works, and which traps it stands beside.

mod checks;
mod finding;
mod round_trip;

use std::io;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value as Json;
use tokio::runtime;

use crate::channel_layer::{LayerConfig, examine};
use crate::cli::doctor::checks::Kind;
use crate::cli::doctor::finding::{Code, Finding, Severity};
use crate::cli::{EXIT_CONFIG, plural, report, say};

pub(super) const EXIT_CODES: &str = "\
It connects to each Redis host of the layer, looks and tries, and sends a message from one node to another. What it
writes is named at random and is taken away again.

Exit codes:
  0   No failure, perhaps notes and warnings
  1   Something does not work
  78  The configuration cannot be used";

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// The configuration that names the layer
    #[arg(short, long, value_name = "FILE", default_value = "routes.toml")]
    config: PathBuf,
    /// Print the findings as a JSON array
    #[arg(long)]
    json: bool,
}

/// Looks at the layer of a configuration.
///
/// # Errors
///
/// Ours: no runtime, no metrics.
pub(super) fn doctor(args: &Doctor) -> anyhow::Result<ExitCode> {
    let layer = match super::layer(&args.config) {
        Ok(layer) => layer.to_channel_layer(),
        Err(errors) => {
            if args.json {
                say(&format!("{:#}\n", errors.to_json()));
            } else {
                report(&errors);
            }
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(findings(&layer));
    // A look-up of a name that nobody answers would hold up the end for as long as it likes.
    runtime.shutdown_background();
    let found = found?;
    if args.json {
        say(&format!("{:#}\n", found.iter().map(Finding::to_json).collect::<Json>()));
    } else {
        let color = io::stdout().is_terminal();
        let lines: String = found.iter().map(|finding| finding.render(color)).collect();
        say(&format!("{lines}{}\n", summary(&found)));
    }
    let failed = found.iter().any(|finding| finding.severity == Severity::Failure);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn findings(layer: &LayerConfig) -> anyhow::Result<Vec<Finding>> {
    let kind = match layer {
        LayerConfig::Memory => {
            let message = "the layer is in memory, so there is nothing to check: groups end at this process, and \
                           neither Django nor a second server hears what is said in them";
            let help = "for more than one process set `backend = \"channels_redis.pubsub\"` (or `.core`) in `[layer]`, \
                        as in `CHANNEL_LAYERS` of Django";
            return Ok(vec![Finding::warning(Code::Memory, message).help(help)]);
        }
        LayerConfig::PubSub(_) => Kind::PubSub,
        LayerConfig::Core(config) => Kind::Core { expiry: config.expiry },
    };
    let hosts = examine(layer).await;
    let mut findings = checks::check(kind, &hosts);
    findings.extend(round_trip::round_trips(layer, &hosts).await?);
    Ok(findings)
}

fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let failures = plural(count(Severity::Failure), "failure", "failures");
    format!("{failures}, {}", plural(count(Severity::Warning), "warning", "warnings"))
}
