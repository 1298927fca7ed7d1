//! Where the server listens: UNIX sockets, and sockets that a supervisor hands over.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::client::{Client, Frame, exchange, handshake};
use crate::support::server::{TestServer, complete};

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = '/echo/'
handler = "echo"

[[route]]
name = "whoami"
path = '/whoami/'
handler = "room"
format = "text"
username = "{client}"
welcome = "{username}"
"#;

const GET: &str = "GET /nothing/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn on_unix(folder: &TempDir, more: &str) -> String {
    let socket = folder.path().join("public.sock");
    format!("[[listener]]\nname = \"public\"\naddress = \"unix:{}\"\n{more}{ROUTES}", socket.display())
}

/// The name that the server gives the client of a handshake.
fn whoami(stream: UnixStream, headers: &[(&str, &str)]) -> String {
    Client::handshake_over(stream, &handshake("/whoami/", headers)).unwrap().next_text()
}

#[test]
fn a_unix_socket_is_served_with_its_mode_and_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("routes.toml"), folder.path().join("public.sock"));
    // What a process that was killed leaves behind.
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(&path, complete(&on_unix(&folder, "mode = \"0660\"\n"))).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    assert!(server.output().contains(&format!("public     http://unix:{}:/\n", socket.display())));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let mut client =
        Client::handshake_over(UnixStream::connect(&socket).unwrap(), &handshake("/echo/", &[])).unwrap();
    client.send_text("over a file");
    assert_eq!(client.next(), Frame::Text("over a file".to_owned()));
    assert_eq!(exchange(&mut UnixStream::connect(&socket).unwrap(), GET).status, 404);
    assert_eq!(whoami(UnixStream::connect(&socket).unwrap(), &[]), "unix");
    // Another server cannot have it, and leaves it alone.
    let second = Command::new(env!("CARGO_BIN_EXE_anteroom")).arg("-c").arg(&path).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(
        said.contains(&format!("listener `public` cannot listen on unix:{}", socket.display())),
        "{said}"
    );
    assert_eq!(exchange(&mut UnixStream::connect(&socket).unwrap(), GET).status, 404);
    client.close(1000);
    server.stop();
    assert!(!socket.exists());
}

#[test]
fn a_proxy_behind_a_unix_socket_is_believed_once_it_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("routes.toml"), folder.path().join("public.sock"));
    let trust = |proxies: &str| format!("[trust]\nproxies = [{proxies}]\nheaders = \"x-forwarded\"\n");
    let config = |proxies: &str| complete(&(trust(proxies) + &on_unix(&folder, "")));
    let (untrusted, trusted) = (config("\"127.0.0.1\""), config("\"unix\""));
    fs::write(&path, untrusted).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let forwarded = [("X-Forwarded-For", "203.0.113.7")];
    assert_eq!(whoami(UnixStream::connect(&socket).unwrap(), &forwarded), "unix");
    fs::write(&path, trusted).unwrap();
    server.wait_metric("anteroom_config_generation", 2.0);
    assert_eq!(whoami(UnixStream::connect(&socket).unwrap(), &forwarded), "203.0.113.7");
    server.stop();
}

