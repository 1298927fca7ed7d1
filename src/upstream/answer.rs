//! The answer of a server: its head, and the pieces of its body. Pure.
//!
//! An answer has exactly one reading, too: what two readers could take differently is no answer. Stricter than the
//! letter of RFC 9112 where a lenient reading would have to guess: two lengths, a length beside a coding, a coding
//! that cannot be undone here.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::upstream::forward::has_word;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most headers of an answer, and the most trailers.
const HEADERS_MAX: usize = 100;
/// The longest line before a chunk, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;
/// The most digits of a chunk's size. They hold 64 bits; with zeros before them, readers would differ.
const SIZE_DIGITS_MAX: usize = 16;
/// What the extensions of all chunks may come to, in bytes: nobody reads them.
const EXTENSION_BYTES_MAX: usize = 16 << 10;
/// The most bytes of all trailers.
const TRAILER_BYTES_MAX: usize = 16 << 10;
/// What every head begins with.
const START: &[u8] = b"HTTP/1.";

const TOO_LARGE: &str = "its head is too large";
const MALFORMED: &str = "it is malformed";
const NO_LENGTH: &str = "its length is none, or there are two";
const UNKNOWN_CODING: &str = "its transfer coding is not `chunked` alone";

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// A 1xx other than 101 is not the answer yet.
    pub status: StatusCode,
    /// The words beside the status, if they are not those that it always has.
    pub reason: Option<Bytes>,
    /// As they came, but for a length that was said several times.
    pub headers: HeaderMap,
    /// What follows.
    pub body: Decoder,
    /// Whether the server keeps the connection after the answer.
    pub keeps: bool,
}

impl Head {
    /// Takes a head from the start of `input`; `None` when it is not whole yet.
    ///
    /// `to_head` says whether the request was a HEAD, whose answer has no body. `searched` is how far earlier calls
    /// have looked for the end of this head, 0 at first.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn take(
        input: &mut Bytes,
        searched: &mut usize,
        to_head: bool,
    ) -> Result<Option<Self>, &'static str> {
        // Empty lines would be passed over otherwise.
        if !input.iter().zip(START).all(|(sent, right)| sent == right) {
            return Err(MALFORMED);
        }
        let before = std::mem::replace(searched, input.len());
        let is_long = HEAD_BYTES_MAX <= input.len();
        let partial = if is_long { Err(TOO_LARGE) } else { Ok(None) };
        // A head that comes byte by byte is not read anew at each of them.
        if 0 < before && block_len(input, before).is_none() {
            return partial;
        }
        let bytes = input.clone();
        let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut answer, &bytes, &mut lines) {
            Ok(httparse::Status::Partial) => partial,
            Ok(httparse::Status::Complete(len)) if len <= HEAD_BYTES_MAX => {
                input.advance(len);
                *searched = 0;
                Self::read(&bytes, &answer, to_head).map(Some)
            }
            Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => Err(TOO_LARGE),
            Err(_) => Err(MALFORMED),
        }
    }

    /// Whether the answer is still to come.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    fn read(bytes: &Bytes, answer: &httparse::Response<'_, '_>, to_head: bool) -> Result<Self, &'static str> {
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(MALFORMED)?;
        let is_1_1 = answer.version == Some(1);
        let mut headers = HeaderMap::with_capacity(answer.headers.len());
        let (mut says_close, mut says_keep_alive) = (false, false);
        let mut framing = Framing::default();
        for line in answer.headers.iter() {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| MALFORMED)?;
            let mut value =
                HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_| MALFORMED)?;
            match name {
                CONNECTION => {
                    says_close |= has_word(line.value, b"close");
                    says_keep_alive |= has_word(line.value, b"keep-alive");
                }
                CONTENT_LENGTH => {
                    let is_repeated = framing.len.is_some();
                    let (len, times) = content_length(line.value, framing.len).ok_or(NO_LENGTH)?;
                    framing.len = Some(len);
                    if is_repeated {
                        continue;
                    }
                    if 1 < times {
                        value = len.into();
                    }
                }
                TRANSFER_ENCODING => {
                    framing.codings += 1;
                    framing.is_chunked = line.value.eq_ignore_ascii_case(b"chunked");
                }
                _ => (),
            }
            headers.try_append(name, value).map_err(|_| TOO_LARGE)?;
        }
        let body = framing.body(status, is_1_1, to_head)?;
        let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
        Ok(Self {
            status,
            reason: reason.map(|reason| bytes.slice_ref(reason.as_bytes())),
            headers,
            keeps: !says_close && (is_1_1 || says_keep_alive) && !matches!(body, Decoder::UntilClose { .. }),
            body,
        })
    }
}

