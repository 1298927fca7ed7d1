//! `anteroom publish`: who hears it, what it says, and how it ends when there is nothing to send through.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::command::{err, out, run, run_with};
use crate::support::redis::RedisServer;
use crate::support::server::{TestServer, complete};

const ROUTES: &str = r#"
[[route]]
name = "chat"
re_path = '^chat/(?P<room>\w+)/$'
handler = "room"
group = "chat_{room}"
receive = { type = "chat.message", pick = ["message"] }
deliver = { "chat.message" = { pick = ["message"] } }
"#;
const HELLO: &str = r#"{"type": "chat.message", "message": "hello"}"#;
/// However Redis is, the command ends within this.
const LIMIT: Duration = Duration::from_secs(7);

fn config(backend: &str, hosts: &[String]) -> String {
    format!("[layer]\nbackend = \"{backend}\"\nhosts = {hosts:?}\n{ROUTES}")
}

fn folder(backend: &str, hosts: &[String]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.toml"), complete(&config(backend, hosts))).unwrap();
    folder
}

fn json(output: &Output) -> Value {
    serde_json::from_str(out(output)).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Asserts that nothing was sent, and gives the reason.
fn refused(output: &Output, exit: i32) -> &str {
    assert_eq!((output.status.code(), out(output)), (Some(exit), ""), "{output:?}");
    let reason = err(output).strip_prefix("error: not sent: ").unwrap();
    assert!(reason.ends_with('\n') && reason.lines().count() == 1, "{reason}");
    reason
}

async fn sockets_hear_it(backend: &str) {
    let redis = RedisServer::start().await;
    let server = TestServer::start(&config(backend, &[redis.url()]));
    let mut ann = server.connect("/chat/lobby/");
    let send = |args: &[&str], input| {
        let output = run_with(server.folder(), &[&["publish", "chat_lobby"], args].concat(), input);
        assert_eq!((output.status.code(), err(&output)), (Some(0), ""), "{output:?}");
        output
    };
    let said = match backend {
        "channels_redis.core" => "sent to chat_lobby: 1 member in 1 inbox\n",
        _ => "sent to chat_lobby: 1 subscriber\n",
    };
    for (args, input) in [(&[HELLO][..], ""), (&["-"], HELLO), (&[], HELLO), (&["-c", "routes.toml"], HELLO)]
    {
        assert_eq!(out(&send(args, input)), said, "{args:?}");
        assert_eq!(ann.next_text(), r#"{"message":"hello"}"#);
    }
    let number = r#"{"type": "chat.message", "message": 0.36995516654807925}"#;
    assert_eq!(out(&send(&[number], "")), said);
    assert_eq!(ann.next_text(), r#"{"message":0.36995516654807925}"#);
    let mut expected = json!({ "sent": true, "group": "chat_lobby", "backend": backend });
    if backend == "channels_redis.core" {
        expected["members"] = json!(1);
        expected["inboxes"] = json!(1);
        expected["members_over_capacity"] = json!(0);
        expected["members_lost"] = json!(0);
        expected["inboxes_lost"] = json!(0);
        expected["inboxes_over_capacity"] = json!(0);
    } else {
        expected["subscribers"] = json!(1);
    }
    assert_eq!(json(&send(&[HELLO, "--json"], "")), expected);
    assert_eq!(ann.next_text(), r#"{"message":"hello"}"#);
    drop(ann);
    server.stop();
}

#[tokio::test]
async fn sockets_hear_it_over_pubsub() {
    sockets_hear_it("channels_redis.pubsub").await;
}

#[tokio::test]
async fn sockets_hear_it_over_core() {
    sockets_hear_it("channels_redis.core").await;
}

#[tokio::test]
async fn that_nobody_hears_it_is_said_and_nothing_is_left_on_redis() {
    let redis = RedisServer::start().await;
    for backend in ["channels_redis.pubsub", "channels_redis.core"] {
        let folder = folder(backend, &[redis.url()]);
        let output = run(folder.path(), &["publish", "chat_lobby", HELLO]);
        assert_eq!(
            (output.status.code(), out(&output), err(&output)),
            (Some(0), "sent to chat_lobby, but nobody is in the group\n", "")
        );
        let mut redis = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        assert_eq!(redis.keys::<_, Vec<String>>("*").unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn inboxes_over_capacity_are_counted() {
    let redis = RedisServer::start().await;
    let mut admin = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let mut fill = |process: &str, members: usize, messages: usize| {
        for member in 0..members {
            let _: i64 = admin.zadd("asgi:group:g", format!("specific.{process}!{member}"), now).unwrap();
        }
        for message in 0..messages {
            let _: i64 = admin.zadd(format!("asgispecific.{process}!"), message, now).unwrap();
        }
    };
    fill("a", 3, 100);
    let folder = folder("channels_redis.core", &[redis.url()]);
    let publish = |args: &[&str]| run(folder.path(), &[&["publish", "g", HELLO], args].concat());
    assert_eq!(refused(&publish(&[]), 1), "the only inbox of the group is over capacity\n");
    fill("b", 2, 0);
    let output = publish(&[]);
    let said = "sent to g: 2 members in 1 inbox; not to 3 members in 1 inbox over capacity\n";
    assert_eq!((output.status.code(), out(&output)), (Some(0), said));
    let output = json(&publish(&["--json"]));
    assert_eq!((&output["members"], &output["inboxes"]), (&json!(2), &json!(1)));
    assert_eq!((&output["members_over_capacity"], &output["inboxes_over_capacity"]), (&json!(3), &json!(1)));
    fill("b", 0, 100);
    assert_eq!(refused(&publish(&[]), 1), "all 2 inboxes of the group are over capacity\n");
}

#[tokio::test]
async fn what_is_sent_to_some_alone_is_said_to_be() {
    let mut redis = [RedisServer::start().await, RedisServer::start().await];
    let hosts = redis.each_ref().map(RedisServer::url);
    let folder = folder("channels_redis.core", &hosts);
    let mut admin = redis::Client::open(hosts[0].as_str()).unwrap().get_connection().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    // This group is on the first host, and its members are on both.
    for process in 0..20 {
        let _: i64 = admin.zadd("asgi:group:team", format!("specific.{process}!x"), now).unwrap();
    }
    redis[1].kill();
    let output = run(folder.path(), &["publish", "team", HELLO]);
    let inboxes: Vec<String> = admin.keys("asgispecific.*").unwrap();
    let (reached, lost) = (inboxes.len(), 20 - inboxes.len());
    assert!(0 < reached && 0 < lost, "{reached}");
    let said = format!(
        "sent to team: {reached} members in {reached} inboxes; \
         not to {lost} members in {lost} inboxes that could not be written to\n"
    );
    assert_eq!((output.status.code(), out(&output)), (Some(1), said.as_str()));
    let output = json(&run(folder.path(), &["publish", "team", HELLO, "--json"]));
    assert_eq!((&output["sent"], &output["inboxes_lost"]), (&json!("partly"), &json!(lost)));
}

#[tokio::test]
async fn members_on_every_host_are_reached() {
    let redis = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let hosts = redis.each_ref().map(RedisServer::url);
    let server = TestServer::start(&config("channels_redis.core", &hosts));
    for room in 0..6 {
        let mut client = server.connect(&format!("/chat/{room}/"));
        let output = run(server.folder(), &["publish", &format!("chat_{room}"), HELLO]);
        assert_eq!(out(&output), format!("sent to chat_{room}: 1 member in 1 inbox\n"), "{output:?}");
        assert_eq!(client.next_text(), r#"{"message":"hello"}"#);
    }
    server.stop();
}

#[test]
fn a_layer_in_memory_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.toml"), complete(ROUTES)).unwrap();
    let output = run(folder.path(), &["publish", "chat_lobby", HELLO]);
    let reason = refused(&output, 78);
    assert!(reason.contains("inside of the server's process"), "{reason}");
    assert!(reason.contains("channels_redis.pubsub"), "{reason}");
    let output = run(folder.path(), &["publish", "--json", "chat_lobby", HELLO]);
    assert_eq!((output.status.code(), err(&output)), (Some(78), ""));
    assert_eq!((&json(&output)["sent"], &json(&output)["group"]), (&json!(false), &json!("chat_lobby")));
}

#[test]
fn a_configuration_that_cannot_be_used_is_shown_as_by_check() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wrong.toml"), complete(ROUTES).replace("handler", "handlr")).unwrap();
    let output = run(folder.path(), &["publish", "-c", "wrong.toml", "g", HELLO]);
    let check = run(folder.path(), &["check", "wrong.toml"]);
    assert_eq!((output.status.code(), out(&output)), (Some(78), ""));
    assert_eq!(err(&output), format!("{}error: not sent: wrong.toml cannot be used\n", err(&check)));
    let output = run(folder.path(), &["publish", "-c", "wrong.toml", "--json", "g", HELLO]);
    let check = run(folder.path(), &["check", "--json", "wrong.toml"]);
    assert_eq!((output.status.code(), err(&output)), (Some(78), ""));
    assert_eq!(json(&output)["findings"], json(&check));
    assert_eq!(run(folder.path(), &["publish", "g", HELLO]).status.code(), Some(78));
}

#[test]
fn an_event_or_a_group_that_is_none_is_refused_before_anything_is_sent() {
    let folder = folder("channels_redis.pubsub", &["redis://127.0.0.1:1".to_owned()]);
    let cases: &[(&[&str], &str, &str)] = &[
        (&["a b", HELLO], "", "a group name has only ASCII letters, digits"),
        (&["g", "hello"], "", "the event is not JSON"),
        (&["g", r#"{"message": 1}"#], "", "the event has no `type`; write it as in {\"type\":"),
        (&["g"], "", "there is no event"),
        (&["g"], "{", "the event is not JSON"),
    ];
    for (args, input, reason) in cases {
        let output = run_with(folder.path(), &[&["publish"], *args].concat(), input);
        assert!(refused(&output, 1).contains(reason), "{output:?}");
    }
}

/// Runs the command on a Redis that is of no use, and gives the reason.
fn in_vain(folder: &Path) -> String {
    let since = Instant::now();
    let output = run(folder, &["publish", "chat_lobby", HELLO]);
    assert!(since.elapsed() < LIMIT, "{:?}", since.elapsed());
    refused(&output, 1).to_owned()
}

#[tokio::test]
async fn a_redis_that_is_away_or_frozen_is_named_in_time() {
    let away = RedisServer::stopped();
    let frozen = RedisServer::start().await;
    frozen.pause();
    for backend in ["channels_redis.pubsub", "channels_redis.core"] {
        for (redis, error) in [(&away, "Connection refused"), (&frozen, "connecting took too long")] {
            let hosts = [format!("redis://ann:hunter2@127.0.0.1:{}", redis.port())];
            let reason = in_vain(folder(backend, &hosts).path());
            assert!(reason.contains(&format!("127.0.0.1:{}", redis.port())), "{reason}");
            assert!(reason.contains(error) && !reason.contains("hunter2"), "{reason}");
        }
    }
    frozen.resume();
}

#[tokio::test]
async fn a_redis_that_does_not_let_us_in_or_send_is_named_with_its_reason() {
    let redis = RedisServer::start_with(&[
        "--user",
        "default",
        "on",
        ">s3cret",
        "allchannels",
        "~*",
        "+@all",
        "-publish",
        "-eval",
    ])
    .await;
    for backend in ["channels_redis.pubsub", "channels_redis.core"] {
        let host = |password: &str| [format!("redis://:{password}@127.0.0.1:{}", redis.port())];
        let reason = in_vain(folder(backend, &host("wr0ng")).path());
        assert!(reason.contains("assword") && !reason.contains("wr0ng"), "{reason}");
        if backend == "channels_redis.core" {
            // Without members nothing is put anywhere.
            let mut admin =
                redis::Client::open(host("s3cret")[0].as_str()).unwrap().get_connection().unwrap();
            let _: i64 = admin.zadd("asgi:group:chat_lobby", "specific.a!b", 9_999_999_999_i64).unwrap();
        }
        let reason = in_vain(folder(backend, &host("s3cret")).path());
        let command = if backend == "channels_redis.core" { "eval" } else { "publish" };
        assert!(reason.contains("NoPerm") && reason.contains(command), "{reason}");
        assert!(reason.contains(&format!("127.0.0.1:{}", redis.port())), "{reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
}
