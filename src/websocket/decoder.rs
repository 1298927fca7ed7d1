//! The strict decoder: slices from the socket in, whole messages and control frames out.

use std::mem;
use std::ops::Range;
use std::str;

use fastwebsockets::{OpCode, unmask};

use super::close::{CloseCode, CloseReason};
use super::frame::Frame;
use super::message::Message;
use super::stash::Stash;

/// Decodes what a client sends. Pure: it is handed slices and keeps only what a slice broke off in.
///
/// Rule: RFC 6455, sections 5 to 8, as a server must read them. No extension is known, so the reserved bits
/// are an error.
///
/// Between messages it owns no memory. A message that lies whole and unfragmented in one slice is unmasked
/// there and borrowed. Else its pieces are gathered as they come: an announced length reserves nothing, and
/// what is kept is at most twice what has come and never above the limit.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// What of `partial` the last event borrowed.
    lent: Lent,
    closed: bool,
}

impl Decoder {
    /// A decoder for a connection whose handshake has just ended.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the next event from `input[*at..]`, unmasking in place, and moves `*at` behind it.
    ///
    /// `Ok(None)` means that all of `input` is consumed. Call it until then: only the next call gives back
    /// the memory of an event. A message of exactly `message_bytes_max` bytes, over all its fragments, is
    /// still taken; a new value holds from the next frame on. Control frames do not count.
    ///
    /// After [`Event::Close`] and after an error, whatever else comes is skipped and gives `Ok(None)`.
    ///
    /// # Errors
    ///
    /// The client's fault, found at the first byte that is wrong. The connection is to be closed
    /// with [`ProtocolError::close_code`].
    pub fn next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        at: &mut usize,
        message_bytes_max: usize,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.release();
        if self.closed {
            *at = input.len();
            return Ok(None);
        }
        match self.find(input, at, message_bytes_max) {
            Ok(None) => Ok(None),
            Ok(Some(found)) => self.event(found, input),
            Err(error) => {
                self.closed = true;
                self.partial = None;
                Err(error)
            }
        }
    }

    /// Gives back what the last event borrowed.
    fn release(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        match mem::take(&mut self.lent) {
            Lent::Nothing => (),
            Lent::Message => partial.message = None,
            Lent::Stash => partial.stash.clear(),
        }
        if self.closed || partial.is_empty() {
            self.partial = None;
        }
    }

    /// Finds where the next event lies, unmasking and gathering on the way. [`event`](Self::event) then
    /// borrows it.
    fn find(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        message_bytes_max: usize,
    ) -> Result<Option<Found>, ProtocolError> {
        loop {
            let begun = self.partial.as_mut().and_then(|partial| partial.frame.take());
            let is_new = begun.is_none();
            let mut frame = match begun {
                Some(frame) => frame,
                None => match self.read_head(input, at, message_bytes_max)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };

            let rest = input.get_mut(*at..).unwrap_or_default();
            let len = frame.remaining.min(rest.len());
            let piece = rest.get_mut(..len).unwrap_or_default();
            unmask(piece, frame.mask);
            let payload = *at..*at + len;
            *at = payload.end;

            if is_new && len == frame.remaining && frame.stands_alone() {
                return Ok(Some(Found::InPlace(frame.opcode, payload)));
            }
            let partial = self.partial.get_or_insert_default();
            partial.gather(&frame, piece)?;
            frame.advance(len);
            if frame.remaining != 0 {
                partial.frame = Some(frame);
                return Ok(None);
            }
            if frame.is_control() {
                self.lent = Lent::Stash;
                return Ok(Some(Found::Stash(frame.opcode)));
            }
            if frame.fin {
                self.lent = Lent::Message;
                return Ok(Some(Found::Message));
            }
        }
    }

    /// Reads the head of the next frame, over the end of the last slice if it lay there; `None` when it
    /// goes on.
    fn read_head(
        &mut self,
        input: &[u8],
        at: &mut usize,
        message_bytes_max: usize,
    ) -> Result<Option<Frame>, ProtocolError> {
        let message_len =
            self.partial.as_ref().and_then(|partial| partial.message.as_ref()).map(Message::len);
        if let Some(partial) = self.partial.as_mut().filter(|partial| !partial.stash.is_empty()) {
            while let Some(&byte) = input.get(*at) {
                *at += 1;
                partial.stash.extend(&[byte]);
                let parsed = Frame::parse(partial.stash.as_slice(), message_len, message_bytes_max)?;
                if let Some((frame, _)) = parsed {
                    partial.stash.clear();
                    return Ok(Some(frame));
                }
            }
            return Ok(None);
        }
        let rest = input.get(*at..).unwrap_or_default();
        if let Some((frame, len)) = Frame::parse(rest, message_len, message_bytes_max)? {
            *at += len;
            return Ok(Some(frame));
        }
        if !rest.is_empty() {
            self.partial.get_or_insert_default().stash.extend(rest);
            *at = input.len();
        }
        Ok(None)
    }

    fn event<'a>(&'a mut self, found: Found, input: &'a [u8]) -> Result<Option<Event<'a>>, ProtocolError> {
        let partial = self.partial.as_deref();
        let (opcode, payload) = match found {
            Found::Message => {
                return Ok(partial.and_then(|partial| partial.message.as_ref()).map(Message::event));
            }
            Found::Stash(opcode) => {
                (opcode, partial.map(|partial| partial.stash.as_slice()).unwrap_or_default())
            }
            Found::InPlace(opcode, payload) => (opcode, input.get(payload).unwrap_or_default()),
        };
        let event = match opcode {
            OpCode::Text => str::from_utf8(payload).map(Event::Text).map_err(|_| ProtocolError::TextUtf8),
            OpCode::Binary | OpCode::Continuation => Ok(Event::Binary(payload)),
            OpCode::Ping => Ok(Event::Ping(payload)),
            OpCode::Pong => Ok(Event::Pong(payload)),
            OpCode::Close => {
                self.closed = true;
                CloseReason::parse(payload).map(Event::Close)
            }
        };
        self.closed |= event.is_err();
        event.map(Some)
    }
}

