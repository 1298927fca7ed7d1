//! What a message is on Redis.

mod json;
mod msgpack;

use std::fmt;
use std::str::FromStr;

use crate::channel_layer::message::{Key, Message, Value};
use crate::channel_layer::redis::encryption::{Keyring, Secret, sealed_at};

/// How deep containers may nest in what is read, the outermost one included. Rule: msgpack for Python unpacks
/// as many.
const DEPTH_MAX: usize = 1024;

/// Turns messages into payloads and back, as `channels_redis` does.
#[derive(Clone, Debug)]
pub struct Serializer {
    format: SerializerFormat,
    keys: Keyring,
}

impl Serializer {
    /// A serializer for `serializer_format` and `symmetric_encryption_keys`; without keys nothing is
    /// encrypted.
    pub fn new(format: SerializerFormat, keys: &[Secret]) -> Self {
        Self { format, keys: Keyring::new(keys) }
    }

    /// The payload of a message.
    ///
    /// # Errors
    ///
    /// The message holds what the format cannot express. The publisher is at fault.
    pub fn encode(&self, message: &Message) -> Result<Vec<u8>, EncodeError> {
        self.body(message).map(|body| self.seal(body))
    }

    /// What is in the payload of a message, before it is encrypted.
    ///
    /// # Errors
    ///
    /// As for [`Serializer::encode`].
    pub(super) fn body(&self, message: &Message) -> Result<Vec<u8>, EncodeError> {
        if message.fields.iter().any(|(key, _)| key == "type") {
            return Err(EncodeError::SecondType);
        }
        match self.format {
            SerializerFormat::MsgPack => msgpack::encode(message),
            SerializerFormat::Json => json::encode(message),
        }
    }

    /// The body with one entry more, the last: a key that is not in it, and a list of texts.
    ///
    /// # Errors
    ///
    /// A length passes what the format can say.
    pub(super) fn extend(&self, body: &[u8], key: &str, texts: &[&str]) -> Result<Vec<u8>, EncodeError> {
        match self.format {
            SerializerFormat::MsgPack => msgpack::extend(body, key, texts),
            SerializerFormat::Json => Ok(json::extend(body, key, texts)),
        }
    }

    /// The payload with this body.
    pub(super) fn seal(&self, body: Vec<u8>) -> Vec<u8> {
        self.keys.seal(body)
    }

    /// When an encrypted payload was made, in seconds since 1970; nothing when there are no keys, or it is none.
    pub(super) fn sealed_at(&self, payload: &[u8]) -> Option<u64> {
        if self.keys.is_empty() { None } else { sealed_at(payload) }
    }

    /// The message of a payload.
    ///
    /// Entries of the outermost map whose key is not text are left out: no field can be named by them.
    ///
    /// # Errors
    ///
    /// The payload is none that a consumer in Python could handle. Whoever published it is at fault.
    pub fn decode(&self, payload: &[u8]) -> Result<Message, DecodeError> {
        let opened;
        let body = if self.keys.is_empty() {
            payload
        } else {
            opened = self.keys.open(payload).ok_or(DecodeError::Token)?;
            &opened
        };
        let root = match self.format {
            SerializerFormat::MsgPack => msgpack::decode(body),
            SerializerFormat::Json => json::decode(body),
        }?;
        message_of(root)
    }
}

impl Default for Serializer {
    /// msgpack without encryption.
    fn default() -> Self {
        Self::new(SerializerFormat::MsgPack, &[])
    }
}

/// The two formats that `channels_redis` brings along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SerializerFormat {
    /// `msgpack`, the default.
    #[default]
    MsgPack,
    /// `json`. It cannot carry bytes.
    Json,
}

impl SerializerFormat {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MsgPack => "msgpack",
            Self::Json => "json",
        }
    }
}

impl FromStr for SerializerFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "msgpack" => Ok(Self::MsgPack),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

impl fmt::Display for SerializerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no serializer format, use `msgpack` or `json`")]
pub struct UnknownFormat(String);

/// Why a message has no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// JSON has no bytes, and Python refuses them too.
    #[error("bytes cannot be sent over a channel layer with the json serializer")]
    Bytes,
    /// A field is named `type`, and readers would take it for the type of the message.
    #[error("a field of a message cannot be named `type`")]
    SecondType,
    /// A field has the name under which a message says whom it is for.
    #[error("a field of a message cannot be named `__asgi_channel__`")]
    Reserved,
    /// It nests deeper than readers allow.
    #[error("the message nests too deep")]
    TooDeep,
    /// A text, a list or a map is longer than the format can say.
    #[error("the message is too long")]
    TooLong,
}

/// Why a payload is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// None of the keys opens it, or it is not encrypted although keys are set.
    #[error("no key opens it")]
    Token,
    /// It was encrypted too long ago, or by a clock that is too far ahead.
    #[error("it is too old, or from a clock that is ahead")]
    Age,
    /// It ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Something follows the message.
    #[error("something follows the message")]
    Trailing,
    /// It breaks the syntax of the format.
    #[error("it breaks the syntax at byte {0}")]
    Syntax(usize),
    /// A text is not UTF-8, or an escape names half a character.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A key of a map is neither text nor bytes.
    #[error("a key is neither text nor bytes")]
    Key,
    /// It nests deeper than 1,024 containers.
    #[error("it nests too deep")]
    TooDeep,
    /// It is not a map.
    #[error("it is not a map")]
    NotAMap,
    /// `type` is missing or no text.
    #[error("it has no `type` that is a text")]
    NoType,
}

pub(super) fn message_of(root: Value) -> Result<Message, DecodeError> {
    let Value::Map(entries) = root else { return Err(DecodeError::NotAMap) };
    let mut kind = None;
    let mut fields = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match (key, value) {
            (Key::Text(key), Value::Text(text)) if key == "type" => kind = Some(text),
            (Key::Text(key), _) if key == "type" => return Err(DecodeError::NoType),
            (Key::Text(key), value) => fields.push((key, value)),
            (Key::Bytes(_), _) => {}
        }
    }
    Ok(Message { kind: kind.ok_or(DecodeError::NoType)?, fields })
}

#[cfg(test)]
mod tests;
