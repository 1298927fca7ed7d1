//! The shape of the tables in a room's `[[route]]`.

use toml::de::DeValue;

use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::table::{At, Kind, Table, Words, in_file_order};
use crate::handler::Format;

/// `receive`, or one entry of `deliver`.
#[derive(Debug)]
pub(in crate::config) struct EventTable {
    pub(in crate::config) kind: Option<At<String>>,
    pub(in crate::config) pick: Option<At<Vec<At<String>>>>,
    /// In `receive` only.
    pub(in crate::config) reply_channel: Option<At<bool>>,
}

/// `announce`.
#[derive(Debug)]
pub(in crate::config) struct AnnounceTable {
    pub(in crate::config) connect: Option<At<String>>,
    pub(in crate::config) disconnect: Option<At<String>>,
}

pub(in crate::config) const FORMATS: Words<Format> = Words {
    now: &[("json", Format::Json), ("text", Format::Text), ("raw", Format::Raw)],
    aliases: &[],
    later: &[],
};

pub(super) const RECEIVE: Kind =
    Kind { name: "`receive`", keys: &["type", "pick", "reply_channel"], later: &[], foreign: &[] };

pub(super) const ANNOUNCE: Kind =
    Kind { name: "`announce`", keys: &["connect", "disconnect"], later: &[], foreign: &[] };

pub(super) const DELIVER_ENTRY: Kind =
    Kind { name: "an entry of `deliver`", keys: &["pick"], later: &[], foreign: &[] };

pub(super) fn receive(route: &Table<'_>) -> Option<At<EventTable>> {
    let table = route.table("receive", &RECEIVE)?;
    Some(table.at(EventTable {
        kind: table.text("type"),
        pick: table.texts("pick"),
        reply_channel: table.flag("reply_channel"),
    }))
}

pub(super) fn deliver(route: &Table<'_>) -> Option<At<Vec<EventTable>>> {
    let at = route.any_table("deliver")?;
    let mut events = Vec::new();
    for (key, value) in in_file_order(at.value) {
        let DeValue::Table(inner) = value.get_ref() else {
            route.wrong(key.get_ref(), value, "a table", Some("write `{ pick = [\"message\"] }`".to_owned()));
            continue;
        };
        // Without quotes, `chat.message` is a table `message` in a table `chat`.
        let nested = inner.iter().find(|(_, value)| matches!(value.get_ref(), DeValue::Table(_)));
        if let (false, Some((inner_key, _))) = (inner.contains_key("pick"), nested) {
            let (outer, inner) = (key.get_ref(), inner_key.get_ref());
            let message = format!("the event type `{outer}.{inner}` stands without quotes");
            let help = format!("write `\"{outer}.{inner}\" = {{ … }}`");
            let span = key.span().start..inner_key.span().end.max(key.span().end);
            route.findings.push(Diagnostic::new(Code::WrongType, span, message).help(help));
            continue;
        }
        let table = Table::new(inner, value.span(), &DELIVER_ENTRY, route.findings);
        let kind = Some(At { value: key.get_ref().to_string(), span: key.span() });
        events.push(EventTable { kind, pick: table.texts("pick"), reply_channel: None });
    }
    // Entries that were not right are no empty table.
    (events.is_empty() == at.value.is_empty()).then_some(At { value: events, span: at.span })
}

pub(super) fn announce(route: &Table<'_>) -> Option<At<AnnounceTable>> {
    let table = route.table("announce", &ANNOUNCE)?;
    Some(table.at(AnnounceTable { connect: table.text("connect"), disconnect: table.text("disconnect") }))
}
