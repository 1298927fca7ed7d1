//! `examples/migration`: the way of an unchanged Django project, step by step, on Daphne and on uvicorn.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::projects::{Run, folder_of, replace};
use crate::support::client::{Client, Frame, Response, dial_from, exchange, handshake};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::tls::{Authority, TlsClient, TlsStream};
use crate::support::wait_within;
use crate::tools::{Process, between, free_port, installed};
use crate::webdriver::Browser;

const PROJECT: &str = "migration";
/// Another address of this machine than that of the server, so that the two cannot be mistaken.
const CLIENT: &str = "127.0.0.7";
/// Python takes its time to start.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// What clients say of themselves that nobody must believe.
const LIES: &[(&str, &str)] = &[
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Port", "1"),
    ("Forwarded", "for=8.8.8.8;host=evil.example;proto=http"),
    ("X-Real-IP", "9.9.9.9"),
];

/// The servers of ASGI that people have.
#[derive(Clone, Copy, Debug)]
enum Asgi {
    Daphne,
    Uvicorn,
}

const ALL: [(u8, Asgi); 4] = [(1, Asgi::Daphne), (1, Asgi::Uvicorn), (2, Asgi::Daphne), (2, Asgi::Uvicorn)];

/// The project on one server, a step of the configuration in front, and the Redis that both share.
struct Site {
    step: u8,
    asgi: Asgi,
    app: Option<Process>,
    app_port: u16,
    server: TestServer,
    tls: TlsClient,
    redis: RedisServer,
}

/// A step of the example with other ports, for those may be taken on this machine.
fn step_on_free_ports(step: u8, app_port: u16) -> String {
    let config = fs::read_to_string(folder_of(PROJECT).join(format!("step-{step}.toml"))).unwrap();
    replace(
        config,
        &[
            ("127.0.0.1:9180\"", "127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }"),
            ("127.0.0.1:8443", "127.0.0.1:0"),
            ("http://127.0.0.1:8001", &format!("http://127.0.0.1:{app_port}")),
        ],
    )
}

