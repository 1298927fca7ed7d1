//! JSON as Python's `json` module writes and reads it.

use std::borrow::Cow;

use crate::channel_layer::message::{Key, Message, Value, last_wins, push_display, push_float, push_string};
use crate::channel_layer::redis::wire::{DEPTH_MAX, DecodeError, EncodeError};

/// How deep a written message may nest: Python's reader recurses, up to about a thousand frames of the whole
/// program.
const DEPTH_WRITTEN_MAX: usize = 512;

/// Writes a message as a compact object in UTF-8, `type` first. Not-a-number and the infinities are the
/// literals that Python knows.
///
/// # Errors
///
/// It holds bytes, as in Python, or nests too deep.
pub(super) fn encode(message: &Message) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(b"{\"type\":");
    push_string(&mut out, &message.kind);
    for (key, value) in &message.fields {
        out.push(b',');
        push_string(&mut out, key);
        out.push(b':');
        put(&mut out, value, 1)?;
    }
    out.push(b'}');
    Ok(out)
}

/// A written message with one entry more at its end, a list of texts.
pub(super) fn extend(message: &[u8], key: &str, texts: &[&str]) -> Vec<u8> {
    let names = texts.iter().map(|text| text.len() + 3).sum::<usize>();
    let mut out = Vec::with_capacity(message.len() + key.len() + names + 8);
    out.extend_from_slice(message.strip_suffix(b"}").unwrap_or(message));
    out.push(b',');
    push_string(&mut out, key);
    out.extend_from_slice(b":[");
    for (index, text) in texts.iter().enumerate() {
        if index != 0 {
            out.push(b',');
        }
        push_string(&mut out, text);
    }
    out.extend_from_slice(b"]}");
    out
}

/// Reads one value and nothing after it.
///
/// UTF-8 with or without a byte order mark, UTF-16 and UTF-32 in either order are read, `NaN`, `Infinity` and
/// `-Infinity` too. Whole numbers beyond 64 bits become floats. An escape that names half a character is refused.
///
/// # Errors
///
/// What Python's reader refuses, too.
pub(super) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let text = text_of(body)?;
    let mut input = Input { text: &text, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    loop {
        input.skip_space();
        let mut value = match input.item()? {
            Item::Value(value) => value,
            Item::Open(container) => {
                if open.len() == DEPTH_MAX {
                    return Err(DecodeError::TooDeep);
                }
                match container {
                    Open::List(items) => {
                        if !input.skip(b']') {
                            open.push(Open::List(items));
                            continue;
                        }
                        Value::List(items)
                    }
                    Open::Map(entries, _) => {
                        if !input.skip(b'}') {
                            let key = input.key()?;
                            open.push(Open::Map(entries, key));
                            continue;
                        }
                        Value::Map(entries)
                    }
                }
            }
        };
        // What follows a value: a comma and the next, or the end of its container, which is a value itself.
        loop {
            match open.pop() {
                None => {
                    input.skip_space();
                    return if input.text.len() == input.at { Ok(value) } else { Err(DecodeError::Trailing) };
                }
                Some(Open::List(mut items)) => {
                    items.push(value);
                    if input.skip(b',') {
                        open.push(Open::List(items));
                        break;
                    }
                    input.expect(b']')?;
                    value = Value::List(items);
                }
                Some(Open::Map(mut entries, key)) => {
                    entries.push((key, value));
                    if input.skip(b',') {
                        let key = input.key()?;
                        open.push(Open::Map(entries, key));
                        break;
                    }
                    input.expect(b'}')?;
                    value = Value::Map(last_wins(entries));
                }
            }
        }
    }
}

