//! The command line: what is printed, and with which exit code the program ends.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::client::{Client, request};
use crate::support::command::{anteroom, err, out, run};
use crate::support::server::{TestServer, complete};
use crate::support::wait_until;

const PAGE: &str = "[[route]]\nname = \"page\"\npath = '/'\nhandler = \"respond\"\nbody = \"hello\"\n";

#[test]
fn help_tells_all_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["print", "--help"],
        &["init", "--help"],
        &["publish", "--help"],
        &["doctor", "--help"],
    ] {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(0));
        writeln!(text, "$ anteroom {}\n{}", args.join(" "), out(&output)).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn arguments_that_make_no_sense_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["serv"][..], &["-p", "65536"], &["-b", "nowhere"], &["check", "a", "b"], &["-c"]] {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(err(&output).contains("--help"), "{args:?}: {}", err(&output));
    }
}

#[test]
fn check_ends_with_0_for_what_would_be_served_and_78_for_what_would_not() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("good.toml", &complete(PAGE));
    write(
        "doubtful.toml",
        &complete(PAGE).replace("path = '/'", "re_path = '^(?P<anything>.*)$'").replace(
            "handler = \"respond\"\nbody = \"hello\"",
            "handler = \"room\"\ngroup = \"room_{anything}\"",
        ),
    );
    write("wrong.toml", &complete(PAGE).replace("respond", "respnd").replace("name =", "nam ="));

    let good = run(folder.path(), &["check", "good.toml"]);
    assert_eq!((good.status.code(), out(&good), err(&good)), (Some(0), "good.toml: ok\n", ""));

    let doubtful = run(folder.path(), &["check", "doubtful.toml"]);
    assert_eq!((doubtful.status.code(), out(&doubtful)), (Some(0), "doubtful.toml: ok\n"));
    assert!(err(&doubtful).starts_with("warning[") && err(&doubtful).ends_with('\n'), "{}", err(&doubtful));

    let wrong = run(folder.path(), &["check", "wrong.toml"]);
    assert_eq!((wrong.status.code(), out(&wrong)), (Some(78), ""));
    assert!(err(&wrong).contains("wrong.toml:") && err(&wrong).contains("respnd"), "{}", err(&wrong));
    assert!(err(&wrong).ends_with('\n') && !err(&wrong).contains('\u{1b}'), "{}", err(&wrong));

    for (name, exit) in [("good.toml", 0), ("doubtful.toml", 0), ("wrong.toml", 78)] {
        let output = run(folder.path(), &["check", "--json", name]);
        assert_eq!((output.status.code(), err(&output)), (Some(exit), ""), "{name}");
        let findings: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
        let findings = findings.as_array().unwrap();
        assert_eq!(findings.is_empty(), name == "good.toml", "{findings:?}");
        assert_eq!(findings.iter().any(|one| one["severity"] == "error"), exit == 78, "{findings:?}");
        for finding in findings {
            assert!(finding["code"].is_string() && finding["message"].is_string(), "{finding}");
            assert!(finding["line"].is_u64() && finding["column"].is_u64(), "{finding}");
            assert_eq!(finding["file"], name);
        }
    }
}

#[test]
fn check_has_one_finding_about_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("latin1.toml"), b"version = 1 # \xe9\n").unwrap();
    fs::create_dir(folder.path().join("directory.toml")).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, folder.path().join("fifo.toml"), FileType::Fifo, mode, 0).unwrap();
    let cases = [
        ("missing.toml", "cannot read the file: No such file or directory (os error 2)"),
        ("latin1.toml", "the file is not UTF-8: a wrong byte at offset 14"),
        ("directory.toml", "this is not a regular file"),
        ("fifo.toml", "this is not a regular file"),
    ];
    for (name, message) in cases {
        let output = run(folder.path(), &["check", name]);
        assert_eq!((output.status.code(), out(&output)), (Some(78), ""), "{name}");
        assert_eq!(err(&output), format!("error[E025]: {message}\n--> {name}\n"));

        let output = run(folder.path(), &["check", "--json", name]);
        assert_eq!((output.status.code(), err(&output)), (Some(78), ""), "{name}");
        let findings: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
        let finding = serde_json::json!({
            "code": "E025",
            "severity": "error",
            "file": name,
            "line": null,
            "column": null,
            "message": message,
            "help": null,
        });
        assert_eq!(findings, serde_json::json!([finding]));
    }
}

#[test]
fn check_takes_routes_toml_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["check"]).status.code(), Some(78));
    assert_eq!(run(folder.path(), &["init"]).status.code(), Some(0));
    let output = run(folder.path(), &["check"]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), "routes.toml: ok\n"));
}

