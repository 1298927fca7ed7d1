//! The Autobahn test suite against `handler = "echo"`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::server::TestServer;
use crate::support::wait_within;
use crate::tools::{Process, installed};

/// How long a group of cases may take.
const TIMEOUT: Duration = Duration::from_mins(2);

const ECHO: &str = r#"
[[route]]
name = "echo"
path = '/echo/'
handler = "echo"
# Group 9 sends messages of 16 MiB.
max_message = "32MiB"
queue = { bytes = "64MiB", full = "close" }
"#;

#[test]
fn framing_pings_reserved_bits_and_opcodes_are_as_autobahn_wants_them() {
    run(&["1.*", "2.*", "3.*", "4.*"], 44);
}

#[test]
fn fragmentation_is_as_autobahn_wants_it() {
    run(&["5.*"], 20);
}

#[test]
fn utf_8_is_checked_as_autobahn_wants_it() {
    run(&["6.*"], 145);
}

#[test]
fn closing_is_as_autobahn_wants_it() {
    run(&["7.*"], 37);
}

#[test]
fn large_messages_are_as_autobahn_wants_them() {
    run(&["9.*", "10.*"], 55);
}

/// Runs cases and checks each result; `count` is how many there are.
fn run(cases: &[&str], count: usize) {
    let server = TestServer::start(ECHO);
    let folder = tempfile::tempdir().unwrap();
    let reports = folder.path().join("reports");
    let spec = serde_json::json!({
        "outdir": reports,
        "options": { "failByDrop": false },
        "servers": [{ "agent": "anteroom", "url": format!("ws://{}/echo/", server.address()) }],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let spec_path = folder.path().join("spec.json");
    fs::write(&spec_path, spec.to_string()).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new(installed("autobahn/wstest"));
    command.args(["-m", "fuzzingclient", "-s"]).arg(&spec_path).current_dir(folder.path());
    command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
    let mut suite = Process::spawn(&mut command);
    wait_within(TIMEOUT, "the suite is through", || suite.has_ended());
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let index =
        fs::read_to_string(reports.join("index.json")).unwrap_or_else(|_| panic!("no report:\n{log}"));
    let index: Value = serde_json::from_str(&index).unwrap();
    let results = index["anteroom"].as_object().unwrap();
    assert_eq!(results.len(), count, "{:?}", results.keys());
    let is_passed = |result: &Value| {
        let behavior = result["behavior"].as_str().unwrap();
        let closing = result["behaviorClose"].as_str().unwrap();
        // The suite itself says of its cases 7.1.6 and 7.13.* that they have no right answer.
        matches!(behavior, "OK" | "INFORMATIONAL") && matches!(closing, "OK" | "INFORMATIONAL")
    };
    let failed: Vec<_> = results.iter().filter(|(_, result)| !is_passed(result)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let informational = results.iter().filter(|(_, result)| result["behavior"] == "INFORMATIONAL");
    let informational: Vec<_> = informational.map(|(case, _)| case.as_str()).collect();
    assert!(
        informational.iter().all(|case| case.starts_with("7.1.6") || case.starts_with("7.13.")),
        "{informational:?}"
    );
    server.stop();
}
