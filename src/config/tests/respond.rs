//! `handler = "respond"`.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_fixed_answer_can_be_sent() {
    assert_snapshot!(in_respond("status = 301\n"), @r#"
        error[E006]: status 301 sends the client elsewhere, and there is no `location`
         --> routes.toml:6:10
          |
        6 | status = 301
          |          ^^^
          |
          = help: add `location = "https://example.com/"`
        "#);
    assert_snapshot!(in_respond("status = 200\nlocation = '/a'\n"), @r#"
        error[E011]: `location` needs a status of 3xx, and this one is 200
         --> routes.toml:7:12
          |
        6 | status = 200
          |          --- the status
        7 | location = '/a'
          |            ^^^^
          |
          = help: write `status = 302`, or leave it out
        "#);
    assert_snapshot!(in_respond("status = 204\nbody = 'x'\nheaders = { 'a b' = 'x', date = 'x', 'X-A' = \"a\\n\", x-b = 'x', X-B = 'y' }\n"), @r#"
        error[E024]: an answer with status 204 has no body
         --> routes.toml:7:8
          |
        6 | status = 204
          |          --- the status
        7 | body = 'x'
          |        ^^^

        error[E024]: `a b` is no name for a header
         --> routes.toml:8:13
          |
        8 | headers = { 'a b' = 'x', date = 'x', 'X-A' = "a\n", x-b = 'x', X-B = 'y' }
          |             ^^^^^

        error[E024]: the header `date` cannot be set here
         --> routes.toml:8:26
          |
        8 | headers = { 'a b' = 'x', date = 'x', 'X-A' = "a\n", x-b = 'x', X-B = 'y' }
          |                          ^^^^
          |
          = help: leave it out: the server knows it

        error[E024]: the value of the header `x-a` holds a character that a header may not
         --> routes.toml:8:46
          |
        8 | headers = { 'a b' = 'x', date = 'x', 'X-A' = "a\n", x-b = 'x', X-B = 'y' }
          |                                              ^^^^^

        error[E012]: the header `x-b` stands here twice
         --> routes.toml:8:64
          |
        8 | headers = { 'a b' = 'x', date = 'x', 'X-A' = "a\n", x-b = 'x', X-B = 'y' }
          |                                                                ^^^
        "#);
    assert_snapshot!(in_respond("status = 100\n"), @r#"
        error[E009]: `status` is 100, which is out of range
         --> routes.toml:6:10
          |
        6 | status = 100
          |          ^^^ allowed is 200 to 599
        "#);
}
