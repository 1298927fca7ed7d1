//! What a message is in an inbox.

use crate::channel_layer::message::{Message, Value};
use crate::channel_layer::name::ChannelName;
use crate::channel_layer::redis::wire::{DecodeError, EncodeError, Serializer};

/// The key under which a message says whom it is for.
const ADDRESS: &str = "__asgi_channel__";
/// How long a message may be under way beyond `expiry`.
const AGE_SPARE: u64 = 10;
/// How far ahead the clock of a sender may be, in seconds.
const AHEAD_MAX: u64 = 60;

/// Some random bytes, which keep two equal messages apart, then the message with the channels that it is for.
///
/// Rule: `channels_redis`, which puts the channels behind everything else and encrypts all but the random bytes.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) serializer: Serializer,
    /// How many random bytes there are.
    pub(super) prefix_len: usize,
    /// `expiry` in seconds. What is not encrypted has no age.
    pub(super) expiry: u64,
}

impl Envelope {
    /// A message on its way into envelopes: whom it is for is not known yet.
    ///
    /// # Errors
    ///
    /// It cannot be written. The publisher is at fault.
    pub(super) fn body(&self, message: &Message) -> Result<Vec<u8>, EncodeError> {
        if message.get(ADDRESS).is_some() {
            return Err(EncodeError::Reserved);
        }
        self.serializer.body(message)
    }

    /// A message for one channel, with its name. A general channel is not named: it has an inbox of its own.
    ///
    /// # Errors
    ///
    /// It cannot be written. The publisher is at fault.
    pub(super) fn body_for(&self, message: &Message, channel: &ChannelName) -> Result<Vec<u8>, EncodeError> {
        if message.get(ADDRESS).is_some() {
            return Err(EncodeError::Reserved);
        }
        if !channel.as_str().contains('!') {
            return self.serializer.body(message);
        }
        self.serializer.body(&message.clone().with(ADDRESS, channel.as_str()))
    }

    /// The envelope of a body for some channels of one inbox. `random` gives as many bytes as it is asked for.
    ///
    /// # Errors
    ///
    /// It would be longer than the format can say.
    pub(super) fn seal(
        &self,
        body: &[u8],
        channels: &[&str],
        random: impl FnOnce(&mut [u8]),
    ) -> Result<Vec<u8>, EncodeError> {
        Ok(self.wrap(self.serializer.extend(body, ADDRESS, channels)?, random))
    }

    /// The envelope of a body that needs no names of channels any more.
    pub(super) fn wrap(&self, body: Vec<u8>, random: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let sealed = self.serializer.seal(body);
        let mut member = vec![0; self.prefix_len];
        random(&mut member);
        member.extend_from_slice(&sealed);
        member
    }

    /// The message in an envelope and the channels that it is for. `now` is in seconds since 1970.
    ///
    /// One that names no channel is for none.
    ///
    /// # Errors
    ///
    /// It is none that a consumer in Python could handle, or too old for one.
    pub(super) fn open(&self, member: &[u8], now: u64) -> Result<(Message, Vec<String>), DecodeError> {
        let payload = member.get(self.prefix_len..).ok_or(DecodeError::Truncated)?;
        let mut message = self.serializer.decode(payload)?;
        if let Some(time) = self.serializer.sealed_at(payload) {
            let late = time.saturating_add(self.expiry).saturating_add(AGE_SPARE) < now;
            if late || now.saturating_add(AHEAD_MAX) < time {
                return Err(DecodeError::Age);
            }
        }
        let address = message.fields.iter().position(|(key, _)| key == ADDRESS);
        let address = address.map(|index| message.fields.remove(index).1);
        let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
        let channels = match address {
            Some(Value::List(items)) => items.into_iter().filter_map(text).collect(),
            other => other.and_then(text).into_iter().collect(),
        };
        Ok((message, channels))
    }
}
