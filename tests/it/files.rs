//! Files: from a folder, and before the application is asked.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use crate::support::application::{Application, Reply};
use crate::support::client::{Response, request};
use crate::support::server::{TestServer, complete};

const ROUTES: &str = r#"
[[route]]
name = "static"
path = '/static/(?P<path>.*)'
handler = "static"
root = "public"
precompressed = ["gzip"]
cache_control = "max-age=60"
"#;

/// A server beside a folder `public`, with what may be answered and what may not.
fn start(more: &str) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for path in ["public/css", "public/docs", "outside"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    for (path, text) in [
        ("public/index.html", "<p>home"),
        ("public/docs/index.html", "<p>docs"),
        ("public/css/style.css", "body {}"),
        ("public/css/style.css.gz", "zipped"),
        ("public/.env", "SECRET=1"),
        ("outside/secret", "SECRET=2"),
    ] {
        fs::write(at(path), text).unwrap();
    }
    fs::write(at("public/large.bin"), vec![b'x'; 3 << 20]).unwrap();
    symlink("../outside/secret", at("public/link")).unwrap();
    start_in(folder, more)
}

fn start_in(folder: TempDir, more: &str) -> TestServer {
    let path = folder.path().join("routes.toml");
    fs::write(&path, complete(&format!("{ROUTES}{more}"))).unwrap();
    TestServer::start_at(folder, &path, &[])
}

fn ask(server: &TestServer, line: &str, headers: &str) -> Response {
    let text = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    request(server.address(), &text)
}

#[test]
fn a_folder_is_served_and_nothing_beside_it() {
    let server = start("");
    let style = ask(&server, "GET /static/css/style.css", "");
    assert_eq!((style.status, style.body.as_str()), (200, "body {}"));
    assert_eq!(style.header("content-type"), Some("text/css"));
    assert_eq!(style.header("cache-control"), Some("max-age=60"));
    assert_eq!(style.header("content-length"), Some("7"));
    let etag = style.header("etag").unwrap();
    let cases = [
        ("GET /static/", "", 200, "<p>home"),
        ("GET /static/docs/", "", 200, "<p>docs"),
        ("HEAD /static/css/style.css", "", 200, ""),
        ("GET /static/css/style.css", "Range: bytes=0-3\r\n", 206, "body"),
        ("GET /static/css/style.css", "Range: bytes=90-\r\n", 416, ""),
        ("GET /static/css/style.css", "Accept-Encoding: gzip\r\n", 200, "zipped"),
        (
            "POST /static/css/style.css",
            "Content-Length: 0\r\n",
            405,
            "method: files are read with GET or HEAD\n",
        ),
        ("GET /static/missing", "", 404, "not_found: there is no such file\n"),
    ];
    for (line, headers, status, body) in cases {
        let answer = ask(&server, line, headers);
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{line} {headers}");
    }
    assert_eq!(ask(&server, "GET /static/css/style.css", &format!("If-None-Match: {etag}\r\n")).status, 304);
    let docs = ask(&server, "GET /static/docs?q=1", "");
    assert_eq!((docs.status, docs.header("location")), (307, Some("/static/docs/?q=1")));
    for path in [
        "/static/.env",
        "/static/link",
        "/static/../routes.toml",
        "/static/%2e%2e/routes.toml",
        "/static/..%2froutes.toml",
        "/static/..%5croutes.toml",
        "/static//routes.toml",
        "/static//etc/passwd",
        "/static/css/..;/../routes.toml",
    ] {
        let answer = ask(&server, &format!("GET {path}"), "");
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    let large = ask(&server, "GET /static/large.bin", "");
    assert_eq!((large.status, large.body.len()), (200, 3 << 20));
    server.stop();
}

#[test]
fn files_are_tried_before_the_application_is_asked() {
    let application = Application::start(|seen| Reply::ok(seen.target()));
    let server = start(&format!(
        "[upstream.django]\nservers = [\"http://{}\"]\n[[route]]\nname = \"site\"\npath = '/.*'\n\
         handler = \"proxy\"\nupstream = \"django\"\ntry_files = \"public\"\n",
        application.address
    ));
    let cases = [
        ("GET /css/style.css", "body {}"),
        ("GET /static/css/style.css", "body {}"),
        // What a folder is answered with is for the application to say.
        ("GET /", "/"),
        ("GET /docs/", "/docs/"),
        ("GET /docs", "/docs"),
        ("GET /missing?q", "/missing?q"),
        ("GET /.env", "/.env"),
        ("GET /link", "/link"),
        ("GET /css%2fstyle.css", "/css%2fstyle.css"),
        ("DELETE /css/style.css", "/css/style.css"),
    ];
    for (line, body) in cases {
        let answer = ask(&server, line, "");
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{line}");
    }
    assert_eq!(application.seen().len(), cases.len() - 2);
    server.stop();
}

#[test]
fn a_missing_folder_is_told_at_the_start_and_at_a_reload_and_may_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_in(folder, "");
    server.wait_log(&["warning[W005]: no file is found in `public`: it does not exist"]);
    assert_eq!(ask(&server, "GET /static/a.txt", "").status, 404);
    fs::create_dir(server.folder().join("public")).unwrap();
    fs::write(server.folder().join("public/a.txt"), "here").unwrap();
    assert_eq!(ask(&server, "GET /static/a.txt", "").body, "here");

    let before = server.log().len();
    server.write_config(&complete(&ROUTES.replace("\"public\"", "\"other\"")));
    server.wait_log_after(before, &["the configuration has warnings"]);
    server.wait_log_after(before, &["warning[W005]: no file is found in `other`: it does not exist"]);
    server.wait_log_after(before, &["the configuration is in force", "generation=2"]);
    server.stop();
}
