use proptest::prelude::*;
use regex::Regex;

use super::*;

fn captured(pattern: &Pattern, path: &str) -> Option<Vec<(String, String)>> {
    let params = pattern.captures(path)?;
    Some(params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[test]
fn a_path_is_matched_whole_and_with_its_slash() {
    let cases = [
        ("/chat/", "/chat/", true),
        ("/chat/", "chat/", false),
        ("/chat/", "//chat/", false),
        ("/chat/", "/chat/x", false),
        ("/chat/", "/x/chat/", false),
        ("/a|/b", "/b", true),
        ("/a|/b", "/bc", false),
        ("/.*", "/", true),
        ("/.*", "/any/thing", true),
        ("/.*", "/a\nb", false),
        ("/(?s:.*)", "/a\nb", true),
        (r"(?x) /a # a note", "/a", false),
    ];
    for (text, path, matches) in cases {
        let found = Pattern::path(text).ok().and_then(|pattern| pattern.captures(path)).is_some();
        assert_eq!(found, matches, "{text} {path}");
    }
}

#[test]
fn a_re_path_is_whole_only_when_it_ends_in_a_dollar() {
    let cases = [
        ("a|ab$", "/ab", true),
        ("^a|b$", "/b", true),
        ("^a|b$", "/ab", false),
        ("^a|b", "/xb", true),
        ("b", "/abc", true),
        (r"^a\$", "/a$", true),
        (r"^a\$", "/a$b", false),
        ("^a$", "///a", true),
    ];
    for (text, path, matches) in cases {
        assert_eq!(Pattern::re_path(text).unwrap().captures(path).is_some(), matches, "{text} {path}");
    }
}

#[test]
fn captures_come_in_the_order_of_the_pattern_and_only_when_they_took_part() {
    let pattern = Pattern::path(r"/(?P<org>\w+)(?:/(?P<room>\w+))?/(x)?").unwrap();
    let pairs = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>())
    };
    assert_eq!(captured(&pattern, "/a/b/"), pairs(&[("org", "a"), ("room", "b")]));
    assert_eq!(captured(&pattern, "/a/x"), pairs(&[("org", "a")]));
    assert_eq!(captured(&pattern, "/"), None);
    assert_eq!(pattern.names().collect::<Vec<_>>(), ["org", "room"]);
    assert_eq!(pattern.as_str(), r"/(?P<org>\w+)(?:/(?P<room>\w+))?/(x)?");
}

#[test]
fn what_only_python_has_is_named_with_its_place_and_a_way_out() {
    let cases = [
        // pattern, what the span covers, a word of the message, a word of the help
        (r"^(?!admin)\w+/$", "(?!", "negative look-ahead", "before this one"),
        (r"^a(?=b)b/$", "(?=", "look-ahead", "a part of the pattern"),
        (r"^a(?<=a)b/$", "(?<=", "look-behind", "a part of the pattern"),
        (r"^é(?<!a)b/$", "(?<!", "negative look-behind", "before this one"),
        (r"^(a)\1/$", r"\1", "back-references", "write the text out"),
        (r"^(?P<n>a)(?P=n)/$", "(?P=n)", "back-reference `(?P=name)`", "write the text out"),
        (r"^a/\Z", r"\Z", r"escape `\Z`", r"`\z`"),
        (r"^(a)?(?(1)b|c)$", "(?(1)", "conditional", "alternatives"),
        (r"^(?>a+)b$", "(?>", "atomic", "(?:"),
        (r"^a++b$", "+", "possessive", "second `+`"),
        (r"^a?+b$", "+", "possessive", "second `+`"),
        (r"^a**$", "*", "repetition of a repetition", "one of them"),
        (r"^(?#note)a$", "(?#note)", "comments", "line of its own"),
        (r"^(?a)\w$", "a", "flags", "[0-9]"),
        (r"^(?P>x)$", "P", "unknown group", "(?P<name>"),
        (r"^[a&&b]$", "a&&b", "plain characters", "backslash"),
        (r"^[[:alpha:]]$", "[:alpha:]", "plain characters", "backslash"),
        (r"^\<b\>$", r"\<", "word boundaries", "backslash"),
        (r"^a{,3}$", "", "repetition", r"`\{`"),
        (r"^(?P<a.b>x)$", "a.b", "not a name", "letters"),
    ];
    for (text, covered, message, help) in cases {
        let error = Pattern::re_path(text).expect_err(text);
        assert_eq!(text.get(error.span.clone().unwrap()).unwrap(), covered, "{text}: {error:?}");
        assert!(error.message.contains(message), "{text}: {error:?}");
        assert!(error.help.as_ref().is_some_and(|found| found.contains(help)), "{text}: {error:?}");
    }
}

