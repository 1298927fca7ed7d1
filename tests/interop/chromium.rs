//! The built-in page in a real browser.

use std::fs;
use std::time::Duration;

use crate::support::server::TestServer;
use crate::support::{wait_until, wait_within};
use crate::tools::free_port;
use crate::webdriver::Browser;

/// The page's pauses between its attempts to connect grow to 20 seconds.
const PATIENCE: Duration = Duration::from_secs(40);
const ENTER: &str = "\u{E007}";

/// What the server serves when it is given no file, but for the ports: those may be taken on this machine.
fn start(port: u16) -> TestServer {
    let demo = include_str!("../../src/cli/demo.toml");
    let config = demo.replace("[server]\n", "[server]\nadmin = \"127.0.0.1:0\"\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    fs::write(&path, config).unwrap();
    TestServer::start_at(folder, &path, &["--port", &port.to_string()])
}

#[test]
fn two_tabs_chat_on_the_built_in_page_and_come_back_after_a_restart() {
    let port = free_port();
    let server = start(port);
    let browser = Browser::start();
    let url = format!("http://127.0.0.1:{port}/");
    let tabs = [browser.open(&url), browser.open(&url)];
    let both_show = |selector: &str, text: &str| {
        for tab in &tabs {
            browser.look_at(tab);
            let what = format!("{selector} shows {text:?}");
            wait_within(PATIENCE, &what, || browser.text(selector).contains(text));
        }
    };
    both_show("#room", "lobby");
    both_show("#state", "connected");

    browser.look_at(&tabs[0]);
    browser.type_into("#message", &format!("hello from the first tab{ENTER}"));
    both_show("#log", "guest: hello from the first tab");
    browser.look_at(&tabs[1]);
    browser.type_into("#message", &format!("<b>and</b> back{ENTER}"));
    both_show("#log", "guest: <b>and</b> back");

    server.stop();
    // With 1012 at first; an attempt to come back that fails has a code of its own.
    both_show("#state", "closed (10");
    let server = start(port);
    both_show("#state", "connected");
    browser.look_at(&tabs[1]);
    browser.type_into("#message", &format!("still here{ENTER}"));
    both_show("#log", "guest: still here");

    // A tab in another room hears nothing of it.
    let other = browser.open(&format!("{url}chat/other/"));
    wait_until("the third tab is connected", || browser.text("#state") == "connected");
    browser.look_at(&tabs[0]);
    browser.type_into("#message", &format!("not for all{ENTER}"));
    both_show("#log", "guest: not for all");
    browser.look_at(&other);
    assert_eq!(browser.text("#log"), "");
    drop(browser);
    server.stop();
}
