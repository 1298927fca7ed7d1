//! TLS: what is spoken, which certificate is shown, and certificates that change while sockets are open.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustls::{HandshakeKind, ProtocolVersion};

use crate::support::client::{Client, Frame, dial, exchange, handshake, read_head};
use crate::support::server::{TestServer, complete};
use crate::support::tls::{Authority, Issued, TlsClient, TlsStream};
use crate::support::wait_until;

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = '/echo/'
handler = "echo"
"#;

const GET: &str = "GET /nothing/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn listener(more: &str) -> String {
    format!("[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n{more}\n")
}

/// A server with these certificates, each written as `<name>.pem` and `<name>.key`, and more keys of its listener.
fn start(certificates: &[(&str, &Issued)], more: &str) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    for (name, issued) in certificates {
        issued.write(folder.path(), name);
    }
    let names: Vec<_> = certificates.iter().map(|(name, _)| *name).collect();
    fs::write(&path, complete(&(listener(&format!("{}\n{more}", tls(&names))) + ROUTES))).unwrap();
    TestServer::start_at(folder, &path, &[])
}

/// The key `tls` for certificates of these names.
fn tls(names: &[&str]) -> String {
    let pair = |name: &&str| format!("{{ cert = \"{name}.pem\", key = \"{name}.key\" }}");
    format!("tls = [{}]", names.iter().map(pair).collect::<Vec<_>>().join(", "))
}

/// The certificate that the server has shown, as the DER of PEM.
fn shown(stream: &TlsStream) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

fn der(issued: &Issued) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap().to_vec()
}

fn handshakes(server: &TestServer, result: &str) -> f64 {
    server.metric(&format!("anteroom_tls_handshakes_total{{listener=\"public\",result=\"{result}\"}}"))
}

#[test]
fn a_websocket_is_opened_through_tls_1_2_and_1_3() {
    let authority = Authority::new();
    let server = start(&[("a", &authority.issue(&["localhost"]))], "");
    assert!(server.output().contains(&format!("public     https://{}/\n", server.address())));
    let clients = [
        (authority.client(), ProtocolVersion::TLSv1_3),
        (authority.client_of_1_2(), ProtocolVersion::TLSv1_2),
    ];
    for (client, version) in clients {
        let stream = client.connect(server.address(), "localhost").unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut client = Client::handshake_over(stream, &handshake("/echo/", &[])).unwrap();
        let long = "x".repeat(60_000);
        client.send_text(&long);
        assert_eq!(client.next(), Frame::Text(long));
        client.close(1000);
        assert_eq!(client.next_close(), 1000);
    }
    let mut plain = authority.client().connect(server.address(), "localhost").unwrap();
    assert_eq!(exchange(&mut plain, GET).status, 404);
    assert_eq!(handshakes(&server, "ok"), 3.0);
    assert_eq!(server.metric("anteroom_tls_handshake_duration_seconds_count{listener=\"public\"}"), 3.0);
    server.stop();
}

#[test]
fn the_protocol_is_one_that_both_speak() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let agreed = |server: &TestServer, offer: &[&str]| {
        let stream = authority.client().alpn(offer).connect(server.address(), "localhost").ok()?;
        Some(stream.conn.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()))
    };
    let both = start(&[("a", &issued)], "");
    assert_eq!(agreed(&both, &["http/1.1", "h2"]), Some(Some("h2".to_owned())));
    assert_eq!(agreed(&both, &["http/1.1"]), Some(Some("http/1.1".to_owned())));
    assert_eq!(agreed(&both, &[]), Some(None));
    assert_eq!(agreed(&both, &["spdy/3"]), None);
    wait_until("the refusal is counted", || handshakes(&both, "incompatible") == 1.0);
    both.stop();
    let one = start(&[("a", &issued)], "http2 = false");
    assert_eq!(agreed(&one, &["http/1.1", "h2"]), Some(Some("http/1.1".to_owned())));
    one.stop();
}

