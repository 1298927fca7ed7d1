//! The rules of `[upstream.NAME]`.

use core::time::Duration;
use std::collections::HashSet;

use rustls::pki_types::ServerName;

use crate::config::UpstreamConfig;
use crate::config::compile::{Compiler, all, items, to_usize, value};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::file::{HealthTable, UpstreamTable, UpstreamTlsTable};
use crate::config::table::At;
use crate::request::Host;
use crate::tls::CaFile;
use crate::upstream::{HealthCheck, ServerAddress, Settings, TlsSettings};

impl Compiler<'_> {
    pub(super) fn upstreams(&self, tables: &[UpstreamTable]) -> Option<Vec<UpstreamConfig>> {
        all(tables.iter().map(|table| self.upstream(table)))
    }

    fn upstream(&self, table: &UpstreamTable) -> Option<UpstreamConfig> {
        let is_name = self.is_name("an upstream", &table.name);
        let health = table.health.as_ref().map(|health| self.health(health));
        let servers = self.servers(table.servers.as_ref());
        let uses_tls = servers.as_ref().is_none_or(|servers| {
            servers.iter().any(|server| matches!(server, ServerAddress::Tcp { tls: true, .. }))
        });
        let tls = match &table.tls {
            Some(at) => self.upstream_tls(at, uses_tls),
            None => Some(TlsSettings::default()),
        };
        if tls.as_ref().is_some_and(|tls| tls.verify && tls.ca.is_none()) {
            self.check_authorities(table);
        }
        let default = Settings::new(servers?);
        let settings = Settings {
            connect_timeout: value(table.connect_timeout.as_ref()).unwrap_or(default.connect_timeout),
            response_timeout: value(table.response_timeout.as_ref()).unwrap_or(default.response_timeout),
            tunnel_timeout: value(table.tunnel_timeout.as_ref()).unwrap_or(default.tunnel_timeout),
            keepalive: value(table.keepalive.as_ref()).map_or(default.keepalive, to_usize),
            idle_timeout: value(table.idle_timeout.as_ref()).unwrap_or(default.idle_timeout),
            fails_max: value(table.max_fails.as_ref())
                .map_or(default.fails_max, |fails| u32::try_from(fails).unwrap_or(u32::MAX)),
            fail_timeout: value(table.fail_timeout.as_ref()).unwrap_or(default.fail_timeout),
            inflight_max: value(table.max_inflight.as_ref()).map(to_usize),
            traceparent: value(table.traceparent.as_ref()).unwrap_or(default.traceparent),
            health: match health {
                Some(health) => Some(health?),
                None => None,
            },
            tls: tls?,
            servers: default.servers,
        };
        is_name.then(|| UpstreamConfig { name: table.name.value.clone(), settings })
    }

    fn servers(&self, at: Option<&At<Vec<At<String>>>>) -> Option<Vec<ServerAddress>> {
        let list = at?;
        let count = list.value.len();
        if count == 0 || Settings::SERVERS_MAX < count {
            let message = format!("`servers` has {count} entries");
            let diagnostic = Diagnostic::new(Code::OutOfRange, list.span.clone(), message);
            self.push(diagnostic.label(format!("allowed is 1 to {}", Settings::SERVERS_MAX)));
            return None;
        }
        let mut seen = HashSet::new();
        all(items(at).map(|at| match at.value.parse::<ServerAddress>() {
            Ok(server) if seen.insert(server.clone()) => Some(server),
            Ok(server) => {
                let message = format!("the server `{server}` stands here a second time");
                self.push(Diagnostic::new(Code::Duplicate, at.span.clone(), message));
                None
            }
            Err(error) => {
                self.refuse(Code::Server, at, error.help(), &error);
                None
            }
        }))
    }

    /// Without authorities of its own an `https` server is checked by those of the system, which may have none.
    fn check_authorities(&self, table: &UpstreamTable) {
        let is_https = |at: &&At<String>| at.value.starts_with("https://");
        let Some(at) = items(table.servers.as_ref()).find(is_https) else { return };
        if let Err(why) = self.secrets.find_authorities() {
            let help = "name a file of them, such as `tls = { ca = \"certs/internal-ca.pem\" }`, or install \
                        those of the system (`ca-certificates`)";
            self.push(Diagnostic::new(Code::Certificate, at.span.clone(), why).help(help));
        }
    }

    fn health(&self, table: &HealthTable) -> Option<HealthCheck> {
        let at = table.path.as_ref()?;
        let is_path = at.value.starts_with('/') && at.value.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_path || at.value.parse::<http::uri::PathAndQuery>().is_err() {
            let message = format!("`{}` is no path that can be asked for", at.value);
            let help = "write it as a request has it, such as `/healthz`";
            self.push(Diagnostic::new(Code::Server, at.span.clone(), message).help(help));
            return None;
        }
        if let Some(at) = &table.host
            && Host::parse(&at.value).is_err()
        {
            let message = format!("`{}` is no host that can be asked for", at.value);
            let help = "write it as a request has it, such as `example.com`; a port is allowed";
            self.push(Diagnostic::new(Code::Server, at.span.clone(), message).help(help));
            return None;
        }
        Some(HealthCheck {
            path: at.value.clone(),
            host: table.host.as_ref().map(|at| at.value.clone()),
            every: value(table.every.as_ref()).unwrap_or(Duration::from_secs(5)),
            timeout: value(table.timeout.as_ref()).unwrap_or(Duration::from_secs(2)),
            status: value(table.status.as_ref()).and_then(|code| u16::try_from(code).ok()).unwrap_or(200),
        })
    }

    fn upstream_tls(&self, at: &At<UpstreamTlsTable>, uses_tls: bool) -> Option<TlsSettings> {
        let table = &at.value;
        if !uses_tls {
            let message = "`tls` has no use here: none of the servers is an `https://` one";
            self.push(Diagnostic::new(Code::UnusableKey, at.span.clone(), message));
            return None;
        }
        let verify = value(table.verify.as_ref()).unwrap_or(true);
        if let (false, Some(ca)) = (verify, &table.ca) {
            let message = "`ca` has no use where `verify = false` takes any certificate";
            self.push(Diagnostic::new(Code::Conflict, ca.span.clone(), message));
            return None;
        }
        if let Some(at) = &table.server_name
            && ServerName::try_from(at.value.as_str()).is_err()
        {
            let message = format!("`{}` is no name that a certificate can have", at.value);
            let help = "write a host name, such as `app.internal`, or an address";
            self.push(Diagnostic::new(Code::Server, at.span.clone(), message).help(help));
            return None;
        }
        let ca = match &table.ca {
            Some(at) => {
                let (at, pem) = self.pem(Some(at))?;
                let ca = CaFile { path: at.value.clone(), pem };
                if let Err(error) = ca.check() {
                    self.push(Diagnostic::new(Code::Certificate, at.span.clone(), error));
                    return None;
                }
                Some(ca)
            }
            None => None,
        };
        let server_name = table.server_name.as_ref().map(|at| at.value.clone());
        Some(TlsSettings { ca, server_name, verify })
    }
}
