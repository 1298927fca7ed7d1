//! What one message costs a room once, whatever the number of its sockets: from a client's frame to an event,
//! and from an event to a frame.

#![allow(missing_docs, clippy::expect_used, reason = "criterion's macros; a bench may panic")]

use std::hint::black_box;

use anteroom::channel_layer::Message;
use anteroom::handler::{
    Announce, Command, Deliver, Event, Format, Handler, Receive, Rendering, Room, State,
};
use anteroom::websocket::{OpCode, write_frame};
use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Characters of what is said.
const SAID_LEN: usize = 128;

fn room(format: Format) -> Handler {
    let (kind, pick) = match format {
        Format::Json | Format::Text => ("chat.message", vec!["message".to_owned()]),
        Format::Raw => ("room.message", Vec::new()),
    };
    Handler::Room(Room {
        group: None,
        format,
        publish: true,
        receive: Receive { kind: kind.to_owned(), pick: pick.clone(), reply_channel: false },
        deliver: vec![Deliver { kind: kind.to_owned(), pick }],
        direct: Vec::new(),
        announce: Announce::default(),
        welcome: None,
        username: "Anonymous".parse().expect("a template without placeholders"),
    })
}

fn render(criterion: &mut Criterion) {
    let said = "x".repeat(SAID_LEN);
    let mut group = criterion.benchmark_group("render");
    group.throughput(Throughput::Elements(1));
    let cases = [
        ("json", Format::Json, Message::new("chat.message").with("message", said.as_str())),
        ("text", Format::Text, Message::new("chat.message").with("message", said.as_str())),
        ("raw", Format::Raw, Message::new("room.message").with("text", said.as_str())),
    ];
    for (name, format, message) in cases {
        let handler = room(format);
        let mut payload = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || BytesMut::with_capacity(2 * SAID_LEN),
                |frames| {
                    payload.clear();
                    assert_eq!(handler.render(black_box(&message), &mut payload), Rendering::Text);
                    write_frame(frames, OpCode::Text, &payload);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn receive(criterion: &mut Criterion) {
    let json = format!(r#"{{"message": "{}"}}"#, "x".repeat(SAID_LEN));
    let mut group = criterion.benchmark_group("receive");
    group.throughput(Throughput::Elements(1));
    for (name, format) in [("json", Format::Json), ("text", Format::Text), ("raw", Format::Raw)] {
        let handler = room(format);
        let mut state = State::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut published = 0;
                handler.on_event(&mut state, Event::Text(black_box(&json)), &mut |command| {
                    published += usize::from(matches!(black_box(command), Command::Publish(_)));
                });
                assert_eq!(published, 1);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, render, receive);
criterion_main!(benches);
