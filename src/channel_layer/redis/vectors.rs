//! The rows of the vectors that were made by running `channels_redis`, for the tests of both layers.

use std::fmt::Write as _;

use serde_json::Value as Json;

use crate::channel_layer::message::{Key, Message, Value};
use crate::channel_layer::redis::encryption::Secret;
use crate::channel_layer::redis::wire::{Serializer, message_of};

const VECTORS: &str = include_str!("../../../tests/fixtures/channels_redis_vectors.jsonl");

pub(in crate::channel_layer::redis) fn rows(layer: &str, kind: &str) -> impl Iterator<Item = (String, Json)> {
    VECTORS
        .lines()
        // One row holds half a character, which no JSON reader here takes.
        .map(|line| serde_json::from_str::<Json>(&line.replace("\\ud800", "\\u003f")).unwrap())
        .filter(move |row| row["layer"] == layer && row["kind"] == kind)
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row))
}

pub(in crate::channel_layer::redis) fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

pub(in crate::channel_layer::redis) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn value(json: &Json) -> Value {
    match json {
        Json::Array(items) => Value::List(items.iter().map(value).collect()),
        Json::Object(entries) if entries.len() == 1 => match entries.iter().next().unwrap() {
            (key, Json::String(text)) if key == "$bytes" => Value::Bytes(unhex(text)),
            (key, Json::String(text)) if key == "$float" => Value::Float(text.parse().unwrap()),
            (key, json @ Json::Array(_)) if key == "$tuple" => value(json),
            (key, Json::Array(pair)) if key == "$repeat" => {
                let times = usize::try_from(pair[1].as_u64().unwrap()).unwrap();
                Value::Text(pair[0].as_str().unwrap().repeat(times))
            }
            (key, Json::Array(pair)) if key == "$nested" => {
                let times = pair[0].as_u64().unwrap();
                (0..times).fold(value(&pair[1]), |inner, _| Value::List(vec![inner]))
            }
            (key, json) => Value::Map(vec![(Key::Text(key.clone()), value(json))]),
        },
        Json::Object(entries) => {
            Value::Map(entries.iter().map(|(key, json)| (Key::Text(key.clone()), value(json))).collect())
        }
        other => Value::from(other.clone()),
    }
}

pub(in crate::channel_layer::redis) fn message(json: &Json) -> Message {
    message_of(value(json)).unwrap()
}

pub(in crate::channel_layer::redis) fn serializer(config: &Json) -> Serializer {
    let format = config["serializer_format"].as_str().unwrap_or("msgpack").parse().unwrap();
    let secret = |key: &Json| Secret::new(key.as_str().unwrap());
    let keys: Vec<_> =
        config["symmetric_encryption_keys"].as_array().into_iter().flatten().map(secret).collect();
    Serializer::new(format, &keys)
}
