//! Every core row of the vectors that were made by running `channels_redis`.

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::channel_layer::message::Value;
use crate::channel_layer::redis::core::post::buckets;
use crate::channel_layer::redis::vectors::{hex, message, rows, serializer, unhex};
use crate::channel_layer::redis::wire::{EncodeError, Serializer};

/// Rows of operations and values that exist in Python only.
const NO_SUCH_THING: [(&str, &str); 19] = [
    ("core.send.specific.int_keys", "a key is text or bytes here: Python cannot read any other"),
    ("core.send.specific.no_type", "a message always has a type here: no consumer takes it without"),
    ("core.send.general.no_type", "a message always has a type here: no consumer takes it without"),
    ("core.send.json.int_keys", "a key is text or bytes here"),
    ("core.send.error.not_a_dict", "a message is always a map here"),
    ("core.send.error.bad_name", "names of groups are checked by their type"),
    ("core.send.error.datetime", "a Python object"),
    ("core.send.error.decimal", "a Python object"),
    ("core.send.error.set", "a Python object"),
    ("core.send.error.object", "a Python object"),
    ("core.send.error.lone_surrogate", "no text here holds half a character"),
    ("core.send.error.int_too_big", "no number here is longer than 64 bits"),
    ("core.send.error.int_too_small", "no number here is longer than 64 bits"),
    ("core.receive.specific", "an inbox is emptied in other commands"),
    ("core.receive.general", "general channels are for workers"),
    ("core.receive.inflight_recovery", "nothing is kept back here"),
    ("core.flush.basic", "nothing here empties a Redis"),
    ("core.multi_host.direct_send_lost", "nothing that is sent here is lost so; see `names` for the hosts"),
    ("core.multi_host.mixed", "several operations; each of them has its own row"),
];

/// Rows that Python's layer hands on although no consumer can take them, and what is said here.
const CONSUMER_FAILS: [(&str, DecodeError); 3] = [
    ("core.decode.bin_type_value", DecodeError::NoType),
    ("core.decode.root_array", DecodeError::NotAMap),
    ("core.decode.root_str", DecodeError::NotAMap),
];

/// An entry whose key is bytes is left out of the outermost map.
const BYTES_KEY: &str = "core.decode.bin_key";

/// The clock of the rows.
const NOW: u64 = 1_750_000_000;

fn envelope(config: &Json) -> Envelope {
    let prefix_len = config["random_prefix_length"].as_u64().map_or(12, |len| usize::try_from(len).unwrap());
    Envelope { serializer: serializer(config), prefix_len, expiry: config["expiry"].as_u64().unwrap_or(60) }
}

fn text(json: &Json) -> String {
    String::from_utf8(unhex(json["hex"].as_str().unwrap())).unwrap()
}

/// The arguments of the commands that a row's own connection gave with this name.
fn commands<'a>(row: &'a Json, name: &str) -> Vec<&'a [Json]> {
    let commands = row["commands"].as_array().unwrap().iter().filter(|command| command["from"] != "lua");
    let commands = commands.map(|command| command["argv"].as_array().unwrap().as_slice());
    commands.filter(|argv| argv[0]["text"] == name).map(|argv| &argv[1..]).collect()
}

fn assert_member(id: &str, row: &Json, expected: &Json, member: &[u8]) {
    let config = &row["config"];
    if let Some(len) = expected["len"].as_u64() {
        assert_eq!(u64::try_from(member.len()).unwrap(), len, "{id}");
        assert_eq!(hex(&Sha256::digest(member)), expected["sha256"], "{id}");
    } else if config["symmetric_encryption_keys"].is_null() && config["serializer_format"] != "json" {
        assert_eq!(hex(member), expected["hex"], "{id}");
    } else {
        // A token holds a time and random bytes, and Python's JSON has spaces: what is inside must agree.
        let theirs = unhex(expected["hex"].as_str().unwrap());
        let envelope = envelope(config);
        assert_eq!(member[..envelope.prefix_len], theirs[..envelope.prefix_len], "{id}");
        // Not-a-number differs from itself: the texts are compared.
        let open = |member: &[u8], now| format!("{:?}", envelope.open(member, now).unwrap());
        assert_eq!(open(member, clock::now_whole()), open(&theirs, NOW), "{id}");
    }
}

