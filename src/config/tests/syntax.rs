//! What is no TOML.

use insta::assert_snapshot;

use super::*;

#[test]
fn each_line_that_is_no_toml_is_reported_once_and_hides_the_rest() {
    assert_snapshot!(whole("version = \nhandler = room\nname = \"chat\nnot_a_key = 1\n"), @r#"
        error[E001]: there is no value here
         --> routes.toml:1:11
          |
        1 | version = 
          |           ^

        error[E001]: this string has no quotes
         --> routes.toml:2:11
          |
        2 | handler = room
          |           ^^^^
          |
          = help: put it into `"…"` or `'…'`

        error[E001]: invalid basic string, expected `"`
         --> routes.toml:3:13
          |
        3 | name = "chat
          |             ^
        "#);
}

#[test]
fn a_key_that_stands_twice_is_reported() {
    assert_snapshot!(whole("version = 1\nversion = 1\n"), @r#"
        error[E001]: this key or table stands here a second time
         --> routes.toml:2:1
          |
        1 | version = 1
          | ------- first here
        2 | version = 1
          | ^^^^^^^
        "#);
}

#[test]
fn the_first_place_of_a_key_is_in_the_same_table() {
    // In the same way: a line, a header, an entry of an inline table.
    let text = "version = 1
[server]
log = { level = 'info', level = 'warn' }
[[route]]
name = 'a'
headers = { name = 'x' }
name = 'b'
[server]
workers = 1
";
    assert_snapshot!(whole(text), @r#"
        error[E001]: this key or table stands here a second time
         --> routes.toml:3:25
          |
        3 | log = { level = 'info', level = 'warn' }
          |         -----           ^^^^^
          |         |
          |         first here

        error[E001]: this key or table stands here a second time
         --> routes.toml:7:1
          |
        5 | name = 'a'
          | ---- first here
        6 | headers = { name = 'x' }
        7 | name = 'b'
          | ^^^^

        error[E001]: this key or table stands here a second time
         --> routes.toml:8:2
          |
        2 | [server]
          |  ------ first here
        ...
        8 | [server]
          |  ^^^^^^
        "#);
}

#[test]
fn an_escape_of_a_pattern_belongs_into_single_quotes() {
    assert_snapshot!(in_room(r#"re_path = "^chat/(?P<room>\d+)/$""#), @r#"
        error[E001]: a string in double quotes has no such escape
         --> routes.toml:5:27
          |
        5 | re_path = "^chat/(?P<room>\d+)/$"
          |                           ^^
          |
          = help: write it in single quotes, `'…'`, where a backslash is a character as any other
        "#);
}

#[test]
fn no_more_than_twenty_syntax_errors_are_shown() {
    let findings = read(&"a = \n".repeat(30)).unwrap_err();
    assert_eq!(findings.errors(), 20);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_file() {
    assert_eq!(whole(&format!("\u{feff}version = 1{ROUTE}")), "");
    let findings = read("\u{feff}versio = 1").unwrap_err();
    assert_eq!(findings.to_json()[0]["column"], 1);
}
