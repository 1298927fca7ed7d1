//! The rules of `[trust]` and `[layer]`.

use crate::channel_layer::{InvalidRedisUrl, RedisUrl, Secret, SerializerFormat};
use crate::config::compile::{Compiler, all, items, value};
use crate::config::diagnostic::{Code, Diagnostic, Span};
use crate::config::file::{Backend, LayerTable, ListenerTable, TrustTable};
use crate::config::table::{At, HostEntry, SecretText};
use crate::config::{LayerConfig, SecretSource, TrustConfig};
use crate::listener::ProxyProtocol;
use crate::request::{ForwardedHeaders, TrustedProxy};

impl Compiler<'_> {
    pub(super) fn trust(&self, table: &TrustTable, listeners: &[ListenerTable]) -> TrustConfig {
        let mut proxies = Vec::new();
        for at in items(table.proxies.as_ref()) {
            match at.value.parse::<TrustedProxy>() {
                Ok(proxy) => proxies.push(proxy),
                Err(error) => self.refuse(Code::TrustedProxy, at, error.help(), &error),
            }
        }
        let headers = value(table.headers.as_ref()).unwrap_or(ForwardedHeaders::None);
        // A PROXY header names the client, too.
        let named = |one: &ListenerTable| {
            one.proxy_protocol.as_ref().is_some_and(|at| at.value != ProxyProtocol::Off)
        };
        let read = headers != ForwardedHeaders::None || listeners.iter().any(named);
        match (&table.proxies, &table.headers) {
            (Some(at), _) if !at.value.is_empty() && !read => {
                let message = "no header of these proxies is read, so each of them counts as one client";
                let help = "add `headers = \"x-forwarded\"` or `headers = \"forwarded\"`, whichever they set";
                self.push(Diagnostic::new(Code::NoEffect, at.span.clone(), message).help(help));
            }
            (proxies, Some(at))
                if headers != ForwardedHeaders::None
                    && proxies.as_ref().is_none_or(|proxies| proxies.value.is_empty()) =>
            {
                let message = "no proxy is trusted, so these headers are never read";
                let help = "name the proxies, such as `proxies = [\"127.0.0.1/32\"]`";
                self.push(Diagnostic::new(Code::NoEffect, at.span.clone(), message).help(help));
            }
            _ => (),
        }
        TrustConfig { proxies, headers }
    }

    pub(super) fn layer(&self, table: &LayerTable) -> Option<LayerConfig> {
        let backend = value(table.backend.as_ref()).unwrap_or(Backend::Memory);
        if backend == Backend::Memory {
            // With a wrong backend it is not known which keys it could use.
            let known = table.backend.is_some() || !table.keys.iter().any(|key| key.value == "backend");
            let of_pubsub = ["hosts", "prefix", "symmetric_encryption_keys", "serializer_format"];
            for key in table.keys.iter().filter(|key| known && of_pubsub.contains(&key.value.as_str())) {
                let message = format!("`{}` has no use with `backend = \"memory\"`", key.value);
                let diagnostic = Diagnostic::new(Code::UnusableKey, key.span.clone(), message);
                self.push(match &table.backend {
                    Some(at) => diagnostic.with(at.span.clone(), "the backend"),
                    None => diagnostic
                        .help("add `backend = \"channels_redis.pubsub\"`: without it the layer is in memory"),
                });
            }
            return Some(LayerConfig::Memory);
        }
        let hosts = match &table.hosts {
            Some(at) if at.value.is_empty() => {
                let help = "leave it out for `redis://localhost:6379/0`";
                self.push(Diagnostic::new(Code::Empty, at.span.clone(), "`hosts` is empty").help(help));
                None
            }
            Some(at) => all(at.value.iter().map(|host| self.redis_host(host))),
            None => Some(vec![RedisUrl::default()]),
        };
        let keys = all(items(table.symmetric_encryption_keys.as_ref()).map(|at| self.encryption_key(at)));
        Some(LayerConfig::PubSub {
            hosts: hosts?,
            prefix: table.prefix.as_ref().map_or_else(|| "asgi".to_owned(), |at| at.value.clone()),
            symmetric_encryption_keys: keys?,
            serializer_format: value(table.serializer_format.as_ref()).unwrap_or(SerializerFormat::MsgPack),
        })
    }

    fn redis_host(&self, at: &At<HostEntry>) -> Option<RedisUrl> {
        let text = match &at.value {
            HostEntry::Pair(host, port) if host.contains(':') => format!("redis://[{host}]:{port}"),
            HostEntry::Pair(host, port) => format!("redis://{host}:{port}"),
            HostEntry::Url(secret) => self.secret(secret, &at.span)?,
        };
        let error = match text.parse() {
            Ok(url) => return Some(url),
            Err(error) => error,
        };
        let code = match error {
            InvalidRedisUrl::NotYet(_) => Code::NotSupportedYet,
            _ => Code::RedisHost,
        };
        let diagnostic = match error {
            // A password with a slash or colon in it ends up in what the error would show.
            InvalidRedisUrl::NoHost
            | InvalidRedisUrl::Host(_)
            | InvalidRedisUrl::Port(_)
            | InvalidRedisUrl::Database(_)
                if text.contains('@') =>
            {
                let message = "the host, port or database of this Redis URL cannot be read";
                let help = "in user and password write `%2F` for `/`, `%3A` for `:` and `%40` for `@`";
                Diagnostic::new(code, at.span.clone(), message).help(help)
            }
            error => Diagnostic::new(code, at.span.clone(), error.to_string()),
        };
        self.push(diagnostic);
        None
    }

    fn encryption_key(&self, at: &At<SecretText>) -> Option<Secret> {
        let key = self.secret(&at.value, &at.span)?;
        if key.is_empty() {
            let help = "leave it out for messages in clear";
            self.push(Diagnostic::new(Code::Empty, at.span.clone(), "this key is empty").help(help));
            return None;
        }
        Some(Secret::new(key))
    }

    fn secret(&self, secret: &SecretText, span: &Span) -> Option<String> {
        let source = match secret {
            SecretText::Plain(text) => return Some(text.clone()),
            SecretText::Source(source) => source,
        };
        let what = match source {
            SecretSource::Env(name) => format!("the environment variable `{name}`"),
            SecretSource::File(path) => format!("the file `{path}`"),
        };
        match self.secrets.read(source) {
            Ok(text) => Some(text),
            Err(why) => {
                let message = format!("there is no secret in {what}: {why}");
                self.push(Diagnostic::new(Code::Secret, span.clone(), message));
                None
            }
        }
    }
}
