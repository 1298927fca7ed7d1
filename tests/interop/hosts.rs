//! Redis reached by Django and by us in the same words: TLS, UNIX sockets, Sentinel; and a cluster.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::django::Django;
use crate::rooms::{ROUTES, chat, heard, member, quiet, works_within};
use crate::support::client::{Client, Frame};
use crate::support::redis::{RedisCluster, RedisServer, TlsRedis};
use crate::support::server::TestServer;
use crate::support::wait_until;

const LAYERS: [&str; 2] = ["pubsub", "core"];

/// What Django's settings say, as TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Django and a server of ours on the same host.
fn both(layer: &str, host: &Value) -> (Django, TestServer) {
    let hosts = json!([host]);
    let server = TestServer::start(&format!(
        "[layer]\nbackend = \"channels_redis.{layer}\"\nhosts = {}\n{ROUTES}",
        toml(&hosts)
    ));
    (Django::start(layer, &json!({ "hosts": hosts })), server)
}

/// Both hear each other.
fn talk(django: &mut Django, client: &mut Client) {
    django.group_send("chat_lobby", &chat("from Django"));
    assert_eq!(heard(client), "from Django");
    assert_eq!(django.received()["message"], "from Django");
    client.send_text(r#"{"message":"from here"}"#);
    assert_eq!(heard(client), "from here");
    assert_eq!(django.received()["message"], "from here");
}

fn talk_on(host: &Value) {
    for layer in LAYERS {
        let (mut django, server) = both(layer, host);
        let mut client = member(&server, "/chat/lobby/");
        django.join("chat_lobby");
        talk(&mut django, &mut client);
        drop(client);
        server.stop();
    }
}

#[tokio::test]
async fn django_and_the_sockets_hear_each_other_through_tls() {
    let redis = TlsRedis::start(&["127.0.0.1"], "yes").await;
    let at = |name: &str| redis.folder.path().join(name).display().to_string();
    talk_on(&json!({
        "address": redis.url(),
        "ssl_ca_certs": at("ca.pem"),
        "ssl_certfile": at("client.pem"),
        "ssl_keyfile": at("client.key"),
        "ssl_check_hostname": true,
        "socket_timeout": 20,
    }));
    let url = format!(
        "{}?ssl_cert_reqs=none&ssl_check_hostname=False&ssl_certfile={}&ssl_keyfile={}",
        redis.url(),
        at("client.pem"),
        at("client.key")
    );
    talk_on(&json!(url));
}

#[tokio::test]
async fn django_and_the_sockets_hear_each_other_through_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock").display().to_string();
    let _redis = RedisServer::start_with(&["--unixsocket", &path, "--requirepass", "hunter2"]).await;
    talk_on(&json!(format!("unix://:hunter2@{path}?db=1")));
}

#[tokio::test]
async fn django_and_the_sockets_hear_each_other_with_user_and_database() {
    let redis = RedisServer::start().await;
    let () = redis.ask("ACL SETUSER app on >p@ss/word ~* &* +@all");
    let () = redis.ask("ACL SETUSER default resetpass off");
    talk_on(&json!({
        "host": "127.0.0.1",
        "port": redis.port(),
        "username": "app",
        "password": "p@ss/word",
        "db": 2,
        "health_check_interval": 30,
        "encoding": "utf-8",
    }));
    talk_on(&json!(format!("redis://app:p%40ss%2Fword@127.0.0.1:{}/3", redis.port())));
}

#[tokio::test]
async fn django_and_the_sockets_hear_each_other_on_different_nodes_of_a_cluster() {
    let mut cluster = RedisCluster::start().await;
    let node = |number: usize| format!("redis://127.0.0.1:{}", cluster.masters[number].port());
    let server = TestServer::start(&format!(
        "[layer]\nbackend = \"channels_redis.pubsub\"\nhosts = [{{ cluster = [\"{}\"] }}]\n{ROUTES}",
        node(0)
    ));
    // It knows no cluster, and needs to know none to publish and to subscribe.
    let mut django = Django::start("pubsub", &json!({ "hosts": [node(2)] }));
    let mut client = member(&server, "/chat/lobby/");
    django.join("chat_lobby");
    talk(&mut django, &mut client);
    cluster.masters[0].kill();
    works_within(&mut client, Duration::from_secs(10));
    quiet(&mut client);
    django.group_send("chat_lobby", &chat("still there"));
    assert_eq!(heard(&mut client), "still there");
    client.send_text(r#"{"message":"here, too"}"#);
    while django.received()["message"] != "here, too" {}
    drop(client);
    server.stop();
}

#[tokio::test]
async fn django_and_the_sockets_follow_the_same_master() {
    for layer in LAYERS {
        let mut master = RedisServer::start().await;
        let replica =
            RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await;
        let sentinel = RedisServer::start_sentinel(&master).await;
        sentinel.knows(replica.port()).await;
        let host = json!({
            "sentinels": [["127.0.0.1", sentinel.port()]],
            "master_name": "m",
            "db": 0,
        });
        let (mut django, server) = both(layer, &host);
        let mut client = member(&server, "/chat/lobby/");
        django.join("chat_lobby");
        talk(&mut django, &mut client);

        master.kill();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut number = 0;
        let mut arrived = false;
        while !arrived {
            assert!(
                Instant::now() < deadline,
                "nothing from Django on the new master: {:?}",
                server.admin("/readyz").body
            );
            number += 1;
            // Python has no master meanwhile.
            django.try_group_send("chat_lobby", &chat(&format!("again {number}")));
            while !client.is_silent_for(Duration::from_millis(100)) {
                arrived |= matches!(client.next(), Frame::Text(text) if text.contains("again"));
            }
        }
        wait_until("the server is ready", || server.admin("/readyz").status == 200);
        assert!(replica.ask::<String>("INFO replication").contains("role:master"));
        quiet(&mut client);
        client.send_text(r#"{"message":"from here"}"#);
        assert_eq!(heard(&mut client), "from here");
        // A consumer on core is lost with its connection, in Python.
        if layer == "pubsub" {
            while django.received()["message"] != "from here" {}
        }
        drop(client);
        server.stop();
    }
}
