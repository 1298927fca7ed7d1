//! The PROXY header in front of HTTP: who may send one, and what it changes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use crate::support::client::{Client, dial_from, exchange, handshake, read_head};
use crate::support::server::TestServer;

const GET: &str = "GET /nothing/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n";

fn server() -> TestServer {
    TestServer::start(
        r#"
[trust]
proxies = ["127.0.0.2", "198.51.100.0/24"]
headers = "x-forwarded"

[[listener]]
name = "required"
address = "127.0.0.1:0"
proxy_protocol = "require"

[[listener]]
name = "accepted"
address = "127.0.0.1:0"
proxy_protocol = "accept"

[[listener]]
name = "off"
address = "127.0.0.1:0"

[[route]]
name = "whoami"
path = '/whoami/'
handler = "room"
format = "text"
username = "{client}"
welcome = "{username}"
"#,
    )
}

fn v2(command: u8, family: u8, tail: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(tail.len()).unwrap().to_be_bytes());
    bytes.extend(tail);
    bytes
}

/// The client that the server sees, over a connection from a trusted proxy or another peer.
fn whoami(stream: TcpStream, header: &[u8], headers: &[(&str, &str)]) -> String {
    let bytes = [header, &handshake("/whoami/", headers)].concat();
    Client::handshake_over(stream, &bytes).unwrap().next_text()
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let server = server();
    let (required, accepted) = (server.addresses[0], server.addresses[1]);
    let proxy = |address| dial_from("127.0.0.2".parse().unwrap(), address);
    let forwarded = [("X-Forwarded-For", "192.0.2.66")];
    let v4 = v2(0x21, 0x11, &[203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb]);
    let own = v2(0x20, 0, &[]);
    for address in [required, accepted] {
        let cases = [
            (LINE, &[][..], "203.0.113.7"),
            (&v4, &[], "203.0.113.7"),
            // a client of the proxy says what it likes
            (LINE, &forwarded, "203.0.113.7"),
            // another trusted proxy in front of the first says whom it speaks for
            (b"PROXY TCP4 198.51.100.9 192.0.2.1 1 2\r\n", &forwarded, "192.0.2.66"),
            // the proxy for itself
            (&own, &[], "127.0.0.2"),
            (b"PROXY UNKNOWN\r\n", &forwarded, "192.0.2.66"),
        ];
        for (header, headers, client) in cases {
            assert_eq!(whoami(proxy(address), header, headers), client, "{}", header.escape_ascii());
        }
    }
    server.wait_log(&["accepted", "listener=\"required\"", "client=203.0.113.7:56324", "proxy=127.0.0.2:"]);
    // Byte by byte, and without one where that is allowed.
    let mut slow = proxy(required);
    for byte in LINE {
        slow.write_all(&[*byte]).unwrap();
    }
    assert_eq!(exchange(&mut slow, GET).status, 404);
    assert_eq!(whoami(proxy(accepted), b"", &[]), "127.0.0.2");
    let mut put = proxy(accepted);
    put.write_all(b"P").unwrap();
    crate::support::pause(Duration::from_millis(50));
    assert_eq!(exchange(&mut put, "UT /nothing/ HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 404);
    server.stop();
}

#[test]
fn the_client_that_a_proxy_names_has_as_many_connections_as_any() {
    let server = TestServer::start(
        "[server]\nadmin = \"127.0.0.1:0\"\ndrain = { grace = \"0s\", shutdown = \"0s\" }\n\
         limits = { per_ip = 1 }\n\
         [trust]\nproxies = [\"127.0.0.2\", \"198.51.100.0/24\"]\nheaders = \"x-forwarded\"\n\
         [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\n\
         [[route]]\nname = \"echo\"\npath = '/echo/'\nhandler = \"echo\"\n",
    );
    let open = |header: &[u8]| {
        let mut stream = dial_from("127.0.0.2".parse().unwrap(), server.address());
        stream.write_all(header).unwrap();
        let answer = exchange(&mut stream, "GET /nothing/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
        (answer.status, stream)
    };
    let mut held: Vec<_> = (0..2).map(|_| open(LINE)).collect();
    assert!(held.iter().all(|(status, _)| *status == 404));
    let refused = "anteroom_tcp_connections_refused_total{listener=\"public\",reason=\"per_ip\"}";
    assert_eq!(server.metric(refused), 0.0);
    assert_eq!(open(LINE).0, 0);
    server.wait_metric(refused, 1.0);
    // Others are not in its way, and a trusted proxy that is named speaks for many again.
    assert_eq!(open(b"PROXY TCP4 203.0.113.8 192.0.2.1 1 2\r\n").0, 404);
    held.extend((0..4).map(|_| open(b"PROXY TCP4 198.51.100.9 192.0.2.1 1 2\r\n")));
    assert!(held.iter().all(|(status, _)| *status == 404));
    // Whoever leaves makes room.
    held.clear();
    server.wait_metric("anteroom_tcp_connections{listener=\"public\"}", 0.0);
    assert_eq!(open(LINE).0, 404);
    server.stop();
}

#[test]
fn a_header_counts_from_trusted_proxies_only() {
    let server = server();
    let client = |address| dial_from("127.0.0.3".parse().unwrap(), address);
    let series = |listener: &str| {
        format!("anteroom_tcp_connections_refused_total{{listener=\"{listener}\",reason=\"proxy_protocol\"}}")
    };
    // Nobody else is served where it is required, with or without one.
    for first in [LINE, GET.as_bytes()] {
        let mut stream = client(server.addresses[0]);
        stream.write_all(first).unwrap();
        assert_eq!(read_head(&mut stream).0.status, 0);
    }
    server.wait_metric(&series("required"), 2.0);
    // Where it is accepted they are clients, and such a line is a bad request.
    assert_eq!(whoami(client(server.addresses[1]), b"", &[]), "127.0.0.3");
    for address in [server.addresses[1], server.addresses[2]] {
        let mut stream = client(address);
        stream.write_all(LINE).unwrap();
        assert_eq!(exchange(&mut stream, GET).status, 400);
    }
    // From a trusted proxy it is one where it is not expected.
    let mut stream = dial_from("127.0.0.2".parse().unwrap(), server.addresses[2]);
    stream.write_all(LINE).unwrap();
    assert_eq!(exchange(&mut stream, GET).status, 400);
    assert_eq!(server.metric(&series("accepted")), 0.0);
    server.stop();
}

#[test]
fn a_header_that_is_none_or_late_ends_the_connection() {
    let server = server();
    let proxy = |address| dial_from("127.0.0.2".parse().unwrap(), address);
    let series = |listener: &str| {
        format!("anteroom_tcp_connections_refused_total{{listener=\"{listener}\",reason=\"proxy_protocol\"}}")
    };
    let mut ends = 0.0;
    for first in [GET.as_bytes(), b"PROXY TCP4 203.0.113.7\r\n", &[b'P'; 200], &v2(0x29, 0x11, &[0; 12])] {
        let mut stream = proxy(server.addresses[0]);
        stream.write_all(first).unwrap();
        assert_eq!(read_head(&mut stream).0.status, 0, "{}", first.escape_ascii());
        ends += 1.0;
    }
    server.wait_metric(&series("required"), ends);
    // One that does not come, and one that does not end.
    for first in [&b""[..], b"PROXY TCP4 203.0"] {
        let started_at = SystemTime::now();
        let mut stream = proxy(server.addresses[0]);
        stream.write_all(first).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let took = started_at.elapsed().unwrap();
        assert!((2500..6000).contains(&took.as_millis()), "{took:?}");
    }
    server.wait_metric(&series("required"), ends + 2.0);
    server.stop();
}