#[test]
fn a_server_does_not_start_with_what_check_refuses() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wrong.toml"), complete(PAGE).replace("respond", "respnd")).unwrap();
    let wrong = run(folder.path(), &["-c", "wrong.toml"]);
    assert_eq!(wrong.status.code(), Some(78));
    assert_eq!(err(&wrong), err(&run(folder.path(), &["check", "wrong.toml"])));
    for args in [&["-c", "missing.toml"][..], &["print", "missing.toml"]] {
        let missing = run(folder.path(), args);
        assert_eq!((missing.status.code(), out(&missing)), (Some(78), ""));
        assert_eq!(err(&missing), err(&run(folder.path(), &["check", "missing.toml"])));
    }
}

#[test]
fn an_upstream_that_nobody_can_vouch_for_is_refused_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[upstream.app]\nservers = [\"https://app.internal\"]\n\
                [[route]]\nname = \"app\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"app\"\n";
    fs::write(folder.path().join("routes.toml"), complete(text)).unwrap();
    fs::write(folder.path().join("none.pem"), "").unwrap();
    for args in [&["check"][..], &["-c", "routes.toml"]] {
        let mut command = anteroom();
        command
            .args(args)
            .current_dir(folder.path())
            .env("SSL_CERT_FILE", "none.pem")
            .env_remove("SSL_CERT_DIR");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{args:?}");
        assert!(err(&output).contains("error[E026]: the system has no authorities"), "{}", err(&output));
        assert!(err(&output).contains("routes.toml:"), "{}", err(&output));
    }
}

#[test]
fn print_gives_what_reads_as_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["init"]).status.code(), Some(0));
    for args in [&["print"][..], &["print", "routes.toml"]] {
        let first = run(folder.path(), args);
        assert_eq!((first.status.code(), err(&first)), (Some(0), ""), "{args:?}");
        fs::write(folder.path().join("printed.toml"), out(&first)).unwrap();
        let second = run(folder.path(), &["print", "printed.toml"]);
        assert_eq!((second.status.code(), out(&second)), (Some(0), out(&first)), "{args:?}");
    }
    let output = run(folder.path(), &["print", "routes.toml"]);
    for default in ["max_message = \"64KiB\"", "no_origin = \"allow\"", "admin = \"127.0.0.1:9180\""] {
        assert!(out(&output).contains(default), "{default}: {}", out(&output));
    }
    fs::write(folder.path().join("wrong.toml"), "version = 2\n").unwrap();
    let wrong = run(folder.path(), &["print", "wrong.toml"]);
    assert_eq!((wrong.status.code(), out(&wrong)), (Some(78), ""));
}

#[test]
fn print_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let layer = r#"
[layer]
backend = "channels_redis.pubsub"
hosts = ["redis://user:hunter2@127.0.0.1:6379/0"]
symmetric_encryption_keys = ["swordfish", { file = "key" }]
"#;
    fs::write(folder.path().join("key"), "opensesame\n").unwrap();
    fs::write(folder.path().join("routes.toml"), complete(PAGE) + layer).unwrap();
    let output = run(folder.path(), &["print", "routes.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    for secret in ["hunter2", "swordfish", "opensesame"] {
        assert!(!out(&output).contains(secret) && !err(&output).contains(secret), "{}", out(&output));
    }
    assert!(out(&output).contains("***"), "{}", out(&output));
    assert!(out(&output).contains("127.0.0.1:6379"), "{}", out(&output));
}

#[test]
fn init_writes_what_check_accepts_and_leaves_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(folder.path(), &["init"]);
    assert_eq!((first.status.code(), err(&first)), (Some(0), ""));
    assert!(out(&first).contains("anteroom -c routes.toml"), "{}", out(&first));
    let check = run(folder.path(), &["check", "routes.toml"]);
    assert_eq!((check.status.code(), err(&check)), (Some(0), ""));

    fs::write(folder.path().join("mine.toml"), "mine").unwrap();
    std::os::unix::fs::symlink("target.toml", folder.path().join("link.toml")).unwrap();
    for name in ["mine.toml", "link.toml"] {
        let again = run(folder.path(), &["init", name]);
        assert_eq!((again.status.code(), out(&again)), (Some(1), ""));
        assert!(err(&again).contains(name) && err(&again).contains("exists already"), "{}", err(&again));
    }
    assert_eq!(fs::read_to_string(folder.path().join("mine.toml")).unwrap(), "mine");
    assert!(!folder.path().join("target.toml").exists());
    assert_eq!(run(folder.path(), &["init", "no/such/folder.toml"]).status.code(), Some(1));
}

