//! Every pub/sub row of the vectors that were made by running `channels_redis`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::channel_layer::redis::keys::Keys;
use crate::channel_layer::redis::vectors::{hex, message, rows, serializer, unhex};

/// Rows of operations and values that exist in Python only.
const NO_SUCH_THING: [(&str, &str); 12] = [
    ("pubsub.new_channel.basic", "sockets have no channels of their own in this layer"),
    ("pubsub.new_channel.prefix", "sockets have no channels of their own in this layer"),
    ("pubsub.receive.general_then_cancelled", "general channels are for workers"),
    ("pubsub.group_send.int_keys", "a key is text or bytes here: Python cannot read any other"),
    ("pubsub.group_send.no_type", "a message always has a type here: no consumer takes it without"),
    ("pubsub.group_send.not_a_dict", "a message is always a map here: no consumer takes anything else"),
    ("pubsub.group_send.error.datetime", "a Python object"),
    ("pubsub.group_send.error.decimal", "a Python object"),
    ("pubsub.group_send.error.set", "a Python object"),
    ("pubsub.group_send.error.uuid", "a Python object"),
    ("pubsub.group_send.error.object", "a Python object"),
    ("pubsub.group_send.error.lone_surrogate", "no text here holds half a character"),
];

/// A number below 64 bits, which `serde_json` would hand over as a float.
const TOO_SMALL: &str = "pubsub.group_send.error.int_too_small";

/// Rows that Python's layer hands on although no consumer can take them, and what is said here.
const CONSUMER_FAILS: [(&str, DecodeError); 5] = [
    ("pubsub.decode.bin_type_value", DecodeError::NoType),
    ("pubsub.decode.bin_type_key", DecodeError::NoType),
    ("pubsub.decode.root_array", DecodeError::NotAMap),
    ("pubsub.decode.root_int", DecodeError::NotAMap),
    ("pubsub.decode.root_str", DecodeError::NotAMap),
];

/// Rows whose message is taken here with a difference.
const DIFFERENT: [&str; 2] = [
    // An entry whose key is bytes is left out of the outermost map.
    "pubsub.decode.bin_key",
    // A whole number beyond 64 bits becomes a float.
    "pubsub.decode.json.big_int",
];

#[test]
fn what_is_published_is_what_python_publishes() {
    let mut asserted = 0;
    for (id, row) in rows("pubsub", "wire") {
        if id == TOO_SMALL || NO_SUCH_THING.iter().any(|(known, _)| *known == id) {
            continue;
        }
        let prefix = row["config"]["prefix"].as_str().unwrap_or("asgi");
        let channel = Keys::new(prefix, 0).group_channel(row["input"]["group"].as_str().unwrap());
        let sent = match &row["input"]["message"] {
            Json::Null => message(&row["received"][0]),
            json => message(json),
        };
        let payload = serializer(&row["config"]).encode(&sent).unwrap();
        for command in row["commands"].as_array().unwrap() {
            let argv = command["argv"].as_array().unwrap();
            match argv[0]["text"].as_str().unwrap() {
                "SUBSCRIBE" | "UNSUBSCRIBE" => assert_eq!(argv[1]["text"], channel, "{id}"),
                // The direct send of the row with all steps.
                "PUBLISH" if argv[1]["text"].as_str().unwrap().contains("specific.") => {}
                _ => {
                    assert_eq!(argv[1]["text"], channel, "{id}");
                    assert_payload(&id, &row, &argv[2], &payload);
                }
            }
        }
        asserted += 1;
    }
    assert_eq!(asserted + NO_SUCH_THING.len() + 1, rows("pubsub", "wire").count());
}

fn assert_payload(id: &str, row: &Json, expected: &Json, payload: &[u8]) {
    if let Some(len) = expected["len"].as_u64() {
        assert_eq!(u64::try_from(payload.len()).unwrap(), len, "{id}");
        assert_eq!(hex(&Sha256::digest(payload)), expected["sha256"], "{id}");
    } else if row["config"]["symmetric_encryption_keys"].is_null() {
        assert_eq!(hex(payload), expected["hex"], "{id}");
    } else {
        // The token holds a time and random bytes: the version, the length and what is inside must agree.
        let theirs = unhex(expected["hex"].as_str().unwrap());
        let (mine, token) = (URL_SAFE.decode(payload).unwrap(), URL_SAFE.decode(&theirs).unwrap());
        assert_eq!((mine[0], mine.len()), (token[0], token.len()), "{id}");
        let serializer = serializer(&row["config"]);
        assert_eq!(serializer.decode(&theirs), serializer.decode(payload), "{id}");
    }
}