#[test]
fn the_certificate_is_the_one_for_the_name_and_the_client() {
    let authority = Authority::new();
    let first = authority.issue(&["localhost"]);
    let named = authority.issue(&["app.example.com"]);
    let wild = authority.issue(&["*.example.com", "*.example.org"]);
    let rsa = authority.issue_rsa(&["app.example.com", "localhost"]);
    let server = start(&[("first", &first), ("named", &named), ("wild", &wild), ("rsa", &rsa)], "");
    let (any, of_rsa) = (authority.client(), authority.client_of_rsa());
    let cases = [
        (&any, "localhost", &first),
        (&any, "app.example.com", &named),
        (&any, "APP.Example.com", &named),
        (&any, "other.example.com", &wild),
        (&any, "x.example.org", &wild),
        (&of_rsa, "app.example.com", &rsa),
        (&of_rsa, "localhost", &rsa),
    ];
    for (client, name, issued) in cases {
        let stream = client.connect(server.address(), name).unwrap();
        assert_eq!(shown(&stream), der(issued), "{name}");
    }
    server.stop();
    // There is nothing to show to a client that knows none of the keys.
    let server = start(&[("first", &first)], "");
    assert!(of_rsa.connect(server.address(), "localhost").is_err());
    wait_until("it is counted", || handshakes(&server, "no_cert") == 1.0);
    server.stop();
}

#[test]
fn what_is_no_tls_is_told_so_or_closed() {
    let authority = Authority::new();
    let server = start(&[("a", &authority.issue(&["localhost"]))], "");
    let answer = exchange(&mut dial(server.address()), GET);
    assert_eq!((answer.status, answer.body.as_str()), (400, "bad_request: this port speaks TLS\n"));
    let mut stream = dial(server.address());
    stream.write_all(b"\x16\x03\x01\x00\x05rubbish").unwrap();
    assert_eq!(read_head(&mut stream).0.status, 0);
    wait_until("both are counted", || handshakes(&server, "protocol") == 2.0);
    // One that leaves, and one that does not trust the certificate.
    drop(dial(server.address()));
    wait_until("it is counted", || handshakes(&server, "gone") == 1.0);
    assert!(Authority::new().client().connect(server.address(), "localhost").is_err());
    wait_until("it is counted", || handshakes(&server, "alert") == 1.0);
    server.stop();
}

#[test]
fn half_handshakes_end_after_ten_seconds_and_hold_up_no_stop() {
    let authority = Authority::new();
    let server = start(&[("a", &authority.issue(&["localhost"]))], "");
    let started_at = SystemTime::now();
    let mut halves: Vec<_> = (0..100).map(|_| dial(server.address())).collect();
    for half in &mut halves[..50] {
        half.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap();
        half.set_read_timeout(None).unwrap();
    }
    // Others are served meanwhile.
    let mut stream = authority.client().connect(server.address(), "localhost").unwrap();
    assert_eq!(exchange(&mut stream, GET).status, 404);
    halves[0].read_to_end(&mut Vec::new()).unwrap();
    let took = started_at.elapsed().unwrap().as_secs();
    assert!((9..15).contains(&took), "{took} s");
    wait_until("all have ended", || handshakes(&server, "timeout") == 100.0);
    let _half = dial(server.address());
    server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 1.0);
    let started_at = SystemTime::now();
    server.stop();
    assert!(started_at.elapsed().unwrap().as_secs() < 5);
}

/// A server whose listener asks clients for certificates of this authority, in `ca.pem`, with more keys.
fn start_asking(certificate: &Issued, authority: &Authority, more: &str) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    certificate.write(folder.path(), "a");
    fs::write(folder.path().join("ca.pem"), &authority.cert).unwrap();
    fs::write(&path, complete(&asking(more))).unwrap();
    TestServer::start_at(folder, &path, &[])
}

fn asking(more: &str) -> String {
    listener(&format!("{}\nclient_ca = \"ca.pem\"\n{more}", tls(&["a"]))) + ROUTES
}

/// Whether a client gets an answer. With TLS 1.3 a refusal comes in its place.
fn is_let_in(server: &TestServer, client: &TlsClient) -> bool {
    let Ok(mut stream) = client.connect(server.address(), "localhost") else { return false };
    let mut answer = Vec::new();
    stream.write_all(GET.as_bytes()).is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 404")
}

#[test]
fn a_client_certificate_is_required_or_requested() {
    let authority = Authority::new();
    let robot = authority.client_as(&authority.issue_client("robot"));
    let stranger = authority.client_as(&Authority::new().issue_client("robot"));
    let issued = authority.issue(&["localhost"]);
    let required = start_asking(&issued, &authority, "");
    assert!(is_let_in(&required, &robot));
    assert!(!is_let_in(&required, &authority.client()));
    assert!(!is_let_in(&required, &stranger));
    wait_until("both refusals are counted", || handshakes(&required, "client_cert") == 2.0);
    required.stop();
    let requested = start_asking(&issued, &authority, "client_auth = \"request\"");
    assert!(is_let_in(&requested, &authority.client()));
    assert!(!requested.log().contains("certificate="));
    assert!(is_let_in(&requested, &robot));
    requested.wait_log(&["refused", "certificate=\"CN=robot\""]);
    assert!(!is_let_in(&requested, &stranger));
    requested.stop();
}

