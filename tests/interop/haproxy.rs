//! `HAProxy` in front, passing on bytes with PROXY headers of either version, and TLS as it comes.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::client::{Client, dial_from, handshake, request};
use crate::support::server::{TestServer, complete};
use crate::support::tls::Authority;
use crate::support::wait_until;
use crate::tools::{Process, free_port};

/// Another address of this machine than that of the proxy, so that the two cannot be mistaken.
const CLIENT: &str = "127.0.0.7";

const ROUTES: &str = r#"
[trust]
proxies = ["127.0.0.1", "unix"]

[[route]]
name = "whoami"
path = '/whoami/'
handler = "room"
format = "text"
username = "{client}"
welcome = "{username}"

[[route]]
name = "home"
path = '/'
handler = "respond"
"#;

#[test]
fn haproxy_names_the_client_in_either_version_over_tcp_unix_and_before_tls() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let socket = root.join("public.sock");
    authority.issue(&["localhost"]).write(&root, "a");
    let listener = |name: &str, address: &str, more: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\nproxy_protocol = \"require\"\n{more}\n"
        )
    };
    let listeners = [
        listener("plain", "127.0.0.1:0", ""),
        listener("tls", "127.0.0.1:0", "tls = [{ cert = \"a.pem\", key = \"a.key\" }]"),
        listener("local", &format!("unix:{}", socket.display()), ""),
    ];
    let path = root.join("routes.toml");
    fs::write(&path, complete(&(listeners.concat() + ROUTES))).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let (plain, tls) = (server.addresses[0], server.addresses[1]);

    // With its own checks, which come with LOCAL headers.
    let fronts: Vec<(SocketAddr, String)> = [
        format!("{plain} send-proxy"),
        format!("{plain} send-proxy-v2 proxy-v2-options crc32c,unique-id check check-send-proxy inter 100"),
        format!("{tls} send-proxy"),
        format!("{tls} send-proxy-v2"),
        format!("unix@{} send-proxy", socket.display()),
        format!("unix@{} send-proxy-v2 proxy-v2-options crc32c", socket.display()),
    ]
    .into_iter()
    .map(|server| (format!("127.0.0.1:{}", free_port()).parse().unwrap(), server))
    .collect();
    let mut config =
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n".to_owned();
    for (at, (address, server)) in fronts.iter().enumerate() {
        writeln!(config, "listen front{at}\n  bind {address}\n  unique-id-format %ID\n  server one {server}")
            .unwrap();
    }
    fs::write(root.join("haproxy.cfg"), config).unwrap();
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(root.join("haproxy.cfg")).stdin(Stdio::null());
    let _haproxy = Process::spawn(&mut command);
    for (address, _) in &fronts {
        wait_until("HAProxy listens", || std::net::TcpStream::connect(address).is_ok());
    }

    for (address, server) in &fronts {
        let stream = dial_from(CLIENT.parse().unwrap(), *address);
        let bytes = handshake("/whoami/", &[]);
        let named = if server.starts_with(&tls.to_string()) {
            let stream = authority.client().connect_over(stream, "localhost").unwrap();
            Client::handshake_over(stream, &bytes).unwrap().next_text()
        } else {
            Client::handshake_over(stream, &bytes).unwrap().next_text()
        };
        assert_eq!(named, CLIENT, "{server}");
    }
    let home = request(fronts[1].0, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(home.status, 200);
    let refused = |listener: &str| {
        server.metric(&format!(
            "anteroom_tcp_connections_refused_total{{listener=\"{listener}\",reason=\"proxy_protocol\"}}"
        ))
    };
    assert_eq!((refused("tls"), refused("local")), (0.0, 0.0));
    server.stop();
}
