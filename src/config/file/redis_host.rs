//! The shape of `hosts` in `[layer]`: the forms and words of `channels_redis` and redis-py.

use core::ops::RangeInclusive;
use core::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::table::{At, Kind, SecretText, Table, Words, whole_number};

/// `["127.0.0.1", 6379]`, as the tutorial of Channels writes it.
pub(in crate::config) type HostAndPort = (String, u16);

/// An entry of `hosts`.
#[derive(Debug)]
pub(in crate::config) enum HostEntry {
    /// A URL.
    Url(SecretText),
    /// A host and its port.
    Pair(HostAndPort),
    /// Any form, with keywords.
    Table(Box<HostTable>),
}

/// An entry of `hosts` that is a table.
#[derive(Debug)]
pub(in crate::config) struct HostTable {
    pub(in crate::config) address: Option<At<SecretText>>,
    pub(in crate::config) host: Option<At<String>>,
    pub(in crate::config) port: Option<At<u64>>,
    pub(in crate::config) sentinels: Option<At<Vec<At<HostAndPort>>>>,
    pub(in crate::config) master_name: Option<At<String>>,
    pub(in crate::config) sentinel_kwargs: Option<Keywords>,
    pub(in crate::config) cluster: Option<At<Vec<At<SecretText>>>>,
    pub(in crate::config) sharded: Option<At<bool>>,
    pub(in crate::config) keywords: Keywords,
    /// The keys that are there, whether or not their values are right.
    pub(in crate::config) keys: Vec<At<String>>,
}

/// The keywords of a connection that mean something here.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Keywords {
    pub(in crate::config) username: Option<At<String>>,
    pub(in crate::config) password: Option<At<SecretText>>,
    pub(in crate::config) db: Option<At<u64>>,
    pub(in crate::config) client_name: Option<At<String>>,
    pub(in crate::config) socket_connect_timeout: Option<At<Duration>>,
    pub(in crate::config) socket_keepalive: Option<At<bool>>,
    pub(in crate::config) ssl: Option<At<bool>>,
    pub(in crate::config) ssl_cert_reqs: Option<At<CertReqs>>,
    pub(in crate::config) ssl_check_hostname: Option<At<bool>>,
    pub(in crate::config) ssl_ca_certs: Option<At<String>>,
    pub(in crate::config) ssl_ca_data: Option<At<SecretText>>,
    pub(in crate::config) ssl_certfile: Option<At<String>>,
    pub(in crate::config) ssl_keyfile: Option<At<String>>,
}

/// `ssl_cert_reqs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum CertReqs {
    Required,
    None,
}

/// A server always shows a certificate, so with `optional` it is checked as well.
pub(in crate::config) const CERT_REQS: Words<CertReqs> = Words {
    now: &[("required", CertReqs::Required), ("none", CertReqs::None)],
    aliases: &[("optional", CertReqs::Required)],
    later: &[],
};

/// What says where a host is.
pub(super) const FORMS: &[&str] =
    &["address", "host", "port", "sentinels", "master_name", "sentinel_kwargs", "cluster", "sharded"];

/// Keywords that only tune Python's client.
pub(in crate::config) const WITHOUT_EFFECT: &[&str] = &[
    "check_connection",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "lib_name",
    "lib_version",
    "max_connections",
    "min_other_sentinels",
    "protocol",
    "retry_on_error",
    "retry_on_timeout",
    "socket_keepalive_options",
    "socket_read_size",
    "socket_timeout",
    "socket_type",
    "timeout",
];

/// Keywords that mean something here.
pub(in crate::config) const KEYWORDS: &[&str] = &[
    "username",
    "password",
    "db",
    "client_name",
    "socket_connect_timeout",
    "socket_keepalive",
    "ssl",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
];

const HOST_KEYS: [&str; FORMS.len() + KEYWORDS.len() + WITHOUT_EFFECT.len()] =
    concat(&[FORMS, KEYWORDS, WITHOUT_EFFECT]);
const SENTINEL_KEYS: [&str; KEYWORDS.len() + WITHOUT_EFFECT.len()] = concat(&[KEYWORDS, WITHOUT_EFFECT]);

