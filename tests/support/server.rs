//! The real binary, on free ports.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::client::{Client, Response, request};
use crate::support::wait_until;

/// How long a server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running `anteroom`. It ends with this value.
#[derive(Debug)]
pub struct TestServer {
    process: Option<Child>,
    /// The listeners over TCP in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    output: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
    folder: TempDir,
}

impl TestServer {
    /// Starts with a configuration of routes and whatever else; `version`, a listener on a free port, an admin
    /// listener on a free port and a quick drain are added where the text does not have them.
    pub fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.toml");
        fs::write(&path, complete(config)).unwrap();
        Self::start_at(folder, &path, &[])
    }

    /// Starts with the configuration at a path inside of `folder`, written as it is, and more arguments.
    pub fn start_at(folder: TempDir, path: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anteroom"));
        command.arg("-c").arg(path).args(args);
        Self::spawn(command, folder)
    }

    /// Starts a command that announces its addresses as `anteroom` does.
    pub fn spawn(mut command: Command, folder: TempDir) -> Self {
        let mut process = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = process.stderr.take().unwrap();
        let written = Arc::clone(&log);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut chunk) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        let (lines, announced) = std::sync::mpsc::channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let output = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&output);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                said.lock().unwrap().extend([&line, "\n"]);
                // Nobody waits for the lines after the addresses.
                lines.send(line).unwrap_or_default();
            }
        });
        let mut addresses = Vec::new();
        let admin = loop {
            let Ok(line) = announced.recv_timeout(START_TIMEOUT) else {
                process.kill().unwrap();
                panic!("the server did not start:\n{}", log.lock().unwrap());
            };
            let Some((name, rest)) = line.trim().split_once("://") else { continue };
            let address = rest.split('/').next().unwrap().parse();
            if name.starts_with("admin ") {
                break address.unwrap();
            }
            // A UNIX socket has a path, which the test has chosen.
            addresses.extend(address);
        };
        Self { process: Some(process), addresses, admin, output, log, folder }
    }

    /// The first listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The folder of the configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file of [`TestServer::start`].
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("routes.toml")
    }

    /// Writes another configuration in place, completed as by [`TestServer::start`].
    pub fn write_config(&self, config: &str) {
        fs::write(self.config_path(), complete(config)).unwrap();
    }

    /// Opens a WebSocket, without an Origin.
    pub fn connect(&self, path: &str) -> Client {
        Client::connect(self.address(), path, &[]).unwrap_or_else(|refused| panic!("{path}: {refused:?}"))
    }

    /// Opens a WebSocket with more headers, or gives the answer that refused it.
    pub fn try_connect(&self, path: &str, headers: &[(&str, &str)]) -> Result<Client, Response> {
        Client::connect(self.address(), path, headers)
    }

    /// A plain GET on the first listener.
    pub fn get(&self, path: &str) -> Response {
        request(
            self.address(),
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
    }

    /// A GET on the admin listener.
    pub fn admin(&self, path: &str) -> Response {
        request(self.admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// All series and their values, by the text before the value.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let page = self.admin("/metrics");
        let lines = page.body.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    /// One series; 0 if there is none.
    pub fn metric(&self, series: &str) -> f64 {
        self.metrics().get(series).copied().unwrap_or_default()
    }

    /// Waits until a series has a value.
    pub fn wait_metric(&self, series: &str, value: f64) {
        let mut seen = f64::NAN;
        wait_until(&format!("{series} is {value}"), || {
            seen = self.metric(series);
            (seen - value).abs() < 1e-9
        });
    }

    /// What was written to standard output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// What was written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until a line of the log has all of these words, and gives it.
    pub fn wait_log(&self, words: &[&str]) -> String {
        self.wait_log_after(0, words)
    }

    /// The same for what was written after the log had this length.
    pub fn wait_log_after(&self, len: usize, words: &[&str]) -> String {
        let mut found = None;
        wait_until(&format!("the log has a line with {words:?}"), || {
            let log = self.log().split_off(len);
            found = log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.process.as_ref().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the process has ended by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        let mut status = None;
        wait_until("the server has ended", || {
            status = process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Asks the server to stop and asserts that it ends cleanly.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert!(status.success(), "{status:?}\n{}", self.log());
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
            if thread::panicking() {
                eprintln!("--- log of the server\n{}", self.log.lock().unwrap());
            }
        }
    }
}

/// Adds what a test need not say.
pub fn complete(config: &str) -> String {
    let mut text = String::new();
    if !config.contains("version =") {
        text.push_str("version = 1\n");
    }
    if config.contains("[server]") {
        assert!(config.contains("admin ="), "a [server] table of a test must name its admin address");
    } else {
        text.push_str("[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }\n");
    }
    if !config.contains("[[listener]]") {
        text.push_str("[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n");
    }
    text + config
}
