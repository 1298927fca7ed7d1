//! A process of Django that sends to a room.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::support::usage::Usage;

/// The process. It is killed when this is dropped.
pub(crate) struct Sender {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Sender {
    /// Starts it on the processor of this program.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let stdin = child.stdin.take().context("it was piped")?;
        let stdout = BufReader::new(child.stdout.take().context("it was piped")?);
        Ok(Self { child, stdin, stdout })
    }

    /// Has it call `group_send`.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.stdin.write_all(format!("{text}\n").as_bytes()).context("the sender has ended")
    }

    /// Waits until the call has returned.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line == "sent\n", "the sender has ended: {line}");
        Ok(())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::read(&[self.child.id()])
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