#[test]
fn bind_and_port_stand_in_for_the_first_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    let listeners = "[[listener]]\nname = \"first\"\naddress = \"192.0.2.1:1\"\n\
                     [[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\n";
    fs::write(&path, complete(&format!("{listeners}{PAGE}"))).unwrap();
    let server = TestServer::start_at(folder, &path, &["-b", "127.0.0.3", "-p", "0"]);
    assert_eq!(server.addresses[0].ip().to_string(), "127.0.0.3");
    assert_eq!(server.addresses[1].ip().to_string(), "127.0.0.1");
    for &address in &server.addresses {
        let answer = request(address, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
    server.stop();
}

#[test]
fn a_taken_port_ends_the_start_at_once_and_says_which() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let write = |text: String| fs::write(folder.path().join("routes.toml"), text).unwrap();

    write(complete(&format!("[[listener]]\nname = \"front\"\naddress = \"{address}\"\n{PAGE}")));
    let output = run(folder.path(), &["-c", "routes.toml"]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), ""));
    let message =
        format!("error: listener `front` cannot listen on {address}: Address already in use (os error 98)\n");
    assert!(err(&output).ends_with(&message), "{}", err(&output));

    write(complete(&format!("[server]\nadmin = \"{address}\"\n{PAGE}")));
    let output = run(folder.path(), &["-c", "routes.toml"]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), ""));
    let message = format!(
        "error: the admin listener cannot listen on {address}: Address already in use (os error 98)\n"
    );
    assert!(err(&output).ends_with(&message), "{}", err(&output));

    let port = address.rsplit(':').next().unwrap();
    let output = run(folder.path(), &["-p", port]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), ""));
    assert!(err(&output).contains(&format!("cannot listen on {address}")), "{}", err(&output));
}

#[test]
fn without_a_file_there_is_a_chat_to_try_out_even_twice_on_one_machine() {
    let start = || {
        let mut command = anteroom();
        command.args(["-p", "0"]);
        TestServer::spawn(command, tempfile::tempdir().unwrap())
    };
    let (server, second) = (start(), start());
    assert_ne!(server.admin, second.admin);
    second.stop();
    wait_until("the demo says where to look", || server.output().contains("anteroom init"));
    let printed = server.output();
    for url in ["http://", "ws://"] {
        assert!(printed.contains(&format!("{url}{}/", server.address())), "{printed}");
    }
    assert!(printed.contains(&format!("http://{}/metrics", server.admin)), "{printed}");

    for path in ["/", "/chat/lobby/"] {
        let page = server.get(path);
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.body.contains("new WebSocket("), "{path}");
    }
    // There is nothing to reload, which is no reason to end.
    server.signal(Signal::HUP);
    // As a browser on that page opens it.
    let host = server.address().to_string();
    let origin = format!("http://{host}");
    let open = |path: &str| server.try_connect(path, &[("Host", &host), ("Origin", &origin)]).unwrap();
    let (mut ann, mut bob) = (open("/chat/lobby/"), open("/chat/lobby/"));
    ann.send_text(r#"{"message": "guest: hello"}"#);
    for member in [&mut ann, &mut bob] {
        assert_eq!(member.next_text(), r#"{"message":"guest: hello"}"#);
    }
    let mut echo = open("/echo/");
    echo.send_text("back");
    assert_eq!(echo.next_text(), "back");
    let elsewhere = server.try_connect("/chat/lobby/", &[("Host", &host), ("Origin", "http://evil.example")]);
    assert_eq!(elsewhere.unwrap_err().status, 403);
    drop((ann, bob, echo));
    server.stop();
}

#[test]
fn a_server_outlives_those_who_read_its_output() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("routes.toml"),
        complete(&format!("{PAGE}[[route]]\nname = \"echo\"\npath = '/echo/'\nhandler = \"echo\"\n")),
    )
    .unwrap();
    let command = anteroom()
        .args(["-c", "routes.toml"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut process = command.unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("http://")).unwrap();
    let address = line.split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
    drop((lines, process.stderr.take()));
    for _ in 0..20 {
        let mut client = Client::connect(address, "/echo/", &[]).unwrap();
        client.send_text("still there");
        assert_eq!(client.next_text(), "still there");
    }
    fs::write(folder.path().join("routes.toml"), "wrong").unwrap();
    kill_process(Pid::from_child(&process), Signal::HUP).unwrap();
    drop(Client::connect(address, "/echo/", &[]).unwrap());
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    wait_until("the server has ended", || process.try_wait().unwrap().is_some());
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn the_example_of_the_readme_is_taken_without_findings() {
    let folder = tempfile::tempdir().unwrap();
    let readme = include_str!("../../README.md");
    let (_, example) = readme.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    fs::write(folder.path().join("routes.toml"), example).unwrap();
    let output = run(folder.path(), &["check"]);
    assert_eq!((out(&output), err(&output)), ("routes.toml: ok\n", ""));
}
