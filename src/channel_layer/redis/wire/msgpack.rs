//! msgpack as Python packs and unpacks it.

use rmp::{Marker, encode};

use crate::channel_layer::message::{Key, Message, Value, last_wins};
use crate::channel_layer::redis::wire::{DEPTH_MAX, DecodeError, EncodeError};

/// Packs a message as a map, `type` first. Numbers and lengths take their shortest form, floats 8 bytes.
///
/// # Errors
///
/// It nests too deep or a length passes 32 bits.
pub(super) fn encode(message: &Message) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(64);
    write(encode::write_map_len(&mut out, length(message.fields.len() + 1)?))?;
    put_text(&mut out, "type")?;
    put_text(&mut out, &message.kind)?;
    for (key, value) in &message.fields {
        put_text(&mut out, key)?;
        put(&mut out, value, 1)?;
    }
    Ok(out)
}

/// A packed message with one entry more at its end, a list of texts.
///
/// # Errors
///
/// A length passes 32 bits, or the message is none that was packed here.
pub(super) fn extend(message: &[u8], key: &str, texts: &[&str]) -> Result<Vec<u8>, EncodeError> {
    let (len, entries) = match *message {
        [head @ 0x80..=0x8F, ref entries @ ..] => (u32::from(head & 0x0F), entries),
        [0xDE, a, b, ref entries @ ..] => (u32::from_be_bytes([0, 0, a, b]), entries),
        [0xDF, a, b, c, d, ref entries @ ..] => (u32::from_be_bytes([a, b, c, d]), entries),
        _ => return Err(EncodeError::TooLong),
    };
    let names = texts.iter().map(|text| text.len() + 5).sum::<usize>();
    let mut out = Vec::with_capacity(message.len() + key.len() + names + 16);
    write(encode::write_map_len(&mut out, len.checked_add(1).ok_or(EncodeError::TooLong)?))?;
    out.extend_from_slice(entries);
    put_text(&mut out, key)?;
    write(encode::write_array_len(&mut out, length(texts.len())?))?;
    texts.iter().try_for_each(|text| put_text(&mut out, text))?;
    Ok(out)
}

/// Unpacks one value and nothing after it.
///
/// Nothing is reserved for an announced length: it must fit into what is there. An extension becomes a list
/// of its code and its bytes, the shape that Python's reader gives it; so does a timestamp (code -1), of which Python
/// makes an object.
///
/// # Errors
///
/// What Python's reader refuses, too.
pub(super) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let mut input = Input { body, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    loop {
        let mut value = match input.item()? {
            Item::Value(value) => value,
            Item::Open(container) => {
                if open.len() == DEPTH_MAX {
                    return Err(DecodeError::TooDeep);
                }
                open.push(container);
                match close_when_full(&mut open) {
                    Some(value) => value,
                    None => continue,
                }
            }
        };
        // A value may be the last one of its container, and that one the last of its own, and so on.
        loop {
            let Some(container) = open.last_mut() else {
                return if input.left() == 0 { Ok(value) } else { Err(DecodeError::Trailing) };
            };
            container.take(value)?;
            match close_when_full(&mut open) {
                Some(full) => value = full,
                None => break,
            }
        }
    }
}

