//! The rules of `hosts` in `[layer]`.

use crate::channel_layer::{
    Cluster, InvalidRedisUrl, Login, RedisAddress, RedisHost, RedisServer, RedisTls, RedisUrl, Secret,
    Sentinel,
};
use crate::config::compile::{Compiler, all, value};
use crate::config::diagnostic::{Code, Diagnostic, Span, nearest};
use crate::config::file::Backend;
use crate::config::file::redis_host::{
    CERT_REQS, CONNECT_TIMEOUTS, CertReqs, HostEntry, HostTable, KEYWORDS, Keywords, REFUSED, WITHOUT_EFFECT,
};
use crate::config::table::{At, SecretText};
use crate::config::units;
use crate::tls::{CaFile, Identity, Verify};

/// What makes a connection one through TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TlsBy {
    /// The scheme of the URL, and whether it does.
    Scheme(bool),
    /// `ssl = true`.
    Flag,
}

impl Compiler<'_> {
    pub(super) fn redis_host(&self, at: &At<HostEntry>, backend: Backend) -> Option<RedisHost> {
        let server = match &at.value {
            HostEntry::Url(url) => self.server_of_url(url, &at.span, &Keywords::default()),
            HostEntry::Pair((host, port)) => Some(RedisServer::new(self.tcp(host, *port, &at.span)?)),
            HostEntry::Table(table) => return self.host_table(table, &at.span, backend),
        };
        server.map(RedisHost::Server)
    }

    fn host_table(&self, table: &HostTable, span: &Span, backend: Backend) -> Option<RedisHost> {
        let key = |keys: &[&str]| table.keys.iter().find(|key| keys.contains(&key.value.as_str()));
        let forms = [
            key(&["address"]),
            key(&["host", "port"]),
            key(&["sentinels", "master_name", "sentinel_kwargs"]),
            key(&["cluster", "sharded"]),
        ];
        let mut said = forms.into_iter().flatten();
        if let (Some(one), Some(other)) = (said.next(), said.next()) {
            let message = format!("`{}` and `{}` both say where this host is", one.value, other.value);
            let diagnostic = Diagnostic::new(Code::Conflict, other.span.clone(), message);
            self.push(diagnostic.with(one.span.clone(), "the other").help("leave one of them out"));
            return None;
        }
        let [address, _, sentinel, cluster] = forms;
        if address.is_some() {
            let at = table.address.as_ref()?;
            let server = self.server_of_url(&at.value, &at.span, &table.keywords)?;
            return Some(RedisHost::Server(server));
        }
        if sentinel.is_some() {
            return self.sentinel(table, span).map(RedisHost::Sentinel);
        }
        if let Some(key) = cluster {
            if backend == Backend::Core {
                let message = "`channels_redis.core` cannot work on a Redis Cluster, here or in Python";
                let help = "write `backend = \"channels_redis.pubsub\"`, on both sides, or name a Redis that is none";
                self.push(Diagnostic::new(Code::Conflict, key.span.clone(), message).help(help));
            }
            return self.cluster(table, span).map(RedisHost::Cluster);
        }
        let host = table.host.as_ref().map_or("localhost", |at| &at.value);
        let port = value(table.port.as_ref()).and_then(|port| u16::try_from(port).ok()).unwrap_or(6379);
        let span = table.host.as_ref().map_or(span, |at| &at.span);
        let address = self.tcp(host, port, span)?;
        self.redis_server(address, TlsBy::Scheme(false), &table.keywords).map(RedisHost::Server)
    }

    fn sentinel(&self, table: &HostTable, span: &Span) -> Option<Sentinel> {
        let there = |key: &str| table.keys.iter().any(|known| known.value == key);
        for key in ["sentinels", "master_name"].into_iter().filter(|key| !there(key)) {
            let message = format!("this host has Sentinels and no `{key}`");
            let help = "write `{ sentinels = [[\"10.0.0.1\", 26379]], master_name = \"mymaster\" }`";
            self.push(Diagnostic::new(Code::MissingKey, span.clone(), message).help(help));
        }
        let own = table.sentinel_kwargs.clone().unwrap_or_default();
        let sentinels = table.sentinels.as_ref().and_then(|at| {
            if at.value.is_empty() {
                let message = "`sentinels` is empty, so nobody knows the master";
                self.push(Diagnostic::new(Code::Empty, at.span.clone(), message));
                return None;
            }
            all(at.value.iter().map(|one| self.tcp(&one.value.0, one.value.1, &one.span)))
        });
        // What is wrong with the words is told once, not once for each Sentinel.
        let anywhere = RedisServer::default().address;
        let sentinel = self.redis_server(anywhere.clone(), TlsBy::Flag, &own);
        let master = self.redis_server(anywhere, TlsBy::Flag, &table.keywords);
        let master_name = table.master_name.as_ref().and_then(|at| {
            if at.value.is_empty() {
                let message = "`master_name` is empty";
                self.push(Diagnostic::new(Code::Empty, at.span.clone(), message));
                return None;
            }
            Some(at.value.clone())
        });
        let (sentinel, addresses) = (sentinel?, sentinels?);
        let sentinels =
            addresses.into_iter().map(|address| RedisServer { address, ..sentinel.clone() }).collect();
        Some(Sentinel { sentinels, master_name: master_name?, master: master? })
    }

    fn cluster(&self, table: &HostTable, span: &Span) -> Option<Cluster> {
        let Some(at) = &table.cluster else {
            if !table.keys.iter().any(|key| key.value == "cluster") {
                let message = "this host is `sharded` and no `cluster`";
                let help = "write `{ cluster = [\"redis://10.0.0.1:6379\"], sharded = true }`";
                self.push(Diagnostic::new(Code::MissingKey, span.clone(), message).help(help));
            }
            return None;
        };
        if at.value.is_empty() {
            let message = "`cluster` names none of its nodes";
            self.push(Diagnostic::new(Code::Empty, at.span.clone(), message));
            return None;
        }
        let urls = || at.value.iter();
        let nodes = all(urls().map(|url| self.server_of_url(&url.value, &url.span, &table.keywords)))?;
        let first = nodes.first()?;
        let is_like =
            |node: &RedisServer| RedisServer { address: first.address.clone(), ..node.clone() } == *first;
        for (url, node) in urls().zip(&nodes) {
            let why = if !matches!(node.address, RedisAddress::Tcp(..)) {
                "a node of a cluster is reached over TCP"
            } else if node.database != 0 {
                "a cluster has no database but 0"
            } else if !is_like(node) {
                "this node differs from the first in more than its address"
            } else {
                continue;
            };
            self.push(Diagnostic::new(Code::RedisHost, url.span.clone(), why));
            return None;
        }
        Some(Cluster { nodes, sharded: value(table.sharded.as_ref()).unwrap_or(false) })
    }

    fn tcp(&self, host: &str, port: u16, span: &Span) -> Option<RedisAddress> {
        match RedisAddress::tcp(host, port) {
            Ok(address) => Some(address),
            Err(error) => {
                self.push(Diagnostic::new(Code::RedisHost, span.clone(), error.to_string()));
                None
            }
        }
    }

    /// What stands in the URL counts before the keywords beside it, as in redis-py.
    fn server_of_url(&self, url: &SecretText, span: &Span, beside: &Keywords) -> Option<RedisServer> {
        let text = self.secret(url, span)?;
        let url: RedisUrl = match text.parse() {
            Ok(url) => url,
            Err(error) => {
                self.push(bad_url(&text, &error, span));
                return None;
            }
        };
        let mut keywords = beside.clone();
        let at =
            |text: &Secret| At { value: SecretText::Plain(text.reveal().to_owned()), span: span.clone() };
        for (name, text) in &url.options {
            self.option(&mut keywords, name, text.reveal(), span)?;
        }
        if let Some(user) = &url.user {
            keywords.username = Some(At { value: user.clone(), span: span.clone() });
        }
        keywords.password = url.password.as_ref().map(at).or(keywords.password);
        if let Some(database) = url.database {
            keywords.db = Some(At { value: database.into(), span: span.clone() });
        }
        self.redis_server(url.address, TlsBy::Scheme(url.tls), &keywords)
    }

    /// Takes one option behind the `?` of a URL.
    fn option(&self, keywords: &mut Keywords, name: &str, text: &str, span: &Span) -> Option<()> {
        let at = |text: &str| Some(At { value: text.to_owned(), span: span.clone() });
        let wrong = |wanted: &str| {
            let message = format!("the option `{name}` of this Redis URL is not {wanted}");
            self.push(Diagnostic::new(Code::RedisHost, span.clone(), message));
        };
        match name {
            "client_name" => keywords.client_name = at(text),
            "ssl_ca_certs" => keywords.ssl_ca_certs = at(text),
            "ssl_certfile" => keywords.ssl_certfile = at(text),
            "ssl_keyfile" => keywords.ssl_keyfile = at(text),
            "ssl_ca_data" => {
                let value = SecretText::Plain(text.to_owned());
                keywords.ssl_ca_data = Some(At { value, span: span.clone() });
            }
            "socket_keepalive" | "ssl_check_hostname" => {
                // As redis-py reads it.
                let no = ["0", "F", "FALSE", "N", "NO"].contains(&text.to_uppercase().as_str());
                let flag = Some(At { value: !no, span: span.clone() });
                if name == "socket_keepalive" {
                    keywords.socket_keepalive = flag;
                } else {
                    keywords.ssl_check_hostname = flag;
                }
            }
            "socket_connect_timeout" => {
                let seconds = text.parse().ok().and_then(units::seconds);
                let Some(value) = seconds.filter(|seconds| CONNECT_TIMEOUTS.contains(seconds)) else {
                    wrong("a number of seconds from 0.01 to 60");
                    return None;
                };
                keywords.socket_connect_timeout = Some(At { value, span: span.clone() });
            }
            "ssl_cert_reqs" => {
                let mut words = CERT_REQS.now.iter().chain(CERT_REQS.aliases);
                let Some((_, value)) = words.find(|(word, _)| *word == text) else {
                    wrong("`required`, `optional` or `none`");
                    return None;
                };
                keywords.ssl_cert_reqs = Some(At { value: *value, span: span.clone() });
            }
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => {
                let refused = REFUSED.iter().find(|(word, _)| *word == name);
                let known = || KEYWORDS.iter().chain(WITHOUT_EFFECT).copied().filter(|word| *word != "ssl");
                let help = match (refused, nearest(name, known())) {
                    _ if name == "ssl" => "begin the URL with `rediss://`".to_owned(),
                    (Some((_, help)), _) => (*help).to_owned(),
                    (None, Some(near)) => format!("did you mean `{near}`?"),
                    (None, None) => "the options are keywords of redis-py, such as `db`".to_owned(),
                };
                let message = format!("a Redis URL has no option `{name}`");
                self.push(Diagnostic::new(Code::RedisHost, span.clone(), message).help(help));
                return None;
            }
        }
        Some(())
    }

    fn redis_server(&self, address: RedisAddress, by: TlsBy, keywords: &Keywords) -> Option<RedisServer> {
        let tls = self.redis_tls(&address, by, keywords);
        let user = keywords.username.as_ref().map(|at| at.value.clone()).filter(|user| !user.is_empty());
        let password = match &keywords.password {
            Some(at) => Some(self.secret(&at.value, &at.span)?),
            None => None,
        };
        let password = password.filter(|password| !password.is_empty()).map(Secret::new);
        if let Some(at) = &keywords.client_name
            && !at.value.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let message = format!("`{}` is no name of a connection", at.value);
            let help = "it has no spaces, and nothing but ASCII";
            self.push(Diagnostic::new(Code::Name, at.span.clone(), message).help(help));
            return None;
        }
        Some(RedisServer {
            address,
            tls: tls?,
            login: Login { user, password },
            database: value(keywords.db.as_ref()).and_then(|db| u32::try_from(db).ok()).unwrap_or(0),
            connect_timeout: value(keywords.socket_connect_timeout.as_ref())
                .unwrap_or(RedisServer::CONNECT_TIMEOUT),
            keepalive: value(keywords.socket_keepalive.as_ref()).unwrap_or(false),
            client_name: keywords.client_name.as_ref().map(|at| at.value.clone()),
        })
    }

    /// `None` inside is a connection in clear.
    #[expect(clippy::option_option, reason = "the outer one is whether it can be used, as everywhere here")]
    fn redis_tls(&self, address: &RedisAddress, by: TlsBy, keywords: &Keywords) -> Option<Option<RedisTls>> {
        let flag = keywords.ssl.as_ref();
        if let (TlsBy::Scheme(_), Some(at)) = (by, flag.filter(|at| at.value)) {
            let message =
                "`ssl = true` gives no TLS to a host that is written so, in `channels_redis` neither";
            let help = format!("write `address = \"rediss://{address}\"` instead");
            self.push(Diagnostic::new(Code::UnusableKey, at.span.clone(), message).help(help));
            return None;
        }
        let has_tls = match by {
            TlsBy::Scheme(tls) => tls,
            TlsBy::Flag => flag.is_some_and(|at| at.value),
        };
        if !has_tls {
            let words = [
                ("ssl_cert_reqs", keywords.ssl_cert_reqs.as_ref().map(|at| &at.span)),
                ("ssl_check_hostname", keywords.ssl_check_hostname.as_ref().map(|at| &at.span)),
                ("ssl_ca_certs", keywords.ssl_ca_certs.as_ref().map(|at| &at.span)),
                ("ssl_ca_data", keywords.ssl_ca_data.as_ref().map(|at| &at.span)),
                ("ssl_certfile", keywords.ssl_certfile.as_ref().map(|at| &at.span)),
                ("ssl_keyfile", keywords.ssl_keyfile.as_ref().map(|at| &at.span)),
            ];
            let there: Vec<_> =
                words.into_iter().filter_map(|(word, span)| Some((word, span?.clone()))).collect();
            let help = match (by, address) {
                (TlsBy::Flag, _) => "add `ssl = true`".to_owned(),
                (TlsBy::Scheme(_), RedisAddress::Tcp(..)) => {
                    format!("write `address = \"rediss://{address}\"`")
                }
                (TlsBy::Scheme(_), RedisAddress::Unix(_)) => {
                    "leave it out: a UNIX socket needs no TLS".to_owned()
                }
            };
            for (word, span) in &there {
                let message = format!("`{word}` has no use on a connection in clear");
                self.push(Diagnostic::new(Code::UnusableKey, span.clone(), message).help(help.clone()));
            }
            return there.is_empty().then_some(None);
        }
        let ca = match &keywords.ssl_ca_certs {
            Some(at) => {
                let (at, pem) = self.pem(Some(at))?;
                Some(self.authorities(CaFile { path: at.value.clone(), pem }, &at.span)?)
            }
            None => None,
        };
        let ca_data = match &keywords.ssl_ca_data {
            Some(at) => {
                let pem = self.secret(&at.value, &at.span)?;
                let ca = self.authorities(CaFile { path: "ssl_ca_data".to_owned(), pem }, &at.span)?;
                Some(ca.pem)
            }
            None => None,
        };
        let identity = self.redis_identity(keywords)?;
        let checked = value(keywords.ssl_cert_reqs.as_ref()) != Some(CertReqs::None);
        let verify = match (checked, value(keywords.ssl_check_hostname.as_ref())) {
            (false, _) => Verify::Nothing,
            (true, Some(false)) => Verify::Authority,
            (true, _) => Verify::Name,
        };
        if let (false, Some(at)) = (checked, &keywords.ssl_ca_certs) {
            let message =
                "`ssl_ca_certs` has no effect where `ssl_cert_reqs = \"none\"` takes any certificate";
            self.push(Diagnostic::new(Code::NoEffect, at.span.clone(), message));
        }
        Some(Some(RedisTls { verify, ca, ca_data, identity }))
    }

    fn authorities(&self, ca: CaFile, span: &Span) -> Option<CaFile> {
        if let Err(error) = ca.check() {
            self.push(Diagnostic::new(Code::Certificate, span.clone(), error));
            return None;
        }
        Some(ca)
    }

    /// The certificate that we show; `None` inside is none.
    #[expect(clippy::option_option, reason = "the outer one is whether it can be used, as everywhere here")]
    fn redis_identity(&self, keywords: &Keywords) -> Option<Option<Identity>> {
        let (cert, key) = match (&keywords.ssl_certfile, &keywords.ssl_keyfile) {
            (None, None) => return Some(None),
            (Some(cert), Some(key)) => (cert, key),
            (Some(one), None) | (None, Some(one)) => {
                let message = "`ssl_certfile` and `ssl_keyfile` need one another";
                self.push(Diagnostic::new(Code::MissingKey, one.span.clone(), message));
                return None;
            }
        };
        let (cert_pem, key_pem) = (self.pem(Some(cert)), self.pem(Some(key)));
        let identity = Identity {
            cert: cert.value.clone(),
            key: key.value.clone(),
            cert_pem: cert_pem?.1,
            key_pem: key_pem?.1,
        };
        if let Err(error) = identity.check() {
            self.push(Diagnostic::new(Code::Certificate, cert.span.clone(), error));
            return None;
        }
        Some(Some(identity))
    }
}

fn bad_url(text: &str, error: &InvalidRedisUrl, span: &Span) -> Diagnostic {
    match error {
        // A password with a slash or colon in it ends up in what the error would show.
        InvalidRedisUrl::NoHost
        | InvalidRedisUrl::Host(_)
        | InvalidRedisUrl::Port(_)
        | InvalidRedisUrl::Database(_)
        | InvalidRedisUrl::UnixHost(_)
        | InvalidRedisUrl::Option
            if text.contains('@') =>
        {
            let message = "the host, port or database of this Redis URL cannot be read";
            let help =
                "in user and password write `%2F` for `/`, `%3A` for `:`, `%3F` for `?` and `%40` for `@`";
            Diagnostic::new(Code::RedisHost, span.clone(), message).help(help)
        }
        error => Diagnostic::new(Code::RedisHost, span.clone(), error.to_string()),
    }
}
