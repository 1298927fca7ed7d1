//! `examples/django`: a view, a listener in Python and sockets at anteroom in the same rooms, on either layer; and the
//! README's page for who has a project already.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::django::Django;
use crate::projects::{Run, folder_of, replace};
use crate::support::client::{Client, request};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::{wait_until, wait_within};
use crate::tools::{between, free_port};
use crate::webdriver::Browser;

const PROJECT: &str = "django";
/// Python takes its time to start.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The project, started by its own command.
struct Example {
    run: Run,
    site: SocketAddr,
    app: SocketAddr,
}

impl Example {
    /// Starts on a layer and waits until its reader is told what to try, the page is there and `keep` listens.
    fn start(layer: &str) -> Self {
        let [site, app, admin] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let run = Run::start(PROJECT, &[layer], |root| {
            let path = root.join("routes.toml");
            let routes = fs::read_to_string(&path).unwrap();
            let ports = [
                ("127.0.0.1:8000", &*site.to_string()),
                ("127.0.0.1:8001", &app.to_string()),
                ("127.0.0.1:9180", &admin.to_string()),
            ];
            fs::write(&path, replace(routes, &ports)).unwrap();
        });
        let told = [
            format!("On channels_redis.{layer}. Open http://{site}/ in two tabs"),
            format!("ws://{site}/ws/rooms/lobby/"),
            format!("http://{site}/rooms/lobby/say/"),
        ];
        wait_within(START_TIMEOUT, "the reader is told what to try", || {
            let text = run.text();
            text.contains("/metrics") && told.iter().all(|told| text.contains(told))
        });
        let example = Self { run, site, app };
        wait_within(START_TIMEOUT, "`keep` listens in every room", || {
            ["lobby", "kitchen"].into_iter().all(|room| {
                example.say_by_view(room, "is anybody there?");
                !example.kept(room).is_empty()
            })
        });
        example
    }

