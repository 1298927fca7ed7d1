//! Why a request has no answer from the application.

use http::StatusCode;

use crate::upstream::metrics::Outcome;

/// An error of whatever type, from a body that is not ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request has no answer from the application, and so whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Every server is known to be down.
    #[error("no server of the upstream is up")]
    NoServer,
    /// As many requests as it may have are on their way.
    #[error("the upstream has as many requests as `max_inflight` allows")]
    Busy,
    /// A server cannot be connected to.
    #[error("the upstream cannot be connected to: {0}")]
    Connect(String),
    /// A connection did not come about in time.
    #[error("the upstream cannot be connected to in time")]
    ConnectTimeout,
    /// We have no descriptor, port or memory left for a connection, which says nothing of the server.
    #[error("nothing is left here for a connection to the upstream: {0}")]
    Shortage(String),
    /// The connection ended before the answer's head did.
    #[error("the upstream closed the connection without an answer")]
    Closed,
    /// What came is no answer to this request.
    #[error("the upstream sent no right answer: {0}")]
    BadResponse(&'static str),
    /// Nothing came for too long.
    #[error("the upstream does not answer in time")]
    ResponseTimeout,
    /// The client broke its body off, or sent something that is none: no fault of the upstream.
    #[error("the body of the request is broken: {0}")]
    ClientBody(BoxError),
}

impl UpstreamError {
    /// The status that tells the client.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoServer | Self::Connect(_) | Self::Closed | Self::BadResponse(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Busy | Self::Shortage(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientBody(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Busy => Outcome::Refused,
            Self::Shortage(_) => Outcome::Shortage,
            Self::NoServer | Self::Connect(_) | Self::Closed | Self::BadResponse(_) => Outcome::Error,
            Self::ConnectTimeout | Self::ResponseTimeout => Outcome::Timeout,
            Self::ClientBody(_) => Outcome::Client,
        }
    }
}