impl Site {
    async fn start(step: u8, asgi: Asgi) -> Self {
        let redis = RedisServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let var = folder.path().join("var");
        fs::create_dir(&var).unwrap();
        fs::create_dir(folder.path().join("public")).unwrap();
        fs::copy(folder_of(PROJECT).join("public/robots.txt"), folder.path().join("public/robots.txt"))
            .unwrap();
        let authority = Authority::new();
        authority.issue(&["localhost"]).write(&var, "localhost");
        for command in ["migrate", "collectstatic"] {
            let mut manage = python("python", &var, &redis);
            manage.args(["manage.py", command, "--noinput", "--verbosity", "0"]);
            assert!(manage.status().unwrap().success(), "{command}");
        }
        let app_port = free_port();
        let path = folder.path().join("routes.toml");
        fs::write(&path, step_on_free_ports(step, app_port)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_anteroom"));
        command.arg("-c").arg(&path).env("REDIS_URL", redis.url());
        let server = TestServer::spawn(command, folder);
        let mut site = Self { step, asgi, app: None, app_port, server, tls: authority.client(), redis };
        site.start_app();
        site
    }

    fn start_app(&mut self) {
        let port = self.app_port.to_string();
        let var = self.server.folder().join("var");
        let mut command = match self.asgi {
            Asgi::Daphne => {
                let mut command = python("daphne", &var, &self.redis);
                command.args(["-b", "127.0.0.1", "-p", &port, "--proxy-headers"]);
                command
            }
            Asgi::Uvicorn => {
                let mut command = python("uvicorn", &var, &self.redis);
                command.args(["--host", "127.0.0.1", "--port", &port]);
                command.args(["--proxy-headers", "--forwarded-allow-ips", "127.0.0.1"]);
                command
            }
        };
        self.app = Some(Process::spawn(command.arg("project.asgi:application")));
        let address = SocketAddr::from(([127, 0, 0, 1], self.app_port));
        wait_within(START_TIMEOUT, "the application listens", || TcpStream::connect(address).is_ok());
    }

    /// What the client has in its address bar.
    fn host(&self) -> String {
        format!("localhost:{}", self.server.address().port())
    }

    fn origin(&self) -> String {
        format!("https://{}", self.host())
    }

    fn dial(&self) -> TlsStream {
        let stream = dial_from(CLIENT.parse().unwrap(), self.server.address());
        self.tls.connect_over(stream, "localhost").unwrap()
    }

    /// Sends a request with these headers and a body.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.host());
        if method == "POST" {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        head.push_str("\r\n");
        let mut stream = self.dial();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        exchange(&mut stream, "")
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send("GET", path, headers, &[])
    }

    /// Opens a WebSocket as a page of the site does.
    fn connect(&self, path: &str, headers: &[(&str, &str)]) -> Client<TlsStream> {
        let (host, origin) = (self.host(), self.origin());
        let own = [("Host", host.as_str()), ("Origin", origin.as_str())];
        let headers = [&own, headers].concat();
        Client::handshake_over(self.dial(), &handshake(path, &headers))
            .unwrap_or_else(|refused| panic!("{path}: {refused:?}"))
    }

    /// A client in the lobby that has heard itself there.
    fn member(&self) -> Client<TlsStream> {
        let mut client = self.connect("/ws/chat/lobby/", &[]);
        say(&mut client, "here I am");
        while heard(&mut client) != "here I am" {}
        client
    }

    /// Visits the page of the lobby, as whoever has these cookies.
    fn visit(&self, cookies: Option<&Visit>) -> Visit {
        let headers = cookies.map(|visit| ("Cookie", visit.cookies.as_str()));
        let page = self.get("/chat/lobby/", headers.as_slice());
        assert_eq!(page.status, 200, "{page:?}");
        let set: Vec<_> = page.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
        assert!(set.iter().all(|(_, value)| value.contains("; Secure")), "{set:?}");
        let cookies = match cookies {
            Some(visit) => visit.cookies.clone(),
            None => {
                set.iter().map(|(_, value)| value.split(';').next().unwrap()).collect::<Vec<_>>().join("; ")
            }
        };
        let token = between(&page.body, "name=\"csrfmiddlewaretoken\" value=\"", "\"").to_owned();
        Visit { token, cookies, page: page.body }
    }

    fn stop(mut self) {
        self.app = None;
        self.server.stop();
    }
}

/// What a browser keeps of a page.
struct Visit {
    token: String,
    cookies: String,
    page: String,
}

/// A program of the project's environment, in its folder.
fn python(program: &str, var: &Path, redis: &RedisServer) -> Command {
    let mut command = Command::new(installed("migration/bin").join(program));
    command.current_dir(folder_of(PROJECT)).env("DATA_DIR", var).env("REDIS_URL", redis.url());
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("SECRET_KEY", "of a test");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn say(client: &mut Client<TlsStream>, message: &str) {
    client.send_text(&json!({ "message": message }).to_string());
}

/// The `message` of the next frame.
fn heard(client: &mut Client<TlsStream>) -> String {
    let frame: Value = serde_json::from_str(&client.next_text()).unwrap();
    frame["message"].as_str().unwrap_or_else(|| panic!("{frame}")).to_owned()
}

#[tokio::test]
async fn migration_shows_django_the_client_its_host_and_https() {
    for (step, asgi) in ALL {
        let site = Site::start(step, asgi).await;
        let first = site.visit(None);
        assert!(first.page.contains("your visit number 1."), "{}", first.page);
        let second = site.visit(Some(&first));
        assert!(second.page.contains("your visit number 2."), "{}", second.page);

        let headers = [&[("Cookie", first.cookies.as_str())], LIES].concat();
        let seen: Value = serde_json::from_str(&site.get("/whoami/", &headers).body).unwrap();
        let truth = json!({
            "client": CLIENT,
            "host": site.host(),
            "scheme": "https",
            "url": format!("{}/whoami/", site.origin()),
            "user": "AnonymousUser",
            "visits": 2,
        });
        assert_eq!(seen, truth, "step {step} on {asgi:?}");

        let mut socket = site.connect("/ws/whoami/", &headers);
        let seen: Value = serde_json::from_str(&socket.next_text()).unwrap();
        // Daphne tells a consumer no scheme.
        let scheme = match asgi {
            Asgi::Daphne => "ws",
            Asgi::Uvicorn => "wss",
        };
        let truth = json!({
            "client": CLIENT,
            "host": site.host(),
            "scheme": scheme,
            "user": "AnonymousUser",
            "visits": 2,
        });
        assert_eq!(seen, truth, "step {step} on {asgi:?}");
        // A close code of the consumer's own comes through.
        socket.send_text("enough");
        assert_eq!(socket.next_close(), 4000);
        socket.close(4000);
        assert_eq!(socket.next(), Frame::End);
        site.stop();
    }
}

#[tokio::test]
async fn migration_lets_a_form_in_from_its_own_page_only() {
    for (step, asgi) in ALL {
        let site = Site::start(step, asgi).await;
        let mut listener = site.member();
        let visit = site.visit(None);
        let origin = site.origin();
        let referer = format!("{origin}/chat/lobby/");
        let plain = origin.replace("https", "http");
        let cases = [
            // header, its value, token, status
            ("Origin", origin.as_str(), visit.token.as_str(), 302),
            ("Referer", &referer, &visit.token, 302),
            ("Origin", "https://evil.example", &visit.token, 403),
            ("Origin", &plain, &visit.token, 403),
            ("Referer", "https://evil.example/", &visit.token, 403),
            ("Referer", "http://localhost/", &visit.token, 403),
            // Over https Django wants one of the two.
            ("Accept", "*/*", &visit.token, 403),
            ("Origin", &origin, "wrong", 403),
        ];
        for (at, (name, value, token, status)) in cases.into_iter().enumerate() {
            let body = format!("csrfmiddlewaretoken={token}&message=form+{at}");
            let headers = [
                ("Cookie", visit.cookies.as_str()),
                ("Content-Type", "application/x-www-form-urlencoded"),
                (name, value),
            ];
            let answer = site.send("POST", "/chat/lobby/announce/", &headers, body.as_bytes());
            assert_eq!(answer.status, status, "{name}: {value}, step {step} on {asgi:?}: {}", answer.body);
            if status == 302 {
                assert_eq!(answer.header("location"), Some("/chat/lobby/"));
                assert_eq!(heard(&mut listener), format!("announcement: form {at}"));
            }
        }
        assert!(listener.is_silent_for(Duration::from_millis(200)));
        drop(listener);
        site.stop();
    }
}

#[tokio::test]
async fn migration_answers_with_the_files_of_collectstatic_itself() {
    let mut site = Site::start(1, Asgi::Daphne).await;
    // Nobody else is there to answer.
    site.app = None;
    let script = site.get("/static/chat/room.js", &[]);
    let source = fs::read_to_string(folder_of(PROJECT).join("chat/static/chat/room.js")).unwrap();
    assert_eq!((script.status, script.body), (200, source));
    let cached = script.headers.iter().find(|(name, _)| name == "cache-control").unwrap();
    assert_eq!(cached.1, "public, max-age=300");
    let robots = site.get("/robots.txt", &[]);
    assert_eq!((robots.status, robots.body.as_str()), (200, "User-agent: *\nDisallow: /\n"));
    for path in ["/static/none.js", "/static/../db.sqlite3", "/static/%2e%2e/db.sqlite3"] {
        assert_ne!(site.get(path, &[]).status, 200, "{path}");
    }
    site.stop();
}

#[tokio::test]
async fn migration_chats_through_tunnels_in_step_1_and_in_a_room_in_step_2() {
    for (step, asgi) in ALL {
        let site = Site::start(step, asgi).await;
        let mut ann = site.member();
        let mut bob = site.connect("/ws/chat/lobby/", &[]);
        // A tunnel stands when the consumer has been asked; a room counts when its join does.
        say(&mut bob, "me too");
        for client in [&mut ann, &mut bob] {
            assert_eq!(heard(client), "me too");
        }
        say(&mut ann, "hello \u{1f680}");
        for client in [&mut ann, &mut bob] {
            assert_eq!(heard(client), "hello \u{1f680}");
        }
        let visit = site.visit(None);
        let headers = [
            ("Cookie", visit.cookies.as_str()),
            ("X-CSRFToken", &visit.token),
            ("Origin", &site.origin()),
            ("Content-Type", "application/octet-stream"),
        ];
        let answer = site.send("POST", "/chat/lobby/files/", &headers, b"a file");
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        let url = answer["url"].as_str().unwrap();
        for client in [&mut ann, &mut bob] {
            assert_eq!(heard(client), format!("a file of 6 bytes: {}{url}", site.origin()));
        }

        // The sites whose pages may open a socket are the same in both.
        let host = site.host();
        let refused = handshake("/ws/chat/lobby/", &[("Host", &host), ("Origin", "https://evil.example")]);
        assert_eq!(Client::handshake_over(site.dial(), &refused).unwrap_err().status, 403);

        let held_by = match step {
            1 => "route=\"site\"",
            _ => "route=\"chat\"",
        };
        site.server.wait_log(&["anteroom::handshake", "accepted", "path=\"/ws/chat/lobby/\"", held_by]);
        let sockets = match step {
            1 => (0.0, 2.0),
            _ => (2.0, 0.0),
        };
        site.server.wait_metric("anteroom_websocket_connections{route=\"chat\"}", sockets.0);
        site.server.wait_metric("anteroom_upstream_tunnels{upstream=\"django\"}", sockets.1);
        for mut client in [ann, bob] {
            client.close(1000);
            assert_eq!(client.next_close(), 1000);
            assert_eq!(client.next(), Frame::End);
        }
        site.stop();
    }
}

#[tokio::test]
async fn migration_goes_to_step_2_and_back_while_sockets_are_open() {
    for asgi in [Asgi::Daphne, Asgi::Uvicorn] {
        let site = Site::start(1, asgi).await;
        let visit = site.visit(None);
        let mut clients = vec![site.member()];
        // Each change takes new sockets to the other side, and leaves the open ones where they are.
        for (step, generation, in_room, in_tunnels) in [(2, 2.0, 1.0, 1.0), (1, 3.0, 1.0, 2.0)] {
            site.server.write_config(&step_on_free_ports(step, site.app_port));
            site.server.wait_metric("anteroom_config_generation", generation);
            assert_eq!(site.server.metric("anteroom_config_restart_pending").to_string(), "0");
            let mut new = site.member();
            site.server.wait_metric("anteroom_websocket_connections{route=\"chat\"}", in_room);
            site.server.wait_metric("anteroom_upstream_tunnels{upstream=\"django\"}", in_tunnels);
            for client in &mut clients {
                assert_eq!(heard(client), "here I am", "step {step} on {asgi:?}");
            }
            say(&mut clients[0], "from the oldest");
            say_by_form(&site, &visit, "from Django");
            say(&mut new, "from the newest");
            clients.push(new);
            for client in &mut clients {
                // They come by different ways, so only that all of it comes is sure.
                let mut all: Vec<_> = (0..3).map(|_| heard(client)).collect();
                all.sort();
                let truth = ["announcement: from Django", "from the newest", "from the oldest"];
                assert_eq!(all, truth, "step {step} on {asgi:?}");
            }
        }
        drop(clients);
        site.stop();
    }
}

/// Sends the form of the page.
fn say_by_form(site: &Site, visit: &Visit, message: &str) {
    let body = format!("csrfmiddlewaretoken={}&message={}", visit.token, message.replace(' ', "+"));
    let headers = [
        ("Cookie", visit.cookies.as_str()),
        ("Origin", &site.origin()),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    assert_eq!(site.send("POST", "/chat/lobby/announce/", &headers, body.as_bytes()).status, 302);
}

#[tokio::test]
async fn migration_looks_the_same_in_chromium_in_both_steps() {
    for (step, asgi) in [(1, Asgi::Daphne), (2, Asgi::Uvicorn)] {
        let site = Site::start(step, asgi).await;
        let browser = Browser::start_with(&["--ignore-certificate-errors"]);
        let url = format!("{}/", site.origin());
        let [one, two] = [browser.open(&url), browser.open(&url)];
        let shows = |tab: &str, selector: &str, text: &str| {
            browser.look_at(tab);
            wait_within(START_TIMEOUT, text, || browser.text(selector).contains(text));
        };
        for tab in [&one, &two] {
            shows(tab, "#state", "open");
        }
        browser.type_into("#message", "hello from the second tab\u{E007}");
        for tab in [&one, &two] {
            shows(tab, "#log", "hello from the second tab");
        }
        browser.type_into("#announce input[name=message]", "a form\u{E007}");
        shows(&one, "#log", "announcement: a form");
        // The form has led the second tab back to the page: a third visit of the session.
        shows(&two, "body", "your visit number 3.");
        shows(&two, "#state", "open");
        let kept = site.server.wait_log(&["accepted", "path=\"/ws/chat/lobby/\"", "http=HTTP/2.0"]);
        assert!(kept.contains(if step == 1 { "route=\"site\"" } else { "route=\"chat\"" }), "{kept}");
        drop(browser);
        site.stop();
    }
}

#[tokio::test]
async fn migration_outlives_the_application_and_keeps_the_sockets_of_a_room() {
    for asgi in [Asgi::Daphne, Asgi::Uvicorn] {
        let mut site = Site::start(2, asgi).await;
        let mut ann = site.member();
        let mut tunnelled = site.connect("/ws/whoami/", &[]);
        tunnelled.next_text();
        let visit = site.visit(None);

        site.app = None;
        assert_eq!(tunnelled.next(), Frame::End);
        let answer = site.get("/chat/lobby/", &[]);
        assert_eq!((answer.status, answer.body.starts_with("upstream")), (502, true), "{answer:?}");
        let (host, origin) = (site.host(), site.origin());
        let bytes = handshake("/ws/whoami/", &[("Host", &host), ("Origin", &origin)]);
        assert_eq!(Client::handshake_over(site.dial(), &bytes).unwrap_err().status, 502);
        say(&mut ann, "still here");
        assert_eq!(heard(&mut ann), "still here");
        let mut bob = site.member();
        for said in ["here I am", "only us"] {
            if said == "only us" {
                say(&mut bob, said);
            }
            assert_eq!(heard(&mut ann), said);
        }

        site.start_app();
        assert_eq!(site.get("/chat/lobby/", &[]).status, 200);
        let body = format!("csrfmiddlewaretoken={}&message=back", visit.token);
        let headers = [
            ("Cookie", visit.cookies.as_str()),
            ("Origin", &origin),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        assert_eq!(site.send("POST", "/chat/lobby/announce/", &headers, body.as_bytes()).status, 302);
        assert_eq!(heard(&mut ann), "announcement: back");
        site.connect("/ws/whoami/", &[]).next_text();
        drop((ann, bob));
        site.stop();
    }
}

#[tokio::test]
async fn migration_takes_large_uploads_and_gives_large_downloads() {
    // 20 MiB in which no two lines are the same.
    let mut content = String::new();
    for line in 0..20 * 65_536 {
        writeln!(content, "{line:015}").unwrap();
    }
    let mut sha256 = String::new();
    for byte in Sha256::digest(content.as_bytes()) {
        write!(sha256, "{byte:02x}").unwrap();
    }
    for asgi in [Asgi::Daphne, Asgi::Uvicorn] {
        let site = Site::start(1, asgi).await;
        let visit = site.visit(None);
        let headers = [
            ("Cookie", visit.cookies.as_str()),
            ("X-CSRFToken", &visit.token),
            ("Origin", &site.origin()),
            ("Content-Type", "application/octet-stream"),
        ];
        let answer = site.send("POST", "/chat/lobby/files/", &headers, content.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((&answer["size"], &answer["sha256"]), (&json!(content.len()), &json!(sha256)));
        let back = site.get(answer["url"].as_str().unwrap(), &[]);
        assert_eq!((back.status, back.body.len()), (200, content.len()));
        assert!(back.body == content, "the file is another on {asgi:?}");

        // Beyond `max_body` it is not even begun.
        let head = format!(
            "POST /chat/lobby/files/ HTTP/1.1\r\nHost: {}\r\nContent-Length: 33554433\r\n\r\n",
            site.host()
        );
        assert_eq!(exchange(&mut site.dial(), &head).status, 413);
        site.stop();
    }
}

#[test]
fn migration_is_started_by_one_command() {
    for (step, asgi) in [(1, "daphne"), (2, "uvicorn")] {
        let (app, redis) = (free_port(), free_port());
        let run = Run::start(PROJECT, &[&step.to_string(), asgi], |root| {
            fs::write(root.join(format!("step-{step}.toml")), step_on_free_ports(step, app)).unwrap();
            let script = fs::read_to_string(root.join("run")).unwrap();
            let ports = [
                ("app_port=8001", &*format!("app_port={app}")),
                ("redis_port=6390", &format!("redis_port={redis}")),
            ];
            fs::write(root.join("run"), replace(script, &ports)).unwrap();
        });
        wait_within(START_TIMEOUT, "anteroom listens", || run.text().contains("/metrics"));
        let port: u16 = between(&run.text(), "https://127.0.0.1:", "/").parse().unwrap();
        let cert = fs::read_to_string(run.root().join("var/localhost.pem")).unwrap();
        let client = TlsClient::trusting(&cert);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let host = format!("localhost:{port}");
        let get = format!("GET /chat/lobby/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        wait_within(START_TIMEOUT, "the page comes", || {
            exchange(&mut client.connect(address, "localhost").unwrap(), &get).status == 200
        });
        let origin = format!("https://{host}");
        let bytes = handshake("/ws/chat/lobby/", &[("Host", &host), ("Origin", &origin)]);
        let mut socket =
            Client::handshake_over(client.connect(address, "localhost").unwrap(), &bytes).unwrap();
        say(&mut socket, "hello");
        assert_eq!(heard(&mut socket), "hello");
        drop(socket);

        run.stop();
        for port in [port, app, redis] {
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "someone still listens on {port}");
        }
    }
}
