//! `handler = "static"`.

use insta::assert_snapshot;

use super::*;

/// A system without any folder.
struct NoFolders;

impl Secrets for NoFolders {
    fn read(&self, source: &SecretSource) -> Result<String, String> {
        secrets(source)
    }

    fn find_folder(&self, _: &str) -> Result<(), String> {
        Err("it does not exist".to_owned())
    }
}

#[test]
fn a_folder_that_is_not_there_is_a_warning() {
    let text = "version = 1
[upstream.django]
servers = ['http://127.0.0.1:8001']
[[route]]
name = 'static'
path = '/static/(?P<path>.*)'
handler = 'static'
root = 'static'
[[route]]
name = 'site'
path = '/.*'
handler = 'proxy'
upstream = 'django'
try_files = '/srv/public'
";
    let loaded = load("routes.toml", text, &NoFolders).unwrap();
    assert_snapshot!(loaded.warnings.render(false), @r#"
        warning[W005]: no file is found in `static`: it does not exist
         --> routes.toml:8:8
          |
        8 | root = 'static'
          |        ^^^^^^^^
          |
          = help: make it, while the server runs if you like; a relative path begins at the folder of this file

        warning[W005]: no file is found in `/srv/public`: it does not exist
          --> routes.toml:14:13
           |
        14 | try_files = '/srv/public'
           |             ^^^^^^^^^^^^^
           |
           = help: make it, while the server runs if you like; a relative path begins at the folder of this file
        "#);
}

#[test]
fn files_come_from_a_folder() {
    let in_static = |text: &str| {
        whole(&format!("version = 1\n[[route]]\nname = 'files'\npath = '/.*'\nhandler = 'static'\n{text}"))
    };
    assert_eq!(in_static("root = 'public'\n"), "");
    assert_snapshot!(in_static(""), @r#"
        error[E006]: this route answers with files, but does not say of which folder
         --> routes.toml:2:1
          |
        2 | [[route]]
          | ^^^^^^^^^
          |
          = help: add `root = "public"`, a folder beside this file, or an absolute path
        "#);
    assert_snapshot!(in_static("root = ''\n"), @r#"
        error[E014]: an empty path is no folder
         --> routes.toml:6:8
          |
        6 | root = ''
          |        ^^
          |
          = help: write `"."` for the folder of this file
        "#);
    assert_snapshot!(
        in_static("root = 'public'\nindex = 'index.html'\nprecompressed = ['gz', 'br']\ncache_control = \"a\\nb\"\n"),
        @r#"
        error[E005]: `index` is `true` or `false`, not a string
         --> routes.toml:7:9
          |
        7 | index = 'index.html'
          |         ^^^^^^^^^^^^

        error[E007]: `precompressed` cannot be `gz`
         --> routes.toml:8:18
          |
        8 | precompressed = ['gz', 'br']
          |                  ^^^^
          |
          = help: write `br`, `zstd` or `gzip`

        error[E024]: this `cache_control` cannot stand in a header
         --> routes.toml:9:17
          |
        9 | cache_control = "a\nb"
          |                 ^^^^^^
          |
          = help: write it as HTTP has it: `"public, max-age=3600"`
        "#
    );
    assert_snapshot!(in_static("root = 'public'\nprecompressed = ['br', 'br']\nstatus = 200\n"), @r#"
        error[E012]: this form stands here a second time
         --> routes.toml:7:24
          |
        7 | precompressed = ['br', 'br']
          |                        ^^^^

        error[E010]: `status` has no use in a route with `handler = "static"`
         --> routes.toml:8:1
          |
        5 | handler = 'static'
          |           -------- the handler
        ...
        8 | status = 200
          | ^^^^^^
          |
          = help: it belongs to `respond`
        "#);
}
