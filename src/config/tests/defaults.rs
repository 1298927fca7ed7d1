//! The keys that `[defaults]` and `[[route]]` share.

use insta::assert_snapshot;

use super::*;
use crate::request::{Host, NoOrigin};
use crate::session::OverRate;

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
