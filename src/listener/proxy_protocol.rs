//! The header by which a proxy says for whom it has opened a connection.
//!
//! Rule: "The PROXY protocol", versions 1 and 2, of the authors of `HAProxy`.

use core::str;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::listener::Peer;

/// Whether a listener takes the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Never: it is a bad request as any other.
    #[default]
    Off,
    /// Trusted proxies may send one. Everyone else is a client.
    Accept,
    /// Trusted proxies must send one. Nobody else is served.
    Require,
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows is of the connection itself.
    pub len: usize,
    /// Whom the proxy speaks for; `None` for itself, or when it does not know.
    pub client: Option<Peer>,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidHeader {
    /// They do not begin as one.
    #[error("there is none")]
    Absent,
    /// A line without an end.
    #[error("the line of version 1 is longer than 107 bytes")]
    Endless,
    /// A line with other words than the protocol has.
    #[error("the line of version 1 is malformed")]
    Line,
    /// A version or command that the protocol does not have.
    #[error("the version or command is unknown")]
    Command,
    /// Addresses of a kind that no connection here is of.
    #[error("the address family or transport is not one of a stream")]
    Family,
    /// More than 4 KiB are announced, or less than the addresses take.
    #[error("the length does not fit")]
    Length,
    /// The extensions do not fill what is announced.
    #[error("the extensions are malformed")]
    Extensions,
    /// The checksum is that of other bytes.
    #[error("the checksum is wrong")]
    Checksum,
}

/// A line of version 1 with its end.
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const HEAD_BYTES: usize = 16;
/// What may follow the head: addresses and extensions.
const TAIL_BYTES_MAX: usize = 4_096 - HEAD_BYTES;
/// The type of the extension that holds a CRC-32C.
const CHECKSUM: u8 = 0x03;

/// Reads a header from the start of a connection; `None` when more bytes are needed to tell.
///
/// # Errors
///
/// No bytes that follow could make these a header.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let starts = |start: &[u8]| bytes.iter().zip(start).all(|(have, want)| have == want);
    if starts(LINE_START) {
        if bytes.len() < LINE_START.len() { Ok(None) } else { line(bytes) }
    } else if starts(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() { Ok(None) } else { binary(bytes) }
    } else {
        Err(InvalidHeader::Absent)
    }
}

/// Whether these bytes, as the first of a connection, can only be a header: no request begins so.
pub(super) fn is_certain(bytes: &[u8]) -> bool {
    bytes.starts_with(LINE_START) || bytes.starts_with(SIGNATURE)
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let seen = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return if seen.len() < LINE_BYTES_MAX { Ok(None) } else { Err(InvalidHeader::Endless) };
    };
    let text = seen.get(LINE_START.len()..end).and_then(|text| text.strip_suffix(b"\r"));
    let text = text.and_then(|text| str::from_utf8(text).ok()).ok_or(InvalidHeader::Line)?;
    let header = |client| Ok(Some(Header { len: end + 1, client }));
    // What follows UNKNOWN is to be ignored.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return header(None);
    }
    let words: Vec<_> = text.split(' ').collect();
    let [family, from, to, from_port, to_port] = words.as_slice() else { return Err(InvalidHeader::Line) };
    let ip = |text: &str| -> Option<IpAddr> {
        match *family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let all = (ip(from), ip(to), port(from_port), port(to_port));
    let (Some(ip), Some(_), Some(port), Some(_)) = all else { return Err(InvalidHeader::Line) };
    header(Some(SocketAddr::new(ip, port).into()))
}

/// A port as the protocol writes it, without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let canonical = text == "0" || text.starts_with(|ch: char| ('1'..='9').contains(&ch));
    text.parse().ok().filter(|_| canonical)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let Some(&command) = bytes.get(12) else { return Ok(None) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(InvalidHeader::Command),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    let addresses_len = match family {
        // Of a proxy's own connection the addresses mean nothing, whatever they are.
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(InvalidHeader::Family),
    };
    let Some(len) = bytes.get(14..HEAD_BYTES) else { return Ok(None) };
    let tail_len = number(len);
    if tail_len < addresses_len || TAIL_BYTES_MAX < tail_len {
        return Err(InvalidHeader::Length);
    }
    let len = HEAD_BYTES + tail_len;
    let Some(header) = bytes.get(..len) else { return Ok(None) };
    if is_local || family == 0x00 {
        return Ok(Some(Header { len, client: None }));
    }
    check_extensions(header, HEAD_BYTES + addresses_len)?;
    let client = match header.get(HEAD_BYTES..).unwrap_or_default() {
        [a, b, c, d, _, _, _, _, high, low, ..] if family == 0x11 => {
            let port = u16::from_be_bytes([*high, *low]);
            SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), port).into()
        }
        addresses if family == 0x21 => {
            let ip: Option<[u8; 16]> = addresses.get(..16).and_then(|ip| ip.try_into().ok());
            let port: Option<[u8; 2]> = addresses.get(32..34).and_then(|port| port.try_into().ok());
            let (Some(ip), Some(port)) = (ip, port) else { return Err(InvalidHeader::Length) };
            SocketAddr::new(Ipv6Addr::from(ip).into(), u16::from_be_bytes(port)).into()
        }
        _ => Peer::Unix,
    };
    Ok(Some(Header { len, client: Some(client) }))
}

/// Walks over the extensions, which are skipped but for the checksum.
fn check_extensions(header: &[u8], start: usize) -> Result<(), InvalidHeader> {
    let mut at = start;
    while at < header.len() {
        let (kind, len) = match header.get(at..at + 3) {
            Some(&[kind, high, low]) => (kind, number(&[high, low])),
            _ => return Err(InvalidHeader::Extensions),
        };
        let value = header.get(at + 3..at + 3 + len).ok_or(InvalidHeader::Extensions)?;
        if kind == CHECKSUM {
            let sum: [u8; 4] = value.try_into().map_err(|_| InvalidHeader::Extensions)?;
            // The sum is made with zeros in its own place.
            let own = at + 3..at + 3 + len;
            let bytes = header.iter().enumerate().map(|(at, &byte)| if own.contains(&at) { 0 } else { byte });
            if crc_32c(bytes) != u32::from_be_bytes(sum) {
                return Err(InvalidHeader::Checksum);
            }
        }
        at += 3 + len;
    }
    Ok(())
}

/// Rule: CRC-32C (Castagnoli) of RFC 9260, appendix A.
fn crc_32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
            },
        )
    })
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests;