#[test]
fn authorities_that_change_decide_on_new_clients_and_open_sockets_stay() {
    let (authority, other) = (Authority::new(), Authority::new());
    let robot = authority.client_as(&authority.issue_client("robot"));
    let newcomer = authority.client_as(&other.issue_client("newcomer"));
    let server = start_asking(&authority.issue(&["localhost"]), &authority, "");
    let path = server.folder().join("ca.pem");
    let stream = robot.connect(server.address(), "localhost").unwrap();
    let mut open = Client::handshake_over(stream, &handshake("/echo/", &[])).unwrap();
    assert!(is_let_in(&server, &robot));
    assert!(!is_let_in(&server, &newcomer));

    let len = server.log().len();
    fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
    server.wait_log_after(len, &["ERROR", "`ca.pem`", "the last one stays in force"]);
    server.wait_metric("anteroom_tls_certificate_reloads_total{result=\"error\"}", 1.0);
    assert!(server.admin("/config").body.contains("ca.pem"));
    assert!(is_let_in(&server, &robot));
    assert!(!is_let_in(&server, &newcomer));

    fs::write(&path, &other.cert).unwrap();
    server.wait_log_after(len, &["INFO", "the file has changed and is in force", "ca.pem"]);
    wait_until("nothing is wrong", || server.admin("/config").body.contains("\"certificate_errors\": []"));
    assert!(is_let_in(&server, &newcomer));
    // It has sessions of before, which must not let it in.
    assert!(!is_let_in(&server, &robot));
    assert_eq!(server.metric("anteroom_tls_certificate_reloads_total{result=\"ok\"}"), 1.0);
    assert_eq!(server.metric("anteroom_config_generation"), 1.0);
    open.send_text("still here");
    assert_eq!(open.next(), Frame::Text("still here".to_owned()));
    open.close(1000);
    server.stop();
}

#[test]
fn whether_clients_show_certificates_is_live() {
    let authority = Authority::new();
    let server = start(&[("a", &authority.issue(&["localhost"]))], "");
    let (anyone, robot) = (authority.client(), authority.client_as(&authority.issue_client("robot")));
    assert!(is_let_in(&server, &anyone));
    fs::write(server.folder().join("ca.pem"), &authority.cert).unwrap();
    let mut generation = 1.0;
    let mut lets_in = |config: &str| {
        server.write_config(config);
        generation += 1.0;
        server.wait_metric("anteroom_config_generation", generation);
        assert_eq!(server.metric("anteroom_config_restart_pending"), 0.0);
        (is_let_in(&server, &anyone), is_let_in(&server, &robot))
    };
    assert_eq!(lets_in(&asking("")), (false, true));
    assert_eq!(lets_in(&asking("client_auth = \"request\"")), (true, true));
    assert_eq!(lets_in(&asking("client_auth = \"require\"")), (false, true));
    assert_eq!(lets_in(&(listener(&tls(&["a"])) + ROUTES)), (true, true));
    server.stop();
}

#[test]
fn a_certificate_that_changes_is_shown_to_new_clients_and_open_sockets_stay() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let server = start(&[("a", &first)], "");
    let client = authority.client();
    let connect = || client.connect(server.address(), "localhost").unwrap();
    let mut open: Vec<_> =
        (0..20).map(|_| Client::handshake_over(connect(), &handshake("/echo/", &[])).unwrap()).collect();
    assert_eq!(shown(&open[0].stream), der(&first));
    second.write(server.folder(), "a");
    wait_until("the new certificate is shown", || {
        let fresh = authority.client().connect(server.address(), "localhost").unwrap();
        for one in &mut open {
            one.send_text("still here");
            assert_eq!(one.next(), Frame::Text("still here".to_owned()));
        }
        shown(&fresh) == der(&second)
    });
    server.wait_log(&["INFO", "the file has changed and is in force", "a.pem"]);
    assert_eq!(server.metric("anteroom_tls_certificate_reloads_total{result=\"ok\"}"), 1.0);
    assert_eq!(server.metric("anteroom_config_generation"), 1.0);
    for mut one in open {
        one.close(1000);
        assert_eq!(one.next_close(), 1000);
    }
    // A session of before is resumed: the keys of tickets are not those of the certificate.
    assert_eq!(connect().conn.handshake_kind(), Some(HandshakeKind::Resumed));
    server.stop();
}

