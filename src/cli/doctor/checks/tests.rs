use std::time::Duration;

use super::*;
use crate::channel_layer::GroupFacts;
use crate::cli::doctor::finding::Severity;

const CORE: Kind = Kind::Core { expiry: 60 };
const INFO: &str = "redis_version:7.4.0\nrole:master\ncluster_enabled:0\nmaxmemory_policy:noeviction\nmaxmemory:0\n\
                    used_memory:1000\nconnected_clients:3\nmaxclients:10000\n";

/// A host with nothing to complain about.
fn healthy() -> HostFacts {
    HostFacts {
        connected: Ok(Duration::from_millis(1)),
        info: Ok(Info::parse(INFO)),
        clock: Ok(ClockFacts { ahead: 0.0, round_trip: 0.001 }),
        commands: vec![("PUBLISH", Ok(()))],
        traffic: Ok(Traffic { seconds: 1.0, opened: 0, grown: 0 }),
        clients: Ok(Vec::new()),
        store: Ok(Store { whole: true, ..Store::default() }),
        ..HostFacts::unknown("h:6379".to_owned(), "ann".to_owned())
    }
}

/// A healthy host but for some lines of its `INFO`.
fn informed(lines: &str) -> HostFacts {
    HostFacts { info: Ok(Info::parse(&format!("{INFO}{lines}"))), ..healthy() }
}

/// The worst finding with a code.
fn worst(kind: Kind, host: &HostFacts, code: Code) -> Option<Finding> {
    let findings = check(kind, std::slice::from_ref(host));
    findings.into_iter().filter(|finding| finding.code == code).max_by_key(|finding| finding.severity)
}

#[track_caller]
fn assert_found(kind: Kind, host: &HostFacts, code: Code, severity: Severity, words: &[&str]) {
    let finding = worst(kind, host, code).unwrap_or_else(|| panic!("no {code:?} of {host:?}"));
    assert_eq!(finding.severity, severity, "{finding:?}");
    assert_eq!(finding.host.as_deref(), Some("h:6379"));
    let text = format!("{} {}", finding.message, finding.help.clone().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{word}: {finding:?}");
    }
    assert_eq!(finding.help.is_some(), severity != Severity::Ok, "{finding:?}");
}

#[test]
fn a_healthy_host_has_only_good_findings() {
    for kind in [CORE, Kind::PubSub] {
        let findings = check(kind, &[healthy()]);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
        assert!(5 <= findings.len() && findings.iter().all(|finding| finding.help.is_none()), "{findings:?}");
    }
}

#[test]
fn whatever_is_not_good_says_what_to_do() {
    let bad = HostFacts {
        clock: Ok(ClockFacts { ahead: 90.0, round_trip: 0.0 }),
        commands: vec![("EVAL", Err(Denied { why: Why::Command, reason: "no".to_owned() }))],
        traffic: Ok(Traffic { seconds: 1.0, opened: 99, grown: 0 }),
        silent_at: Some("SCAN"),
        ..informed("role:slave\nmaxmemory:1000\nmaxmemory_policy:allkeys-lru\n")
    };
    let findings = check(CORE, &[bad.clone(), bad]);
    let bad = findings.iter().filter(|finding| finding.severity != Severity::Ok);
    assert_eq!(bad.clone().count(), 1 + 2 * 7, "{findings:?}");
    assert!(bad.into_iter().all(|finding| finding.help.is_some()), "{findings:?}");
}

#[test]
fn a_host_that_cannot_be_reached_is_a_failure_with_its_reason() {
    let cases = [
        (Unreached::Away("Connection refused".to_owned()), ["Connection refused", "listens"]),
        (Unreached::Login("WRONGPASS".to_owned()), ["does not let `ann` in: WRONGPASS", "ACL LIST"]),
        (Unreached::Silent, ["nothing answers", "frozen"]),
        (Unreached::TooOld, ["RESP3", "version 6"]),
        (Unreached::Sentinel, ["is a Sentinel", "master_name"]),
    ];
    for (unreached, words) in cases {
        let host = HostFacts { connected: Err(unreached), ..healthy() };
        assert_found(CORE, &host, Code::Connect, Severity::Failure, &words);
        assert_eq!(check(CORE, &[host]).len(), 1);
    }
    let found = HostFacts { server: "h2:7000".to_owned(), ..healthy() };
    assert_found(CORE, &found, Code::Connect, Severity::Ok, &["connected to h2:7000 and logged in as `ann`"]);
    let host = HostFacts { silent_at: Some("SCAN"), ..healthy() };
    assert_found(CORE, &host, Code::Answers, Severity::Failure, &["at SCAN", "SLOWLOG"]);
}