#[test]
fn what_is_written_is_what_python_writes() {
    let mut asserted = 0;
    for (id, row) in rows("core", "wire") {
        if NO_SUCH_THING.iter().any(|(known, _)| *known == id) {
            continue;
        }
        let (config, input) = (&row["config"], &row["input"]);
        let keys = CoreKeys::new(config["prefix"].as_str().unwrap_or("asgi"));
        let envelope = envelope(config);
        let number = |key: &str, default: u64| config[key].as_u64().unwrap_or(default).to_string();
        let random = |place: usize| {
            let bytes = unhex(row["pinned"]["random_prefix_hex"][place].as_str().unwrap_or_default());
            move |out: &mut [u8]| out.copy_from_slice(&bytes[..out.len()])
        };
        let time = clock::text(row["pinned"]["time"].as_f64().unwrap());
        match row["op"].as_str().unwrap() {
            "group_add" => {
                let key = keys.group(input["group"].as_str().unwrap());
                let add = commands(&row, "ZADD")[0];
                assert_eq!((text(&add[0]), text(&add[1])), (key.clone(), time), "{id}");
                assert_eq!(add[2]["text"], input["channel"], "{id}");
                let expire = commands(&row, "EXPIRE")[0];
                assert_eq!((text(&expire[0]), text(&expire[1])), (key, number("group_expiry", 86400)));
            }
            "group_discard" => {
                let discard = commands(&row, "ZREM")[0];
                assert_eq!(text(&discard[0]), keys.group(input["group"].as_str().unwrap()), "{id}");
            }
            "send" if !row["error"].is_null() => {
                let reserved = row["error"] == "AssertionError";
                let error = if reserved { EncodeError::Reserved } else { EncodeError::Bytes };
                let channel = input["channel"].as_str().unwrap().parse().unwrap();
                assert_eq!(envelope.body(&message(&input["message"])), Err(error), "{id}");
                assert_eq!(envelope.body_for(&message(&input["message"]), &channel), Err(error), "{id}");
            }
            "send" => {
                let channel = input["channel"].as_str().unwrap();
                let body = envelope.body_for(&message(&input["message"]), &channel.parse().unwrap()).unwrap();
                let add = commands(&row, "ZADD")[0];
                assert_eq!((text(&add[0]), text(&add[1])), (keys.inbox(channel), time), "{id}");
                assert_eq!(text(&commands(&row, "EXPIRE")[0][1]), number("expiry", 60), "{id}");
                assert_member(&id, &row, &add[2], &envelope.wrap(body, random(0)));
            }
            "group_send" => {
                let group = keys.group(input["group"].as_str().unwrap());
                assert_eq!(text(&commands(&row, "ZRANGE")[0][0]), group, "{id}");
                let oldest = (NOW - 86400).to_string();
                let prune = commands(&row, "ZREMRANGEBYSCORE");
                assert_eq!((text(&prune[0][0]), text(&prune[0][2])), (group, oldest), "{id}");
                let members = input["members_in_score_order"].as_array().unwrap().iter();
                let members: Vec<_> = members.map(|member| member.as_str().unwrap()).collect();
                let buckets = buckets(&members, &keys, &Capacities::default(), 1);
                let Some(script) = commands(&row, "EVAL").first().copied() else {
                    assert!(buckets.is_empty(), "{id}");
                    asserted += 1;
                    continue;
                };
                assert_eq!(text(&script[1]), buckets.len().to_string(), "{id}");
                let body = envelope.body(&message(&input["message"])).unwrap();
                let arguments = &script[2..];
                let len = buckets.len();
                for (place, bucket) in buckets.iter().enumerate() {
                    assert_eq!(text(&arguments[place]), bucket.inbox, "{id}");
                    assert_eq!(text(&arguments[2 * len + place]), bucket.capacity.to_string(), "{id}");
                    let member = envelope.seal(&body, &bucket.channels, random(place)).unwrap();
                    assert_member(&id, &row, &arguments[len + place], &member);
                    let prune = (text(&prune[1 + place][0]), text(&prune[1 + place][2]));
                    assert_eq!(prune, (bucket.inbox.clone(), (NOW - 60).to_string()), "{id}");
                }
                assert_eq!(
                    (text(&arguments[3 * len]), text(&arguments[3 * len + 1])),
                    (time, "60".to_owned()),
                    "{id}"
                );
            }
            other => panic!("{id}: {other}"),
        }
        asserted += 1;
    }
    assert_eq!(asserted + NO_SUCH_THING.len(), rows("core", "wire").count());
}

