use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Rows that are not run, by note: Django's `path()` syntax is not ours.
const SKIPPED: &[&str] = &[
    "path(): str converter",
    "path(): uuid",
    "path() to a consumer is an endpoint: no partial match",
    "path(): anchored at the very end",
    "nested path()",
    "three levels",
];

/// A table that asks each of the patterns, and one that sifts them: it has them again behind themselves until they are
/// many.
fn both_ways(patterns: Vec<Pattern>) -> [Table; 2] {
    let many = patterns.iter().cycle().take(Table::FEW + patterns.len()).cloned().collect();
    let [asked, sifted] = [patterns, many].map(|patterns| Table::new(patterns).unwrap());
    assert!(asked.groups.is_empty() && !sifted.groups.is_empty());
    [asked, sifted]
}

#[test]
fn re_path_routes_as_channels_does() {
    let mut run = 0;
    let mut skipped = Vec::new();
    for line in include_str!("../../../tests/fixtures/route_cases.jsonl").lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let note = row["note"].as_str().unwrap();
        let mut flat = Vec::new();
        flatten(row["patterns"].as_array().unwrap(), "", &[], &mut flat);
        if flat.iter().any(|route| route.is_django_path) {
            skipped.push(note.to_owned());
            continue;
        }
        run += 1;
        if note.starts_with("lookahead") {
            let error = Pattern::re_path(&flat[0].text).unwrap_err();
            assert!(error.message.contains("look-ahead") && error.help.is_some(), "{error:?}");
            continue;
        }
        let patterns = flat.iter().map(|route| Pattern::re_path(&route.text).unwrap()).collect();
        // What `--root-path` does is done by whoever stands in front of the server.
        let path = row["path"].as_str().unwrap().strip_prefix(row["root_path"].as_str().unwrap());
        let expected: Option<Vec<u64>> = match &row["matched"] {
            Value::Null => None,
            Value::Array(indexes) => Some(indexes.iter().map(|index| index.as_u64().unwrap()).collect()),
            index => Some(vec![index.as_u64().unwrap()]),
        };
        for table in both_ways(patterns) {
            let found = path.and_then(|path| Some((path, table.matches(path).next()?)));
            assert_eq!(found.map(|(_, index)| flat[index].indexes.clone()), expected, "{note}");
            if let Some((path, index)) = found {
                let params = table.captures(index, path);
                let kwargs: serde_json::Map<String, Value> =
                    params.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
                assert_eq!(Value::Object(kwargs), row["kwargs"], "{note}");
            }
        }
    }
    assert_eq!(run, 38);
    assert_eq!(skipped, SKIPPED);
}

/// A route of nested routers, as it is written in one table.
struct Flat {
    text: String,
    indexes: Vec<u64>,
    is_django_path: bool,
}

/// Puts the patterns of nested routers together as one writes them by hand: the outer one, any slashes, the
/// inner one without its `^`; a name that the inner one has again loses its outer place.
fn flatten(routes: &[Value], outer: &str, above: &[u64], flat: &mut Vec<Flat>) {
    for (index, route) in (0..).zip(routes) {
        let own = route["pattern"].as_str().unwrap();
        let mut text = own.to_owned();
        if !outer.is_empty() {
            let mut outer = outer.to_owned();
            for name in Pattern::re_path(own).iter().flat_map(Pattern::names) {
                outer = outer.replace(&format!("(?P<{name}>"), "(?:");
            }
            text = format!("{outer}/*{}", own.strip_prefix('^').unwrap_or(own));
        }
        let indexes = [above, &[index]].concat();
        let is_django_path = route["kind"] == "path";
        match route["routes"].as_array() {
            Some(inner) => flatten(inner, &text, &indexes, flat),
            None => flat.push(Flat { text, indexes, is_django_path }),
        }
    }
}

