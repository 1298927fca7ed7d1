use super::*;

/// What a server sends until it closes, as it is read: the heads, the body, and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// Status, body, and whether the connection could be used again.
    Whole(u16, String, bool),
    /// No head; why.
    NoAnswer(&'static str),
    /// It ended within its head.
    NoHead,
    /// The body is malformed or cut off, after this.
    Broken(u16, String),
}

/// Reads an answer that comes in pieces of this length.
fn read_in_pieces(sent: &[u8], to_head: bool, piece_len: usize) -> Read {
    let mut pieces = sent.chunks(piece_len);
    let mut input = Bytes::new();
    let mut searched = 0;
    let mut head = loop {
        match Head::take(&mut input, &mut searched, to_head) {
            Err(reason) => return Read::NoAnswer(reason),
            Ok(Some(head)) if head.is_interim() => (),
            Ok(Some(head)) => break head,
            Ok(None) => match pieces.next() {
                Some(piece) => input = [&input, piece].concat().into(),
                None => return Read::NoHead,
            },
        }
    };
    let status = head.status.as_u16();
    let mut body = String::new();
    loop {
        match head.body.next(&mut input) {
            Err(Malformed) => return Read::Broken(status, body),
            Ok(Some(Piece::Data(data))) => body.push_str(str::from_utf8(&data).unwrap()),
            Ok(Some(Piece::Trailers(trailers))) => {
                for (name, value) in &*trailers {
                    body.extend([" +", name.as_str(), ": ", value.to_str().unwrap()]);
                }
            }
            Ok(None) if head.body.is_done() => break,
            Ok(None) => match pieces.next() {
                Some(piece) => input = [&input, piece].concat().into(),
                None if head.body.close() => break,
                None => return Read::Broken(status, body),
            },
        }
    }
    let is_quiet = input.is_empty() && pieces.next().is_none();
    Read::Whole(status, body, head.keeps && is_quiet)
}

/// The same however it is cut.
fn read(sent: &[u8], to_head: bool) -> Read {
    let whole = read_in_pieces(sent, to_head, usize::MAX);
    for piece_len in [1, 2, 3, 7, 64, 4096] {
        let pieces = read_in_pieces(sent, to_head, piece_len);
        let malformed =
            matches!((&whole, &pieces), (Read::Broken(one, _), Read::Broken(other, _)) if one == other);
        // How much of a broken body is seen before that is found out depends on how it comes.
        assert!(
            malformed || pieces == whole,
            "in pieces of {piece_len}: {pieces:?} {whole:?} {}",
            sent.escape_ascii()
        );
    }
    whole
}

fn whole(status: u16, body: &str, keeps: bool) -> Read {
    Read::Whole(status, body.to_owned(), keeps)
}

fn broken(body: &str) -> Read {
    Read::Broken(200, body.to_owned())
}

const CHUNKED: &str = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n";

