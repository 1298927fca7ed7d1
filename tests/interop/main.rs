//! Tests beside the programs that stand next to the server: Redis, Django Channels, nginx, `HAProxy`, a browser.
//!
//! `tests/setup` installs what they need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test that panics has failed"
)]

mod autobahn;
mod channels_redis;
mod chromium;
mod clients;
mod core;
mod direct;
mod django;
mod example;
mod doctor;
mod fronts;
mod haproxy;
mod hosts;
mod migration;
mod nginx;
mod peer;
mod projects;
mod promises;
mod publish;
mod rooms;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod webdriver;
mod websocat;
