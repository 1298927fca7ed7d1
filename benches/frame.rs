//! What the frames cost: decoding them from a read buffer, unmasking alone, writing a head.
//!
//! `cargo bench --bench frame`

use std::hint::black_box;

use anteroom::websocket::{Decoder, OpCode, head};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, unmask};

/// Unmasking is done in place, and this key leaves the bytes as they are at the price of any other: the
/// same buffer can be decoded again and again, as text too.
const MASK: [u8; 4] = [0; 4];

fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    Frame::new(true, opcode, Some(MASK), payload.into()).write(&mut Vec::new()).to_vec()
}

fn decode_all(decoder: &mut Decoder, input: &mut [u8]) -> usize {
    let (mut at, mut events) = (0, 0);
    while let Ok(Some(event)) = decoder.next(input, &mut at, 1 << 20) {
        black_box(event);
        events += 1;
    }
    events
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let ascii = |len| vec![b'x'; len];
    let german = |len: usize| "Größe: für Überall ".chars().cycle().take(len).collect::<String>();
    let cases = [
        ("text 128 B", frame(OpCode::Text, &ascii(128)), 1),
        ("text 128 characters, not ASCII", frame(OpCode::Text, german(128).as_bytes()), 1),
        ("text 16 KiB", frame(OpCode::Text, &ascii(16 << 10)), 1),
        ("binary 128 B", frame(OpCode::Binary, &ascii(128)), 1),
        ("binary 16 KiB", frame(OpCode::Binary, &ascii(16 << 10)), 1),
        ("16 pipelined texts of 128 B", frame(OpCode::Text, &ascii(128)).repeat(16), 16),
    ];
    for (name, mut input, events) in cases {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bencher| {
            let mut decoder = Decoder::new();
            bencher.iter(|| assert_eq!(decode_all(&mut decoder, black_box(&mut input)), events));
        });
    }

    let mut input = frame(OpCode::Text, &ascii(16 << 10));
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("text 16 KiB in pieces of 4 KiB", |bencher| {
        let mut decoder = Decoder::new();
        bencher.iter(|| {
            let events: usize = input.chunks_mut(4 << 10).map(|piece| decode_all(&mut decoder, piece)).sum();
            assert_eq!(events, 1);
        });
    });
    group.finish();
}

fn mask(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    for len in [128_usize, 16 << 10] {
        let mut payload = vec![b'x'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} B"), |bencher| {
            bencher.iter(|| unmask(black_box(&mut payload), black_box([1, 2, 3, 4])));
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for len in [100_usize, 1000, 100_000] {
        group.bench_function(format!("of {len} B"), |bencher| {
            bencher.iter(|| head(black_box(OpCode::Text), black_box(len)));
        });
    }
    group.finish();
}

criterion_group!(benches, decode, mask, encode);
criterion_main!(benches);
