//! The programs that `tests/setup` put under `target/interop`, and processes that end with the test.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::wait_until;

/// A file that `tests/setup` has made.
///
/// # Panics
///
/// It is not there.
pub fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop").join(path);
    assert!(path.exists(), "{} is not there: run tests/setup", path.display());
    path
}

/// A file of this folder of tests.
pub fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(path)
}

/// What stands between two parts of a text.
pub fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}"));
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} in {rest}")).0
}

/// A port of the loopback address that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that is killed when this value goes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Whether what it started ends with it.
    group: bool,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, group: false }
    }

    /// Spawns a process whose own children end with it.
    pub fn spawn_group(command: &mut Command) -> Self {
        let mut process = Self::spawn(command.process_group(0));
        process.group = true;
        process
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the process has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Collects what comes from a pipe of the process.
    pub fn collect(mut pipe: impl std::io::Read + Send + 'static) -> Output {
        let output = Output::default();
        let text = Arc::clone(&output.text);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = pipe.by_ref().read(&mut chunk) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.group {
            kill_process_group(Pid::from_child(&self.child), Signal::KILL).unwrap_or_default();
        } else {
            self.child.kill().unwrap_or_default();
        }
        self.child.wait().unwrap();
    }
}

/// What a process has written so far.
#[derive(Clone, Debug, Default)]
pub struct Output {
    text: Arc<Mutex<String>>,
}

impl Output {
    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Waits until this was written.
    pub fn wait_for(&self, part: &str) {
        wait_until(&format!("{part:?} was written"), || self.text().contains(part));
    }
}