#[test]
fn both_forms_are_matched_in_one_order() {
    let patterns = vec![
        Pattern::path("/b/").unwrap(),
        Pattern::re_path("^a/$").unwrap(),
        Pattern::path(r"/(?P<x>\w)/").unwrap(),
        Pattern::re_path("^").unwrap(),
        Pattern::path("/.*").unwrap(),
    ];
    let count = patterns.len();
    let tables = both_ways(patterns);
    let cases = [
        ("/a/", &[1, 2, 3, 4][..]),
        ("/b/", &[0, 2, 3, 4]),
        ("/", &[3, 4]),
        ("//a/", &[1, 3, 4]),
        ("", &[3]),
    ];
    for table in &tables {
        for (path, expected) in cases {
            let found: Vec<_> = table.matches(path).filter(|&index| index < count).collect();
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(table.captures(2, "/a/").get("x"), Some("a"));
        assert!(table.captures(0, "/b/").is_empty());
    }
    assert!(tables[0].captures(9, "/a/").is_empty());
}

#[test]
fn an_empty_table_matches_nothing() {
    let table = Table::new(Vec::new()).unwrap();
    assert_eq!(table.matches("/").next(), None);
}

#[test]
fn what_the_sieve_lets_through_is_asked_again() {
    let cases = [
        // pattern, a path that only the sieve takes, a path that matches
        (r"^\w+$", "/☃", "/é"),
        (r"^[éè]+$", "/ê", "/é"),
        (r"^a{9}$", "/aaaaaaaa", "/aaaaaaaaa"),
        (r"^a{0,9}$", "/aaaaaaaaaa", "/aaaaaaaaa"),
        (r"^a\b.b", "/axb", "/a-b"),
        (r"^(?m:a$)", "/ab", "/a\nb"),
        (r"^(?i:straße)$", "/stra☃e", "/STRAẞE"),
    ];
    for (text, sifted, matching) in cases {
        let [_, table] = both_ways(vec![Pattern::re_path(text).unwrap()]);
        assert_eq!(table.groups[0].sift(sifted).first(), Some(&0), "{text}");
        assert_eq!(table.matches(sifted).next(), None, "{text}");
        assert_eq!(table.matches(matching).next(), Some(0), "{text}");
    }
}

#[test]
fn what_the_sieve_decides_is_not_asked_again() {
    let cases = [
        // pattern, whether nothing remains to be asked in ASCII, and elsewhere
        ("/a[0-9]*/(x|y){1,4}", true, true),
        ("/[^/]+/.*", true, true),
        (r"/(?P<room>\w+)/", true, false),
        (r"/\w{9}", false, false),
        (r"/a\b.*", false, false),
    ];
    for (text, in_ascii, elsewhere) in cases {
        let pattern = Pattern::path(text).unwrap();
        assert_eq!(["/a", "/é"].map(|path| pattern.sieve().decides(path)), [in_ascii, elsewhere], "{text}");
    }
}

proptest! {
    #[test]
    fn the_table_says_what_its_patterns_say(
        texts in proptest::collection::vec(
            r"\^?(a|b|\\w|\\b|\[é-ü]|\(\?P<x>[ab]\)|\(\?i:a\)|/|\.){1,5}([*+?]|\{2,7\})?\$?", 1..6
        ),
        path in "/{0,2}[abAéü/☃ -]{0,9}",
    ) {
        let forms = texts.iter().enumerate();
        let patterns: Vec<_> = forms
            .filter_map(|(at, text)| if at % 2 == 0 { Pattern::re_path(text) } else { Pattern::path(text) }.ok())
            .collect();
        prop_assume!(!patterns.is_empty());
        for table in both_ways(patterns) {
            let patterns = table.patterns();
            let one_by_one: Vec<_> = (0..patterns.len()).filter(|&at| patterns[at].is_match(&path)).collect();
            prop_assert_eq!(table.matches(&path).collect::<Vec<_>>(), one_by_one);
        }
    }
}
