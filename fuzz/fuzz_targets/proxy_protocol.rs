//! The PROXY header at the start of a connection.

#![no_main]

use std::sync::LazyLock;

use anteroom::listener::{Peer, parse_proxy_header};
use libfuzzer_sys::fuzz_target;
use regex::bytes::Regex;

/// Version 1 with addresses.
static LINE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^PROXY TCP([46]) ([^ ]+) ([^ ]+) ([0-9]+) ([0-9]+)\r\n").unwrap());
const HEADER_BYTES_MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let whole = parse_proxy_header(data);

    // It is decided at one byte; all before it is not enough, and nothing after it counts.
    let cuts = data.len().min(HEADER_BYTES_MAX + 1);
    let decided = (0..=cuts).find(|&len| parse_proxy_header(&data[..len]) != Ok(None));
    match decided {
        None => assert_eq!(whole, Ok(None)),
        Some(first) => {
            for len in first..=cuts {
                assert_eq!(parse_proxy_header(&data[..len]), whole);
            }
        }
    }
    assert!(decided.is_some() || data.len() < HEADER_BYTES_MAX, "a peer cannot send for ever");

    let Ok(Some(header)) = whole else { return };
    assert!(header.len <= data.len().min(HEADER_BYTES_MAX));
    assert_eq!(decided, Some(header.len), "it ends where it says");
    if data.starts_with(b"PROXY TCP") {
        let words = LINE.captures(data).expect("a line that is taken has five words");
        let Some(Peer::Ip(client)) = header.client else { panic!("a line with addresses has a client") };
        let ip = str::from_utf8(&words[2]).unwrap().parse().unwrap();
        let port = str::from_utf8(&words[4]).unwrap().parse().unwrap();
        assert_eq!(Peer::Ip(client), Peer::from(std::net::SocketAddr::new(ip, port)));
        assert_eq!(ip.is_ipv4(), words[1] == *b"4");
    }
    // Any client of version 1 can be said again, and is the same.
    if let Some(Peer::Ip(client)) = header.client {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {0} {0} {1} {1}\r\n", client.ip(), client.port());
        let again = parse_proxy_header(line.as_bytes()).unwrap().unwrap();
        assert_eq!((again.len, again.client), (line.len(), header.client));
    }
});
