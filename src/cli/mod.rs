//! The command line.

mod doctor;
mod publish;
mod guest;
mod logging;

use std::fs::OpenOptions;
use std::io;
use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio::runtime;

use crate::cli::doctor::Doctor;
use crate::cli::publish::Publish;
use crate::config;
use crate::config::{Diagnostics, LayerConfig, Loaded, LogFormat, STARTER};
use crate::listener::Address;
use crate::reload;
use crate::reload::{FileSecrets, Origin, Running};
use crate::server;
use crate::server::{Addresses, Start, StartError};

/// `EX_CONFIG` of `sysexits.h`.
const EXIT_CONFIG: u8 = 78;
/// What is served when no file is given.
const DEMO: &str = include_str!("demo.toml");

const CHECK_EXIT_CODES: &str = "\
Exit codes:
  0   The file would be served, perhaps with warnings
  78  It would not, or it cannot be read";

/// A WebSocket edge server for Django Channels.
#[derive(Debug, Parser)]
#[command(name = "anteroom", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; the same as no command
    Serve(Serve),
    /// Say what is wrong with a configuration
    #[command(after_help = CHECK_EXIT_CODES)]
    Check {
        /// The file to check
        #[arg(default_value = "routes.toml")]
        file: PathBuf,
        /// Print the findings as a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration with every default filled in and secrets masked
    Print {
        /// The file to print; the built-in chat without one
        file: Option<PathBuf>,
    },
    /// Write a commented configuration to begin with
    Init {
        /// The file to write; one that exists is left alone
        #[arg(default_value = "routes.toml")]
        file: PathBuf,
    },
    /// Send one event to a group, through the layer of a configuration
    #[command(after_help = publish::EXIT_CODES)]
    Publish(Publish),
    /// Look for what is wrong with the channel layer, on Redis and beside it
    #[command(after_help = doctor::EXIT_CODES)]
    Doctor(Doctor),
}

#[derive(Args, Debug)]
struct Serve {
    /// The configuration, watched while the server runs; without one a chat is served to try things out
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address of the first listener, in place of the configured one
    #[arg(short, long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// The port of the first listener, in place of the configured one; 0 for one that is free
    #[arg(short, long)]
    port: Option<u16>,
}

/// Runs the program. Exit codes: 0, 1 for what went wrong, 2 for wrong arguments, 78 for a wrong configuration.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Check { file, json }) => Ok(check(&file, json)),
        Some(Command::Print { file }) => Ok(print(file.as_deref())),
        Some(Command::Init { file }) => init(&file),
        Some(Command::Publish(args)) => publish::publish(&args),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
    };
    done.unwrap_or_else(|error| {
        complain(&format!("error: {error:#}\n"));
        ExitCode::FAILURE
    })
}

