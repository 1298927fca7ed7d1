//! What a socket is promised, whichever way it came: HTTP/1.1 in clear, over TLS, or HTTP/2.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::server::{TestServer, complete};
use crate::support::tls::Authority;
use crate::support::wait_until;
use crate::tools::{between, script};
use crate::webdriver::Browser;

/// Three ways in: HTTP/1.1 in clear, HTTP/1.1 over TLS, HTTP/2.
const LISTENERS: &str = r#"
[[listener]]
name = "plain"
address = "127.0.0.1:0"

[[listener]]
name = "tls"
address = "127.0.0.1:0"
tls = [{ cert = "localhost.pem", key = "localhost.key" }]
http2 = false

[[listener]]
name = "http2"
address = "127.0.0.1:0"
tls = [{ cert = "localhost.pem", key = "localhost.key" }]
"#;

/// The names of the ways and what they speak, as the log has it and as a browser has it.
const WAYS: [(&str, &str, &str); 3] =
    [("plain", "HTTP/1.1", "http/1.1"), ("tls", "HTTP/1.1", "http/1.1"), ("http2", "HTTP/2.0", "h2")];

const PAGE: &str = "<!doctype html><title>page</title>";

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = '/echo/'
handler = "echo"

[[route]]
name = "rate"
path = '/rate/'
handler = "echo"
rate = { messages = 5, per = "1h" }

[[route]]
name = "pinged"
path = '/pinged/'
handler = "echo"
ping = { every = "100ms", timeout = "2s" }

[[route]]
name = "protocol"
path = '/protocol/'
handler = "echo"
subprotocols = ["chat"]

[[route]]
name = "room"
path = '/room/'
handler = "room"
format = "raw"
group = "room"

[[route]]
name = "page"
path = '/page'
handler = "respond"
body = "<!doctype html><title>page</title>"
headers = { content-type = "text/html" }
"#;

/// A server with all three ways in.
struct Site {
    server: TestServer,
}

impl Site {
    fn start(authority: &Authority, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority.issue(&["localhost"]).write(folder.path(), "localhost");
        fs::write(folder.path().join("ca.pem"), &authority.cert).unwrap();
        let path = folder.path().join("routes.toml");
        fs::write(&path, complete(&format!("{more}{LISTENERS}{ROUTES}"))).unwrap();
        Self { server: TestServer::start_at(folder, &path, &[]) }
    }

    /// What the authority's certificate is in.
    fn ca(&self) -> PathBuf {
        self.server.folder().join("ca.pem")
    }

    /// The address of a way as clients are given it.
    fn url(&self, way: usize) -> String {
        let scheme = if way == 0 { "http" } else { "https" };
        format!("{scheme}://localhost:{}", self.server.addresses[way].port())
    }

    fn opened(&self, way: usize) -> f64 {
        let (name, _, _) = WAYS[way];
        self.server.metric(&format!("anteroom_tcp_connections_accepted_total{{listener=\"{name}\"}}"))
    }
}

/// A client that has a minute.
fn client(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/usr/bin/timeout");
    command.arg("60").arg(program).stdin(Stdio::null());
    command
}

/// Runs a client to its end; what it wrote to standard output and to standard error.
fn run(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    (out, err)
}

