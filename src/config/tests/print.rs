//! What `print` shows of a file.

use insta::assert_snapshot;

use super::*;

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
fn what_is_printed_of_odd_values_reads_as_the_same_again() {
    let layer = |hosts: &str| format!("[layer]\nbackend = 'channels_redis.pubsub'\nhosts = [{hosts}]\n");
    let server = |server: &str| format!("[upstream.a]\nservers = ['{server}']\n");
    let cases = [
        // a part of the file, and how it is printed
        (layer("'redis://a%3Ab:p@h'"), r#"["redis://a%3Ab:***@h:6379/0"]"#),
        (layer("{ host = 'h', username = 'a#b' }"), r#"["redis://a%23b@h:6379/0"]"#),
        (layer("{ host = 'h', username = 'a%41@/é' }"), r#"["redis://a%2541%40%2F%C3%A9@h:6379/0"]"#),
        (layer("'redis://h?username=%7F+'"), r#"["redis://%7F%20@h:6379/0"]"#),
        (
            layer("{ cluster = ['redis://h', 'redis://i'], username = 'a/b' }"),
            r#"[{ cluster = ["redis://a%2Fb@h:6379/0", "redis://a%2Fb@i:6379/0"], sharded = false }]"#,
        ),
        (
            layer("{ sentinels = [['s', 0x10]], master_name = 'm', username = 'a%\"b', db = 0b11 }"),
            r#"[{ sentinels = [["s", 16]], master_name = "m", username = 'a%"b', db = 3 }]"#,
        ),
        (layer("['h', 0o17]"), r#"["redis://h:15/0"]"#),
        (layer("{ host = 'h', port = 0x1F90 }"), r#"["redis://h:8080/0"]"#),
        (layer("'unix:///run/a%3Fb.sock'"), r#"["unix:///run/a%3Fb.sock?db=0"]"#),
        (layer("'unix://u@//a%25b%23%20:@é'"), r#"["unix://u@//a%25b%23%20:@%C3%A9?db=0"]"#),
        (layer("{ host = 'h', socket_connect_timeout = 2.0004 }"), r#"["redis://h:6379/0"]"#),
        (
            layer("{ host = 'h', socket_connect_timeout = 0x10 }"),
            r#"[{ address = "redis://h:6379/0", socket_connect_timeout = "16s" }]"#,
        ),
        (
            layer("{ host = 'h', socket_connect_timeout = 5.9999e1 }"),
            r#"[{ address = "redis://h:6379/0", socket_connect_timeout = "59999ms" }]"#,
        ),
        (
            layer("'redis://h?socket_connect_timeout=0.0126'"),
            r#"[{ address = "redis://h:6379/0", socket_connect_timeout = "13ms" }]"#,
        ),
        (server("unix:////run/app.sock"), r#"["unix:////run/app.sock"]"#),
        (server("unix:///run/app.sock"), r#"["unix:/run/app.sock"]"#),
        (server("https://[::1]"), r#"["https://[::1]:443"]"#),
    ];
    for (part, shown) in cases {
        let printed = print(&config(&format!("version = 1\n{part}{ROUTE}")));
        assert!(printed.lines().any(|line| line.ends_with(&format!("s = {shown}"))), "{shown}: {printed}");
        assert_eq!(print(&config(&printed)), printed, "{part}");
    }
}
