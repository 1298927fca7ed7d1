//! The example projects, started as their readers start them: by their own `run`, in a copy of the folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::tools::{Output, Process, installed};

/// The folder of a project.
pub fn folder_of(project: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(project)
}

/// Replaces parts of a text, each of which it must have exactly once.
pub fn replace(mut text: String, places: &[(&str, &str)]) -> String {
    for (from, to) in places {
        assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
        text = text.replace(from, to);
    }
    text
}

/// A project that its `run` has started. It is asked to end with this value, as by Ctrl-C.
pub struct Run {
    process: Process,
    out: Output,
    /// The copy, below a folder that ends with it.
    root: PathBuf,
    _folder: TempDir,
}

impl Run {
    /// Starts a copy of a project, after `edit` has been at it: its ports may be taken on this machine.
    pub fn start(project: &str, arguments: &[&str], edit: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join(project);
        copy(&folder_of(project), &root);
        edit(&root);
        let mut command = Command::new(root.join("run"));
        command.args(arguments).env_remove("REDIS_URL");
        command.env("VENV", installed(project)).env("ANTEROOM", env!("CARGO_BIN_EXE_anteroom"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::spawn(&mut command);
        let out = Process::collect(process.child().stdout.take().unwrap());
        Self { process, out, root, _folder: folder }
    }

    /// Where the copy is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it has told its reader so far.
    pub fn text(&self) -> String {
        self.out.text()
    }

    /// Ends it, which must succeed and leave no process behind.
    pub fn stop(mut self) {
        assert!(!self.processes().is_empty());
        self.interrupt();
        assert!(self.process.wait().success());
        assert_eq!(self.processes(), Vec::<String>::new());
    }

    fn interrupt(&mut self) {
        kill_process(Pid::from_child(self.process.child()), Signal::INT).unwrap();
    }

    /// The command lines of all processes that are at home in the copy.
    fn processes(&self) -> Vec<String> {
        let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        // One may end while it is looked at.
        let here = all.filter(|process| {
            fs::read_link(process.join("cwd")).is_ok_and(|home| home.starts_with(&self.root))
        });
        here.filter_map(|process| fs::read_to_string(process.join("cmdline")).ok()).collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What it has started lives in sessions of its own, and would outlive it.
        if !self.process.has_ended() {
            self.interrupt();
            self.process.wait();
        }
    }
}

/// Copies a folder but for what is made in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if ["var", ".venv", "__pycache__"].iter().any(|made| name == *made) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}