#[test]
fn what_info_says_is_judged_by_what_the_layer_needs() {
    use Severity::{Failure, Note, Ok, Warning};
    let cases = [
        // layer, lines of INFO, code, severity, words
        (CORE, "redis_version:6.2.1", Code::Version, Note, &["6.2.1", "BZMPOP"][..]),
        (Kind::PubSub, "redis_version:6.2.1", Code::Version, Ok, &["6.2.1"]),
        (Kind::PubSub, "redis_version:5.0.14", Code::Version, Failure, &["too old"]),
        (CORE, "redis_version:unstable", Code::Version, Note, &["unstable"]),
        (
            CORE,
            "role:slave\nmaster_host:db1\nmaster_port:6380",
            Code::Role,
            Failure,
            &["heard nowhere", "db1:6380"],
        ),
        (Kind::PubSub, "role:slave", Code::Role, Failure, &["heard nowhere"]),
        (Kind::PubSub, "role:slave\ncluster_enabled:1", Code::Role, Ok, &["in a cluster"]),
        (CORE, "loading:1", Code::Role, Failure, &["loading"]),
        (CORE, "cluster_enabled:1", Code::Cluster, Failure, &["does not work", "channels_redis.pubsub"]),
        (Kind::PubSub, "cluster_enabled:1", Code::Cluster, Note, &["any of them"]),
        (CORE, "maxmemory_policy:allkeys-lru", Code::Eviction, Note, &["allkeys-lru", "no `maxmemory`"]),
        (
            CORE,
            "maxmemory_policy:volatile-ttl\nmaxmemory:9000",
            Code::Eviction,
            Warning,
            &["volatile-ttl", "noeviction"],
        ),
        (CORE, "maxmemory:1000000", Code::Usage, Ok, &["0 %"]),
        (CORE, "maxmemory:1100", Code::Usage, Warning, &["90 %", "1000 of 1100"]),
        (CORE, "maxmemory:1000", Code::Usage, Failure, &["100 %", "refuses"]),
        (CORE, "maxmemory:1000\nmaxmemory_policy:allkeys-lru", Code::Usage, Warning, &["100 %"]),
        (Kind::PubSub, "maxmemory:1000", Code::Usage, Ok, &["100 %"]),
        (Kind::PubSub, "connected_clients:9000", Code::Usage, Warning, &["9000 of 10000", "maxclients"]),
    ];
    for (kind, lines, code, severity, words) in cases {
        assert_found(kind, &informed(lines), code, severity, words);
    }
    // Pub/sub keeps nothing that could be evicted.
    let evicting = informed("maxmemory_policy:allkeys-lru\nmaxmemory:9000");
    assert_eq!(worst(Kind::PubSub, &evicting, Code::Eviction), None);
    let silent = HostFacts { info: Err(Some("NoPerm".to_owned())), ..healthy() };
    assert_found(CORE, &silent, Code::Info, Note, &["NoPerm", "ACL SETUSER ann +info"]);
}

#[test]
fn clocks_may_differ_by_a_second_and_must_not_by_the_life_of_a_message() {
    use Severity::{Failure, Ok, Warning};
    let cases = [
        // how far ahead, on the way, expiry, severity, words
        (0.2, 0.0, 60, Ok, "ahead of"),
        (-0.9, 0.0, 60, Ok, "behind"),
        (1.5, 0.0, 60, Warning, "1.500 s ahead of ours"),
        (-1.5, 0.0, 60, Warning, "1.500 s behind ours"),
        // It may as well have been the way.
        (1.5, 1.2, 60, Ok, "ahead"),
        (61.0, 0.0, 3600, Failure, "prunes"),
        (-61.0, 0.0, 60, Failure, "NTP"),
        (11.0, 0.0, 10, Failure, "prunes"),
        (9.0, 0.0, 10, Warning, "NTP"),
    ];
    for (ahead, round_trip, expiry, severity, word) in cases {
        let host = HostFacts { clock: Result::Ok(ClockFacts { ahead, round_trip }), ..healthy() };
        assert_found(Kind::Core { expiry }, &host, Code::Clock, severity, &[word]);
        assert_eq!(worst(Kind::PubSub, &host, Code::Clock), None);
    }
}

