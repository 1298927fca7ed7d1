//! The frames that the load needs: whole messages of up to 65,535 bytes.

use std::ops::Range;

use anyhow::{Result, bail};

pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const LEN_IN_TWO_BYTES: u8 = 126;

/// One frame at the start of a buffer; it ends where its payload ends.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    pub(crate) payload: Range<usize>,
}

/// Reads the frame at the start of `input`, `None` when it is not whole yet.
///
/// # Errors
///
/// A fragment, a reserved bit or a length of 64 bits: neither side of the load sends them.
pub(crate) fn parse(input: &[u8]) -> Result<Option<Frame>> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if first & 0xF0 != FIN {
        bail!("a frame begins with {first:#04x}: a fragment or a reserved bit");
    }
    let (len, mut at) = match second & 0x7F {
        LEN_IN_TWO_BYTES => match rest {
            [high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 4),
            _ => return Ok(None),
        },
        127 => bail!("a frame has a length of 64 bits"),
        len => (usize::from(len), 2),
    };
    let mask = if second & MASKED == 0 {
        None
    } else {
        let Some(mask) = input.get(at..).and_then(<[u8]>::first_chunk::<4>) else { return Ok(None) };
        at += 4;
        Some(*mask)
    };
    let payload = at..at + len;
    Ok((payload.end <= input.len()).then_some(Frame { opcode: first & 0x0F, mask, payload }))
}

/// Appends a frame as a server sends it.
pub(crate) fn push_server(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    push_head(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it, masked with a fresh key.
pub(crate) fn push_client(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let mask = fastrand::u32(1..).to_ne_bytes();
    push_head(out, opcode, payload.len(), MASKED);
    out.extend_from_slice(&mask);
    let at = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[at..], mask);
}

/// Masks or unmasks `payload` in place.
pub(crate) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let (chunks, rest) = payload.as_chunks_mut::<4>();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

fn push_head(out: &mut Vec<u8>, opcode: u8, len: usize, masked: u8) {
    out.push(FIN | opcode);
    match u8::try_from(len) {
        Ok(len) if len < LEN_IN_TWO_BYTES => out.push(masked | len),
        _ => {
            let len = u16::try_from(len).expect("the load sends no message over 65,535 bytes");
            out.push(masked | LEN_IN_TWO_BYTES);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}
