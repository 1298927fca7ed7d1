//! What the author of a wrong file reads, one snapshot for each kind of finding; and what a right one says.
//!
//! The tests stand in the modules named after those that read that part of the file.

mod file;
mod syntax;
mod diagnostic;
mod listener;
mod trust;
mod layer;
mod redis_host;
mod upstream;
mod defaults;
mod route;
mod room;
mod direct;
mod proxy;
mod files;
mod respond;
mod print;
mod reference;

use proptest::prelude::*;

use super::*;

const ROUTE: &str = "
[[route]]
name = 'echo'
path = '/echo/'
handler = 'echo'
";

/// Every key, with a value other than its default.
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