#[test]
fn an_answer_has_one_reading() {
    let no = Read::NoAnswer;
    let cases = [
        // Lengths.
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", whole(200, "ok", true)),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", whole(200, "", true)),
        ("HTTP/1.1 200 OK\nContent-Length: 3\n\nok", broken("ok")),
        ("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok", whole(200, "ok", true)),
        ("HTTP/1.1 200 OK\nContent-Length: 2, 2\n\nok", whole(200, "ok", true)),
        ("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: 2, 3\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: 2,\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length:\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: +2\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: -2\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: 0x2\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: 2 2\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: 18446744073709551616\n\nok", no(NO_LENGTH)),
        ("HTTP/1.1 200 OK\nContent-Length: 18446744073709551615\n\nok", broken("ok")),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 1\nContent-Length: 2\n\n", no(NO_LENGTH)),
        // Chunks.
        ("HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n2\nok\n0\n\n", whole(200, "ok", true)),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 2\n\n2\nok\n0\n\n", no(NO_LENGTH)),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n",
            no(UNKNOWN_CODING),
        ),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n0\n\n", no(UNKNOWN_CODING)),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked, gzip\n\n0\n\n", no(UNKNOWN_CODING)),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\nok", no(UNKNOWN_CODING)),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: identity\n\nok", no(UNKNOWN_CODING)),
        ("HTTP/1.1 200 OK\nTransfer-Encoding:\n\nok", no(UNKNOWN_CODING)),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: \u{b}chunked\n\n0\n\n", no(MALFORMED)),
        ("HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n0\n\n", no(UNKNOWN_CODING)),
        // The end of the connection.
        ("HTTP/1.1 200 OK\n\nok", whole(200, "ok", false)),
        ("HTTP/1.1 200 OK\nConnection: keep-alive\n\nok", whole(200, "ok", false)),
        ("HTTP/1.0 200 OK\n\nok", whole(200, "ok", false)),
        ("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 2\n\nok", whole(200, "ok", false)),
        ("HTTP/1.1 200 OK\nConnection: X, Close\nContent-Length: 2\n\nok", whole(200, "ok", false)),
        (
            "HTTP/1.1 200 OK\nConnection: close\nConnection: keep-alive\nContent-Length: 2\n\nok",
            whole(200, "ok", false),
        ),
        ("HTTP/1.0 200 OK\nContent-Length: 2\n\nok", whole(200, "ok", false)),
        ("HTTP/1.0 200 OK\nConnection: Keep-Alive\nContent-Length: 2\n\nok", whole(200, "ok", true)),
        // What is behind an answer is none of the next request's.
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\n\n", whole(200, "ok", false)),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok\n", whole(200, "ok", false)),
        ("HTTP/1.1 204 No Content\n\nok", whole(204, "", false)),
        // Without a body.
        ("HTTP/1.1 204 No Content\n\n", whole(204, "", true)),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 9\n\n", whole(304, "", true)),
        ("HTTP/1.1 304 Not Modified\nTransfer-Encoding: chunked\n\n", whole(304, "", true)),
        // Ahead of the answer.
        ("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok", whole(200, "ok", true)),
        (
            "HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 102 P\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n",
            whole(200, "", true),
        ),
        ("HTTP/1.1 100 Continue\nContent-Length: 2\n\nokHTTP/1.1 200 OK\n\n", no(MALFORMED)),
        ("HTTP/1.1 100 Continue\n\n", Read::NoHead),
        // Heads.
        ("", Read::NoHead),
        ("HTTP/1.1 200 OK\nContent-Length: 2", Read::NoHead),
        ("HTTP/1.1 200\n\nok", whole(200, "ok", false)),
        ("HTTP/1.1 299 Odd\nContent-Length: 0\n\n", whole(299, "", true)),
        ("HTTP/1.1 99 Odd\n\n", no(MALFORMED)),
        ("HTTP/1.1 2000 OK\n\n", no(MALFORMED)),
        ("HTTP/1.2 200 OK\n\n", no(MALFORMED)),
        ("HTTP/2 200 OK\n\n", no(MALFORMED)),
        ("HTTP/0.9 200 OK\n\n", no(MALFORMED)),
        ("ICY 200 OK\n\n", no(MALFORMED)),
        ("SMTP ready", no(MALFORMED)),
        ("\nHTTP/1.1 200 OK\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\nContent-Length : 2\n\nok", no(MALFORMED)),
        ("HTTP/1.1 200 OK\nX: a\n b\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\n X: a\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\nX\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\n: a\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\nX Y: a\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\nX: a\u{0}b\n\n", no(MALFORMED)),
        ("HTTP/1.1 200 OK\nX: a\rb\n\n", no(MALFORMED)),
    ];
    for (sent, expected) in cases {
        assert_eq!(read(sent.replace('\n', "\r\n").as_bytes(), false), expected, "{sent:?}");
    }
}

