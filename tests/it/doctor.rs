//! `anteroom doctor`: each trap, on a real Redis.

mod rewriting;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redis::Commands as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use self::rewriting::Rewriting;
use crate::support::command::{err, out, run};
use crate::support::redis::{RedisServer, TlsRedis};
use crate::support::server::complete;
use crate::support::{pause, wait_until};

const BACKENDS: [&str; 2] = ["channels_redis.core", "channels_redis.pubsub"];
const ECHO: &str = "[[route]]\nname = \"echo\"\npath = '/echo/'\nhandler = \"echo\"\n";

fn folder(backend: &str, hosts: &[String]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let layer = format!("[layer]\nbackend = \"{backend}\"\nhosts = {hosts:?}\n");
    fs::write(folder.path().join("routes.toml"), complete(&(layer + ECHO))).unwrap();
    folder
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

/// What the command found, in time and with the exit code that goes with it.
struct Report {
    findings: Vec<Value>,
    text: String,
}

impl Report {
    fn on(backend: &str, hosts: &[String]) -> Self {
        Self::of(folder(backend, hosts).path())
    }

    fn of(folder: &Path) -> Self {
        let output = run(folder, &["doctor", "--json"]);
        assert_eq!(err(&output), "");
        let findings: Vec<Value> = serde_json::from_str(out(&output)).unwrap();
        let failed = findings.iter().any(|finding| finding["severity"] == "failure");
        assert_eq!(output.status.code(), Some(i32::from(failed)), "{findings:?}");
        Self { findings, text: out(&output).to_owned() }
    }

    /// Asserts a finding with these words in its message or help.
    #[track_caller]
    fn has(&self, code: &str, severity: &str, words: &[&str]) {
        let fits = |finding: &&Value| {
            let text = format!("{} {}", finding["message"], finding["help"]);
            finding["code"] == code
                && finding["severity"] == severity
                && words.iter().all(|word| text.contains(word))
        };
        assert!(
            self.findings.iter().any(|finding| fits(&finding)),
            "{code} {severity} {words:?} in {}",
            self.text
        );
    }

    /// The codes of all findings that are neither good nor the note about redis-py.
    fn bad(&self) -> Vec<&str> {
        let bad = self
            .findings
            .iter()
            .filter(|finding| !["ok", "note"].contains(&finding["severity"].as_str().unwrap()));
        bad.map(|finding| finding["code"].as_str().unwrap()).collect()
    }
}

fn admin(redis: &RedisServer) -> redis::Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn a_redis_that_is_as_it_should_be_has_no_bad_finding_and_nothing_left_on_it() {
    let redis = RedisServer::start().await;
    for backend in BACKENDS {
        let folder = folder(backend, &[redis.url()]);
        let output = run(folder.path(), &["doctor"]);
        assert_eq!((output.status.code(), err(&output)), (Some(0), ""), "{}", out(&output));
        let lines: Vec<_> = out(&output).lines().collect();
        let place = format!("127.0.0.1:{}: ", redis.port());
        assert!(lines[0].starts_with(&format!("ok       connect     {place}connected")), "{lines:?}");
        assert_eq!(lines.last(), Some(&"0 failures, 0 warnings"));
        assert!(
            lines.iter().any(|line| line.starts_with(&format!("ok       round_trip  {place}"))),
            "{lines:?}"
        );
        assert!(!out(&output).contains('\u{1b}'), "{lines:?}");
        let report = Report::of(folder.path());
        assert_eq!(report.bad(), Vec::<&str>::new());
        report.has("commands", "ok", &[]);
        let mut admin = admin(&redis);
        assert_eq!(admin.keys::<_, Vec<String>>("*").unwrap(), Vec::<String>::new());
        let patterns: i64 = redis::cmd("PUBSUB").arg("NUMPAT").query(&mut admin).unwrap();
        let channels: Vec<String> = redis::cmd("PUBSUB").arg("CHANNELS").query(&mut admin).unwrap();
        assert_eq!((patterns, channels), (0, Vec::new()));
    }
}

#[tokio::test]
async fn a_message_goes_over_each_of_several_hosts() {
    let redis = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let hosts = redis.each_ref().map(RedisServer::url);
    for backend in BACKENDS {
        let report = Report::on(backend, &hosts);
        let trips = report.findings.iter().filter(|finding| finding["code"] == "round_trip");
        let trips: Vec<_> = trips.map(|trip| (trip["host"].as_str().unwrap(), &trip["severity"])).collect();
        let expected = redis.each_ref().map(|redis| format!("127.0.0.1:{}", redis.port()));
        let good = Value::from("ok");
        assert_eq!(trips, expected.each_ref().map(|host| (host.as_str(), &good)));
        let traps: &[&str] = if backend == "channels_redis.core" { &["hosts"] } else { &[] };
        assert_eq!(report.bad(), traps);
    }
}

#[test]
fn a_layer_in_memory_has_nothing_to_check_and_is_a_trap() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.toml"), complete(ECHO)).unwrap();
    let report = Report::of(folder.path());
    assert_eq!(report.bad(), ["memory"]);
    report.has(
        "memory",
        "warning",
        &["nothing to check", "neither Django nor a second server", "CHANNEL_LAYERS"],
    );
}

