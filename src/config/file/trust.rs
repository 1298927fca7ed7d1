//! The shape of `[trust]`.

use crate::config::table::{At, Kind, Table, Words};
use crate::request::ForwardedHeaders;

/// `[trust]`.
#[derive(Debug, Default)]
pub(in crate::config) struct TrustTable {
    pub(in crate::config) proxies: Option<At<Vec<At<String>>>>,
    pub(in crate::config) headers: Option<At<ForwardedHeaders>>,
}

pub(in crate::config) const TRUSTED_HEADERS: Words<ForwardedHeaders> = Words {
    now: &[
        ("none", ForwardedHeaders::None),
        ("x-forwarded", ForwardedHeaders::XForwarded),
        ("forwarded", ForwardedHeaders::Forwarded),
    ],
    aliases: &[],
    later: &[],
};

pub(super) const TRUST: Kind =
    Kind { name: "[trust]", keys: &["proxies", "headers"], later: &[], foreign: &[] };

pub(super) fn read(table: &Table<'_>) -> TrustTable {
    TrustTable { proxies: table.texts("proxies"), headers: table.word("headers", &TRUSTED_HEADERS) }
}
