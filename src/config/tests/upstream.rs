//! `[upstream.NAME]`.

use insta::assert_snapshot;

use super::*;

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
health = { path = '/', host = 'Example.com:8000' }
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
        health = { path = "/", host = "Example.com:8000", every = "5s", timeout = "2s", status = 200 }
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
[upstream.health]
servers = ['http://a']
health = { path = '/', host = 'http://example.com' }
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

        error[E027]: `http://example.com` is no host that can be asked for
          --> routes.toml:30:31
           |
        30 | health = { path = '/', host = 'http://example.com' }
           |                               ^^^^^^^^^^^^^^^^^^^^
           |
           = help: write it as a request has it, such as `example.com`; a port is allowed
        "#
    );
}

/// A system that has no authorities.
struct NoAuthorities;

impl Secrets for NoAuthorities {
    fn read(&self, source: &SecretSource) -> Result<String, String> {
        secrets(source)
    }

    fn find_authorities(&self) -> Result<(), String> {
        Err("the system has no authorities, and the configuration names none".to_owned())
    }
}

#[test]
fn without_authorities_no_server_is_taken_for_what_it_says() {
    let text = "version = 1
[upstream.clear]
servers = ['http://127.0.0.1:8001', 'unix:/run/app.sock']
[upstream.anybody]
servers = ['https://127.0.0.1:8001']
tls = { verify = false }
[upstream.checked]
servers = ['http://127.0.0.1:8001', 'https://127.0.0.1:8002']
[upstream.named]
servers = ['https://127.0.0.1:8001']
tls = { server_name = 'app.internal' }
";
    let errors = load("routes.toml", &format!("{text}{ROUTE}"), &NoAuthorities).unwrap_err();
    assert_snapshot!(errors.render(false), @r#"
        error[E026]: the system has no authorities, and the configuration names none
         --> routes.toml:8:37
          |
        8 | servers = ['http://127.0.0.1:8001', 'https://127.0.0.1:8002']
          |                                     ^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: name a file of them, such as `tls = { ca = "certs/internal-ca.pem" }`, or install those of the system (`ca-certificates`)

        error[E026]: the system has no authorities, and the configuration names none
          --> routes.toml:10:12
           |
        10 | servers = ['https://127.0.0.1:8001']
           |            ^^^^^^^^^^^^^^^^^^^^^^^^
           |
           = help: name a file of them, such as `tls = { ca = "certs/internal-ca.pem" }`, or install those of the system (`ca-certificates`)
        "#);
}
