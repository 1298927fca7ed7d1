//! The rules of the channels of a room's sockets: `direct`, `announce`, and `reply_channel` in `receive`.

use crate::config::compile::{Compiler, Unique, all, items};
use crate::config::diagnostic::{Code, Diagnostic, Span, nearest, one_of};
use crate::config::file::{EventTable, RouteTable};
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
        let mut picked = receive.pick.iter().flat_map(|pick| &pick.value);
        if let Some(picked) = picked.find(|member| member.value == "reply_channel") {
            let message = "`reply_channel` cannot be set here and picked from what the client sends";
            let diagnostic = Diagnostic::new(Code::Conflict, picked.span.clone(), message)
                .with(at.span.clone(), "set here")
                .help("leave one of the two out");
            self.push(diagnostic);
            return None;
        }
        Some(true)
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