/// Hands over the sockets as systemd does, then becomes the server.
const SUPERVISOR: &str = r#"
import os, socket, sys
folder, program, names = sys.argv[1], sys.argv[2], sys.argv[3]
tcp = socket.create_server(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind(folder + "/handed.sock")
unix.listen()
for at, one in enumerate((tcp, unix)):
    os.dup2(one.fileno(), 20 + at)
for at in range(2):
    os.dup2(20 + at, 3 + at, inheritable=True)
os.environ["LISTEN_FDS"] = "2"
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDNAMES"] = names
os.execv(program, [program, *sys.argv[4:]])
"#;

fn supervisor(folder: &TempDir, names: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", SUPERVISOR]).arg(folder.path()).arg(env!("CARGO_BIN_EXE_anteroom")).arg(names);
    command
}

#[test]
fn sockets_that_a_supervisor_hands_over_are_served_by_name_and_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("routes.toml"), folder.path().join("handed.sock"));
    let listeners = "[[listener]]\nname = \"web\"\naddress = \"fd:web\"\n\
         [[listener]]\nname = \"local\"\naddress = \"fd:1\"\n";
    fs::write(&path, complete(&format!("{listeners}{ROUTES}"))).unwrap();
    let mut command = supervisor(&folder, "web:other");
    command.arg("-c").arg(&path);
    let mut server = TestServer::spawn(command, folder);
    server.connect("/echo/").close(1000);
    assert_eq!(exchange(&mut UnixStream::connect(&socket).unwrap(), GET).status, 404);
    server.signal(Signal::TERM);
    assert!(server.wait_exit().success());
    // Its file is the supervisor's.
    assert!(socket.exists());
}

#[test]
fn a_socket_that_was_not_handed_over_is_a_start_error() {
    let cases = [
        ("fd:admin", "none of the 2 sockets handed over has this name or number"),
        ("fd:2", "none of the 2 sockets handed over has this name or number"),
    ];
    for (address, why) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.toml");
        let listener = format!("[[listener]]\nname = \"web\"\naddress = \"{address}\"\n");
        fs::write(&path, complete(&format!("{listener}{ROUTES}"))).unwrap();
        let output = supervisor(&folder, "web:local").arg("-c").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("cannot listen on {address}: {why}")), "{said}");
        // Without a supervisor there are none.
        let output = Command::new(env!("CARGO_BIN_EXE_anteroom")).arg("-c").arg(&path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no socket was handed over (LISTEN_FDS)"), "{said}");
    }
}

#[test]
fn the_command_line_replaces_an_address_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    fs::write(&path, complete(&on_unix(&folder, ""))).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_anteroom")).arg("-c").arg(&path).args(["-p", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("has no address and port to replace"));
}

#[test]
fn one_address_has_twice_as_many_connections_as_sockets() {
    let limits = "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }\n\
         limits = { per_ip = 2 }\n";
    let server = TestServer::start(&format!("{limits}{ROUTES}"));
    let dial = |from: &str| crate::support::client::dial_from(from.parse().unwrap(), server.address());
    let mut open: Vec<_> = (0..4).map(|_| dial("127.0.0.2")).collect();
    server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 4.0);
    assert_eq!(exchange(&mut dial("127.0.0.3"), GET).status, 404);
    let refused = "anteroom_tcp_connections_refused_total{listener=\"public\",reason=\"per_ip\"}";
    assert_eq!(server.metric(refused), 0.0);
    let mut unserved = dial("127.0.0.2");
    assert_eq!(crate::support::client::read_head(&mut unserved).0.status, 0);
    server.wait_metric(refused, 1.0);
    // Whoever leaves makes room.
    open.pop();
    server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 3.0);
    assert_eq!(exchange(&mut dial("127.0.0.2"), GET).status, 404);
    // A trusted proxy speaks for many. The limit is live, as is who is trusted.
    let trust = "[trust]\nproxies = [\"127.0.0.2\"]\nheaders = \"x-forwarded\"\n";
    server.write_config(&format!("{limits}{trust}{ROUTES}"));
    server.wait_metric("anteroom_config_generation", 2.0);
    open.extend((0..4).map(|_| dial("127.0.0.2")));
    server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 7.0);
    server.stop();
}

#[test]
fn a_port_in_use_still_stops_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    let address = taken.local_addr().unwrap();
    let socket = folder.path().join("first.sock");
    let listeners = format!(
        "[[listener]]\nname = \"first\"\naddress = \"unix:{}\"\n[[listener]]\nname = \"second\"\naddress = \"{address}\"\n",
        socket.display()
    );
    fs::write(&path, complete(&format!("{listeners}{ROUTES}"))).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_anteroom")).arg("-c").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    // What was bound before is taken back.
    assert!(!socket.exists());
}
