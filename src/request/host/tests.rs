use super::*;

#[test]
fn a_host_is_taken_apart() {
    let cases = [
        ("Example.COM:8000", Some(("example.com", Some(8000)))),
        ("example.com.", Some(("example.com", None))),
        ("example.com.:1", Some(("example.com", Some(1)))),
        ("[::1]:65536", Some(("[::1]", Some(65536)))),
        ("a:99999999999999999999", Some(("a", Some(u32::MAX)))),
        ("[::1]x", None),
        ("[::1", None),
        ("[]", None),
        ("[1]", None),
        ("[1.2:3]", None),
        ("[::1.2.3.4]", Some(("[::1.2.3.4]", None))),
        ("a:", None),
        (":80", None),
        ("a:+1", None),
        ("a:1:2", None),
        ("a,b", None),
        ("a/b", None),
        ("a@b", None),
        ("http://a", None),
        (" a", None),
        ("a\t", None),
    ];
    for (text, expected) in cases {
        let host = Host::parse(text).ok();
        assert_eq!(host.as_ref().map(|host| (host.domain(), host.port())), expected, "{text}");
    }
    assert_eq!(Host::parse("Example.COM.:8000").unwrap().to_string(), "example.com.:8000");
}

#[test]
fn a_pattern_that_never_matches_is_refused_with_what_was_meant() {
    let cases = [
        ("", "`*` for any host"),
        (".", "`*` for any host"),
        ("*.example.com", "write `.example.com`"),
        ("example.com.", "write `example.com`"),
        (".example.com.", "write `.example.com`"),
        ("example.com:8000", "write `example.com`"),
        ("[::1]:8000", "write `[::1]`"),
        ("https://example.com:8000/x", "write `example.com`"),
        ("::1", "write `[::1]`"),
        ("bücher.example", "xn--"),
        ("under_score", "write a name"),
        ("a b", "write a name"),
        ("user@example.com", "write a name"),
        ("ex*mple.com", "write a name"),
        ("[::1", "write a name"),
    ];
    for (text, help) in cases {
        let error = text.parse::<HostPattern>().expect_err(text);
        assert!(error.help().contains(help), "{text}: {error}: {}", error.help());
    }
}

#[test]
fn a_pattern_shows_itself_in_lower_case() {
    for (text, shown) in [("*", "*"), (".Example.com", ".example.com"), ("[::1]", "[::1]")] {
        assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), shown);
    }
}
