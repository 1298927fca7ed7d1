//! How the layers on Redis reach it: TLS, UNIX sockets, logins, and hosts that are not what they should be.

use std::path::Path;

use anteroom::config;
use anteroom::reload::FileSecrets;

use super::inboxes::ask;
use super::*;
use crate::support::redis::{TlsRedis, free_port};

pub(super) const KINDS: [Kind; 2] = [Kind::PubSub, Kind::Core];

/// The layer of a configuration whose files are in a folder.
pub(super) fn layer(kind: Kind, folder: &Path, hosts: &str) -> LayerConfig {
    let backend = match kind {
        Kind::PubSub => "channels_redis.pubsub",
        Kind::Core => "channels_redis.core",
    };
    let text = format!(
        "version = 1\n[layer]\nbackend = '{backend}'\nhosts = {hosts}\n[[route]]\nname = 'e'\npath = '/'\nhandler = 'echo'\n"
    );
    let loaded = config::load("routes.toml", &text, &FileSecrets::beside(&folder.join("routes.toml")));
    loaded.unwrap_or_else(|findings| panic!("{}", findings.render(false))).config.layer.to_channel_layer()
}

/// A message goes out and comes back.
pub(super) async fn round_trip(node: &Node, name: &str) {
    let room = group(name);
    node.join(0, &room).await;
    node.send(&room, 1).unwrap();
    assert_eq!(node.got(0, &room, 1).await, [1]);
}

/// Waits until a layer that cannot come up says this.
async fn says(node: &Node, what: &str) {
    eventually(&format!("the layer says `{what}`"), || {
        node.layer.health().error.is_some_and(|error| error.contains(what))
    })
    .await;
    assert!(!node.layer.health().up);
}

async fn refuses(kind: Kind, folder: &Path, hosts: &str, what: &str) {
    let node = Node::begin(layer(kind, folder, hosts));
    says(&node, what).await;
    node.stop().await;
}

fn tls_layer(redis: &TlsRedis, kind: Kind, words: &str) -> LayerConfig {
    layer(kind, redis.folder.path(), &tls_hosts(redis, words))
}

fn tls_hosts(redis: &TlsRedis, words: &str) -> String {
    format!("[{{ address = '{}'{words} }}]", redis.url())
}

