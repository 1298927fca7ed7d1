use super::*;

const TRUSTED: &[&str] = &["10.0.0.0/8", "127.0.0.1", "::ffff:192.168.0.0/112", "2001:db8:1::/48"];

fn run(mode: ForwardedHeaders, peer: &str, lines: &[(&'static str, &str)]) -> Forwarded {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let trusted = TRUSTED.iter().map(|text| text.parse::<TrustedProxy>().unwrap()).collect();
    resolve(peer.parse::<std::net::SocketAddr>().unwrap().into(), &headers, &trusted, mode)
}

#[test]
fn x_forwarded_for_is_walked_from_the_right_to_the_first_stranger() {
    let cases = [
        // peer, lines of the header, client
        ("10.0.0.1:9", &["203.0.113.7"][..], "203.0.113.7"),
        ("10.0.0.1:9", &["6.6.6.6, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1:9", &["6.6.6.6", "203.0.113.7", "10.0.0.2,10.0.0.3"], "203.0.113.7"),
        ("10.0.0.1:9", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1:9", &[], "10.0.0.1:9"),
        ("198.51.100.3:9", &["203.0.113.7"], "198.51.100.3:9"),
        ("[::ffff:10.0.0.1]:9", &["203.0.113.7"], "203.0.113.7"),
        ("192.168.0.1:9", &["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1:9", &["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1:9", &["203.0.113.7, ::ffff:10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1:9", &["203.0.113.7:4711"], "203.0.113.7:4711"),
        ("10.0.0.1:9", &["[2001:db8::7]:4711"], "[2001:db8::7]:4711"),
        ("10.0.0.1:9", &["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1:9", &["203.0.113.7, 2001:db8:1::5"], "203.0.113.7"),
        // no address: the last one known
        ("10.0.0.1:9", &["unknown"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1:9", &["6.6.6.6,, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1:9", &["6.6.6.6, 10.0.0.2,"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, é"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, 203.0.113.7:99999"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, 203.0.113.7:_"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, 203.0.113.7:_a b"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, 203.0.113.7:+1"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, \"203.0.113.7\""], "10.0.0.1:9"),
        ("10.0.0.1:9", &["6.6.6.6, [10.0.0.2]"], "10.0.0.1:9"),
        ("10.0.0.1:9", &["010.0.0.2"], "10.0.0.1:9"),
    ];
    for (peer, lines, client) in cases {
        let headers: Vec<_> = lines.iter().map(|&line| ("x-forwarded-for", line)).collect();
        let found = run(ForwardedHeaders::XForwarded, peer, &headers);
        assert_eq!(found.client.to_string(), client, "{peer} {lines:?}");
    }
}

#[test]
fn the_proxies_of_the_way_are_those_that_are_trusted() {
    use ForwardedHeaders::{Forwarded, None, XForwarded};
    let cases = [
        (
            XForwarded,
            "10.0.0.1:9",
            "6.6.6.6, 203.0.113.7, 10.0.0.3, 10.0.0.2",
            &["10.0.0.1", "10.0.0.2", "10.0.0.3"][..],
        ),
        // One that hides its port is an address here as everywhere.
        (XForwarded, "10.0.0.1:9", "203.0.113.7:_x, 10.0.0.2:_y", &["10.0.0.1", "10.0.0.2"]),
        (XForwarded, "10.0.0.1:9", "203.0.113.7, unknown, ::ffff:10.0.0.2", &["10.0.0.1"]),
        (XForwarded, "10.0.0.1:9", "unknown", &[]),
        (XForwarded, "198.51.100.3:9", "203.0.113.7", &[]),
        (Forwarded, "10.0.0.1:9", "for=203.0.113.7, for=10.0.0.2", &["10.0.0.1", "10.0.0.2"]),
        (None, "10.0.0.1:9", "203.0.113.7", &[]),
    ];
    for (mode, peer, line, proxies) in cases {
        let name = if mode == Forwarded { "forwarded" } else { "x-forwarded-for" };
        let found = run(mode, peer, &[(name, line)]);
        let found: Vec<_> = found.proxies.iter().map(ToString::to_string).collect();
        assert_eq!(found, proxies, "{mode:?} {peer} {line}");
    }
}

#[test]
fn forwarded_is_walked_from_the_right_to_the_first_stranger() {
    let cases = [
        (&["for=203.0.113.7"][..], "203.0.113.7"),
        (&["for=6.6.6.6, for=203.0.113.7, for=10.0.0.2"], "203.0.113.7"),
        (&["for=6.6.6.6", "For=203.0.113.7;by=10.0.0.9 , FOR=10.0.0.2"], "203.0.113.7"),
        (&[r#"for="203.0.113.7:47011""#], "203.0.113.7:47011"),
        (&[r#"for="[2001:db8::7]:4711""#], "[2001:db8::7]:4711"),
        (&[r#"for="[2001:db8::7]""#], "2001:db8::7"),
        (&["for=[2001:db8::7]:4711"], "[2001:db8::7]:4711"),
        (&[r#"for="[2001:db8::7]:_port""#], "2001:db8::7"),
        (&[r#"for="\2\03.0.113.7""#], "203.0.113.7"),
        (&[r#"for=6.6.6.6, for=10.0.0.2;x="a,for=7.7.7.7""#], "6.6.6.6"),
        // what is no address ends the walk
        (&["for=6.6.6.6, for=unknown, for=10.0.0.2"], "10.0.0.2"),
        (&["for=6.6.6.6, for=_hidden"], "10.0.0.1:9"),
        (&["for=6.6.6.6, proto=https"], "10.0.0.1:9"),
        (&["for=6.6.6.6, "], "10.0.0.1:9"),
        (&[""], "10.0.0.1:9"),
        // a line that breaks the grammar counts for nothing
        (&["for=6.6.6.6;for=7.7.7.7"], "10.0.0.1:9"),
        (&[r#"for="6.6.6.6"#], "10.0.0.1:9"),
        (&["for=6.6.6.6", "for", "for=10.0.0.2"], "10.0.0.2"),
        (&["for= 6.6.6.6"], "10.0.0.1:9"),
        (&["for=6.6.6.6 for=7.7.7.7"], "10.0.0.1:9"),
        (&[r#"for="6.6.6.6"x"#], "10.0.0.1:9"),
        (&["=6.6.6.6"], "10.0.0.1:9"),
    ];
    for (lines, client) in cases {
        let headers: Vec<_> = lines.iter().map(|&line| ("forwarded", line)).collect();
        let found = run(ForwardedHeaders::Forwarded, "10.0.0.1:9", &headers);
        assert_eq!(found.client.to_string(), client, "{lines:?}");
    }
}

#[test]
fn scheme_and_host_come_from_trusted_proxies_only() {
    use ForwardedHeaders::{Forwarded, None as Off, XForwarded};
    let cases = [
        (XForwarded, "10.0.0.1:9", &[("x-forwarded-proto", "https")][..], Some(Scheme::Https), None),
        (XForwarded, "10.0.0.1:9", &[("x-forwarded-proto", "https, http")], Some(Scheme::Http), None),
        (XForwarded, "10.0.0.1:9", &[("x-forwarded-proto", "WSS")], Some(Scheme::Https), None),
        (XForwarded, "10.0.0.1:9", &[("x-forwarded-proto", "gopher")], None, None),
        (XForwarded, "10.0.0.1:9", &[("x-forwarded-host", "a.example")], None, Some("a.example")),
        (
            XForwarded,
            "10.0.0.1:9",
            &[("x-forwarded-host", "a.example"), ("x-forwarded-host", "b.example")],
            None,
            Some("a.example,b.example"),
        ),
        (XForwarded, "8.8.8.8:9", &[("x-forwarded-host", "a"), ("x-forwarded-proto", "https")], None, None),
        (Off, "10.0.0.1:9", &[("x-forwarded-host", "a"), ("forwarded", "host=a")], None, None),
        (Forwarded, "10.0.0.1:9", &[("x-forwarded-host", "a"), ("x-forwarded-proto", "https")], None, None),
        (XForwarded, "10.0.0.1:9", &[("forwarded", "host=a;proto=https")], None, None),
        (XForwarded, "10.0.0.1:9", &[("x_forwarded_host", "a")], None, None),
        (Forwarded, "8.8.8.8:9", &[("forwarded", "host=a;proto=https")], None, None),
        (
            Forwarded,
            "10.0.0.1:9",
            &[("forwarded", "for=8.8.8.8;host=\"a:81\";proto=https")],
            Some(Scheme::Https),
            Some("a:81"),
        ),
        // the client's own element, left of the first stranger, is not read
        (
            Forwarded,
            "10.0.0.1:9",
            &[("forwarded", "host=evil;proto=http, for=8.8.8.8;host=good;proto=https")],
            Some(Scheme::Https),
            Some("good"),
        ),
        // the outer one of two trusted proxies saw the client's request
        (
            Forwarded,
            "10.0.0.1:9",
            &[("forwarded", "for=8.8.8.8;host=outer, for=10.0.0.2;host=inner;proto=http")],
            Some(Scheme::Http),
            Some("outer"),
        ),
    ];
    for (mode, peer, lines, scheme, host) in cases {
        let found = run(mode, peer, lines);
        assert_eq!((found.scheme, found.host.as_deref()), (scheme, host), "{mode:?} {peer} {lines:?}");
    }
}

#[test]
fn a_mode_reads_its_own_header_only() {
    let both = [("x-forwarded-for", "7.7.7.7"), ("forwarded", "for=8.8.8.8"), ("x_forwarded_for", "9.9.9.9")];
    let cases = [
        (ForwardedHeaders::None, "10.0.0.1:9"),
        (ForwardedHeaders::XForwarded, "7.7.7.7"),
        (ForwardedHeaders::Forwarded, "8.8.8.8"),
    ];
    for (mode, client) in cases {
        assert_eq!(run(mode, "10.0.0.1:9", &both).client.to_string(), client, "{mode:?}");
    }
}

#[test]
fn no_more_than_32_hops_are_walked() {
    let chain = |prefix: &str| {
        let hops: Vec<_> = (0..40).rev().map(|hop| format!("{prefix}10.1.0.{hop}")).collect();
        format!("{prefix}8.8.8.8, {}", hops.join(", "))
    };
    let found = run(ForwardedHeaders::XForwarded, "10.0.0.1:9", &[("x-forwarded-for", &chain(""))]);
    assert_eq!(found.client.to_string(), "10.1.0.31");
    let found = run(ForwardedHeaders::Forwarded, "10.0.0.1:9", &[("forwarded", &chain("for="))]);
    assert_eq!(found.client.to_string(), "10.1.0.31");
}

#[test]
fn a_trusted_proxy_is_an_address_a_network_or_whoever_comes_by_a_unix_socket() {
    let cases = [
        ("10.0.0.0/8", Ok("10.0.0.0/8")),
        ("127.0.0.1", Ok("127.0.0.1/32")),
        ("unix", Ok("unix")),
        ("Unix", Err("write an address")),
        ("::1", Ok("::1/128")),
        ("0.0.0.0/0", Ok("0.0.0.0/0")),
        ("::ffff:10.0.0.0/104", Ok("10.0.0.0/8")),
        ("::ffff:127.0.0.1", Ok("127.0.0.1/32")),
        ("10.0.0.1/8", Err("`10.0.0.0/8` for the network, `10.0.0.1` for the address")),
        ("10.0.0.0/33", Err("write an address")),
        ("localhost", Err("write an address")),
        ("10.", Err("write an address")),
        ("", Err("write an address")),
    ];
    for (text, expected) in cases {
        match (text.parse::<TrustedProxy>(), expected) {
            (Ok(proxy), Ok(shown)) => assert_eq!(proxy.to_string(), shown),
            (Err(error), Err(help)) => assert!(error.help().contains(help), "{text}: {}", error.help()),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
    let cases = [("unix", true, false), ("0.0.0.0/0", false, true)];
    for (proxy, unix, ip) in cases {
        let trusted: TrustedProxies = [proxy.parse().unwrap()].into_iter().collect();
        assert_eq!(trusted.trusts(Peer::Unix.into()), unix, "{proxy}");
        assert_eq!(trusted.trusts(ClientAddr::new("192.0.2.1".parse().unwrap(), None)), ip, "{proxy}");
    }
}
