//! What it costs to find a path's route, in an ordinary file and among 1,000 patterns, and to compile those.
//!
//! `cargo bench --bench route`

#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a bench may panic")]

use std::hint::black_box;

use anteroom::route::{Pattern, Table};
use criterion::{Criterion, criterion_group, criterion_main};

/// As many routes as the promise of 2 µs is about.
const ROUTES: usize = 1000;

fn table(capture: &str) -> Table {
    let texts = (0..ROUTES).map(|at| format!("^ws/app{at}/(?P<room>{capture})/$"));
    Table::new(texts.map(|text| Pattern::re_path(&text).unwrap()).collect()).unwrap()
}

fn find(criterion: &mut Criterion) {
    for (form, capture) in [("unicode", r"\w+"), ("segment", "[^/]+")] {
        let table = table(capture);
        let mut group = criterion.benchmark_group(format!("route/{form}"));
        for (name, path, expected) in [
            ("first", "/ws/app0/lobby/", Some(0)),
            ("997th", "/ws/app996/lobby/", Some(996)),
            ("none", "/ws/app1000/lobby/", None),
            ("elsewhere", "/static/css/site.css", None),
        ] {
            assert_eq!(table.matches(path).next(), expected);
            group.bench_function(name, |bencher| bencher.iter(|| table.matches(black_box(path)).next()));
        }
        group.bench_function("997th with captures", |bencher| {
            bencher.iter(|| {
                let path = black_box("/ws/app996/lobby/");
                table.matches(path).next().map(|index| table.captures(index, path))
            });
        });
        group.finish();
    }
}

/// A file as most are: a fixed answer, the files, the room, and the application for the rest.
fn few(criterion: &mut Criterion) {
    let texts = ["/fixed", "/static/(?P<path>.*)", r"/ws/chat/(?P<room>\w+)/", "/.*"];
    let table = Table::new(texts.map(|text| Pattern::path(text).unwrap()).to_vec()).unwrap();
    let mut group = criterion.benchmark_group("route/few");
    for (name, path, expected) in [
        ("fixed", "/fixed", 0),
        ("static", "/static/css/site.css", 1),
        ("room", "/ws/chat/lobby/", 2),
        ("app", "/accounts/login/", 3),
    ] {
        assert_eq!(table.matches(path).next(), Some(expected));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let path = black_box(path);
                table.matches(path).next().map(|index| table.captures(index, path))
            });
        });
    }
    group.finish();
}

fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route/load");
    group.sample_size(10);
    for (name, capture) in [("unicode", r"\w+"), ("segment", "[^/]+")] {
        group.bench_function(name, |bencher| bencher.iter(|| table(capture)));
    }
    group.finish();
}

criterion_group!(benches, few, find, load);
criterion_main!(benches);
