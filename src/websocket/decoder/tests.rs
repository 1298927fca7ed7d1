//! Each rule of RFC 6455 broken alone, every stream cut everywhere, and streams at random against a plain
//! oracle.

use fastwebsockets::Frame as OracleFrame;
use proptest::prelude::*;

use super::*;

const MAX: usize = 1 << 20;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An event that owns what it holds, for comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(reason) => {
                Self::Close(reason.map(|reason| (reason.code.get(), reason.reason.to_owned())))
            }
        }
    }
}

fn text(text: &str) -> Owned {
    Owned::Text(text.to_owned())
}

fn ping(payload: &[u8]) -> Owned {
    Owned::Ping(payload.to_vec())
}

/// What the decoder made of a stream: its events, and how it ended.
type Outcome = (Vec<Owned>, Option<ProtocolError>);

impl Decoder {
    /// Bytes that this decoder has on the heap.
    fn heap_bytes(&self) -> usize {
        let Some(partial) = &self.partial else { return 0 };
        size_of::<Partial>()
            + match &partial.message {
                Some(Message::Text { text, .. }) => text.capacity(),
                Some(Message::Binary(bytes)) => bytes.capacity(),
                None => 0,
            }
    }

    /// Decodes one slice to its end.
    fn feed(
        &mut self,
        slice: &[u8],
        message_bytes_max: usize,
        events: &mut Vec<Owned>,
    ) -> Option<ProtocolError> {
        let mut slice = slice.to_vec();
        let mut at = 0;
        loop {
            match self.next(&mut slice, &mut at, message_bytes_max) {
                Ok(Some(event)) => events.push(event.into()),
                Ok(None) => break,
                Err(error) => return Some(error),
            }
        }
        assert_eq!(at, slice.len(), "all of the slice is consumed");
        None
    }
}

/// Decodes a stream that comes in these slices, and checks on the way that what is kept is bounded.
fn decode_slices(slices: &[&[u8]], message_bytes_max: usize) -> Outcome {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    let mut come = 0;
    for slice in slices {
        come += slice.len();
        if let Some(error) = decoder.feed(slice, message_bytes_max, &mut events) {
            assert!(decoder.heap_bytes() <= size_of::<Partial>());
            assert_eq!((decoder.feed(b"", message_bytes_max, &mut events), decoder.heap_bytes()), (None, 0));
            return (events, Some(error));
        }
        let kept = decoder.heap_bytes().saturating_sub(size_of::<Partial>());
        assert!(kept <= (2 * come).min(message_bytes_max), "{kept} bytes kept of {come}");
    }
    (events, None)
}

fn bytewise(stream: &[u8]) -> Vec<&[u8]> {
    stream.chunks(1).collect()
}

fn decode(stream: &[u8]) -> Outcome {
    decode_slices(&[stream], MAX)
}

/// A masked frame, whatever its bits say: `first` is the whole first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Frames one after the other.
fn stream(frames: &[(u8, &[u8])]) -> Vec<u8> {
    frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect()
}

