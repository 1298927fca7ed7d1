//! What a client sends after the handshake. Two bytes of limit and one that says how the rest is cut go before it.

#![no_main]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anteroom::websocket::{CloseCode, Decoder, Event, OpCode, ProtocolError, close_payload, write_frame};
use fastwebsockets::{FragmentCollector, Frame, Role, WebSocket};
use libfuzzer_sys::{Corpus, fuzz_target};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(CloseCode, String)>),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(reason) => Self::Close(reason.map(|it| (it.code, it.reason.to_owned()))),
        }
    }
}

impl Owned {
    fn opcode(&self) -> OpCode {
        match self {
            Self::Text(_) => OpCode::Text,
            Self::Binary(_) => OpCode::Binary,
            Self::Ping(_) => OpCode::Ping,
            Self::Pong(_) => OpCode::Pong,
            Self::Close(_) => OpCode::Close,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => bytes.clone(),
            Self::Close(None) => Vec::new(),
            Self::Close(Some((code, reason))) => {
                let mut payload = Vec::new();
                close_payload(*code, reason, &mut payload);
                payload
            }
        }
    }
}

type Outcome = (Vec<Owned>, Option<ProtocolError>);

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((&[high, low, cut], stream)) = data.split_first_chunk() else { return Corpus::Reject };
    let limit = usize::from(u16::from_be_bytes([high, low]));
    let whole = decode([stream], limit);
    assert_eq!(decode(stream.chunks(1), limit), whole);
    assert_eq!(decode(stream.chunks(usize::from(cut).max(1)), limit), whole);
    let (front, back) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(decode([front, back], limit), whole);

    let (events, error) = whole;
    for event in &events {
        let payload = event.payload();
        match event {
            Owned::Text(_) | Owned::Binary(_) => assert!(payload.len() <= limit),
            _ => assert!(payload.len() <= 125),
        }
        // There and back again, the client being one that we did not write.
        let mut buffer = Vec::new();
        let mut frame =
            Frame::new(true, event.opcode(), Some([cut, 0xfa, 0x21, high]), payload.clone().into());
        frame.mask();
        let masked = frame.write(&mut buffer).to_vec();
        assert_eq!(decode([&masked[..]], limit), (vec![event.clone()], None));
        let mut ours = Vec::new();
        write_frame(&mut ours, event.opcode(), &payload);
        assert_eq!(ours, Frame::new(true, event.opcode(), None, payload.into()).write(&mut buffer));
    }
    // It takes more than we do, but what we take it takes in the same way.
    if error.is_none() {
        assert_eq!(taken_by_fastwebsockets(stream, events.len()), events);
    }
    Corpus::Keep
});

fn decode<'a>(slices: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> Outcome {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    let mut end = None;
    for slice in slices {
        let mut slice = slice.to_vec();
        let mut at = 0;
        loop {
            let before = at;
            match decoder.next(&mut slice, &mut at, limit) {
                Ok(Some(event)) => {
                    let closed = matches!(events.last(), Some(Owned::Close(_)));
                    assert!(
                        end.is_none() && !closed && before < at,
                        "an event comes of bytes, before the end"
                    );
                    events.push(Owned::from(event));
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(end.replace(error), None, "there is one error");
                    let _ = error.close_code();
                }
            }
        }
        assert_eq!(at, slice.len(), "all is consumed");
    }
    (events, end)
}

fn taken_by_fastwebsockets(stream: &[u8], count: usize) -> Vec<Owned> {
    let mut socket = WebSocket::after_handshake(tokio::io::join(stream, tokio::io::sink()), Role::Server);
    // Its type for close codes refuses 1014, and it answers pings in place of showing them.
    socket.set_auto_close(false);
    socket.set_auto_pong(false);
    let mut frames = FragmentCollector::new(socket);
    let mut events = Vec::new();
    while events.len() < count {
        let frame = pin!(frames.read_frame()).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(frame)) = frame else { break };
        let payload = frame.payload.to_vec();
        events.push(match frame.opcode {
            OpCode::Text => Owned::Text(String::from_utf8(payload).unwrap()),
            OpCode::Ping => Owned::Ping(payload),
            OpCode::Pong => Owned::Pong(payload),
            OpCode::Close => Owned::Close(payload.split_first_chunk().map(|(&code, reason)| {
                let code = CloseCode::new(u16::from_be_bytes(code)).unwrap();
                (code, str::from_utf8(reason).unwrap().to_owned())
            })),
            OpCode::Binary | OpCode::Continuation => Owned::Binary(payload),
        });
    }
    events
}