    fn connect(&self, room: &str) -> Client {
        let (site, path) = (self.site.to_string(), format!("/ws/rooms/{room}/"));
        Client::connect(self.site, &path, &[("Host", &site), ("Origin", &format!("http://{site}"))])
            .unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// What `curl -d` does.
    fn say_by_view(&self, room: &str, message: &str) {
        let body = format!("message={}", message.replace(' ', "+"));
        let head = format!(
            "POST /rooms/{room}/say/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            self.site,
            body.len()
        );
        let answer = request(self.site, &head);
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    /// What `keep` has heard in a room, the latest last.
    fn kept(&self, room: &str) -> Vec<String> {
        let head =
            format!("GET /rooms/{room}/lines/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.site);
        let answer = request(self.site, &head);
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut answer: Value = serde_json::from_str(&answer.body).unwrap();
        serde_json::from_value(answer["lines"].take()).unwrap()
    }

    fn stop(self) {
        let Self { run, site, app } = self;
        run.stop();
        for address in [site, app] {
            assert!(TcpStream::connect(address).is_err(), "someone still listens at {address}");
        }
    }
}

fn next(client: &mut Client) -> Value {
    serde_json::from_str(&client.next_text()).unwrap()
}

#[test]
fn a_view_a_listener_and_sockets_share_rooms_on_either_layer() {
    for layer in ["core", "pubsub"] {
        let example = Example::start(layer);
        let mut lobby = [example.connect("lobby"), example.connect("lobby")];
        let mut kitchen = example.connect("kitchen");

        example.say_by_view("lobby", "from the view");
        for client in &mut lobby {
            assert_eq!(next(client), json!({ "message": "from the view" }), "{layer}");
        }
        lobby[0].send_text(r#"{"message":"from a socket"}"#);
        for client in &mut lobby {
            assert_eq!(next(client), json!({ "message": "from a socket" }), "{layer}");
        }
        // Python answers the one that has said it, and nobody else.
        let answer = next(&mut lobby[0]);
        assert!(answer["kept"].is_u64(), "{layer}: {answer}");
        let heard = example.kept("lobby");
        assert!(
            heard.ends_with(&["from the view".to_owned(), "from a socket".to_owned()]),
            "{layer}: {heard:?}"
        );
        for client in lobby.iter_mut().chain([&mut kitchen]) {
            assert!(client.is_silent_for(Duration::from_millis(200)), "{layer}");
        }

        kitchen.send_text(r#"{"message":"tea"}"#);
        assert_eq!(next(&mut kitchen), json!({ "message": "tea" }), "{layer}");
        assert_eq!(
            next(&mut kitchen)["kept"].as_u64(),
            Some(answer["kept"].as_u64().unwrap() + 1),
            "{layer}"
        );
        assert!(!example.kept("lobby").contains(&"tea".to_owned()), "{layer}");

        let (host, path) = (example.site.to_string(), "/ws/rooms/lobby/");
        let refused =
            Client::connect(example.site, path, &[("Host", &host), ("Origin", "http://evil.example")]);
        assert_eq!(refused.unwrap_err().status, 403);
        let refused = Client::connect(example.site, "/ws/rooms/cellar/", &[("Host", &host)]);
        assert_eq!(refused.unwrap_err().status, 404);
        drop((lobby, kitchen));
        example.stop();
    }
}

#[test]
fn the_page_of_the_example_speaks_by_its_socket_and_by_the_view() {
    let example = Example::start("core");
    let browser = Browser::start();
    let url = format!("http://{}/", example.site);
    let tabs = [browser.open(&url), browser.open(&url)];
    let both_show = |selector: &str, text: &str| {
        for tab in &tabs {
            browser.look_at(tab);
            wait_until(text, || browser.text(selector).contains(text));
        }
    };
    both_show("#state", "open");
    browser.type_into("form[method=post] input", "hello by the view\u{E007}");
    both_show("#log", "hello by the view");
    browser.type_into("#socket input", "hello by the socket\u{E007}");
    both_show("#log", "hello by the socket");
    wait_until("the tab is told", || browser.text("#kept").contains("Yours was kept as number"));
    browser.look_at(&tabs[0]);
    assert_eq!(browser.text("#kept"), "");
    drop(browser);
    example.stop();
}

#[test]
fn the_command_of_the_example_tells_who_asks_for_another_layer() {
    for arguments in [&["rabbitmq"][..], &[]] {
        let mut run = Command::new(folder_of(PROJECT).join("run"));
        let output = run.args(arguments).stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.starts_with("run core|pubsub: "), "{told}");
    }
}

#[tokio::test]
async fn the_routes_of_the_readme_are_those_of_the_tutorial() {
    let redis = RedisServer::start().await;
    let readme = include_str!("../../README.md");
    let (_, page) = readme.split_once("## Move a Channels project here in ten minutes").unwrap();
    let routes = format!("version = 1{}", between(page, "```toml\nversion = 1", "```"));
    let places = [
        (
            "version = 1\n",
            "version = 1\n[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }\n",
        ),
        ("127.0.0.1:8000", "127.0.0.1:0"),
        ("[\"127.0.0.1\", 6379]", &*format!("[\"127.0.0.1\", {}]", redis.port())),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    fs::write(&path, replace(routes, &places)).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let mut django = Django::start("core", &json!({ "hosts": [redis.url()] }));

    let (host, path) = (server.address().to_string(), "/ws/chat/lobby/");
    let origin = format!("http://{host}");
    let mut client = server.try_connect(path, &[("Host", &host), ("Origin", &origin)]).unwrap();
    django.join("chat_lobby");
    client.send_text(r#"{"message":"hello"}"#);
    assert_eq!(next(&mut client), json!({ "message": "hello" }));
    assert_eq!(django.received(), json!({ "type": "chat.message", "message": "hello" }));
    django.group_send("chat_lobby", &json!({ "type": "chat.message", "message": "from Django" }));
    assert_eq!(next(&mut client), json!({ "message": "from Django" }));
    let refused = server.try_connect(path, &[("Host", &host), ("Origin", "http://evil.example")]);
    assert_eq!(refused.unwrap_err().status, 403);
    // Nobody is behind: a consumer that has no route would have been asked.
    let passed_on = server.try_connect("/ws/other/", &[("Host", &host), ("Origin", &origin)]);
    assert_eq!(passed_on.unwrap_err().status, 502);
    drop(client);
    server.stop();
}
