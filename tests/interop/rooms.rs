//! What the tests have in common in which Django and sockets are in a room.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::django::Django;
use crate::support::client::{Client, Frame};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::wait_until;

/// Within this time of the return of Redis rooms must work again.
pub(crate) const RETURN_MAX: Duration = Duration::from_secs(10);

pub(crate) const ROUTES: &str = r#"
[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
group = "chat_{room_name}"
receive = { type = "chat.message", pick = ["message"] }
deliver = { "chat.message" = { pick = ["message"] } }

[[route]]
name = "raw"
re_path = '^raw/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
format = "raw"
group = "raw_{room_name}"

[[route]]
name = "echo"
path = '/echo/'
handler = "echo"
"#;

/// A server with these routes, whose layer is `core` or `pubsub` on these hosts, with more settings of it as TOML.
pub(crate) fn start(layer: &str, hosts: &[&RedisServer], settings: &str, routes: &str) -> TestServer {
    let hosts: Vec<_> = hosts.iter().map(|host| host.url()).collect();
    TestServer::start(&format!(
        "[layer]\nbackend = \"channels_redis.{layer}\"\nhosts = {hosts:?}\n{settings}\n{routes}"
    ))
}

/// A Django process on these hosts with more settings of `CONFIG`.
pub(crate) fn django(layer: &str, hosts: &[&RedisServer], mut settings: Value) -> Django {
    settings["hosts"] = hosts.iter().map(|host| json!(host.url())).collect();
    Django::start(layer, &settings)
}

/// A client in a room that has heard itself there.
pub(crate) fn member(server: &TestServer, path: &str) -> Client {
    let mut client = server.connect(path);
    client.send_text(r#"{"message":"here I am"}"#);
    while client.next_text() != r#"{"message":"here I am"}"# {}
    client
}

pub(crate) fn chat(message: &str) -> Value {
    json!({ "type": "chat.message", "message": message })
}

/// The `message` of the next frame.
pub(crate) fn heard(client: &mut Client) -> Value {
    let text = client.next_text();
    let mut frame: Value = serde_json::from_str(&text).unwrap();
    assert!(frame.get("message").is_some(), "{text}");
    frame["message"].take()
}

/// Waits until `/readyz` says so.
pub(crate) fn wait_ready(server: &TestServer, ready: bool) {
    let status = if ready { 200 } else { 503 };
    wait_until(&format!("/readyz answers {status}"), || server.admin("/readyz").status == status);
    let page: Value = serde_json::from_str(&server.admin("/readyz").body).unwrap();
    assert_eq!((&page["ready"], &page["checks"]["layer"]["ok"]), (&json!(ready), &json!(ready)), "{page}");
}

/// Sends until something comes back; everything else that comes is passed over.
pub(crate) fn works_within(client: &mut Client, time: Duration) {
    let deadline = Instant::now() + time;
    for attempt in 0.. {
        assert!(Instant::now() < deadline, "the room does not work again within {time:?}");
        client.send_text(&json!({ "message": format!("attempt {attempt}") }).to_string());
        while !client.is_silent_for(Duration::from_millis(100)) {
            if let Frame::Text(text) = client.next()
                && text.contains("attempt ")
            {
                return;
            }
        }
    }
}

/// Takes what has come until nothing does for a while.
pub(crate) fn quiet(client: &mut Client) {
    while !client.is_silent_for(Duration::from_millis(300)) {
        client.next();
    }
}

/// Django and sockets in one room say values of all kinds, and each hears all of them.
pub(crate) fn hear_each_other(server: &TestServer, django: &mut Django, case: &str) {
    let mut ann = member(server, "/chat/lobby/");
    let mut bob = member(server, "/chat/lobby/");
    assert_eq!(heard(&mut ann), "here I am");
    django.join("chat_lobby");
    let values = [
        json!("hello from Django"),
        json!("\u{1f680} \u{e9}\u{0}"),
        json!({ "nested": [1, -7, 2.5, null, true, "x"], "big": u64::MAX }),
        json!(i64::MIN),
        json!("x".repeat(40_000)),
    ];
    for value in &values {
        django.group_send("chat_lobby", &json!({ "type": "chat.message", "message": value, "other": 1 }));
        for client in [&mut ann, &mut bob] {
            assert_eq!(&heard(client), value, "{case}");
        }
        assert_eq!(&django.received()["message"], value);
    }
    for value in &values {
        ann.send_text(&json!({ "message": value, "not picked": 1 }).to_string());
        assert_eq!(django.received(), json!({ "type": "chat.message", "message": value }), "{case}");
        for client in [&mut ann, &mut bob] {
            assert_eq!(&heard(client), value, "{case}");
        }
    }
}