/// All words of all lists, which are `N`.
#[expect(clippy::indexing_slicing, reason = "it runs when it is compiled")]
const fn concat<const N: usize>(lists: &[&[&'static str]]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut list, mut word, mut at) = (0, 0, 0);
    while list < lists.len() {
        if word == lists[list].len() {
            (list, word) = (list + 1, 0);
        } else {
            all[at] = lists[list][word];
            (word, at) = (word + 1, at + 1);
        }
    }
    all
}

const PYTHON: &str = "it names Python code, leave it out";

/// Keywords of redis-py that are refused, and what to do instead.
pub(in crate::config) const REFUSED: &[(&str, &str)] = &[
    ("path", "write a UNIX socket as `address = \"unix:///run/redis.sock\"`"),
    ("unix_socket_path", "write a UNIX socket as `address = \"unix:///run/redis.sock\"`"),
    ("credential_provider", "it names Python code; write `username` and `password`"),
    ("connection_class", "it names Python code; the kind of connection follows from `address`"),
    ("encoder_class", PYTHON),
    ("event_dispatcher", PYTHON),
    ("parser_class", PYTHON),
    ("redis_connect_func", PYTHON),
    ("retry", PYTHON),
    ("ssl_ca_path", "write the file of the authorities as `ssl_ca_certs`"),
    ("ssl_ciphers", "leave it out; only what is safe today is ever used"),
    ("ssl_min_version", "leave it out; it is TLS 1.2 or newer"),
    ("ssl_password", "keep the key without a passphrase, readable for this process alone"),
    ("ssl_validate_ocsp", "leave it out; OCSP is not asked"),
    ("is_master", "leave it out; it is always the master"),
];

pub(super) const HOST: Kind =
    Kind { name: "an entry of `hosts`", keys: &HOST_KEYS, later: &[], foreign: REFUSED };

pub(super) const SENTINEL_KWARGS: Kind =
    Kind { name: "`sentinel_kwargs`", keys: &SENTINEL_KEYS, later: &[], foreign: REFUSED };

/// Databases have numbers from 0; Redis has as many as it is told to.
const DATABASES: RangeInclusive<u64> = 0..=u32::MAX as u64;
/// Redis must have answered by then.
pub(in crate::config) const CONNECT_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_mins(1);

/// Reads an entry of `hosts`.
pub(super) fn host_entry<'a>(layer: &Table<'a>, value: &'a Spanned<DeValue<'a>>) -> Option<HostEntry> {
    match value.get_ref() {
        DeValue::Array(_) => pair(layer, "hosts", value, 6379).map(HostEntry::Pair),
        DeValue::Table(entries) if !["env", "file"].iter().any(|&key| entries.contains_key(key)) => {
            if entries.is_empty() {
                let message = "this entry of `hosts` is empty";
                let help = "write `address = \"redis://127.0.0.1:6379/0\"` into it, or leave it out";
                let diagnostic = Diagnostic::new(Code::MissingKey, value.span(), message);
                layer.findings.push(diagnostic.help(help));
                return None;
            }
            let table = Table::new(entries, value.span(), &HOST, layer.findings);
            Some(HostEntry::Table(Box::new(host_table(&table))))
        }
        DeValue::String(_) | DeValue::Table(_) => layer.secret("hosts", value).map(HostEntry::Url),
        _ => {
            let help = "write `\"redis://127.0.0.1:6379/0\"`".to_owned();
            layer.wrong("hosts", value, "a list of servers", Some(help));
            None
        }
    }
}

fn host_table(table: &Table<'_>) -> HostTable {
    HostTable {
        address: secret(table, "address"),
        host: table.text("host"),
        port: table.count("port", 1..=65_535),
        sentinels: table.list("sentinels", |value| pair(table, "sentinels", value, 26_379)),
        master_name: table.text("master_name"),
        sentinel_kwargs: table.table("sentinel_kwargs", &SENTINEL_KWARGS).map(|table| keywords(&table)),
        cluster: table.list("cluster", |value| table.secret("cluster", value)),
        sharded: table.flag("sharded"),
        keywords: keywords(table),
        keys: table.keys(),
    }
}

fn keywords(table: &Table<'_>) -> Keywords {
    Keywords {
        username: table.text("username"),
        password: secret(table, "password"),
        db: table.count("db", DATABASES),
        client_name: table.text("client_name"),
        socket_connect_timeout: table.exact_seconds("socket_connect_timeout", CONNECT_TIMEOUTS),
        socket_keepalive: table.flag("socket_keepalive"),
        ssl: table.flag("ssl"),
        ssl_cert_reqs: table.word("ssl_cert_reqs", &CERT_REQS),
        ssl_check_hostname: table.flag("ssl_check_hostname"),
        ssl_ca_certs: table.text("ssl_ca_certs"),
        ssl_ca_data: secret(table, "ssl_ca_data"),
        ssl_certfile: table.text("ssl_certfile"),
        ssl_keyfile: table.text("ssl_keyfile"),
    }
}

fn secret(table: &Table<'_>, key: &str) -> Option<At<SecretText>> {
    let value = table.get(key)?;
    Some(At { value: table.secret(key, value)?, span: value.span() })
}

/// `["host", port]`.
fn pair<'a>(table: &Table<'a>, key: &str, value: &'a Spanned<DeValue<'a>>, port: u16) -> Option<HostAndPort> {
    if let DeValue::Array(values) = value.get_ref() {
        let values: Vec<_> = values.iter().map(Spanned::get_ref).collect();
        if let [DeValue::String(host), DeValue::Integer(port)] = values.as_slice()
            && let Some(port) = whole_number(port).and_then(|port| u16::try_from(port).ok())
        {
            return Some((host.to_string(), port));
        }
    }
    let help = if key == "hosts" {
        "write `\"redis://127.0.0.1:6379/0\"`, or `[\"127.0.0.1\", 6379]`".to_owned()
    } else {
        format!("write `[[\"127.0.0.1\", {port}]]`")
    };
    table.wrong(key, value, "a list of servers", Some(help));
    None
}
