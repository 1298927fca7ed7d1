//! A browser that is told what to do, by the `WebDriver` protocol of the W3C.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::read_head;
use crate::support::wait_within;
use crate::tools::{Process, free_port};

/// How long the browser may take to answer. Its start on a busy machine takes longest.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The name under which `WebDriver` hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A headless Chromium with one session. It ends with this value.
#[derive(Debug)]
pub struct Browser {
    port: u16,
    session: String,
    _driver: Process,
    /// Dropped last: the browser writes there.
    profile: TempDir,
}

/// An element of the page in a tab.
#[derive(Clone, Debug)]
pub struct Element(String);

impl Browser {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with more arguments.
    pub fn start_with(more: &[&str]) -> Self {
        let port = free_port();
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("/usr/bin/chromedriver");
        command.arg(format!("--port={port}")).env("TMPDIR", profile.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The driver starts the browser, which would outlive it.
        let driver = Process::spawn_group(&mut command);
        wait_within(TIMEOUT, "chromedriver listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut browser = Self { port, session: String::new(), _driver: driver, profile };
        let profile_argument =
            format!("--user-data-dir={}", browser.profile.path().join("profile").display());
        let mut args = vec![
            "--headless",
            // The tests may run as root, where Chromium has no sandbox.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // Neither tab is to be slowed down for not being looked at.
            "--disable-background-timer-throttling",
            "--disable-backgrounding-occluded-windows",
            "--disable-renderer-backgrounding",
            &profile_argument,
        ];
        args.extend(more);
        let options = json!({ "binary": "/usr/bin/chromium", "args": args });
        let capabilities = json!({ "alwaysMatch": { "goog:chromeOptions": options } });
        let answer = browser.call("POST", "", &json!({ "capabilities": capabilities }));
        answer["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        browser
    }

    /// Opens a tab at an address and gives its handle.
    pub fn open(&self, url: &str) -> String {
        let tab = self.call("POST", "/window/new", &json!({ "type": "tab" }));
        let tab = tab["handle"].as_str().unwrap().to_owned();
        self.look_at(&tab);
        self.call("POST", "/url", &json!({ "url": url }));
        tab
    }

    /// Makes this the tab that the following calls are about.
    pub fn look_at(&self, tab: &str) {
        self.call("POST", "/window", &json!({ "handle": tab }));
    }

    /// The element that a CSS selector finds.
    pub fn find(&self, selector: &str) -> Element {
        let found = self.call("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        Element(found[ELEMENT].as_str().unwrap().to_owned())
    }

    /// The text that an element shows.
    pub fn text(&self, selector: &str) -> String {
        let Element(id) = self.find(selector);
        self.call("GET", &format!("/element/{id}/text"), &Value::Null).as_str().unwrap().to_owned()
    }

    /// Runs JavaScript in the page: `arguments` are these and a function that takes the result.
    pub fn run(&self, script: &str, arguments: &Value) -> Value {
        self.call("POST", "/execute/async", &json!({ "script": script, "args": arguments }))
    }

    /// Types into an element, which gets the focus; `\u{E007}` is the Enter key.
    pub fn type_into(&self, selector: &str, text: &str) {
        let Element(id) = self.find(selector);
        self.call("POST", &format!("/element/{id}/value"), &json!({ "text": text }));
    }

    /// Sends a command and gives its `value`.
    ///
    /// # Panics
    ///
    /// The driver answers with an error.
    fn call(&self, method: &str, command: &str, parameters: &Value) -> Value {
        let path = match self.session.as_str() {
            "" => "/session".to_owned(),
            session => format!("/session/{session}{command}"),
        };
        let body = if parameters.is_null() { String::new() } else { parameters.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        // The driver keeps the connection open whatever it is asked for.
        let (head, mut answer) = read_head(&mut stream);
        let len: usize = head.header("content-length").unwrap().parse().unwrap();
        let read = answer.len();
        answer.resize(len, 0);
        stream.read_exact(&mut answer[read..]).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let mut body: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(head.status, 200, "{method} {path} {parameters}: {body:#}");
        body["value"].take()
    }
}
