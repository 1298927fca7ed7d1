//! How Redis is reached: the forms of `hosts`, good and bad.

use insta::assert_snapshot;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;
use crate::config::file::redis_host::{KEYWORDS, WITHOUT_EFFECT};

/// Secrets, and the files of an authority (`ca.pem`) and of a client (`a.pem`, `a.key`).
struct Files {
    ca: String,
    cert: String,
    key: String,
}

impl Files {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let cert = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        Self { ca, cert, key: key.serialize_pem() }
    }
}

impl Secrets for Files {
    fn read(&self, source: &SecretSource) -> Result<String, String> {
        match source {
            SecretSource::File(name) if name == "ca.pem" => Ok(self.ca.clone()),
            SecretSource::File(name) if name == "a.pem" => Ok(self.cert.clone()),
            SecretSource::File(name) if name == "a.key" => Ok(self.key.clone()),
            SecretSource::File(name) if name == "other.key" => {
                Ok(KeyPair::generate().unwrap().serialize_pem())
            }
            SecretSource::File(name) if name == "empty.pem" => Ok(String::new()),
            source => secrets(source),
        }
    }
}

fn load_hosts(hosts: &str) -> Result<Loaded, Diagnostics> {
    let text = format!("version = 1\n[layer]\nbackend = 'channels_redis.pubsub'\nhosts = {hosts}\n{ROUTE}");
    load("routes.toml", &text, &Files::new())
}

/// What is found in `hosts`.
fn found(hosts: &str) -> String {
    match load_hosts(hosts) {
        Ok(loaded) => loaded.warnings.render(false),
        Err(findings) => findings.render(false),
    }
}

/// The hosts as `print` shows them.
fn shown(hosts: &str) -> String {
    let loaded = load_hosts(hosts).unwrap_or_else(|findings| panic!("{hosts}: {}", findings.render(false)));
    assert_eq!(loaded.warnings.render(false), "", "{hosts}");
    let page = print(&loaded.config);
    let line = page.lines().find_map(|line| line.strip_prefix("hosts = ["));
    line.and_then(|line| line.strip_suffix(']')).unwrap().to_owned()
}