#[test]
fn what_python_reads_is_read_and_what_it_refuses_is_refused() {
    let mut asserted = 0;
    for (id, row) in rows("core", "decode") {
        let member = unhex(row["member"]["hex"].as_str().unwrap());
        let opened = envelope(&row["config"]).open(&member, NOW);
        if let Some((_, error)) = CONSUMER_FAILS.iter().find(|(known, _)| *known == id) {
            assert_eq!(opened.as_ref().map(|_| ()), Err(error), "{id}");
        } else if row["ok"] == false {
            assert!(opened.is_err(), "{id}: {opened:?}");
        } else {
            let (read, channels) = opened.unwrap();
            // The rows without channels were read from a general channel, which needs none.
            let named = row["channel"].as_array().into_iter().flatten();
            assert_eq!(channels, named.map(|name| name.as_str().unwrap()).collect::<Vec<_>>(), "{id}");
            if id == BYTES_KEY {
                assert_eq!(read, Message::new("x"));
            } else {
                // Not-a-number differs from itself: the texts are compared.
                assert_eq!(format!("{read:?}"), format!("{:?}", message(&row["message"])), "{id}");
            }
        }
        asserted += 1;
    }
    assert_eq!(asserted, 38);
}

#[test]
fn a_token_is_read_as_long_as_python_reads_it() {
    let config = serde_json::json!({ "symmetric_encryption_keys": ["k1"] });
    let envelope = envelope(&config);
    let (_, row) = rows("core", "decode").find(|(id, _)| id == "core.decode.encrypted.ok").unwrap();
    let member = unhex(row["member"]["hex"].as_str().unwrap());
    let cases = [
        (NOW + 70, true),
        (NOW + 71, false),
        (NOW - 60, true),
        (NOW - 61, false),
        (0, false),
        (u64::MAX, false),
    ];
    for (now, read) in cases {
        let opened = envelope.open(&member, now).map(|_| ());
        assert_eq!(opened, if read { Ok(()) } else { Err(DecodeError::Age) }, "{now}");
    }
}

#[test]
fn a_message_says_whom_it_is_for_as_a_text_or_as_a_list() {
    let envelope = envelope(&serde_json::json!({}));
    let cases = [
        (Value::from("specific.1!2"), vec!["specific.1!2"]),
        (Value::List(vec![Value::from("a"), Value::Int(5), Value::from("b")]), vec!["a", "b"]),
        (Value::List(vec![]), vec![]),
        (Value::Null, vec![]),
        (Value::from(vec![1_u8]), vec![]),
    ];
    for (address, expected) in cases {
        let sent = Message::new("x").with("__asgi_channel__", address).with("v", 1);
        let member = [b"PREFIX12byte".to_vec(), Serializer::default().encode(&sent).unwrap()].concat();
        let (message, channels) = envelope.open(&member, NOW).unwrap();
        assert_eq!(
            (message, channels),
            (Message::new("x").with("v", 1), expected.into_iter().map(str::to_owned).collect())
        );
    }
}

#[test]
fn a_map_with_one_entry_more_has_the_head_of_its_length() {
    let envelope = envelope(&serde_json::json!({ "random_prefix_length": 0 }));
    for len in [0, 13, 14, 15, 65_533, 65_534, 65_535] {
        let fields = (0..len).map(|number| (number.to_string(), Value::Int(number))).collect();
        let sent = Message { kind: "x".to_owned(), fields };
        let body = envelope.body(&sent).unwrap();
        let member = envelope.seal(&body, &["a!b", "a!c"], |_| ()).unwrap();
        assert_eq!(
            envelope.open(&member, NOW),
            Ok((sent, vec!["a!b".to_owned(), "a!c".to_owned()])),
            "{len}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_refused_or_read_and_never_more(member: Vec<u8>, prefix_len in 0_usize..20) {
        for format in ["msgpack", "json"] {
            for keys in [serde_json::json!([]), serde_json::json!(["k"])] {
                let config = serde_json::json!({ "serializer_format": format, "symmetric_encryption_keys": keys });
                let envelope = Envelope { prefix_len, ..envelope(&config) };
                if let Ok((message, channels)) = envelope.open(&member, NOW) {
                    proptest::prop_assert!(message.get("__asgi_channel__").is_none());
                    proptest::prop_assert!(channels.len() <= member.len());
                }
            }
        }
    }
}
