//! anteroom: a WebSocket edge server for Django Channels.
//!
//! The modules stand in the order in which a connection meets them; those that steer the server come last.
//! Each imports only from modules below it on the ladder that `tests/it/architecture.rs` keeps.

pub mod listener;
pub mod request;
pub mod route;
pub mod websocket;
pub mod scope;
pub mod session;
pub mod files;
pub mod handler;
pub mod upstream;
pub mod channel_layer;
pub mod tls;
pub mod config;
pub mod reload;
pub mod admin;
pub mod server;
pub mod cli;
