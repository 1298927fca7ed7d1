//! Why a connection ends: close codes and the payload of a Close frame (RFC 6455, 5.5.1 and 7.4).

use std::{fmt, str};

use bytes::BufMut;

use super::decoder::ProtocolError;

/// A close code that may stand in a Close frame: 1000 to 1003, 1007 to 1014, 3000 to 4999.
///
/// Rule: RFC 6455, 7.4, and the IANA registry of close codes, which added 1012 to 1014. As 1005, 1006 and
/// 1015 have no value here, they cannot be sent. The crate `fastwebsockets` has a type of this name that
/// refuses 1014 and holds the forbidden codes as well, so it does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server goes down, or the browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data that is not accepted here.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1007: data that does not fit its kind, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: against the policy of the server.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message above the size limit.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1011: a fault of the server.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the server restarts; come back.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: the server is overloaded; come back later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// The code, if it may stand in a Close frame.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the peer gave as the reason when it closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason<'a> {
    /// The code, one of those that may be sent.
    pub code: CloseCode,
    /// The text, up to 123 bytes. Written by the peer, so not to be trusted.
    pub reason: &'a str,
}

impl<'a> CloseReason<'a> {
    /// Reads the payload of a Close frame; `None` when it is empty.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Option<Self>, ProtocolError> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return if payload.is_empty() { Ok(None) } else { Err(ProtocolError::ClosePayload) };
        };
        let code = u16::from_be_bytes(*code);
        let code = CloseCode::new(code).ok_or(ProtocolError::CloseCode(code))?;
        let reason = str::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonUtf8)?;
        Ok(Some(Self { code, reason }))
    }
}

/// Appends the payload of a Close frame to `out`, which must be able to grow.
///
/// A control frame holds 125 bytes, so the reason is cut at the last character that ends within 123.
pub fn close_payload(code: CloseCode, reason: &str, out: &mut impl BufMut) {
    let cut = reason.floor_char_boundary(REASON_BYTES_MAX);
    out.put_u16(code.get());
    out.put_slice(reason.get(..cut).unwrap_or_default().as_bytes());
}

const REASON_BYTES_MAX: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_codes_that_may_be_sent_are_close_codes() {
        for code in 0..=u16::MAX {
            let allowed = match code {
                1004 | 1005 | 1006 | 1015 => false,
                1000..=1014 | 3000..=4999 => true,
                _ => false,
            };
            assert_eq!(CloseCode::new(code).map(CloseCode::get), allowed.then_some(code), "{code}");
        }
    }

    #[test]
    fn the_named_codes_are_codes_that_may_be_sent() {
        let cases = [
            (CloseCode::NORMAL, 1000),
            (CloseCode::GOING_AWAY, 1001),
            (CloseCode::PROTOCOL_ERROR, 1002),
            (CloseCode::UNSUPPORTED_DATA, 1003),
            (CloseCode::INVALID_PAYLOAD, 1007),
            (CloseCode::POLICY_VIOLATION, 1008),
            (CloseCode::MESSAGE_TOO_BIG, 1009),
            (CloseCode::INTERNAL_ERROR, 1011),
            (CloseCode::SERVICE_RESTART, 1012),
            (CloseCode::TRY_AGAIN_LATER, 1013),
        ];
        for (named, code) in cases {
            assert_eq!(CloseCode::new(code), Some(named));
            assert_eq!(named.to_string(), code.to_string());
        }
    }

    #[test]
    fn a_received_payload_is_empty_or_a_code_and_a_reason_in_utf_8() {
        let good = |payload: &'static [u8], code, reason| {
            (payload, Ok(Some(CloseReason { code: CloseCode(code), reason })))
        };
        let bad = |payload: &'static [u8], error| (payload, Err(error));
        let cases = [
            (&b""[..], Ok(None)),
            bad(b"\x03", ProtocolError::ClosePayload),
            good(b"\x03\xe8", 1000, ""),
            good(b"\x03\xe8bye", 1000, "bye"),
            good(b"\x03\xf4\xe2\x82\xac", 1012, "€"),
            good(b"\x03\xf6", 1014, ""),
            good(b"\x13\x87", 4999, ""),
            bad(b"\x00\x00", ProtocolError::CloseCode(0)),
            bad(b"\x03\xe7", ProtocolError::CloseCode(999)),
            bad(b"\x03\xed", ProtocolError::CloseCode(1005)),
            bad(b"\x0b\xb7", ProtocolError::CloseCode(2999)),
            bad(b"\x13\x88", ProtocolError::CloseCode(5000)),
            bad(b"\x03\xe8\xff", ProtocolError::CloseReasonUtf8),
            bad(b"\x03\xe8\xe2\x82", ProtocolError::CloseReasonUtf8),
            // With both wrong, the code counts.
            bad(b"\x00\x00\xff", ProtocolError::CloseCode(0)),
        ];
        for (payload, expected) in cases {
            assert_eq!(CloseReason::parse(payload), expected, "{payload:02x?}");
        }
    }

    #[test]
    fn a_reason_is_cut_at_a_character_within_123_bytes() {
        let cases = [
            (String::new(), 0),
            ("bye".to_owned(), 3),
            ("x".repeat(123), 123),
            ("x".repeat(124), 123),
            ("é".repeat(62), 122),
            ("x".repeat(120) + "€uro", 123),
            ("x".repeat(121) + "€uro", 121),
            ("x".repeat(120) + "😀", 120),
        ];
        for (reason, kept) in cases {
            let mut payload = Vec::new();
            close_payload(CloseCode::GOING_AWAY, &reason, &mut payload);
            let reason = reason.get(..kept).unwrap();
            assert_eq!(
                CloseReason::parse(&payload),
                Ok(Some(CloseReason { code: CloseCode::GOING_AWAY, reason }))
            );
        }
    }
}
