//! The metrics page: its format, its names and labels, and what clients cannot do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use crate::support::client::{Client, handshake, request};
use crate::support::server::{TestServer, complete};
use crate::support::tls::Authority;
use crate::support::wait_until;

const ROUTES: &str = r#"
[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
group = "chat_{room_name}"
subprotocols = ["chat.v1"]

[[route]]
name = "echo"
path = '/echo/'
handler = "echo"

[[route]]
name = "page"
path = '/'
handler = "respond"
"#;

/// Labels whose values come from the configuration or the build.
const OPEN_LABELS: [&str; 8] =
    ["listener", "name", "route", "server", "sha256", "shard", "upstream", "version"];

/// A metric with all its series.
#[derive(Debug)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads a page of Prometheus' text format 0.0.4, more strictly than Prometheus does.
fn parse(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n') && !page.contains('\r'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect("a help text");
        assert!(is_name(name) && !help.trim().is_empty(), "{line}");
        let line = lines.next().unwrap();
        let kind = line.strip_prefix(&format!("# TYPE {name} ")).expect(line);
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = parse_sample(line);
            let of_family = match sample.name.strip_prefix(name) {
                Some("") => kind != "histogram",
                Some("_bucket" | "_sum" | "_count") => kind == "histogram",
                _ => false,
            };
            assert!(of_family, "`{line}` stands under {name}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            assert!(sample.value.is_finite() && (kind == "gauge" || 0.0 <= sample.value), "{line}");
            samples.push(sample);
        }
        assert!(!samples.is_empty(), "{name} has no series");
        if kind == "histogram" {
            check_histogram(name, &samples);
        }
        let family = Family { kind: kind.to_owned(), samples };
        assert!(families.insert(name.to_owned(), family).is_none(), "{name} stands there twice");
    }
    families
}

fn parse_sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let mut found = BTreeMap::new();
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        // No value of ours has a comma, a quote or a backslash in it.
        let (label, value) = label.split_once('=').expect(line);
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(line);
        assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
        assert!(found.insert(label.to_owned(), value.to_owned()).is_none(), "{line}");
    }
    Sample { name: name.to_owned(), labels: found, value: value.parse().expect(line) }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|ch: char| ch.is_ascii_lowercase())
        && text.chars().all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit() || ch == '_')
}

/// Buckets rise, and the last one is the count.
fn check_histogram(name: &str, samples: &[Sample]) {
    let mut sets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le").unwrap_or_else(|| panic!("a bucket of {name} without `le`"));
        sets.entry(labels).or_default().push((le.parse().unwrap(), sample.value));
    }
    for (labels, buckets) in sets {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}{labels:?}: {buckets:?}");
        let one = |suffix: &str| {
            let mut found =
                samples.iter().filter(|one| one.name == format!("{name}{suffix}") && one.labels == labels);
            let value = found.next().unwrap_or_else(|| panic!("{name}{labels:?} has no {suffix}")).value;
            assert!(found.next().is_none());
            value
        };
        let last = *buckets.last().unwrap();
        assert_eq!((last.0, last.1), (f64::INFINITY, one("_count")), "{name}{labels:?}");
        assert!(0.0 <= one("_sum"));
    }
}

/// The values that each label of a family has.
fn label_values(family: &Family) -> BTreeMap<&str, Vec<&str>> {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (label, value) in family.samples.iter().flat_map(|sample| &sample.labels) {
        let values = values.entry(label).or_default();
        if !values.contains(&value.as_str()) {
            values.push(value);
        }
    }
    values
}

/// What does not change from one start to the next: names, types, labels, and the values of closed sets.
fn outline(families: &BTreeMap<String, Family>) -> String {
    let mut out = String::new();
    for (name, family) in families {
        write!(out, "{name} {}", family.kind).unwrap();
        for (label, values) in label_values(family) {
            let values = if OPEN_LABELS.contains(&label) { "*".to_owned() } else { values.join("|") };
            write!(out, " {label}={values}").unwrap();
        }
        out.push('\n');
    }
    out
}

/// Series that may only rise, with their values.
fn rising(page: &str) -> BTreeMap<String, f64> {
    let mut kind = "";
    let mut found = BTreeMap::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            kind = family.rsplit(' ').next().unwrap();
        } else if !line.starts_with('#') && kind != "gauge" {
            let (series, value) = line.rsplit_once(' ').unwrap();
            found.insert(series.to_owned(), value.parse().unwrap());
        }
    }
    found
}

fn page(server: &TestServer) -> String {
    let page = server.admin("/metrics").body;
    parse(&page);
    page
}

/// A server with TLS and an application behind, so that all there is to count is there.
fn with_everything() -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    Authority::new().issue(&["localhost"]).write(folder.path(), "a");
    let listener = "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         tls = [{ cert = \"a.pem\", key = \"a.key\" }]\n";
    let behind = "[upstream.app]\nservers = [\"http://127.0.0.1:9\"]\n\
         [[route]]\nname = \"site\"\npath = '/site/.*'\nhandler = \"proxy\"\nupstream = \"app\"\n";
    fs::write(&path, complete(&format!("{listener}{ROUTES}{behind}"))).unwrap();
    TestServer::start_at(folder, &path, &[])
}

#[test]
fn names_types_and_labels_are_these() {
    let server = with_everything();
    insta::assert_snapshot!(outline(&parse(&page(&server))));
    server.stop();
}

