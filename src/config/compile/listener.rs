//! The rules of `[[listener]]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::compile::{ADMIN, Compiler, Unique, all, items, overlap, value};
use crate::config::diagnostic::{Code, Diagnostic, Span};
use crate::config::file::{ClientAuthWord, File, ListenerTable, TlsTable};
use crate::config::table::At;
use crate::config::{ListenerConfig, SecretSource};
use crate::listener::{Address, Certificate, ClientAuth, ProxyProtocol};

/// What fits into `sun_path` of unix(7), with the zero at its end.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where a file without `[[listener]]` listens.
const PUBLIC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

/// An address that is used, and where the file says so, if it does.
type Taken = (Address, Option<Span>);

impl Compiler<'_> {
    pub(super) fn listeners(&self, file: &File) -> Option<Vec<ListenerConfig>> {
        let tables = &file.listeners;
        let admin = match &file.server.admin {
            // An admin address that is none is reported with `[server]`.
            Some(at) => at.value.parse().ok().map(|address| (Address::Ip(address), Some(at.span.clone()))),
            None => Some((Address::Ip(ADMIN), None)),
        };
        let mut addresses: Vec<Taken> = admin.into_iter().collect();
        if tables.is_empty() {
            let address = self.free_address((Address::Ip(PUBLIC), None), &mut addresses)?;
            return Some(vec![ListenerConfig::plain("public", address)]);
        }
        let mut names = Unique::new("listener name");
        let listeners: Vec<_> = tables
            .iter()
            .map(|table| {
                let name =
                    table.name.as_ref().filter(|at| self.is_name("a listener", at) & names.add(self, at));
                let address = table.address.as_ref().and_then(|at| {
                    self.free_address((self.any_address(at)?, Some(at.span.clone())), &mut addresses)
                });
                let listener = self.listener(table, file, address.as_ref());
                Some(ListenerConfig { name: name?.value.clone(), ..listener? })
            })
            .collect();
        all(listeners)
    }

    /// All but the name.
    fn listener(
        &self,
        table: &ListenerTable,
        file: &File,
        address: Option<&Address>,
    ) -> Option<ListenerConfig> {
        let has_tls = table.has_tls;
        let mode = self.mode(table, address);
        let proxy_protocol = value(table.proxy_protocol.as_ref()).unwrap_or_default();
        if let Some(at) = table.proxy_protocol.as_ref().filter(|at| at.value != ProxyProtocol::Off) {
            self.check_proxies(at, file, address);
        }
        let tls = self.certificates(table);
        if let Some(at) = table.http2.as_ref().filter(|_| !has_tls) {
            self.of_tls("http2", &at.span, "HTTP/2 is agreed on in the TLS handshake");
        }
        let client_auth = self.client_auth(table, has_tls);
        Some(ListenerConfig {
            name: String::new(),
            address: address?.clone(),
            mode,
            proxy_protocol,
            tls: tls?,
            http2: has_tls && value(table.http2.as_ref()).unwrap_or(true),
            client_auth,
        })
    }

    fn free_address(&self, (address, span): Taken, taken: &mut Vec<Taken>) -> Option<Address> {
        let same = |other: &Address| match (&address, other) {
            (Address::Ip(one), Address::Ip(other)) => overlap(*one, *other),
            (one, other) => one == other,
        };
        if let Some((_, other)) = taken.iter().find(|(other, _)| same(other)) {
            let message = format!("the address `{address}` is already taken");
            let report = |span: &Span| Diagnostic::new(Code::Duplicate, span.clone(), &message);
            // The two defaults are different.
            self.push(match (&span, other) {
                (Some(span), Some(other)) => report(span).with(other.clone(), "taken here"),
                (Some(span), None) => report(span).help(format!(
                    "`admin` is `{ADMIN}` when it is left out; write another here, or as `admin` in [server]"
                )),
                (None, other) => report(other.as_ref()?).help(format!(
                    "a file without `[[listener]]` listens on `{PUBLIC}`; write another here, or a `[[listener]]`"
                )),
            });
            return None;
        }
        taken.push((address.clone(), span));
        Some(address)
    }

    fn any_address(&self, at: &At<String>) -> Option<Address> {
        if let Some(path) = at.value.strip_prefix("unix:") {
            let why = match path {
                _ if !path.starts_with('/') => "the path of a UNIX socket begins with a slash",
                _ if path.contains('\0') => "a path holds no zero byte",
                _ if UNIX_PATH_BYTES_MAX < path.len() => "the path of a UNIX socket has at most 107 bytes",
                _ => return Some(Address::Unix(path.into())),
            };
            let help = "write a whole path, such as `unix:/run/anteroom/public.sock`";
            self.push(Diagnostic::new(Code::Address, at.span.clone(), why).help(help));
            return None;
        }
        if let Some(name) = at.value.strip_prefix("fd:") {
            if name.is_empty() || name.contains(':') {
                let help =
                    "write its name (`FileDescriptorName=` in the unit) or its number, from 0: `fd:public`";
                let message = "this does not say which of the sockets handed over is meant";
                self.push(Diagnostic::new(Code::Address, at.span.clone(), message).help(help));
                return None;
            }
            return Some(Address::Fd(name.to_owned()));
        }
        self.address(at).map(Address::Ip)
    }

    fn mode(&self, table: &ListenerTable, address: Option<&Address>) -> Option<u32> {
        let at = table.mode.as_ref()?;
        if address.is_some_and(|address| !matches!(address, Address::Unix(_))) {
            let message = "`mode` is for the file of a UNIX socket, and this listener makes none";
            self.push(Diagnostic::new(Code::UnusableKey, at.span.clone(), message));
            return None;
        }
        let is_octal =
            (3..=4).contains(&at.value.len()) && at.value.bytes().all(|byte| byte.is_ascii_digit());
        let mode = u32::from_str_radix(&at.value, 8).ok().filter(|&mode| is_octal && mode <= 0o777);
        if mode.is_none() {
            let message = format!("`{}` is no file mode", at.value);
            let help = "write it in octal, such as `\"0660\"` for the owner and the group";
            self.push(Diagnostic::new(Code::OutOfRange, at.span.clone(), message).help(help));
        }
        mode
    }

    /// A PROXY header counts from trusted proxies alone, so there must be one that can come here.
    fn check_proxies(&self, at: &At<ProxyProtocol>, file: &File, address: Option<&Address>) {
        let mut proxies = items(file.trust.proxies.as_ref()).map(|at| at.value.as_str());
        let (comes, example) = match address {
            Some(Address::Unix(_)) => (proxies.any(|proxy| proxy == "unix"), "unix"),
            Some(Address::Ip(_)) => (proxies.any(|proxy| proxy != "unix"), "10.0.0.0/8"),
            Some(Address::Fd(_)) | None => (proxies.next().is_some(), "10.0.0.0/8"),
        };
        if !comes {
            let message = "a PROXY header counts from trusted proxies alone, and none of them comes here";
            let help = format!("name them in [trust], such as `proxies = [\"{example}\"]`");
            self.push(Diagnostic::new(Code::Conflict, at.span.clone(), message).help(help));
        }
    }

    fn certificates(&self, table: &ListenerTable) -> Option<Vec<Certificate>> {
        let Some(at) = &table.tls else { return Some(Vec::new()) };
        if at.value.is_empty() {
            let help =
                "write `tls = [{ cert = \"certs/a.pem\", key = \"certs/a.key\" }]`, or leave it out for none";
            self.push(Diagnostic::new(Code::Empty, at.span.clone(), "`tls` has no certificate").help(help));
            return None;
        }
        let mut files = Unique::new("certificate");
        all(at.value.iter().map(|entry| {
            let entry = &entry.value;
            let is_new = entry.cert.as_ref().is_none_or(|cert| files.add(self, cert));
            self.certificate(entry).filter(|_| is_new)
        }))
    }

    fn certificate(&self, entry: &TlsTable) -> Option<Certificate> {
        let (cert_pem, key_pem) = (self.pem(entry.cert.as_ref()), self.pem(entry.key.as_ref()));
        let (cert, cert_pem) = cert_pem?;
        let (key, key_pem) = key_pem?;
        match Certificate::parse(&cert.value, &key.value, &cert_pem, &key_pem) {
            Ok(certificate) => Some(certificate),
            Err(error) => {
                let (to_blame, other) = if error.is_of_key() { (key, cert) } else { (cert, key) };
                let message = format!("`{}`: {error}", to_blame.value);
                let diagnostic = Diagnostic::new(Code::Certificate, to_blame.span.clone(), message);
                self.push(diagnostic.with(other.span.clone(), "the other half"));
                None
            }
        }
    }

    fn client_auth(&self, table: &ListenerTable, has_tls: bool) -> Option<ClientAuth> {
        let Some(at) = &table.client_ca else {
            let word = table.client_auth.as_ref()?;
            let message = "`client_auth` needs the authorities that sign the certificates of clients";
            let help = "add `client_ca = \"certs/clients.pem\"`";
            self.push(Diagnostic::new(Code::Conflict, word.span.clone(), message).help(help));
            return None;
        };
        if !has_tls {
            self.of_tls("client_ca", &at.span, "clients show their certificates in the TLS handshake");
            return None;
        }
        let (at, pem) = self.pem(Some(at))?;
        let required = value(table.client_auth.as_ref()).is_none_or(|word| word == ClientAuthWord::Require);
        match ClientAuth::parse(&at.value, required, &pem) {
            Ok(auth) => Some(auth),
            Err(error) => {
                let message = format!("`{}`: {error}", at.value);
                self.push(Diagnostic::new(Code::Certificate, at.span.clone(), message));
                None
            }
        }
    }

    /// The text of a file that the key names; none of it is ever shown.
    pub(super) fn pem<'a>(&self, at: Option<&'a At<String>>) -> Option<(&'a At<String>, String)> {
        let at = at?;
        match self.secrets.read(&SecretSource::File(at.value.clone())) {
            Ok(text) => Some((at, text)),
            Err(why) => {
                let message = format!("`{}`: {why}", at.value);
                self.push(Diagnostic::new(Code::Certificate, at.span.clone(), message));
                None
            }
        }
    }

    fn of_tls(&self, key: &str, span: &Span, why: &str) {
        let message = format!("`{key}` has no use without `tls`");
        let help = format!("{why}; add `tls = [{{ cert = \"…\", key = \"…\" }}]` or leave this out");
        self.push(Diagnostic::new(Code::UnusableKey, span.clone(), message).help(help));
    }
}
