//! `handler = "room"`: the tutorial's `ChatConsumer`, by configuration.

use std::borrow::Cow;
use std::str::FromStr as _;

use serde_json::Value as Json;

use crate::channel_layer::{GroupName, Message, Refusal, Value};
use crate::handler::{Command, Directive, Event, Fault, Rendering, Skip, State};
use crate::scope::{Scope, Template};
use crate::websocket::CloseCode;

/// A name longer than this is refused by `/name`, in characters.
const USERNAME_CHARS_MAX: usize = 64;

/// A room: what clients send becomes `group_send`, what the group hears becomes frames.
#[derive(Debug)]
pub struct Room {
    /// The group that each socket joins. Without one the room is the socket itself.
    pub group: Option<Template>,
    /// How frames and events translate into each other.
    pub format: Format,
    /// Whether clients may send; otherwise the room is listen-only.
    pub publish: bool,
    /// What a client's message becomes.
    pub receive: Receive,
    /// The events that reach the sockets. `websocket.send` and `websocket.close` always do.
    pub deliver: Vec<Deliver>,
    /// The types of events that may come to the channel of one socket; none if it has no channel. Anyone who can
    /// write to Redis can send them.
    pub direct: Vec<String>,
    /// What the group is told of its sockets.
    pub announce: Announce,
    /// What a text room says to each newcomer; `{username}` is the name below.
    pub welcome: Option<String>,
    /// The name of a client in a text room until it says `/name`.
    pub username: Template,
}

/// How a room translates between frames and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON objects, of which named members pass.
    Json,
    /// Lines of text with the name of who says them.
    Text,
    /// Text and binary as they come, in the members `text` and `bytes`.
    Raw,
}

/// The types of the events that tell a group who comes and who goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announce {
    /// A socket has come.
    pub connect: Option<String>,
    /// A socket has gone.
    pub disconnect: Option<String>,
}

/// What a client's message becomes on the channel layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// The `type` of the event.
    pub kind: String,
    /// JSON: the members that are passed on. Text: the one member that holds the line. Raw: empty.
    pub pick: Vec<String>,
    /// Whether the event says which channel the client can be answered on.
    pub reply_channel: bool,
}

/// An event that reaches the sockets of the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// The `type` of the event; `.` and `_` are the same, as in a consumer's method name.
    pub kind: String,
    /// JSON: the members that are sent. Text: the one member that holds the line. Raw: empty.
    pub pick: Vec<String>,
}

/// The events that each room understands on the channel of a socket, if the route lists them.
///
/// Rule: the first two are what a consumer says to its server in the ASGI specification. The others do what a
/// consumer does by `channel_layer.group_add(group, self.channel_name)` and `group_discard`.
pub const DIRECT_EVENTS: [&str; 4] = [SEND, CLOSE, GROUP_ADD, GROUP_DISCARD];

const SEND: &str = "websocket.send";
const CLOSE: &str = "websocket.close";
const GROUP_ADD: &str = "edge.group_add";
const GROUP_DISCARD: &str = "edge.group_discard";

impl Room {
    pub(super) fn group(&self, scope: &Scope) -> Result<Option<GroupName>, String> {
        let Some(template) = &self.group else { return Ok(None) };
        let name = template.render(scope);
        GroupName::from_str(&name).map(Some).map_err(|_| name)
    }

    pub(super) fn state(&self, scope: &Scope) -> State {
        match self.format {
            Format::Text => State { username: Some(tamed(&self.username.render(scope)).into()) },
            Format::Json | Format::Raw => State::default(),
        }
    }