/// A stream, and what it must give.
type Case = (&'static str, Vec<u8>, Outcome);

fn good<const N: usize>(name: &'static str, stream: Vec<u8>, events: [Owned; N]) -> Case {
    (name, stream, (events.into(), None))
}

fn bad(name: &'static str, stream: impl Into<Vec<u8>>, error: ProtocolError) -> Case {
    (name, stream.into(), (vec![], Some(error)))
}

/// All cases. They are also what is cut at every byte.
fn streams() -> Vec<Case> {
    [messages(), head_faults(), fragment_faults(), text_faults(), close_frames()].concat()
}

fn messages() -> Vec<Case> {
    let characters = "κόσμε a€😀\u{10ffff}\u{7ff}\u{800}";
    vec![
        good(
            "the example of RFC 6455, 5.7",
            b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec(),
            [text("Hello")],
        ),
        good(
            "empty messages",
            stream(&[(0x81, b""), (0x82, b""), (0x89, b""), (0x8a, b"")]),
            [text(""), Owned::Binary(vec![]), ping(b""), Owned::Pong(vec![])],
        ),
        good("16-bit length", frame(0x81, &[b'x'; 126]), [text(&"x".repeat(126))]),
        good("characters of each length", frame(0x81, characters.as_bytes()), [text(characters)]),
        good("fragments", stream(&[(0x01, b"Hel"), (0x00, b""), (0x80, b"lo")]), [text("Hello")]),
        good("empty fragments", stream(&[(0x01, b""), (0x00, b""), (0x80, b"")]), [text("")]),
        good(
            "a character over fragments",
            stream(&[(0x01, b"\xf0\x9f"), (0x00, b"\x98"), (0x80, b"\x80!")]),
            [text("😀!")],
        ),
        good(
            "binary fragments, any bytes",
            stream(&[(0x02, b"\xff"), (0x80, b"\xc3")]),
            [Owned::Binary(vec![0xff, 0xc3])],
        ),
        good(
            "control frames between fragments",
            stream(&[(0x01, b"a"), (0x89, b"p"), (0x00, b"b"), (0x8a, b""), (0x80, b"c"), (0x89, &[7; 125])]),
            [ping(b"p"), Owned::Pong(vec![]), text("abc"), ping(&[7; 125])],
        ),
        good(
            "one message after the other",
            stream(&[(0x01, b"a"), (0x80, b"b"), (0x81, b"c"), (0x02, b"d"), (0x80, b"")]),
            [text("ab"), text("c"), Owned::Binary(b"d".to_vec())],
        ),
    ]
}

/// RFC 6455, 5.1, 5.2 and 5.5.
fn head_faults() -> Vec<Case> {
    use ProtocolError as E;
    let mut cases = vec![
        bad("unmasked", b"\x81\x01x", E::Unmasked),
        bad("unmasked and empty", b"\x81\x00", E::Unmasked),
        bad("unmasked ping", b"\x89\x00", E::Unmasked),
        bad("125 in 16 bits", b"\x82\xfe\x00\x7d", E::LengthNotMinimal),
        bad("0 in 16 bits", b"\x82\xfe\x00\x00", E::LengthNotMinimal),
        bad("65535 in 64 bits", b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff", E::LengthNotMinimal),
        bad("5 in 64 bits", b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05", E::LengthNotMinimal),
        bad("top bit", b"\x82\xff\x80\x00\x00\x00\x00\x01\x00\x00", E::LengthTopBit),
        bad("all bits", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", E::LengthTopBit),
        bad("2^63 - 1", b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", E::MessageTooBig { len_max: MAX }),
        bad("ping of 126", frame(0x89, &[0; 126]), E::ControlTooLong),
        bad("pong of 300", frame(0x8a, &[0; 300]), E::ControlTooLong),
        bad("close of 126", frame(0x88, &[&b"\x03\xe8"[..], &[b'r'; 124]].concat()), E::ControlTooLong),
        bad("ping of 5 in 64 bits", b"\x89\xff\x00\x00\x00\x00\x00\x00\x00\x05", E::ControlTooLong),
        bad("ping in fragments", stream(&[(0x09, b"a"), (0x80, b"b")]), E::FragmentedControl),
        bad("pong in fragments", frame(0x0a, b""), E::FragmentedControl),
        bad("close in fragments", frame(0x08, b""), E::FragmentedControl),
        (
            "unmasked after a good one",
            [&frame(0x81, b"a")[..], b"\x81\x01x"].concat(),
            (vec![text("a")], Some(E::Unmasked)),
        ),
    ];
    for first in 0..=u8::MAX {
        let error = match (first & 0x70, first & 0x0f) {
            (1.., _) => E::ReservedBits,
            (_, opcode @ (3..=7 | 11..=15)) => E::UnknownOpcode(opcode),
            _ => continue,
        };
        cases.push(bad("reserved bits and opcodes", frame(first, b"x"), error));
    }
    cases
}

/// RFC 6455, 5.4.
fn fragment_faults() -> Vec<Case> {
    use ProtocolError as E;
    vec![
        bad("continuation at first", frame(0x80, b"x"), E::ContinuationWithoutStart),
        bad("open continuation at first", frame(0x00, b"x"), E::ContinuationWithoutStart),
        (
            "continuation after an unfragmented message",
            stream(&[(0x81, b"a"), (0x80, b"b")]),
            (vec![text("a")], Some(E::ContinuationWithoutStart)),
        ),
        (
            "continuation after the last fragment",
            stream(&[(0x01, b"a"), (0x80, b"b"), (0x80, b"c")]),
            (vec![text("ab")], Some(E::ContinuationWithoutStart)),
        ),
        bad("text inside of a message", stream(&[(0x01, b"ab"), (0x81, b"cd")]), E::MessageInterrupted),
        bad(
            "fragmented text inside of a message",
            stream(&[(0x01, b"ab"), (0x01, b"cd"), (0x80, b"ef")]),
            E::MessageInterrupted,
        ),
        (
            "binary inside of a message",
            stream(&[(0x02, b""), (0x89, b""), (0x02, b"")]),
            (vec![ping(b"")], Some(E::MessageInterrupted)),
        ),
    ]
}

/// RFC 6455, 8.1.
fn text_faults() -> Vec<Case> {
    let bad = |name, frames: &[(u8, &[u8])]| bad(name, stream(frames), ProtocolError::TextUtf8);
    vec![
        bad("text that is not UTF-8", &[(0x81, b"a\xffb")]),
        bad("a broken last character", &[(0x81, b"a\xe2\x82")]),
        bad("a broken last character over fragments", &[(0x01, b"abc"), (0x80, b"d\xe2\x82")]),
        bad("a broken last character, then an empty end", &[(0x01, b"\xe2\x82"), (0x80, b"")]),
        bad("a surrogate", &[(0x81, b"\xed\xa0\x80")]),
        bad("a surrogate over fragments", &[(0x01, b"\xed"), (0x80, b"\xa0\x80")]),
        bad("an overlong slash", &[(0x81, b"\xc0\xaf")]),
        bad("above U+10FFFF over fragments", &[(0x01, b"\xf4"), (0x00, b"\x90")]),
    ]
}

/// RFC 6455, 5.5.1 and 7.4.
fn close_frames() -> Vec<Case> {
    use ProtocolError as E;
    let close = |code: u16, reason: &[u8]| frame(0x88, &[&code.to_be_bytes()[..], reason].concat());
    let closed = |code: u16, reason: &str| [Owned::Close(Some((code, reason.to_owned())))];
    let mut cases = vec![
        good("close with nothing", frame(0x88, b""), [Owned::Close(None)]),
        good("close with a reason", close(1000, "tschüß".as_bytes()), closed(1000, "tschüß")),
        good("close with the longest reason", close(4999, &[b'r'; 123]), closed(4999, &"r".repeat(123))),
        good("close inside of a message", stream(&[(0x01, b"a"), (0x88, b"\x03\xe8")]), closed(1000, "")),
        good(
            "nothing counts after a close",
            stream(&[(0x01, b"a"), (0x88, b"\x03\xf4"), (0x80, b"b"), (0x81, b"x"), (0xff, b"")]),
            closed(1012, ""),
        ),
        bad("close of one byte", frame(0x88, b"\x03"), E::ClosePayload),
        bad("close reason that is not UTF-8", close(1000, b"\xff"), E::CloseReasonUtf8),
        bad("close reason with a broken last character", close(1000, b"a\xc3"), E::CloseReasonUtf8),
    ];
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(bad("bad close code", close(code, b"why"), E::CloseCode(code)));
    }
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        cases.push(good("good close code", close(code, b"why"), closed(code, "why")));
    }
    cases
}

#[test]
fn every_rule_holds_for_a_stream_in_one_slice() {
    for (name, stream, expected) in streams() {
        assert_eq!(decode(&stream), expected, "{name}: {stream:02x?}");
    }
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same() {
    for (name, stream, expected) in streams() {
        for cut in 0..=stream.len() {
            let (front, back) = stream.split_at(cut);
            assert_eq!(decode_slices(&[front, back], MAX), expected, "{name}, cut at {cut}");
        }
    }
}

#[test]
fn a_stream_that_comes_byte_by_byte_gives_the_same() {
    for (name, stream, expected) in streams() {
        assert_eq!(decode_slices(&bytewise(&stream), MAX), expected, "{name}");
    }
}

#[test]
fn a_fault_in_a_head_is_found_at_its_own_byte() {
    let cases: [(&[u8], ProtocolError); 6] = [
        (b"\xc1", ProtocolError::ReservedBits),
        (b"\x83", ProtocolError::UnknownOpcode(3)),
        (b"\x09", ProtocolError::FragmentedControl),
        (b"\x80", ProtocolError::ContinuationWithoutStart),
        (b"\x81\x05", ProtocolError::Unmasked),
        (b"\x89\xfe", ProtocolError::ControlTooLong),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(bytes), (vec![], Some(error)), "{bytes:02x?}");
        assert_eq!(decode(&bytes[..bytes.len() - 1]), (vec![], None), "{bytes:02x?}");
    }
}

#[test]
fn each_fault_has_its_close_code_and_a_word() {
    for (name, _, (_, error)) in streams() {
        let Some(error) = error else { continue };
        let expected = match name {
            _ if matches!(error, ProtocolError::TextUtf8 | ProtocolError::CloseReasonUtf8) => 1007,
            "2^63 - 1" => 1009,
            _ => 1002,
        };
        assert_eq!(error.close_code().get(), expected, "{name}: {error}");
        assert!(error.label().bytes().all(|byte| byte.is_ascii_lowercase() || b"_8".contains(&byte)));
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn text_that_can_no_longer_be_utf_8_fails_before_the_rest_of_its_frame() {
    // Autobahn 6.4.1 to 6.4.4 send U+110000 in the middle of valid text, in fragments and in pieces of one
    // frame.
    let valid = "κόσμε".as_bytes();
    let whole = frame(0x81, &[valid, b"\xf4\x90\x80\x80", b"edited"].concat());
    let head_len = 6;
    // The character is impossible with its second byte.
    let impossible = head_len + valid.len() + 2;

    for cut in 0..impossible {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(&whole[..cut], MAX, &mut vec![]), None, "cut at {cut}");
        let error = decoder.feed(&whole[cut..impossible], MAX, &mut vec![]);
        assert_eq!(error, Some(ProtocolError::TextUtf8), "cut at {cut}");
    }

    let fragment = frame(0x01, &[valid, b"\xf4"].concat());
    let next = frame(0x00, b"\x90\x80\x80");
    assert_eq!(decode(&fragment), (vec![], None));
    assert_eq!(decode_slices(&[&fragment[..], &next[..7]], MAX), (vec![], Some(ProtocolError::TextUtf8)));
}

#[test]
fn the_cap_is_inclusive_over_all_fragments_and_spares_control_frames() {
    let too_big = Some(ProtocolError::MessageTooBig { len_max: 200 });
    let half = "x".repeat(100);
    let half = half.as_bytes();
    let whole = text(&"x".repeat(200));
    let cases = [
        (frame(0x81, &[b'x'; 200]), (vec![whole.clone()], None)),
        (frame(0x81, &[b'x'; 201]), (vec![], too_big)),
        (stream(&[(0x01, half), (0x80, half)]), (vec![whole.clone()], None)),
        (stream(&[(0x01, half), (0x00, half), (0x80, b"")]), (vec![whole.clone()], None)),
        (stream(&[(0x01, half), (0x00, half), (0x80, b"x")]), (vec![], too_big)),
        (stream(&[(0x02, half), (0x89, half), (0x00, half), (0x80, b"x")]), (vec![ping(half)], too_big)),
        // The first bytes of a character count before it is whole.
        (
            stream(&[(0x01, &[half, half].concat()[2..]), (0x00, b"\xe2\x82"), (0x80, b"\xac")]),
            (vec![], too_big),
        ),
        // The next message begins to count anew.
        (
            stream(&[(0x01, half), (0x80, half), (0x81, half)]),
            (vec![whole, Owned::Text(String::from_utf8(half.to_vec()).unwrap())], None),
        ),
    ];
    for (stream, expected) in cases {
        assert_eq!(decode_slices(&[&stream[..]], 200), expected);
        assert_eq!(decode_slices(&bytewise(&stream), 200), expected);
    }
    assert_eq!(
        decode_slices(&[&stream(&[(0x89, half), (0x82, b""), (0x82, b"x")])[..]], 0),
        (vec![ping(half), Owned::Binary(vec![])], Some(ProtocolError::MessageTooBig { len_max: 0 }))
    );
}

#[test]
fn a_message_above_the_cap_is_refused_by_its_announcement() {
    let too_big = (vec![], Some(ProtocolError::MessageTooBig { len_max: 200 }));
    // Not a byte of the masking key or of the payload is there.
    assert_eq!(decode_slices(&[&b"\x82\xfe\x00\xc9"[..]], 200), too_big);
    assert_eq!(decode_slices(&[&b"\x82\xff\x00\x00\x00\x00\x04\x00\x00\x00"[..]], 200), too_big);
    let fragment = frame(0x02, &[0; 150]);
    assert_eq!(decode_slices(&[&fragment[..], b"\x80\xb3"], 200), too_big);
}

#[test]
fn a_new_cap_holds_from_the_next_frame_on() {
    let fragment = frame(0x01, &[b'x'; 100]);
    for (last, cap, expected) in [
        (&b""[..], 100, None),
        (b"", 99, Some(ProtocolError::MessageTooBig { len_max: 99 })),
        (b"y", 101, None),
        (b"y", 10, Some(ProtocolError::MessageTooBig { len_max: 10 })),
    ] {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(&fragment[..50], 100, &mut vec![]), None);
        assert_eq!(decoder.feed(&fragment[50..], 1, &mut vec![]), None);
        assert_eq!(decoder.feed(&frame(0x80, last), cap, &mut vec![]), expected);
    }
}

#[test]
fn a_decoder_is_two_words_and_owns_nothing_between_messages() {
    assert_eq!(size_of::<Decoder>(), 16);
    let mut decoder = Decoder::new();
    assert_eq!(decoder.heap_bytes(), 0);
    let frames = [(0x81, &b"text"[..]), (0x01, b"te"), (0x89, b"ping"), (0x80, b"xt"), (0x82, &[0; 5000])];
    for chunk in [1, 3, 7, 100, 10_000] {
        for slice in stream(&frames).chunks(chunk) {
            assert_eq!(decoder.feed(slice, MAX, &mut vec![]), None);
        }
        assert_eq!(decoder.heap_bytes(), 0, "in chunks of {chunk}");
    }
    decoder.feed(&frame(0x88, b"")[..3], MAX, &mut vec![]);
    assert_ne!(decoder.heap_bytes(), 0);
    decoder.feed(&frame(0x88, b"")[3..], MAX, &mut vec![]);
    assert_eq!(decoder.heap_bytes(), 0);
    // What was open when the client closed is given back as well.
    let mut decoder = Decoder::new();
    decoder.feed(&stream(&[(0x01, &[b'x'; 5000]), (0x88, b"")]), MAX, &mut vec![]);
    assert_eq!(decoder.heap_bytes(), 0);
}

#[test]
fn an_announced_length_reserves_nothing() {
    for first in [0x81, 0x82, 0x01, 0x02] {
        let mut head = vec![first, 0xff];
        head.extend((64_u64 << 20).to_be_bytes());
        head.extend(MASK);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(&head, 64 << 20, &mut vec![]), None);
        assert_eq!(decoder.heap_bytes(), size_of::<Partial>());

        // It grows with what comes, by doubling.
        let (mut come, mut grown, mut kept) = (0, 0, 0);
        while come < 100_000 {
            let piece: Vec<u8> = (come..come + 100).map(|at| MASK[at % 4] ^ b'x').collect();
            assert_eq!(decoder.feed(&piece, 64 << 20, &mut vec![]), None);
            come += piece.len();
            grown += usize::from(decoder.heap_bytes() != kept);
            kept = decoder.heap_bytes();
            assert!(kept <= size_of::<Partial>() + 2 * come, "{kept} for {come}");
        }
        assert!(grown < 20, "{grown} allocations");
    }
}

#[test]
fn memory_never_exceeds_the_cap() {
    let stream = frame(0x82, &[0; 1000]);
    let mut decoder = Decoder::new();
    for slice in stream[..stream.len() - 1].chunks(7) {
        decoder.feed(slice, 1000, &mut vec![]);
        assert!(decoder.heap_bytes() <= size_of::<Partial>() + 1000);
    }
}

#[test]
fn a_whole_frame_in_one_slice_is_borrowed_from_it() {
    let mut decoder = Decoder::new();
    for (first, lead) in [(0x81, 0), (0x82, 3), (0x89, 5), (0x8a, 1)] {
        // Also when its head was cut off: only the head has been kept then.
        let whole = frame(first, b"payload");
        assert_eq!(decoder.feed(&whole[..lead], MAX, &mut vec![]), None);
        let mut slice = whole[lead..].to_vec();
        let range = slice.as_ptr_range();
        let mut at = 0;
        let payload = match decoder.next(&mut slice, &mut at, MAX).unwrap().unwrap() {
            Event::Text(text) => text.as_bytes(),
            Event::Binary(bytes) | Event::Ping(bytes) | Event::Pong(bytes) => bytes,
            Event::Close(_) => panic!("not a close"),
        };
        assert_eq!(payload, b"payload");
        assert!(range.contains(&payload.as_ptr()), "opcode {first:#x}");
        assert_eq!(decoder.next(&mut slice, &mut at, MAX), Ok(None));
    }
}

#[test]
fn nothing_is_decoded_after_a_fault() {
    let cases = [frame(0x81, b"\xff"), frame(0x88, b"x"), frame(0x83, b""), frame(0x01, b"\xff")];
    let later = stream(&[(0x81, b"later"), (0xff, b"")]);
    for bad in cases {
        for cut in 0..bad.len() {
            let mut decoder = Decoder::new();
            let mut events = Vec::new();
            let front = decoder.feed(&bad[..cut], MAX, &mut events);
            let error = front.or_else(|| decoder.feed(&bad[cut..], MAX, &mut events));
            assert!(error.is_some());
            assert_eq!(decoder.feed(&later, MAX, &mut events), None);
            assert_eq!((events, decoder.heap_bytes()), (vec![], 0));
        }
    }
}

/// A message or control frame as a client may send it.
#[derive(Clone, Debug)]
enum Sent {
    Data { opcode: OpCode, fragments: Vec<Vec<u8>>, controls: Vec<(bool, Vec<u8>)> },
    Control(bool, Vec<u8>),
}

impl Sent {
    /// The frames as the client of fastwebsockets writes them, and the events they must give.
    fn encode(&self, mask: [u8; 4], stream: &mut Vec<u8>, events: &mut Vec<Owned>) {
        let mut write = |fin, opcode, payload: &[u8]| {
            let mut frame = OracleFrame::new(fin, opcode, Some(mask), payload.to_vec().into());
            frame.mask();
            stream.extend_from_slice(frame.write(&mut Vec::new()));
        };
        let mut control = |is_ping: bool, payload: &[u8], write: &mut dyn FnMut(bool, OpCode, &[u8])| {
            write(true, if is_ping { OpCode::Ping } else { OpCode::Pong }, payload);
            let payload = payload.to_vec();
            events.push(if is_ping { Owned::Ping(payload) } else { Owned::Pong(payload) });
        };
        match self {
            Self::Control(is_ping, payload) => control(*is_ping, payload, &mut write),
            Self::Data { opcode, fragments, controls } => {
                let mut controls = controls.iter();
                for (index, fragment) in fragments.iter().enumerate() {
                    let opcode = if index == 0 { *opcode } else { OpCode::Continuation };
                    let fin = index + 1 == fragments.len();
                    write(fin, opcode, fragment);
                    if let Some((is_ping, payload)) = controls.next().filter(|_| !fin) {
                        control(*is_ping, payload, &mut write);
                    }
                }
                let whole = fragments.concat();
                events.push(match opcode {
                    OpCode::Text => Owned::Text(String::from_utf8(whole).unwrap()),
                    _ => Owned::Binary(whole),
                });
            }
        }
    }
}

/// Cuts `bytes` at these places, taken modulo its length.
fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn sent() -> impl Strategy<Value = Sent> {
    let control = || (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125));
    let bytes = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..300),
        1 => prop::collection::vec(any::<u8>(), 65_530..65_600),
    ];
    let text = prop_oneof![8 => ".{0,100}", 1 => "[a-zé€😀]{22000}"];
    let payload = prop_oneof![
        text.prop_map(|text| (OpCode::Text, text.into_bytes())),
        bytes.prop_map(|bytes| (OpCode::Binary, bytes))
    ];
    let places = prop::collection::vec(any::<usize>(), 0..4);
    let data = (payload, places, prop::collection::vec(control(), 0..4)).prop_map(
        |((opcode, payload), places, controls)| {
            let fragments = cut(&payload, &places).into_iter().map(<[u8]>::to_vec).collect();
            Sent::Data { opcode, fragments, controls }
        },
    );
    prop_oneof![4 => data, 1 => control().prop_map(|(is_ping, payload)| Sent::Control(is_ping, payload))]
}

