//! A Python process with the real `channels_redis`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::tools::{Process, installed, script};

/// How long Python may take for anything.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The layer of a Django process. It ends with this value.
#[derive(Debug)]
pub struct Django {
    process: Process,
    lines: Receiver<Value>,
    /// Messages that came while the result of a call was waited for.
    received: Vec<Value>,
}

impl Django {
    /// Starts with a layer, `pubsub` or `core`, and the settings of `CONFIG`.
    pub fn start(layer: &str, config: &Value) -> Self {
        let mut command = Command::new(installed("channels/bin/python"));
        command.arg(script("python/layer.py")).arg(layer).arg(config.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let stdout = BufReader::new(process.child().stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines
                .map(|line| serde_json::from_str(&line).unwrap())
                .try_for_each(|line: Value| sender.send(line))
        });
        Self { process, lines, received: Vec::new() }
    }

    /// `channel_layer.group_send(group, message)`.
    pub fn group_send(&mut self, group: &str, message: &Value) {
        self.call(&json!(["group_send", group, message]));
    }

    /// The same; says whether it did not fail.
    pub fn try_group_send(&mut self, group: &str, message: &Value) -> bool {
        self.try_call(&json!(["group_send", group, message]))
    }

    /// Takes part in a group as a consumer.
    pub fn join(&mut self, group: &str) {
        self.call(&json!(["join", group]));
    }

    /// `channel_layer.send(channel, message)`.
    pub fn send(&mut self, channel: &str, message: &Value) {
        self.call(&json!(["send", channel, message]));
    }

    /// A new consumer that hears nothing but what is sent to its channel, whose name is given.
    pub fn consume(&mut self) -> String {
        writeln!(self.process.child().stdin.as_mut().unwrap(), "{}", json!(["consume"])).unwrap();
        let line = self.line();
        let channel = line["channel"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        assert_eq!(self.line()["done"], "consume");
        channel
    }

    /// Receives from a general channel, as `runworker` does.
    pub fn work(&mut self, channel: &str) {
        self.call(&json!(["work", channel]));
    }

    /// Puts a channel into a group for which nobody receives.
    pub fn group_add(&mut self, group: &str, channel: &str) {
        self.call(&json!(["group_add", group, channel]));
    }

    /// `channel_layer.group_add(group, channel)`, of a channel that somebody else receives for.
    pub fn add_channel(&mut self, group: &str, channel: &str) {
        self.call(&json!(["add_channel", group, channel]));
    }

    /// `channel_layer.group_discard(group, channel)`.
    pub fn discard_channel(&mut self, group: &str, channel: &str) {
        self.call(&json!(["discard_channel", group, channel]));
    }

    /// Receives for such a channel.
    pub fn listen(&mut self, channel: &str) {
        self.call(&json!(["listen", channel]));
    }

    /// Whether nothing comes for a while.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.received.is_empty() && self.lines.recv_timeout(time).is_err()
    }

    /// Publishes bytes on a Redis channel.
    pub fn publish(&mut self, channel: &str, base64: &str) {
        self.call(&json!(["publish", channel, { "__bytes__": base64 }]));
    }

    /// The next message of the groups.
    pub fn received(&mut self) -> Value {
        if self.received.is_empty() {
            let mut line = self.line();
            assert!(line.get("received").is_some(), "{line}");
            return line["received"].take();
        }
        self.received.remove(0)
    }

    /// The next message of the groups, if one comes in this time.
    pub fn received_within(&mut self, time: Duration) -> Option<Value> {
        if self.received.is_empty() {
            let mut line = self.lines.recv_timeout(time).ok()?;
            assert!(line.get("received").is_some(), "{line}");
            return Some(line["received"].take());
        }
        Some(self.received.remove(0))
    }

    /// Calls and waits until it has returned.
    fn call(&mut self, call: &Value) {
        assert!(self.try_call(call), "{call}");
    }

    fn try_call(&mut self, call: &Value) -> bool {
        writeln!(self.process.child().stdin.as_mut().unwrap(), "{call}").unwrap();
        loop {
            let mut line = self.line();
            if line.get("received").is_some() {
                self.received.push(line["received"].take());
                continue;
            }
            if let Some(error) = line.get("failed") {
                eprintln!("{call}: {error}");
                return false;
            }
            assert_eq!(line["done"], call[0], "{line}");
            return true;
        }
    }

    fn line(&self) -> Value {
        self.lines.recv_timeout(TIMEOUT).expect("Python has something to say")
    }
}
