//! The rules of the handshake, one broken at a time.

use http::Request;

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The handshake of RFC 6455, 1.2, as a browser sends it.
const GOOD: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-key", KEY),
    ("sec-websocket-version", "13"),
];

fn parts(method: &str, version: Version, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).version(version).uri("/chat/lobby/");
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

/// [`GOOD`] with the lines of one header replaced.
fn with(name: &str, values: &[&str]) -> Result<Handshake, HandshakeError> {
    let mut headers: Vec<_> = GOOD.into_iter().filter(|(other, _)| *other != name).collect();
    headers.extend(values.iter().map(|value| (name, *value)));
    check(&parts("GET", Version::HTTP_11, &headers))
}

#[test]
fn the_handshake_of_the_rfc_is_accepted_with_its_accept_value() {
    let handshake = check(&parts("GET", Version::HTTP_11, &GOOD)).unwrap();
    assert_eq!(handshake.accept.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(handshake.subprotocols, Vec::<String>::new());
}

#[test]
fn only_a_get_of_http_1_1_is_a_handshake() {
    let cases = [
        ("GET", Version::HTTP_11, None),
        ("POST", Version::HTTP_11, Some(HandshakeError::Method)),
        ("HEAD", Version::HTTP_11, Some(HandshakeError::Method)),
        ("PUT", Version::HTTP_11, Some(HandshakeError::Method)),
        ("get", Version::HTTP_11, Some(HandshakeError::Method)),
        ("GET", Version::HTTP_10, Some(HandshakeError::HttpVersion)),
        ("GET", Version::HTTP_09, Some(HandshakeError::HttpVersion)),
    ];
    for (method, version, expected) in cases {
        assert_eq!(check(&parts(method, version, &GOOD)).err(), expected, "{method} {version:?}");
    }
}

#[test]
fn each_header_of_the_handshake_is_checked() {
    use HandshakeError as E;
    let cases: [(&str, &[&str], Option<HandshakeError>); 38] = [
        ("upgrade", &["WebSocket"], None),
        ("upgrade", &["h2c, websocket"], None),
        ("upgrade", &["h2c", "websocket"], None),
        ("upgrade", &[], Some(E::Upgrade)),
        ("upgrade", &["h2c"], Some(E::Upgrade)),
        ("upgrade", &["websockets"], Some(E::Upgrade)),
        ("upgrade", &["xwebsocket"], Some(E::Upgrade)),
        ("upgrade", &["web socket"], Some(E::Upgrade)),
        ("connection", &["keep-alive, UPGRADE"], None),
        ("connection", &["keep-alive", "upgrade"], None),
        ("connection", &["é,\tupgrade ,"], None),
        ("connection", &[], Some(E::Connection)),
        ("connection", &["keep-alive"], Some(E::Connection)),
        ("connection", &["not-upgrade"], Some(E::Connection)),
        ("connection", &["upgrade;q=1"], Some(E::Connection)),
        ("sec-websocket-version", &[], Some(E::Version)),
        ("sec-websocket-version", &[""], Some(E::Version)),
        ("sec-websocket-version", &["8"], Some(E::Version)),
        ("sec-websocket-version", &["14"], Some(E::Version)),
        ("sec-websocket-version", &["013"], Some(E::Version)),
        ("sec-websocket-version", &["13, 8"], Some(E::Version)),
        ("sec-websocket-version", &["13", "13"], Some(E::Version)),
        ("sec-websocket-version", &["13", "8"], Some(E::Version)),
        ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAA=="], None),
        ("sec-websocket-key", &["1234567890123456789012=="], None),
        ("sec-websocket-key", &[], Some(E::Key)),
        ("sec-websocket-key", &[""], Some(E::Key)),
        ("sec-websocket-key", &["AAAA"], Some(E::Key)),
        ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAA"], Some(E::Key)),
        ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAAA="], Some(E::Key)),
        ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAA"], Some(E::Key)),
        ("sec-websocket-key", &["not base64 at all !!!!!!"], Some(E::Key)),
        ("sec-websocket-key", &["__________-----------_=="], Some(E::Key)),
        ("sec-websocket-key", &[KEY, KEY], Some(E::Key)),
        ("sec-websocket-protocol", &["chat"], None),
        ("sec-websocket-protocol", &["chat/1"], Some(E::Subprotocol)),
        ("sec-websocket-protocol", &["chat", "two words"], Some(E::Subprotocol)),
        ("sec-websocket-protocol", &["chät"], Some(E::Subprotocol)),
    ];
    for (name, values, expected) in cases {
        assert_eq!(with(name, values).err(), expected, "{name}: {values:?}");
    }
}

#[test]
fn the_offered_subprotocols_are_joined_over_the_lines_in_order() {
    let cases: [(&[&str], &[&str]); 7] = [
        (&[], &[]),
        (&[""], &[]),
        (&["chat"], &["chat"]),
        (&["v2.chat, v1.chat"], &["v2.chat", "v1.chat"]),
        (&["b,a", "c"], &["b", "a", "c"]),
        (&[" , a,,b ,"], &["a", "b"]),
        (&["!#$%&'*+-.^_`|~0aZ"], &["!#$%&'*+-.^_`|~0aZ"]),
    ];
    for (values, expected) in cases {
        assert_eq!(with("sec-websocket-protocol", values).unwrap().subprotocols, expected, "{values:?}");
    }
}

#[test]
fn every_byte_that_is_no_tchar_is_refused_in_a_subprotocol() {
    for byte in (0x20..=0xff_u8).filter(|&byte| byte != 0x7f) {
        let mut head = parts("GET", Version::HTTP_11, &GOOD);
        let value = HeaderValue::from_bytes(&[b'a', byte, b'b']).unwrap();
        head.headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        let separators = b"\"(),/:;<=>?@[\\]{} ";
        let expected = match byte {
            b',' => Ok(vec!["a".to_owned(), "b".to_owned()]),
            0x21..=0x7e if !separators.contains(&byte) => Ok(vec![format!("a{}b", char::from(byte))]),
            _ => Err(HandshakeError::Subprotocol),
        };
        assert_eq!(check(&head).map(|handshake| handshake.subprotocols), expected, "{byte:#04x}");
    }
}

#[test]
fn the_order_of_the_client_selects_the_subprotocol() {
    let cases: [(&[&str], &[&str], Option<&str>); 6] = [
        // offered, supported, selected
        (&["b", "a"], &["a", "b"], Some("b")),
        (&["x", "a"], &["a", "b"], Some("a")),
        (&["x"], &["a"], None),
        (&["A"], &["a"], None),
        (&[], &["a"], None),
        (&["a"], &[], None),
    ];
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (offered, supported, expected) in cases {
        assert_eq!(select_subprotocol(&owned(offered), &owned(supported)), expected);
    }
}

#[test]
fn a_request_with_upgrade_websocket_wants_one_whatever_else_is_wrong() {
    let cases = [
        ("GET", Version::HTTP_11, &GOOD[..], true),
        ("POST", Version::HTTP_10, &[("upgrade", "h2c, WebSocket")], true),
        ("GET", Version::HTTP_11, &[], false),
        ("GET", Version::HTTP_11, &[("connection", "upgrade")], false),
        ("GET", Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")], false),
        ("GET", Version::HTTP_11, &[("sec-websocket-key", KEY), ("sec-websocket-version", "13")], false),
    ];
    for (method, version, headers, expected) in cases {
        assert_eq!(wants_upgrade(&parts(method, version, headers)), expected, "{method} {headers:?}");
    }
}

#[test]
fn each_fault_has_its_status() {
    let cases = [
        (HandshakeError::Method, 405),
        (HandshakeError::HttpVersion, 400),
        (HandshakeError::Upgrade, 426),
        (HandshakeError::Connection, 400),
        (HandshakeError::Version, 426),
        (HandshakeError::Key, 400),
        (HandshakeError::Subprotocol, 400),
    ];
    for (error, status) in cases {
        assert_eq!(error.status(), status, "{error}");
    }
}

#[test]
fn over_http_2_only_the_version_and_the_subprotocols_are_checked() {
    let check = |headers: &[(&str, &str)]| {
        check_extended_connect(&parts("CONNECT", Version::HTTP_2, headers)).map(|handshake| {
            assert_eq!(handshake.accept, None);
            handshake.subprotocols.join(" ")
        })
    };
    let version = ("sec-websocket-version", "13");
    let cases = [
        (&[version][..], Ok("")),
        (&[version, ("sec-websocket-protocol", "a, b")], Ok("a b")),
        (&[version, ("sec-websocket-protocol", "a b")], Err(HandshakeError::Subprotocol)),
        (&[], Err(HandshakeError::Version)),
        (&[version, version], Err(HandshakeError::Version)),
        (&[("sec-websocket-version", "8")], Err(HandshakeError::Version)),
    ];
    for (headers, expected) in cases {
        assert_eq!(check(headers), expected.map(str::to_owned), "{headers:?}");
    }
}
