//! A real Redis server for a test.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::eventually;

/// A `redis-server` process without persistence, on a port of its own. It ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more options on its command line.
    pub async fn start_with(options: &[&str]) -> Self {
        // Someone else may be faster to take a port that was free a moment ago.
        for _ in 0..5 {
            let mut server = Self::stopped();
            server.options = options.iter().map(|&option| option.to_owned()).collect();
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// A port where nothing listens until [`RedisServer::restart`].
    pub fn stopped() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, options: Vec::new(), process: None }
    }

    /// Starts the server on its port.
    pub async fn restart(&mut self) {
        assert!(self.launch().await, "redis-server does not start again on port {}", self.port);
    }

    /// Ends the server at once, without a farewell.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Freezes the server: connections stay open and nothing answers.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the process; says whether it lives and answers.
    async fn launch(&mut self) -> bool {
        self.kill();
        let port = self.port;
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir", "/tmp"])
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed");
        let process = self.process.insert(process);
        let mut ended = false;
        eventually("redis-server answers or ends", || {
            let answers = answers(port);
            ended = process.try_wait().unwrap().is_some();
            ended || answers
        })
        .await;
        !ended
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.process.as_ref().expect("the server runs"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0; 1];
    // `+PONG`, or an error that asks for the password.
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok()
}