#[test]
fn commands_that_are_refused_are_named_with_what_to_grant() {
    use Severity::{Failure, Warning};
    let denied = |why| Err(Denied { why, reason: "so it is".to_owned() });
    let cases = [
        // commands, why, severity, words
        (
            &["EVAL", "SET"][..],
            Why::Command,
            Failure,
            &["`EVAL`, `SET` are refused: so it is", "ann +eval +set`"][..],
        ),
        (&["ZCOUNT"], Why::Command, Warning, &["`ZCOUNT` is refused", "needed by Django", "+zcount`"]),
        // Without BZMPOP, which Redis has from version 7 on, we need it ourselves.
        (&["ZPOPMIN"], Why::Command, Failure, &["`ZPOPMIN` is refused: so it is", "+zpopmin`"]),
        (&["ZADD"], Why::Key, Failure, &["`ZADD` is refused", "`ACL SETUSER ann ~asgi*`"]),
        (
            &["PUBLISH", "PUBLISH"],
            Why::Channel,
            Failure,
            &["`PUBLISH` is refused", "`ACL SETUSER ann &asgi*`"],
        ),
        (&["PSUBSCRIBE"], Why::Channel, Warning, &["direct sends", "`ACL SETUSER ann allchannels`"]),
        (&["EVAL"], Why::Unknown, Failure, &["rename-command"]),
        (
            &["SET", "ZCOUNT"],
            Why::State,
            Failure,
            &["`SET`, `ZCOUNT` are refused", "no matter of permissions"],
        ),
    ];
    for (names, why, severity, words) in cases {
        let mut host = healthy();
        host.commands.extend(names.iter().map(|name| (*name, denied(why))));
        assert_found(CORE, &host, Code::Commands, severity, words);
        let found = check(CORE, &[host]);
        assert_eq!(found.iter().filter(|finding| finding.code == Code::Commands).count(), 1, "{found:?}");
    }
    let mut host = healthy();
    host.commands.extend([
        ("EVAL", denied(Why::Command)),
        ("ZCOUNT", denied(Why::Command)),
        ("SET", denied(Why::Key)),
    ]);
    let found = check(CORE, &[host]);
    assert_eq!(found.iter().filter(|finding| finding.code == Code::Commands).count(), 3, "{found:?}");
    let mut host = healthy();
    host.commands.extend([("BZMPOP", Ok(())), ("BZPOPMIN", denied(Why::Command))]);
    assert_found(CORE, &host, Code::Commands, Warning, &["needed by Django"]);
}

#[test]
fn connections_that_are_closed_again_are_churn_and_those_that_stay_are_not() {
    use Severity::{Ok, Warning};
    let cases = [
        // opened, more in the end, seconds, severity
        (4, 0, 1.0, Ok),
        (5, 0, 1.0, Warning),
        (300, 300, 1.0, Ok),
        (300, 290, 1.0, Warning),
        (300, 0, 100.0, Ok),
    ];
    for (opened, grown, seconds, severity) in cases {
        let host = HostFacts { traffic: Result::Ok(Traffic { seconds, opened, grown }), ..healthy() };
        assert_found(Kind::PubSub, &host, Code::Connections, severity, &["a second"]);
    }
    let host = HostFacts { traffic: Result::Ok(Traffic { seconds: 2.0, opened: 84, grown: 0 }), ..healthy() };
    assert_found(CORE, &host, Code::Connections, Warning, &["42 connections a second", "async_to_sync"]);
}

#[test]
fn clients_with_redis_py_8_are_a_trap_with_core() {
    use Severity::{Note, Ok, Warning};
    let client = |library: &str, version: &str| ClientFacts {
        library: library.to_owned(),
        version: version.to_owned(),
    };
    let with = |clients: &[ClientFacts]| HostFacts { clients: Result::Ok(clients.to_vec()), ..healthy() };
    let fine = with(&[client("redis-py", "7.1.0"), client("anteroom", "8.0.0"), client("", "")]);
    assert_found(CORE, &fine, Code::RedisPy, Ok, &["1 connection with redis-py"]);
    let trap = with(&[
        client("redis-py", "8.1.0"),
        client("redis-py(hiredis)", "10.0"),
        client("redis-py", "5.2.1"),
    ]);
    assert_found(
        CORE,
        &trap,
        Code::RedisPy,
        Warning,
        &["2 connections with redis-py 8", "\"socket_timeout\": None"],
    );
    assert_eq!(worst(Kind::PubSub, &trap, Code::RedisPy), None);
    let old = HostFacts { clients: Result::Ok(vec![client("", "")]), ..informed("redis_version:7.0.15") };
    assert_found(CORE, &old, Code::RedisPy, Note, &["before 7.2", "redis<8"]);
    let refused = HostFacts { clients: Err(Some("NoPerm".to_owned())), ..healthy() };
    assert_found(CORE, &refused, Code::RedisPy, Note, &["NoPerm", "redis<8"]);
}

