//! Tests on the running parts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test that panics has failed"
)]
#![allow(clippy::float_cmp, reason = "what counts whole things is a whole number")]

mod architecture;
mod addresses;
mod admin;
mod admission;
mod channel_layer;
mod cli;
mod descriptors;
mod doctor;
mod files;
mod http2;
mod metrics;
mod outages;
mod proxy;
mod proxy_protocol;
mod publish;
mod reload;
mod rooms;
mod shutdown;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod websocket;
