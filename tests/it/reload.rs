//! What an edit of the configuration does while the server runs, however it is written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::server::{TestServer, complete};
use crate::support::tls::{Authority, TlsApplication};
use crate::support::{pause, wait_until, wait_within};

/// From the last write until the file is in force.
const IN_FORCE: Duration = Duration::from_secs(2);

const SUCCESSFUL: &str = "anteroom_config_last_reload_successful";
const RESTART_PENDING: &str = "anteroom_config_restart_pending";
const REJECTED: &str = r#"anteroom_config_reloads_total{result="rejected"}"#;
const APPLIED: &str = r#"anteroom_config_reloads_total{result="applied"}"#;
const RESTART_NEEDED: &str = r#"anteroom_config_reloads_total{result="restart_needed"}"#;

/// A table of a chat, and of a page that says which table this is.
fn table(word: &str) -> String {
    complete(&format!(
        r#"
[[route]]
name = "page"
path = '/'
handler = "respond"
body = "{word}"

[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{{1,64}})/$'
handler = "room"
group = "chat_{{room_name}}"
"#
    ))
}

fn start(word: &str) -> TestServer {
    TestServer::start(&table(word))
}

fn wait_in_force(server: &TestServer, word: &str) {
    wait_within(IN_FORCE, &format!("the table `{word}` is in force"), || server.get("/").body == word);
}

/// Runs a script with these arguments as `$1` and so on.
fn sh(script: &str, args: &[&Path]) {
    let done = Command::new("sh").args(["-euc", script, "sh"]).args(args).status().unwrap();
    assert!(done.success(), "{script}: {done:?}");
}

fn vim(file: &Path, settings: &str, old: &str, new: &str) {
    let substitute = format!("%s/{old}/{new}/");
    let done = Command::new("vim")
        .args([
            "-es",
            "-u",
            "NONE",
            "-i",
            "NONE",
            "-c",
            &format!("set {settings}"),
            "-c",
            &substitute,
            "-c",
            "wq",
        ])
        .arg(file)
        .status()
        .unwrap();
    assert!(done.success(), "vim: {done:?}");
}

/// Two members of one room, to be asked whether they still are.
struct Pair(Client, Client);

impl Pair {
    fn join(server: &TestServer) -> Self {
        Self(server.connect("/chat/lobby/"), server.connect("/chat/lobby/"))
    }

