//! `websocat`, the client that people try a WebSocket server with: it sends no Origin.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::server::{TestServer, complete};
use crate::support::tls::Authority;
use crate::tools::{Output, Process, installed};

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = '/echo/'
handler = "echo"

[[route]]
name = "strict"
path = '/strict/'
handler = "echo"
no_origin = "refuse"

[[route]]
name = "tokens"
re_path = '^tokens/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
format = "text"
group = "tokens_{room_name}"
username = "{header.authorization}"
"#;

/// A running websocat.
struct Websocat {
    process: Process,
    out: Output,
    err: Output,
}

impl Websocat {
    fn start(server: &TestServer, path: &str) -> Self {
        let mut command = Command::new(installed("websocat/bin/websocat"));
        command
            .args(["-t", "-E", "-H=Authorization: Token x"])
            .arg(format!("ws://{}{path}", server.address()));
        Self::spawn(&mut command)
    }

    /// Connects over TLS, trusting this file of certificates only.
    fn start_tls(server: &TestServer, path: &str, ca: &Path) -> Self {
        let mut command = Command::new(installed("websocat/bin/websocat"));
        command.args(["-t", "-E", "-H=Authorization: Token x"]);
        command.arg(format!("wss://localhost:{}{path}", server.address().port())).env("SSL_CERT_FILE", ca);
        Self::spawn(command.env("SSL_CERT_DIR", "/nonexistent"))
    }

    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(command);
        let out = Process::collect(process.child().stdout.take().unwrap());
        let err = Process::collect(process.child().stderr.take().unwrap());
        Self { process, out, err }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.process.child().stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends its input, upon which it says goodbye.
    fn finish(&mut self) {
        drop(self.process.child().stdin.take());
        assert!(self.process.wait().success(), "{}", self.err.text());
    }
}

#[test]
fn websocat_with_a_token_is_answered_by_an_echo() {
    let server = TestServer::start(ROUTES);
    let mut websocat = Websocat::start(&server, "/echo/");
    websocat.say("hello");
    websocat.out.wait_for("hello\n");
    websocat.finish();
    server.wait_log(&["anteroom::close", "route=\"echo\"", "cause=\"client\""]);
    server.stop();
}

#[test]
fn websocat_gets_through_tls_if_it_trusts_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(&["localhost"]).write(folder.path(), "localhost");
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &authority.cert).unwrap();
    let other = folder.path().join("other.pem");
    fs::write(&other, Authority::new().cert).unwrap();
    let path = folder.path().join("routes.toml");
    let listener = "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
                    tls = [{ cert = \"localhost.pem\", key = \"localhost.key\" }]\n";
    fs::write(&path, complete(&format!("{listener}{ROUTES}"))).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let mut websocat = Websocat::start_tls(&server, "/echo/", &ca);
    websocat.say("hello");
    websocat.out.wait_for("hello\n");
    websocat.finish();
    server.wait_log(&["anteroom::close", "route=\"echo\"", "cause=\"client\""]);
    let mut distrustful = Websocat::start_tls(&server, "/echo/", &other);
    assert!(!distrustful.process.wait().success());
    server.stop();
}

#[test]
fn the_authorization_of_websocat_reaches_the_room() {
    let server = TestServer::start(ROUTES);
    let mut ann = Websocat::start(&server, "/tokens/lobby/");
    ann.out.wait_for("[Welcome Token x!]\n");
    let mut bob = server.try_connect("/tokens/lobby/", &[("Authorization", "Bearer y")]).unwrap();
    assert_eq!(bob.next_text(), "[Welcome Bearer y!]");
    ann.say("hi");
    ann.out.wait_for("Token x: hi\n");
    assert_eq!(bob.next_text(), "Token x: hi\n");
    bob.send_text("hello yourself");
    ann.out.wait_for("Bearer y: hello yourself\n");
    bob.close(1000);
    ann.finish();
    server.stop();
}

#[test]
fn a_route_may_refuse_clients_that_send_no_origin() {
    let server = TestServer::start(ROUTES);
    let mut websocat = Websocat::start(&server, "/strict/");
    assert!(!websocat.process.wait().success());
    server.wait_log(&["anteroom::handshake", "refused", "status=403", "reason=\"origin\""]);
    server.stop();
}
