use proptest::prelude::*;

use super::*;

fn peer(text: &str) -> Peer {
    text.parse::<SocketAddr>().unwrap().into()
}

/// A header of version 2 with this command, family and tail.
fn v2(command: u8, family: u8, tail: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(tail.len()).unwrap().to_be_bytes());
    bytes.extend(tail);
    bytes
}

const V4: &[u8] = &[203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];

fn v6() -> Vec<u8> {
    let mut tail = Vec::new();
    tail.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    tail.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    tail.extend([0xdc, 0x04, 0x01, 0xbb]);
    tail
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(bytes.len() - HEAD_BYTES + 7).unwrap();
    bytes[14..16].copy_from_slice(&len.to_be_bytes());
    bytes.extend([CHECKSUM, 0, 4, 0, 0, 0, 0]);
    let sum = crc_32c(bytes.iter().copied()).to_be_bytes();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sum);
    bytes
}

fn valid() -> Vec<(Vec<u8>, Option<Peer>)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 16));
    assert_eq!(long.len(), LINE_BYTES_MAX);
    let longest = "ffff:f:ffff:ffff:ffff:ffff:ffff:ffff";
    vec![
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"), Some(peer("203.0.113.7:56324"))),
        (line("PROXY TCP4 255.255.255.255 0.0.0.0 0 65535\r\n"), Some(peer("255.255.255.255:0"))),
        (line("PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"), Some(peer("[2001:db8::7]:56324"))),
        (line("PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n"), Some(peer("203.0.113.7:1"))),
        (
            line(&format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n")),
            Some(peer(&format!("[{longest}]:65535"))),
        ),
        (line("PROXY UNKNOWN\r\n"), None),
        (line("PROXY UNKNOWN what ever\r\n"), None),
        (line(&long), None),
        (v2(0x21, 0x11, V4), Some(peer("203.0.113.7:56324"))),
        (v2(0x21, 0x21, &v6()), Some(peer("[2001:db8::7]:56324"))),
        (v2(0x21, 0x31, &[0; 216]), Some(Peer::Unix)),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, &[1, 2, 3]), None),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, V4), None),
        // of no family that there is: the addresses of a proxy's own connection are skipped unread
        (v2(0x20, 0x77, &[1, 2, 3]), None),
        // an unknown extension, and one without a value
        (v2(0x21, 0x11, &[V4, &[0xea, 0, 2, 1, 2, 0x04, 0, 0]].concat()), Some(peer("203.0.113.7:56324"))),
        (with_checksum(v2(0x21, 0x11, V4)), Some(peer("203.0.113.7:56324"))),
        (v2(0x21, 0x11, &[V4, &[4, 15, 225], &[0; 4065]].concat()), Some(peer("203.0.113.7:56324"))),
    ]
}

#[test]
fn a_header_ends_where_it_says_and_names_the_client() {
    for (bytes, client) in valid() {
        let header = Header { len: bytes.len(), client };
        assert_eq!(parse(&bytes), Ok(Some(header)), "{}", bytes.escape_ascii());
        let followed = [&bytes, &b"GET / HTTP/1.1\r\n"[..]].concat();
        assert_eq!(parse(&followed), Ok(Some(header)), "{}", bytes.escape_ascii());
        assert!(is_certain(&bytes));
    }
}

#[test]
fn a_header_that_is_cut_anywhere_is_waited_for() {
    for (bytes, _) in valid() {
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), Ok(None), "{len} bytes of {}", bytes.escape_ascii());
        }
    }
}

