//! What the author of a wrong file reads, one snapshot for each kind of finding; and what a right one says.

mod hosts;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::request::{Host, NoOrigin};
use crate::session::OverRate;

const REFERENCE: &str = include_str!("../../routes.toml");

const ROUTE: &str = "
[[route]]
name = 'echo'
path = '/echo/'
handler = 'echo'
";

fn secrets(source: &SecretSource) -> Result<String, String> {
    match source {
        SecretSource::Env(name) if name == "REDIS_URL" => Ok("redis://:hunter2@cache:6379/1".to_owned()),
        SecretSource::Env(name) if name == "KEY" => Ok("hunter2".to_owned()),
        SecretSource::Env(_) => Err("it is not set".to_owned()),
        SecretSource::File(_) => Err("no such file".to_owned()),
    }
}

fn read(text: &str) -> Result<Loaded, Diagnostics> {
    load("routes.toml", text, &secrets)
}

/// What is found in a whole file.
fn whole(text: &str) -> String {
    match read(text) {
        Ok(loaded) => loaded.warnings.render(false),
        Err(findings) => findings.render(false),
    }
}

/// What is found in a file with a version and a route beside this text.
fn beside(text: &str) -> String {
    whole(&format!("version = 1\n{text}{ROUTE}"))
}

/// What is found in a room with these keys.
fn in_room(text: &str) -> String {
    whole(&format!("version = 1\n[[route]]\nname = 'chat'\nhandler = 'room'\n{text}"))
}

fn in_respond(text: &str) -> String {
    whole(&format!("version = 1\n[[route]]\nname = 'home'\nhandler = 'respond'\npath = '/'\n{text}"))
}

fn config(text: &str) -> Config {
    match read(text) {
        Ok(loaded) => loaded.config,
        Err(findings) => panic!("{}", findings.render(false)),
    }
}

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