/// What a client sent. It borrows from the slice that was decoded, or from the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// The answer to a ping, or unasked for.
    Pong(&'a [u8]),
    /// The client closes, and says why or does not. Nothing is decoded after it.
    Close(Option<CloseReason<'a>>),
}

/// How a client broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// RFC 6455, 5.1.
    #[error("a frame that is not masked")]
    Unmasked,
    /// RFC 6455, 5.2: no extension was negotiated that gives them a meaning.
    #[error("a frame with a reserved bit set")]
    ReservedBits,
    /// RFC 6455, 5.2: 3 to 7 and 11 to 15.
    #[error("a frame with the unknown opcode {0}")]
    UnknownOpcode(u8),
    /// RFC 6455, 5.2.
    #[error("a length that is not written in the fewest bytes")]
    LengthNotMinimal,
    /// RFC 6455, 5.2.
    #[error("a 64-bit length with its top bit set")]
    LengthTopBit,
    /// RFC 6455, 5.5.
    #[error("a control frame in fragments")]
    FragmentedControl,
    /// RFC 6455, 5.5.
    #[error("a control frame of more than 125 bytes")]
    ControlTooLong,
    /// RFC 6455, 5.4.
    #[error("a continuation of no message")]
    ContinuationWithoutStart,
    /// RFC 6455, 5.4.
    #[error("a new message inside of a fragmented one")]
    MessageInterrupted,
    /// RFC 6455, 5.5.1.
    #[error("a close frame with one byte of payload")]
    ClosePayload,
    /// RFC 6455, 7.4.
    #[error("the close code {0}, which must not be sent")]
    CloseCode(u16),
    /// RFC 6455, 5.5.1.
    #[error("a close reason that is not UTF-8")]
    CloseReasonUtf8,
    /// RFC 6455, 8.1.
    #[error("a text message that is not UTF-8")]
    TextUtf8,
    /// The limit of the server.
    #[error("a message of more than {len_max} bytes")]
    MessageTooBig {
        /// The limit in bytes, over all fragments.
        len_max: usize,
    },
}

impl ProtocolError {
    /// The code to close the connection with: 1002, 1007 or 1009.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::CloseReasonUtf8 | Self::TextUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::Unmasked
            | Self::ReservedBits
            | Self::UnknownOpcode(_)
            | Self::LengthNotMinimal
            | Self::LengthTopBit
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::ContinuationWithoutStart
            | Self::MessageInterrupted
            | Self::ClosePayload
            | Self::CloseCode(_) => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// A fixed word for the fault, as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unmasked => "unmasked",
            Self::ReservedBits => "reserved_bits",
            Self::UnknownOpcode(_) => "opcode",
            Self::LengthNotMinimal | Self::LengthTopBit => "length",
            Self::FragmentedControl | Self::ControlTooLong => "control_frame",
            Self::ContinuationWithoutStart | Self::MessageInterrupted => "fragments",
            Self::ClosePayload | Self::CloseCode(_) => "close_frame",
            Self::CloseReasonUtf8 | Self::TextUtf8 => "utf8",
            Self::MessageTooBig { .. } => "too_big",
        }
    }
}

/// Where an event lies.
enum Found {
    /// Whole in the slice.
    InPlace(OpCode, Range<usize>),
    /// A control frame in [`Partial::stash`].
    Stash(OpCode),
    /// [`Partial::message`].
    Message,
}

/// What the last event borrowed from [`Partial`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lent {
    #[default]
    Nothing,
    Stash,
    Message,
}

/// What is kept while a message or a frame is not whole.
#[derive(Debug, Default)]
struct Partial {
    /// The message that has begun, in its fragments or in the pieces of its only frame.
    message: Option<Message>,
    /// The frame that has begun, once its head is known.
    frame: Option<Frame>,
    /// A head that is not whole; with a control frame in `frame`, its payload.
    stash: Stash<125>,
}

impl Partial {
    /// Takes the next unmasked piece of the payload of `frame`.
    fn gather(&mut self, frame: &Frame, piece: &[u8]) -> Result<(), ProtocolError> {
        if frame.is_control() {
            self.stash.extend(piece);
            return Ok(());
        }
        let message = self.message.get_or_insert_with(|| match frame.opcode {
            OpCode::Text => Message::text(),
            _ => Message::binary(),
        });
        message.append(piece, message.len().saturating_add(frame.remaining))?;
        if frame.fin && frame.remaining == piece.len() { message.finish() } else { Ok(()) }
    }

    fn is_empty(&self) -> bool {
        self.message.is_none() && self.frame.is_none() && self.stash.is_empty()
    }
}

#[cfg(test)]
mod tests;