fn put(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), EncodeError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => push_display(out, number),
        Value::UInt(number) => push_display(out, number),
        Value::Float(number) => push_float(out, *number, "NaN", "Infinity", "-Infinity"),
        Value::Text(text) => push_string(out, text),
        Value::Bytes(_) => return Err(EncodeError::Bytes),
        Value::List(_) | Value::Map(_) if depth == DEPTH_WRITTEN_MAX => return Err(EncodeError::TooDeep),
        Value::List(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index != 0 {
                    out.push(b',');
                }
                put(out, item, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Map(entries) => {
            out.push(b'{');
            for (index, (key, value)) in entries.iter().enumerate() {
                if index != 0 {
                    out.push(b',');
                }
                let Key::Text(key) = key else { return Err(EncodeError::Bytes) };
                push_string(out, key);
                out.push(b':');
                put(out, value, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// The text of a body in whichever encoding it is.
///
/// Rule: RFC 4627 section 3, as Python applies it: a byte order mark, else where the zero bytes are among the
/// first four.
fn text_of(body: &[u8]) -> Result<Cow<'_, str>, DecodeError> {
    match *body {
        [0xEF, 0xBB, 0xBF, ref rest @ ..] => utf8(rest),
        [0xFF, 0xFE, 0, 0, ref rest @ ..] => utf32(rest, u32::from_le_bytes),
        [0, 0, 0xFE, 0xFF, ref rest @ ..] => utf32(rest, u32::from_be_bytes),
        [0xFF, 0xFE, ref rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, ref rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0, 0, ..] if 4 <= body.len() => utf32(body, u32::from_be_bytes),
        [0, _, ..] => utf16(body, u16::from_be_bytes),
        [_, 0, 0, 0, ..] => utf32(body, u32::from_le_bytes),
        [_, 0, ..] => utf16(body, u16::from_le_bytes),
        _ => utf8(body),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, DecodeError> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| DecodeError::Utf8)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, DecodeError> {
    let (pairs, []) = bytes.as_chunks() else { return Err(DecodeError::Utf8) };
    let chars = char::decode_utf16(pairs.iter().map(|&pair| unit(pair)));
    chars.collect::<Result<String, _>>().map(Cow::Owned).map_err(|_| DecodeError::Utf8)
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Result<Cow<'_, str>, DecodeError> {
    let (quads, []) = bytes.as_chunks() else { return Err(DecodeError::Utf8) };
    let chars = quads.iter().map(|&quad| char::from_u32(unit(quad)));
    chars.collect::<Option<String>>().map(Cow::Owned).ok_or(DecodeError::Utf8)
}

/// A container whose items are being read.
enum Open {
    List(Vec<Value>),
    /// The entries so far and the key of the next one.
    Map(Vec<(Key, Value)>, Key),
}

enum Item {
    Value(Value),
    Open(Open),
}

struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong<T>(&self) -> Result<T, DecodeError> {
        Err(if self.text.len() <= self.at { DecodeError::Truncated } else { DecodeError::Syntax(self.at) })
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes a punctuation mark that may stand here.
    fn skip(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), DecodeError> {
        if self.skip(byte) { Ok(()) } else { self.wrong() }
    }

    fn key(&mut self) -> Result<Key, DecodeError> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return self.wrong();
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Key::Text(key))
    }

    fn item(&mut self) -> Result<Item, DecodeError> {
        let words = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Float(f64::NAN)),
            ("Infinity", Value::Float(f64::INFINITY)),
            ("-Infinity", Value::Float(f64::NEG_INFINITY)),
        ];
        match self.peek() {
            Some(b'[') => {
                self.at += 1;
                Ok(Item::Open(Open::List(Vec::new())))
            }
            Some(b'{') => {
                self.at += 1;
                Ok(Item::Open(Open::Map(Vec::new(), Key::Text(String::new()))))
            }
            Some(b'"') => self.string().map(|text| Item::Value(Value::Text(text))),
            Some(_) => {
                let rest = self.rest();
                match words.into_iter().find(|(word, _)| rest.starts_with(word)) {
                    Some((word, value)) => {
                        self.at += word.len();
                        Ok(Item::Value(value))
                    }
                    None => self.number().map(Item::Value),
                }
            }
            None => self.wrong(),
        }
    }

    /// A string, the quote being next.
    fn string(&mut self) -> Result<String, DecodeError> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.bytes().enumerate().skip(1).find(|&(_, byte)| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let token = end.and_then(|(end, _)| rest.get(..=end)).ok_or(DecodeError::Truncated)?;
        let text = serde_json::from_str(token).map_err(|_| DecodeError::Syntax(self.at))?;
        self.at += token.len();
        Ok(text)
    }

    /// `-? (0 | [1-9][0-9]*) (.[0-9]+)? ([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<Value, DecodeError> {
        let start = self.at;
        let mut whole = true;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            whole = false;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            whole = false;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let token = self.text.get(start..self.at).unwrap_or_default();
        if whole {
            if let Ok(number) = token.parse() {
                return Ok(Value::Int(number));
            }
            if let Ok(number) = token.parse() {
                return Ok(Value::UInt(number));
            }
        }
        token.parse().map(Value::Float).map_err(|_| DecodeError::Syntax(start))
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.wrong() } else { Ok(()) }
    }
}