#[test]
fn everything_that_only_python_has_is_found_at_once() {
    let cases = [
        (
            r"^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)(?>d)c++\Z",
            &["(?=", r"\1", "(?<!", "(?P=n)", "(?>", "+", r"\Z"][..],
        ),
        (r"^(?#note)é(?!a)\<b$", &["(?#note)", "(?!", r"\<"]),
        // What follows such a mistake may be its consequence.
        (r"^(?=a(b\1$", &["(?=", r"\1"]),
        (r"^(?a)\w(?=a)$", &["a"]),
        (r"^(a\1", &[r"\1"]),
    ];
    for (text, covered) in cases {
        let error = Pattern::re_path(text).expect_err(text);
        let found = std::iter::once(&error).chain(&error.further);
        let found: Vec<_> = found.map(|one| text.get(one.span.clone().unwrap()).unwrap()).collect();
        assert_eq!(found, covered, "{text}");
    }
}

#[test]
fn a_converter_of_another_router_is_refused_with_its_group() {
    let cases = [
        // pattern, what the span covers, what to write
        ("/chat/<str:room>/", "<str:room>", "(?P<room>[A-Za-z0-9_-]{1,64})"),
        ("/chat/<room>/", "<room>", "(?P<room>[A-Za-z0-9_-]{1,64})"),
        ("/é/<int:room_1>", "<int:room_1>", "(?P<room_1>[0-9]{1,64})"),
        ("/<uuid:id>", "<uuid:id>", "(?P<id>[0-9a-f-]{36})"),
        ("/<slug:id>?", "", ""),
        ("/<path:rest>", "<path:rest>", "(?P<rest>.+)"),
        ("/(?:<room>|a)/", "<room>", "(?P<room>"),
        (r"/\.<room>", "<room>", "(?P<room>"),
        ("/a/:room/b", ":room", "(?P<room>"),
        ("/:room", ":room", "(?P<room>"),
        (r"/\:room", "", ""),
        ("/a:b/(?P<room>a)/(?<other>b)", "", ""),
        ("/<>/<1>/<a b>", "", ""),
        (r"/[<]room>", "", ""),
    ];
    for (text, covered, help) in cases {
        let error = Pattern::path(text).err();
        let span = error.as_ref().and_then(|error| error.span.clone()).unwrap_or_default();
        assert_eq!(text.get(span).unwrap(), covered, "{text}: {error:?}");
        let found = error.and_then(|error| error.help).unwrap_or_default();
        assert!(found.contains(help), "{text}: {found}");
    }
}

#[test]
fn a_path_of_django_lacks_its_slash_too() {
    let error = Pattern::path("chat/<str:room>/").unwrap_err();
    let [further] = error.further.as_slice() else { panic!("{error:?}") };
    assert!(error.message.contains("begins with a slash"), "{error:?}");
    assert!(further.message.contains("converter"), "{error:?}");
}

#[test]
fn the_longest_capture_is_known() {
    let cases = [
        ("(?P<n>a{3}|b)", Some(3)),
        ("(?P<n>é{1,64})?", Some(64)),
        ("(?P<n>a+)", None),
        ("(?P<n>a){0}", Some(0)),
    ];
    for (text, len) in cases {
        assert_eq!(Pattern::path(&format!("/{text}")).unwrap().capture_len_max("n"), len, "{text}");
    }
}

#[test]
fn other_mistakes_are_errors_with_a_place() {
    let cases = [
        ("^(a", "("),
        ("^a)", ")"),
        ("^[a", "["),
        (r"^\p{Nope}$", r"\p{Nope}"),
        ("^(?P<a>x)(?P<a>y)$", "a"),
        ("*a", ""),
        ("(?x)a # note$", "# note$"),
    ];
    for (text, covered) in cases {
        let error = Pattern::re_path(text).expect_err(text);
        assert_eq!(text.get(error.span.clone().unwrap()).unwrap(), covered, "{text}: {error:?}");
    }
}

#[test]
fn a_pattern_too_big_is_refused() {
    let error = Pattern::path(r"/(?:\w{100}){100}").unwrap_err();
    assert!(error.message.contains("larger than 10 MiB"), "{error:?}");
    assert_eq!(error.span, None);
    Pattern::path(r"/[\w.-]{1,99}/").unwrap();
}

#[test]
fn a_pattern_that_matches_no_path_is_refused() {
    let cases = [
        (Pattern::re_path("^/chat/$").err(), Some("without its leading slashes")),
        (Pattern::re_path("^/chat/").err(), Some("without its leading slashes")),
        (Pattern::re_path("/chat/$").err(), Some("without its leading slashes")),
        (Pattern::re_path("^(?:/a|/b)$").err(), Some("without its leading slashes")),
        (Pattern::re_path("^(?:/a|b)$").err(), None),
        (Pattern::re_path("/chat/").err(), None),
        (Pattern::re_path("^/?chat/$").err(), None),
        (Pattern::path("chat/").err(), Some("begins with a slash")),
        (Pattern::path("^chat/$").err(), Some("begins with a slash")),
        (Pattern::path("").err(), Some("begins with a slash")),
        (Pattern::path("(?i)chat/").err(), Some("begins with a slash")),
        (Pattern::path("(?:a|/b)").err(), None),
        (Pattern::path(".*").err(), None),
        (Pattern::path("[/x]+").err(), None),
        (Pattern::path(r"^/chat/$").err(), None),
    ];
    for (at, (error, expected)) in cases.into_iter().enumerate() {
        match (error, expected) {
            (Some(error), Some(words)) => assert!(error.message.contains(words), "{at}: {error:?}"),
            (error, expected) => assert_eq!(error.is_some(), expected.is_some(), "{at}: {error:?}"),
        }
    }
}

