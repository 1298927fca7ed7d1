//! Messages as Django Channels knows them.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One message of the channel layer: a `type` and named values, in the order in which they were written.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The value of `type`.
    pub kind: String,
    /// Everything else. No key stands twice, and none is `type`: a layer on Redis refuses to send that.
    pub fields: Vec<(String, Value)>,
}

impl Message {
    /// A message with a type and nothing else.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), fields: Vec::new() }
    }

    /// The message with a value more. The last value for a key wins; the key keeps its place.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        let (key, value) = (key.into(), value.into());
        match self.fields.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.fields.push((key, value)),
        }
        self
    }

    /// About how many bytes the message takes in memory, for the bounds of queues.
    pub fn weight(&self) -> usize {
        let fields = self.fields.iter().map(|(key, value)| key.len() + value.weight());
        size_of::<Self>() + self.kind.len() + fields.sum::<usize>()
    }

    /// The value under a key other than `type`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Appends the values under these keys as an object, in their order and as [`Value::write_json`] has them.
    /// Appends nothing, and says so, when there are none.
    pub fn write_json(&self, keys: &[String], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        for key in keys {
            if let Some(value) = self.get(key) {
                out.push(if out.len() == start { b'{' } else { b',' });
                push_string(out, key);
                out.push(b':');
                value.write_json(out);
            }
        }
        let any = out.len() != start;
        if any {
            out.push(b'}');
        }
        any
    }
}

/// What a message can hold: the values that Python's serialisers keep apart.
///
/// Values nest at most 1,024 deep when they come from a decoder; functions over them recurse.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    Null,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number that fits.
    Int(i64),
    /// A whole number above `i64::MAX`.
    UInt(u64),
    /// A number with a fraction, also not-a-number and the infinities.
    Float(f64),
    /// `str`.
    Text(String),
    /// `bytes`.
    Bytes(Vec<u8>),
    /// `list` or `tuple`.
    List(Vec<Self>),
    /// `dict`, in order. No key stands twice.
    Map(Vec<(Key, Self)>),
}

impl Value {
    fn weight(&self) -> usize {
        let content = match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::UInt(_) | Self::Float(_) => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.iter().map(Self::weight).sum(),
            Self::Map(members) => members.iter().map(|(key, value)| key.len() + value.weight()).sum(),
        };
        size_of::<Self>() + content
    }

    /// Appends the value as compact JSON in UTF-8.
    ///
    /// JSON has no word for everything: not-a-number and the infinities become `null`, bytes become a base64
    /// string (RFC 4648, with padding), and a key of bytes becomes its base64.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Int(number) => push_display(out, number),
            Self::UInt(number) => push_display(out, number),
            Self::Float(number) => push_float(out, *number, "null", "null", "null"),
            Self::Text(text) => push_string(out, text),
            Self::Bytes(bytes) => push_string(out, &STANDARD.encode(bytes)),
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index != 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Self::Map(entries) => {
                out.push(b'{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index != 0 {
                        out.push(b',');
                    }
                    match key {
                        Key::Text(text) => push_string(out, text),
                        Key::Bytes(bytes) => push_string(out, &STANDARD.encode(bytes)),
                    }
                    out.push(b':');
                    value.write_json(out);
                }
                out.push(b'}');
            }
        }
    }
}