#[test]
fn what_python_reads_is_read_and_what_it_refuses_is_refused() {
    let mut asserted = 0;
    for (id, row) in rows("pubsub", "decode") {
        let payload = unhex(row["payload"]["hex"].as_str().unwrap());
        let decoded = serializer(&row["config"]).decode(&payload);
        if let Some((_, error)) = CONSUMER_FAILS.iter().find(|(known, _)| *known == id) {
            assert_eq!(decoded.as_ref(), Err(error), "{id}");
        } else if row["ok"] == false {
            assert!(decoded.is_err(), "{id}: {decoded:?}");
        } else if !DIFFERENT.contains(&id.as_str()) {
            // Not-a-number differs from itself: the texts are compared.
            assert_eq!(format!("{:?}", decoded.unwrap()), format!("{:?}", message(&row["message"])), "{id}");
        }
        asserted += 1;
    }
    assert_eq!(asserted, 41);
}

#[test]
fn rows_that_are_taken_with_a_difference() {
    let read = |id: &str| {
        let (_, row) = rows("pubsub", "decode").find(|(known, _)| known == id).unwrap();
        serializer(&row["config"]).decode(&unhex(row["payload"]["hex"].as_str().unwrap())).unwrap()
    };
    assert_eq!(read("pubsub.decode.bin_key"), Message::new("x"));
    let big = Message::new("x").with("v", Value::Float(123_456_789_012_345_680_000_000_000_000.0));
    assert_eq!(read("pubsub.decode.json.big_int"), big);
}

#[test]
fn what_was_encoded_is_decoded_to_the_same() {
    let text = "\u{1F600}\"\\\u{8}\u{c}\n\u{7f}\u{2028}".to_owned();
    let inner = Value::Map(vec![
        (Key::Text("a".to_owned()), Value::List(vec![Value::Null, Value::Bool(true), Value::Bool(false)])),
        (Key::Text(text.clone()), Value::Text(text)),
    ]);
    let sent = Message::new("x")
        .with("deep", inner)
        .with("float", Value::Float(1e300))
        .with("tiny", Value::Float(5e-324))
        .with("whole", Value::Float(-3.0))
        .with("most", Value::UInt(u64::MAX))
        .with("least", Value::Int(i64::MIN))
        .with("endless", Value::Float(f64::NEG_INFINITY));
    for format in [SerializerFormat::MsgPack, SerializerFormat::Json] {
        for keys in [&[][..], &[Secret::new("k")]] {
            let serializer = Serializer::new(format, keys);
            assert_eq!(serializer.decode(&serializer.encode(&sent).unwrap()), Ok(sent.clone()), "{format}");
        }
    }
}

#[test]
fn a_length_that_is_only_announced_is_an_early_end() {
    let cases: [&[u8]; 9] = [
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xde\x00\x01\xa1a",
        b"\xdc\xff\xff\xc0",
        b"\xcf\x00",
        b"\x81",
    ];
    for body in cases {
        assert_eq!(Serializer::default().decode(body), Err(DecodeError::Truncated), "{body:02x?}");
    }
}

#[test]
fn an_extension_is_one_that_python_takes() {
    const NANOSECONDS: u32 = 999_999_999;
    let cases: [(&[&[u8]], bool); 11] = [
        (&[b"\xd6\xff", &[0xff; 4]], true),
        (&[b"\xd7\xff", &(NANOSECONDS << 2 | 3).to_be_bytes(), &[0xff; 4]], true),
        (&[b"\xd7\xff", &((NANOSECONDS + 1) << 2).to_be_bytes(), &[0; 4]], false),
        (&[b"\xc7\x0c\xff", &NANOSECONDS.to_be_bytes(), &[0xff; 8]], true),
        (&[b"\xc7\x0c\xff", &(NANOSECONDS + 1).to_be_bytes(), &[0; 8]], false),
        (&[b"\xc7\x00\xff"], false),
        (&[b"\xd4\xff\x00"], false),
        (&[b"\xd8\xff", &[0; 16]], false),
        (&[b"\xd4\xfe\x00"], false),
        (&[b"\xd4\x80\x00"], false),
        (&[b"\xd4\x7f\x00"], true),
    ];
    for (parts, taken) in cases {
        let body = parts.concat();
        assert_eq!(msgpack::decode(&body).is_ok(), taken, "{}", body.escape_ascii());
    }
}