#[test]
fn what_is_no_header_is_refused_for_its_fault() {
    let line = |text: &str| text.as_bytes().to_vec();
    let mut version_1 = v2(0x21, 0x11, V4);
    version_1[12] = 0x11;
    let mut wrong_sum = with_checksum(v2(0x21, 0x11, V4));
    wrong_sum[16] ^= 1;
    let cases = [
        (line("GET / HTTP/1.1\r\n"), InvalidHeader::Absent),
        (line("PUT / HTTP/1.1\r\n"), InvalidHeader::Absent),
        (line("PROXZ TCP4"), InvalidHeader::Absent),
        (line("proxy TCP4"), InvalidHeader::Absent),
        (line("\r\nGET / HTTP/1.1\r\n"), InvalidHeader::Absent),
        (vec![0x16, 3, 1], InvalidHeader::Absent),
        (line(&format!("PROXY {}", "x".repeat(LINE_BYTES_MAX))), InvalidHeader::Endless),
        (line(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX))), InvalidHeader::Endless),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\n"), InvalidHeader::Line),
        (line("PROXY \r\n"), InvalidHeader::Line),
        (line("PROXY UNKNOWNS\r\n"), InvalidHeader::Line),
        (line("PROXY UDP4 203.0.113.7 10.0.0.1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 56324\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 56324 443 \r\n"), InvalidHeader::Line),
        (line("PROXY TCP4  203.0.113.7 10.0.0.1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.07 10.0.0.1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.256 10.0.0.1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113 10.0.0.1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 2001:db8::7 2001:db8::1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP6 203.0.113.7 10.0.0.1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP6 [::1] ::1 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 nowhere 56324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 056324 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 +5632 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 65536 443\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 1 00\r\n"), InvalidHeader::Line),
        (line("PROXY TCP4 203.0.113.7 10.0.0.1 1 \r\n"), InvalidHeader::Line),
        (b"PROXY UNKNOWN \xff\r\n".to_vec(), InvalidHeader::Line),
        (version_1, InvalidHeader::Command),
        (v2(0x22, 0x11, V4), InvalidHeader::Command),
        (v2(0x21, 0x12, V4), InvalidHeader::Family),
        (v2(0x21, 0x01, V4), InvalidHeader::Family),
        (v2(0x21, 0x41, V4), InvalidHeader::Family),
        (v2(0x21, 0x11, &V4[1..]), InvalidHeader::Length),
        (v2(0x21, 0x21, V4), InvalidHeader::Length),
        (v2(0x21, 0x31, &[0; 215]), InvalidHeader::Length),
        (v2(0x20, 0x00, &[0; TAIL_BYTES_MAX + 1]), InvalidHeader::Length),
        (v2(0x21, 0x11, &[V4, &[4]].concat()), InvalidHeader::Extensions),
        (v2(0x21, 0x11, &[V4, &[4, 0]].concat()), InvalidHeader::Extensions),
        (v2(0x21, 0x11, &[V4, &[4, 0, 2, 0]].concat()), InvalidHeader::Extensions),
        (v2(0x21, 0x11, &[V4, &[CHECKSUM, 0, 1, 0]].concat()), InvalidHeader::Extensions),
        (wrong_sum, InvalidHeader::Checksum),
    ];
    for (bytes, error) in cases {
        assert_eq!(parse(&bytes), Err(error), "{}", bytes.escape_ascii());
    }
}

/// Rule: the check value of CRC-32C.
#[test]
fn the_checksum_is_that_of_castagnoli() {
    assert_eq!(crc_32c(b"123456789".iter().copied()), 0xe306_9283);
}

proptest! {
    /// However the bytes come in: what is decided stays decided, and nothing makes it panic.
    #[test]
    fn more_bytes_change_no_decision(
        (mut bytes, _) in prop::sample::select(valid()),
        changes in prop::collection::vec((0..64_usize, any::<u8>()), 0..4),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.extend(rest);
        let mut decided = None;
        for len in 0..=bytes.len() {
            match (parse(&bytes[..len]), &decided) {
                (Ok(None), None) => (),
                (now @ (Ok(Some(_)) | Err(_)), None) => decided = Some(now),
                (now, Some(Ok(header))) => prop_assert_eq!(now, Ok(*header)),
                (now, Some(Err(_))) => prop_assert!(now.is_err()),
            }
        }
    }
}
