//! What a server answers until it closes. A byte goes before it: whether a HEAD is answered, and how the rest is cut.

#![no_main]

use anteroom::upstream::answer::{Decoder, Head, Piece};
use bytes::Bytes;
use libfuzzer_sys::{Corpus, fuzz_target};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Why there is no answer.
    refused: Option<&'static str>,
    /// Status and headers.
    head: Option<(u16, Vec<(String, Vec<u8>)>)>,
    is_chunked: bool,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    /// Whether the body came to its end, and how much is behind it.
    rest: Option<usize>,
}

fn lines(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

fn read<'a>(mut pieces: impl Iterator<Item = &'a [u8]>, to_head: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut input = Bytes::new();
    let mut searched = 0;
    let mut head = loop {
        match Head::take(&mut input, &mut searched, to_head) {
            Err(reason) => {
                outcome.refused = Some(reason);
                return outcome;
            }
            Ok(Some(head)) if head.is_interim() => (),
            Ok(Some(head)) => break head,
            Ok(None) => match pieces.next() {
                Some(piece) => input = [&input, piece].concat().into(),
                None => return outcome,
            },
        }
    };
    outcome.head = Some((head.status.as_u16(), lines(&head.headers)));
    outcome.is_chunked = matches!(head.body, Decoder::Chunked(_));
    loop {
        match head.body.next(&mut input) {
            Err(_) => {
                assert!(head.body.next(&mut input).is_err(), "nothing comes behind what is no body");
                return outcome;
            }
            Ok(Some(Piece::Data(data))) => {
                assert!(!data.is_empty());
                outcome.body.extend_from_slice(&data);
            }
            Ok(Some(Piece::Trailers(trailers))) => outcome.trailers = lines(&trailers),
            Ok(None) if head.body.is_done() => break,
            Ok(None) => match pieces.next() {
                Some(piece) => input = [&input, piece].concat().into(),
                None if head.body.close() => break,
                None => return outcome,
            },
        }
    }
    outcome.rest = Some(input.len() + pieces.map(<[u8]>::len).sum::<usize>());
    outcome
}

/// A body of chunks as another reads it, who is more lenient.
fn read_chunks(mut sent: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((line_len, len))) = httparse::parse_chunk_size(sent) else {
            return None;
        };
        let len = usize::try_from(len).ok()?;
        sent = &sent[line_len..];
        if len == 0 {
            return Some(body);
        }
        body.extend_from_slice(sent.get(..len)?);
        sent = sent.get(len..)?.strip_prefix(b"\r\n")?;
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let [how, sent @ ..] = data else { return Corpus::Reject };
    let (to_head, piece_len) = (how & 1 == 1, usize::from(how >> 1) + 1);
    let whole = read(std::iter::once(sent), to_head);
    let pieces = read(sent.chunks(piece_len), to_head);

    // How much of a body is seen before it breaks depends on how it comes, and nothing else.
    if whole.rest.is_some() || pieces.rest.is_some() {
        assert_eq!(whole, pieces);
    }
    // What is wrong with a head that never ends need not be found.
    if whole.head.is_some() || pieces.head.is_some() {
        assert_eq!(whole.head, pieces.head);
    }

    let Some((status, headers)) = &whole.head else { return Corpus::Keep };
    assert!((100..1000).contains(status) && (*status == 101 || 200 <= *status));
    let values = |name: &str| {
        headers.iter().filter(|(one, _)| one == name).map(|(_, value)| value).collect::<Vec<_>>()
    };
    let lengths = values("content-length");
    assert!(lengths.len() <= 1, "a length is said once");
    if let (Some(rest), false) = (whole.rest, to_head || [101, 204, 304].contains(status)) {
        assert!(!whole.is_chunked || lengths.is_empty(), "one way to say where it ends");
        if let [length] = lengths[..] {
            assert_eq!(str::from_utf8(length).unwrap().parse(), Ok(whole.body.len()));
        }
        if whole.is_chunked {
            let sent = &sent[..sent.len() - rest];
            let start =
                (0..sent.len()).find(|&at| sent[..at].ends_with(b"\n\r\n") || sent[..at].ends_with(b"\n\n"));
            // Behind heads that went before, the start is not so easily found.
            if let Some(start) =
                start.filter(|_| !sent.starts_with(b"HTTP/1.1 1") && !sent.starts_with(b"HTTP/1.0 1"))
            {
                assert_eq!(read_chunks(&sent[start..]), Some(whole.body));
            }
        }
    }
    Corpus::Keep
});
