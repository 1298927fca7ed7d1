//! `[layer]`, without the forms of its `hosts`.

use insta::assert_snapshot;

use super::*;

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
fn the_words_of_django_mean_what_they_mean_there() {
    let LayerConfig::PubSub(redis) = config(FULL).layer else { panic!("pub/sub") };
    let shown: Vec<_> = redis.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["redis://127.0.0.1:6379/0", "redis://app:***@cache:6379/2", "redis://:***@cache:6379/1"]
    );
    let keys: Vec<_> = redis.symmetric_encryption_keys.iter().map(Secret::reveal).collect();
    assert_eq!((keys, redis.prefix.as_str()), (vec!["secret", "hunter2"], "my\tapp"));
    let memory = "version = 1\n[layer]\nbackend = 'channels.layers.InMemoryChannelLayer'\n";
    assert_eq!(config(&format!("{memory}{ROUTE}")).layer, LayerConfig::Memory);
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