#[test]
fn every_form_of_channels_redis_is_understood() {
    let cases = [
        // as it is written, as it is printed
        ("['redis://h']", r#""redis://h:6379/0""#),
        ("[['h', 6380]]", r#""redis://h:6380/0""#),
        ("[['::1', 6380]]", r#""redis://[::1]:6380/0""#),
        ("['unix://app:s@/run/redis.sock?db=2']", r#""unix://app:***@/run/redis.sock?db=2""#),
        ("['rediss://h:6390/1']", r#""rediss://h:6390/1""#),
        (
            "['rediss://h?ssl_cert_reqs=none&socket_connect_timeout=0.5&socket_keepalive=yes']",
            r#"{ address = "rediss://h:6379/0", ssl_cert_reqs = "none", socket_connect_timeout = "500ms", socket_keepalive = true }"#,
        ),
        (
            "['rediss://h?ssl_check_hostname=False&ssl_ca_certs=ca.pem&socket_keepalive=0']",
            r#"{ address = "rediss://h:6379/0", ssl_check_hostname = false, ssl_ca_certs = "ca.pem" }"#,
        ),
        ("[{ env = 'REDIS_URL' }]", r#""redis://:***@cache:6379/1""#),
        ("[{ address = { env = 'REDIS_URL' } }]", r#""redis://:***@cache:6379/1""#),
        (
            "[{ address = 'redis://h', username = 'app', password = { env = 'KEY' }, db = 3 }]",
            r#""redis://app:***@h:6379/3""#,
        ),
        // What stands in the URL counts.
        (
            "[{ address = 'redis://a:b@h/1', username = 'app', password = 'x', db = 3, socket_timeout = 20 }]",
            r#""redis://a:***@h:6379/1""#,
        ),
        (
            "[{ address = 'rediss://h', ssl_ca_certs = 'ca.pem', ssl_certfile = 'a.pem', ssl_keyfile = 'a.key', ssl_cert_reqs = 'optional' }]",
            r#"{ address = "rediss://h:6379/0", ssl_ca_certs = "ca.pem", ssl_certfile = "a.pem", ssl_keyfile = "a.key" }"#,
        ),
        (
            "[{ address = 'redis://h', socket_connect_timeout = 1.5, client_name = 'edge', socket_keepalive = true }]",
            r#"{ address = "redis://h:6379/0", socket_connect_timeout = "1500ms", socket_keepalive = true, client_name = "edge" }"#,
        ),
        (
            "[{ host = 'h', socket_connect_timeout = 0x10 }, { host = 'h', socket_connect_timeout = 2.0004 }]",
            r#"{ address = "redis://h:6379/0", socket_connect_timeout = "16s" }, "redis://h:6379/0""#,
        ),
        (
            "['redis://h?socket_connect_timeout=2.0004', ['h', 0o17]]",
            r#""redis://h:6379/0", "redis://h:15/0""#,
        ),
        ("[{ host = 'h', port = 6380, db = 1, password = 's' }]", r#""redis://:***@h:6380/1""#),
        ("[{ host = 'h', ssl = false }]", r#""redis://h:6379/0""#),
        ("[{ db = 1 }]", r#""redis://localhost:6379/1""#),
        (
            "[{ sentinels = [['s1', 26379], ['::1', 26380]], master_name = 'm' }]",
            r#"{ sentinels = [["s1", 26379], ["::1", 26380]], master_name = "m" }"#,
        ),
        (
            "[{ sentinels = [['s', 1]], master_name = 'm', sentinel_kwargs = { password = 'x', ssl = true }, db = 2, password = 'y', username = 'u', ssl = true, ssl_cert_reqs = 'none' }]",
            r#"{ sentinels = [["s", 1]], master_name = "m", sentinel_kwargs = { password = "***", ssl = true }, username = "u", password = "***", db = 2, ssl = true, ssl_cert_reqs = "none" }"#,
        ),
        (
            "[{ cluster = ['redis://:s@a:7000', 'redis://:s@b'] }]",
            r#"{ cluster = ["redis://:***@a:7000/0", "redis://:***@b:6379/0"], sharded = false }"#,
        ),
        (
            "[{ cluster = ['rediss://a'], sharded = true, username = 'u', password = { env = 'KEY' }, ssl_ca_certs = 'ca.pem' }]",
            r#"{ cluster = ["rediss://u:***@a:6379/0"], sharded = true, ssl_ca_certs = "ca.pem" }"#,
        ),
        ("['redis://a', { host = 'b' }]", r#""redis://a:6379/0", "redis://b:6379/0""#),
    ];
    for (written, printed) in cases {
        assert_eq!(shown(written), printed, "{written}");
    }
}

#[test]
fn authorities_may_stand_in_the_file_itself() {
    let ca = Files::new().ca.replace('\n', "\\n");
    let printed = shown(&format!("[{{ address = 'rediss://h', ssl_ca_data = \"{ca}\" }}]"));
    assert!(printed.contains("ssl_ca_data = \"-----BEGIN CERTIFICATE-----"), "{printed}");
}

#[test]
fn a_host_may_be_a_table_of_its_own() {
    let text = "version = 1\n[layer]\nbackend = 'channels_redis.core'\n[[layer.hosts]]\nhost = 'a'\n[[layer.hosts]]\naddress = 'redis://b'\n";
    let LayerConfig::Core { redis, .. } = config(&format!("{text}{ROUTE}")).layer else { panic!() };
    assert_eq!(redis.hosts.iter().map(RedisHost::address).collect::<Vec<_>>(), ["a:6379", "b:6379"]);
}

#[test]
fn words_that_tune_the_client_in_python_change_nothing() {
    for word in WITHOUT_EFFECT {
        assert_eq!(shown(&format!("[{{ host = 'h', {word} = 1 }}]")), r#""redis://h:6379/0""#);
        assert_eq!(shown(&format!("['redis://h?{word}=1']")), r#""redis://h:6379/0""#);
    }
}

#[test]
fn the_page_about_redis_names_every_word() {
    let page = std::fs::read_to_string("docs/redis.md").unwrap();
    let missing: Vec<_> =
        KEYWORDS.iter().chain(WITHOUT_EFFECT).filter(|word| !page.contains(&format!("`{word}`"))).collect();
    assert_eq!(missing, Vec::<&&str>::new());
}

#[test]
fn a_host_that_cannot_be_read_is_reported() {
    assert_snapshot!(found("['localhost:6379', 'http://a', 'redis://:hunter/2@a', ['a', 0], 5, {}]"), @r#"
        error[E022]: a Redis host is written as a URL, `redis://host:6379/0`
         --> routes.toml:4:10
          |
        4 | hosts = ['localhost:6379', 'http://a', 'redis://:********@a', ['a', 0], 5, {}]
          |          ^^^^^^^^^^^^^^^^

        error[E022]: `http://` is no scheme of a Redis host, use `redis://`, `rediss://` or `unix://`
         --> routes.toml:4:28
          |
        4 | hosts = ['localhost:6379', 'http://a', 'redis://:********@a', ['a', 0], 5, {}]
          |                            ^^^^^^^^^^

        error[E022]: the host, port or database of this Redis URL cannot be read
         --> routes.toml:4:40
          |
        4 | hosts = ['localhost:6379', 'http://a', 'redis://:********@a', ['a', 0], 5, {}]
          |                                        ^^^^^^^^^^^^^^^^^^^^^
          |
          = help: in user and password write `%2F` for `/`, `%3A` for `:`, `%3F` for `?` and `%40` for `@`

        error[E022]: `0` is no port, it must be a number from 1 to 65535
         --> routes.toml:4:63
          |
        4 | hosts = ['localhost:6379', 'http://a', 'redis://:********@a', ['a', 0], 5, {}]
          |                                                               ^^^^^^^^

        error[E005]: `hosts` is a list of servers, not a number
         --> routes.toml:4:73
          |
        4 | hosts = ['localhost:6379', 'http://a', 'redis://:********@a', ['a', 0], 5, {}]
          |                                                                         ^
          |
          = help: write `"redis://127.0.0.1:6379/0"`

        error[E006]: this entry of `hosts` is empty
         --> routes.toml:4:76
          |
        4 | hosts = ['localhost:6379', 'http://a', 'redis://:********@a', ['a', 0], 5, {}]
          |                                                                            ^^
          |
          = help: write `address = "redis://127.0.0.1:6379/0"` into it, or leave it out
        "#);
    assert_snapshot!(found("['sentinel://a', 'unix://run/redis.sock', 'redis://a?ssl=1', 'redis://a?sokcet_timeout=1', 'redis://a?x=1']"), @r#"
        error[E022]: Sentinels are written as a table, `{ sentinels = [["host", 26379]], master_name = "name" }`
         --> routes.toml:4:10
          |
        4 | hosts = ['sentinel://a', 'unix://run/redis.sock', 'redis://a?ssl=1', 'redis://a?sokcet_timeout=1', 'redis://a?x=1']
          |          ^^^^^^^^^^^^^^

        error[E022]: the path of a UNIX socket begins behind `unix://` with a slash, and `run` is no path
         --> routes.toml:4:26
          |
        4 | hosts = ['sentinel://a', 'unix://run/redis.sock', 'redis://a?ssl=1', 'redis://a?sokcet_timeout=1', 'redis://a?x=1']
          |                          ^^^^^^^^^^^^^^^^^^^^^^^

        error[E022]: a Redis URL has no option `ssl`
         --> routes.toml:4:51
          |
        4 | hosts = ['sentinel://a', 'unix://run/redis.sock', 'redis://a?ssl=1', 'redis://a?sokcet_timeout=1', 'redis://a?x=1']
          |                                                   ^^^^^^^^^^^^^^^^^
          |
          = help: begin the URL with `rediss://`

        error[E022]: a Redis URL has no option `sokcet_timeout`
         --> routes.toml:4:70
          |
        4 | hosts = ['sentinel://a', 'unix://run/redis.sock', 'redis://a?ssl=1', 'redis://a?sokcet_timeout=1', 'redis://a?x=1']
          |                                                                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: did you mean `socket_timeout`?

        error[E022]: a Redis URL has no option `x`
         --> routes.toml:4:100
          |
        4 | hosts = ['sentinel://a', 'unix://run/redis.sock', 'redis://a?ssl=1', 'redis://a?sokcet_timeout=1', 'redis://a?x=1']
          |                                                                                                    ^^^^^^^^^^^^^^^
          |
          = help: the options are keywords of redis-py, such as `db`
        "#);
    assert_snapshot!(found("['redis://a?socket_connect_timeout=0', 'rediss://a?ssl_cert_reqs=yes', 'redis://a?path=/x', 'redis://:p@a/?db=x']"), @r#"
        error[E022]: the option `socket_connect_timeout` of this Redis URL is not a number of seconds from 0.01 to 60
         --> routes.toml:4:10
          |
        4 | hosts = ['redis://a?socket_connect_timeout=0', 'rediss://a?ssl_cert_reqs=yes', 'redis://a?path=/x', 'redis://:*@a/?db=x']
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

        error[E022]: the option `ssl_cert_reqs` of this Redis URL is not `required`, `optional` or `none`
         --> routes.toml:4:48
          |
        4 | hosts = ['redis://a?socket_connect_timeout=0', 'rediss://a?ssl_cert_reqs=yes', 'redis://a?path=/x', 'redis://:*@a/?db=x']
          |                                                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

        error[E022]: a Redis URL has no option `path`
         --> routes.toml:4:80
          |
        4 | hosts = ['redis://a?socket_connect_timeout=0', 'rediss://a?ssl_cert_reqs=yes', 'redis://a?path=/x', 'redis://:*@a/?db=x']
          |                                                                                ^^^^^^^^^^^^^^^^^^^
          |
          = help: write a UNIX socket as `address = "unix:///run/redis.sock"`

        error[E022]: the host, port or database of this Redis URL cannot be read
         --> routes.toml:4:101
          |
        4 | hosts = ['redis://a?socket_connect_timeout=0', 'rediss://a?ssl_cert_reqs=yes', 'redis://a?path=/x', 'redis://:*@a/?db=x']
          |                                                                                                     ^^^^^^^^^^^^^^^^^^^^
          |
          = help: in user and password write `%2F` for `/`, `%3A` for `:`, `%3F` for `?` and `%40` for `@`
        "#);
}

#[test]
fn a_table_says_once_where_its_host_is() {
    assert_snapshot!(found("[{ address = 'redis://a', host = 'b' }, { host = 'a', master_name = 'm' }, { sentinels = [] }]"), @r#"
        error[E011]: `address` and `host` both say where this host is
         --> routes.toml:4:35
          |
        4 | hosts = [{ address = 'redis://a', host = 'b' }, { host = 'a', master_name = 'm' }, { sentinels = [] }]
          |            ------- the other      ^^^^
          |
          = help: leave one of them out

        error[E011]: `host` and `master_name` both say where this host is
         --> routes.toml:4:63
          |
        4 | hosts = [{ address = 'redis://a', host = 'b' }, { host = 'a', master_name = 'm' }, { sentinels = [] }]
          |                                                   ----        ^^^^^^^^^^^
          |                                                   |
          |                                                   the other
          |
          = help: leave one of them out

        error[E006]: this host has Sentinels and no `master_name`
         --> routes.toml:4:84
          |
        4 | hosts = [{ address = 'redis://a', host = 'b' }, { host = 'a', master_name = 'm' }, { sentinels = [] }]
          |                                                                                    ^^^^^^^^^^^^^^^^^^
          |
          = help: write `{ sentinels = [["10.0.0.1", 26379]], master_name = "mymaster" }`

        error[E014]: `sentinels` is empty, so nobody knows the master
         --> routes.toml:4:98
          |
        4 | hosts = [{ address = 'redis://a', host = 'b' }, { host = 'a', master_name = 'm' }, { sentinels = [] }]
          |                                                                                                  ^^
        "#);
    assert_snapshot!(found("[{ sentinels = ['a:1'], master_name = '' }, { host = 'a/b' }, { adress = 'redis://a' }, { path = '/run/redis.sock' }]"), @r#"
        error[E005]: `sentinels` is a list of servers, not a string
         --> routes.toml:4:25
          |
        4 | hosts = [{ sentinels = ['a:1'], master_name = '' }, { host = 'a/b' }, { adress = 'redis://a' }, { path = '/run/redis.sock' }]
          |                         ^^^^^
          |
          = help: write `[["127.0.0.1", 26379]]`

        error[E014]: `master_name` is empty
         --> routes.toml:4:47
          |
        4 | hosts = [{ sentinels = ['a:1'], master_name = '' }, { host = 'a/b' }, { adress = 'redis://a' }, { path = '/run/redis.sock' }]
          |                                               ^^

        error[E022]: `a/b` is no host name or address (an IPv6 address stands in brackets)
         --> routes.toml:4:62
          |
        4 | hosts = [{ sentinels = ['a:1'], master_name = '' }, { host = 'a/b' }, { adress = 'redis://a' }, { path = '/run/redis.sock' }]
          |                                                              ^^^^^

        error[E003]: unknown key `adress` in an entry of `hosts`
         --> routes.toml:4:73
          |
        4 | hosts = [{ sentinels = ['a:1'], master_name = '' }, { host = 'a/b' }, { adress = 'redis://a' }, { path = '/run/redis.sock' }]
          |                                                                         ^^^^^^
          |
          = help: did you mean `address`?

        error[E003]: `path` is no setting of an entry of `hosts`
         --> routes.toml:4:99
          |
        4 | hosts = [{ sentinels = ['a:1'], master_name = '' }, { host = 'a/b' }, { adress = 'redis://a' }, { path = '/run/redis.sock' }]
          |                                                                                                   ^^^^
          |
          = help: write a UNIX socket as `address = "unix:///run/redis.sock"`
        "#);
    assert_snapshot!(found("[{ host = 'a', db = -1, port = 0, socket_connect_timeout = 0.001, client_name = 'a b', retry = 1 }]"), @r#"
        error[E009]: `db` is -1, which is out of range
         --> routes.toml:4:29
          |
        4 | hosts = [{ host = 'a', db = -1, port = 0, socket_connect_timeout = 0.001, client_name = 'a b', retry = 1 }]
          |                             ^^ allowed is 0 to 4294967295

        error[E009]: `port` is 0, which is out of range
         --> routes.toml:4:40
          |
        4 | hosts = [{ host = 'a', db = -1, port = 0, socket_connect_timeout = 0.001, client_name = 'a b', retry = 1 }]
          |                                        ^ allowed is 1 to 65535

        error[E009]: `socket_connect_timeout` is 0.001, which is out of range
         --> routes.toml:4:68
          |
        4 | hosts = [{ host = 'a', db = -1, port = 0, socket_connect_timeout = 0.001, client_name = 'a b', retry = 1 }]
          |                                                                    ^^^^^ allowed is 10ms to 1m

        error[E013]: `a b` is no name of a connection
         --> routes.toml:4:89
          |
        4 | hosts = [{ host = 'a', db = -1, port = 0, socket_connect_timeout = 0.001, client_name = 'a b', retry = 1 }]
          |                                                                                         ^^^^^
          |
          = help: it has no spaces, and nothing but ASCII

        error[E003]: `retry` is no setting of an entry of `hosts`
         --> routes.toml:4:96
          |
        4 | hosts = [{ host = 'a', db = -1, port = 0, socket_connect_timeout = 0.001, client_name = 'a b', retry = 1 }]
          |                                                                                                ^^^^^
          |
          = help: it names Python code, leave it out
        "#);
}

#[test]
fn a_cluster_is_named_by_nodes_that_are_alike() {
    assert_snapshot!(found("[{ cluster = [] }, { sharded = true }, { cluster = 'redis://a' }, { cluster = ['redis://a'], host = 'b' }]"), @r#"
        error[E014]: `cluster` names none of its nodes
         --> routes.toml:4:22
          |
        4 | hosts = [{ cluster = [] }, { sharded = true }, { cluster = 'redis://a' }, { cluster = ['redis://a'], host = 'b' }]
          |                      ^^

        error[E006]: this host is `sharded` and no `cluster`
         --> routes.toml:4:28
          |
        4 | hosts = [{ cluster = [] }, { sharded = true }, { cluster = 'redis://a' }, { cluster = ['redis://a'], host = 'b' }]
          |                            ^^^^^^^^^^^^^^^^^^
          |
          = help: write `{ cluster = ["redis://10.0.0.1:6379"], sharded = true }`

        error[E005]: `cluster` is a list, not a string
         --> routes.toml:4:60
          |
        4 | hosts = [{ cluster = [] }, { sharded = true }, { cluster = 'redis://a' }, { cluster = ['redis://a'], host = 'b' }]
          |                                                            ^^^^^^^^^^^
          |
          = help: put it in brackets: `["…"]`

        error[E011]: `host` and `cluster` both say where this host is
         --> routes.toml:4:77
          |
        4 | hosts = [{ cluster = [] }, { sharded = true }, { cluster = 'redis://a' }, { cluster = ['redis://a'], host = 'b' }]
          |                                                                             ^^^^^^^                  ---- the other
          |
          = help: leave one of them out
        "#);
    assert_snapshot!(found("[{ cluster = ['redis://a', 'rediss://b'] }, { cluster = ['redis://a/1'] }, { cluster = ['unix:///a'] }, { cluster = ['a:1'], sharded = 'yes' }]"), @r#"
        error[E022]: this node differs from the first in more than its address
         --> routes.toml:4:36
          |
        4 | hosts = [{ cluster = ['redis://a', 'rediss://b'] }, { cluster = ['redis://a/1'] }, { cluster = ['unix:///a'] }, { cluster = ['a:1'], ...
          |                                    ^^^^^^^^^^^^

        error[E022]: a cluster has no database but 0
         --> routes.toml:4:66
          |
        4 | hosts = [{ cluster = ['redis://a', 'rediss://b'] }, { cluster = ['redis://a/1'] }, { cluster = ['unix:///a'] }, { cluster = ['a:1'], ...
          |                                                                  ^^^^^^^^^^^^^

        error[E022]: a node of a cluster is reached over TCP
         --> routes.toml:4:97
          |
        4 | hosts = [{ cluster = ['redis://a', 'rediss://b'] }, { cluster = ['redis://a/1'] }, { cluster = ['unix:///a'] }, { cluster = ['a:1'], ...
          |                                                                                                 ^^^^^^^^^^^

        error[E022]: a Redis host is written as a URL, `redis://host:6379/0`
         --> routes.toml:4:126
          |
        4 | hosts = [{ cluster = ['redis://a', 'rediss://b'] }, { cluster = ['redis://a/1'] }, { cluster = ['unix:///a'] }, { cluster = ['a:1'], ...
          |                                                                                                                              ^^^^^

        error[E005]: `sharded` is `true` or `false`, not a string
         --> routes.toml:4:144
          |
        4 | ..., { cluster = ['unix:///a'] }, { cluster = ['a:1'], sharded = 'yes' }]
          |                                                                  ^^^^^
        "#);
    assert_snapshot!(
        beside("[layer]\nbackend = 'channels_redis.core'\nhosts = [{ cluster = ['redis://a'] }]\n"),
        @r#"
        error[E011]: `channels_redis.core` cannot work on a Redis Cluster, here or in Python
         --> routes.toml:4:12
          |
        4 | hosts = [{ cluster = ['redis://a'] }]
          |            ^^^^^^^
          |
          = help: write `backend = "channels_redis.pubsub"`, on both sides, or name a Redis that is none
        "#
    );
}

#[test]
fn tls_is_asked_for_in_the_way_that_gives_it() {
    assert_snapshot!(found("[{ host = 'a', ssl = true }, { address = 'redis://b', ssl = true }]"), @r#"
        error[E010]: `ssl = true` gives no TLS to a host that is written so, in `channels_redis` neither
         --> routes.toml:4:30
          |
        4 | hosts = [{ host = 'a', ssl = true }, { address = 'redis://b', ssl = true }]
          |                              ^^^^
          |
          = help: write `address = "rediss://a:6379"` instead

        error[E010]: `ssl = true` gives no TLS to a host that is written so, in `channels_redis` neither
         --> routes.toml:4:69
          |
        4 | hosts = [{ host = 'a', ssl = true }, { address = 'redis://b', ssl = true }]
          |                                                                     ^^^^
          |
          = help: write `address = "rediss://b:6379"` instead
        "#);
    assert_snapshot!(found("[{ address = 'redis://a', ssl_ca_certs = 'ca.pem' }, { sentinels = [['a', 1]], master_name = 'm', ssl_cert_reqs = 'none' }, { address = 'unix:///a', ssl_certfile = 'a.pem' }]"), @r#"
        error[E010]: `ssl_ca_certs` has no use on a connection in clear
         --> routes.toml:4:50
          |
        4 | hosts = [{ address = 'redis://a', ssl_ca_certs = 'ca.pem' }, { sentinels = [['a', 1]], master_name = 'm', ssl_cert_reqs = 'none' }, {...
          |                                                  ^^^^^^^^
          |
          = help: write `address = "rediss://a:6379"`

        error[E010]: `ssl_cert_reqs` has no use on a connection in clear
         --> routes.toml:4:123
          |
        4 | hosts = [{ address = 'redis://a', ssl_ca_certs = 'ca.pem' }, { sentinels = [['a', 1]], master_name = 'm', ssl_cert_reqs = 'none' }, {...
          |                                                                                                                           ^^^^^^
          |
          = help: add `ssl = true`

        error[E010]: `ssl_certfile` has no use on a connection in clear
         --> routes.toml:4:173
          |
        4 | ...ert_reqs = 'none' }, { address = 'unix:///a', ssl_certfile = 'a.pem' }]
          |                                                                 ^^^^^^^
          |
          = help: leave it out: a UNIX socket needs no TLS
        "#);
    assert_snapshot!(found("[{ address = 'rediss://a', ssl_ca_certs = 'empty.pem' }, { address = 'rediss://a', ssl_certfile = 'a.pem' }, { address = 'rediss://a', ssl_certfile = 'a.pem', ssl_keyfile = 'other.key' }, { address = 'rediss://a', ssl_ca_certs = 'none.pem' }, { address = 'rediss://a', ssl_min_version = 'x' }]"), @r#"
        error[E026]: `empty.pem` holds no certificate
         --> routes.toml:4:51
          |
        4 | hosts = [{ address = 'rediss://a', ssl_ca_certs = 'empty.pem' }, { address = 'rediss://a', ssl_certfile = 'a.pem' }, { address = 'red...
          |                                                   ^^^^^^^^^^^

        error[E006]: `ssl_certfile` and `ssl_keyfile` need one another
         --> routes.toml:4:107
          |
        4 | hosts = [{ address = 'rediss://a', ssl_ca_certs = 'empty.pem' }, { address = 'rediss://a', ssl_certfile = 'a.pem' }, { address = 'red...
          |                                                                                                           ^^^^^^^

        error[E026]: `other.key` is not the key of the certificate in `a.pem`
         --> routes.toml:4:159
          |
        4 | ...rtfile = 'a.pem' }, { address = 'rediss://a', ssl_certfile = 'a.pem', ssl_keyfile = 'other.key' }, { address = 'rediss://a', ssl_c...
          |                                                                 ^^^^^^^

        error[E026]: `none.pem`: no such file
         --> routes.toml:4:238
          |
        4 | ...e = 'other.key' }, { address = 'rediss://a', ssl_ca_certs = 'none.pem' }, { address = 'rediss://a', ssl_min_version = 'x' }]
          |                                                                ^^^^^^^^^^

        error[E003]: `ssl_min_version` is no setting of an entry of `hosts`
         --> routes.toml:4:278
          |
        4 | ..., ssl_ca_certs = 'none.pem' }, { address = 'rediss://a', ssl_min_version = 'x' }]
          |                                                             ^^^^^^^^^^^^^^^
          |
          = help: leave it out; it is TLS 1.2 or newer
        "#);
    assert_snapshot!(found("[{ address = 'rediss://a', ssl_ca_certs = 'ca.pem', ssl_cert_reqs = 'none' }]"), @r#"
        warning[W003]: `ssl_ca_certs` has no effect where `ssl_cert_reqs = "none"` takes any certificate
         --> routes.toml:4:51
          |
        4 | hosts = [{ address = 'rediss://a', ssl_ca_certs = 'ca.pem', ssl_cert_reqs = 'none' }]
          |                                                   ^^^^^^^^
        "#);
}

#[test]
fn a_user_is_no_secret() {
    assert_snapshot!(found("[{ host = 'h', username = { env = 'KEY' } }]"), @r#"
        error[E005]: `username` is a string, not a table
         --> routes.toml:4:35
          |
        4 | hosts = [{ host = 'h', username = { env = 'KEY' } }]
          |                                   ^^^^^^^^^^^^^^^
        "#);
}

#[test]
fn no_password_shows() {
    let cases = [
        "[{ host = 'h', password = 'hunter2', db = -1 }]",
        "[{ host = 'h', db = -1, \"password\" = \"hunter2\" }]",
        "[{ sentinels = [['a', 1]], sentinel_kwargs = { password = 'hunter2' }, password = 'hunter2' }]",
        "['redis://h?password=hunter2&db=x']",
        "['unix://app:hunter2@run/redis.sock']",
        "[{ address = 'redis://:hunter2@h', ssl = true }]",
        "[{ host = 'h', password = 'hunter2'",
    ];
    for hosts in cases {
        let findings = load_hosts(hosts).unwrap_err();
        assert!(!findings.render(false).contains("hunter2"), "{}", findings.render(false));
        assert!(!findings.to_json().to_string().contains("hunter2"), "{hosts}");
    }
    let config =
        load_hosts("[{ sentinels = [['a', 1]], master_name = 'm', password = 'hunter2' }]").unwrap().config;
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!print(&config).contains("hunter2"));
}
