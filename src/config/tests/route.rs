//! The keys of `[[route]]` that are not of one handler alone.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_name_must_be_fit_for_a_label() {
    let long = format!("version = 1\n[[route]]\nname = '{}'\npath = '/'\nhandler = 'echo'\n", "a".repeat(65));
    assert_snapshot!(whole(&long), @r#"
        error[E013]: `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` is no name for a route
         --> routes.toml:3:8
          |
        3 | name = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
          |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ 65 characters
          |
          = help: use 1 to 64 ASCII letters, digits, `-`, `_` or `.`, and begin with a letter or digit
        "#);
    assert_snapshot!(
        whole("version = 1\n[[route]]\nname = 'the chat'\npath = '/'\nhandler = 'echo'\nsubprotocols = ['a b', 'c', 'c']\n"),
        @r#"
        error[E013]: `the chat` is no name for a route
         --> routes.toml:3:8
          |
        3 | name = 'the chat'
          |        ^^^^^^^^^^
          |
          = help: use 1 to 64 ASCII letters, digits, `-`, `_` or `.`, and begin with a letter or digit

        error[E013]: `a b` is no name for a subprotocol
         --> routes.toml:6:17
          |
        6 | subprotocols = ['a b', 'c', 'c']
          |                 ^^^^^
          |
          = help: use letters, digits and the characters !#$%&'*+-.^_`|~

        error[E012]: the subprotocol `c` stands here a second time
         --> routes.toml:6:29
          |
        6 | subprotocols = ['a b', 'c', 'c']
          |                        ---  ^^^
          |                        |
          |                        first here
        "#
    );
}