#[test]
fn a_broken_pair_keeps_the_last_one_and_the_next_good_one_is_taken() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let server = start(&[("a", &first)], "");
    let connect = || authority.client().connect(server.address(), "localhost").unwrap();
    let path = |name: &str| server.folder().join(name);
    let restore = || {
        first.write(server.folder(), "a");
        wait_until("nothing is wrong", || {
            server.admin("/config").body.contains("\"certificate_errors\": []")
        });
    };
    let half = first.cert.get(..first.cert.len() / 2).unwrap();
    let breaks: [(&str, &dyn Fn(), &str); 5] = [
        ("half", &|| fs::write(path("a.pem"), half).unwrap(), "the certificate cannot be read"),
        ("empty", &|| fs::write(path("a.pem"), "").unwrap(), "there is no certificate in it"),
        ("garbage", &|| fs::write(path("a.key"), "garbage").unwrap(), "there is no private key in it"),
        (
            "other",
            &|| fs::write(path("a.key"), &second.key).unwrap(),
            "the private key is not that of the certificate",
        ),
        ("gone", &|| fs::remove_file(path("a.key")).unwrap(), "No such file"),
    ];
    for (count, (what, break_it, why)) in breaks.into_iter().enumerate() {
        let len = server.log().len();
        break_it();
        let file = if ["half", "empty"].contains(&what) { "`a.pem`" } else { "`a.key`" };
        let line = server.wait_log_after(len, &["ERROR", file, why, "the last one stays in force"]);
        assert!(!line.contains("PRIVATE KEY-----\n"), "{line}");
        server.wait_metric("anteroom_tls_certificate_reloads_total{result=\"error\"}", count as f64 + 1.0);
        assert!(server.admin("/config").body.contains(why), "{what}");
        assert_eq!(shown(&connect()), der(&first), "{what}");
        restore();
    }
    assert_eq!(server.metric("anteroom_tls_certificate_reloads_total{result=\"ok\"}"), 0.0);
    second.write(server.folder(), "a");
    wait_until("the good one is taken", || shown(&connect()) == der(&second));
    assert!(!server.log().contains(first.key.lines().nth(1).unwrap()));
    server.stop();
}

#[test]
fn a_renewal_by_links_is_noticed() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let folder = tempfile::tempdir().unwrap();
    let archive = |name: &str| folder.path().join("archive").join(name);
    let relink = |link: &Path, target: &Path| {
        let fresh = link.with_extension("new");
        symlink(target, &fresh).unwrap();
        fs::rename(&fresh, link).unwrap();
    };
    fs::create_dir_all(archive("1")).unwrap();
    fs::create_dir_all(archive("2")).unwrap();
    first.write(&archive("1"), "a");
    // As a ConfigMap: a link to a directory that is swapped whole.
    relink(&folder.path().join("live"), &archive("1"));
    let path = folder.path().join("routes.toml");
    let keys = "tls = [{ cert = \"live/a.pem\", key = \"live/a.key\" }]";
    fs::write(&path, complete(&(listener(keys) + ROUTES))).unwrap();
    let root = folder.path().to_owned();
    let server = TestServer::start_at(folder, &path, &[]);
    let connect = || authority.client().connect(server.address(), "localhost").unwrap();
    assert_eq!(shown(&connect()), der(&first));
    second.write(&root.join("archive/2"), "a");
    relink(&root.join("live"), &root.join("archive/2"));
    wait_until("the new certificate is shown", || shown(&connect()) == der(&second));
    server.stop();
}

