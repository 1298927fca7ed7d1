use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use http_body_util::BodyExt as _;
use tempfile::TempDir;

use super::*;

/// A folder with what may be answered, and what may not, inside and around it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for path in ["root/css", "root/.git", "root/.well-known", "root/dir", "root/empty", "outside"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    for (path, text) in [
        ("root/index.html", "<p>home"),
        ("root/css/style.css", "body { color: red }"),
        ("root/css/style.css.gz", "gzipped"),
        ("root/css/style.css.br", "brotli"),
        ("root/dir/index.html", "<p>dir"),
        ("root/.git/config", "secret"),
        ("root/.env", "secret"),
        ("root/.well-known/security.txt", "Contact: us"),
        ("root/a b&c.txt", "spaces"),
        ("root/ünïcode.txt", "letters"),
        ("root/back\\slash", "no"),
        ("outside/secret.txt", "secret"),
    ] {
        fs::write(at(path), text).unwrap();
    }
    symlink("../outside/secret.txt", at("root/out")).unwrap();
    symlink("../outside", at("root/outdir")).unwrap();
    symlink(at("outside/secret.txt"), at("root/absolute")).unwrap();
    symlink("css/style.css", at("root/within.css")).unwrap();
    symlink("loop", at("root/loop")).unwrap();
    symlink("nothing", at("root/dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("root/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    drop(UnixListener::bind(at("root/socket")).unwrap());
    folder
}

fn files(folder: &TempDir) -> Files {
    Files { root: folder.path().join("root"), index: true, precompressed: Vec::new(), cache_control: None }
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The status and the body, or `-` for nothing; the path is the target decoded.
async fn find(files: &Files, method: &str, target: &str, headers: &[(&str, &str)]) -> (String, HeaderMap) {
    let head = request(method, target, headers);
    let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8().unwrap().into_owned();
    match files.find(&head, &path).await.unwrap() {
        Found::Nothing => ("-".to_owned(), HeaderMap::new()),
        Found::Answer(answer) => {
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            (format!("{} {text}", parts.status.as_u16()).trim_end().to_owned(), parts.headers)
        }
    }
}

#[tokio::test]
async fn what_lies_in_the_folder_is_answered_and_nothing_else() {
    let folder = folder();
    let files = files(&folder);
    for (target, expected) in [
        ("/", "200 <p>home"),
        ("/index.html", "200 <p>home"),
        ("/css/style.css", "200 body { color: red }"),
        ("/css/style.css?v=1", "200 body { color: red }"),
        ("/dir/", "200 <p>dir"),
        ("/a%20b%26c.txt", "200 spaces"),
        ("/%C3%BCn%C3%AFcode.txt", "200 letters"),
        ("/within.css", "200 body { color: red }"),
        ("/.well-known/security.txt", "200 Contact: us"),
        ("/empty/", "-"),
        ("/missing", "-"),
        ("/css/style.css/", "-"),
        ("/css/style.css/more", "-"),
        ("/index.html%00.css", "-"),
        ("/.env", "-"),
        ("/.git/config", "-"),
        ("/css/../.env", "-"),
        ("/../outside/secret.txt", "-"),
        ("/%2e%2e/outside/secret.txt", "-"),
        ("/css/%2e%2e/%2e%2e/outside/secret.txt", "-"),
        ("/..%2foutside%2fsecret.txt", "-"),
        ("/css%2Fstyle.css", "-"),
        ("/back%5Cslash", "-"),
        ("//index.html", "-"),
        ("/css//style.css", "-"),
        ("/./index.html", "-"),
        ("/css/.well-known/x", "-"),
        ("/out", "-"),
        ("/outdir/secret.txt", "-"),
        ("/absolute", "-"),
        ("/loop", "-"),
        ("/dangling", "-"),
        ("/pipe", "-"),
        ("/socket", "-"),
    ] {
        assert_eq!(find(&files, "GET", target, &[]).await.0, expected, "{target}");
    }
    let long = format!("/{}", "x".repeat(5_000));
    assert_eq!(find(&files, "GET", &long, &[]).await.0, "-");
}

#[tokio::test]
async fn a_folder_leads_to_its_slash_and_never_to_another_host() {
    let folder = folder();
    let files = files(&folder);
    let (answer, headers) = find(&files, "GET", "/dir?q=1", &[]).await;
    assert_eq!((answer.as_str(), headers[LOCATION].to_str().unwrap()), ("307", "/dir/?q=1"));
    assert_eq!(find(&files, "GET", "//dir", &[]).await.0, "-");
    // The route may give another path than the target has.
    let head = request("GET", "/static/dir", &[]);
    let Found::Answer(answer) = files.find(&head, "dir").await.unwrap() else { panic!("nothing") };
    assert_eq!(answer.headers()[LOCATION], "/static/dir/");
    // `//dir/` in a `Location` would be the host `dir`.
    assert!(matches!(files.find(&request("GET", "//dir", &[]), "/dir").await, Ok(Found::Nothing)));
    let without = Files { index: false, ..files };
    assert_eq!(find(&without, "GET", "/dir", &[]).await.0, "-");
    assert_eq!(find(&without, "GET", "/dir/", &[]).await.0, "-");
    assert_eq!(find(&without, "GET", "/", &[]).await.0, "-");
}

#[tokio::test]
async fn types_ranges_and_conditions_are_those_of_http() {
    let folder = folder();
    let files = Files { cache_control: Some(HeaderValue::from_static("no-cache")), ..files(&folder) };
    let (_, headers) = find(&files, "GET", "/css/style.css", &[]).await;
    let value = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!((value("content-type"), value("content-length")), ("text/css".to_owned(), "19".to_owned()));
    assert_eq!((value("accept-ranges"), value("cache-control")), ("bytes".to_owned(), "no-cache".to_owned()));
    let (etag, modified) = (value("etag"), value("last-modified"));
    let (etag, modified) = (etag.as_str(), modified.as_str());
    let (old, weak) = ("Thu, 01 Jan 1970 00:00:00 GMT", format!("W/{etag}"));
    let weak = weak.as_str();
    let cases = [
        ("HEAD", &[][..], "200"),
        // Parts are of `GET` alone, and counted in bytes.
        ("HEAD", &[("range", "bytes=0-3")], "200"),
        ("HEAD", &[("range", "bytes=100-")], "200"),
        ("HEAD", &[("if-none-match", etag)], "304"),
        ("GET", &[("range", "lines=0-3")], "200 body { color: red }"),
        ("POST", &[], "405"),
        ("GET", &[("if-none-match", etag)], "304"),
        ("GET", &[("if-none-match", "\"other\"")], "200 body { color: red }"),
        ("GET", &[("if-modified-since", modified)], "304"),
        ("GET", &[("if-modified-since", old)], "200 body { color: red }"),
        ("GET", &[("if-match", "\"other\"")], "412"),
        ("GET", &[("range", "bytes=0-3")], "206 body"),
        ("GET", &[("range", "bytes=-5")], "206 red }"),
        ("GET", &[("range", "bytes=100-")], "416"),
        ("GET", &[("range", "bytes=0-1,3-4")], "200 body { color: red }"),
        ("GET", &[("range", "bytes=0-3"), ("if-range", etag)], "206 body"),
        ("GET", &[("range", "bytes=0-3"), ("if-range", modified)], "206 body"),
        ("GET", &[("range", "bytes=0-3"), ("if-range", "\"other\"")], "200 body { color: red }"),
        ("GET", &[("range", "bytes=100-"), ("if-range", "\"other\"")], "200 body { color: red }"),
        ("GET", &[("range", "bytes=0-3"), ("if-range", weak)], "200 body { color: red }"),
        ("GET", &[("range", "bytes=0-3"), ("if-range", old)], "200 body { color: red }"),
        ("GET", &[("range", "bytes=0-3"), ("if-range", etag), ("if-none-match", etag)], "304"),
    ];
    for (method, headers, expected) in cases {
        assert_eq!(find(&files, method, "/css/style.css", headers).await.0, expected, "{method} {headers:?}");
    }
}

#[tokio::test]
async fn a_compressed_sibling_stands_for_the_file_to_whoever_takes_it() {
    let folder = folder();
    let plain = files(&folder);
    let accept = [("accept-encoding", "gzip, br")];
    assert_eq!(find(&plain, "GET", "/css/style.css", &accept).await.0, "200 body { color: red }");
    let files = Files { precompressed: vec![Compression::Brotli, Compression::Gzip], ..plain };
    for (accepted, expected, encoding) in [
        ("gzip, br", "200 brotli", Some("br")),
        ("gzip", "200 gzipped", Some("gzip")),
        ("br;q=0.1, gzip;q=0.9", "200 gzipped", Some("gzip")),
        ("br;q=0, gzip;q=0", "200 body { color: red }", None),
        ("identity", "200 body { color: red }", None),
    ] {
        let (answer, headers) = find(&files, "GET", "/css/style.css", &[("accept-encoding", accepted)]).await;
        assert_eq!(answer, expected, "{accepted}");
        assert_eq!(headers.get("content-encoding").map(|it| it.to_str().unwrap()), encoding, "{accepted}");
        assert_eq!(
            (&headers["content-type"], &headers["vary"]),
            (&"text/css".parse().unwrap(), &"accept-encoding".parse().unwrap())
        );
    }
    let (answer, headers) = find(&files, "GET", "/index.html", &accept).await;
    assert_eq!((answer.as_str(), headers.get("content-encoding")), ("200 <p>home", None));
    // A cache learns from each answer what it depends on (RFC 9110, 15.4.5).
    let etag = headers["etag"].to_str().unwrap();
    let (answer, headers) = find(&files, "GET", "/index.html", &[("if-none-match", etag)]).await;
    assert_eq!((answer.as_str(), headers["vary"].to_str().unwrap()), ("304", "accept-encoding"));
}

#[tokio::test]
async fn a_sibling_that_cannot_be_answered_leaves_the_file_as_it_is() {
    let folder = folder();
    let files = Files { precompressed: vec![Compression::Gzip], ..files(&folder) };
    let sibling = folder.path().join("root/index.html.gz");
    let check = async |what: &str| {
        let accept = [("accept-encoding", "gzip")];
        let (got, got_headers) = find(&files, "GET", "/index.html", &accept).await;
        let (head, head_headers) = find(&files, "HEAD", "/index.html", &accept).await;
        assert_eq!((got.as_str(), head.as_str()), ("200 <p>home", "200"), "{what}");
        assert_eq!(got_headers.get("content-encoding"), None, "{what}");
        assert_eq!(got_headers, head_headers, "{what}");
    };
    symlink("../outside/secret.txt", &sibling).unwrap();
    check("a link out of the folder").await;
    fs::remove_file(&sibling).unwrap();
    symlink("index.html.gz", &sibling).unwrap();
    check("a link to itself").await;
    fs::remove_file(&sibling).unwrap();
    fs::create_dir(&sibling).unwrap();
    check("a folder").await;
    fs::remove_dir(&sibling).unwrap();
    drop(UnixListener::bind(&sibling).unwrap());
    check("a socket").await;
    // 254 of the 255 bytes that a name may have.
    let name = "x".repeat(254);
    fs::write(folder.path().join("root").join(&name), "long").unwrap();
    let accept = [("accept-encoding", "gzip")];
    assert_eq!(find(&files, "GET", &format!("/{name}"), &accept).await.0, "200 long");
}

#[tokio::test]
async fn an_index_that_is_no_file_is_none() {
    let folder = folder();
    fs::create_dir(folder.path().join("root/empty/index.html")).unwrap();
    let files = files(&folder);
    for method in ["GET", "HEAD"] {
        assert_eq!(find(&files, method, "/empty/", &[]).await.0, "-", "{method}");
    }
}

#[tokio::test]
async fn a_file_that_changes_its_length_while_it_is_sent_is_never_taken_for_whole() {
    let folder = folder();
    let path = folder.path().join("root/log");
    let files = files(&folder);
    let len = 4 * CHUNK_BYTES;
    for (headers, announced) in [(&[][..], len), (&[("range", "bytes=1-")], len - 1)] {
        let head = request("GET", "/log", headers);
        let open = async || {
            fs::write(&path, vec![b'a'; len]).unwrap();
            let Found::Answer(answer) = files.find(&head, "/log").await.unwrap() else { panic!("nothing") };
            assert_eq!(answer.headers()["content-length"].to_str().unwrap(), announced.to_string());
            let mut body = answer.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            assert!(0 < first && first <= CHUNK_BYTES);
            (body, first)
        };
        let (body, first) = open().await;
        fs::File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        assert_eq!(first + body.collect().await.unwrap().to_bytes().len(), announced);

        let (mut body, mut sent) = open().await;
        fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
        let error = loop {
            match body.frame().await.expect("an end that looks complete") {
                Ok(frame) => sent += frame.into_data().unwrap().len(),
                Err(error) => break error,
            }
        };
        assert!(sent < announced);
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn the_folder_itself_may_be_a_link_that_is_turned_while_it_is_served() {
    let folder = folder();
    let current = folder.path().join("current");
    symlink("root", &current).unwrap();
    let files = Files { root: current.clone(), ..files(&folder) };
    assert_eq!(find(&files, "GET", "/", &[]).await.0, "200 <p>home");
    fs::remove_file(&current).unwrap();
    assert_eq!(find(&files, "GET", "/", &[]).await.0, "-");
    symlink("root/dir", &current).unwrap();
    assert_eq!(find(&files, "GET", "/", &[]).await.0, "200 <p>dir");
}
