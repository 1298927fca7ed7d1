//! The clients that people use, through TLS: curl, Python, Node, a browser.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::application::{Application, Reply};
use crate::support::server::{TestServer, complete};
use crate::support::tls::Authority;
use crate::support::wait_within;
use crate::tools::{installed, script};
use crate::webdriver::Browser;

const ROUTES: &str = r#"
[defaults]
hosts = ["localhost", "app.example"]

[[route]]
name = "echo"
path = '/echo/'
handler = "echo"
subprotocols = ["chat"]
max_message = "300KiB"

[[route]]
name = "limited"
path = '/limited/'
handler = "echo"
rate = { messages = 1, per = "1h", burst = 3 }

[[route]]
name = "room"
re_path = '^room/(?P<room_name>[a-z]{1,64})/$'
handler = "room"
group = "room_{room_name}"
receive = { type = "chat.message", pick = ["message"] }
deliver = { "chat.message" = { pick = ["message"] } }

[[route]]
name = "page"
path = '/page'
handler = "respond"
body = "the page\n"

[[route]]
name = "app"
path = '/app/.*'
handler = "proxy"
upstream = "app"

[[route]]
name = "small"
path = '/small/.*'
handler = "proxy"
upstream = "app"
max_body = "1MiB"
"#;

/// A server with a certificate for `localhost`, an application behind it that counts what it is sent, and a folder
/// with the authority that clients are to trust.
struct Site {
    server: TestServer,
    application: Application,
    folder: TempDir,
}