#[test]
fn a_configuration_that_cannot_be_used_is_shown_as_by_check() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wrong.toml"), complete(ECHO).replace("handler", "handlr")).unwrap();
    for flags in [&[][..], &["--json"]] {
        let run = |args: &[&str]| run(folder.path(), &[args, flags].concat());
        let told = |output: &Output| (output.status.code(), out(output).to_owned(), err(output).to_owned());
        let doctor = run(&["doctor", "-c", "wrong.toml"]);
        assert_eq!(doctor.status.code(), Some(78));
        assert_eq!(told(&doctor), told(&run(&["check", "wrong.toml"])));
    }
    assert_eq!(run(folder.path(), &["doctor"]).status.code(), Some(78));
}

#[tokio::test]
async fn a_redis_that_is_away_frozen_or_closed_to_us_is_a_failure_with_the_reason() {
    let away = RedisServer::stopped();
    let frozen = RedisServer::start().await;
    frozen.pause();
    let closed = RedisServer::start_with(&["--requirepass", "s3cret"]).await;
    for backend in BACKENDS {
        let since = Instant::now();
        let host = |port: u16| format!("redis://ann:hunter2@127.0.0.1:{port}");
        let hosts =
            [host(away.port()), host(frozen.port()), host(closed.port()), "redis://no.invalid".to_owned()];
        let report = Report::on(backend, &hosts);
        assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
        report.has("connect", "failure", &["Connection refused"]);
        report.has("connect", "failure", &["nothing answers", "frozen"]);
        report.has("connect", "failure", &["does not let `ann` in", "ACL LIST"]);
        let nowhere = report.findings.iter().find(|finding| finding["host"] == "no.invalid:6379").unwrap();
        assert_eq!((&nowhere["code"], &nowhere["severity"]), (&"connect".into(), &"failure".into()));
        assert!(!report.text.contains("hunter2") && !report.text.contains("round_trip"), "{}", report.text);
        let report = Report::on(backend, &[url(closed.port())]);
        report.has("connect", "failure", &["does not let `default` in"]);
    }
    frozen.resume();
}

#[tokio::test]
async fn a_redis_that_freezes_while_it_is_looked_at_is_a_failure_in_time() {
    let redis = RedisServer::start().await;
    let proxy =
        Rewriting::start(
            redis.port(),
            |command| {
                if command[0] == "SCAN" { Vec::new() } else { command.to_vec() }
            },
        );
    let since = Instant::now();
    let report = Report::on("channels_redis.core", &[url(proxy.port())]);
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    report.has("answers", "failure", &["at SCAN"]);
    report.has("version", "ok", &[]);
    assert_eq!(report.bad(), ["answers"]);
}

