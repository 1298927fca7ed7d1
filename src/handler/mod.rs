//! What a route does with those it admits: a room, an echo, a fixed answer.
//!
//! Pure: an [`Event`] goes in, [`Command`]s come out, and the session performs them. What a socket must
//! remember between two events is its [`State`]; everything else belongs to the route and is shared.

mod room;
mod echo;
mod respond;

pub use respond::Respond;
pub use room::{Announce, DIRECT_EVENTS, Deliver, Format, Receive, Room};

use std::borrow::Cow;

use crate::channel_layer::{GroupName, Message, Refusal};
use crate::scope::Scope;
use crate::websocket::CloseCode;

/// The handler of a WebSocket route.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each route")]
pub enum Handler {
    /// Sends back what comes, text as text and binary as binary.
    Echo,
    /// Joins a group of the channel layer.
    Room(Room),
}

impl Handler {
    /// The group that this socket joins; `None` where the room is the socket itself.
    ///
    /// # Errors
    ///
    /// What the template made of the request, which is no group name. The client's doing, through a capture
    /// that can hold more than a group name may.
    pub fn group(&self, scope: &Scope) -> Result<Option<GroupName>, String> {
        match self {
            Self::Echo => Ok(None),
            Self::Room(room) => room.group(scope),
        }
    }

    /// What a new socket remembers.
    pub fn state(&self, scope: &Scope) -> State {
        match self {
            Self::Echo => State::default(),
            Self::Room(room) => room.state(scope),
        }
    }

    /// Decides what follows from an event on one socket.
    pub fn on_event(&self, state: &mut State, event: Event<'_>, out: &mut dyn FnMut(Command<'_>)) {
        match self {
            Self::Echo => echo::on_event(event, out),
            Self::Room(room) => room.on_event(state, event, out),
        }
    }

    /// Whether sockets have channels of their own that something may be sent to.
    pub fn is_addressable(&self) -> bool {
        match self {
            Self::Echo => false,
            Self::Room(room) => !room.direct.is_empty(),
        }
    }

    /// Decides on an event that came to the channel of one socket; the payload of its frame is appended to `payload`.
    pub fn on_direct(&self, message: &Message, payload: &mut Vec<u8>) -> Directive {
        match self {
            Self::Echo => Directive::Show(Rendering::Skip(Skip::Unlisted)),
            Self::Room(room) => room.on_direct(message, payload),
        }
    }

    /// Whether an event reaches the sockets of a group that it was sent to.
    pub fn delivers(&self, message: &Message) -> bool {
        match self {
            Self::Echo => false,
            Self::Room(room) => room.delivers(message),
        }
    }

    /// Makes the frame of an event from the channel layer; its payload is appended to `payload`.
    ///
    /// Called once per route and message, whatever the number of sockets.
    pub fn render(&self, message: &Message, payload: &mut Vec<u8>) -> Rendering {
        match self {
            Self::Echo => Rendering::Skip(Skip::Unlisted),
            Self::Room(room) => room.render(message, payload),
        }
    }
}

/// What one socket remembers from one event to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The name that a text room puts before what this client says.
    username: Option<Box<str>>,
}

/// What happens to a socket.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The handshake is answered and the group joined.
    Connect(&'a Scope),
    /// The client sent a text message.
    Text(&'a str),
    /// The client sent a binary message.
    Binary(&'a [u8]),
    /// The channel layer did not take what this socket published.
    Refused(Refusal),
    /// The socket has ended.
    Disconnect,
}

/// What the session is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Send a text frame to this socket.
    Text(Cow<'a, str>),
    /// Send a binary frame to this socket.
    Binary(&'a [u8]),
    /// Publish to the group of this socket, or without a group deliver to this socket alone.
    Publish(Message),
    /// The same, with the name of this socket's channel as `reply_channel`.
    PublishSigned(Message),
    /// Tell the group of this socket about it. The client is not told when that fails, for it asked for nothing.
    Announce(Message),
    /// Count a message of the client that the handler could not use; the answer is a command of its own.
    Fault(Fault),
}

/// Why a client's message was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not what the format asks for.
    Malformed,
    /// The route has `publish = false`.
    ListenOnly,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 2] = [Self::Malformed, Self::ListenOnly];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::ListenOnly => "listen_only",
        }
    }
}

/// What becomes of an event of the channel layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// A text frame with the payload just appended.
    Text,
    /// A binary frame with the payload just appended.
    Binary,
    /// The sockets are closed; the code may be sent in a close frame.
    Close {
        /// What the close frame says.
        code: CloseCode,
        /// Its first 123 bytes reach the client.
        reason: String,
    },
    /// Nothing is sent.
    Skip(Skip),
    /// Nothing is sent, and nothing was to be: the event is for others in the group.
    Ignore,
}

/// What becomes of an event that came to the channel of one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// It reaches the client like an event of the group.
    Show(Rendering),
    /// From now on the socket hears this group.
    Join(GroupName),
    /// From now on it does not.
    Leave(GroupName),
}

/// Why an event of the channel layer reaches no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Its type is not among those that the route delivers.
    Unlisted,
    /// It has none of the members that the route picks.
    Empty,
    /// It names no group where it must.
    BadGroup,
    /// The socket is in as many groups as it may be.
    TooManyGroups,
}

impl Skip {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Unlisted, Self::Empty, Self::BadGroup, Self::TooManyGroups];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unlisted => "unlisted",
            Self::Empty => "empty",
            Self::BadGroup => "bad_group",
            Self::TooManyGroups => "too_many_groups",
        }
    }
}