#[test]
fn a_route_has_one_pattern() {
    assert_snapshot!(in_room("path = '/a'\nre_path = '^a'\n"), @r#"
        error[E011]: a route has `path` or `re_path`, not both
         --> routes.toml:6:1
          |
        5 | path = '/a'
          | ---- the other one
        6 | re_path = '^a'
          | ^^^^^^^
        "#);
    assert_snapshot!(in_room(""), @r#"
        error[E006]: this [[route]] has neither `path` nor `re_path`
         --> routes.toml:2:1
          |
        2 | [[route]]
          | ^^^^^^^^^
          |
          = help: write `re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'` as in Django, or `path = '/chat/.*'`
        "#);
}

#[test]
fn a_regex_error_points_into_the_pattern() {
    assert_snapshot!(in_room(r"re_path = '^chat/(?P<room>[\w-]+/$'"), @r#"
        error[E016]: unclosed group
         --> routes.toml:5:18
          |
        5 | re_path = '^chat/(?P<room>[\w-]+/$'
          |                  ^
        "#);
    assert_snapshot!(in_room("re_path = '''\n^chat/(?=x)'''"), @r#"
        error[E016]: look-ahead `(?=…)` is not supported: paths are matched in linear time
         --> routes.toml:6:7
          |
        6 | ^chat/(?=x)'''
          |       ^^^
          |
          = help: match what must follow as a part of the pattern
        "#);
    assert_snapshot!(in_room(r"re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'"), @r#"
        error[E016]: look-ahead `(?=…)` is not supported: paths are matched in linear time
         --> routes.toml:5:16
          |
        5 | re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'
          |                ^^^
          |
          = help: match what must follow as a part of the pattern

        error[E016]: back-references are not supported: paths are matched in linear time
         --> routes.toml:5:21
          |
        5 | re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'
          |                     ^^
          |
          = help: write the text out, or capture both places and compare them in the application

        error[E016]: negative look-behind `(?<!…)` is not supported: paths are matched in linear time
         --> routes.toml:5:23
          |
        5 | re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'
          |                       ^^^^
          |
          = help: put a route for the excluded paths before this one: the first route that matches wins

        error[E016]: the back-reference `(?P=name)` is not supported: paths are matched in linear time
         --> routes.toml:5:37
          |
        5 | re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'
          |                                     ^^^^^^
          |
          = help: write the text out, or give the second place a group of its own and compare in the application

        error[E016]: possessive repetition is not supported
         --> routes.toml:5:45
          |
        5 | re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'
          |                                             ^
          |
          = help: leave the second `+` out: matching is linear in any case

        error[E016]: the escape `\Z` is not known
         --> routes.toml:5:46
          |
        5 | re_path = '^(a)(?=x)\1(?<!y)(?P<n>b)(?P=n)c++\Z'
          |                                              ^^
          |
          = help: write `\z`, which is what Python's `\Z` means
        "#);
    // Where escapes stand between the file and the pattern, the whole value is meant.
    assert_snapshot!(in_room(r#"re_path = "^chat/(\\w+$""#), @r#"
        error[E016]: unclosed group
         --> routes.toml:5:11
          |
        5 | re_path = "^chat/(\\w+$"
          |           ^^^^^^^^^^^^^^
        "#);
}

#[test]
fn a_converter_of_django_is_no_pattern() {
    assert_snapshot!(in_room("path = '/chat/<str:room>/<int:page>/'\ngroup = 'chat_{room}'"), @r#"
        error[E016]: `<str:room>` is a converter of Django's `path()`, and this is a regular expression
         --> routes.toml:5:15
          |
        5 | path = '/chat/<str:room>/<int:page>/'
          |               ^^^^^^^^^^
          |
          = help: write `(?P<room>[A-Za-z0-9_-]{1,64})`

        error[E016]: `<int:page>` is a converter of Django's `path()`, and this is a regular expression
         --> routes.toml:5:26
          |
        5 | path = '/chat/<str:room>/<int:page>/'
          |                          ^^^^^^^^^^
          |
          = help: write `(?P<page>[0-9]{1,64})`
        "#);
    assert_snapshot!(in_room("re_path = '^chat/(?P<a>x)/<room>/:page/$'"), @r#"
        error[E016]: `<room>` is a converter of Django's `path()`, and this is a regular expression
         --> routes.toml:5:27
          |
        5 | re_path = '^chat/(?P<a>x)/<room>/:page/$'
          |                           ^^^^^^
          |
          = help: write `(?P<room>[A-Za-z0-9_-]{1,64})`

        error[E016]: `:page` is plain text here and captures nothing
         --> routes.toml:5:34
          |
        5 | re_path = '^chat/(?P<a>x)/<room>/:page/$'
          |                                  ^^^^^
          |
          = help: write `(?P<page>[A-Za-z0-9_-]{1,64})`, or `\:` for the character itself
        "#);
}

#[test]
fn a_route_that_nothing_reaches_is_a_warning() {
    assert_snapshot!(
        whole(
            "version = 1
[[route]]
name = 'a'
path = '/a/'
handler = 'echo'
[[route]]
name = 'plain'
path = '/a/'
handler = 'respond'
[[route]]
name = 'elsewhere'
path = '/a/'
hosts = ['example.com']
handler = 'echo'
[[route]]
name = 'again'
path = '/a/'
handler = 'room'
[[route]]
name = 'all'
re_path = ''
handler = 'echo'
[[route]]
name = 'last'
path = '/z/'
handler = 'echo'
"
        ),
        @r#"
        warning[W002]: the route `again` is never reached
          --> routes.toml:17:8
           |
         4 | path = '/a/'
           |        ----- `a` takes everything that it could take
        ...
        17 | path = '/a/'
           |        ^^^^^
           |
           = help: put it above `a`

        warning[W002]: the route `last` is never reached
          --> routes.toml:25:8
           |
        21 | re_path = ''
           |           -- `all` takes everything that it could take
        ...
        25 | path = '/z/'
           |        ^^^^^
           |
           = help: put it above `all`
        "#
    );
}

#[test]
fn keys_of_another_handler_are_refused() {
    assert_snapshot!(
        whole("version = 1\n[[route]]\nname = 'e'\npath = '/'\nhandler = 'echo'\ngroup = 'a'\nstatus = 200\n"),
        @r#"
        error[E010]: `group` has no use in a route with `handler = "echo"`
         --> routes.toml:6:1
          |
        5 | handler = 'echo'
          |           ------ the handler
        6 | group = 'a'
          | ^^^^^
          |
          = help: it belongs to `room`

        error[E010]: `status` has no use in a route with `handler = "echo"`
         --> routes.toml:7:1
          |
        5 | handler = 'echo'
          |           ------ the handler
        6 | group = 'a'
        7 | status = 200
          | ^^^^^^
          |
          = help: it belongs to `respond`
        "#
    );
    assert_snapshot!(in_respond("origins = ['*']\n"), @r#"
        error[E010]: `origins` has no use in a route with `handler = "respond"`
         --> routes.toml:6:1
          |
        4 | handler = 'respond'
          |           --------- the handler
        5 | path = '/'
        6 | origins = ['*']
          | ^^^^^^^
          |
          = help: it belongs to `room`, `echo` or `proxy`
        "#);
    assert_snapshot!(in_room("path = '/'\nwelcome = 'hi'\nformat = 'raw'\nreceive = { pick = ['a'] }\n"), @r#"
        error[E010]: `welcome` has no use in a room with `format = "raw"`
         --> routes.toml:6:11
          |
        6 | welcome = 'hi'
          |           ^^^^
          |
          = help: it belongs to `format = "text"`

        error[E010]: `pick` has no use in a room with `format = "raw"`
         --> routes.toml:8:20
          |
        8 | receive = { pick = ['a'] }
          |                    ^^^^^
          |
          = help: leave it out: a raw room passes `text` and `bytes` on
        "#);
}

#[test]
fn an_error_in_one_key_of_a_route_hides_none_in_another() {
    let wrong = "group = 'c {path}'
format = 'text'
username = '{name'
receive = { type = '_a', pick = ['a', 'b'] }
deliver = { 'chat.message' = { pick = [] } }
";
    let codes = |text: &str| {
        let findings = read(&format!("version = 1\n[[route]]\nname = 'a'\nhandler = 'room'\n{text}{wrong}"));
        findings.unwrap_err().iter().map(|finding| finding.code().as_str()).collect::<Vec<_>>()
    };
    assert_eq!(codes("path = '/'\n"), ["E018", "W001", "E017", "E018", "E011", "E014"]);
    // What the pattern captures is not known then.
    assert_eq!(codes("path = '/(a'\n"), ["E016", "E018", "E017", "E018", "E011", "E014"]);
    assert_eq!(
        codes("path = '/(a'\nre_path = 'b('\n"),
        ["E016", "E011", "E016", "E018", "E017", "E018", "E011", "E014"]
    );
    let findings = read("version = 1\n[[route]]\nname = 'a'\npath = '/'\nhandler = 'rom'\ngroup = 'c d'\n");
    assert_eq!(
        findings.unwrap_err().iter().map(|finding| finding.code().as_str()).collect::<Vec<_>>(),
        ["E007", "E018"]
    );
}
