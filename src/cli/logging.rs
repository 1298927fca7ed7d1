//! The log: lines on standard error, as text or JSON, with settings that change while the server runs.

use std::io;
use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{LogConfig, LogFormat, LogLevel};

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// The running log. Dropping it writes what is left.
pub(super) struct Log {
    _writing: WorkerGuard,
}

/// Starts the log; the function puts other settings in force.
///
/// A thread of its own writes it, so that a reader who does not read stops no worker; lines that find its
/// queue full are lost.
pub(super) fn start(config: LogConfig) -> (Log, impl Fn(LogConfig) + Send) {
    let (writer, writing) = tracing_appender::non_blocking(io::stderr());
    let (lines, lines_handle) = reload::Layer::new(lines(config.format, &writer));
    // Beside the lines and not a filter on them: a filtered layer cannot be put in another's place.
    let (level, level_handle) = reload::Layer::new(targets(config.level));
    // A second log in one process stays the first one.
    tracing_subscriber::registry().with(lines).with(level).try_init().unwrap_or_default();
    let set = move |config: LogConfig| {
        lines_handle.reload(self::lines(config.format, &writer)).unwrap_or_default();
        level_handle.reload(targets(config.level)).unwrap_or_default();
    };
    (Log { _writing: writing }, set)
}

fn lines(format: LogFormat, writer: &NonBlocking) -> Lines {
    // An error of the log itself has nowhere to go: standard error may be what is broken.
    let lines = fmt::layer().with_writer(writer.clone()).log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// What is logged: of libraries, which tell each frame and each wake-up, only what someone should look at.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("anteroom", level)
}
