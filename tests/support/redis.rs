//! A real Redis server for a test.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::FromRedisValue;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::tls::Authority;

/// A `redis-server` process without persistence, on a port of its own. It ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    /// Where it may keep a file, as a replica does.
    folder: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more options on its command line.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::start_as(|server| {
            server.options = options.iter().map(|&option| option.to_owned()).collect();
        })
        .await
    }

    /// Starts a Sentinel that watches over a master called `m`, which is away after a second.
    pub async fn start_sentinel(master: &Self) -> Self {
        let watched = master.port;
        let sentinel = Self::start_as(|server| {
            let config = server.folder.path().join("sentinel.conf");
            let lines = [
                format!("sentinel monitor m 127.0.0.1 {watched} 1"),
                "sentinel down-after-milliseconds m 1000".to_owned(),
                "sentinel failover-timeout m 4000".to_owned(),
            ];
            std::fs::write(&config, lines.join("\n")).unwrap();
            // It writes into its file, which comes first.
            server.options = vec![config.display().to_string(), "--sentinel".to_owned()];
        })
        .await;
        assert_eq!(sentinel.ask::<Vec<String>>("SENTINEL GET-MASTER-ADDR-BY-NAME m")[1], watched.to_string());
        sentinel
    }

    /// Waits until this Sentinel could promote the replica on a port.
    pub async fn knows(&self, replica: u16) {
        let port = replica.to_string();
        eventually("the Sentinel knows the replica", || {
            let replicas: Vec<HashMap<String, String>> = self.ask("SENTINEL REPLICAS m");
            replicas.iter().any(|replica| {
                replica["port"] == port
                    && replica["flags"] == "slave"
                    && replica["master-link-status"] == "ok"
            })
        })
        .await;
    }

    async fn start_as(set: impl Fn(&mut Self)) -> Self {
        // Someone else may be faster to take a port that was free a moment ago.
        for _ in 0..5 {
            let mut server = Self::stopped();
            set(&mut server);
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// The answer to a command.
    pub fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        command.query(&mut connection).unwrap()
    }

    /// A port where nothing listens until [`RedisServer::restart`].
    pub fn stopped() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { port: free_port(), options: Vec::new(), folder, process: None }
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
        let mut command = Command::new("redis-server");
        if !self.options.contains(&"--sentinel".to_owned()) {
            // A replica has what there is at once.
            command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
        }
        let process = command
            .args(&self.options)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .arg("--dir")
            .arg(self.folder.path())
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

/// A server that speaks TLS, too, with the files of its authority (`ca.pem`), of another one (`other.pem`) and of
/// a client (`client.pem`, `client.key`).
#[derive(Debug)]
pub struct TlsRedis {
    pub folder: TempDir,
    pub server: RedisServer,
    port: u16,
}

impl TlsRedis {
    /// Starts with a certificate for these names. Clients show theirs if `clients` says `yes`.
    pub async fn start(names: &[&str], clients: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, other) = (Authority::new(), Authority::new());
        std::fs::write(folder.path().join("ca.pem"), &authority.cert).unwrap();
        std::fs::write(folder.path().join("other.pem"), &other.cert).unwrap();
        authority.issue(names).write(folder.path(), "redis");
        authority.issue_client("edge").write(folder.path(), "client");
        let port = free_port();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let server = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &at("redis.pem"),
            "--tls-key-file",
            &at("redis.key"),
            "--tls-ca-cert-file",
            &at("ca.pem"),
            "--tls-auth-clients",
            clients,
        ])
        .await;
        Self { folder, server, port }
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}/0", self.port)
    }
}

/// A Redis Cluster of three masters with a third of the slots each, and a replica of the first.
#[derive(Debug)]
pub struct RedisCluster {
    pub masters: Vec<RedisServer>,
    pub replica: RedisServer,
}

impl RedisCluster {
    /// Starts the nodes and waits until all of them see all slots. A node is away after a second.
    pub async fn start() -> Self {
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let bus = free_port();
            nodes.push(
                RedisServer::start_as(|server| {
                    let words =
                        ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port"];
                    server.options = words.map(ToOwned::to_owned).to_vec();
                    server.options.push(bus.to_string());
                })
                .await,
            );
            buses.push(bus);
        }
        for (number, node) in nodes.iter().enumerate() {
            // Before any of them has met another.
            let () = node.ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1));
        }
        for node in &nodes {
            for (other, bus) in nodes.iter().zip(&buses) {
                let () = node.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port));
            }
        }
        let replica = nodes.pop().unwrap();
        let thirds = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
        for (node, (first, last)) in nodes.iter().zip(thirds) {
            let () = node.ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
        }
        let cluster = Self { masters: nodes, replica };
        let all = || cluster.masters.iter().chain([&cluster.replica]);
        eventually("the nodes have met", || {
            all().all(|node| node.ask::<String>("CLUSTER INFO").contains("cluster_known_nodes:4"))
        })
        .await;
        let first: String = cluster.masters[0].ask("CLUSTER MYID");
        let () = cluster.replica.ask(&format!("CLUSTER REPLICATE {first}"));
        cluster.is_whole().await;
        eventually("the replica follows", || {
            cluster.replica.ask::<String>("INFO replication").contains("master_link_status:up")
                && cluster.masters.iter().all(|node| {
                    node.ask::<String>("CLUSTER NODES").lines().any(|node| node.contains(" slave "))
                })
        })
        .await;
        cluster
    }

    /// Waits until all nodes that run see all slots.
    pub async fn is_whole(&self) {
        eventually("the cluster is whole", || {
            let mut nodes = self.masters.iter().chain([&self.replica]).filter(|node| node.process.is_some());
            nodes.all(|node| node.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"))
        })
        .await;
    }
}

/// A port where nothing listens.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0; 1];
    // `+PONG`, or an error that asks for the password.
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok()
}
