//! What happens when the process may open few files, or no more.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use rustix::process::{Resource, Rlimit, prlimit};

use crate::support::application::{Application, Reply};
use crate::support::client::{Client, dial, exchange};
use crate::support::server::{TestServer, complete};
use crate::support::{pause, wait_until};

const ROUTES: &str = "[[route]]\nname = \"echo\"\npath = \"/echo/\"\nhandler = \"echo\"\n";
const REFUSED_LIMIT: &str = r#"anteroom_tcp_connections_refused_total{listener="public",reason="limit"}"#;
const ACCEPT_ERRORS: &str =
    r#"anteroom_tcp_connections_refused_total{listener="public",reason="accept_error"}"#;

/// A server that may have so many files open.
fn start(files_max: usize) -> TestServer {
    start_with(files_max, ROUTES)
}

fn start_with(files_max: usize, routes: &str) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.toml"), complete(routes)).unwrap();
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {files_max}; exec \"$0\" -c routes.toml");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_anteroom")]);
    TestServer::spawn(command, folder)
}

/// What a process has in `/proc`.
fn proc(server: &TestServer, name: &str) -> String {
    format!("/proc/{}/{name}", server.pid().as_raw_nonzero())
}

/// Processor time of a process, in clock ticks of 10 ms.
fn cpu_ticks(server: &TestServer) -> u64 {
    let stat = fs::read_to_string(proc(server, "stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // The 14th and 15th of all fields, of which the first two are cut off.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn wait_served(server: &TestServer) {
    wait_until("a new socket is served", || {
        Client::connect(server.address(), "/echo/", &[]).is_ok_and(|mut client| {
            client.send_text("hello");
            client.next_text() == "hello"
        })
    });
}

#[test]
fn connections_leave_the_rest_of_the_process_its_descriptors() {
    let server = start(256);
    let crowd: Vec<_> = (0..300).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    wait_until("all are accepted or refused", || {
        let metrics = server.metrics();
        let accepted = metrics[r#"anteroom_tcp_connections_accepted_total{listener="public"}"#];
        100.0 < accepted && accepted + metrics[REFUSED_LIMIT] == 300.0
    });
    assert_eq!(server.metric(ACCEPT_ERRORS), 0.0);
    // A quarter is kept, of which this request has one.
    assert!(fs::read_dir(proc(&server, "fd")).unwrap().count() <= 256 - 60);
    assert_eq!(server.admin("/healthz").status, 200);
    server.write_config(&ROUTES.replace("\"echo\"\npath", "\"other\"\npath"));
    server.wait_metric("anteroom_config_generation", 2.0);
    drop(crowd);
    wait_served(&server);
    server.stop();
}

#[test]
fn connections_to_applications_leave_them_too() {
    let application = Application::start(|_| Reply::Silence);
    let routes = format!(
        "[upstream.app]\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"app\"\n",
        application.address
    );
    let server = start_with(256, &routes);
    // Each has a descriptor, and one of its request to the application.
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let mut client = dial(server.address());
            // One that is refused may be gone already.
            client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap_or_default();
            client
        })
        .collect();
    wait_until("all are refused or wait for the application", || {
        let metrics = server.metrics();
        let busy = metrics.get("anteroom_http_requests_total{code=\"503\",route=\"site\"}");
        let waiting = metrics["anteroom_upstream_inflight_requests{upstream=\"app\"}"];
        0.0 < waiting && busy.unwrap_or(&0.0) + waiting + metrics[REFUSED_LIMIT] == 200.0
    });
    assert_eq!(server.metric(ACCEPT_ERRORS), 0.0);
    assert!(fs::read_dir(proc(&server, "fd")).unwrap().count() <= 256 - 60);
    assert_eq!(server.admin("/healthz").status, 200);
    server.write_config(&routes.replace("name = \"site\"", "name = \"other\""));
    server.wait_metric("anteroom_config_generation", 2.0);
    drop(crowd);
    server.stop();
}

#[test]
fn without_descriptors_accepting_backs_off_and_goes_on_once_there_are_some() {
    let server = start(256);
    let mut first = server.connect("/echo/");
    let open = fs::read_dir(proc(&server, "fd")).unwrap().count() as u64;
    // Something else in the process, or the operator, has taken what was kept.
    let few = Rlimit { current: Some(open + 8), maximum: Some(256) };
    prlimit(Some(server.pid()), Resource::Nofile, few).unwrap();
    let crowd: Vec<_> = (0..64).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    server.wait_log(&["cannot accept", "pause_ms=160"]);
    let before = cpu_ticks(&server);
    pause(std::time::Duration::from_secs(1));
    let spent = cpu_ticks(&server) - before;
    assert!(spent < 20, "{spent} ticks of 10 ms in one second of waiting");
    first.send_text("still here");
    assert_eq!(first.next_text(), "still here");

    drop(crowd);
    wait_served(&server);
    assert!(0.0 < server.metric(ACCEPT_ERRORS));
    drop(first);
    server.stop();
}

#[test]
fn a_server_without_descriptors_blames_no_application() {
    let applications = [(); 2].map(|()| Application::start(|_| Reply::ok("answer")));
    let [one, other] = applications.each_ref().map(|application| format!("http://{}", application.address));
    let server = start_with(
        256,
        &format!(
            "[upstream.app]\nservers = [\"{one}\", \"{other}\"]\nkeepalive = 0\n\
             health = {{ path = \"/\", every = \"50ms\" }}\n\
             [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"app\"\n"
        ),
    );
    let get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut client = dial(server.address());
    assert_eq!(exchange(&mut client, get).status, 200);
    let limit = |files: u64| {
        let files = Rlimit { current: Some(files), maximum: Some(256) };
        prlimit(Some(server.pid()), Resource::Nofile, files).unwrap();
    };
    // Nothing can be opened any more, for the lower numbers are taken.
    let shortages = |kind: &str| {
        let labels = format!(r#"kind="{kind}",result="shortage",upstream="app""#);
        server.metric(&format!("anteroom_upstream_requests_total{{{labels}}}"))
    };
    wait_until("requests and checks run into it", || {
        limit(3);
        assert_eq!(exchange(&mut client, get).status, 503);
        // A check is due meanwhile.
        pause(std::time::Duration::from_millis(60));
        limit(256);
        1.0 < shortages("http").min(shortages("health"))
    });
    let metrics = server.metrics();
    for kind in ["http", "health"] {
        let labels = format!(r#"kind="{kind}",result="error",upstream="app""#);
        assert_eq!(metrics[&format!("anteroom_upstream_requests_total{{{labels}}}")], 0.0, "{kind}");
    }
    for address in [one, other] {
        let labels = format!(r#"server="{address}",upstream="app""#);
        assert_eq!(metrics[&format!("anteroom_upstream_server_up{{{labels}}}")], 1.0, "{address}");
    }
    assert_eq!(exchange(&mut client, get).status, 200);
    server.stop();
}
