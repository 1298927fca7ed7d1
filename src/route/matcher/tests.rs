use super::*;
use crate::route::syntax::{parse_ast, parse_hir};

fn matcher(text: &str, full: bool) -> Matcher {
    let hir = parse_hir(text, &parse_ast(text).unwrap()).unwrap();
    Matcher::new(&hir, &Wide::new(&hir), full).unwrap()
}

#[test]
fn what_is_plain_needs_no_automaton() {
    let cases = [
        // pattern, whether it must match to the end, what it begins with, what follows
        ("/fixed", true, "/fixed", "nothing"),
        ("^/fixed$", true, "/fixed", "nothing"),
        (r"/a\.b(?:c)", true, "/a.bc", "nothing"),
        ("^$", true, "", "nothing"),
        ("^static/", false, "static/", "anything"),
        ("", false, "", "anything"),
        ("^", false, "", "anything"),
        ("/.*", true, "/", "a line"),
        ("/static/(?P<path>.*)", true, "/static/", "a line"),
        ("^((?P<path>.*?))$", true, "", "a line"),
        ("/(?s:.*)", true, "/", "automata"),
        ("/.+", true, "/", "automata"),
        ("^/.*", false, "/", "automata"),
        ("static/", false, "", "automata"),
        ("(?m)^static/", false, "", "automata"),
        (r"^static/\z", false, "static/", "automata"),
        ("(?i)/fixed", true, "/", "automata"),
        ("/a|/b", true, "", "automata"),
        (r"^ws/(?P<room>\w+)/$", true, "ws/", "automata"),
    ];
    for (text, full, prefix, rest) in cases {
        let matcher = matcher(text, full);
        let found = match matcher.rest {
            Rest::Anything => "anything",
            Rest::Nothing => "nothing",
            Rest::Line => "a line",
            Rest::Automata(_) => "automata",
        };
        assert_eq!((&*matcher.prefix, found), (prefix.as_bytes(), rest), "{text}");
    }
}

#[test]
fn only_what_differs_outside_of_ascii_has_a_second_automaton() {
    for (text, expected) in [("/[^/]+/", false), ("/[a-z]+/é.+", false), (r"/\w+/", true), ("/[é-ü]/", true)]
    {
        let Rest::Automata(automata) = matcher(text, true).rest else { panic!("{text}") };
        assert_eq!(automata.full.is_some(), expected, "{text}");
    }
}
