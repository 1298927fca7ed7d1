//! The head of a frame, read and written (RFC 6455, 5.2).

use bytes::BufMut;
use fastwebsockets::OpCode;

use super::decoder::ProtocolError;
use super::stash::Stash;

/// The head of a frame that the server sends: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head(Stash<10>);

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// The head of an unfragmented, unmasked frame, with the length in the fewest bytes.
pub fn head(opcode: OpCode, payload_len: usize) -> Head {
    let mut bytes = Stash::default();
    bytes.extend(&[FIN | opcode as u8]);
    if let Some(len) = u8::try_from(payload_len).ok().filter(|&len| len <= LEN_7_BIT_MAX) {
        bytes.extend(&[len]);
    } else if let Ok(len) = u16::try_from(payload_len) {
        bytes.extend(&[LEN_16_BIT]);
        bytes.extend(&len.to_be_bytes());
    } else {
        bytes.extend(&[LEN_64_BIT]);
        bytes.extend(&(payload_len as u64).to_be_bytes());
    }
    Head(bytes)
}

/// Appends a whole frame to `out`, which must be able to grow (`Vec`, `BytesMut`).
///
/// A control frame holds at most 125 bytes: the payloads of received ones and of
/// [`close_payload`](super::close_payload) do.
pub fn write_frame(out: &mut impl BufMut, opcode: OpCode, payload: &[u8]) {
    out.put_slice(head(opcode, payload.len()).as_ref());
    out.put_slice(payload);
}

/// A received frame whose head has been read, and what of its payload is still to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    /// The masking key, turned so that it begins at the next byte to come.
    pub(super) mask: [u8; 4],
    pub(super) remaining: usize,
}

impl Frame {
    /// Reads a head from the front of `bytes`, with the number of bytes it took; `None` when it goes on.
    ///
    /// `message_len` is what has come of the message that is open, if one is. Each rule is checked as soon
    /// as the bytes it speaks of are there and in their order, so that the same fault is found however the
    /// head is cut.
    pub(super) fn parse(
        bytes: &[u8],
        message_len: Option<usize>,
        message_bytes_max: usize,
    ) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some((&first, bytes)) = bytes.split_first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = first & OPCODE;
        let opcode = OpCode::try_from(opcode).map_err(|_| ProtocolError::UnknownOpcode(opcode))?;
        let fin = first & FIN != 0;
        match opcode {
            OpCode::Close | OpCode::Ping | OpCode::Pong if !fin => {
                return Err(ProtocolError::FragmentedControl);
            }
            OpCode::Continuation if message_len.is_none() => {
                return Err(ProtocolError::ContinuationWithoutStart);
            }
            OpCode::Text | OpCode::Binary if message_len.is_some() => {
                return Err(ProtocolError::MessageInterrupted);
            }
            _ => (),
        }

        let Some((&second, bytes)) = bytes.split_first() else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let len = second & !MASKED;
        if is_control(opcode) && LEN_7_BIT_MAX < len {
            return Err(ProtocolError::ControlTooLong);
        }
        let (len, bytes, len_len) = match len {
            LEN_16_BIT => {
                let Some((len, bytes)) = bytes.split_first_chunk() else { return Ok(None) };
                let len = u16::from_be_bytes(*len);
                if len <= u16::from(LEN_7_BIT_MAX) {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                (u64::from(len), bytes, 2)
            }
            LEN_64_BIT => {
                let Some((len, bytes)) = bytes.split_first_chunk() else { return Ok(None) };
                let len = u64::from_be_bytes(*len);
                if len.leading_zeros() == 0 {
                    return Err(ProtocolError::LengthTopBit);
                }
                if u16::try_from(len).is_ok() {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                (len, bytes, 8)
            }
            len => (u64::from(len), bytes, 0),
        };
        let come = message_len.unwrap_or(0);
        let remaining = usize::try_from(len)
            .ok()
            .filter(|&len| is_control(opcode) || come.saturating_add(len) <= message_bytes_max)
            .ok_or(ProtocolError::MessageTooBig { len_max: message_bytes_max })?;

        let Some(&mask) = bytes.first_chunk() else { return Ok(None) };
        Ok(Some((Self { fin, opcode, mask, remaining }, 2 + len_len + mask.len())))
    }

    /// Whether the payload is all there is to an event: a control frame or an unfragmented message.
    pub(super) fn stands_alone(&self) -> bool {
        self.fin && self.opcode != OpCode::Continuation
    }

    pub(super) fn is_control(&self) -> bool {
        is_control(self.opcode)
    }

    /// Notes that `len` bytes of the payload have come and been unmasked.
    pub(super) fn advance(&mut self, len: usize) {
        self.remaining = self.remaining.saturating_sub(len);
        self.mask.rotate_left(len % 4);
    }
}

fn is_control(opcode: OpCode) -> bool {
    matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong)
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LEN_7_BIT_MAX: u8 = 125;
const LEN_16_BIT: u8 = 126;
const LEN_64_BIT: u8 = 127;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use fastwebsockets::Frame as OracleFrame;

    use super::*;

    const OPCODES: [OpCode; 6] =
        [OpCode::Continuation, OpCode::Text, OpCode::Binary, OpCode::Close, OpCode::Ping, OpCode::Pong];

    #[test]
    fn a_written_head_has_the_fewest_length_bytes() {
        let cases: [(OpCode, usize, &[u8]); 9] = [
            (OpCode::Text, 0, b"\x81\x00"),
            (OpCode::Binary, 1, b"\x82\x01"),
            (OpCode::Close, 2, b"\x88\x02"),
            (OpCode::Ping, 125, b"\x89\x7d"),
            (OpCode::Pong, 0, b"\x8a\x00"),
            (OpCode::Text, 126, b"\x81\x7e\x00\x7e"),
            (OpCode::Text, 65_535, b"\x81\x7e\xff\xff"),
            (OpCode::Binary, 65_536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
            (OpCode::Binary, 1 << 40, b"\x82\x7f\x00\x00\x01\x00\x00\x00\x00\x00"),
        ];
        for (opcode, len, expected) in cases {
            assert_eq!(head(opcode, len).as_ref(), expected, "{opcode:?} {len}");
        }
    }

    #[test]
    fn a_written_frame_is_what_fastwebsockets_writes() {
        for opcode in OPCODES {
            for len in [0, 1, 125, 126, 127, 1000, 65_535, 65_536, 70_000] {
                let payload = vec![b'x'; len];
                let mut buffer = Vec::new();
                let mut oracle = OracleFrame::new(true, opcode, None, payload.as_slice().into());
                let expected = oracle.write(&mut buffer);

                let mut vec = b"before".to_vec();
                write_frame(&mut vec, opcode, &payload);
                assert_eq!(vec.strip_prefix(b"before"), Some(expected));
                let mut bytes = BytesMut::new();
                write_frame(&mut bytes, opcode, &payload);
                assert_eq!(bytes, expected);
            }
        }
    }
}