#[tokio::test]
async fn a_policy_that_evicts_is_a_warning_with_core() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"]).await;
    let report = Report::on("channels_redis.core", &[redis.url()]);
    report.has("eviction", "warning", &["allkeys-lru", "noeviction"]);
    assert_eq!(report.bad(), ["eviction"]);
    assert_eq!(Report::on("channels_redis.pubsub", &[redis.url()]).bad(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_redis_whose_memory_is_full_is_a_failure_with_core() {
    let redis = RedisServer::start_with(&["--maxmemory", "1"]).await;
    let report = Report::on("channels_redis.core", &[redis.url()]);
    report.has("usage", "failure", &["maxmemory", "refuses"]);
    report.has("round_trip", "failure", &["OOM"]);
    assert_eq!(report.bad(), ["usage", "commands", "round_trip"]);
    assert_eq!(Report::on("channels_redis.pubsub", &[redis.url()]).bad(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_command_that_the_user_may_not_run_is_named_with_what_to_grant() {
    let user = ["--user", "edge", "on", ">s3cret", "~*", "&*", "+@all"];
    let with = |denied: &'static [&'static str]| [&user, denied].concat();
    let host = |redis: &RedisServer| [format!("redis://edge:s3cret@127.0.0.1:{}", redis.port())];

    let redis =
        RedisServer::start_with(&with(&["-eval", "-zpopmin", "-info", "-scan", "-client|list"])).await;
    let report = Report::on("channels_redis.core", &host(&redis));
    report.has("commands", "failure", &["`EVAL` is refused", "'eval'", "`ACL SETUSER edge +eval`"]);
    report.has("commands", "warning", &["`ZPOPMIN` is refused", "Django", "+zpopmin"]);
    report.has("info", "note", &["edge +info"]);
    report.has("inboxes", "note", &["edge +scan"]);
    report.has("round_trip", "failure", &["NoPerm", "'eval'"]);
    assert_eq!(report.bad(), ["commands", "commands", "round_trip"]);
    assert!(!report.text.contains("s3cret"), "{}", report.text);

    let redis = RedisServer::start_with(&with(&["-publish"])).await;
    let report = Report::on("channels_redis.pubsub", &host(&redis));
    report.has("commands", "failure", &["`PUBLISH` is refused", "+publish"]);
    report.has("round_trip", "failure", &["'publish'"]);

    // Enough for groups, and not for the channels of single sockets.
    let user = ["--user", "edge", "on", ">s3cret", "~*", "resetchannels", "&asgi*", "+@all"];
    let redis = RedisServer::start_with(&user).await;
    let report = Report::on("channels_redis.pubsub", &host(&redis));
    report.has("commands", "warning", &["`PSUBSCRIBE`", "direct sends", "allchannels"]);
    assert_eq!(report.bad(), ["commands"]);

    let user = ["--user", "edge", "on", ">s3cret", "~other*", "&other*", "+@all"];
    let redis = RedisServer::start_with(&user).await;
    Report::on("channels_redis.core", &host(&redis)).has("commands", "failure", &["`ZADD`", "~asgi*"]);
    Report::on("channels_redis.pubsub", &host(&redis)).has("commands", "failure", &["`SUBSCRIBE`", "&asgi*"]);
}

/// The page says what a user must be allowed.
#[tokio::test]
async fn the_user_of_the_page_may_do_all_that_is_needed() {
    let page = fs::read_to_string("docs/doctor.md").unwrap();
    let grants = page.split_once("ACL SETUSER edge ").unwrap().1.lines().next().unwrap();
    let user: Vec<_> = ["--user", "edge"].into_iter().chain(grants.split(' ')).collect();
    let redis = RedisServer::start_with(&user).await;
    let host = [format!("redis://edge:secret@127.0.0.1:{}", redis.port())];
    let report = Report::on("channels_redis.core", &host);
    assert_eq!(report.bad(), Vec::<&str>::new());
    report.has("commands", "ok", &[]);
    report.has("round_trip", "ok", &[]);
    let report = Report::on("channels_redis.pubsub", &host);
    report.has("commands", "warning", &["`PSUBSCRIBE`", "direct sends"]);
    report.has("round_trip", "ok", &[]);
    assert_eq!(report.bad(), ["commands"]);
}

#[tokio::test]
async fn a_replica_is_found_and_its_primary_named() {
    let primary = RedisServer::start().await;
    let port = primary.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let place = format!("127.0.0.1:{port}");
    let mut on_replica = admin(&replica);
    wait_until("the replica has its copy", || {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut on_replica).unwrap();
        info.contains("master_link_status:up")
    });
    for backend in BACKENDS {
        let report = Report::on(backend, &[replica.url()]);
        report.has("role", "failure", &["this is a replica", &place]);
        report.has("round_trip", "failure", &["read only replica"]);
        let refused: &[&str] = if backend == "channels_redis.core" { &["commands"] } else { &[] };
        assert_eq!(report.bad(), [&["role"], refused, &["round_trip"]].concat());
    }
}

#[tokio::test]
async fn the_master_of_sentinels_is_looked_at_and_a_sentinel_is_no_server() {
    let master = RedisServer::start().await;
    let sentinel = RedisServer::start_sentinel(&master).await;
    let away = RedisServer::stopped();
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let write = |sentinels: &str, name: &str| {
            let host = format!("{{ sentinels = [{sentinels}], master_name = \"{name}\" }}");
            let layer = format!("[layer]\nbackend = \"{backend}\"\nhosts = [{host}]\n");
            fs::write(folder.path().join("routes.toml"), complete(&(layer + ECHO))).unwrap();
        };
        let place = |redis: &RedisServer| format!("[\"127.0.0.1\", {}]", redis.port());
        write(&format!("{}, {}", place(&away), place(&sentinel)), "m");
        let report = Report::of(folder.path());
        report.has("connect", "ok", &[&format!("connected to 127.0.0.1:{}", master.port())]);
        report.has("round_trip", "ok", &[]);
        assert_eq!(report.bad(), Vec::<&str>::new());
        write(&place(&sentinel), "other");
        Report::of(folder.path()).has("connect", "failure", &["knows no master", "`other`"]);
        let report = Report::on(backend, &[sentinel.url()]);
        report.has("connect", "failure", &["is a Sentinel", "master_name"]);
        assert_eq!(report.findings.len(), 1, "{}", report.text);
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_count_is_a_failure() {
    let redis = TlsRedis::start(&["127.0.0.1"], "no").await;
    let with = |authority: &str| {
        let host = format!("{{ address = \"{}\", ssl_ca_certs = \"{authority}\" }}", redis.url());
        let layer = format!("[layer]\nbackend = \"channels_redis.core\"\nhosts = [{host}]\n");
        fs::write(redis.folder.path().join("routes.toml"), complete(&(layer + ECHO))).unwrap();
        Report::of(redis.folder.path())
    };
    let report = with("ca.pem");
    report.has("round_trip", "ok", &[]);
    assert_eq!(report.bad(), Vec::<&str>::new());
    with("other.pem").has("connect", "failure", &["TLS", "certificate"]);
}

#[tokio::test]
async fn a_unix_socket_is_named_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock").display().to_string();
    let _redis = RedisServer::start_with(&["--unixsocket", &path]).await;
    let report = Report::on("channels_redis.pubsub", &[format!("unix://{path}")]);
    assert!(report.findings.iter().all(|finding| finding["host"] == path.as_str()), "{}", report.text);
    report.has("round_trip", "ok", &[]);
    assert_eq!(report.bad(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_node_of_a_cluster_is_of_no_use_for_core() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = folder.path().join("nodes.conf");
    let bus = RedisServer::stopped().port().to_string();
    let nodes = nodes.to_str().unwrap();
    let options = ["--cluster-enabled", "yes", "--cluster-config-file", nodes, "--cluster-port", &bus];
    let redis = RedisServer::start_with(&options).await;
    let report = Report::on("channels_redis.core", &[redis.url()]);
    report.has("cluster", "failure", &["does not work", "channels_redis.pubsub"]);
    report.has("commands", "failure", &["`SET`", "`EVAL`", "ClusterDown", "no matter of permissions"]);
    assert_eq!(report.bad(), ["cluster", "commands", "round_trip"]);
    let report = Report::on("channels_redis.pubsub", &[redis.url()]);
    report.has("cluster", "note", &["any of them"]);
    assert_eq!(report.bad(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_clock_that_is_off_is_found() {
    let redis = RedisServer::start().await;
    let cases =
        [(3.0, "warning", "ahead of ours"), (-3.0, "warning", "behind ours"), (90.0, "failure", "prunes")];
    for (off, severity, word) in cases {
        let script = format!("local t = redis.call('TIME') return {{tostring(t[1] + {off}), t[2]}}");
        let proxy = Rewriting::start(redis.port(), move |command| match command[0].as_str() {
            "TIME" => ["EVAL", &script, "0"].map(str::to_owned).to_vec(),
            _ => command.to_vec(),
        });
        let report = Report::on("channels_redis.core", &[url(proxy.port())]);
        report.has("clock", severity, &[word, "NTP"]);
        assert_eq!(report.bad(), ["clock"]);
        assert_eq!(Report::on("channels_redis.pubsub", &[url(proxy.port())]).bad(), Vec::<&str>::new());
    }
}

/// The Redis here is too old to know the libraries of its clients, so a newer one is played.
#[tokio::test]
async fn clients_with_redis_py_8_are_found() {
    let redis = RedisServer::start().await;
    Report::on("channels_redis.core", &[redis.url()]).has(
        "redis_py",
        "note",
        &["before 7.2", "socket_timeout"],
    );
    let info = "return (string.gsub(redis.call('INFO'), 'redis_version:[%d.]*', 'redis_version:7.4.1'))";
    let list = "return 'id=1 lib-name=redis-py lib-ver=8.1.0\\nid=2 lib-name=redis-py lib-ver=5.2.1\\n'";
    let proxy = Rewriting::start(redis.port(), move |command| {
        let script = match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["INFO"] => info,
            ["CLIENT", "LIST"] => list,
            _ => return command.to_vec(),
        };
        ["EVAL", script, "0"].map(str::to_owned).to_vec()
    });
    let report = Report::on("channels_redis.core", &[url(proxy.port())]);
    report.has("redis_py", "warning", &["1 connection with redis-py 8", "socket_timeout", "redis<8"]);
    assert_eq!(report.bad(), ["redis_py"]);
}

#[tokio::test]
async fn a_redis_without_resp3_is_too_old() {
    let redis = RedisServer::start().await;
    // Redis 5, and some later one where the command is renamed.
    for name in ["`HELLO`", "'HELLO'"] {
        let proxy = Rewriting::start(redis.port(), move |command| {
            let error = format!("return redis.error_reply(\"ERR unknown command {name}, with args\")");
            if command[0] == "HELLO" {
                vec!["EVAL".to_owned(), error, "0".to_owned()]
            } else {
                command.to_vec()
            }
        });
        let report = Report::on("channels_redis.pubsub", &[url(proxy.port())]);
        report.has("connect", "failure", &["RESP3", "version 6"]);
    }
}

#[tokio::test]
async fn connections_that_come_and_go_are_found() {
    let redis = RedisServer::start().await;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _: i64 = admin(&redis).publish("asgi__group__g", "x").unwrap();
                pause(Duration::from_millis(10));
            }
        });
        let report = Report::on("channels_redis.pubsub", &[redis.url()]);
        stop.store(true, Ordering::Relaxed);
        report.has("connections", "warning", &["connections a second", "async_to_sync"]);
        assert_eq!(report.bad(), ["connections"]);
    });
}

#[tokio::test]
async fn inboxes_and_groups_of_dead_processes_are_named() {
    let redis = RedisServer::start().await;
    let mut admin = admin(&redis);
    // A neighbour, and what only looks like an inbox.
    for key in ["asgi2specific.aa!", "asgispecific.bb!$inflight"] {
        let _: i64 = admin.zadd(key, "x", 1).unwrap();
    }
    let _: i64 = admin.zadd("asgispecific.cc!", "x", now()).unwrap();
    Report::on("channels_redis.core", &[redis.url()]).has("inboxes", "ok", &["1 inbox holds", "1 of 100"]);

    for message in 0..100 {
        let _: i64 = admin.zadd("asgispecific.dd!", message, now()).unwrap();
    }
    let report = Report::on("channels_redis.core", &[redis.url()]);
    report.has("inboxes", "warning", &["asgispecific.dd! with 100 of 100"]);
    report.has("groups", "ok", &[]);
    assert_eq!(report.bad(), ["inboxes"]);

    let _: i64 = admin.zadd("asgispecific.ee!", "x", now() - 30.0).unwrap();
    for member in 0..12 {
        let _: i64 = admin.zadd("asgi:group:chat_lobby", format!("specific.ee!{member}"), now()).unwrap();
    }
    // Nodes of anteroom show that they live; this one does not.
    for (group, node) in [("one", "ff"), ("two", "ff"), ("two", "gg"), ("two", "hh")] {
        let key = format!("asgi:group:{group}");
        let _: i64 = admin.zadd(key, format!("specific.{node}!anteroom.1"), now()).unwrap();
    }
    let _: () = admin.set_ex("asgi:node:hh", 1, 60).unwrap();
    let report = Report::on("channels_redis.core", &[redis.url()]);
    report.has("inboxes", "warning", &["asgispecific.ee! with 1 of 100"]);
    report.has("groups", "warning", &["chat_lobby (12 of 12), two (2 of 3)", "group_expiry"]);
    assert!(!report.text.contains("one (") && !report.text.contains("asgi2"), "{}", report.text);
}