fn put(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), EncodeError> {
    match value {
        Value::Null => write(encode::write_nil(out)),
        Value::Bool(value) => write(encode::write_bool(out, *value)),
        Value::Int(number) => write(encode::write_sint(out, *number)),
        Value::UInt(number) => write(encode::write_uint(out, *number)),
        Value::Float(number) => write(encode::write_f64(out, *number)),
        Value::Text(text) => put_text(out, text),
        Value::Bytes(bytes) => put_bytes(out, bytes),
        Value::List(_) | Value::Map(_) if depth == DEPTH_MAX => Err(EncodeError::TooDeep),
        Value::List(items) => {
            write(encode::write_array_len(out, length(items.len())?))?;
            items.iter().try_for_each(|item| put(out, item, depth + 1))
        }
        Value::Map(entries) => {
            write(encode::write_map_len(out, length(entries.len())?))?;
            entries.iter().try_for_each(|(key, value)| {
                match key {
                    Key::Text(text) => put_text(out, text)?,
                    Key::Bytes(bytes) => put_bytes(out, bytes)?,
                }
                put(out, value, depth + 1)
            })
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    write(encode::write_str_len(out, length(text.len())?))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    write(encode::write_bin_len(out, length(bytes.len())?))?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn length(len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len).map_err(|_| EncodeError::TooLong)
}

/// Writing into memory fails only when there is none; the length is then to blame.
fn write<T, E>(result: Result<T, E>) -> Result<(), EncodeError> {
    result.map(|_| ()).map_err(|_| EncodeError::TooLong)
}

/// A container whose items are being read.
enum Open {
    List { items: Vec<Value>, left: usize },
    Map { entries: Vec<(Key, Value)>, left: usize, key: Option<Key> },
}

impl Open {
    fn take(&mut self, value: Value) -> Result<(), DecodeError> {
        match self {
            Self::List { items, left } => {
                items.push(value);
                *left -= 1;
            }
            Self::Map { entries, left, key } => match key.take() {
                Some(key) => {
                    entries.push((key, value));
                    *left -= 1;
                }
                None => {
                    *key = Some(match value {
                        Value::Text(text) => Key::Text(text),
                        Value::Bytes(bytes) => Key::Bytes(bytes),
                        _ => return Err(DecodeError::Key),
                    });
                }
            },
        }
        Ok(())
    }
}

/// Takes the innermost container away when nothing is missing in it.
fn close_when_full(open: &mut Vec<Open>) -> Option<Value> {
    match open.pop()? {
        Open::List { items, left: 0 } => Some(Value::List(items)),
        Open::Map { entries, left: 0, .. } => Some(Value::Map(last_wins(entries))),
        unfinished => {
            open.push(unfinished);
            None
        }
    }
}

/// The code of a timestamp among the extensions.
const TIMESTAMP: i8 = -1;

/// Seconds in 4 bytes; 30 bits of nanoseconds and 34 of seconds in 8; 4 bytes of nanoseconds and 8 of seconds.
///
/// Rule: the timestamp extension type of msgpack. Python refuses a whole second of nanoseconds, too.
fn is_timestamp(bytes: &[u8]) -> bool {
    let nanoseconds = match *bytes {
        [_, _, _, _] => 0,
        [a, b, c, d, _, _, _, _] => u32::from_be_bytes([a, b, c, d]) >> 2,
        [a, b, c, d, _, _, _, _, _, _, _, _] => u32::from_be_bytes([a, b, c, d]),
        _ => return false,
    };
    nanoseconds < 1_000_000_000
}

enum Item {
    Value(Value),
    Open(Open),
}

struct Input<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn left(&self) -> usize {
        self.body.len().saturating_sub(self.at)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).ok_or(DecodeError::Truncated)?;
        let bytes = self.body.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.bytes(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    fn len_8(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u8::from_be_bytes(self.array()?)))
    }

    fn len_16(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn len_32(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| DecodeError::Truncated)
    }

    fn text(&mut self, len: usize) -> Result<Item, DecodeError> {
        let text = std::str::from_utf8(self.bytes(len)?).map_err(|_| DecodeError::Utf8)?;
        Ok(Item::Value(Value::Text(text.to_owned())))
    }

    fn blob(&mut self, len: usize) -> Result<Item, DecodeError> {
        Ok(Item::Value(Value::Bytes(self.bytes(len)?.to_vec())))
    }

    fn extension(&mut self, len: usize) -> Result<Item, DecodeError> {
        let at = self.at;
        let code = i8::from_be_bytes(self.array()?);
        let bytes = self.bytes(len)?;
        // msgpack keeps the codes below zero to itself, and has given no other a meaning.
        let known = if code == TIMESTAMP { is_timestamp(bytes) } else { 0 <= code };
        if !known {
            return Err(DecodeError::Syntax(at));
        }
        Ok(Item::Value(Value::List(vec![Value::Int(code.into()), Value::Bytes(bytes.to_vec())])))
    }

    fn list(&self, left: usize) -> Result<Item, DecodeError> {
        // Each item takes a byte at least.
        if self.left() < left {
            return Err(DecodeError::Truncated);
        }
        Ok(Item::Open(Open::List { items: Vec::new(), left }))
    }

    fn map(&self, left: usize) -> Result<Item, DecodeError> {
        if self.left() / 2 < left {
            return Err(DecodeError::Truncated);
        }
        Ok(Item::Open(Open::Map { entries: Vec::new(), left, key: None }))
    }

    fn item(&mut self) -> Result<Item, DecodeError> {
        let at = self.at;
        let [code] = self.array()?;
        let value = match Marker::from_u8(code) {
            Marker::Null => Value::Null,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(number) => Value::Int(number.into()),
            Marker::FixNeg(number) => Value::Int(number.into()),
            Marker::U8 => Value::Int(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Value::Int(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Value::Int(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => {
                let number = u64::from_be_bytes(self.array()?);
                i64::try_from(number).map_or(Value::UInt(number), Value::Int)
            }
            Marker::I8 => Value::Int(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Value::Int(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Value::Int(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Value::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Value::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(len) => return self.text(len.into()),
            Marker::Str8 => return self.len_8().and_then(|len| self.text(len)),
            Marker::Str16 => return self.len_16().and_then(|len| self.text(len)),
            Marker::Str32 => return self.len_32().and_then(|len| self.text(len)),
            Marker::Bin8 => return self.len_8().and_then(|len| self.blob(len)),
            Marker::Bin16 => return self.len_16().and_then(|len| self.blob(len)),
            Marker::Bin32 => return self.len_32().and_then(|len| self.blob(len)),
            Marker::FixExt1 => return self.extension(1),
            Marker::FixExt2 => return self.extension(2),
            Marker::FixExt4 => return self.extension(4),
            Marker::FixExt8 => return self.extension(8),
            Marker::FixExt16 => return self.extension(16),
            Marker::Ext8 => return self.len_8().and_then(|len| self.extension(len)),
            Marker::Ext16 => return self.len_16().and_then(|len| self.extension(len)),
            Marker::Ext32 => return self.len_32().and_then(|len| self.extension(len)),
            Marker::FixArray(len) => return self.list(len.into()),
            Marker::Array16 => return self.len_16().and_then(|len| self.list(len)),
            Marker::Array32 => return self.len_32().and_then(|len| self.list(len)),
            Marker::FixMap(len) => return self.map(len.into()),
            Marker::Map16 => return self.len_16().and_then(|len| self.map(len)),
            Marker::Map32 => return self.len_32().and_then(|len| self.map(len)),
            Marker::Reserved => return Err(DecodeError::Syntax(at)),
        };
        Ok(Item::Value(value))
    }
}
