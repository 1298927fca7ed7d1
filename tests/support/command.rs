//! Commands of `anteroom` that end by themselves.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::wait_until;

/// The program, to be given its arguments.
pub fn anteroom() -> Command {
    Command::new(env!("CARGO_BIN_EXE_anteroom"))
}

/// Runs a command that asks for nothing.
pub fn run(folder: &Path, args: &[&str]) -> Output {
    run_with(folder, args, "")
}

/// Runs a command that finds this text on its standard input.
pub fn run_with(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut process = anteroom()
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read it has ended.
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap_or_default();
    wait_until(&format!("{args:?} has ended"), || process.try_wait().unwrap().is_some());
    process.wait_with_output().unwrap()
}

/// What it printed.
pub fn out(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

/// What it complained about.
pub fn err(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}
