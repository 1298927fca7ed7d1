//! RFC 6455 from the server's side: the handshake, the frames, the close codes. Pure, over slices.
//!
//! The files follow the chapters of the RFC: [`handshake`] is section 4, `frame` is 5.2, `message` is 5.4 and
//! 8.1, `close` is 5.5.1 and 7.4. The [`Decoder`] stands above the last three.

pub mod handshake;
mod decoder;
mod frame;
mod message;
mod close;
mod stash;

pub use fastwebsockets::OpCode;

pub use self::close::{CloseCode, CloseReason, close_payload};
pub use self::decoder::{Decoder, Event, ProtocolError};
pub use self::frame::{Head, head, write_frame};
pub use self::handshake::{Handshake, HandshakeError, select_subprotocol};