#[test]
fn nesting_ends_where_python_ends() {
    let nested = |depth: usize| (0..depth).fold(Value::Null, |inner, _| Value::List(vec![inner]));
    for (format, written) in [(SerializerFormat::MsgPack, 1024), (SerializerFormat::Json, 512)] {
        let serializer = Serializer::new(format, &[]);
        let sent = Message::new("x").with("v", nested(written - 1));
        assert_eq!(serializer.decode(&serializer.encode(&sent).unwrap()), Ok(sent), "{format}");
        let deeper = Message::new("x").with("v", nested(written));
        assert_eq!(serializer.encode(&deeper), Err(EncodeError::TooDeep), "{format}");
    }
    let json = |depth| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert!(json::decode(&json(1024)).is_ok());
    assert_eq!(json::decode(&json(1025)), Err(DecodeError::TooDeep));
    assert_eq!(msgpack::decode(&[0x91].repeat(100_000)), Err(DecodeError::TooDeep));
}

#[test]
fn no_field_takes_the_place_of_the_type() {
    let sent = Message::new("x").with("type", "websocket.close");
    assert_eq!(Serializer::default().encode(&sent), Err(EncodeError::SecondType));
}

#[test]
fn json_is_read_as_python_reads_it() {
    let list = |items: Vec<Value>| Ok(Value::List(items));
    let map = |key: &str, value| Ok(Value::Map(vec![(Key::Text(key.to_owned()), value)]));
    let cases: Vec<(&[u8], Result<Value, DecodeError>)> = vec![
        (b" [ 1 , -0 , 1.5e3 ] \n", list(vec![Value::Int(1), Value::Int(0), Value::Float(1500.0)])),
        (b"[-Infinity,Infinity]", list(vec![Value::Float(f64::NEG_INFINITY), Value::Float(f64::INFINITY)])),
        (b"[1e999]", list(vec![Value::Float(f64::INFINITY)])),
        (b"{ \"a\" : { } }", map("a", Value::Map(vec![]))),
        (b"{\"a\":1,\"a\":2}", map("a", Value::Int(2))),
        (b"\"\\ud83d\\ude00\"", Ok(Value::from("\u{1F600}"))),
        (b"\"a\\\\\"", Ok(Value::from("a\\"))),
        (b"\xef\xbb\xbfnull", Ok(Value::Null)),
        (b"\x00\x00\x001", Ok(Value::Int(1))),
        (b"1\x00\x00\x00", Ok(Value::Int(1))),
        (b"\x001", Ok(Value::Int(1))),
        (b"\xff\xfe\x00\xd8", Err(DecodeError::Utf8)),
        (b"\"\\ud800\"", Err(DecodeError::Syntax(0))),
        (b"\"a\nb\"", Err(DecodeError::Syntax(0))),
        (b"\"a", Err(DecodeError::Truncated)),
        (b"", Err(DecodeError::Truncated)),
        (b"[1", Err(DecodeError::Truncated)),
        (b"[1,]", Err(DecodeError::Syntax(3))),
        (b"{\"a\":1,}", Err(DecodeError::Syntax(7))),
        (b"{1:2}", Err(DecodeError::Syntax(1))),
        (b"01", Err(DecodeError::Trailing)),
        (b"1.", Err(DecodeError::Truncated)),
        (b"+1", Err(DecodeError::Syntax(0))),
        (b".5", Err(DecodeError::Syntax(0))),
        (b"nul", Err(DecodeError::Syntax(0))),
        (b"[1 2]", Err(DecodeError::Syntax(3))),
        (b"]", Err(DecodeError::Syntax(0))),
    ];
    for (body, expected) in cases {
        assert_eq!(json::decode(body), expected, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn bytes_do_not_pass_json() {
    let serializer = Serializer::new(SerializerFormat::Json, &[]);
    let value = Message::new("x").with("v", vec![1_u8]);
    assert_eq!(serializer.encode(&value), Err(EncodeError::Bytes));
    let key = Message::new("x").with("v", Value::Map(vec![(Key::Bytes(vec![1]), Value::Null)]));
    assert_eq!(serializer.encode(&key), Err(EncodeError::Bytes));
}

proptest::proptest! {
    #[test]
    fn what_random_bytes_decode_to_can_be_encoded_again(body: Vec<u8>) {
        for format in [SerializerFormat::MsgPack, SerializerFormat::Json] {
            let serializer = Serializer::new(format, &[]);
            if let Ok(message) = serializer.decode(&body) {
                let again = serializer.encode(&message).unwrap();
                // Not-a-number differs from itself: the texts are compared.
                let read = serializer.decode(&again).map(|again| format!("{again:?}"));
                proptest::prop_assert_eq!(read, Ok(format!("{message:?}")));
            }
        }
        let sealed = Serializer::new(SerializerFormat::Json, &[Secret::new("k")]);
        proptest::prop_assert!(sealed.decode(&body).is_err());
    }
}