#[test]
fn every_combination_is_there_from_the_start_and_counts_from_0() {
    let server = with_everything();
    for (name, family) in parse(&page(&server)) {
        if name.starts_with("process_") {
            continue;
        }
        if family.kind != "gauge" {
            let risen: Vec<_> = family.samples.iter().filter(|sample| sample.value != 0.0).collect();
            assert!(risen.is_empty(), "{risen:?}");
        }
        // Which statuses a plain request can get depends on the route.
        if family.kind != "histogram" && name != "anteroom_http_requests_total" {
            let combinations: usize = label_values(&family).values().map(Vec::len).product();
            assert_eq!(family.samples.len(), combinations, "{name}");
        }
    }
    server.stop();
}

#[test]
fn the_process_is_there_too() {
    let server = TestServer::start(ROUTES);
    let families = parse(&page(&server));
    let value = |name: &str| families[name].samples[0].value;
    for name in ["process_resident_memory_bytes", "process_virtual_memory_bytes", "process_threads"] {
        assert!(0.0 < value(name), "{name}");
    }
    assert!(value("process_open_fds") < value("process_max_fds"));
    assert!(1.7e9 < value("process_start_time_seconds"));
    assert!(families.contains_key("process_cpu_seconds_total"));
    server.stop();
}

#[test]
fn three_hundred_odd_clients_add_next_to_no_series_and_no_counter_falls() {
    let server = TestServer::start(ROUTES);
    let before = page(&server);
    let mut last = rising(&before);
    let mut compare = |when: &str| {
        let page = page(&server);
        let now = rising(&page);
        for (series, value) in &last {
            assert!(now.get(series).is_some_and(|now| value <= now), "{series} fell from {value} {when}");
        }
        last = now;
        page
    };

    let send = |head: String| request(server.address(), &format!("{head}Connection: close\r\n\r\n"));
    for at in 0..60 {
        send(format!("GET /odd{at} HTTP/1.1\r\nHost: localhost\r\n"));
        send(format!("ODD{at} /?odd{at} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: odd{at}\r\n"));
        send(format!("GET / HTTP/1.1\r\nHost: odd{at}.example\r\n"));
        send(format!(
            "GET /chat/odd{at}/ HTTP/1.1\r\nHost: localhost:{at}\r\nX-Forwarded-For: 1.1.1.{at}\r\n"
        ));
    }
    compare("while plain requests came");
    let mut open = Vec::new();
    for at in 0..60 {
        let connect = |path: &str, headers: &[(&str, &str)]| server.try_connect(path, headers);
        assert_eq!(connect(&format!("/odd{at}/"), &[]).unwrap_err().status, 404);
        let origin = format!("http://odd{at}.example");
        assert_eq!(connect("/echo/", &[("Origin", &origin)]).unwrap_err().status, 403);
        let subprotocol = format!("odd{at}");
        let offered = [("Sec-WebSocket-Protocol", subprotocol.as_str())];
        assert_eq!(connect("/chat/lobby/", &offered).unwrap_err().status, 400);
        let version =
            String::from_utf8(handshake("/echo/", &[])).unwrap().replace("n: 13", &format!("n: {}", at + 20));
        assert_eq!(Client::handshake(server.address(), version.as_bytes()).unwrap_err().status, 426);
        let mut client = connect(&format!("/chat/odd{at}/"), &[]).unwrap();
        client.send_text(&format!(r#"{{"message": "odd{at}", "odd{at}": 1}}"#));
        client.next_text();
        client.send_text(&format!("odd{at}"));
        client.next_text();
        open.push(client);
    }
    compare("while sockets were opened");
    for (at, mut client) in (0..).zip(open) {
        match at % 3 {
            // Codes that a client may send.
            0 => client.close(4000 + at),
            1 => client.send_raw(b"odd"),
            _ => client.hang_up(),
        }
    }
    for garbage in
        ["GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET / HTTP/1.1\r\nodd\r\n\r\n"]
    {
        request(server.address(), garbage);
    }
    server.wait_metric(r#"anteroom_websocket_connections{route="chat"}"#, 0.0);
    let after = compare("while sockets were closed");

    let added: Vec<_> = after
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    let known: BTreeSet<_> = before.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    let added: Vec<_> = added.into_iter().filter(|series| !known.contains(series)).collect();
    assert!(added.len() < 40, "{added:?}");
    assert!(!after.to_lowercase().contains("odd"), "{after}");

    // Every attempt is counted under one reason.
    let handshakes = after.lines().filter(|line| line.starts_with("anteroom_websocket_handshakes_total{"));
    let attempts: f64 = handshakes.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum();
    assert_eq!(attempts, 300.0);
    server.stop();
}

#[test]
fn a_reload_lets_no_counter_fall() {
    let server = TestServer::start(ROUTES);
    let talk = |path: &str| {
        let mut client = server.connect(path);
        client.send_text(r#"{"message": "counted"}"#);
        client.next_text();
    };
    talk("/echo/");
    talk("/chat/lobby/");
    server.get("/");
    wait_until("both sockets are closed", || {
        let series = server.metrics();
        ["chat", "echo"]
            .iter()
            .all(|route| series[&format!("anteroom_websocket_connections{{route=\"{route}\"}}")] == 0.0)
    });
    let before = rising(&page(&server));
    server.write_config(&format!("{ROUTES}[defaults]\nmax_message = \"1KiB\"\n"));
    server.wait_metric("anteroom_config_generation", 2.0);
    talk("/echo/");
    let echoed = r#"anteroom_websocket_messages_sent_total{opcode="text",route="echo"}"#;
    server.wait_metric(echoed, 2.0);
    let after = rising(&page(&server));
    for (series, value) in before {
        assert!(value <= after[&series], "{series} fell from {value}");
    }
    server.stop();
}
