//! A message put together from its pieces (RFC 6455, 5.4), text checked as it comes (8.1).

use std::str;

use super::decoder::{Event, ProtocolError};
use super::stash::Stash;

/// What has come of a message so far.
#[derive(Debug)]
pub(super) enum Message {
    /// Whole characters, and up to three bytes of the one that a piece broke off in.
    Text {
        text: String,
        tail: Stash<4>,
    },
    Binary(Vec<u8>),
}

impl Message {
    pub(super) fn text() -> Self {
        Self::Text { text: String::new(), tail: Stash::default() }
    }

    pub(super) fn binary() -> Self {
        Self::Binary(Vec::new())
    }

    /// Bytes that have come.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text { text, tail } => text.len() + tail.as_slice().len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Appends an unmasked piece. `announced` is the length of the message after the frame at hand.
    pub(super) fn append(&mut self, piece: &[u8], announced: usize) -> Result<(), ProtocolError> {
        match self {
            Self::Text { text, tail } => append_text(text, tail, piece, announced),
            Self::Binary(bytes) => {
                bytes.reserve_exact(additional(bytes.len(), bytes.capacity(), piece.len(), announced));
                bytes.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    /// Checks that the message may end here.
    pub(super) fn finish(&self) -> Result<(), ProtocolError> {
        match self {
            Self::Text { tail, .. } if !tail.is_empty() => Err(ProtocolError::TextUtf8),
            Self::Text { .. } | Self::Binary(_) => Ok(()),
        }
    }

    pub(super) fn event(&self) -> Event<'_> {
        match self {
            Self::Text { text, .. } => Event::Text(text),
            Self::Binary(bytes) => Event::Binary(bytes),
        }
    }
}

fn append_text(
    text: &mut String,
    tail: &mut Stash<4>,
    mut piece: &[u8],
    announced: usize,
) -> Result<(), ProtocolError> {
    let len = tail.as_slice().len() + piece.len();
    text.reserve_exact(additional(text.len(), text.capacity(), len, announced));

    while !tail.is_empty() {
        let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
        tail.extend(&[*byte]);
        piece = rest;
        match str::from_utf8(tail.as_slice()) {
            Ok(ch) => {
                text.push_str(ch);
                tail.clear();
            }
            Err(error) if error.error_len().is_none() => (),
            Err(_) => return Err(ProtocolError::TextUtf8),
        }
    }

    let (whole, rest) = split_broken_char(piece);
    text.push_str(str::from_utf8(whole).map_err(|_| ProtocolError::TextUtf8)?);
    match str::from_utf8(rest) {
        // A character that can still become whole. One that cannot must not wait for its end.
        Err(error) if error.error_len().is_some() => return Err(ProtocolError::TextUtf8),
        Ok(_) | Err(_) => tail.extend(rest),
    }
    Ok(())
}

/// Splits off a last character that has begun, but lacks bytes. The front is then checked only once.
fn split_broken_char(piece: &[u8]) -> (&[u8], &[u8]) {
    let begins = |byte: &u8| 0xc0 <= *byte;
    let broken = piece.iter().rev().take(3).position(begins).map(|after| after + 1).filter(|&have| {
        let start = piece.len().checked_sub(have).and_then(|at| piece.get(at));
        // The lead byte of a character of n bytes starts with n ones.
        start.is_some_and(|byte| have < byte.leading_ones() as usize)
    });
    piece.split_at_checked(piece.len() - broken.unwrap_or(0)).unwrap_or((piece, &[]))
}

/// How much to reserve: by doubling as `Vec` does, yet never beyond what has been announced, which the
/// cap over the message has already allowed. An announcement alone reserves nothing.
fn additional(len: usize, capacity: usize, more: usize, announced: usize) -> usize {
    let needed = len.saturating_add(more);
    if needed <= capacity {
        return 0;
    }
    capacity.saturating_mul(2).min(announced).max(needed) - len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_last_character_is_split_off() {
        let cases: [(&[u8], usize); 12] = [
            (b"", 0),
            (b"abc", 0),
            (b"ab\xc3", 1),
            (b"ab\xc3\xa9", 0),
            (b"\xe2", 1),
            (b"a\xe2\x82", 2),
            (b"a\xe2\x82\xac", 0),
            (b"a\xf0\x9f\x98", 3),
            (b"\xf0\x9f\x98\x80", 0),
            (b"\xf0\x9f\x98\x80\xf0", 1),
            // Not UTF-8 at all: wherever it is cut, one of the halves is refused.
            (b"a\x80\x80\x80", 0),
            (b"a\xff", 1),
        ];
        for (piece, broken) in cases {
            let (whole, rest) = split_broken_char(piece);
            assert_eq!((whole.len(), rest.len()), (piece.len() - broken, broken), "{piece:02x?}");
        }
    }

    #[test]
    fn memory_grows_by_doubling_within_what_is_announced() {
        let cases = [
            // len, capacity, more, announced, additional
            (0, 0, 0, 1000, 0),
            (0, 0, 10, 1000, 10),
            (10, 10, 1, 1000, 10),
            (10, 20, 10, 1000, 0),
            (600, 600, 10, 1000, 400),
            (1000, 1000, 5, 1005, 5),
        ];
        for (len, capacity, more, announced, expected) in cases {
            assert_eq!(additional(len, capacity, more, announced), expected);
        }
    }
}