#[test]
fn promises_are_the_same_over_http_1_tls_and_http_2() {
    const PER_IP: usize = 2;
    let authority = Authority::new();
    let site = Site::start(&authority, "");
    let more = format!(
        "[server]\nadmin = \"127.0.0.1:0\"\ndrain = {{ grace = \"0s\", shutdown = \"0s\" }}\n\
         limits = {{ per_ip = {PER_IP} }}\n"
    );
    let few = Site::start(&authority, &more);
    let ways: serde_json::Map<_, _> = WAYS
        .iter()
        .enumerate()
        .map(|(way, (name, version, _))| {
            let version = if *version == "HTTP/2.0" { 2 } else { 1 };
            ((*name).to_owned(), json!({ "url": site.url(way), "few": few.url(way), "version": version }))
        })
        .collect();
    let settings = json!({ "ca": authority.cert, "ways": ways, "few_per_ip": PER_IP });
    let (seen, _) = run(client("node").arg(script("node/claims.js")).arg(settings.to_string()));
    let seen: Value = serde_json::from_str(&seen).unwrap();

    let truth = json!({
        "text comes back": "hello \u{1f680}",
        "bytes come back": "true",
        "60 KiB come back": "true",
        "1000 messages come back in order": "1000",
        "fragments are put together, with a ping between": "between, one two three",
        "close 1000": "1000",
        "close 4001": "4001",
        "close without a code": "1005",
        "a frame without a mask": "1002",
        "a reserved bit": "1002",
        "text that is not UTF-8": "1007",
        "a message above max_message": "1009",
        "more than rate allows": "1008",
        "pings are answered": "alive",
        "pings are not answered": "1001",
        "a subprotocol that is spoken": "chat",
        "one that is not": "400 subprotocol",
        "its own origin": "1000",
        "a foreign origin": "403 origin",
        "the origin with another port": "403 origin",
        "no such route": "404 no_route",
        "a route of plain requests": "404 no_route",
        "another version": "426 version",
        "a plain request to a socket's route": "426 upgrade_required",
        "a plain request": format!("200 {PAGE}"),
        "more sockets than limits.per_ip": "429 per_ip, 1000, 1000, 1000",
    });
    for (way, version, _) in WAYS {
        assert_eq!(seen[way], truth, "{way}");
        let listener = format!("listener=\"{way}\"");
        site.server.wait_log(&["accepted", &listener, version, "route=\"echo\""]);
        few.server.wait_log(&["refused", &listener, version, "status=429", "reason=\"per_ip\""]);
    }
    assert_eq!(seen["room"], "all");
    // All that was asked for over HTTP/2 went through one connection.
    assert_eq!((site.opened(2), few.opened(2)), (1.0, 1.0));
    site.server.stop();
    few.server.stop();
}

#[test]
fn promises_hold_in_a_session_that_curl_resumes() {
    let site = Site::start(&Authority::new(), "");
    let url = format!("{}/page", site.url(1));
    for tls in ["1.2", "1.3"] {
        // Two connections of one curl.
        let mut curl = client("/usr/bin/curl");
        curl.args(["-sSv", "-4", "--http1.1", "--tls-max", tls, "-H", "Connection: close", "--cacert"]);
        let (out, err) = run(curl.arg(site.ca()).args([&url, &url]));
        assert_eq!(out, PAGE.repeat(2), "{err}");
        assert_eq!(err.matches(&format!("SSL connection using TLSv{tls}")).count(), 2, "{err}");
        assert_eq!(err.matches("SSL re-using session ID").count(), 1, "{err}");
    }
    site.server.stop();
}