/// What a head says of the end of its body.
#[derive(Debug, Default)]
struct Framing {
    len: Option<u64>,
    /// Lines of transfer codings.
    codings: usize,
    is_chunked: bool,
}

impl Framing {
    /// How the body ends.
    ///
    /// Rule: RFC 9112, 6.3.
    fn body(&self, status: StatusCode, is_1_1: bool, to_head: bool) -> Result<Decoder, &'static str> {
        if to_head
            || status.is_informational()
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
        {
            return Ok(Decoder::Length(0));
        }
        match (self.codings, self.len) {
            (0, None) => Ok(Decoder::UntilClose { ended: false }),
            (0, Some(len)) => Ok(Decoder::Length(len)),
            (_, Some(_)) => Err(NO_LENGTH),
            (1, None) if is_1_1 && self.is_chunked => Ok(Decoder::Chunked(Chunked::default())),
            (_, None) => Err(UNKNOWN_CODING),
        }
    }
}

/// The length that is said in a line, perhaps several times, and as often as that; `None` unless it is one and the
/// same, and the same as in the lines before.
fn content_length(line: &[u8], before: Option<u64>) -> Option<(u64, usize)> {
    let mut said = before;
    let mut times = 0;
    for one in line.split(|&byte| byte == b',') {
        let digits = one.trim_ascii();
        if digits.is_empty() {
            return None;
        }
        // Parsing would take a sign, too.
        let len = digits.iter().try_fold(0_u64, |len, &byte| {
            let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
            len.checked_mul(10)?.checked_add(digit.into())
        })?;
        if said.is_some_and(|said| said != len) {
            return None;
        }
        said = Some(len);
        times += 1;
    }
    Some((said?, times))
}

/// The length of the lines up to the first empty one, with it.
fn block_len(input: &[u8], searched: usize) -> Option<usize> {
    let mut from = searched.saturating_sub(3);
    while let Some(at) = input.get(from..)?.iter().position(|&byte| byte == b'\n') {
        from += at + 1;
        match input.get(from..)? {
            [b'\n', ..] => return Some(from + 1),
            [b'\r', b'\n', ..] => return Some(from + 2),
            _ => (),
        }
    }
    None
}

/// Takes a body out of what comes behind its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// So many bytes are left.
    Length(u64),
    /// Chunks, each with its length.
    Chunked(Chunked),
    /// All up to the end of the connection.
    UntilClose {
        /// Whether that has come.
        ended: bool,
    },
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some bytes.
    Data(Bytes),
    /// Headers behind the body, which end it. Few answers have any.
    Trailers(Box<HeaderMap>),
}

/// What came is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body of the answer is malformed")]
pub struct Malformed;

/// Where a chunked body is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    place: Place,
    extension_bytes: usize,
    searched: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Line,
    /// In a chunk, before so many bytes of it.
    Data(u64),
    DataEnd,
    Trailers,
    End,
    Broken,
}

