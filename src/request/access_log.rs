//! One line for each handshake, at a bounded rate for those that are refused.

use std::cell::Cell;
use std::time::Duration;

use http::StatusCode;
use http::header;
use http::request::Parts;

use crate::listener::{ConnInfo, Peer};
use crate::request::Rejection;
use crate::scope::ClientAddr;

/// Lines about refusals between two beats, a second, on one worker. The metrics have them all.
const REFUSALS_MAX: u32 = 50;
/// What is shown of a header or path that a client chose, in characters.
const SHOWN_MAX: usize = 200;

/// The access log of one worker.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    /// Refusals since the last beat.
    refusals: Cell<u32>,
}

/// A request as the log shows it.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) conn: &'a ConnInfo,
    pub(super) route: &'a str,
    pub(super) client: ClientAddr,
    pub(super) head: &'a Parts,
    pub(super) took: Duration,
}

impl AccessLog {
    pub(super) fn refused(&self, seen: &Seen<'_>, rejection: &Rejection, websocket: bool) {
        if !self.may_write() {
            return;
        }
        tracing::info!(
            target: "anteroom::handshake",
            kind = if websocket { "websocket" } else { "plain" },
            conn = seen.conn.id,
            listener = &*seen.conn.listener,
            client = %seen.client,
            proxy = seen.conn.proxy.map(display),
            certificate = seen.certificate(),
            route = seen.route,
            http = ?seen.head.version,
            method = shown(seen.head.method.as_str()),
            path = seen.path(),
            host = seen.header(&header::HOST),
            origin = seen.header(&header::ORIGIN),
            status = rejection.status().as_u16(),
            reason = rejection.label(),
            ms = seen.ms(),
            "refused: {rejection}",
        );
    }

    /// A head that could not be read, and was answered all the same.
    pub(super) fn unreadable(
        &self,
        conn_id: u64,
        peer: Peer,
        status: StatusCode,
        reason: &'static str,
        error: &hyper::Error,
    ) {
        if self.may_write() {
            tracing::info!(
                target: "anteroom::handshake",
                kind = "plain",
                conn = conn_id,
                client = %peer,
                status = status.as_u16(),
                reason,
                "refused: {error}",
            );
        }
    }

    /// A connection in clear that begins as one of HTTP/2. It is hung up on, for it reads no answer of HTTP/1.1.
    pub(super) fn http2_in_clear(&self, conn_id: u64, peer: Peer) {
        if self.may_write() {
            tracing::info!(
                target: "anteroom::handshake",
                conn = conn_id,
                client = %peer,
                reason = "http2_in_clear",
                "refused: HTTP/2 is spoken over TLS only; have the proxy in front speak HTTP/1.1",
            );
        }
    }

    /// A second has passed. Says how many lines were left out of it.
    pub(super) fn beat(&self) {
        let left_out = self.refusals.take().saturating_sub(REFUSALS_MAX);
        if 0 < left_out {
            tracing::warn!(target: "anteroom::handshake", left_out, "refusals left out of the log");
        }
    }

    /// Counts a line against this second's share.
    fn may_write(&self) -> bool {
        self.refusals.set(self.refusals.get().saturating_add(1));
        self.refusals.get() <= REFUSALS_MAX
    }
}

impl Seen<'_> {
    pub(super) fn log_accepted(&self, generation: u64) {
        tracing::info!(
            target: "anteroom::handshake",
            kind = "websocket",
            conn = self.conn.id,
            listener = &*self.conn.listener,
            client = %self.client,
            proxy = self.conn.proxy.map(display),
            certificate = self.certificate(),
            route = self.route,
            http = ?self.head.version,
            path = self.path(),
            host = self.header(&header::HOST),
            origin = self.header(&header::ORIGIN),
            generation,
            ms = self.ms(),
            "accepted",
        );
    }

    /// Whose certificate the client has shown.
    fn certificate(&self) -> Option<&str> {
        let client = self.conn.tls.as_ref()?.client.as_ref()?;
        Some(&client.subject)
    }

    fn path(&self) -> String {
        shown(self.head.uri.path())
    }

    fn header(&self, name: &header::HeaderName) -> Option<String> {
        self.head.headers.get(name).map(|value| shown(&String::from_utf8_lossy(value.as_bytes())))
    }

    fn ms(&self) -> f64 {
        (self.took.as_secs_f64() * 1_000_000.0).round() / 1_000.0
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}