impl Site {
    fn start() -> Self {
        let application =
            Application::start(|seen| Reply::ok(&format!("{} {}", seen.target(), seen.body.len())));
        let behind = format!("[upstream.app]\nservers = [\"http://{}\"]\n", application.address);
        let (server, folder) = with_tls(&format!("{behind}{ROUTES}"), "");
        Self { server, application, folder }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.address().port())
    }

    /// curl's answer, with `VERSION STATUS` on a line behind the body.
    fn curl(&self, args: &[&str]) -> String {
        let output = self.run_curl(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn run_curl(&self, args: &[&str]) -> Output {
        let mut command = Command::new("/usr/bin/curl");
        command.args(["-sS", "--max-time", "30", "-w", "\n%{http_version} %{http_code}", "--cacert"]);
        command.arg(self.authority()).args(args);
        command.output().unwrap()
    }
}

/// A TLS listener with this configuration; the folder has `authority.pem`.
fn with_tls(config: &str, more: &str) -> (TestServer, TempDir) {
    let (own, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new();
    fs::write(folder.path().join("authority.pem"), &authority.cert).unwrap();
    authority.issue(&["localhost"]).write(own.path(), "site");
    let path = own.path().join("routes.toml");
    let listener = format!(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         tls = [{{ cert = \"site.pem\", key = \"site.key\" }}]\n{more}\n"
    );
    fs::write(&path, complete(&(listener + config))).unwrap();
    (TestServer::start_at(own, &path, &[]), folder)
}

fn assert_all_hold(mut command: Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim() == "all hold",
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn curl_speaks_both_versions_and_is_told_what_is_wrong() {
    let site = Site::start();
    let large = site.folder.path().join("large");
    fs::write(&large, vec![b'x'; 5 << 20]).unwrap();
    let upload = format!("@{}", large.display());
    let (page, app, small) = (site.url("/page"), site.url("/app/up"), site.url("/small/up"));
    let cases: &[(&[&str], &str)] = &[
        (&["--http1.1", &page], "the page\n\n1.1 200"),
        (&["--http2", &page], "the page\n\n2 200"),
        (&["--http2", "--tls-max", "1.2", &page], "the page\n\n2 200"),
        (&["--tlsv1.3", &page], "the page\n\n2 200"),
        // Over HTTP/1.1 curl waits for a 100 first, here for as long as it may take in all.
        (
            &["--http1.1", "--expect100-timeout", "60", "--data-binary", &upload, &app],
            "/app/up 5242880\n1.1 200",
        ),
        (&["--http2", "--data-binary", &upload, &app], "/app/up 5242880\n2 200"),
        (&["--http1.1", "-H", "Transfer-Encoding: chunked", "-d", "abc", &app], "/app/up 3\n1.1 200"),
        (&["--http2", "-H", "Host: app.example", "-o", "/dev/null", &page], "\n2 421"),
        (&["--http1.1", "-H", "Host: app.example", "-o", "/dev/null", &page], "\n1.1 421"),
        (&["--http2", "-o", "/dev/null", &site.url("/echo/")], "\n2 426"),
    ];
    for (args, expected) in cases {
        assert_eq!(site.curl(args), *expected, "{args:?}");
    }
    for version in ["--http1.1", "--http2"] {
        let refused = site.curl(&[version, "--data-binary", &upload, &small]);
        assert!(refused.starts_with("too_large: ") && refused.ends_with(" 413"), "{refused}");
        let head = site.curl(&[version, "-I", &page]);
        assert!(head.contains("content-length: 9") && head.ends_with(" 200"), "{head}");
    }
    assert_eq!(site.application.take().iter().filter(|seen| seen.target() == "/small/up").count(), 0);
    let stranger = Command::new("/usr/bin/curl").args(["-sS", &page]).output().unwrap();
    assert_eq!(stranger.status.code(), Some(60), "an unknown authority: {stranger:?}");
    site.server.stop();
}

#[test]
fn python_clients_hold_what_they_hold_in_clear() {
    let site = Site::start();
    let mut command = Command::new(installed("channels/bin/python"));
    command.arg(script("python/tls_clients.py"));
    command.arg(site.server.address().port().to_string()).arg(site.authority());
    assert_all_hold(command);
    site.server.stop();
}

#[test]
fn node_clients_hold_over_either_version() {
    let site = Site::start();
    let mut command = Command::new("node");
    command.arg(script("node/tls_clients.js"));
    command.arg(site.server.address().port().to_string()).arg(site.authority());
    command.arg(installed("node/node_modules"));
    assert_all_hold(command);
    site.server.wait_log(&["accepted", "route=\"echo\"", "http=HTTP/2.0"]);
    site.server.wait_log(&["accepted", "route=\"echo\"", "http=HTTP/1.1"]);
    site.server.stop();
}

/// The built-in page in a browser: over HTTP/2 or 1.1, its WebSocket by the same.
fn chromium_chats(http2: bool) {
    let demo = include_str!("../../src/cli/demo.toml");
    // Without its listener, which has no TLS.
    let (_, routes) = demo.split_once("address = \"127.0.0.1:8000\"").unwrap();
    let (mut server, _folder) = with_tls(routes, if http2 { "" } else { "http2 = false" });
    let browser = Browser::start_with(&["--ignore-certificate-errors"]);
    let url = format!("https://localhost:{}/", server.address().port());
    let tabs = [browser.open(&url), browser.open(&url)];
    let shows = |selector: &str, text: &str| {
        for tab in &tabs {
            browser.look_at(tab);
            let what = format!("{selector} shows {text:?}");
            wait_within(Duration::from_secs(40), &what, || browser.text(selector).contains(text));
        }
    };
    shows("#state", "connected");
    browser.look_at(&tabs[0]);
    browser.type_into("#message", "hello through TLS\u{E007}");
    shows("#log", "guest: hello through TLS");
    let version = if http2 { "http=HTTP/2.0" } else { "http=HTTP/1.1" };
    let log = server.log();
    let accepted: Vec<_> = log.lines().filter(|line| line.contains("accepted")).collect();
    assert_eq!(accepted.len(), 2, "{log}");
    assert!(accepted.iter().all(|line| line.contains(version)), "{accepted:?}");
    if http2 {
        // Both pages and both sockets are streams of one connection.
        let connections: Vec<_> = accepted.iter().map(|line| word(line, "conn=")).collect();
        assert_eq!(connections[0], connections[1], "{accepted:?}");
    }
    server.signal(Signal::TERM);
    // With 1012 at first; the page's attempts to come back fail with a code of their own.
    shows("#state", "closed (10");
    drop(browser);
    assert!(server.wait_exit().success());
    let closes =
        server.log().lines().filter(|line| line.contains("closed") && line.contains("code=1012")).count();
    assert_eq!(closes, 2, "{}", server.log());
}

/// The word of a log line that begins so.
fn word<'a>(line: &'a str, start: &str) -> &'a str {
    line.split(' ').find(|word| word.starts_with(start)).unwrap()
}

#[test]
fn chromium_has_page_and_sockets_on_one_connection_of_http_2() {
    chromium_chats(true);
}

#[test]
fn chromium_chats_over_http_1_where_http_2_is_off() {
    chromium_chats(false);
}