impl Decoder {
    /// The next piece; `None` at the end, and when more bytes must come first.
    ///
    /// # Errors
    ///
    /// The body is malformed, and so is all that comes after.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        match self {
            Self::Length(left) => Ok(take_data(input, left)),
            Self::UntilClose { .. } => {
                let mut unknown = u64::MAX;
                Ok(take_data(input, &mut unknown))
            }
            Self::Chunked(chunked) => {
                let next = chunked.next(input);
                if next.is_err() {
                    chunked.place = Place::Broken;
                }
                next
            }
        }
    }

    /// Whether all of the body was taken.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::UntilClose { ended } => *ended,
            Self::Chunked(chunked) => chunked.place == Place::End,
        }
    }

    /// The connection has ended. Tells whether this is the end of the body, and not in the middle of it.
    pub fn close(&mut self) -> bool {
        if let Self::UntilClose { ended } = self {
            *ended = true;
        }
        self.is_done()
    }

    /// How much is left, if that is known.
    pub fn len_left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::UntilClose { .. } | Self::Chunked(_) => None,
        }
    }
}

/// What is there of the bytes that are left.
fn take_data(input: &mut Bytes, left: &mut u64) -> Option<Piece> {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    if len == 0 {
        return None;
    }
    *left -= len as u64;
    Some(Piece::Data(input.split_to(len)))
}

impl Chunked {
    fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        // Each turn takes bytes or returns.
        loop {
            match &mut self.place {
                Place::Line => {
                    let Some(at) = input.iter().position(|&byte| byte == b'\n') else {
                        return if CHUNK_LINE_BYTES_MAX < input.len() { Err(Malformed) } else { Ok(None) };
                    };
                    if CHUNK_LINE_BYTES_MAX < at {
                        return Err(Malformed);
                    }
                    let line = input.split_to(at + 1);
                    let line = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
                    let (size, extension_len) = chunk_line(line).ok_or(Malformed)?;
                    self.extension_bytes += extension_len;
                    if EXTENSION_BYTES_MAX < self.extension_bytes {
                        return Err(Malformed);
                    }
                    self.place = if size == 0 { Place::Trailers } else { Place::Data(size) };
                }
                Place::Data(left) => {
                    let piece = take_data(input, left);
                    if *left == 0 {
                        self.place = Place::DataEnd;
                    }
                    return Ok(piece);
                }
                Place::DataEnd => match **input {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.place = Place::Line;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(Malformed),
                },
                Place::Trailers => return self.trailers(input),
                Place::End => return Ok(None),
                Place::Broken => return Err(Malformed),
            }
        }
    }

    fn trailers(&mut self, input: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        match **input {
            [b'\r', b'\n', ..] => {
                input.advance(2);
                self.place = Place::End;
                return Ok(None);
            }
            [b'\n', ..] => return Err(Malformed),
            _ => (),
        }
        let Some(len) = block_len(input, self.searched) else {
            self.searched = input.len();
            return if TRAILER_BYTES_MAX <= input.len() { Err(Malformed) } else { Ok(None) };
        };
        if TRAILER_BYTES_MAX < len {
            return Err(Malformed);
        }
        let bytes = input.split_to(len);
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let lines = match httparse::parse_headers(&bytes, &mut lines) {
            Ok(httparse::Status::Complete((end, lines))) if end == len => lines,
            Ok(_) | Err(_) => return Err(Malformed),
        };
        let mut trailers = HeaderMap::with_capacity(lines.len());
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed)?;
            let value = HeaderValue::from_bytes(line.value).map_err(|_| Malformed)?;
            trailers.try_append(name, value).map_err(|_| Malformed)?;
        }
        self.place = Place::End;
        Ok(Some(Piece::Trailers(Box::new(trailers))))
    }
}

/// The size of a chunk, and how long the rest of its line is.
fn chunk_line(line: &[u8]) -> Option<(u64, usize)> {
    let len = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at_checked(len).filter(|_| len <= SIZE_DIGITS_MAX)?;
    let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    let mut behind = rest.iter().skip_while(|&&byte| byte == b' ' || byte == b'\t');
    let is_fit = behind.next().is_none_or(|&byte| byte == b';')
        && behind.all(|&byte| byte == b'\t' || !byte.is_ascii_control());
    is_fit.then_some((size, rest.len()))
}

#[cfg(test)]
mod tests;
