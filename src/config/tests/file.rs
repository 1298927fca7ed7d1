//! What has not the shape of the file: its version, tables, keys, types, words, quantities and ranges.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_file_cut_short_is_refused() {
    assert_snapshot!(whole(""), @r#"
        error[E002]: there is no `version` in this file
         --> routes.toml:1:1
          |
        1 |
          | ^
          |
          = help: begin it with `version = 1`: without it, a file cut short could pass for a whole one

        error[E006]: there is no `[[route]]` in this file
         --> routes.toml:1:1
          |
        1 |
          | ^
          |
          = help: a table without routes refuses every request; `handler = "respond"` answers all alike
        "#);
    assert_snapshot!(whole("version = 1\n[server]\n"), @r#"
        error[E006]: there is no `[[route]]` in this file
         --> routes.toml:1:1
          |
        1 | version = 1
          | ^^^^^^^^^^^
          |
          = help: a table without routes refuses every request; `handler = "respond"` answers all alike
        "#);
}

#[test]
fn another_version_is_refused() {
    assert_snapshot!(whole(&format!("version = 2{ROUTE}")), @r#"
        error[E002]: version 2 of the file format is not known
         --> routes.toml:1:11
          |
        1 | version = 2
          |           ^
          |
          = help: write `version = 1`
        "#);
    assert_snapshot!(whole(&format!("version = \"1\"{ROUTE}")), @r#"
        error[E005]: `version` is the number 1, not a string
         --> routes.toml:1:11
          |
        1 | version = "1"
          |           ^^^
          |
          = help: write `version = 1`
        "#);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    assert_snapshot!(beside("listen = 1\n[server]\nworker = 2\nport = 1\n"), @r#"
        error[E003]: unknown key `listen` in the file
         --> routes.toml:2:1
          |
        2 | listen = 1
          | ^^^^^^
          |
          = help: did you mean `listener`?

        error[E003]: unknown key `worker` in [server]
         --> routes.toml:4:1
          |
        4 | worker = 2
          | ^^^^^^
          |
          = help: did you mean `workers`?

        error[E003]: unknown key `port` in [server]
         --> routes.toml:5:1
          |
        5 | port = 1
          | ^^^^
          |
          = help: the keys are `admin`, `workers`, `log`, `drain` or `limits`
        "#);
    assert_snapshot!(beside("[defaults]\nallowed_hosts = []\norgins = ['*']\n"), @r#"
        error[E003]: `allowed_hosts` is no setting of [defaults]
         --> routes.toml:3:1
          |
        3 | allowed_hosts = []
          | ^^^^^^^^^^^^^
          |
          = help: it is `hosts` here

        error[E003]: unknown key `orgins` in [defaults]
         --> routes.toml:4:1
          |
        4 | orgins = ['*']
          | ^^^^^^
          |
          = help: did you mean `origins`?
        "#);
}

#[test]
fn what_a_later_release_brings_is_not_called_unknown() {
    assert_snapshot!(beside("[[test]]\nrequest = {}\n[server]\ndrain = { reload = '2m' }\n"), @r#"
        error[E004]: `test` in the file is not supported yet
         --> routes.toml:2:3
          |
        2 | [[test]]
          |   ^^^^
          |
          = help: leave it out; a later release brings it

        error[E004]: `reload` in `drain` is not supported yet
         --> routes.toml:5:11
          |
        5 | drain = { reload = '2m' }
          |           ^^^^^^
          |
          = help: leave it out; a later release brings it
        "#);
    assert_snapshot!(whole("version = 1\n[[route]]\nname = 'site'\npath = '/.*'\nhandler = 'worker'\nchannel = 'edge'\n"), @r#"
        error[E004]: `handler = "worker"` is not supported yet
         --> routes.toml:5:11
          |
        5 | handler = 'worker'
          |           ^^^^^^^^
          |
          = help: this release has `room`, `echo`, `proxy`, `static` or `respond`

        error[E004]: `channel` in [[route]] is not supported yet
         --> routes.toml:6:1
          |
        6 | channel = 'edge'
          | ^^^^^^^
          |
          = help: leave it out; a later release brings it
        "#);
}

#[test]
fn a_value_of_the_wrong_type_is_reported() {
    assert_snapshot!(beside("[server]\nadmin = 9180\nlog = 'info'\n[defaults]\nhosts = 'example.com'\n"), @r#"
        error[E005]: `admin` is a string, not a number
         --> routes.toml:3:9
          |
        3 | admin = 9180
          |         ^^^^

        error[E005]: `log` is a table, not a string
         --> routes.toml:4:7
          |
        4 | log = 'info'
          |       ^^^^^^

        error[E005]: `hosts` is a list, not a string
         --> routes.toml:6:9
          |
        6 | hosts = 'example.com'
          |         ^^^^^^^^^^^^^
          |
          = help: put it in brackets: `["…"]`
        "#);
    assert_snapshot!(whole("version = 1\n[route]\nname = 'a'\n"), @r#"
        error[E005]: `route` is a list of tables, not a table
         --> routes.toml:2:1
          |
        2 | [route]
          | ^^^^^^^
          |
          = help: write `[[route]]`
        "#);
    assert_snapshot!(beside("[[server]]\nworkers = 1\n"), @r#"
        error[E005]: `server` is one table, not a list
         --> routes.toml:2:1
          |
        2 | [[server]]
          | ^^^^^^^^^^
          |
          = help: write `[server]`
        "#);
}

#[test]
fn a_missing_key_points_at_the_table() {
    assert_snapshot!(whole("version = 1\n[[listener]]\n[[route]]\n"), @r#"
        error[E006]: this [[listener]] has no `name`
         --> routes.toml:2:1
          |
        2 | [[listener]]
          | ^^^^^^^^^^^^

        error[E006]: this [[listener]] has no `address`
         --> routes.toml:2:1
          |
        2 | [[listener]]
          | ^^^^^^^^^^^^

        error[E006]: this [[route]] has no `name`
         --> routes.toml:3:1
          |
        3 | [[route]]
          | ^^^^^^^^^

        error[E006]: this [[route]] has no `handler`
         --> routes.toml:3:1
          |
        3 | [[route]]
          | ^^^^^^^^^

        error[E006]: this [[route]] has neither `path` nor `re_path`
         --> routes.toml:3:1
          |
        3 | [[route]]
          | ^^^^^^^^^
          |
          = help: write `re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'` as in Django, or `path = '/chat/.*'`
        "#);
}

#[test]
fn a_word_that_is_none_is_answered_with_the_words() {
    assert_snapshot!(beside("[server]\nlog = { level = 'inf', format = 'xml' }\n"), @r#"
        error[E007]: `level` cannot be `inf`
         --> routes.toml:3:17
          |
        3 | log = { level = 'inf', format = 'xml' }
          |                 ^^^^^
          |
          = help: did you mean `info`?

        error[E007]: `format` cannot be `xml`
         --> routes.toml:3:33
          |
        3 | log = { level = 'inf', format = 'xml' }
          |                                 ^^^^^
          |
          = help: write `text` or `json`
        "#);
    assert_snapshot!(beside("[defaults]\nno_origin = 'deny'\n"), @r#"
        error[E007]: `no_origin` cannot be `deny`
         --> routes.toml:3:13
          |
        3 | no_origin = 'deny'
          |             ^^^^^^
          |
          = help: write `allow` or `refuse`
        "#);
    assert_snapshot!(beside("[layer]\nbackend = 'redis'\n"), @r#"
        error[E007]: `backend` cannot be `redis`
         --> routes.toml:3:11
          |
        3 | backend = 'redis'
          |           ^^^^^^^
          |
          = help: write `memory`, `channels_redis.core` or `channels_redis.pubsub`
        "#);
    assert_snapshot!(in_room("path = '/'\nformat = 'JSON'\n"), @r#"
        error[E007]: `format` cannot be `JSON`
         --> routes.toml:6:10
          |
        6 | format = 'JSON'
          |          ^^^^^^
          |
          = help: did you mean `json`?
        "#);
}

#[test]
fn a_quantity_without_a_unit_shows_the_fix() {
    assert_snapshot!(
        beside("[defaults]\nping = { every = 20, timeout = '30 sec' }\nmax_message = 65536\nqueue = { bytes = '1MB' }\n"),
        @r#"
        error[E008]: the duration `every` has no unit
         --> routes.toml:3:18
          |
        3 | ping = { every = 20, timeout = '30 sec' }
          |                  ^^
          |
          = help: write `"20s"`

        error[E008]: `30 sec` is no duration
         --> routes.toml:3:32
          |
        3 | ping = { every = 20, timeout = '30 sec' }
          |                                ^^^^^^^^
          |
          = help: write `"30s"`

        error[E008]: the size `max_message` has no unit
         --> routes.toml:4:15
          |
        4 | max_message = 65536
          |               ^^^^^
          |
          = help: write `"64KiB"`

        error[E008]: `1MB` is no size
         --> routes.toml:5:19
          |
        5 | queue = { bytes = '1MB' }
          |                   ^^^^^
          |
          = help: write `"1MiB"`
        "#
    );
    assert_snapshot!(beside("[server]\ndrain = { shutdown = '1.5m', grace = true }\n"), @r#"
        error[E008]: `1.5m` is no duration
         --> routes.toml:3:22
          |
        3 | drain = { shutdown = '1.5m', grace = true }
          |                      ^^^^^^
          |
          = help: write a whole number and a unit, ms, s, m or h, as one string

        error[E005]: `grace` is a duration, not `true` or `false`
         --> routes.toml:3:38
          |
        3 | drain = { shutdown = '1.5m', grace = true }
          |                                      ^^^^
        "#);
}

#[test]
fn a_value_out_of_range_is_answered_with_the_range() {
    assert_snapshot!(
        beside("[server]\nworkers = 0\nlimits = { per_ip = -1 }\n[defaults]\nping = { timeout = '0s' }\nmax_message = '1GiB'\n"),
        @r#"
        error[E009]: `workers` is 0, which is out of range
         --> routes.toml:3:11
          |
        3 | workers = 0
          |           ^ allowed is 1 to 1024

        error[E009]: `per_ip` is -1, which is out of range
         --> routes.toml:4:21
          |
        4 | limits = { per_ip = -1 }
          |                     ^^ allowed is 1 to 10000000

        error[E009]: `timeout` is 0s, which is out of range
         --> routes.toml:6:20
          |
        6 | ping = { timeout = '0s' }
          |                    ^^^^ allowed is 10ms to 1h

        error[E009]: `max_message` is 1GiB, which is out of range
         --> routes.toml:7:15
          |
        7 | max_message = '1GiB'
          |               ^^^^^^ allowed is 1B to 64MiB
        "#
    );
}