#[test]
fn a_capture_that_no_group_name_may_hold_is_found() {
    let found = |chars: &str, can_be_empty, can_be_too_long| {
        Some((chars.chars().collect::<Vec<_>>(), can_be_empty, can_be_too_long))
    };
    let cases = [
        (r"(?P<n>\w+)", found("é٣", false, true)),
        (r"(?P<n>\w{1,99})", found("é٣", false, false)),
        (r"(?P<n>\d{1,9})", found("٣", false, false)),
        (r"(?P<n>[^/]+)", found("é ٣", false, true)),
        (r"(?P<n>.*)", found("é/ ", true, true)),
        (r"(?P<n>[A-Za-z0-9_.-]{1,99})", None),
        (r"(?P<n>[A-Za-z0-9_.-]{1,100})", found("", false, true)),
        (r"(?P<n>[a-z]{0,9})", found("", true, false)),
        (r"(?P<n>[a-z]{1,9})?", found("", true, false)),
        (r"(?P<n>(?:a|bc){3})", None),
        (r"(?P<n>a|b!)", found("!", false, false)),
        (r"(?P<n>a)|b", found("", true, false)),
        (r"(?P<n>(?-u:\w){1,9})", None),
        (r"(?P<n>[$%])", found("$", false, false)),
        (r"(?P<n>a\b)", None),
        (r"(?i)(?P<n>k)", found("\u{212a}", false, false)),
        (r"(?:x(?P<n>[0-9]{4}))+", None),
    ];
    for (text, expected) in cases {
        let pattern = Pattern::path(&format!("/a/(?:{text})/")).unwrap();
        let unsafe_capture = pattern.unsafe_capture("n");
        let facts = unsafe_capture.clone().map(|it| (it.chars, it.can_be_empty, it.can_be_too_long));
        assert_eq!(facts, expected, "{text}");
        if let Some(unsafe_capture) = unsafe_capture {
            let group = pattern.as_str().get(unsafe_capture.span).unwrap();
            assert!(group.starts_with("(?P<n>") && group.ends_with(')'), "{group}");
        }
    }
    assert_eq!(Pattern::path("/(?P<n>.)").unwrap().unsafe_capture("other"), None);
}

/// Texts of patterns, most of which are right.
fn texts() -> impl Strategy<Value = String> {
    let one_of = |choices: &'static str| proptest::sample::select(choices.split(' ').collect::<Vec<_>>());
    let part = one_of(
        r"a ab é / . .* .+? \w+ \d \b [^/]+ [é-ü] (a|b/) (?i:a) (?s:.) \w{2,7} b{5} (?P<x>.*) (?P<x>\w+) (?P<x>[ab])? (?P<y>[^/]*)",
    );
    (one_of(" ^ / ^/?"), proptest::collection::vec(part, 0..4), one_of(r" $ /$ \z"))
        .prop_map(|(start, parts, end)| format!("{start}{}{end}", parts.concat()))
}

proptest! {
    /// However a pattern is decided, it is as its text says: by one regular expression, and nothing else.
    #[test]
    fn a_pattern_says_what_its_text_says(
        text in texts(),
        paths in proptest::collection::vec("/{0,2}(a|b|ab|A|é|ü|/|\n|☃| ){0,9}", 1..20),
        whole in any::<bool>(),
    ) {
        let pattern = if whole { Pattern::path(&text) } else { Pattern::re_path(&text) };
        let Ok(pattern) = pattern else { return Ok(()) };
        let plain = if whole || text.ends_with('$') { format!(r"\A(?:{text})\z") } else { text };
        let plain = Regex::new(&plain).unwrap();
        for path in &paths {
            let subject = if whole { path } else { path.trim_start_matches('/') };
            let expected = plain.captures(subject).map(|found| {
                let named = plain.capture_names().flatten();
                named.filter_map(|name| Some((name.to_owned(), found.name(name)?.as_str().to_owned()))).collect()
            });
            prop_assert_eq!(pattern.is_match(path), expected.is_some(), "{} {:?}", plain, path);
            prop_assert_eq!(captured(&pattern, path), expected, "{} {:?}", plain, path);
        }
    }
}