#[tokio::test]
async fn rooms_work_through_tls() {
    let redis = TlsRedis::start(&["127.0.0.1"], "no").await;
    for kind in KINDS {
        let node = Node::start(tls_layer(&redis, kind, ", ssl_ca_certs = 'ca.pem'")).await;
        let in_clear = Node::start(kind.on(&redis.server)).await;
        round_trip(&node, "room").await;
        let room = group("room");
        in_clear.join(0, &room).await;
        in_clear.send(&room, 2).unwrap();
        assert_eq!(node.got(0, &room, 2).await, [1, 2]);
        node.stop().await;
        in_clear.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_refused_with_the_reason() {
    let redis = TlsRedis::start(&["redis.example"], "no").await;
    let folder = redis.folder.path();
    for kind in KINDS {
        refuses(
            kind,
            folder,
            &tls_hosts(&redis, ", ssl_ca_certs = 'other.pem'"),
            "TLS: invalid peer certificate: ",
        )
        .await;
        // It is neither one of the system's, …
        refuses(kind, folder, &tls_hosts(&redis, ""), "TLS: ").await;
        // … nor for this name …
        refuses(kind, folder, &tls_hosts(&redis, ", ssl_ca_certs = 'ca.pem'"), "not valid for name").await;
        // … unless that is no matter, …
        let words = ", ssl_ca_certs = 'ca.pem', ssl_check_hostname = false";
        let node = Node::start(tls_layer(&redis, kind, words)).await;
        round_trip(&node, "room").await;
        node.stop().await;
        let words = ", ssl_ca_certs = 'other.pem', ssl_check_hostname = false";
        refuses(kind, folder, &tls_hosts(&redis, words), "TLS: invalid peer certificate: ").await;
        // … or nothing is.
        let node = Node::start(tls_layer(&redis, kind, ", ssl_cert_reqs = 'none'")).await;
        round_trip(&node, "room").await;
        node.stop().await;
    }
    // To a server in clear it is as if nobody were there.
    let hosts = format!("['rediss://127.0.0.1:{}']", redis.server.port());
    refuses(Kind::PubSub, folder, &hosts, "connecting took too long").await;
}

#[tokio::test]
async fn a_certificate_is_shown_to_a_server_that_wants_one() {
    let redis = TlsRedis::start(&["127.0.0.1"], "yes").await;
    for kind in KINDS {
        let words = ", ssl_ca_certs = 'ca.pem', ssl_certfile = 'client.pem', ssl_keyfile = 'client.key'";
        let node = Node::start(tls_layer(&redis, kind, words)).await;
        round_trip(&node, "room").await;
        node.stop().await;
        // TLS 1.3 tells so after the handshake.
        let without = tls_hosts(&redis, ", ssl_ca_certs = 'ca.pem'");
        refuses(kind, redis.folder.path(), &without, "CertificateRequired").await;
    }
}

#[tokio::test]
async fn rooms_work_through_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock").display().to_string();
    let mut redis = RedisServer::start_with(&["--unixsocket", &path, "--requirepass", "hunter2"]).await;
    for kind in KINDS {
        let hosts = format!("['unix://:hunter2@{path}?db=0']");
        let node = Node::start(layer(kind, folder.path(), &hosts)).await;
        round_trip(&node, "room").await;
        redis.kill();
        node.is_down().await;
        redis.restart().await;
        node.is_up().await;
        round_trip(&node, "again").await;
        node.stop().await;
        refuses(kind, folder.path(), "['unix:///nowhere/redis.sock']", "No such file").await;
    }
}

#[tokio::test]
async fn user_password_database_and_name_are_those_of_the_settings() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    // What docs/redis.md says that the layers need.
    let pubsub = "allchannels +publish +subscribe +unsubscribe +psubscribe";
    let core = "~asgi* +bzmpop +bzpopmin +del +eval +exists +expire +set +zadd +zcard +zcount +zpopmin +zrange +zrem +zremrangebyscore";
    for (user, rights) in [("PubSub", pubsub), ("Core", core)] {
        let user = format!("ACL SETUSER {user} on >s3cret +select +client|setname {rights}");
        let () = ask(&mut redis, &user).await;
    }
    let () = ask(&mut redis, "ACL SETUSER open on nopass ~* &* +@all").await;
    let () = ask(&mut redis, "ACL SETUSER default off").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "s3cret\n").unwrap();
    let port = server.port();
    for kind in KINDS {
        let hosts = format!(
            "[{{ host = '127.0.0.1', port = {port}, username = '{kind:?}', password = {{ file = 'password' }}, db = 3, client_name = 'the-edge' }}]"
        );
        let node = Node::start(layer(kind, folder.path(), &hosts)).await;
        round_trip(&node, "room").await;
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await.unwrap();
        let ours: Vec<_> = clients.lines().filter(|client| client.contains(" name=the-edge ")).collect();
        assert!(!ours.is_empty(), "{clients}");
        assert!(
            ours.iter()
                .all(|client| client.contains(&format!(" user={kind:?} ")) && client.contains(" db=3 ")),
            "{ours:?}"
        );
        node.stop().await;
        let hosts = format!("['redis://open@127.0.0.1:{port}']");
        let node = Node::start(layer(kind, folder.path(), &hosts)).await;
        node.stop().await;
        let node =
            Node::begin(layer(kind, folder.path(), &format!("['redis://Core:wr0ng@127.0.0.1:{port}']")));
        says(&node, "WRONGPASS").await;
        assert!(!node.layer.health().error.unwrap().contains("wr0ng"));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_host_that_carries_no_messages_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let master = RedisServer::start().await;
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await;
    let cluster = RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &free_port().to_string(),
        "--dir",
        &folder.path().display().to_string(),
    ])
    .await;
    for kind in KINDS {
        refuses(kind, folder.path(), &format!("['{}']", replica.url()), "is a read only replica").await;
    }
    let hosts = format!("['redis://127.0.0.1:{}']", cluster.port());
    refuses(Kind::Core, folder.path(), &hosts, "it is a Redis Cluster").await;
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left() {
    let server = RedisServer::start().await;
    let mut redis = admin(&server).await;
    for kind in KINDS {
        let node = Node::start(kind.on(&server)).await;
        node.join(0, &group("room")).await;
        let () = ask(&mut redis, "REPLICAOF 127.0.0.1 1").await;
        node.is_down().await;
        says(&node, "is a read only replica").await;
        let () = ask(&mut redis, "REPLICAOF NO ONE").await;
        node.is_up().await;
        round_trip(&node, "room").await;
        node.stop().await;
    }
}
