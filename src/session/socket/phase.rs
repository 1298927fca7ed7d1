//! Where a socket is in its life, and why it ends.

use tokio::time::Instant;

use crate::websocket::CloseCode;

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) enum Phase {
    Open,
    /// Our close frame is queued or sent; the client's answer is awaited until then.
    Closing {
        cause: Cause,
        code: CloseCode,
        until: Instant,
    },
    /// The client has closed. What is queued, our answer at the end of it, has until then to leave.
    Answered {
        code: Option<CloseCode>,
        until: Instant,
    },
    /// Nothing is to be expected any more. What takes leave of the client has until then, or no time at all.
    Ended {
        cause: Cause,
        code: Option<CloseCode>,
        until: Option<Instant>,
    },
}

/// Why a socket ends: the closed set of the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Cause {
    /// The client closed it.
    Client,
    /// The connection ended without a close frame.
    ClientGone,
    /// The process stops.
    Shutdown,
    /// The application asked for it by `websocket.close`.
    Application,
    /// The client read too slowly.
    Slow,
    /// No sign of life after a ping.
    PingTimeout,
    /// It got as old as a socket of its route may.
    MaxAge,
    /// Nothing was said for too long.
    Idle,
    /// The client said too much.
    Rate,
    /// A message above the limit.
    TooBig,
    /// The client broke RFC 6455.
    Protocol,
    /// Our fault.
    Internal,
}

impl Cause {
    /// Every cause.
    pub(in crate::session) const ALL: [Self; 12] = [
        Self::Client,
        Self::ClientGone,
        Self::Shutdown,
        Self::Application,
        Self::Slow,
        Self::PingTimeout,
        Self::MaxAge,
        Self::Idle,
        Self::Rate,
        Self::TooBig,
        Self::Protocol,
        Self::Internal,
    ];

    /// The metric label and the word in the log.
    pub(in crate::session) fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientGone => "client_gone",
            Self::Shutdown => "shutdown",
            Self::Application => "application",
            Self::Slow => "slow",
            Self::PingTimeout => "ping_timeout",
            Self::MaxAge => "max_age",
            Self::Idle => "idle",
            Self::Rate => "rate",
            Self::TooBig => "too_big",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
        }
    }
}