fn serve(args: Serve) -> anyhow::Result<ExitCode> {
    let (loaded, digest) = match load(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(refuse(&errors)),
    };
    let mut config = loaded.config;
    // Who reads the log as JSON reads everything as JSON.
    let warnings_in_log = config.server.log.format == LogFormat::Json;
    if !warnings_in_log {
        report(&loaded.warnings);
    }
    let running = Running::of(&config);
    if let Some(first) = config.listeners.first_mut()
        && (args.bind.is_some() || args.port.is_some())
    {
        let Address::Ip(configured) = first.address else {
            let configured = &first.address;
            anyhow::bail!("the first listener is at {configured}, which has no address and port to replace");
        };
        let address = args.bind.unwrap_or(configured.ip());
        first.address = Address::Ip(SocketAddr::new(address, args.port.unwrap_or(configured.port())));
    }
    let (_log, apply_log) = logging::start(config.server.log);
    if warnings_in_log && !loaded.warnings.is_empty() {
        tracing::warn!("the configuration has warnings\n{}", loaded.warnings.render(false).trim_end());
    }
    let demo = args.config.is_none();
    let start = Start {
        config,
        running,
        origin: Origin { digest, files: loaded.files },
        file: args.config,
        apply_log: Box::new(apply_log),
        announce: Box::new(move |addresses| announce(addresses, demo)),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = runtime.block_on(server::run(start));
    // A look-up of a name that nobody answers would hold up the end for as long as it likes.
    runtime.shutdown_background();
    match ran {
        Err(error @ StartError::Assembly(_)) => {
            complain(&format!("error: {error:#}\n"));
            Ok(ExitCode::from(EXIT_CONFIG))
        }
        ran => Ok(ran.map(|()| ExitCode::SUCCESS)?),
    }
}

fn check(file: &Path, json: bool) -> ExitCode {
    let (findings, exit) = match load(Some(file)) {
        Ok((loaded, _)) => (loaded.warnings, ExitCode::SUCCESS),
        Err(errors) => (errors, ExitCode::from(EXIT_CONFIG)),
    };
    if json {
        say(&format!("{:#}\n", findings.to_json()));
    } else {
        report(&findings);
        if exit == ExitCode::SUCCESS {
            say(&format!("{}: ok\n", file.display()));
        }
    }
    exit
}

fn print(file: Option<&Path>) -> ExitCode {
    match load(file) {
        Ok((loaded, _)) => {
            report(&loaded.warnings);
            say(&config::print(&loaded.config));
            ExitCode::SUCCESS
        }
        Err(errors) => refuse(&errors),
    }
}

fn init(file: &Path) -> anyhow::Result<ExitCode> {
    let created = OpenOptions::new().write(true).create_new(true).open(file);
    let mut created = created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow::anyhow!("{} exists already and is left as it is; name another file", file.display())
        }
        _ => anyhow::Error::new(error).context(format!("cannot write {}", file.display())),
    })?;
    created.write_all(STARTER.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    say(&format!("wrote {0}; serve it with `anteroom -c {0}`\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Reads and compiles a configuration; without a file, the built-in chat. With it goes the digest of its text.
fn load(file: Option<&Path>) -> Result<(Loaded, String), Diagnostics> {
    let name = file.map_or_else(|| "the built-in chat".to_owned(), |file| file.display().to_string());
    let text = match file {
        Some(file) => reload::read(file).map_err(|error| Diagnostics::unreadable(&name, error))?,
        None => DEMO.to_owned(),
    };
    let secrets = FileSecrets::beside(file.unwrap_or(Path::new("")));
    let loaded = config::load(&name, &text, &secrets)?;
    Ok((loaded, reload::digest(&text)))
}

/// The channel layer of a configuration.
fn layer(file: &Path) -> Result<LayerConfig, Diagnostics> {
    load(Some(file)).map(|(loaded, _)| loaded.config.layer)
}

/// Prints what is wrong with a configuration and gives the exit code.
fn refuse(errors: &Diagnostics) -> ExitCode {
    report(errors);
    ExitCode::from(EXIT_CONFIG)
}

fn announce(addresses: &Addresses, demo: bool) {
    let mut lines = vec![format!("anteroom {} is listening", env!("CARGO_PKG_VERSION"))];
    for (name, url) in &addresses.listeners {
        lines.push(format!("  {name:<10} {url}"));
    }
    lines.push(format!("  {:<10} http://{}/metrics", "admin", addresses.admin));
    if let (true, Some((_, url))) = (demo, addresses.listeners.first()) {
        let sockets = url.replacen("http", "ws", 1);
        lines.push(format!(
            "no configuration was given, so this is a chat to try out: open {url} in two tabs"
        ));
        lines.push(format!("  {:<10} {sockets}chat/ROOM/", "rooms"));
        lines.push(format!("  {:<10} {sockets}echo/", "echo"));
        lines.push("`anteroom init` writes a configuration to begin with".to_owned());
    }
    lines.push(String::new());
    say(&lines.join("\n"));
}

/// What others wrote, without what would move the cursor of a terminal.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// So many of something.
fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Prints what was asked for. Nobody listening is no error: the server must outlive its terminal.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap_or_default();
}

/// Prints the findings on a configuration, if there are any.
fn report(findings: &Diagnostics) {
    if !findings.is_empty() {
        complain(&format!("{}\n", findings.render(io::stderr().is_terminal()).trim_end()));
    }
}

/// Prints what is wrong.
fn complain(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).unwrap_or_default();
}
