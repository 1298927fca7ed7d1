//! What is measured: nginx and anteroom with the same routes, on a processor of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::handshake;
use crate::http;
use crate::support::client::Endpoint;
use crate::support::process::{Process, SETTLE, free_addresses, sleep};
use crate::support::usage::{Processors, Usage};
use crate::support::{anteroom, certificate};

/// The path that a server answers out of its configuration, and that of a file.
pub(crate) const FIXED: &str = "/fixed";
pub(crate) const STATIC: &str = "/static/page.html";
const FILE: &str = "page.html";

const END_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Anteroom,
}

/// The programs that may be started.
#[derive(Debug)]
pub(crate) struct Programs<'a> {
    pub(crate) nginx: &'a Path,
    pub(crate) nginx_threads: bool,
    pub(crate) anteroom: &'a Path,
}

/// A running server. It is ended when this is dropped.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    process: Process,
    pub(crate) endpoint: Endpoint,
    /// The same server through TLS.
    pub(crate) secure: Endpoint,
    _directory: TempDir,
}

impl Kind {
    /// What anteroom is measured beside.
    pub(crate) const BESIDE: Self = Self::Nginx;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Anteroom => "anteroom",
        }
    }
}

impl Target {
    /// Starts a server and waits until it accepts.
    pub(crate) fn start(
        kind: Kind,
        programs: &Programs<'_>,
        upstream: SocketAddr,
        processors: Option<Processors>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let [address, secure, admin] = free_addresses()?;
        let roots = certificate::write(directory.path(), secure)?;
        fs::create_dir(directory.path().join("public"))?;
        fs::write(directory.path().join("public").join(FILE), http::body(http::LARGE_LEN))?;
        let mut command = match kind {
            Kind::Nginx => {
                let file = directory.path().join("nginx.conf");
                fs::write(&file, nginx_conf(address, secure, upstream, programs.nginx_threads))?;
                let mut command = Command::new(programs.nginx);
                command.arg("-e").arg("stderr").arg("-p").arg(directory.path()).arg("-c").arg(file);
                command
            }
            Kind::Anteroom => {
                let tables = tables(address, secure, upstream);
                anteroom::command(programs.anteroom, directory.path(), admin, &tables)?
            }
        };
        let mut process = Process::start(&mut command, directory.path().join("log"), processors)?;
        process.wait_until_up(&[address, secure]).with_context(|| format!("{kind:?} did not come up"))?;
        let endpoint = Endpoint { address, tls: None };
        let secure = Endpoint { address: secure, tls: Some(Arc::new(handshake::config(roots)?)) };
        Ok(Self { kind, process, endpoint, secure, _directory: directory })
    }

    /// The time used up to now by all processes of the server, once it has settled.
    pub(crate) fn usage(&self) -> Result<Usage> {
        sleep(SETTLE);
        let main = self.process.id();
        let workers = fs::read_to_string(format!("/proc/{main}/task/{main}/children"))
            .context("the kernel tells no children (CONFIG_PROC_CHILDREN)")?;
        let mut processes = vec![main];
        for worker in workers.split_whitespace() {
            processes.push(worker.parse()?);
        }
        Usage::read(&processes)
    }

    /// What the server wrote, for the message of a failed run.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Lets nginx end its worker, which would outlive it.
    fn ask_to_end(&mut self) -> Result<()> {
        let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) else { return Ok(()) };
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + END_MAX;
        while !self.process.has_ended()? && Instant::now() < deadline {
            sleep(SETTLE);
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        if self.kind == Kind::Nginx {
            self.ask_to_end().ok();
        }
    }
}

/// One worker, and what an application behind nginx is usually told.
fn nginx_conf(address: SocketAddr, secure: SocketAddr, upstream: SocketAddr, threads: bool) -> String {
    let aio = if threads { "threads" } else { "off" };
    let fixed = String::from_utf8_lossy(&http::body(http::SMALL_LEN)).into_owned();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;

events {{
    worker_connections 10000;
}}

http {{
    aio {aio};
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type text/html;
    keepalive_requests 1000000000;

    upstream app {{
        server {upstream};
        keepalive 128;
        keepalive_requests 1000000000;
    }}

    map $http_upgrade $connection_header {{
        default upgrade;
        ""      "";
    }}

    server {{
        listen {address} backlog=1024;
        listen {secure} ssl backlog=1024;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;

        location = {FIXED} {{
            return 200 "{fixed}";
        }}

        location /static/ {{
            alias public/;
            sendfile on;
        }}

        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_header;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"#
    )
}

fn tables(address: SocketAddr, secure: SocketAddr, upstream: SocketAddr) -> String {
    let fixed = String::from_utf8_lossy(&http::body(http::SMALL_LEN)).into_owned();
    format!(
        r#"[[listener]]
name = "clear"
address = "{address}"

[[listener]]
name = "secure"
address = "{secure}"
tls = [{{ cert = "cert.pem", key = "key.pem" }}]

[upstream.app]
servers = ["http://{upstream}"]

[[route]]
name = "fixed"
path = '{FIXED}'
handler = "respond"
body = "{fixed}"
headers = {{ content-type = "text/html" }}

[[route]]
name = "static"
path = '/static/(?P<path>.*)'
handler = "static"
root = "public"

[[route]]
name = "app"
path = '/.*'
handler = "proxy"
upstream = "app"
"#
    )
}