#[test]
fn a_chunk_has_one_reading() {
    let cases = [
        ("0\n\n", whole(200, "", true)),
        ("2\nok\n0\n\n", whole(200, "ok", true)),
        ("1\no\n1\nk\n0\n\n", whole(200, "ok", true)),
        ("a\n0123456789\n0\n\n", whole(200, "0123456789", true)),
        ("A\n0123456789\n0\n\n", whole(200, "0123456789", true)),
        ("02\nok\n00\n\n", whole(200, "ok", true)),
        ("0000000000000002\nok\n0000000000000000\n\n", whole(200, "ok", true)),
        ("2;a=b\nok\n0;c\n\n", whole(200, "ok", true)),
        ("2 \t;a=\"b\"\nok\n0 \n\n", whole(200, "ok", true)),
        ("2\nok\n0\nX: y\nZ:\n\n", whole(200, "ok +x: y +z: ", true)),
        ("2\nok\n0\n\nHTTP/1.1 200 OK\n\n", whole(200, "ok", false)),
        // Cut off.
        ("", broken("")),
        ("2", broken("")),
        ("2\nok", broken("ok")),
        ("2\nok\n", broken("ok")),
        ("2\nok\n0", broken("ok")),
        ("2\nok\n0\n", broken("ok")),
        ("2\nok\n0\nX: y\n", broken("ok")),
        // Nothing that is a chunk.
        ("\n", broken("")),
        ("zz\nok\n", broken("")),
        ("-2\nok\n0\n\n", broken("")),
        ("+2\nok\n0\n\n", broken("")),
        (" 2\nok\n0\n\n", broken("")),
        ("0x2\nok\n0\n\n", broken("")),
        ("2 2\nok\n0\n\n", broken("")),
        ("2,\nok\n0\n\n", broken("")),
        ("2;a\u{0}\nok\n0\n\n", broken("")),
        ("2;a\rb\nok\n0\n\n", broken("")),
        ("2\r\nok\n0\n\n", broken("")),
        ("2\r;a\nok\n0\n\n", broken("")),
        ("2\u{c};a\nok\n0\n\n", broken("")),
        ("2\nokk\n0\n\n", broken("ok")),
        ("2\nok0\n\n", broken("ok")),
        ("10000000000000000\nok", broken("")),
        ("00000000000000002\nok\n0\n\n", broken("")),
        ("2\nok\n00000000000000000\n\n", broken("ok")),
        ("ffffffffffffffff\nok", broken("ok")),
        ("0\nX : y\n\n", broken("")),
        ("0\n X: y\n\n", broken("")),
        ("0\nHTTP/1.1 200 OK\n\n", broken("")),
    ];
    for (sent, expected) in cases {
        let sent = format!("{CHUNKED}{sent}").replace('\n', "\r\n");
        assert_eq!(read(sent.as_bytes(), false), expected, "{sent:?}");
    }
    // A line feed alone ends no line here.
    for sent in [
        "2\nok\r\n0\r\n\r\n",
        "2\r\nok\n0\r\n\r\n",
        "2\r\nok\r\n0\n\r\n",
        "2\r\nok\r\n0\r\n\n",
        "2;\n\r\nok\r\n0\r\n\r\n",
    ] {
        let sent = format!("{}{sent}", CHUNKED.replace('\n', "\r\n"));
        assert!(matches!(read(sent.as_bytes(), false), Read::Broken(200, _)), "{sent:?}");
    }
}

#[test]
fn the_answer_to_a_head_has_no_body() {
    for lines in ["Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        let sent = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        assert_eq!(read(sent.as_bytes(), true), whole(200, "", true), "{lines}");
    }
}

#[test]
fn nothing_is_longer_than_it_may_be() {
    let head = |lines: usize, len: usize| {
        let line = format!("X: {}\r\n", "a".repeat(len));
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", line.repeat(lines)).into_bytes()
    };
    let chunks = |body: String| format!("{}{body}", CHUNKED.replace('\n', "\r\n")).into_bytes();
    let extended = |count: usize| "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(count) + "0\r\n\r\n";
    let line = |len: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(len));
    let trailers = |lines: usize, len: usize| {
        format!("0\r\n{}\r\n", format!("X: {}\r\n", "a".repeat(len)).repeat(lines))
    };
    let cases = [
        (head(99, 1), true),
        (head(100, 1), false),
        (head(8, 8_000), true),
        (head(9, 8_000), false),
        (head(1, 1 << 20), false),
        (chunks(extended(1_024)), true),
        (chunks(extended(1_025)), false),
        (chunks(line(4_000)), true),
        (chunks(line(5_000)), false),
        (chunks(trailers(100, 1)), true),
        (chunks(trailers(101, 1)), false),
        (chunks(trailers(4, 4_000)), true),
        (chunks(trailers(5, 4_000)), false),
    ];
    for (at, (sent, is_taken)) in cases.into_iter().enumerate() {
        let whole = matches!(read_in_pieces(&sent, false, usize::MAX), Read::Whole(200, ..));
        assert_eq!(whole, is_taken, "case {at}");
        let pieces = matches!(read_in_pieces(&sent, false, 1_000), Read::Whole(200, ..));
        assert_eq!(pieces, is_taken, "case {at} in pieces");
    }
    // What never ends is given up, too, and before it is read.
    let endless = [
        "HTTP/1.1 200 OK\r\nX: ".to_owned(),
        format!("{}1;", CHUNKED.replace('\n', "\r\n")),
        format!("{}0\r\nX: ", CHUNKED.replace('\n', "\r\n")),
    ];
    for start in endless {
        let sent = start + &"a".repeat(HEAD_BYTES_MAX + 1_000);
        assert!(!matches!(read_in_pieces(&sent.into_bytes(), false, 1_000), Read::Whole(..) | Read::NoHead));
    }
}

#[test]
fn a_length_that_was_said_twice_goes_on_once() {
    let sent = "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX: 1\r\ncontent-length: 02, 2\r\nX: 2\r\n\r\n";
    let head = Head::take(&mut sent.into(), &mut 0, false).unwrap().unwrap();
    assert_eq!(head.headers.get_all(CONTENT_LENGTH).into_iter().collect::<Vec<_>>(), ["2"]);
    assert_eq!(head.headers.get_all("x").into_iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.reason.as_deref(), Some(&b"Fine"[..]));
}