/// Beginnings of frames, so that bytes at random come further than the first head.
const LEADS: [&[u8]; 6] = [b"", b"\x81\x8a", b"\x01\x83", b"\x82\xfe\x00\x90", b"\x88\x85", b"\x89\x80"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_fastwebsockets_sends_is_decoded_however_it_is_cut(
        sent in prop::collection::vec(sent(), 0..6),
        mask in any::<[u8; 4]>(),
        places in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (mut stream, mut events) = (Vec::new(), Vec::new());
        for sent in &sent {
            sent.encode(mask, &mut stream, &mut events);
        }
        let expected = (events, None);
        prop_assert_eq!(&decode(&stream), &expected);
        prop_assert_eq!(&decode_slices(&cut(&stream, &places), MAX), &expected);
    }

    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(
        mut stream in prop::collection::vec(any::<u8>(), 0..64),
        lead in prop::sample::select(LEADS.to_vec()),
        places in prop::collection::vec(any::<usize>(), 0..8),
        message_bytes_max in 0_usize..200,
    ) {
        stream.splice(0..0, lead.iter().copied());
        let whole = decode_slices(&[&stream[..]], message_bytes_max);
        prop_assert_eq!(&decode_slices(&cut(&stream, &places), message_bytes_max), &whole);
        prop_assert_eq!(&decode_slices(&bytewise(&stream), message_bytes_max), &whole);
    }

    #[test]
    fn text_is_what_the_standard_library_takes_for_utf_8(
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            prop::collection::vec(
                prop::sample::select(b"\x7f\x80\x8f\x90\xbf\xc2\xe0\xed\xef\xf0\xf4\xf5".to_vec()),
                0..8,
            ),
        ],
        fragments in prop::collection::vec(any::<usize>(), 0..4),
        places in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let expected = match str::from_utf8(&payload) {
            Ok(valid) => (vec![text(valid)], None),
            Err(_) => (vec![], Some(ProtocolError::TextUtf8)),
        };
        let fragments = cut(&payload, &fragments);
        let mut stream = Vec::new();
        for (index, fragment) in fragments.iter().enumerate() {
            let fin = if index + 1 == fragments.len() { 0x80 } else { 0 };
            stream.extend(frame(fin | u8::from(index == 0), fragment));
        }
        prop_assert_eq!(&decode_slices(&cut(&stream, &places), MAX), &expected);
        prop_assert_eq!(&decode(&stream), &expected);
    }
}
