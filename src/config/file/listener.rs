//! The shape of `[[listener]]`.

use toml::Spanned;
use toml::de::DeValue;

use crate::config::table::{At, Kind, Table, Words};
use crate::listener::ProxyProtocol;

/// `[[listener]]`.
#[derive(Debug)]
pub(in crate::config) struct ListenerTable {
    pub(in crate::config) name: Option<At<String>>,
    pub(in crate::config) address: Option<At<String>>,
    pub(in crate::config) mode: Option<At<String>>,
    pub(in crate::config) proxy_protocol: Option<At<ProxyProtocol>>,
    /// Whether there is a `tls`, right or not.
    pub(in crate::config) has_tls: bool,
    pub(in crate::config) tls: Option<At<Vec<At<TlsTable>>>>,
    pub(in crate::config) http2: Option<At<bool>>,
    pub(in crate::config) client_ca: Option<At<String>>,
    pub(in crate::config) client_auth: Option<At<ClientAuthWord>>,
}

/// One entry of `tls`.
#[derive(Debug)]
pub(in crate::config) struct TlsTable {
    pub(in crate::config) cert: Option<At<String>>,
    pub(in crate::config) key: Option<At<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum ClientAuthWord {
    Require,
    Request,
}

pub(in crate::config) const PROXY_PROTOCOL: Words<ProxyProtocol> = Words {
    now: &[
        ("off", ProxyProtocol::Off),
        ("accept", ProxyProtocol::Accept),
        ("require", ProxyProtocol::Require),
    ],
    aliases: &[],
    later: &[],
};

pub(in crate::config) const CLIENT_AUTH: Words<ClientAuthWord> = Words {
    now: &[("require", ClientAuthWord::Require), ("request", ClientAuthWord::Request)],
    aliases: &[],
    later: &[],
};

pub(super) const LISTENER: Kind = Kind {
    name: "[[listener]]",
    keys: &["name", "address", "mode", "proxy_protocol", "tls", "http2", "client_ca", "client_auth"],
    later: &[],
    foreign: &[],
};

pub(super) const TLS: Kind = Kind {
    name: "an entry of `tls`",
    keys: &["cert", "key"],
    later: &[],
    foreign: &[
        ("certificate", "it is `cert` here"),
        ("chain", "put the chain into the file of `cert`, behind the certificate"),
        ("password", "keep the key without a passphrase, readable for this process alone"),
    ],
};

pub(super) fn read(table: &Table<'_>) -> ListenerTable {
    table.require("name");
    table.require("address");
    ListenerTable {
        name: table.text("name"),
        address: table.text("address"),
        mode: table.text("mode"),
        proxy_protocol: table.word("proxy_protocol", &PROXY_PROTOCOL),
        has_tls: table.get("tls").is_some(),
        tls: table.list("tls", |value| tls(table, value)),
        http2: table.flag("http2"),
        client_ca: table.text("client_ca"),
        client_auth: table.word("client_auth", &CLIENT_AUTH),
    }
}

fn tls<'a>(listener: &Table<'a>, value: &'a Spanned<DeValue<'a>>) -> Option<TlsTable> {
    let DeValue::Table(entry) = value.get_ref() else {
        let help = "write `tls = [{ cert = \"certs/a.pem\", key = \"certs/a.key\" }]`".to_owned();
        listener.wrong("tls", value, "a list of tables", Some(help));
        return None;
    };
    let entry = Table::new(entry, value.span(), &TLS, listener.findings);
    entry.require("cert");
    entry.require("key");
    Some(TlsTable { cert: entry.text("cert"), key: entry.text("key") })
}