#[test]
fn the_list_is_live_and_the_rest_waits_for_a_restart() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["app.example.com"]));
    let server = start(&[("a", &first)], "");
    second.write(server.folder(), "b");
    let connect = |name: &str| authority.client().connect(server.address(), name);
    assert!(connect("app.example.com").is_err());
    let not_after = |name: &str| {
        let name = format!("{name}.pem");
        server.metric(&format!(
            "anteroom_tls_certificate_not_after_timestamp_seconds{{listener=\"public\",name=\"{name}\"}}"
        ))
    };
    assert!(0.0 < not_after("a"));
    server.write_config(&(listener(&tls(&["a", "b"])) + ROUTES));
    server.wait_metric("anteroom_config_generation", 2.0);
    assert_eq!(shown(&connect("app.example.com").unwrap()), der(&second));
    assert_eq!(server.metric("anteroom_config_restart_pending"), 0.0);
    assert_eq!(server.metric("anteroom_tls_certificate_reloads_total{result=\"ok\"}"), 1.0);
    server.write_config(&(listener(&tls(&["b"])) + ROUTES));
    server.wait_metric("anteroom_config_generation", 3.0);
    assert!(connect("localhost").is_err());
    assert_eq!((not_after("a"), 0.0 < not_after("b")), (0.0, true));
    // These are not live.
    for more in ["http2 = false", "proxy_protocol = \"accept\""] {
        let trust = "[trust]\nproxies = [\"127.0.0.9\"]\nheaders = \"x-forwarded\"\n";
        server.write_config(&(trust.to_owned() + &listener(&format!("{}\n{more}", tls(&["b"]))) + ROUTES));
        server.wait_metric("anteroom_config_restart_pending", 1.0);
        server.write_config(&(listener(&tls(&["b"])) + ROUTES));
        server.wait_metric("anteroom_config_restart_pending", 0.0);
    }
    // Without any, it would be another listener.
    server.write_config(&(listener("") + ROUTES));
    server.wait_metric("anteroom_config_restart_pending", 1.0);
    assert_eq!(shown(&connect("app.example.com").unwrap()), der(&second));
    server.stop();
}

#[test]
fn a_file_that_names_a_broken_certificate_is_taken_once_it_is_whole() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["app.example.com"]));
    let server = start(&[("a", &first)], "");
    server.write_config(&(listener(&tls(&["a", "b"])) + ROUTES));
    server.wait_metric("anteroom_config_last_reload_successful", 0.0);
    server.wait_log(&["error[E026]", "`b.pem`", "No such file"]);
    // Another fault is another report.
    fs::write(server.folder().join("b.key"), &first.key).unwrap();
    fs::write(server.folder().join("b.pem"), &second.cert).unwrap();
    server.wait_log(&["error[E026]", "`b.key`", "not that of the certificate"]);
    let reports = server.log().matches("error[E026]").count();
    second.write(server.folder(), "b");
    server.wait_metric("anteroom_config_generation", 2.0);
    server.wait_metric("anteroom_config_last_reload_successful", 1.0);
    assert_eq!(server.log().matches("error[E026]").count(), reports);
    let stream = authority.client().connect(server.address(), "app.example.com").unwrap();
    assert_eq!(shown(&stream), der(&second));
    server.stop();
}

#[test]
fn a_broken_certificate_stops_the_start_and_check_says_which() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    Issued { cert: first.cert.clone(), key: second.key.clone() }.write(folder.path(), "a");
    fs::write(&path, complete(&(listener(&tls(&["a"])) + ROUTES))).unwrap();
    for args in [&["check"][..], &["-c"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_anteroom")).args(args).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("error[E026]: `a.key`: the private key is not that of the certificate"),
            "{said}"
        );
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
    first.write(folder.path(), "a");
    let output = Command::new(env!("CARGO_BIN_EXE_anteroom")).arg("print").arg(&path).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("tls = [{ cert = \"a.pem\", key = \"a.key\" }]\nhttp2 = true\n"), "{said}");
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

#[test]
fn the_proxy_header_comes_before_tls() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    authority.issue(&["localhost"]).write(folder.path(), "a");
    let keys = format!("{}\nproxy_protocol = \"require\"", tls(&["a"]));
    let trust = "[trust]\nproxies = [\"127.0.0.1\"]\n";
    let route = "[[route]]\nname = \"whoami\"\npath = '/whoami/'\nhandler = \"room\"\nformat = \"text\"\n\
         username = \"{client}\"\nwelcome = \"{username}\"\n";
    fs::write(&path, complete(&(trust.to_owned() + &listener(&keys) + route))).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let mut stream = dial(server.address());
    stream.write_all(b"PROXY TCP6 2001:db8::7 ::1 56324 443\r\n").unwrap();
    let stream = authority.client().connect_over(stream, "localhost").unwrap();
    let mut client = Client::handshake_over(stream, &handshake("/whoami/", &[])).unwrap();
    assert_eq!(client.next_text(), "2001:db8::7");
    client.close(1000);
    server.stop();
}
