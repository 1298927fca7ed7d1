//! `anteroom doctor`, beside a server and Django that are at work.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::rooms::{self, ROUTES, member, quiet};
use crate::support::command::{out, run};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::tools::{Process, installed};

/// What a plain view or a Celery task does.
const ASYNC_TO_SYNC: &str = r#"
import sys
from asgiref.sync import async_to_sync
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

Layer = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}[sys.argv[1]]
layer = Layer(hosts=[sys.argv[2]])
print("ready", flush=True)
while True:
    async_to_sync(layer.group_send)("somewhere", {"type": "x"})
"#;

/// The bad findings, each as its code and its message.
fn bad(server: &TestServer) -> Vec<(String, String)> {
    let output = run(server.folder(), &["doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(output.status.code(), Some(0), "{findings:?}");
    let bad = findings.into_iter().filter(|finding| finding["severity"] == "warning");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    bad.map(|finding| (text(&finding["code"]), text(&finding["message"]))).collect()
}

#[tokio::test]
async fn a_layer_at_work_is_as_it_should_be_and_hears_nothing_of_the_check() {
    let redis = RedisServer::start().await;
    for layer in ["core", "pubsub"] {
        let server = rooms::start(layer, &[&redis], "", ROUTES);
        let mut django = rooms::django(layer, &[&redis], json!({}));
        let mut ann = member(&server, "/chat/lobby/");
        quiet(&mut ann);
        django.join("chat_lobby");
        assert_eq!(bad(&server), []);
        assert!(django.is_silent_for(Duration::from_millis(100)));
        assert!(ann.is_silent_for(Duration::from_millis(100)));
        drop(ann);
        server.stop();
    }
}

#[tokio::test]
async fn the_connections_of_async_to_sync_are_found() {
    let redis = RedisServer::start().await;
    for layer in ["core", "pubsub"] {
        let server = rooms::start(layer, &[&redis], "", ROUTES);
        let mut command = Command::new(installed("channels/bin/python"));
        command.args(["-c", ASYNC_TO_SYNC, layer, &redis.url()]).stdout(Stdio::piped());
        let mut python = Process::spawn(&mut command);
        let mut ready = String::new();
        BufReader::new(python.child().stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let bad = bad(&server);
        assert!(bad.len() == 1 && bad[0].0 == "connections" && bad[0].1.contains("async_to_sync"), "{bad:?}");
        drop(python);
        server.stop();
    }
}
