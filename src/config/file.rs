//! The shape of the file: which tables and keys there are, and of what type each value is.
//!
//! Every value keeps the place where it stands. Whatever does not have the right shape is reported and left
//! out, so that one mistake does not hide the next; `compile` then applies the rules.

mod syntax;
mod server;
mod listener;
mod trust;
mod layer;
pub(super) mod redis_host;
mod upstream;
mod defaults;
mod route;
mod room;

use core::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::diagnostic::{Code, Diagnostic, Findings};
use crate::config::table::{Kind, Table};

pub(super) use self::defaults::{NO_ORIGIN, OVER_RATE, QUEUE_FULL, RateTable, SharedKeys};
pub(super) use self::layer::{BACKENDS, Backend, CapacityEntry, LayerTable, SERIALIZER_FORMATS};
pub(super) use self::listener::{CLIENT_AUTH, ClientAuthWord, ListenerTable, PROXY_PROTOCOL, TlsTable};
pub(super) use self::room::{EventTable, FORMATS};
pub(super) use self::route::{COMPRESSIONS, HANDLERS, HandlerWord, HeaderEntry, RouteTable};
pub(super) use self::server::{LOG_FORMATS, LOG_LEVELS, ServerTable};
pub(super) use self::trust::{TRUSTED_HEADERS, TrustTable};
pub(super) use self::upstream::{HealthTable, TRACEPARENTS, UpstreamTable, UpstreamTlsTable};

/// `routes.toml`.
#[derive(Debug)]
pub(super) struct File {
    pub(super) server: ServerTable,
    pub(super) listeners: Vec<ListenerTable>,
    pub(super) trust: TrustTable,
    pub(super) layer: LayerTable,
    pub(super) upstreams: Vec<UpstreamTable>,
    pub(super) defaults: SharedKeys,
    pub(super) routes: Vec<RouteTable>,
}

const TOP: Kind = Kind {
    name: "the file",
    keys: &["version", "server", "listener", "trust", "layer", "upstream", "defaults", "route"],
    later: &["auth", "test"],
    foreign: &[],
};

/// The longest time of most settings.
const HOUR: Duration = Duration::from_hours(1);

/// Reads the text; `None` when it is not TOML.
pub(super) fn read(text: &str, findings: &Findings) -> Option<File> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        syntax::report(text, document.get_ref(), &errors, findings);
        return None;
    }
    let top = Table::new(document.get_ref(), 0..0, &TOP, findings);
    version(&top, text);
    has_routes(&top, text);
    Some(File {
        server: top.table("server", &server::SERVER).map(|table| server::read(&table)).unwrap_or_default(),
        listeners: top.tables("listener", &listener::LISTENER).iter().map(listener::read).collect(),
        trust: top.table("trust", &trust::TRUST).map(|table| trust::read(&table)).unwrap_or_default(),
        layer: top.table("layer", &layer::LAYER).map(|table| layer::read(&table)).unwrap_or_default(),
        upstreams: upstream::read_all(&top),
        defaults: top
            .table("defaults", &defaults::DEFAULTS)
            .map(|table| defaults::read(&table))
            .unwrap_or_default(),
        routes: top.tables("route", &route::ROUTE).iter().map(route::read).collect(),
    })
}

fn version(top: &Table<'_>, text: &str) {
    let Some(value) = top.get("version") else {
        let first_line = 0..text.lines().next().map_or(0, str::len);
        let message = "there is no `version` in this file";
        let help = "begin it with `version = 1`: without it, a file cut short could pass for a whole one";
        return top.findings.push(Diagnostic::new(Code::Version, first_line, message).help(help));
    };
    match value.get_ref() {
        DeValue::Integer(number) if number.as_str() == "1" => (),
        DeValue::Integer(number) => {
            let message = format!("version {number} of the file format is not known");
            top.findings
                .push(Diagnostic::new(Code::Version, value.span(), message).help("write `version = 1`"));
        }
        _ => top.wrong("version", value, "the number 1", Some("write `version = 1`".to_owned())),
    }
}

/// With a version on top, this is what tells a file cut short.
fn has_routes(top: &Table<'_>, text: &str) {
    let empty =
        |value: &Spanned<DeValue<'_>>| matches!(value.get_ref(), DeValue::Array(list) if list.is_empty());
    if top.get("route").is_none_or(empty) {
        let message = "there is no `[[route]]` in this file";
        let help = "a table without routes refuses every request; `handler = \"respond\"` answers all alike";
        let first_line = 0..text.lines().next().map_or(0, str::len);
        top.findings.push(Diagnostic::new(Code::MissingKey, first_line, message).help(help));
    }
}

/// Every key of every table. The words of redis-py have a page of their own.
#[cfg(test)]
pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
    let kinds = [
        &TOP,
        &server::SERVER,
        &server::LOG,
        &server::DRAIN,
        &server::LIMITS,
        &listener::LISTENER,
        &listener::TLS,
        &trust::TRUST,
        &layer::LAYER,
        &upstream::UPSTREAM,
        &upstream::HEALTH,
        &upstream::UPSTREAM_TLS,
        &crate::config::table::SECRET,
        &defaults::DEFAULTS,
        &route::ROUTE,
        &defaults::PING,
        &defaults::QUEUE,
        &defaults::RATE,
        &room::RECEIVE,
        &room::DELIVER_ENTRY,
        &room::ANNOUNCE,
    ];
    kinds.into_iter().flat_map(|kind| kind.keys).chain(redis_host::FORMS).copied()
}
