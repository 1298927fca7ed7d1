//! The rules of the channels of a room's sockets: `direct`, `announce`, and `reply_channel` in `receive`.

use crate::config::compile::{Compiler, Unique, all, items, value};
use crate::config::diagnostic::{Code, Diagnostic, Span, nearest, one_of};
use crate::config::file::{Backend, EventTable, HandlerWord, LayerTable, RouteTable};
use crate::config::table::At;
use crate::handler::{Announce, DIRECT_EVENTS, Deliver};

impl Compiler<'_> {
    /// `deliver` is nothing when it is wrong: then it is not known which events there are.
    pub(super) fn direct(&self, table: &RouteTable, deliver: Option<&[Deliver]>) -> Option<Vec<String>> {
        let Some(at) = &table.direct else { return Some(Vec::new()) };
        self.has_group(table, "direct", &at.span);
        let method = |kind: &str| kind.replace('.', "_");
        let mut unique = Unique::new("event type");
        all(at.value.iter().map(|at| {
            let kind = at.value.as_str();
            let delivered = deliver?.iter().map(|event| event.kind.as_str());
            let mut known = DIRECT_EVENTS.into_iter().chain(delivered);
            if known.clone().any(|known| method(known) == method(kind)) {
                return unique.add(self, at).then(|| kind.to_owned());
            }
            let message = format!("`{kind}` is no event for the channel of a socket");
            let help = nearest(kind, known.by_ref()).map_or_else(
                || format!("it may be {}, or an event of `deliver`", one_of(DIRECT_EVENTS)),
                |known| format!("did you mean `{known}`?"),
            );
            self.push(Diagnostic::new(Code::UnknownWord, at.span.clone(), message).help(help));
            None
        }))
    }

    pub(super) fn announce(&self, table: &RouteTable) -> Option<Announce> {
        let Some(at) = &table.announce else { return Some(Announce::default()) };
        self.has_group(table, "announce", &at.span);
        let (connect, disconnect) = (&at.value.connect, &at.value.disconnect);
        if connect.is_none() && disconnect.is_none() {
            let help = "write `announce = { connect = \"chat.joined\", disconnect = \"chat.left\" }`, or leave it out";
            self.push(Diagnostic::new(Code::Empty, at.span.clone(), "`announce` says nothing").help(help));
        }
        let kind = |at: &Option<At<String>>| match at {
            Some(at) => self.event_type(at).map(Some),
            None => Some(None),
        };
        let (connect, disconnect) = (kind(connect), kind(disconnect));
        Some(Announce { connect: connect?, disconnect: disconnect? })
    }

    pub(super) fn reply_channel(&self, table: &RouteTable, receive: &EventTable) -> Option<bool> {
        let Some(at) = receive.reply_channel.as_ref().filter(|at| at.value) else { return Some(false) };
        if items(table.direct.as_ref()).next().is_none() {
            let message = "nothing may be sent to the channel that `reply_channel` names";
            let help = "add `direct = [\"websocket.send\"]` to the route, or leave `reply_channel` out";
            self.push(Diagnostic::new(Code::Conflict, at.span.clone(), message).help(help));
            return None;
        }
        Some(true)
    }

    /// Whoever answers on the channel that an event names must be able to rely on it.
    pub(super) fn picks_no_channel(&self, receive: &EventTable) -> bool {
        let mut picked = receive.pick.iter().flat_map(|pick| &pick.value);
        let Some(at) = picked.find(|member| member.value == "reply_channel") else { return true };
        let message = "a client could choose the channel that it is answered on, which may be anyone's";
        let help = "write `reply_channel = true` in place of it: then the server names the socket's own";
        self.push(Diagnostic::new(Code::LayerName, at.span.clone(), message).help(help));
        false
    }

    /// Warns of channels that nobody can send to.
    pub(super) fn has_senders(&self, routes: &[RouteTable], layer: &LayerTable) {
        // With a wrong backend it is not known who can.
        let known = layer.backend.is_some() || !layer.keys.iter().any(|key| key.value == "backend");
        let backend = value(layer.backend.as_ref()).unwrap_or(Backend::Memory);
        if !known || backend != Backend::Memory {
            return;
        }
        let direct = routes.iter().filter(|table| value(table.handler.as_ref()) == Some(HandlerWord::Room));
        for at in direct.filter_map(|table| table.direct.as_ref()).filter(|at| !at.value.is_empty()) {
            let message = "nobody can send to a single socket as long as the layer is in memory";
            let help = "take a `backend` on Redis in [layer], as Django has it, or leave `direct` out";
            let diagnostic = Diagnostic::new(Code::NoEffect, at.span.clone(), message).help(help);
            self.push(match &layer.backend {
                Some(backend) => diagnostic.with(backend.span.clone(), "in memory"),
                None => diagnostic,
            });
        }
    }

    /// Nobody learns the channel of a socket that is in no group.
    fn has_group(&self, table: &RouteTable, key: &str, span: &Span) {
        if table.keys.iter().any(|key| key.value == "group") {
            return;
        }
        let message =
            format!("`{key}` has no use in a room without a `group`: nobody else is told of its sockets");
        self.push(Diagnostic::new(Code::Conflict, span.clone(), message).help("add `group`"));
    }
}