#[test]
fn a_queue_holds_at_least_one_message() {
    assert_snapshot!(beside("[defaults]\nmax_message = '2MiB'\n"), @r#"
        error[E011]: a queue of 1MiB does not hold one message of 2MiB
         --> routes.toml:3:15
          |
        3 | max_message = '2MiB'
          |               ^^^^^^
          |
          = help: make `queue.bytes` at least as large as `max_message`
        "#);
    assert_snapshot!(in_room("path = '/'\nmax_message = '64KiB'\nqueue = { bytes = '1KiB' }\n"), @r#"
        error[E011]: a queue of 1KiB does not hold one message of 64KiB
         --> routes.toml:7:19
          |
        6 | max_message = '64KiB'
          |               ------- the longest message
        7 | queue = { bytes = '1KiB' }
          |                   ^^^^^^
          |
          = help: make `queue.bytes` at least as large as `max_message`
        "#);
}

#[test]
fn a_limit_of_sockets_that_makes_no_sense_says_why() {
    assert_snapshot!(beside("[defaults]\nrate = { messages = 50, burst = 20 }\n"), @r#"
        error[E011]: a burst of 20 is less than the 50 messages
         --> routes.toml:3:33
          |
        3 | rate = { messages = 50, burst = 20 }
          |                     --          ^^
          |                     |
          |                     the messages
          |
          = help: leave `burst` out to let as many pass at once as in each `per`
        "#);
    assert_snapshot!(in_room("path = '/'\nrate = { per = '1ms', burst = 0, over = 'kill', every = 1 }\n"), @r#"
        error[E006]: this `rate` has no `messages`
         --> routes.toml:6:8
          |
        6 | rate = { per = '1ms', burst = 0, over = 'kill', every = 1 }
          |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

        error[E009]: `per` is 1ms, which is out of range
         --> routes.toml:6:16
          |
        6 | rate = { per = '1ms', burst = 0, over = 'kill', every = 1 }
          |                ^^^^^ allowed is 10ms to 1h

        error[E009]: `burst` is 0, which is out of range
         --> routes.toml:6:31
          |
        6 | rate = { per = '1ms', burst = 0, over = 'kill', every = 1 }
          |                               ^ allowed is 1 to 1000000

        error[E007]: `over` cannot be `kill`
         --> routes.toml:6:41
          |
        6 | rate = { per = '1ms', burst = 0, over = 'kill', every = 1 }
          |                                         ^^^^^^
          |
          = help: write `close` or `drop`

        error[E003]: unknown key `every` in `rate`
         --> routes.toml:6:49
          |
        6 | rate = { per = '1ms', burst = 0, over = 'kill', every = 1 }
          |                                                 ^^^^^
          |
          = help: the keys are `messages`, `per`, `burst` or `over`
        "#);
}

#[test]
fn a_limit_of_sockets_has_its_shape_and_its_range() {
    assert_snapshot!(beside("[defaults]\nrate = 50\nmax_age = '0s'\nidle = 'never'\n"), @r#"
        error[E005]: `rate` is a table, not a number
         --> routes.toml:3:8
          |
        3 | rate = 50
          |        ^^
          |
          = help: write `{ messages = 50, per = "1s" }`, or `"off"`

        error[E009]: `max_age` is 0s, which is out of range
         --> routes.toml:4:11
          |
        4 | max_age = '0s'
          |           ^^^^ allowed is 100ms to 720h

        error[E008]: `never` is no duration
         --> routes.toml:5:8
          |
        5 | idle = 'never'
          |        ^^^^^^^
          |
          = help: write a whole number and a unit, ms, s, m or h, as one string
        "#);
    assert_snapshot!(beside("[defaults]\nrate = {}\nmax_age = '31d'\nidle = '721h'\n"), @r#"
        error[E006]: this `rate` has no `messages`
         --> routes.toml:3:8
          |
        3 | rate = {}
          |        ^^

        error[E008]: `31d` is no duration
         --> routes.toml:4:11
          |
        4 | max_age = '31d'
          |           ^^^^^
          |
          = help: write a whole number and a unit, ms, s, m or h, as one string

        error[E009]: `idle` is 721h, which is out of range
         --> routes.toml:5:8
          |
        5 | idle = '721h'
          |        ^^^^^^ allowed is 100ms to 720h
        "#);
    assert_snapshot!(in_respond("rate = 'off'\nidle = '5m'\n"), @r#"
        error[E010]: `rate` has no use in a route with `handler = "respond"`
         --> routes.toml:6:1
          |
        4 | handler = 'respond'
          |           --------- the handler
        5 | path = '/'
        6 | rate = 'off'
          | ^^^^
          |
          = help: it belongs to `room` or `echo`

        error[E010]: `idle` has no use in a route with `handler = "respond"`
         --> routes.toml:7:1
          |
        4 | handler = 'respond'
          |           --------- the handler
        ...
        7 | idle = '5m'
          | ^^^^
          |
          = help: it belongs to `room` or `echo`
        "#);
}

#[test]
fn the_limits_of_sockets_are_off_unless_they_are_set() {
    let config = config(
        "version = 1
[defaults]
rate = { messages = 5 }
idle = '5m'
[[route]]
name = 'defaults'
path = '/a'
handler = 'echo'
[[route]]
name = 'own'
path = '/b'
handler = 'echo'
rate = { messages = 10, per = '1m', burst = 20, over = 'drop' }
max_age = '23h'
[[route]]
name = 'off'
path = '/c'
handler = 'echo'
rate = 'off'
idle = 'off'
",
    );
    let minutes = Duration::from_mins;
    let cases = [
        // messages, per, burst and what is done beyond; max_age; idle
        (Some((5, Duration::from_secs(1), 5, OverRate::Close)), None, Some(minutes(5))),
        (Some((10, minutes(1), 20, OverRate::Drop)), Some(minutes(23 * 60)), Some(minutes(5))),
        (None, None, None),
    ];
    for (route, wanted) in config.routes.iter().zip(cases) {
        let rate = route.rate.map(|rate| (rate.messages.get(), rate.per, rate.burst.get(), rate.over));
        assert_eq!((rate, route.age_max, route.idle_max), wanted, "{}", route.name);
    }
}

#[test]
fn an_address_that_is_none_is_answered_with_one() {
    assert_snapshot!(
        beside("[server]\nadmin = '9180'\n[[listener]]\nname = 'a'\naddress = 'localhost:80'\n[[listener]]\nname = 'b'\naddress = '::1'\n"),
        @r#"
        error[E015]: `9180` is no address to listen on
         --> routes.toml:3:9
          |
        3 | admin = '9180'
          |         ^^^^^^
          |
          = help: write `127.0.0.1:9180` for this machine alone, `0.0.0.0:9180` for every interface

        error[E015]: `localhost:80` is no address to listen on
         --> routes.toml:6:11
          |
        6 | address = 'localhost:80'
          |           ^^^^^^^^^^^^^^
          |
          = help: write `127.0.0.1:80`

        error[E015]: `::1` is no address to listen on
         --> routes.toml:9:11
          |
        9 | address = '::1'
          |           ^^^^^
          |
          = help: add the port: `[::1]:8000`
        "#
    );
}

#[test]
fn a_unix_socket_has_a_path_and_a_socket_handed_over_a_name() {
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = 'unix:a.sock'\n[[listener]]\nname = 'b'\naddress = 'fd:'\n"),
        @r#"
        error[E015]: the path of a UNIX socket begins with a slash
         --> routes.toml:4:11
          |
        4 | address = 'unix:a.sock'
          |           ^^^^^^^^^^^^^
          |
          = help: write a whole path, such as `unix:/run/anteroom/public.sock`

        error[E015]: this does not say which of the sockets handed over is meant
         --> routes.toml:7:11
          |
        7 | address = 'fd:'
          |           ^^^^^
          |
          = help: write its name (`FileDescriptorName=` in the unit) or its number, from 0: `fd:public`
        "#);
    let long = format!("unix:/{}", "x".repeat(107));
    assert_snapshot!(beside(&format!("[[listener]]\nname = 'a'\naddress = '{long}'\n")), @r#"
        error[E015]: the path of a UNIX socket has at most 107 bytes
         --> routes.toml:4:11
          |
        4 | address = 'unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'
          |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write a whole path, such as `unix:/run/anteroom/public.sock`
        "#);
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = 'unix:/a'\nmode = '0988'\n[[listener]]\nname = 'b'\naddress = '127.0.0.1:1'\nmode = '0660'\n[[listener]]\nname = 'c'\naddress = 'unix:/a'\n"),
        @r#"
        error[E009]: `0988` is no file mode
         --> routes.toml:5:8
          |
        5 | mode = '0988'
          |        ^^^^^^
          |
          = help: write it in octal, such as `"0660"` for the owner and the group

        error[E010]: `mode` is for the file of a UNIX socket, and this listener makes none
         --> routes.toml:9:8
          |
        9 | mode = '0660'
          |        ^^^^^^

        error[E012]: the address `unix:/a` is already taken
          --> routes.toml:12:11
           |
         4 | address = 'unix:/a'
           |           --------- taken here
        ...
        12 | address = 'unix:/a'
           |           ^^^^^^^^^
        "#);
}

#[test]
fn a_proxy_header_needs_a_trusted_proxy_that_can_come() {
    let listener = |address: &str| {
        format!("[[listener]]\nname = 'a'\naddress = '{address}'\nproxy_protocol = 'require'\n")
    };
    assert_snapshot!(beside(&listener("127.0.0.1:1")), @r#"
        error[E011]: a PROXY header counts from trusted proxies alone, and none of them comes here
         --> routes.toml:5:18
          |
        5 | proxy_protocol = 'require'
          |                  ^^^^^^^^^
          |
          = help: name them in [trust], such as `proxies = ["10.0.0.0/8"]`
        "#);
    assert_snapshot!(beside(&format!("{}[trust]\nproxies = ['10.0.0.0/8']\n", listener("unix:/a"))), @r#"
        error[E011]: a PROXY header counts from trusted proxies alone, and none of them comes here
         --> routes.toml:5:18
          |
        5 | proxy_protocol = 'require'
          |                  ^^^^^^^^^
          |
          = help: name them in [trust], such as `proxies = ["unix"]`
        "#);
    for (address, proxies) in [("127.0.0.1:1", "10.0.0.1"), ("unix:/a", "unix"), ("fd:a", "unix")] {
        // It names the client, so that no other header is missed.
        assert_eq!(beside(&format!("{}[trust]\nproxies = ['{proxies}']\n", listener(address))), "");
    }
}

#[test]
fn keys_of_tls_need_a_certificate() {
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\nhttp2 = true\nclient_ca = 'ca.pem'\n[[listener]]\nname = 'b'\naddress = '127.0.0.1:2'\ntls = []\nclient_auth = 'request'\n"),
        @r#"
        error[E010]: `http2` has no use without `tls`
         --> routes.toml:5:9
          |
        5 | http2 = true
          |         ^^^^
          |
          = help: HTTP/2 is agreed on in the TLS handshake; add `tls = [{ cert = "…", key = "…" }]` or leave this out

        error[E010]: `client_ca` has no use without `tls`
         --> routes.toml:6:13
          |
        6 | client_ca = 'ca.pem'
          |             ^^^^^^^^
          |
          = help: clients show their certificates in the TLS handshake; add `tls = [{ cert = "…", key = "…" }]` or leave this out

        error[E014]: `tls` has no certificate
          --> routes.toml:10:7
           |
        10 | tls = []
           |       ^^
           |
           = help: write `tls = [{ cert = "certs/a.pem", key = "certs/a.key" }]`, or leave it out for none

        error[E011]: `client_auth` needs the authorities that sign the certificates of clients
          --> routes.toml:11:15
           |
        11 | client_auth = 'request'
           |               ^^^^^^^^^
           |
           = help: add `client_ca = "certs/clients.pem"`
        "#);
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\ntls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]\n"),
        @r#"
        error[E006]: this entry of `tls` has no `key`
         --> routes.toml:5:8
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |        ^^^^^^^^^^^^^^^^^^

        error[E026]: `a.pem`: no such file
         --> routes.toml:5:17
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                 ^^^^^^^

        error[E005]: `tls` is a list of tables, not a string
         --> routes.toml:5:28
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                            ^^^^^^^
          |
          = help: write `tls = [{ cert = "certs/a.pem", key = "certs/a.key" }]`

        error[E006]: this entry of `tls` has no `cert`
         --> routes.toml:5:37
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                                     ^^^^^^^^^^^^^^^^^^^^^

        error[E006]: this entry of `tls` has no `key`
         --> routes.toml:5:37
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                                     ^^^^^^^^^^^^^^^^^^^^^

        error[E003]: `certificate` is no setting of an entry of `tls`
         --> routes.toml:5:39
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                                       ^^^^^^^^^^^
          |
          = help: it is `cert` here
        "#);
}

#[test]
fn a_certificate_goes_with_its_key_and_none_of_it_is_shown() {
    let issue = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let cert = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let ((cert, key), (other_cert, other_key)) = (issue(), issue());
    let files = |source: &SecretSource| match source {
        SecretSource::File(name) => match name.as_str() {
            "a.pem" => Ok(cert.clone()),
            "a.key" => Ok(key.clone()),
            "b.pem" => Ok(other_cert.clone()),
            "b.key" => Ok(other_key.clone()),
            "empty" => Ok(String::new()),
            _ => Err("no such file".to_owned()),
        },
        SecretSource::Env(_) => Err("it is not set".to_owned()),
    };
    let listener = |keys: &str| {
        let text = format!("version = 1\n[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\n{keys}\n{ROUTE}");
        load("routes.toml", &text, &files)
    };
    let wrong = listener(
        "tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key = 'empty' }]\nclient_ca = 'empty'",
    );
    let wrong = wrong.unwrap_err().render(false);
    assert!(!wrong.contains("PRIVATE KEY-----\n"));
    assert_snapshot!(wrong, @r#"
        error[E026]: `b.key`: the private key is not that of the certificate
         --> routes.toml:5:32
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                 -------        ^^^^^^^
          |                 |
          |                 the other half

        error[E026]: `empty`: there is no certificate in it (`-----BEGIN CERTIFICATE-----`)
         --> routes.toml:5:52
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                                                    ^^^^^^^        ------- the other half

        error[E026]: `gone`: no such file
         --> routes.toml:5:102
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                                                                                                      ^^^^^^

        error[E012]: the certificate `b.pem` stands here a second time
         --> routes.toml:5:121
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                                                                                       ------- first here                ^^^^^^^

        error[E026]: `empty`: there is no private key in it (`-----BEGIN PRIVATE KEY-----`)
         --> routes.toml:5:136
          |
        5 | ...'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key = 'empty' }]
          |                                                          -------        ^^^^^^^
          |                                                          |
          |                                                          the other half

        error[E026]: `empty`: there is no certificate in it (`-----BEGIN CERTIFICATE-----`)
         --> routes.toml:6:13
          |
        6 | client_ca = 'empty'
          |             ^^^^^^^
        "#);
    let keys = "tls = [{ cert = 'a.pem', key = 'a.key' }, { cert = 'b.pem', key = 'b.key' }]\nhttp2 = false\nclient_ca = 'b.pem'\nclient_auth = 'request'";
    let right = listener(keys).unwrap().config;
    assert_eq!(right.listeners[0].tls.len(), 2);
    let printed = print(&right);
    assert!(!printed.contains("PRIVATE"));
    let listener = printed.split("\n\n").find(|part| part.starts_with("[[listener]]")).unwrap();
    assert_snapshot!(listener, @r#"
        [[listener]]
        name = "a"
        address = "127.0.0.1:1"
        proxy_protocol = "off"
        tls = [{ cert = "a.pem", key = "a.key" }, { cert = "b.pem", key = "b.key" }]
        http2 = false
        client_ca = "b.pem"
        client_auth = "request"
        "#);
    assert_eq!(load("routes.toml", &printed, &files).unwrap().config.listeners, right.listeners);
}

#[test]
fn names_and_addresses_are_taken_once() {
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = '127.0.0.1:9180'\n[[listener]]\nname = 'a'\naddress = '0.0.0.0:9180'\n"),
        @r#"
        error[E012]: the listener name `a` stands here a second time
         --> routes.toml:6:8
          |
        3 | name = 'a'
          |        --- first here
        ...
        6 | name = 'a'
          |        ^^^

        error[E012]: the address `0.0.0.0:9180` is already taken
         --> routes.toml:7:11
          |
        4 | address = '127.0.0.1:9180'
          |           ---------------- taken here
        ...
        7 | address = '0.0.0.0:9180'
          |           ^^^^^^^^^^^^^^
        "#
    );
    assert_snapshot!(beside(ROUTE), @r#"
        error[E012]: the route name `echo` stands here a second time
         --> routes.toml:9:8
          |
        4 | name = 'echo'
          |        ------ first here
        ...
        9 | name = 'echo'
          |        ^^^^^^
        "#);
}

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
fn a_template_knows_the_captures_of_its_pattern() {
    assert_snapshot!(in_room("re_path = '^(?P<room_name>[a-z]+)/$'\ngroup = 'chat_{room}_{roomname}'"), @r#"
        error[E017]: the pattern captures no `room`
         --> routes.toml:6:15
          |
        5 | re_path = '^(?P<room_name>[a-z]+)/$'
          |           -------------------------- the pattern
        6 | group = 'chat_{room}_{roomname}'
          |               ^^^^^^
          |
          = help: capture it with `(?P<room>[A-Za-z0-9_-]{1,64})`

        error[E017]: the pattern captures no `roomname`
         --> routes.toml:6:22
          |
        5 | re_path = '^(?P<room_name>[a-z]+)/$'
          |           -------------------------- the pattern
        6 | group = 'chat_{room}_{roomname}'
          |                      ^^^^^^^^^^
          |
          = help: did you mean `{room_name}`?
        "#);
    assert_snapshot!(in_room("path = '/'\ngroup = 'chat_{room'"), @r#"
        error[E017]: `{` is not closed
         --> routes.toml:6:15
          |
        6 | group = 'chat_{room'
          |               ^^^^^
          |
          = help: close it with `}`, or write `{{` for the brace itself
        "#);
    assert_snapshot!(in_room("path = '/'\nformat = 'text'\nusername = '{name}'\nwelcome = 'Hello {name}'"), @r#"
        error[E017]: the pattern captures no `name`
         --> routes.toml:7:13
          |
        5 | path = '/'
          |        --- the pattern
        6 | format = 'text'
        7 | username = '{name}'
          |             ^^^^^^
          |
          = help: capture it with `(?P<name>[A-Za-z0-9_-]{1,64})`

        error[E017]: the welcome knows no `{name}`
         --> routes.toml:8:18
          |
        8 | welcome = 'Hello {name}'
          |                  ^^^^^^
          |
          = help: it knows `{username}` alone
        "#);
}

#[test]
fn a_group_name_holds_what_channels_allows() {
    assert_snapshot!(in_room("path = '/'\ngroup = 'chat room'"), @r#"
        error[E018]: ` ` may not stand in a group name
         --> routes.toml:6:14
          |
        6 | group = 'chat room'
          |              ^
          |
          = help: a group name has ASCII letters, digits, `-`, `_` and `.`
        "#);
    assert_snapshot!(in_room("path = '/'\ngroup = ''"), @r#"
        error[E014]: `group` is empty
         --> routes.toml:6:9
          |
        6 | group = ''
          |         ^^
          |
          = help: leave it out for a room of the socket's own
        "#);
    assert_snapshot!(in_room(&format!("path = '/'\ngroup = '{}'", "a".repeat(100))), @r#"
        error[E018]: a group name has at most 99 characters, not 100
         --> routes.toml:6:9
          |
        6 | group = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
          |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        "#);
}

#[test]
fn a_capture_that_no_group_name_may_hold_is_a_warning() {
    assert_snapshot!(in_room("re_path = '^chat/(?P<room_name>\\w+)/$'\ngroup = 'chat_{room_name}'"), @r#"
        warning[W001]: capture `room_name` can hold characters that a group name may not
         --> routes.toml:5:18
          |
        5 | re_path = '^chat/(?P<room_name>\w+)/$'
          |                  ^^^^^^^^^^^^^^^^^^ matches `é` or `٣`, for example
        6 | group = 'chat_{room_name}'
          |               ----------- used here
          |
          = help: use [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`
        "#);
    assert_snapshot!(in_room("path = '/(.*)'\ngroup = 'all_{path}_{query.room}_{client}'"), @r#"
        warning[W001]: `{path}` can hold characters that a group name may not
         --> routes.toml:6:14
          |
        6 | group = 'all_{path}_{query.room}_{client}'
          |              ^^^^^^ a path holds `/`
          |
          = help: use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`

        warning[W001]: `{query.room}` can hold characters that a group name may not
         --> routes.toml:6:21
          |
        6 | group = 'all_{path}_{query.room}_{client}'
          |                     ^^^^^^^^^^^^ the client writes what it likes
          |
          = help: use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`

        warning[W001]: `{client}` can hold characters that a group name may not
         --> routes.toml:6:34
          |
        6 | group = 'all_{path}_{query.room}_{client}'
          |                                  ^^^^^^^^ IPv6 addresses hold `:`
          |
          = help: use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`
        "#);
}

#[test]
fn a_group_whose_name_can_be_too_long_or_empty_is_a_warning() {
    assert_snapshot!(in_room("re_path = '^(?P<room_name>[A-Za-z0-9_.-]+)/$'\ngroup = 'chat_{room_name}'"), @r#"
        warning[W001]: capture `room_name` can make a group name of more than 99 characters
         --> routes.toml:5:13
          |
        5 | re_path = '^(?P<room_name>[A-Za-z0-9_.-]+)/$'
          |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        6 | group = 'chat_{room_name}'
          |               ----------- used here
          |
          = help: limit it, as `{1,64}` does; what does not fit is refused with `group_name`
        "#);
    assert_snapshot!(in_room("path = '/(?P<org>[a-z]{1,64})/(?P<room>[a-z]{1,64})'\ngroup = '{org}.{room}'"), @r#"
        warning[W001]: capture `room` can make a group name of more than 99 characters
         --> routes.toml:5:8
          |
        5 | path = '/(?P<org>[a-z]{1,64})/(?P<room>[a-z]{1,64})'
          |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        6 | group = '{org}.{room}'
          |                ------ used here
          |
          = help: limit it, as `{1,34}` does; what does not fit is refused with `group_name`
        "#);
    assert_snapshot!(in_room("path = '/(?P<room>[a-z]{0,9})'\ngroup = '{room}'"), @r#"
        warning[W001]: the name of this group can be empty
         --> routes.toml:6:9
          |
        5 | path = '/(?P<room>[a-z]{0,9})'
          |        ----------------------- the pattern
        6 | group = '{room}'
          |         ^^^^^^^^
          |
          = help: put a text before it; an empty name is refused with `group_name`
        "#);
    let fine = [
        ("[a-z]{1,94}", "chat_{room}"),
        ("[a-z]{1,99}", "{room}"),
        ("[a-z]{0,9}", "chat_{room}"),
        ("[a-z]{1,49}", "{room}_{room}"),
        ("[a-z]{1,85}", "chat_{user}{room}"),
    ];
    for (class, group) in fine {
        assert_eq!(
            in_room(&format!("path = '/(?P<room>{class})'\ngroup = '{group}'")),
            "",
            "{class} {group}"
        );
    }
    let too_long = [("[a-z]{1,95}", "chat_{room}"), ("[a-z]{1,50}", "{room}{room}"), ("(?:ab)+", "{room}")];
    for (class, group) in too_long {
        let found = in_room(&format!("path = '/(?P<room>{class})'\ngroup = '{group}'"));
        assert_eq!(found.matches("warning[W001]").count(), 1, "{class} {group}: {found}");
    }
}

#[test]
fn a_room_that_does_not_deliver_what_it_receives_is_a_warning() {
    let room = |receive: &str, deliver: &str| {
        in_room(&format!("path = '/'\nreceive = {{ type = '{receive}' }}\ndeliver = {{ {deliver} }}\n"))
    };
    assert_snapshot!(room("chat.message", "'chat.line' = {}"), @r#"
        warning[W004]: no client hears what clients say: `deliver` does not list `chat.message`
         --> routes.toml:6:20
          |
        6 | receive = { type = 'chat.message' }
          |                    ^^^^^^^^^^^^^^
        7 | deliver = { 'chat.line' = {} }
          |           -------------------- the events that reach clients
          |
          = help: add `"chat.message" = { … }` to `deliver`
        "#);
    assert_eq!(room("chat.message", "'chat_message' = {}, 'a' = {}"), "");
    assert_eq!(in_room("path = '/'\nreceive = { pick = ['a'] }\ndeliver = { 'a' = {} }\n"), "");
    assert_eq!(in_room("path = '/'\ngroup = 'a'\npublish = false\ndeliver = { 'a' = {} }\n"), "");
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

#[test]
fn a_listen_only_room_receives_nothing() {
    assert_snapshot!(in_room("path = '/'\npublish = false\nreceive = { pick = ['message'] }\n"), @r#"
        error[E011]: without a `group`, a listen-only room never hears anything
         --> routes.toml:6:11
          |
        6 | publish = false
          |           ^^^^^
          |
          = help: add `group`, or leave `publish` out

        error[E011]: `receive` says what becomes of clients' messages, and this room takes none
         --> routes.toml:7:11
          |
        6 | publish = false
          |           ----- listen-only
        7 | receive = { pick = ['message'] }
          |           ^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: leave one of the two out
        "#);
}

#[test]
fn the_channel_of_a_socket_takes_known_events_of_a_room_with_a_group() {
    let room = |keys: &str| in_room(&format!("path = '/'\n{keys}\n"));
    let fine = "group = 'a'\nreceive = { reply_channel = true }\n\
        direct = ['websocket.send', 'websocket.close', 'edge.group_add', 'edge.group_discard', 'chat_message']\n\
        announce = { connect = 'chat.joined', disconnect = 'chat.left' }";
    assert_eq!(room(fine), "");
    assert_eq!(room("group = 'a'\npublish = false\ndirect = []\nannounce = { connect = 'x' }"), "");
    assert_snapshot!(room("direct = ['websocket.send']\nannounce = { connect = 'chat.joined' }"), @r#"
        error[E011]: `direct` has no use in a room without a `group`: nobody else is told of its sockets
         --> routes.toml:6:10
          |
        6 | direct = ['websocket.send']
          |          ^^^^^^^^^^^^^^^^^^
          |
          = help: add `group`

        error[E011]: `announce` has no use in a room without a `group`: nobody else is told of its sockets
         --> routes.toml:7:12
          |
        7 | announce = { connect = 'chat.joined' }
          |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: add `group`
        "#);
    assert_snapshot!(
        room("group = 'a'\ndirect = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']\nannounce = {}"),
        @r#"
        error[E007]: `websocket.sent` is no event for the channel of a socket
         --> routes.toml:7:11
          |
        7 | direct = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']
          |           ^^^^^^^^^^^^^^^^
          |
          = help: did you mean `websocket.send`?

        error[E007]: `kick` is no event for the channel of a socket
         --> routes.toml:7:29
          |
        7 | direct = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']
          |                             ^^^^^^
          |
          = help: it may be `websocket.send`, `websocket.close`, `edge.group_add` or `edge.group_discard`, or an event of `deliver`

        error[E012]: the event type `edge.group_add` stands here a second time
         --> routes.toml:7:55
          |
        7 | direct = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']
          |                                     ----------------  ^^^^^^^^^^^^^^^^
          |                                     |
          |                                     first here

        error[E014]: `announce` says nothing
         --> routes.toml:8:12
          |
        8 | announce = {}
          |            ^^
          |
          = help: write `announce = { connect = "chat.joined", disconnect = "chat.left" }`, or leave it out
        "#
    );
    assert_snapshot!(
        room("group = 'a'\nreceive = { type = 'edge.group_add', reply_channel = true }\nannounce = { disconnect = '_gone' }"),
        @r#"
        error[E018]: the event type `edge.group_add` is reserved
         --> routes.toml:7:20
          |
        7 | receive = { type = 'edge.group_add', reply_channel = true }
          |                    ^^^^^^^^^^^^^^^^
          |
          = help: `edge.group_add` and `edge.group_discard` are for `direct`, and only from the layer

        error[E011]: nothing may be sent to the channel that `reply_channel` names
         --> routes.toml:7:54
          |
        7 | receive = { type = 'edge.group_add', reply_channel = true }
          |                                                      ^^^^
          |
          = help: add `direct = ["websocket.send"]` to the route, or leave `reply_channel` out

        error[E018]: the event type `_gone` begins with `.` or `_`, which no consumer may handle
         --> routes.toml:8:27
          |
        8 | announce = { disconnect = '_gone' }
          |                           ^^^^^^^
          |
          = help: begin with a letter
        "#
    );
    assert_snapshot!(
        room("group = 'a'\ndirect = ['websocket.send']\nreceive = { pick = ['a', 'reply_channel'], reply_channel = true }"),
        @r#"
        error[E011]: `reply_channel` cannot be set here and picked from what the client sends
         --> routes.toml:8:26
          |
        8 | receive = { pick = ['a', 'reply_channel'], reply_channel = true }
          |                          ^^^^^^^^^^^^^^^                   ---- set here
          |
          = help: leave one of the two out
        "#
    );
}

#[test]
fn events_have_a_type_and_members() {
    assert_snapshot!(
        in_room("path = '/'\nreceive = { type = '_private', pick = [] }\ndeliver = { chat.message = { pick = ['a'] } }\n"),
        @r#"
        error[E018]: the event type `_private` begins with `.` or `_`, which no consumer may handle
         --> routes.toml:6:20
          |
        6 | receive = { type = '_private', pick = [] }
          |                    ^^^^^^^^^^
          |
          = help: begin with a letter

        error[E014]: `pick` is empty
         --> routes.toml:6:39
          |
        6 | receive = { type = '_private', pick = [] }
          |                                       ^^
          |
          = help: name the members to pass on, such as `pick = ["message"]`

        error[E005]: the event type `chat.message` stands without quotes
         --> routes.toml:7:13
          |
        7 | deliver = { chat.message = { pick = ['a'] } }
          |             ^^^^^^^^^^^^
          |
          = help: write `"chat.message" = { … }`
        "#
    );
    assert_snapshot!(
        in_room("path = '/'\nreceive = { type = 'websocket.close', pick = ['type', ''] }\ndeliver = { 'a.b' = {}, 'a_b' = {} }\n"),
        @r#"
        error[E018]: the event type `websocket.close` is reserved
         --> routes.toml:6:20
          |
        6 | receive = { type = 'websocket.close', pick = ['type', ''] }
          |                    ^^^^^^^^^^^^^^^^^
          |
          = help: `websocket.send` and `websocket.close` are understood in every room, and only from the layer

        error[E018]: `type` is the type of the event itself and is set by `receive` and `deliver`
         --> routes.toml:6:47
          |
        6 | receive = { type = 'websocket.close', pick = ['type', ''] }
          |                                               ^^^^^^

        error[E018]: the name of a member must not be empty
         --> routes.toml:6:55
          |
        6 | receive = { type = 'websocket.close', pick = ['type', ''] }
          |                                                       ^^

        error[E012]: the event type `a_b` is delivered twice
         --> routes.toml:7:25
          |
        7 | deliver = { 'a.b' = {}, 'a_b' = {} }
          |             -----       ^^^^^
          |             |
          |             first here
          |
          = help: `.` and `_` are the same in an event type, as in the name of a consumer's method
        "#
    );
    assert_snapshot!(in_room("path = '/'\nformat = 'text'\nreceive = { pick = ['a', 'b'] }\ndeliver = {}\n"), @r#"
        error[E011]: a room with `format = "text"` picks one member
         --> routes.toml:7:20
          |
        7 | receive = { pick = ['a', 'b'] }
          |                    ^^^^^^^^^^
          |
          = help: name the one member that holds the line: `pick = ["message"]`

        error[E014]: `deliver` is empty, so no event would reach a client
         --> routes.toml:8:11
          |
        8 | deliver = {}
          |           ^^
          |
          = help: write `deliver = { "chat.message" = { pick = ["message"] } }`, or leave it out
        "#);
}

#[test]
fn patterns_of_hosts_and_origins_are_checked() {
    assert_snapshot!(
        beside("[defaults]\nhosts = ['*.example.com', 'https://a.example', 'b.example:80']\norigins = ['a.example:80', 'null']\n"),
        @r#"
        error[E019]: `*.example.com`: `*` only stands alone
         --> routes.toml:3:10
          |
        3 | hosts = ['*.example.com', 'https://a.example', 'b.example:80']
          |          ^^^^^^^^^^^^^^^
          |
          = help: write `.example.com`

        error[E019]: `https://a.example`: a host pattern has no scheme
         --> routes.toml:3:27
          |
        3 | hosts = ['*.example.com', 'https://a.example', 'b.example:80']
          |                           ^^^^^^^^^^^^^^^^^^^
          |
          = help: write `a.example`

        error[E019]: `b.example:80`: a host pattern has no port: hosts are compared without theirs
         --> routes.toml:3:48
          |
        3 | hosts = ['*.example.com', 'https://a.example', 'b.example:80']
          |                                                ^^^^^^^^^^^^^^
          |
          = help: write `b.example`

        error[E020]: `a.example:80`: a port needs a scheme before it
         --> routes.toml:4:12
          |
        4 | origins = ['a.example:80', 'null']
          |            ^^^^^^^^^^^^^^
          |
          = help: write `http://a.example:80` or `https://a.example:80`, or `a.example` for any port

        error[E020]: `null`: `null` stands for any page without an origin, it cannot be allowed by name
         --> routes.toml:4:28
          |
        4 | origins = ['a.example:80', 'null']
          |                            ^^^^^^
          |
          = help: write `*` to let in any origin; `no_origin` is for clients that send none
        "#
    );
    assert_snapshot!(in_room("path = '/'\nhosts = []\norigins = []\n"), @r#"
        error[E014]: `hosts` is empty, so nothing would be let in
         --> routes.toml:6:9
          |
        6 | hosts = []
          |         ^^
          |
          = help: `["*"]` takes every host

        error[E014]: `origins` is empty, so nothing would be let in
         --> routes.toml:7:11
          |
        7 | origins = []
          |           ^^
          |
          = help: `["*"]` takes every origin; `no_origin` is for clients that send none
        "#);
}

#[test]
fn trusted_proxies_are_networks_and_come_with_their_header() {
    assert_snapshot!(beside("[trust]\nproxies = ['10.0.0.1/8', 'nginx']\nheaders = 'forwarded'\n"), @r#"
        error[E021]: `10.0.0.1/8`: the address has bits outside of its prefix
         --> routes.toml:3:12
          |
        3 | proxies = ['10.0.0.1/8', 'nginx']
          |            ^^^^^^^^^^^^
          |
          = help: write `10.0.0.0/8` for the network, `10.0.0.1` for the address

        error[E021]: `nginx`: not an address or a network
         --> routes.toml:3:26
          |
        3 | proxies = ['10.0.0.1/8', 'nginx']
          |                          ^^^^^^^
          |
          = help: write an address, `192.0.2.1`, a network, `10.0.0.0/8`, or `unix`
        "#);
    assert_snapshot!(beside("[trust]\nproxies = ['10.0.0.0/8']\n"), @r#"
        warning[W003]: no header of these proxies is read, so each of them counts as one client
         --> routes.toml:3:11
          |
        3 | proxies = ['10.0.0.0/8']
          |           ^^^^^^^^^^^^^^
          |
          = help: add `headers = "x-forwarded"` or `headers = "forwarded"`, whichever they set
        "#);
    assert_snapshot!(beside("[trust]\nheaders = 'x-forwarded'\n"), @r#"
        warning[W003]: no proxy is trusted, so these headers are never read
         --> routes.toml:3:11
          |
        3 | headers = 'x-forwarded'
          |           ^^^^^^^^^^^^^
          |
          = help: name the proxies, such as `proxies = ["127.0.0.1/32"]`
        "#);
}

#[test]
fn settings_of_django_that_have_no_place_here_are_explained() {
    assert_snapshot!(
        beside("[layer]\nbackend = 'channels_redis.pubsub.RedisPubSubChannelLayer'\ncapacity = 100\nexpiry = 60\n"),
        @r#"
        warning[W003]: `capacity` has no use with `backend = "channels_redis.pubsub"`
         --> routes.toml:4:1
          |
        3 | backend = 'channels_redis.pubsub.RedisPubSubChannelLayer'
          |           ----------------------------------------------- the backend
        4 | capacity = 100
          | ^^^^^^^^
          |
          = help: it belongs to `channels_redis.core`; pub/sub stores no messages and has nothing to limit

        warning[W003]: `expiry` has no use with `backend = "channels_redis.pubsub"`
         --> routes.toml:5:1
          |
        3 | backend = 'channels_redis.pubsub.RedisPubSubChannelLayer'
          |           ----------------------------------------------- the backend
        4 | capacity = 100
        5 | expiry = 60
          | ^^^^^^
          |
          = help: it belongs to `channels_redis.core`; pub/sub stores no messages and has nothing to limit
        "#
    );
    assert_snapshot!(beside("[layer]\nBACKEND = 'x'\nhosts = ['redis://localhost']\n"), @r#"
        error[E003]: `BACKEND` is no setting of [layer]
         --> routes.toml:3:1
          |
        3 | BACKEND = 'x'
          | ^^^^^^^
          |
          = help: write it in lower case: `backend = "channels_redis.core"`

        error[E010]: `hosts` has no use with `backend = "memory"`
         --> routes.toml:4:1
          |
        4 | hosts = ['redis://localhost']
          | ^^^^^
          |
          = help: add `backend = "channels_redis.core"`, or `.pubsub`: without it the layer is in memory
        "#);
}

#[test]
fn settings_of_inboxes_are_checked() {
    assert_snapshot!(
        beside("[layer]\nbackend = 'channels_redis.core'\nexpiry = 0\ngroup_expiry = '10500ms'\ncapacity = 0\nrandom_prefix_length = 256\n"),
        @r#"
        error[E009]: `expiry` is 0, which is out of range
         --> routes.toml:4:10
          |
        4 | expiry = 0
          |          ^ allowed is 1 to 86400

        error[E008]: `group_expiry` is 10500ms, and Redis counts whole seconds
         --> routes.toml:5:16
          |
        5 | group_expiry = '10500ms'
          |                ^^^^^^^^^

        error[E009]: `capacity` is 0, which is out of range
         --> routes.toml:6:12
          |
        6 | capacity = 0
          |            ^ allowed is 1 to 1000000

        error[E009]: `random_prefix_length` is 256, which is out of range
         --> routes.toml:7:24
          |
        7 | random_prefix_length = 256
          |                        ^^^ allowed is 0 to 255
        "#
    );
    assert_snapshot!(
        beside("[layer]\nbackend = 'channels_redis.core'\nexpiry = '2d'\ngroup_expiry = 1.5\ncapacity = '100'\nchannel_capacity = 5\n"),
        @r#"
        error[E008]: `2d` is no duration
         --> routes.toml:4:10
          |
        4 | expiry = '2d'
          |          ^^^^
          |
          = help: write a whole number and a unit, ms, s, m or h, as one string

        error[E005]: `group_expiry` is a duration, not a number with a fraction
         --> routes.toml:5:16
          |
        5 | group_expiry = 1.5
          |                ^^^

        error[E005]: `capacity` is a whole number, not a string
         --> routes.toml:6:12
          |
        6 | capacity = '100'
          |            ^^^^^

        error[E005]: `channel_capacity` is a table, not a number
         --> routes.toml:7:20
          |
        7 | channel_capacity = 5
          |                    ^
        "#
    );
    assert_snapshot!(
        beside("[layer]\nbackend = 'channels_redis.core'\nchannel_capacity = { http.request = 200, 'a*' = 0, b = 'c' }\n"),
        @r#"
        error[E005]: the channel `http.request` stands without quotes
         --> routes.toml:4:22
          |
        4 | channel_capacity = { http.request = 200, 'a*' = 0, b = 'c' }
          |                      ^^^^^^^^^^^^
          |
          = help: write `"http.request" = 200`

        error[E009]: `a*` is 0, which is out of range
         --> routes.toml:4:49
          |
        4 | channel_capacity = { http.request = 200, 'a*' = 0, b = 'c' }
          |                                                 ^ allowed is 1 to 1000000

        error[E005]: `b` is a whole number, not a string
         --> routes.toml:4:56
          |
        4 | channel_capacity = { http.request = 200, 'a*' = 0, b = 'c' }
          |                                                        ^^^
        "#
    );
    assert_snapshot!(
        beside(&format!("[layer]\nbackend = 'channels_redis.core'\nchannel_capacity = {{ '{}' = 1 }}\n", "*".repeat(201))),
        @r#"
        error[E009]: a pattern of channels has at most 200 bytes
         --> routes.toml:4:22
          |
        4 | ... { '*********************************************************************************************************************************************************************************************************' = 1 }
          |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        "#
    );
    assert_snapshot!(beside("[layer]\nchannel_capacity = {}\nrandom_prefix_length = 12\n"), @r#"
        error[E010]: `channel_capacity` has no use with `backend = "memory"`
         --> routes.toml:3:1
          |
        3 | channel_capacity = {}
          | ^^^^^^^^^^^^^^^^
          |
          = help: add `backend = "channels_redis.core"`, or `.pubsub`: without it the layer is in memory

        error[E010]: `random_prefix_length` has no use with `backend = "memory"`
         --> routes.toml:4:1
          |
        4 | random_prefix_length = 12
          | ^^^^^^^^^^^^^^^^^^^^
          |
          = help: add `backend = "channels_redis.core"`, or `.pubsub`: without it the layer is in memory
        "#);
}

#[test]
fn a_list_of_hosts_is_not_empty() {
    assert_snapshot!(beside("[layer]\nbackend = 'channels_redis.pubsub'\nhosts = []\n"), @r#"
        error[E014]: `hosts` is empty
         --> routes.toml:4:9
          |
        4 | hosts = []
          |         ^^
          |
          = help: leave it out for `redis://localhost:6379/0`
        "#);
}

#[test]
fn a_secret_that_is_not_there_is_reported() {
    assert_snapshot!(
        beside("[layer]\nbackend = 'channels_redis.pubsub'\nhosts = [{ env = 'REDIS' }]\nsymmetric_encryption_keys = [{ file = 'key' }, '', { env = 'A', file = 'b' }]\n"),
        @r#"
        error[E023]: there is no secret in the environment variable `REDIS`: it is not set
         --> routes.toml:4:10
          |
        4 | hosts = [{ env = 'REDIS' }]
          |          ^^^^^^^^^^^^^^^^^

        error[E023]: there is no secret in the file `key`: no such file
         --> routes.toml:5:30
          |
        5 | symmetric_encryption_keys = [{ file = 'key' }, '', { env = 'A', file = 'b' }]
          |                              ^^^^^^^^^^^^^^^^

        error[E014]: this key is empty
         --> routes.toml:5:48
          |
        5 | symmetric_encryption_keys = [{ file = 'key' }, '', { env = 'A', file = 'b' }]
          |                                                ^^
          |
          = help: leave it out for messages in clear

        error[E011]: a secret is in `env` or in `file`, not in both
         --> routes.toml:5:52
          |
        5 | symmetric_encryption_keys = [{ file = 'key' }, '', { env = 'A', file = 'b' }]
          |                                                    ^^^^^^^^^^^^^^^^^^^^^^^^^
        "#
    );
}

#[test]
fn no_finding_shows_a_secret() {
    let texts = [
        "symmetric_encryption_keys = 'hunter2'",
        "symmetric_encryption_keys = ['hunter2', 5]",
        "symmetric_encryption_keys = ['hunter2', ",
        "symmetric_encryption_keys = [hunter2]",
        "hosts = 'redis://:hunter2@a'",
        "hosts = ['redis://:hunter2@a:b']",
        "hosts = ['redis://:hunter2:1/@a']",
        "hosts = ['redis://:hunter2@a', 'x']",
    ];
    for text in texts {
        let text = format!("version = 1\n[layer]\nbackend = 'channels_redis.pubsub'\n{text}\n{ROUTE}");
        let findings = read(&text).unwrap_err();
        let shown = format!("{} {} {findings:?}", findings.render(false), findings.to_json());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

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
fn all_errors_of_a_file_come_in_one_run_and_in_its_order() {
    let text = "version = 1
[server]
workers = 'many'
[[route]]
name = 'chat'
re_path = '^chat/(?P<room>.+/$'
handler = 'rom'
orgins = ['*']
[[route]]
name = 'chat'
path = '/x'
handler = 'echo'
ping = { every = 5 }
";
    let findings = read(text).unwrap_err();
    let codes: Vec<_> = findings.iter().map(|finding| finding.code().as_str()).collect();
    assert_eq!(codes, ["E005", "E016", "E007", "E003", "E012", "E008"]);
    assert_eq!(findings.to_string(), "routes.toml: 6 errors");
}

#[test]
fn findings_can_be_read_by_machines() {
    let findings = read(&format!("version = 1\n[defaults]\n  # é\n  orgins = ['*']{ROUTE}")).unwrap_err();
    assert_snapshot!(serde_json::to_string_pretty(&findings.to_json()).unwrap(), @r#"
        [
          {
            "code": "E003",
            "severity": "error",
            "file": "routes.toml",
            "line": 4,
            "column": 3,
            "message": "unknown key `orgins` in [defaults]",
            "help": "did you mean `origins`?"
          }
        ]
        "#);
}

#[test]
fn a_file_without_a_text_has_one_finding_without_a_line() {
    let findings = Diagnostics::unreadable("routes.toml", "this is not a regular file");
    assert_eq!((findings.to_string(), findings.is_empty()), ("routes.toml: 1 error".to_owned(), false));
    assert_snapshot!(findings.render(false), @r#"
        error[E025]: this is not a regular file
        --> routes.toml
        "#);
    assert_snapshot!(serde_json::to_string_pretty(&findings.to_json()).unwrap(), @r#"
        [
          {
            "code": "E025",
            "severity": "error",
            "file": "routes.toml",
            "line": null,
            "column": null,
            "message": "this is not a regular file",
            "help": null
          }
        ]
        "#);
}

#[test]
fn colours_are_for_terminals() {
    let findings = read("").unwrap_err();
    assert!(findings.render(true).contains('\u{1b}'));
    assert!(!findings.render(false).contains('\u{1b}'));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_file() {
    assert_eq!(whole(&format!("\u{feff}version = 1{ROUTE}")), "");
    let findings = read("\u{feff}versio = 1").unwrap_err();
    assert_eq!(findings.to_json()[0]["column"], 1);
}

#[test]
fn what_is_left_out_has_a_default() {
    assert_snapshot!(print(&config(&format!("version = 1{ROUTE}"))), @r#"
        version = 1

        [server]
        admin = "127.0.0.1:9180"
        # workers: as many as processor affinity and cgroup allow
        log = { level = "info", format = "text" }
        drain = { shutdown = "30s", grace = "5s" }
        limits = { connections = 50000, per_ip = 200, handshakes_per_second = 500, head = "64KiB", uri = "8KiB", headers = 100 }

        [[listener]]
        name = "public"
        address = "127.0.0.1:8000"
        proxy_protocol = "off"

        [trust]
        proxies = []
        headers = "none"

        [layer]
        backend = "memory"

        [[route]]
        name = "echo"
        path = "/echo/"
        handler = "echo"
        hosts = ["localhost", "127.0.0.1", "[::1]"]
        origins = ["same-host"]
        no_origin = "allow"
        ping = { every = "20s", timeout = "30s" }
        max_message = "64KiB"
        queue = { bytes = "1MiB", full = "close" }
        rate = "off"
        max_age = "off"
        idle = "off"
        subprotocols = []
        "#);
}

#[test]
fn a_route_takes_from_the_defaults_what_it_does_not_say_key_by_key() {
    let config = config(
        "version = 1
[defaults]
hosts = ['.example.com']
no_origin = 'refuse'
ping = { every = '10s' }
queue = { full = 'drop' }
[[route]]
name = 'a'
path = '/a'
handler = 'echo'
ping = { timeout = '5s' }
[[route]]
name = 'b'
path = '/b'
handler = 'echo'
hosts = ['other.example']
queue = { bytes = '2MiB' }
no_origin = 'allow'
",
    );
    let [a, b] = config.routes.as_slice() else { panic!("two routes") };
    let host = Host::parse("www.example.com").unwrap();
    assert!(a.hosts.iter().any(|pattern| pattern.matches(&host)));
    assert!(!b.hosts.iter().any(|pattern| pattern.matches(&host)));
    let seconds = Duration::from_secs;
    assert_eq!((a.ping.every, a.ping.timeout), (seconds(10), seconds(5)));
    assert_eq!((b.ping.every, b.ping.timeout), (seconds(10), seconds(30)));
    assert_eq!((a.queue.bytes_max, b.queue.bytes_max), (1 << 20, 2 << 20));
    assert_eq!((a.origins.no_origin, b.origins.no_origin), (NoOrigin::Refuse, NoOrigin::Allow));
}

/// Every key, with a value other than its default.
#[test]
fn an_upstream_is_taken_as_it_stands_and_printed_with_its_defaults() {
    let text = "version = 1
[upstream.app]
servers = ['http://127.0.0.1:8001', 'unix:/run/app.sock', 'https://App.internal']
max_inflight = 5
max_fails = 0
health = { path = '/healthz', every = '1s' }
tls = { server_name = 'app', verify = false }
[upstream.'b.c']
servers = ['http://[::1]:8001']
";
    let printed = print(&config(&format!("{text}{ROUTE}")));
    let start = printed.find("[upstream.app]").unwrap();
    let end = printed.find("\n[[route]]").unwrap();
    assert_snapshot!(printed.get(start..end).unwrap(), @r#"
        [upstream.app]
        servers = ["http://127.0.0.1:8001", "unix:/run/app.sock", "https://app.internal:443"]
        connect_timeout = "5s"
        response_timeout = "1m"
        tunnel_timeout = "1m"
        keepalive = 32
        idle_timeout = "4s"
        max_fails = 0
        fail_timeout = "10s"
        max_inflight = 5
        traceparent = "create"
        health = { path = "/healthz", every = "1s", timeout = "2s", status = 200 }
        tls = { verify = false, server_name = "app" }

        [upstream."b.c"]
        servers = ["http://[::1]:8001"]
        connect_timeout = "5s"
        response_timeout = "1m"
        tunnel_timeout = "1m"
        keepalive = 32
        idle_timeout = "4s"
        max_fails = 1
        fail_timeout = "10s"
        # max_inflight: no limit
        traceparent = "create"
        # health: off
        "#);
    assert_eq!(print(&config(&printed)), printed);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one file with all faults")]
fn wrong_values_of_an_upstream_are_reported() {
    assert_snapshot!(
        beside(
            "[upstream]
name = 'app'
[upstream.none]
server = 'http://127.0.0.1'
[upstream.empty]
servers = []
[upstream.'no name']
servers = ['http://127.0.0.1:8001/app', '127.0.0.1:8001', 'http://a', 'http://a:80', 'unix:a.sock']
keepalive = 10001
response_timeout = '2h'
max_inflight = 0
health = { path = 'healthz', status = 100 }
tls = { ca = 'ca.pem' }
[upstream.tls]
servers = ['https://a']
tls = { ca = 'ca.pem', verify = false }
[upstream.tls2]
servers = ['https://a']
tls = { ca = 'ca.pem' }
[upstream.tls3]
servers = ['https://a']
tls = { server_name = 'a b' }
[upstream.tls4]
servers = ['http://a']
health = { every = '1s' }
tls = { verify = true }
"
        ),
        @r#"
        error[E005]: `name` is a table, not a string
         --> routes.toml:3:8
          |
        3 | name = 'app'
          |        ^^^^^
          |
          = help: write `[upstream.NAME]` and below it `servers = ["http://127.0.0.1:8001"]`

        error[E006]: this [upstream.NAME] has no `servers`
         --> routes.toml:4:1
          |
        4 | [upstream.none]
          | ^^^^^^^^^^^^^^^

        error[E003]: `server` is no setting of [upstream.NAME]
         --> routes.toml:5:1
          |
        5 | server = 'http://127.0.0.1'
          | ^^^^^^
          |
          = help: write `servers = ["http://127.0.0.1:8001"]`

        error[E009]: `servers` has 0 entries
         --> routes.toml:7:11
          |
        7 | servers = []
          |           ^^ allowed is 1 to 64

        error[E013]: `no name` is no name for an upstream
         --> routes.toml:8:11
          |
        8 | [upstream.'no name']
          |           ^^^^^^^^^
          |
          = help: use 1 to 64 ASCII letters, digits, `-`, `_` or `.`, and begin with a letter or digit

        error[E027]: `http://127.0.0.1:8001/app`: the address of a server has no path
         --> routes.toml:9:12
          |
        9 | servers = ['http://127.0.0.1:8001/app', '127.0.0.1:8001', 'http://a', 'http://a:80', 'unix:a.sock']
          |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: leave the path out: requests are passed on with the path they came with

        error[E027]: `127.0.0.1:8001`: not the address of a server
         --> routes.toml:9:41
          |
        9 | servers = ['http://127.0.0.1:8001/app', '127.0.0.1:8001', 'http://a', 'http://a:80', 'unix:a.sock']
          |                                         ^^^^^^^^^^^^^^^^
          |
          = help: write `http://127.0.0.1:8001`, `https://app.internal:8443` or `unix:/run/app.sock`

        error[E012]: the server `http://a:80` stands here a second time
         --> routes.toml:9:71
          |
        9 | servers = ['http://127.0.0.1:8001/app', '127.0.0.1:8001', 'http://a', 'http://a:80', 'unix:a.sock']
          |                                                                       ^^^^^^^^^^^^^

        error[E027]: `unix:a.sock`: this is no path of a socket
         --> routes.toml:9:86
          |
        9 | servers = ['http://127.0.0.1:8001/app', '127.0.0.1:8001', 'http://a', 'http://a:80', 'unix:a.sock']
          |                                                                                      ^^^^^^^^^^^^^
          |
          = help: write an absolute path of at most 107 bytes, such as `unix:/run/app.sock`

        error[E009]: `keepalive` is 10001, which is out of range
          --> routes.toml:10:13
           |
        10 | keepalive = 10001
           |             ^^^^^ allowed is 0 to 10000

        error[E009]: `response_timeout` is 2h, which is out of range
          --> routes.toml:11:20
           |
        11 | response_timeout = '2h'
           |                    ^^^^ allowed is 10ms to 1h

        error[E009]: `max_inflight` is 0, which is out of range
          --> routes.toml:12:16
           |
        12 | max_inflight = 0
           |                ^ allowed is 1 to 10000000

        error[E027]: `healthz` is no path that can be asked for
          --> routes.toml:13:19
           |
        13 | health = { path = 'healthz', status = 100 }
           |                   ^^^^^^^^^
           |
           = help: write it as a request has it, such as `/healthz`

        error[E009]: `status` is 100, which is out of range
          --> routes.toml:13:39
           |
        13 | health = { path = 'healthz', status = 100 }
           |                                       ^^^ allowed is 200 to 599

        error[E026]: `ca.pem`: no such file
          --> routes.toml:14:14
           |
        14 | tls = { ca = 'ca.pem' }
           |              ^^^^^^^^

        error[E011]: `ca` has no use where `verify = false` takes any certificate
          --> routes.toml:17:14
           |
        17 | tls = { ca = 'ca.pem', verify = false }
           |              ^^^^^^^^

        error[E026]: `ca.pem`: no such file
          --> routes.toml:20:14
           |
        20 | tls = { ca = 'ca.pem' }
           |              ^^^^^^^^

        error[E027]: `a b` is no name that a certificate can have
          --> routes.toml:23:23
           |
        23 | tls = { server_name = 'a b' }
           |                       ^^^^^
           |
           = help: write a host name, such as `app.internal`, or an address

        error[E006]: this `health` has no `path`
          --> routes.toml:26:10
           |
        26 | health = { every = '1s' }
           |          ^^^^^^^^^^^^^^^^

        error[E010]: `tls` has no use here: none of the servers is an `https://` one
          --> routes.toml:27:7
           |
        27 | tls = { verify = true }
           |       ^^^^^^^^^^^^^^^^^
        "#
    );
}

const FULL: &str = r#"
version = 1

[server]
admin = "[::1]:9181"
workers = 4
log = { level = "debug", format = "json" }
drain = { shutdown = "1m", grace = "500ms" }
limits = { connections = 1000, per_ip = 10, handshakes_per_second = 50, head = "32KiB", uri = "4KiB", headers = 50 }

[[listener]]
name = "public"
address = "0.0.0.0:8000"

[[listener]]
name = "local"
address = "127.0.0.1:0"

[trust]
proxies = ["127.0.0.1/32", "10.0.0.0/8"]
headers = "x-forwarded"

[layer]
backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
hosts = [["127.0.0.1", 6379], "redis://app:secret@cache/2", { env = "REDIS_URL" }]
prefix = "my\tapp"
symmetric_encryption_keys = ["secret", { env = "KEY" }]
serializer_format = "json"

[defaults]
hosts = ["*"]
origins = ["https://app.example.com:8443", ".example.com"]
rate = { messages = 50, per = "10s", burst = 100, over = "drop" }
max_age = "23h"

[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[a-z]+)/$'
handler = "room"
group = "chat_{room_name}"
receive = { type = "chat.message", pick = ["message", "colour"] }
deliver = { "chat.message" = { pick = ["message"] }, "chat.join" = { pick = ["who"] } }
subprotocols = ["v2.chat", "chat"]
rate = "off"
idle = "90s"

[[route]]
name = "lines"
path = '/lines/"(?P<it>[a-z]+)"'
handler = "room"
format = "text"
group = "lines"
welcome = ""
username = "{query.name}"

[[route]]
name = "raw"
path = '/raw'
handler = "room"
format = "raw"
group = "raw"
publish = false
direct = ["websocket.send"]
announce = { disconnect = "raw.left" }

[[route]]
name = "moved"
path = '/moved'
handler = "respond"
location = "https://example.com/"

[[route]]
name = "gone"
path = '/gone'
handler = "respond"
status = 410
body = "It's \"gone\"\n"
headers = { x-reason = "moved" }

[upstream.django]
servers = ["http://127.0.0.1:8001"]

[[route]]
name = "files"
path = '/static/(?P<path>.*)'
handler = "static"
root = "public"
index = false
precompressed = ["br", "gzip"]
cache_control = "public, max-age=60"

[[route]]
name = "site"
path = '/site/.*'
handler = "proxy"
upstream = "django"
max_body = "1GiB"
try_files = "/srv/public"
"#;

#[test]
#[expect(clippy::too_many_lines, reason = "all that is printed")]
fn what_is_printed_reads_as_the_same_again() {
    let printed = print(&config(FULL));
    assert_snapshot!(printed, @r#"
        version = 1

        [server]
        admin = "[::1]:9181"
        workers = 4
        log = { level = "debug", format = "json" }
        drain = { shutdown = "1m", grace = "500ms" }
        limits = { connections = 1000, per_ip = 10, handshakes_per_second = 50, head = "32KiB", uri = "4KiB", headers = 50 }

        [[listener]]
        name = "public"
        address = "0.0.0.0:8000"
        proxy_protocol = "off"

        [[listener]]
        name = "local"
        address = "127.0.0.1:0"
        proxy_protocol = "off"

        [trust]
        proxies = ["127.0.0.1/32", "10.0.0.0/8"]
        headers = "x-forwarded"

        [layer]
        backend = "channels_redis.pubsub"
        hosts = ["redis://127.0.0.1:6379/0", "redis://app:***@cache:6379/2", "redis://:***@cache:6379/1"]
        prefix = "my\tapp"
        symmetric_encryption_keys = ["***", "***"]
        serializer_format = "json"

        [upstream.django]
        servers = ["http://127.0.0.1:8001"]
        connect_timeout = "5s"
        response_timeout = "1m"
        tunnel_timeout = "1m"
        keepalive = 32
        idle_timeout = "4s"
        max_fails = 1
        fail_timeout = "10s"
        # max_inflight: no limit
        traceparent = "create"
        # health: off

        [[route]]
        name = "chat"
        re_path = "^chat/(?P<room_name>[a-z]+)/$"
        handler = "room"
        hosts = ["*"]
        origins = ["https://app.example.com:8443", ".example.com"]
        no_origin = "allow"
        ping = { every = "20s", timeout = "30s" }
        max_message = "64KiB"
        queue = { bytes = "1MiB", full = "close" }
        rate = "off"
        max_age = "23h"
        idle = "90s"
        subprotocols = ["v2.chat", "chat"]
        group = "chat_{room_name}"
        format = "json"
        publish = true
        receive = { type = "chat.message", pick = ["message", "colour"] }
        deliver = { "chat.message" = { pick = ["message"] }, "chat.join" = { pick = ["who"] } }

        [[route]]
        name = "lines"
        path = '/lines/"(?P<it>[a-z]+)"'
        handler = "room"
        hosts = ["*"]
        origins = ["https://app.example.com:8443", ".example.com"]
        no_origin = "allow"
        ping = { every = "20s", timeout = "30s" }
        max_message = "64KiB"
        queue = { bytes = "1MiB", full = "close" }
        rate = { messages = 50, per = "10s", burst = 100, over = "drop" }
        max_age = "23h"
        idle = "off"
        subprotocols = []
        group = "lines"
        format = "text"
        publish = true
        receive = { type = "chat.message", pick = ["message"] }
        deliver = { "chat.message" = { pick = ["message"] } }
        welcome = ""
        username = "{query.name}"

        [[route]]
        name = "raw"
        path = "/raw"
        handler = "room"
        hosts = ["*"]
        origins = ["https://app.example.com:8443", ".example.com"]
        no_origin = "allow"
        ping = { every = "20s", timeout = "30s" }
        max_message = "64KiB"
        queue = { bytes = "1MiB", full = "close" }
        rate = { messages = 50, per = "10s", burst = 100, over = "drop" }
        max_age = "23h"
        idle = "off"
        subprotocols = []
        group = "raw"
        format = "raw"
        publish = false
        deliver = { "room.message" = {} }
        direct = ["websocket.send"]
        announce = { disconnect = "raw.left" }

        [[route]]
        name = "moved"
        path = "/moved"
        handler = "respond"
        hosts = ["*"]
        status = 302
        location = "https://example.com/"
        headers = {}
        body = ""

        [[route]]
        name = "gone"
        path = "/gone"
        handler = "respond"
        hosts = ["*"]
        status = 410
        headers = { "x-reason" = "moved", "content-type" = "text/plain; charset=utf-8" }
        body = "It's \"gone\"\n"

        [[route]]
        name = "files"
        path = "/static/(?P<path>.*)"
        handler = "static"
        hosts = ["*"]
        root = "public"
        index = false
        precompressed = ["br", "gzip"]
        cache_control = "public, max-age=60"

        [[route]]
        name = "site"
        path = "/site/.*"
        handler = "proxy"
        hosts = ["*"]
        origins = ["https://app.example.com:8443", ".example.com"]
        no_origin = "allow"
        upstream = "django"
        max_body = "1GiB"
        try_files = "/srv/public"
        precompressed = []
        "#);
    assert_eq!(print(&config(&printed)), printed);
    assert!(!printed.contains("hunter2") && !printed.contains("secret"));
}

#[test]
fn the_words_of_django_mean_what_they_mean_there() {
    let LayerConfig::PubSub { hosts, symmetric_encryption_keys, prefix, .. } = config(FULL).layer else {
        panic!("pub/sub")
    };
    let shown: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["redis://127.0.0.1:6379/0", "redis://app:***@cache:6379/2", "redis://:***@cache:6379/1"]
    );
    let keys: Vec<_> = symmetric_encryption_keys.iter().map(Secret::reveal).collect();
    assert_eq!((keys, prefix.as_str()), (vec!["secret", "hunter2"], "my\tapp"));
    let memory = "version = 1\n[layer]\nbackend = 'channels.layers.InMemoryChannelLayer'\n";
    assert_eq!(config(&format!("{memory}{ROUTE}")).layer, LayerConfig::Memory);
}

#[test]
fn the_settings_of_inboxes_are_those_of_django() {
    let core = |settings: &str| {
        let text = format!(
            "version = 1\n[layer]\nbackend = 'channels_redis.core.RedisChannelLayer'\n{settings}\n{ROUTE}"
        );
        let config = config(&text);
        let printed = print(&config);
        assert_eq!(print(&self::config(&printed)), printed);
        let LayerConfig::Core {
            expiry, group_expiry, capacity, channel_capacity, random_prefix_length, ..
        } = config.layer
        else {
            panic!("core")
        };
        let patterns: Vec<_> = channel_capacity
            .iter()
            .map(|(pattern, capacity)| (pattern.as_str().to_owned(), *capacity))
            .collect();
        (expiry.as_secs(), group_expiry.as_secs(), capacity, patterns, random_prefix_length)
    };
    assert_eq!(core(""), (60, 86_400, 100, vec![], 12));
    let settings = "
        expiry = 10
        group_expiry = '2h'
        capacity = 1500
        channel_capacity = { 'z*' = 1, 'http.request' = 200, 'a*' = 3 }
        random_prefix_length = 0
    ";
    // In the order of the file: the first that matches counts.
    let patterns = vec![("z*".to_owned(), 1), ("http.request".to_owned(), 200), ("a*".to_owned(), 3)];
    assert_eq!(core(settings), (10, 7200, 1500, patterns, 0));
}

#[test]
fn what_the_layer_is_told_of_inboxes_is_what_the_file_says() {
    let text = "version = 1\n[layer]\nbackend = 'channels_redis.core'\nhosts = ['redis://a', 'redis://b']
        prefix = 'p'\nexpiry = 10\ngroup_expiry = 20\ncapacity = 30\nchannel_capacity = { 'a*' = 4 }
        random_prefix_length = 5\n";
    let channel_layer::LayerConfig::Core(layer) = config(&format!("{text}{ROUTE}")).layer.to_channel_layer()
    else {
        panic!("core")
    };
    assert_eq!((layer.hosts.len(), &*layer.prefix, layer.expiry, layer.group_expiry), (2, "p", 10, 20));
    assert_eq!((layer.capacities.of("b"), layer.capacities.of("ab"), layer.random_prefix_length), (30, 4, 5));
}

#[test]
fn a_room_that_says_little_is_the_one_of_the_tutorial() {
    let config = config(
        "version = 1
[[route]]
name = 'json'
path = '/json'
handler = 'room'
[[route]]
name = 'typed'
path = '/typed'
handler = 'room'
receive = { type = 'a.b', pick = ['c'] }
[[route]]
name = 'text'
path = '/text'
handler = 'room'
format = 'text'
[[route]]
name = 'raw'
path = '/raw'
handler = 'room'
format = 'raw'
",
    );
    let shown: Vec<_> = config
        .routes
        .iter()
        .map(|route| {
            let HandlerConfig::Room(room) = &route.handler else { panic!("a room") };
            let (receive, deliver) = (&room.receive, &room.deliver[0]);
            assert_eq!((&receive.kind, &receive.pick), (&deliver.kind, &deliver.pick));
            assert_eq!(room.username.as_str(), "Anonymous");
            format!("{} {} {:?} {:?}", route.name, receive.kind, receive.pick, room.welcome)
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"json chat.message ["message"] None"#,
            r#"typed a.b ["c"] None"#,
            r#"text chat.message ["message"] Some("[Welcome {username}!]")"#,
            "raw room.message [] None",
        ]
    );
}

#[test]
fn the_reference_file_is_taken_without_findings_and_shows_every_default() {
    assert_eq!(whole(REFERENCE), "");
    let (reference, minimal) = (config(REFERENCE), config(&format!("version = 1{ROUTE}")));
    assert_eq!(reference.server, minimal.server);
    assert_eq!(reference.listeners, minimal.listeners);
    assert_eq!(reference.trust, minimal.trust);
    assert_eq!(reference.layer, minimal.layer);
    let settings = &reference.upstreams[0].settings;
    assert_eq!(*settings, upstream::Settings::new(settings.servers.clone()));
    let echo = |config: Config| {
        let routes = config.routes.into_iter().filter(|route| route.name == "echo").collect();
        print(&Config { routes, upstreams: Vec::new(), ..config })
    };
    assert_eq!(echo(reference), echo(minimal));
}

#[test]
fn the_reference_file_names_every_key() {
    let named = |key: &str| {
        let forms = [
            format!("[{key}]"),
            format!("[{key}."),
            format!("\n{key} = "),
            format!("\n# {key} = "),
            format!("{{ {key} = "),
            format!(", {key} = "),
        ];
        forms.iter().any(|form| REFERENCE.contains(form))
    };
    let missing: Vec<_> = file::all_keys().filter(|key| !named(key)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_it_panic(cuts in prop::collection::vec((0..FULL.len(), 0..40_usize, ".{0,6}"), 1..4)) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, len, new) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        match read(&text) {
            Ok(loaded) => prop_assert_eq!(loaded.warnings.errors(), 0),
            Err(findings) => {
                prop_assert!(findings.errors() > 0);
                findings.render(true);
                findings.to_json();
            }
        }
    }
}