impl From<serde_json::Value> for Value {
    /// Whole numbers beyond 64 bits become floats.
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Self::Int(number),
                (None, Some(number)) => Self::UInt(number),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Self::Text(text),
            serde_json::Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(entries) => {
                Self::Map(entries.into_iter().map(|(key, value)| (Key::Text(key), value.into())).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// A key of a map. Python keeps `"a"` and `b"a"` apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `str`.
    Text(String),
    /// `bytes`.
    Bytes(Vec<u8>),
}

impl Key {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Keeps the last value of each key, in the place of the first, as a Python `dict` does.
pub(super) fn last_wins(entries: Vec<(Key, Value)>) -> Vec<(Key, Value)> {
    let mut keys = HashSet::with_capacity(entries.len());
    if entries.iter().all(|(key, _)| keys.insert(key)) {
        return entries;
    }
    let mut places = HashMap::new();
    let mut kept: Vec<(Key, Value)> = Vec::new();
    for (key, value) in entries {
        let place = *places.entry(key.clone()).or_insert(kept.len());
        match kept.get_mut(place) {
            Some((_, old)) => *old = value,
            None => kept.push((key, value)),
        }
    }
    kept
}

/// Appends a JSON string: quoted, escaped where JSON must, UTF-8 otherwise.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        plain = at + 1;
        if escape.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(escape);
        }
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

/// Appends a whole number.
pub(super) fn push_display(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// Appends the shortest text that reads back as the same number, or the word for what is none.
pub(super) fn push_float(out: &mut Vec<u8>, number: f64, nan: &str, infinity: &str, minus_infinity: &str) {
    if number.is_nan() {
        out.extend_from_slice(nan.as_bytes());
    } else if number == f64::INFINITY {
        out.extend_from_slice(infinity.as_bytes());
    } else if number == f64::NEG_INFINITY {
        out.extend_from_slice(minus_infinity.as_bytes());
    } else {
        // Debug keeps `.0` and turns to exponents where plain digits would be long.
        out.extend_from_slice(format!("{number:?}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &Value) -> String {
        let mut out = Vec::new();
        value.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_as_compact_json() {
        let cases = [
            (Value::Null, "null"),
            (Value::Bool(true), "true"),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::UInt(u64::MAX), "18446744073709551615"),
            (Value::Float(1.0), "1.0"),
            (Value::Float(1e300), "1e300"),
            (Value::Float(f64::NAN), "null"),
            (Value::Float(f64::NEG_INFINITY), "null"),
            (
                Value::from("h\u{e9}\u{2603}\"\\\n\t\r\u{1}\u{7f}"),
                "\"h\u{e9}\u{2603}\\\"\\\\\\n\\t\\r\\u0001\u{7f}\"",
            ),
            (Value::from(vec![0, 255, 16]), "\"AP8Q\""),
            (Value::List(vec![]), "[]"),
            (
                Value::Map(vec![
                    (Key::Text("b".into()), Value::List(vec![Value::Int(1), Value::Int(2)])),
                    (Key::Bytes(b"a".to_vec()), Value::Null),
                ]),
                r#"{"b":[1,2],"YQ==":null}"#,
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(json(&value), expected, "{value:?}");
            assert!(serde_json::from_str::<serde_json::Value>(expected).is_ok(), "{expected}");
        }
    }

    #[test]
    fn a_message_is_written_as_the_values_that_are_picked() {
        let message = Message::new("x").with("a", 1).with("\"\n", "é").with("c", Value::Null);
        let cases = [
            (&["c", "\"\n", "none"][..], true, "-{\"c\":null,\"\\\"\\n\":\"é\"}"),
            (&["none", "type"], false, "-"),
            (&[], false, "-"),
        ];
        for (keys, any, written) in cases {
            let keys: Vec<_> = keys.iter().map(|&key| key.to_owned()).collect();
            let mut out = b"-".to_vec();
            assert_eq!(message.write_json(&keys, &mut out), any, "{keys:?}");
            assert_eq!(str::from_utf8(&out), Ok(written));
        }
    }

    #[test]
    fn json_becomes_values_and_back() {
        let text = r#"{"z":[null,true,-1,18446744073709551615,1.5],"a":{"b":"c"}}"#;
        let value = Value::from(serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(json(&value), text);
        let big = serde_json::from_str::<serde_json::Value>("123456789012345678901234567890").unwrap();
        assert_eq!(Value::from(big), Value::Float(123_456_789_012_345_680_000_000_000_000.0));
    }

    #[test]
    fn a_number_of_json_stays_the_same_number() {
        let cases = [
            // as it is read, as it is written
            ("0.36995516654807925", "0.36995516654807925"),
            ("5.6e-309", "5.6e-309"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            // The same number as Python's 0, with a sign that only a number with a fraction has.
            ("-0", "-0.0"),
        ];
        for (read, written) in cases {
            let value = Value::from(serde_json::from_str::<serde_json::Value>(read).unwrap());
            assert_eq!(json(&value), written, "{read}");
        }
        // Python reads the infinity, and has no way to say it in JSON again.
        serde_json::from_str::<serde_json::Value>("1e400").unwrap_err();
    }

    #[test]
    fn the_last_value_of_a_key_wins_in_the_place_of_the_first() {
        let message = Message::new("x").with("a", 1).with("b", 2).with("a", 3);
        assert_eq!(message.fields, [("a".to_owned(), Value::Int(3)), ("b".to_owned(), Value::Int(2))]);
        assert_eq!(message.get("b"), Some(&Value::Int(2)));
        assert_eq!(message.get("c"), None);
        let key = |text: &str| Key::Text(text.to_owned());
        let twice = vec![
            (key("a"), Value::Int(1)),
            (Key::Bytes(b"a".to_vec()), Value::Int(2)),
            (key("a"), Value::Int(3)),
        ];
        assert_eq!(last_wins(twice), [(key("a"), Value::Int(3)), (Key::Bytes(b"a".to_vec()), Value::Int(2))]);
    }
}
