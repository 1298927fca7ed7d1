//! `handler = "proxy"`.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_proxy_leads_to_an_upstream_that_is_there() {
    let in_proxy = |text: &str| {
        whole(&format!(
            "version = 1\n[upstream.django]\nservers = ['http://127.0.0.1:8001']\n[[route]]\nname = 'site'\npath = '/.*'\nhandler = 'proxy'\n{text}"
        ))
    };
    assert_eq!(in_proxy("upstream = 'django'\n"), "");
    assert_snapshot!(in_proxy(""), @r#"
        error[E006]: this route passes requests on, but does not say where to
         --> routes.toml:4:1
          |
        4 | [[route]]
          | ^^^^^^^^^
          |
          = help: add `upstream = "django"`, and `[upstream.django]` with its `servers`
        "#);
    assert_snapshot!(in_proxy("upstream = 'djagno'\n"), @r#"
        error[E007]: there is no upstream `djagno`
         --> routes.toml:8:12
          |
        8 | upstream = 'djagno'
          |            ^^^^^^^^
          |
          = help: did you mean `django`?
        "#);
    assert_snapshot!(in_proxy("upstream = 'flask'\n"), @r#"
        error[E007]: there is no upstream `flask`
         --> routes.toml:8:12
          |
        8 | upstream = 'flask'
          |            ^^^^^^^
          |
          = help: add `[upstream.flask]` with its `servers`
        "#);
    assert_snapshot!(in_proxy("upstream = 'django'\nprecompressed = ['br']\ngroup = 'a'\n"), @r#"
        error[E010]: `precompressed` has no use without `try_files`
         --> routes.toml:9:1
          |
        9 | precompressed = ['br']
          | ^^^^^^^^^^^^^
          |
          = help: add `try_files = "public"`, or leave it out

        error[E010]: `group` has no use in a route with `handler = "proxy"`
          --> routes.toml:10:1
           |
         7 | handler = 'proxy'
           |           ------- the handler
        ...
        10 | group = 'a'
           | ^^^^^
           |
           = help: it belongs to `room`
        "#);
    assert_snapshot!(in_proxy("upstream = 'django'\n[[route]]\nname = 'chat'\npath = '/chat/'\nhandler = 'echo'\n"), @r#"
        warning[W002]: the route `chat` is never reached
          --> routes.toml:11:8
           |
         6 | path = '/.*'
           |        ----- `site` takes everything that it could take
        ...
        11 | path = '/chat/'
           |        ^^^^^^^^
           |
           = help: put it above `site`
        "#);
    assert_snapshot!(beside("[upstream.spare]\nservers = ['http://127.0.0.1:8001']\n"), @r#"
        warning[W003]: no route leads to the upstream `spare`
         --> routes.toml:2:11
          |
        2 | [upstream.spare]
          |           ^^^^^
          |
          = help: a route does by `handler = "proxy"` and `upstream = "spare"`
        "#);
}