    fn talk(&mut self, about: &str) {
        self.0.send_text(&format!(r#"{{"message": "{about}"}}"#));
        for member in [&mut self.0, &mut self.1] {
            assert_eq!(member.next_text(), format!(r#"{{"message":"{about}"}}"#));
        }
    }
}

#[test]
fn a_change_is_in_force_within_two_seconds_however_the_file_is_written() {
    type Write = fn(&Path, &str, &str);
    let ways: [(&str, Write); 12] = [
        ("in place", |file, _, new| fs::write(file, table(new)).unwrap()),
        ("by a shell", |file, _, new| {
            let text = file.with_extension("text");
            fs::write(&text, table(new)).unwrap();
            sh(r#"cat "$1" > "$2""#, &[&text, file]);
        }),
        ("slowly", |file, _, new| {
            let text = table(new);
            let (first, last) = text.split_at(text.len() / 2);
            fs::write(file, "").unwrap();
            pause(Duration::from_millis(200));
            fs::write(file, first).unwrap();
            pause(Duration::from_millis(500));
            fs::write(file, format!("{first}{last}")).unwrap();
        }),
        ("by rename", |file, _, new| {
            let temporary = file.with_extension("new");
            fs::write(&temporary, table(new)).unwrap();
            fs::rename(temporary, file).unwrap();
        }),
        ("by mv from another directory", |file, _, new| {
            let elsewhere = tempfile::tempdir().unwrap();
            let temporary = elsewhere.path().join("routes.toml");
            fs::write(&temporary, table(new)).unwrap();
            sh(r#"mv -f "$1" "$2""#, &[&temporary, file]);
        }),
        ("by sed -i", |file, old, new| {
            let done =
                Command::new("sed").args(["-i", &format!("s/{old}/{new}/")]).arg(file).status().unwrap();
            assert!(done.success());
        }),
        ("by vim", |file, old, new| vim(file, "backupcopy=auto", old, new)),
        ("by vim, in place", |file, old, new| vim(file, "backupcopy=yes", old, new)),
        ("by vim, by rename", |file, old, new| vim(file, "backupcopy=no", old, new)),
        ("with the same size and time", |file, old, new| {
            assert_eq!(old.len(), new.len(), "the same size");
            let reference = file.with_extension("reference");
            sh(r#"touch -r "$2" "$1""#, &[&reference, file]);
            fs::write(file, table(new)).unwrap();
            sh(r#"touch -r "$1" "$2""#, &[&reference, file]);
        }),
        ("by rename with the same size and time", |file, old, new| {
            assert_eq!(old.len(), new.len(), "the same size");
            let temporary = file.with_extension("new");
            fs::write(&temporary, table(new)).unwrap();
            sh(r#"touch -r "$2" "$1"; mv "$1" "$2""#, &[&temporary, file]);
        }),
        ("removed and made again", |file, _, new| {
            fs::remove_file(file).unwrap();
            pause(Duration::from_millis(50));
            fs::write(file, table(new)).unwrap();
        }),
    ];
    let server = start("table00");
    let mut pair = Pair::join(&server);
    let mut old = "table00".to_owned();
    for (at, (way, write)) in ways.into_iter().enumerate() {
        let new = format!("table{:02}", at + 1);
        eprintln!("{way}");
        write(&server.config_path(), &old, &new);
        wait_in_force(&server, &new);
        pair.talk(way);
        assert_eq!(server.connect("/chat/lobby/").handshake.status, 101, "{way}");
        old = new;
    }
    drop(pair);
    server.stop();
}

#[test]
fn a_route_appended_to_the_file_is_served() {
    let server = start("one");
    let added = server.folder().join("added");
    fs::write(
        &added,
        "\n[[route]]\nname = \"added\"\npath = '/added/'\nhandler = \"respond\"\nbody = \"new\"\n",
    )
    .unwrap();
    assert_eq!(server.get("/added/").status, 404);
    sh(r#"cat "$1" >> "$2""#, &[&added, &server.config_path()]);
    wait_within(IN_FORCE, "the added route is served", || server.get("/added/").body == "new");
    assert_eq!(server.get("/").body, "one");
    server.stop();
}

#[test]
fn a_path_relative_to_the_working_directory_is_watched_as_well() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.toml"), table("one")).unwrap();
    let server = TestServer::start_at(folder, Path::new("routes.toml"), &[]);
    fs::write(server.config_path(), table("two")).unwrap();
    wait_in_force(&server, "two");
    server.stop();
}

#[test]
fn a_link_may_be_swapped_and_what_it_points_to_may_be_edited() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["here", "one", "two"] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("routes.toml"), table(name)).unwrap();
    }
    fs::remove_file(path("here/routes.toml")).unwrap();
    symlink("../one/routes.toml", path("here/routes.toml")).unwrap();
    let (link, one, two) = (path("here/routes.toml"), path("one/routes.toml"), path("two/routes.toml"));
    let server = TestServer::start_at(folder, &link, &[]);
    assert_eq!(server.get("/").body, "one");
    sh(r#"ln -sfn ../two/routes.toml "$1""#, &[&link]);
    wait_in_force(&server, "two");
    fs::write(&two, table("edited")).unwrap();
    wait_in_force(&server, "edited");
    sh(r#"ln -s ../one/routes.toml "$1.new"; mv -T "$1.new" "$1""#, &[&link]);
    wait_in_force(&server, "one");
    fs::write(&one, table("again")).unwrap();
    wait_in_force(&server, "again");
    server.stop();
}

#[test]
fn a_link_further_up_the_path_may_be_swapped() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        fs::create_dir_all(path(name).join("etc")).unwrap();
        fs::write(path(name).join("etc/routes.toml"), table(name)).unwrap();
    }
    symlink("one", path("current")).unwrap();
    let (current, two) = (path("current"), path("two"));
    let server = TestServer::start_at(folder, &current.join("etc/routes.toml"), &[]);
    assert_eq!(server.get("/").body, "one");
    sh(r#"ln -s two "$1.new"; mv -T "$1.new" "$1""#, &[&current]);
    wait_in_force(&server, "two");
    fs::write(two.join("etc/routes.toml"), table("edited")).unwrap();
    wait_in_force(&server, "edited");
    server.stop();
}

#[test]
fn a_busy_directory_delays_no_change() {
    let server = start("one");
    let (beside, done) = (server.folder().join("busy.log"), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Not for ever, so that a failure is told.
            for _ in 0..1_000 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(&beside, "busy").unwrap();
                pause(Duration::from_millis(20));
            }
        });
        for word in ["two", "three", "four"] {
            fs::write(server.config_path(), table(word)).unwrap();
            wait_in_force(&server, word);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(server.metric("anteroom_config_generation"), 4.0);
    server.stop();
}

#[test]
fn what_happens_beside_the_file_is_no_reason_to_read_it() {
    const UNCHANGED: &str = r#"anteroom_config_reloads_total{result="unchanged"}"#;
    let server = start("one");
    let beside = server.folder().join("beside.log");
    // A file that was written just now is read all the same, for it could be written again unnoticed.
    pause(Duration::from_secs(3));
    fs::write(&beside, "first").unwrap();
    pause(Duration::from_millis(1_300));
    let read = server.metric(UNCHANGED);
    for word in ["second", "third"] {
        fs::write(&beside, word).unwrap();
        pause(Duration::from_millis(300));
    }
    fs::remove_file(&beside).unwrap();
    pause(Duration::from_millis(1_300));
    assert_eq!(server.metric(UNCHANGED), read);
    fs::write(server.config_path(), table("one")).unwrap();
    wait_until("the same content is read", || read < server.metric(UNCHANGED));
    // The same length and inode, and the same time of the last change of the content.
    let script =
        r#"touch -r "$1" "$2"; sed s/one/two/ "$1" > "$2.new"; cat "$2.new" > "$1"; touch -r "$2" "$1""#;
    sh(script, &[&server.config_path(), &beside]);
    wait_in_force(&server, "two");
    server.stop();
}

/// A mounted `ConfigMap`: the file is a link into `..data`, which is a link that is swapped.
#[test]
fn a_config_map_may_be_swapped_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    let revision = |word: &str| {
        let data = mount.join(format!("..{word}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("routes.toml"), table(word)).unwrap();
    };
    fs::create_dir(&mount).unwrap();
    revision("one");
    symlink("..one", mount.join("..data")).unwrap();
    symlink("..data/routes.toml", mount.join("routes.toml")).unwrap();
    let server = TestServer::start_at(folder, &mount.join("routes.toml"), &[]);
    let mut before = "one";
    for word in ["two", "three", "four"] {
        revision(word);
        symlink(format!("..{word}"), mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        fs::remove_dir_all(mount.join(format!("..{before}"))).unwrap();
        wait_in_force(&server, word);
        before = word;
    }
    server.stop();
}

#[test]
fn the_directory_may_be_replaced_and_the_file_in_the_new_one_edited() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["live", "next"] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("routes.toml"), table(name)).unwrap();
    }
    let (live, next, old) = (path("live"), path("next"), path("old"));
    let server = TestServer::start_at(folder, &live.join("routes.toml"), &[]);
    assert_eq!(server.get("/").body, "live");
    sh(r#"mv "$1" "$3"; mv "$2" "$1""#, &[&live, &next, &old]);
    wait_in_force(&server, "next");
    fs::write(live.join("routes.toml"), table("edited")).unwrap();
    wait_in_force(&server, "edited");
    // Nobody looks at the old one any more.
    fs::write(old.join("routes.toml"), "wrong").unwrap();
    fs::write(live.join("routes.toml"), table("last")).unwrap();
    wait_in_force(&server, "last");
    assert_eq!(server.metric(REJECTED), 0.0);
    // A directory that is gone for a while, and comes back.
    sh(r#"mv "$1" "$2""#, &[&live, &next]);
    server.wait_metric(SUCCESSFUL, 0.0);
    sh(r#"mv "$2" "$1""#, &[&live, &next]);
    server.wait_metric(SUCCESSFUL, 1.0);
    fs::write(live.join("routes.toml"), table("back")).unwrap();
    wait_in_force(&server, "back");
    server.stop();
}

#[test]
fn of_two_hundred_quick_edits_the_last_one_is_in_force_and_no_socket_notices() {
    let server = start("edit0");
    let mut pair = Pair::join(&server);
    for edit in 1..=200 {
        let text = table(&format!("edit{edit}"));
        if edit % 2 == 0 {
            fs::write(server.config_path(), text).unwrap();
        } else {
            let temporary = server.folder().join("routes.new");
            fs::write(&temporary, text).unwrap();
            fs::rename(temporary, server.config_path()).unwrap();
        }
        assert_eq!(server.get("/").status, 200);
    }
    wait_in_force(&server, "edit200");
    pair.talk("after the edits");
    assert!(server.metric("anteroom_config_generation") <= 201.0);
    drop(pair);
    server.stop();
}

#[test]
fn a_file_that_cannot_be_used_leaves_the_old_table_in_force_and_is_reported_once() {
    type Make = fn(&Path);
    let cases: [(&str, Make, &str); 12] = [
        (
            "bad",
            |path| fs::write(path, table("bad").replace("handler = \"room\"", "handler = \"rome\"")).unwrap(),
            "rome",
        ),
        ("not TOML", |path| fs::write(path, "version = = 1\n").unwrap(), "E001"),
        ("an unknown key", |path| fs::write(path, table("bad") + "colour = \"red\"\n").unwrap(), "colour"),
        ("empty", |path| fs::write(path, "").unwrap(), "version"),
        ("half-written", |path| fs::write(path, table("half").split_at(150).0).unwrap(), "E001"),
        ("missing", |_| (), "cannot read the file: No such file or directory"),
        ("a directory", |path| fs::create_dir(path).unwrap(), "not a regular file"),
        ("a fifo", |path| sh(r#"mkfifo "$1""#, &[path]), "not a regular file"),
        (
            "a dangling link",
            |path| symlink("nowhere", path).unwrap(),
            "cannot read the file: No such file or directory",
        ),
        ("a link to itself", |path| symlink("routes.toml", path).unwrap(), "cannot read the file: "),
        (
            "not UTF-8",
            |path| fs::write(path, [table("bytes").as_bytes(), &[0xff]].concat()).unwrap(),
            "not UTF-8",
        ),
        (
            "too large",
            |path| fs::write(path, table("large") + &"#\n".repeat(3 << 20)).unwrap(),
            "larger than 4 MiB",
        ),
    ];
    let server = start("first");
    let file = server.config_path();
    let mut pair = Pair::join(&server);
    let mut word = "first".to_owned();
    for (at, (case, make, says)) in cases.into_iter().enumerate() {
        eprintln!("{case}");
        // Exchanged in one step, so that the server sees the one or the other and nothing between.
        let odd = server.folder().join("odd");
        make(&odd);
        if odd.symlink_metadata().is_ok() {
            renameat_with(CWD, &odd, CWD, &file, RenameFlags::EXCHANGE).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        let rejected = f64::from(u32::try_from(at + 1).unwrap());
        wait_within(IN_FORCE, &format!("{case} is reported"), || server.metric(REJECTED) == rejected);
        let page = server.admin("/config").body;
        assert!(page.contains(says), "{case}: {page}");
        assert!(page.contains(r#""successful": false"#), "{case}: {page}");
        assert_eq!(server.metric(SUCCESSFUL), 0.0, "{case}");
        assert_eq!(server.get("/").body, word, "{case}");
        pair.talk(case);
        assert_eq!(server.connect("/chat/lobby/").handshake.status, 101, "{case}");

        word = format!("after{at}");
        let good = server.folder().join("good");
        fs::write(&good, table(&word)).unwrap();
        if file.is_dir() {
            renameat_with(CWD, &good, CWD, &file, RenameFlags::EXCHANGE).unwrap();
        } else {
            fs::rename(&good, &file).unwrap();
        }
        wait_in_force(&server, &word);
        assert_eq!(server.metric(SUCCESSFUL), 1.0, "{case}");
        assert_eq!(server.metric(REJECTED), rejected, "{case}");
        assert!(server.admin("/config").body.contains(r#""successful": true"#), "{case}");
        pair.talk(&word);
        let reports = server.log();
        let report = reports.rsplit("the configuration cannot be used").next().unwrap();
        assert!(report.contains(says), "{case}: {report}");
        sh(r#"rm -rf "$1" "$2""#, &[&odd, &good]);
    }
    assert_eq!(server.log().matches("the configuration cannot be used").count(), 12);
    drop(pair);
    server.stop();
}

#[test]
fn a_file_that_is_still_wrong_after_another_write_is_reported_again_only_if_it_differs() {
    let server = start("one");
    let wrong = |key: &str| table("wrong") + key + " = 1\n";
    fs::write(server.config_path(), wrong("first_key")).unwrap();
    server.wait_metric(REJECTED, 1.0);
    fs::write(server.config_path(), wrong("first_key")).unwrap();
    fs::write(server.config_path(), wrong("second_key")).unwrap();
    server.wait_metric(REJECTED, 2.0);
    // Whoever asks is answered.
    server.signal(Signal::HUP);
    server.wait_metric(REJECTED, 3.0);
    fs::write(server.config_path(), table("one")).unwrap();
    server.wait_metric(SUCCESSFUL, 1.0);
    assert_eq!(server.get("/").body, "one");
    server.stop();
}

#[test]
fn a_hangup_takes_the_file_at_once_and_says_so_when_it_is_unchanged() {
    let server = start("one");
    server.signal(Signal::HUP);
    server.wait_log(&["the configuration is unchanged"]);
    fs::write(server.config_path(), table("two")).unwrap();
    server.signal(Signal::HUP);
    wait_in_force(&server, "two");
    assert_eq!(server.metric("anteroom_config_generation"), 2.0);
    server.stop();
}

#[test]
fn the_authorities_of_an_upstream_are_read_again_when_they_change() {
    let (first, second) = (Authority::new(), Authority::new());
    let application = TlsApplication::start(&first.issue(&["localhost"]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    // In a folder that gives no sign.
    let ca = folder.path().join("certs/ca.pem");
    fs::create_dir(folder.path().join("certs")).unwrap();
    fs::write(&ca, &first.cert).unwrap();
    fs::write(
        &path,
        complete(&format!(
            "[upstream.app]\nservers = [\"https://localhost:{}\"]\ntls = {{ ca = \"certs/ca.pem\" }}\n\
             [[route]]\nname = \"app\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"app\"\n",
            application.port(),
        )),
    )
    .unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let wait_answered = || wait_within(IN_FORCE, "it answers", || server.get("/").status == 200);
    assert_eq!(server.get("/").status, 200);

    application.show(&second.issue(&["localhost"]));
    assert_eq!(server.get("/").status, 502);
    fs::write(&ca, &second.cert).unwrap();
    wait_answered();
    assert_eq!(server.metric("anteroom_config_generation"), 2.0);

    // At once when asked to.
    application.show(&first.issue(&["localhost"]));
    fs::write(&ca, &first.cert).unwrap();
    server.signal(Signal::HUP);
    wait_answered();
    assert_eq!(server.metric("anteroom_config_generation"), 3.0);
    server.signal(Signal::HUP);
    server.wait_log(&["the configuration is unchanged"]);

    // What cannot be used leaves the last ones in force.
    fs::write(&ca, "").unwrap();
    server.wait_metric(SUCCESSFUL, 0.0);
    server.wait_log(&["error[E026]", "`certs/ca.pem`"]);
    assert_eq!(server.get("/").status, 200);
    application.show(&second.issue(&["localhost"]));
    fs::write(&ca, &second.cert).unwrap();
    server.wait_metric(SUCCESSFUL, 1.0);
    wait_answered();
    server.stop();
}

#[test]
fn a_secret_of_the_layer_that_changes_waits_for_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    let secret = folder.path().join("redis");
    fs::write(&secret, "redis://127.0.0.1:1/0\n").unwrap();
    let layer = "[layer]\nbackend = \"channels_redis.pubsub\"\nhosts = [{ file = \"redis\" }]\n";
    fs::write(&path, table("one") + layer).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    assert_eq!(server.metric(RESTART_PENDING), 0.0);
    fs::write(&secret, "redis://127.0.0.1:2/0\n").unwrap();
    server.wait_metric(RESTART_PENDING, 1.0);
    server.wait_log(&["take effect with the next start", "layer"]);
    fs::write(&secret, "redis://127.0.0.1:1/0\n").unwrap();
    server.wait_metric(RESTART_PENDING, 0.0);
    server.stop();
}

#[test]
fn open_sockets_stay_when_their_route_goes_and_new_ones_see_the_new_table() {
    let server = start("one");
    let mut pair = Pair::join(&server);
    server
        .write_config("[[route]]\nname = \"page\"\npath = '/'\nhandler = \"respond\"\nbody = \"no chat\"\n");
    wait_in_force(&server, "no chat");
    assert_eq!(server.try_connect("/chat/lobby/", &[]).unwrap_err().status, 404);
    pair.talk("still here");

    // Its series stay as long as its sockets, and then for one more scrape.
    let of_chat = |server: &TestServer| {
        let mut series = server.metrics();
        series.retain(|name, _| name.contains(r#"route="chat""#));
        series
    };
    let sent = r#"anteroom_websocket_messages_sent_total{opcode="text",route="chat"}"#;
    let accepted = r#"anteroom_websocket_handshakes_total{result="accepted",route="chat"}"#;
    let open = r#"anteroom_websocket_connections{route="chat"}"#;
    // What was sent is counted after it has left.
    server.wait_metric(sent, 2.0);
    for _ in 0..3 {
        let series = of_chat(&server);
        assert_eq!((series[sent], series[accepted], series[open]), (2.0, 2.0, 2.0));
    }
    drop(pair);
    let mut last = of_chat(&server);
    wait_until("the series of the removed route are gone", || {
        let now = of_chat(&server);
        if now.is_empty() {
            return true;
        }
        last = now;
        false
    });
    assert_eq!(last[open], 0.0, "the last scrape has the last values");
    let closes = last.iter().filter(|(name, _)| name.starts_with("anteroom_websocket_closes_total"));
    assert_eq!(closes.map(|(_, count)| count).sum::<f64>(), 2.0);
    server.stop();
}

#[test]
fn settings_that_need_a_restart_are_named_while_the_rest_is_applied() {
    let server = start("one");
    let cases = [
        ("server.workers", table("workers").replace("[server]\n", "[server]\nworkers = 3\n")),
        ("server.admin", table("admin").replace("admin = \"127.0.0.1:0\"", "admin = \"127.0.0.2:0\"")),
        ("listener", table("listener").replace("name = \"public\"", "name = \"other\"")),
        (
            "layer",
            table("layer")
                + "[layer]\nbackend = \"channels_redis.pubsub\"\nhosts = [\"redis://127.0.0.1:1/0\"]\n",
        ),
    ];
    for (at, (setting, text)) in cases.into_iter().enumerate() {
        let at = f64::from(u32::try_from(at).unwrap());
        fs::write(server.config_path(), text).unwrap();
        let word = setting.rsplit('.').next().unwrap();
        wait_in_force(&server, word);
        assert_eq!(server.metric(RESTART_PENDING), 1.0, "{setting}");
        assert_eq!(server.metric(RESTART_NEEDED), at + 1.0, "{setting}");
        assert_eq!(server.metric(SUCCESSFUL), 1.0, "{setting}");
        let page: serde_json::Value = serde_json::from_str(&server.admin("/config").body).unwrap();
        assert_eq!(page["restart_pending"], serde_json::json!([setting]));
        server.wait_log(&["take effect with the next start", &format!("\"{setting}\"")]);
        fs::write(server.config_path(), table("back")).unwrap();
        wait_in_force(&server, "back");
        assert_eq!(server.metric(RESTART_PENDING), 0.0, "{setting}");
        assert_eq!(server.metric(APPLIED), at + 1.0, "{setting}");
    }
    server.stop();
}

#[test]
fn what_is_written_while_the_server_starts_is_taken() {
    for _ in 0..3 {
        let server = start("one");
        fs::write(server.config_path(), table("two")).unwrap();
        wait_in_force(&server, "two");
        server.stop();
    }
}

#[test]
fn an_address_given_on_the_command_line_is_no_difference_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("routes.toml");
    fs::write(&file, table("one").replace("127.0.0.1:0\"\n[[route]]", "127.0.0.1:8000\"\n[[route]]"))
        .unwrap();
    let server = TestServer::start_at(folder, &file, &["-b", "127.0.0.2", "-p", "0"]);
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"one\"", "\"two\"")).unwrap();
    wait_in_force(&server, "two");
    assert_eq!(server.metric(RESTART_PENDING), 0.0);
    server.stop();
}

#[test]
fn level_and_format_of_the_log_change_while_the_server_runs() {
    let server = start("one");
    let set = |log: &str, word: &str| {
        let text = table(word).replace("[server]\n", &format!("[server]\nlog = {log}\n"));
        fs::write(server.config_path(), text).unwrap();
        wait_in_force(&server, word);
    };
    drop(server.connect("/chat/text/"));
    let line = server.wait_log(&["accepted", "/chat/text/"]);
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "{line}");

    set(r#"{ format = "json" }"#, "json");
    drop(server.connect("/chat/json/"));
    let line: serde_json::Value =
        serde_json::from_str(&server.wait_log(&["accepted", "/chat/json/"])).unwrap();
    assert_eq!((&line["level"], &line["path"]), (&"INFO".into(), &"/chat/json/".into()));

    set(r#"{ level = "error", format = "json" }"#, "quiet");
    drop(server.connect("/chat/quiet/"));
    set(r#"{ level = "debug", format = "text" }"#, "debug");
    drop(server.connect("/chat/debug/"));
    let line = server.wait_log(&["accepted", "/chat/debug/"]);
    assert!(!line.starts_with('{'), "{line}");
    assert!(!server.log().contains("/chat/quiet/"), "{}", server.log());
    server.stop();
}

#[test]
fn the_drain_goes_by_the_table_that_is_in_force_when_the_process_is_asked_to_end() {
    let quick = "drain = { grace = \"0s\", shutdown = \"0s\" }";
    let slow = table("slow").replace(quick, "drain = { grace = \"1h\", shutdown = \"1h\" }");
    assert!(slow.contains("1h"), "{slow}");
    let server = TestServer::start(&slow);
    fs::write(server.config_path(), table("quick")).unwrap();
    wait_in_force(&server, "quick");
    assert!(server.metric(RESTART_PENDING).abs() < f64::EPSILON);
    server.stop();
}

#[test]
fn warnings_at_the_start_are_lines_of_json_where_the_log_is() {
    let doubtful = table("one").replace("[A-Za-z0-9_-]{1,64}", "[^/]+");
    let start = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.toml");
        fs::write(&path, text).unwrap();
        TestServer::start_at(folder, &path, &[])
    };
    let server = start(&doubtful);
    assert!(server.wait_log(&["warning["]).starts_with("warning["), "{}", server.log());
    server.stop();

    let server = start(&doubtful.replace("[server]\n", "[server]\nlog = { format = \"json\" }\n"));
    let line: serde_json::Value = serde_json::from_str(&server.wait_log(&["warning["])).unwrap();
    assert_eq!(line["level"], "WARN");
    for line in server.log().lines() {
        assert!(line.starts_with('{'), "{line}");
    }
    server.stop();
}