#[test]
fn several_hosts_are_a_trap_with_core() {
    let found = |kind, hosts: usize| {
        let findings = check(kind, &vec![healthy(); hosts]);
        findings.into_iter().find(|finding| finding.code == Code::Hosts)
    };
    assert_eq!((found(CORE, 1), found(Kind::PubSub, 3)), (None, None));
    let finding = found(CORE, 2).unwrap();
    assert_eq!((finding.severity, finding.host), (Severity::Warning, None));
    assert!(finding.message.contains("with 2 hosts") && finding.message.contains("4 in 10"));
}

#[test]
fn an_inbox_that_is_full_or_not_emptied_is_named() {
    use Severity::{Ok, Warning};
    let inbox = |key: &str, waiting, stale| InboxFacts { key: key.to_owned(), capacity: 100, waiting, stale };
    let with = |whole, inboxes: &[InboxFacts]| HostFacts {
        store: Result::Ok(Store { whole, inboxes: inboxes.to_vec(), groups: Vec::new() }),
        ..healthy()
    };
    let cases = [
        (with(true, &[]), Ok, &["no inbox holds messages"][..]),
        (with(true, &[inbox("a!", 7, 0), inbox("b!", 1, 0)]), Ok, &["2 inboxes hold", "7 of 100"]),
        (with(false, &[inbox("a!", 1, 0)]), Ok, &["1 inbox holds", "not all keys"]),
        (
            with(true, &[inbox("a!", 100, 0), inbox("b!", 1, 0)]),
            Warning,
            &["1 inbox is", "a! with 100 of 100"],
        ),
        (with(true, &[inbox("a!", 9, 0), inbox("b!", 3, 1)]), Warning, &["1 inbox is", "b! with 3 of 100"]),
        (with(true, &vec![inbox("a!", 100, 1); 5]), Warning, &["5 inboxes are", "and 2 more"]),
    ];
    for (host, severity, words) in cases {
        assert_found(CORE, &host, Code::Inboxes, severity, words);
    }
    let host = HostFacts { store: Err(Some("NoPerm".to_owned())), ..healthy() };
    assert_found(CORE, &host, Code::Inboxes, Severity::Note, &["NoPerm", "+scan"]);
}

#[test]
fn a_group_full_of_dead_members_is_named() {
    use Severity::{Ok, Warning};
    let stuck = InboxFacts { key: "dead!".to_owned(), capacity: 100, waiting: 5, stale: 5 };
    let group = |dead_inbox, other, of_dead_nodes| GroupFacts {
        name: "g".to_owned(),
        members: 1000,
        seen: dead_inbox + other + of_dead_nodes,
        inboxes: vec![("dead!".to_owned(), dead_inbox), ("alive!".to_owned(), other)],
        of_dead_nodes,
    };
    let cases = [
        (group(0, 50, 0), Ok),
        // One may have died just now.
        (group(1, 0, 0), Ok),
        (group(3, 4, 0), Ok),
        (group(3, 2, 0), Warning),
        (group(10, 400, 0), Warning),
        (group(0, 1, 4), Warning),
    ];
    for (group, severity) in cases {
        let store = Store { whole: true, inboxes: vec![stuck.clone()], groups: vec![group] };
        let host = HostFacts { store: Result::Ok(store), ..healthy() };
        assert_found(CORE, &host, Code::Groups, severity, &[]);
    }
    // The inbox of a member may be on another host than its group.
    let with = |inboxes, groups| HostFacts {
        store: Result::Ok(Store { whole: true, inboxes, groups }),
        ..healthy()
    };
    let findings = check(CORE, &[with(vec![stuck], Vec::new()), with(Vec::new(), vec![group(40, 2, 0)])]);
    let found: Vec<_> = findings.iter().filter(|finding| finding.code == Code::Groups).collect();
    assert_eq!((found[0].severity, found[1].severity), (Ok, Warning));
    assert!(found[1].message.contains("g (40 of 42)"), "{findings:?}");
}