    pub(super) fn on_event(&self, state: &mut State, event: Event<'_>, out: &mut dyn FnMut(Command<'_>)) {
        match event {
            Event::Connect(_) => {
                announce(self.announce.connect.as_ref(), out);
                if let (Format::Text, Some(welcome)) = (self.format, &self.welcome) {
                    let line = welcome.replace("{username}", state.username.as_deref().unwrap_or_default());
                    out(Command::Text(line.into()));
                }
            }
            Event::Disconnect => announce(self.announce.disconnect.as_ref(), out),
            Event::Refused(refusal) => self.complain(&not_sent(refusal), out),
            Event::Text(text) if self.format == Format::Text => match rename(text) {
                Some(rename) => self.rename(state, rename, out),
                None => self.say(state, text, out),
            },
            Event::Text(_) | Event::Binary(_) if !self.publish => self.listen_only(out),
            Event::Text(text) if self.format == Format::Raw => {
                self.publish(self.received().with("text", Value::Text(text.to_owned())), out);
            }
            Event::Text(text) => self.receive_json(text, out),
            Event::Binary(bytes) if self.format == Format::Raw => {
                self.publish(self.received().with("bytes", Value::Bytes(bytes.to_owned())), out);
            }
            Event::Binary(_) => {
                self.malformed("this room takes text frames, not binary ones", out);
            }
        }
    }

    pub(super) fn on_direct(&self, message: &Message, payload: &mut Vec<u8>) -> Directive {
        if !self.direct.iter().any(|kind| same_handler(kind, &message.kind)) {
            return Directive::Show(Rendering::Skip(Skip::Unlisted));
        }
        let group = || match message.get("group") {
            Some(Value::Text(name)) => name.parse().ok(),
            _ => None,
        };
        let changed = if same_handler(GROUP_ADD, &message.kind) {
            group().map(Directive::Join)
        } else if same_handler(GROUP_DISCARD, &message.kind) {
            group().map(Directive::Leave)
        } else {
            return Directive::Show(self.render(message, payload));
        };
        changed.unwrap_or(Directive::Show(Rendering::Skip(Skip::BadGroup)))
    }

    pub(super) fn delivers(&self, message: &Message) -> bool {
        [SEND, CLOSE].into_iter().any(|kind| same_handler(kind, &message.kind))
            || self.listed(message).is_some()
    }

    fn listed(&self, message: &Message) -> Option<&Deliver> {
        self.deliver.iter().find(|deliver| same_handler(&deliver.kind, &message.kind))
    }

    pub(super) fn render(&self, message: &Message, payload: &mut Vec<u8>) -> Rendering {
        if same_handler(SEND, &message.kind) {
            return render_raw(message, payload);
        }
        if same_handler(CLOSE, &message.kind) {
            return render_close(message);
        }
        let Some(deliver) = self.listed(message) else {
            let mut announced = self.announce.connect.iter().chain(&self.announce.disconnect);
            return if announced.any(|kind| same_handler(kind, &message.kind)) {
                Rendering::Ignore
            } else {
                Rendering::Skip(Skip::Unlisted)
            };
        };
        match self.format {
            Format::Json => {
                let any = message.write_json(&deliver.pick, payload);
                if any { Rendering::Text } else { Rendering::Skip(Skip::Empty) }
            }
            Format::Text => match deliver.pick.first().and_then(|key| message.get(key)) {
                Some(Value::Text(line)) => {
                    payload.extend_from_slice(line.as_bytes());
                    Rendering::Text
                }
                // Whoever puts a number or a list there most likely wants it to be read.
                Some(other) if !matches!(other, Value::Null) => {
                    other.write_json(payload);
                    Rendering::Text
                }
                _ => Rendering::Skip(Skip::Empty),
            },
            Format::Raw => render_raw(message, payload),
        }
    }

    fn received(&self) -> Message {
        Message::new(self.receive.kind.clone())
    }

    fn say(&self, state: &State, text: &str, out: &mut dyn FnMut(Command<'_>)) {
        if !self.publish {
            return self.listen_only(out);
        }
        let Some(key) = self.receive.pick.first() else { return };
        let line = format!("{}: {text}", state.username.as_deref().unwrap_or_default());
        self.publish(self.received().with(key, Value::Text(line)), out);
    }

    fn rename(&self, state: &mut State, username: &str, out: &mut dyn FnMut(Command<'_>)) {
        if username.is_empty() || tamed(username) != username {
            let usage = format!("say `/name` and a name of 1 to {USERNAME_CHARS_MAX} characters");
            return self.malformed(&usage, out);
        }
        state.username = Some(username.into());
        out(Command::Text(format!("[set your username to {username}]").into()));
    }

    fn receive_json(&self, text: &str, out: &mut dyn FnMut(Command<'_>)) {
        let mut members = match serde_json::from_str(text) {
            Ok(Json::Object(members)) => members,
            Ok(_) => return self.malformed(&format!("send a JSON object with {}", self.wanted()), out),
            Err(error) => return self.malformed(&format!("this is not JSON: {error}"), out),
        };
        let mut message = self.received();
        for key in &self.receive.pick {
            if let Some(value) = members.swap_remove(key) {
                message = message.with(key, Value::from(value));
            }
        }
        if message.fields.is_empty() {
            return self.malformed(&format!("send a JSON object with {}", self.wanted()), out);
        }
        self.publish(message, out);
    }

    fn publish(&self, message: Message, out: &mut dyn FnMut(Command<'_>)) {
        out(if self.receive.reply_channel {
            Command::PublishSigned(message)
        } else {
            Command::Publish(message)
        });
    }

    /// The members that a client may send, for an error text.
    fn wanted(&self) -> String {
        let quoted: Vec<_> = self.receive.pick.iter().map(|key| format!("`{key}`")).collect();
        quoted.join(" or ")
    }

    fn malformed(&self, what: &str, out: &mut dyn FnMut(Command<'_>)) {
        out(Command::Fault(Fault::Malformed));
        self.complain(what, out);
    }

    fn listen_only(&self, out: &mut dyn FnMut(Command<'_>)) {
        out(Command::Fault(Fault::ListenOnly));
        self.complain("this room is for listening only", out);
    }

    /// Tells the client what went wrong, in the form of the room.
    fn complain(&self, what: &str, out: &mut dyn FnMut(Command<'_>)) {
        let text = match self.format {
            Format::Text => format!("[{what}]"),
            // A raw room has no form of its own for this; JSON is what its clients most likely read.
            Format::Json | Format::Raw => serde_json::json!({ "error": what }).to_string(),
        };
        out(Command::Text(Cow::Owned(text)));
    }
}

fn announce(kind: Option<&String>, out: &mut dyn FnMut(Command<'_>)) {
    if let Some(kind) = kind {
        out(Command::Announce(Message::new(kind.clone())));
    }
}

/// The name that a `/name` line gives, trimmed; `None` for any other line.
fn rename(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("/name")?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
}

/// A name as it may stand before what others read: without control characters and not too long.
fn tamed(name: &str) -> String {
    name.chars().filter(|ch| !ch.is_control()).take(USERNAME_CHARS_MAX).collect()
}

fn not_sent(refusal: Refusal) -> String {
    format!("not sent: {refusal}")
}

/// Whether two event types lead to the same method of a consumer.
///
/// Rule: Channels' `get_handler_name` replaces every `.` by `_`.
fn same_handler(one: &str, other: &str) -> bool {
    let method = |ch| if ch == b'.' { b'_' } else { ch };
    one.len() == other.len() && one.bytes().map(method).eq(other.bytes().map(method))
}

/// `text` or `bytes` of the event as they are: `websocket.send` of the ASGI specification.
fn render_raw(message: &Message, payload: &mut Vec<u8>) -> Rendering {
    if let Some(Value::Text(text)) = message.get("text") {
        payload.extend_from_slice(text.as_bytes());
        return Rendering::Text;
    }
    if let Some(Value::Bytes(bytes)) = message.get("bytes") {
        payload.extend_from_slice(bytes);
        return Rendering::Binary;
    }
    Rendering::Skip(Skip::Empty)
}

/// `websocket.close` of the ASGI specification: `code`, 1000 if there is none, and `reason`.
fn render_close(message: &Message) -> Rendering {
    let code = match message.get("code") {
        Some(Value::Int(code)) => u16::try_from(*code).ok().and_then(CloseCode::new),
        None | Some(Value::Null) => Some(CloseCode::NORMAL),
        Some(_) => None,
    };
    let reason = match message.get("reason") {
        Some(Value::Text(reason)) => reason.clone(),
        _ => String::new(),
    };
    // A code that no close frame may hold is the application's mistake: 1011, as Daphne answers it.
    Rendering::Close { code: code.unwrap_or(CloseCode::INTERNAL_ERROR), reason }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::scope::{ClientAddr, Params};

    fn room(format: Format) -> Room {
        let key = match format {
            Format::Json | Format::Text => vec!["message".to_owned()],
            Format::Raw => Vec::new(),
        };
        let kind = if format == Format::Raw { "room.message" } else { "chat.message" };
        Room {
            group: Some("chat_{room_name}".parse().unwrap()),
            format,
            publish: true,
            receive: Receive { kind: kind.to_owned(), pick: key.clone(), reply_channel: false },
            deliver: vec![Deliver { kind: kind.to_owned(), pick: key }],
            direct: Vec::new(),
            announce: Announce::default(),
            welcome: Some("[Welcome {username}!]".to_owned()),
            username: "Anonymous".parse().unwrap(),
        }
    }

    fn scope(room_name: &str) -> Scope {
        Scope {
            client: ClientAddr::new("192.0.2.1".parse().unwrap(), None),
            path: format!("/chat/{room_name}/"),
            query: String::new(),
            headers: HeaderMap::new(),
            params: Params::from_iter([("room_name".into(), room_name.to_owned())]),
            user: None,
            subprotocol: None,
        }
    }

    /// What follows from the events, in words.
    fn play(room: &Room, events: &[Event<'_>]) -> Vec<String> {
        let mut state = room.state(&scope("lobby"));
        let mut out = Vec::new();
        for event in events {
            room.on_event(&mut state, *event, &mut |command| {
                let how = match command {
                    Command::PublishSigned(_) => "publish signed",
                    Command::Announce(_) => "announce",
                    _ => "publish",
                };
                out.push(match command {
                    Command::Text(text) => format!("text {text}"),
                    Command::Binary(bytes) => format!("binary {bytes:?}"),
                    Command::Publish(message)
                    | Command::PublishSigned(message)
                    | Command::Announce(message) => {
                        let mut json = Vec::new();
                        for (key, value) in &message.fields {
                            json.extend_from_slice(format!(" {key}=").as_bytes());
                            value.write_json(&mut json);
                        }
                        format!("{how} {}{}", message.kind, String::from_utf8(json).unwrap())
                    }
                    Command::Fault(fault) => format!("fault {}", fault.label()),
                });
            });
        }
        out
    }

    /// The frame of an event, in words.
    fn rendered(room: &Room, message: &Message) -> String {
        let mut payload = Vec::new();
        let rendering = room.render(message, &mut payload);
        in_words(rendering, payload)
    }

    /// What becomes of an event for one socket, in words.
    fn directed(room: &Room, message: &Message) -> String {
        let mut payload = Vec::new();
        match room.on_direct(message, &mut payload) {
            Directive::Show(rendering) => in_words(rendering, payload),
            Directive::Join(group) => format!("join {group}"),
            Directive::Leave(group) => format!("leave {group}"),
        }
    }

    fn in_words(rendering: Rendering, payload: Vec<u8>) -> String {
        match rendering {
            Rendering::Text => format!("text {}", String::from_utf8(payload).unwrap()),
            Rendering::Binary => format!("binary {payload:?}"),
            Rendering::Close { code, reason } => format!("close {code} {reason}"),
            Rendering::Skip(skip) => format!("skip {}", skip.label()),
            Rendering::Ignore => "ignore".to_owned(),
        }
    }

    #[test]
    fn a_message_says_how_to_answer_it_if_the_route_wants_that() {
        for (format, text) in
            [(Format::Json, r#"{"message":"hi"}"#), (Format::Text, "hi"), (Format::Raw, "hi")]
        {
            let mut room = room(format);
            room.receive.reply_channel = true;
            let said = play(&room, &[Event::Text(text)]);
            assert!(said.len() == 1 && said[0].starts_with("publish signed "), "{said:?}");
        }
    }

    #[test]
    fn a_group_is_told_who_comes_and_who_goes() {
        let announce =
            Announce { connect: Some("chat.joined".to_owned()), disconnect: Some("chat.left".to_owned()) };
        let mut room = Room { announce, ..room(Format::Json) };
        let scope = scope("lobby");
        let events = [Event::Connect(&scope), Event::Disconnect];
        assert_eq!(play(&room, &events), ["announce chat.joined", "announce chat.left"]);
        assert_eq!(rendered(&room, &Message::new("chat_joined")), "ignore", "it is for others");
        room.deliver.push(Deliver { kind: "chat.joined".to_owned(), pick: vec!["user".to_owned()] });
        assert_eq!(
            rendered(&room, &Message::new("chat.joined").with("user", "Ann")),
            r#"text {"user":"Ann"}"#
        );
        room.announce.connect = None;
        assert_eq!(play(&room, &events), ["announce chat.left"]);
    }

    #[test]
    fn the_channel_of_a_socket_takes_what_the_route_lists() {
        let send = Message::new("websocket.send").with("text", "hi");
        let close = Message::new("websocket.close").with("code", 4001).with("reason", "bye");
        let chat = Message::new("chat_message").with("message", "hi");
        let add = Message::new("edge.group_add").with("group", "vip");
        let discard = Message::new("edge.group_discard").with("group", "vip");
        let cases = [
            // message, what becomes of it when it is listed
            (&send, "text hi"),
            (&close, "close 4001 bye"),
            (&chat, r#"text {"message":"hi"}"#),
            (&add, "join vip"),
            (&discard, "leave vip"),
            (&Message::new("edge.group_add"), "skip bad_group"),
            (&Message::new("edge.group_add").with("group", "no name"), "skip bad_group"),
            (&Message::new("edge.group_discard").with("group", 5), "skip bad_group"),
            (&Message::new("edge_group_add").with("group", "vip"), "join vip"),
            (&Message::new("websocket_send").with("text", "hi"), "text hi"),
            (&Message::new("websocket.send"), "skip empty"),
            (&Message::new("websocket.accept"), "skip unlisted"),
            (&Message::new("edge.group_remove").with("group", "vip"), "skip unlisted"),
        ];
        let nothing = room(Format::Json);
        let mut all = room(Format::Json);
        all.direct = DIRECT_EVENTS.into_iter().chain(["chat.message"]).map(str::to_owned).collect();
        for (message, expected) in cases {
            assert_eq!(directed(&nothing, message), "skip unlisted", "{message:?}");
            assert_eq!(directed(&all, message), expected, "{message:?}");
            let mut others = room(Format::Json);
            others.direct = all.direct.clone();
            others.direct.retain(|kind| !same_handler(kind, &message.kind));
            assert_eq!(directed(&others, message), "skip unlisted", "{message:?}");
        }
    }

    #[test]
    fn a_group_is_what_the_template_makes_of_the_request_if_that_is_a_name() {
        let room = room(Format::Json);
        assert_eq!(room.group(&scope("lobby")).unwrap().unwrap().as_str(), "chat_lobby");
        assert_eq!(room.group(&scope("é")).unwrap_err(), "chat_é");
        let alone = Room { group: None, ..room };
        assert_eq!(alone.group(&scope("lobby")), Ok(None));
    }

    #[test]
    fn json_publishes_the_picked_members_and_answers_what_it_cannot_use() {
        let cases: &[(Event<'_>, &[&str])] = &[
            (Event::Text(r#"{"message": "hi", "other": 1}"#), &[r#"publish chat.message message="hi""#]),
            (
                Event::Text(r#"{"message": {"a": [1, 2.5, null]}}"#),
                &[r#"publish chat.message message={"a":[1,2.5,null]}"#],
            ),
            (
                Event::Text(r#"{"other": 1}"#),
                &["fault malformed", r#"text {"error":"send a JSON object with `message`"}"#],
            ),
            (
                Event::Text("[1]"),
                &["fault malformed", r#"text {"error":"send a JSON object with `message`"}"#],
            ),
            (
                Event::Text("hi"),
                &[
                    "fault malformed",
                    r#"text {"error":"this is not JSON: expected value at line 1 column 1"}"#,
                ],
            ),
            (
                Event::Binary(b"hi"),
                &["fault malformed", r#"text {"error":"this room takes text frames, not binary ones"}"#],
            ),
            (
                Event::Refused(Refusal::QueueFull),
                &[r#"text {"error":"not sent: too many messages are waiting to be sent"}"#],
            ),
            (Event::Connect(&scope("lobby")), &[]),
        ];
        for (event, expected) in cases {
            assert_eq!(play(&room(Format::Json), &[*event]), *expected, "{event:?}");
        }
    }

    #[test]
    fn text_welcomes_renames_and_says_who_speaks() {
        let room = room(Format::Text);
        let lobby = scope("lobby");
        let long = format!("/name {}", "n".repeat(65));
        let played = play(
            &room,
            &[
                Event::Connect(&lobby),
                Event::Text("hello"),
                Event::Text("/name  Ann "),
                Event::Text("hello"),
                Event::Text("/names"),
                Event::Text("/name"),
                Event::Text(&long),
                Event::Text("still me"),
            ],
        );
        let usage = "text [say `/name` and a name of 1 to 64 characters]";
        let expected = [
            "text [Welcome Anonymous!]",
            r#"publish chat.message message="Anonymous: hello""#,
            "text [set your username to Ann]",
            r#"publish chat.message message="Ann: hello""#,
            r#"publish chat.message message="Ann: /names""#,
            "fault malformed",
            usage,
            "fault malformed",
            usage,
            r#"publish chat.message message="Ann: still me""#,
        ];
        assert_eq!(played, expected);
    }

    #[test]
    fn a_name_that_a_template_takes_from_a_client_is_tamed() {
        let mut room = room(Format::Text);
        room.username = "{query}".parse().unwrap();
        let scope = Scope { query: format!("a\r\n[Admin]: {}", "x".repeat(100)), ..scope("lobby") };
        let name = room.state(&scope).username.unwrap();
        assert_eq!(&*name, format!("a[Admin]: {}", "x".repeat(54)));
    }

    #[test]
    fn raw_publishes_text_and_bytes_as_they_come() {
        let played = play(&room(Format::Raw), &[Event::Text("{"), Event::Binary(&[0xff])]);
        assert_eq!(played, [r#"publish room.message text="{""#, r#"publish room.message bytes="/w==""#]);
    }

    #[test]
    fn a_room_for_listening_takes_nothing() {
        for (format, complaint) in [
            (Format::Json, r#"text {"error":"this room is for listening only"}"#),
            (Format::Text, "text [this room is for listening only]"),
            (Format::Raw, r#"text {"error":"this room is for listening only"}"#),
        ] {
            let room = Room { publish: false, ..room(format) };
            let expected = ["fault listen_only", complaint];
            assert_eq!(play(&room, &[Event::Text(r#"{"message": 1}"#)]), expected, "{format:?}");
        }
    }

    #[test]
    fn events_become_frames_by_their_type_and_the_members_that_are_picked() {
        let event = |kind: &str| Message::new(kind);
        let cases = [
            (
                Format::Json,
                event("chat.message").with("message", "hi").with("x", 1),
                r#"text {"message":"hi"}"#,
            ),
            (Format::Json, event("chat_message").with("message", "hi"), r#"text {"message":"hi"}"#),
            (Format::Json, event("chat.message").with("x", 1), "skip empty"),
            (Format::Json, event("chat.other").with("message", "hi"), "skip unlisted"),
            (Format::Json, event("Chat.message").with("message", "hi"), "skip unlisted"),
            (Format::Text, event("chat.message").with("message", "Ann: hi"), "text Ann: hi"),
            (Format::Text, event("chat.message").with("message", 7), "text 7"),
            (Format::Text, event("chat.message").with("message", Value::Null), "skip empty"),
            (Format::Raw, event("room.message").with("text", "hi"), "text hi"),
            (Format::Raw, event("room.message").with("bytes", vec![1, 2]), "binary [1, 2]"),
            (Format::Raw, event("room.message"), "skip empty"),
            (Format::Json, event("websocket.send").with("text", "as it is"), "text as it is"),
            (Format::Json, event("websocket.send").with("bytes", vec![3]), "binary [3]"),
            (Format::Json, event("websocket.close"), "close 1000 "),
            (
                Format::Json,
                event("websocket.close").with("code", 4001).with("reason", "bye"),
                "close 4001 bye",
            ),
            (Format::Json, event("websocket.close").with("code", 1006), "close 1011 "),
            (Format::Json, event("websocket.close").with("code", "4001"), "close 1011 "),
        ];
        for (format, message, expected) in cases {
            assert_eq!(rendered(&room(format), &message), expected, "{format:?} {message:?}");
        }
    }

    #[test]
    fn several_picked_members_keep_the_order_of_the_route() {
        let mut room = room(Format::Json);
        room.deliver[0].pick = vec!["b".to_owned(), "a".to_owned(), "none".to_owned()];
        let message = Message::new("chat.message").with("a", 1).with("b", "\"");
        assert_eq!(rendered(&room, &message), r#"text {"b":"\"","a":1}"#);
    }
}