/// What a page can find out about sockets; the other server is of another origin.
const IN_THE_PAGE: &str = r#"
    const [other, done] = arguments;
    const own = location.origin.replace("http", "ws");
    const open = (url, protocols = []) => new Promise((resolve) => {
        const socket = new WebSocket(url, protocols);
        socket.binaryType = "arraybuffer";
        socket.messages = [];
        socket.onmessage = (event) => { socket.messages.push(event.data); socket.wake?.(); };
        socket.closed = new Promise((end) => { socket.onclose = (event) => { end(event.code); resolve(event.code); }; });
        socket.onopen = () => resolve(socket);
    });
    const next = (socket) => new Promise((resolve) => {
        socket.wake = () => {
            if (!socket.messages.length) return;
            socket.wake = null;
            resolve(socket.messages.shift());
        };
        socket.wake();
    });
    const claims = {
        async echo() {
            const socket = await open(`${own}/echo/`);
            socket.send("hello");
            return next(socket);
        },
        async bytes() {
            const socket = await open(`${own}/echo/`);
            socket.send(new Uint8Array([0, 127, 255]));
            return Array.from(new Uint8Array(await next(socket)));
        },
        async order() {
            const socket = await open(`${own}/echo/`);
            for (let at = 0; at < 1000; at++) socket.send(`${at}`);
            for (let at = 0; at < 1000; at++) if (await next(socket) !== `${at}`) return false;
            return true;
        },
        async close() {
            const socket = await open(`${own}/echo/`);
            socket.close(4001, "enough");
            return socket.closed;
        },
        async "too long"() {
            const socket = await open(`${own}/echo/`);
            socket.send(new Uint8Array(64 * 1024 + 1));
            return socket.closed;
        },
        async rate() {
            const socket = await open(`${own}/rate/`);
            for (let at = 0; at < 6; at++) socket.send("again");
            return socket.closed;
        },
        async "answers pings by itself"() {
            const socket = await open(`${own}/pinged/`);
            await new Promise((resolve) => setTimeout(resolve, 1000));
            socket.send("alive");
            return next(socket);
        },
        subprotocol: async () => (await open(`${own}/protocol/`, ["other", "chat"])).protocol,
        "another subprotocol": () => open(`${own}/protocol/`, ["other"]),
        "no such route": () => open(`${own}/nowhere/`),
        "another origin": () => open(`${other.replace("http", "ws")}/echo/`),
        async room() {
            const members = [await open(`${own}/room/`), await open(`${own}/room/`)];
            members[0].send("to all");
            return Promise.all(members.map(next));
        },
        "a plain request": async () => (await fetch("/missing")).status,
        version: async () => performance.getEntriesByType("navigation")[0].nextHopProtocol,
    };
    (async () => {
        const outcomes = {};
        for (const [claim, prove] of Object.entries(claims)) outcomes[claim] = await prove();
        done(outcomes);
    })().catch((error) => done(`${error.stack}`));
"#;

#[test]
fn promises_to_chromium_are_the_same_over_http_1_tls_and_http_2() {
    let site = Site::start(&Authority::new(), "");
    let browser = Browser::start_with(&["--ignore-certificate-errors"]);
    for (way, (name, version, seen_version)) in WAYS.into_iter().enumerate() {
        browser.open(&format!("{}/page", site.url(way)));
        let other = site.url((way + 1) % WAYS.len());
        let truth = json!({
            "echo": "hello",
            "bytes": [0, 127, 255],
            "order": true,
            "close": 4001,
            "too long": 1009,
            "rate": 1008,
            "answers pings by itself": "alive",
            "subprotocol": "chat",
            "another subprotocol": 1006,
            "no such route": 1006,
            "another origin": 1006,
            "room": ["to all", "to all"],
            "a plain request": 404,
            "version": seen_version,
        });
        assert_eq!(browser.run(IN_THE_PAGE, &json!([other])), truth, "{name}");

        let listener = format!("listener=\"{name}\"");
        let accepted = |line: &&str| line.contains("accepted kind=\"websocket\"") && line.contains(&listener);
        wait_until("the log has the ten sockets of the page", || {
            site.server.log().lines().filter(accepted).count() == 10
        });
        let log = site.server.log();
        let lines: Vec<_> = log.lines().filter(accepted).collect();
        assert!(lines.iter().all(|line| line.contains(&format!("http={version}"))), "{lines:#?}");
        let conn = |line: &str| between(line, " conn=", " ").to_owned();
        let conns: BTreeSet<_> = lines.iter().map(|line| conn(line)).collect();
        if version == "HTTP/2.0" {
            // RFC 8441: one connection has all of them, and the requests of the page.
            let plain = site.server.wait_log(&["refused", &listener, "path=\"/missing\""]);
            assert_eq!(conns, BTreeSet::from([conn(&plain)]), "{lines:#?}");
        } else {
            assert_eq!(conns.len(), lines.len(), "{lines:#?}");
        }
    }
    // Refused for their origin: each way was the other one once.
    for (name, ..) in WAYS {
        site.server.wait_log(&["refused", &format!("listener=\"{name}\""), "reason=\"origin\""]);
    }
    drop(browser);
    site.server.stop();
}
