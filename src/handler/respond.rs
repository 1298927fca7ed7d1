//! `handler = "respond"`: a fixed answer to a plain request.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// The answer that every request of the route gets.
#[derive(Clone, Debug)]
pub struct Respond {
    /// A final status: 200 to 599.
    pub status: StatusCode,
    /// Added to the answer; `Content-Length` is the server's business.
    pub headers: HeaderMap,
    /// Left out of the answer to a `HEAD` request.
    pub body: Bytes,
}
