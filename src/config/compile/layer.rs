//! The rules of `[layer]`.

use core::time::Duration;

use crate::channel_layer::{ChannelPattern, RedisHost, Secret, SerializerFormat};
use crate::config::compile::{Compiler, all, items, value};
use crate::config::diagnostic::{Code, Diagnostic, Span};
use crate::config::file::{BACKENDS, Backend, CapacityEntry, LayerTable};
use crate::config::table::{At, SecretText};
use crate::config::{LayerConfig, RedisLayerConfig, SecretSource};

impl Compiler<'_> {
    pub(super) fn layer(&self, table: &LayerTable) -> Option<LayerConfig> {
        let backend = value(table.backend.as_ref()).unwrap_or(Backend::Memory);
        // With a wrong backend it is not known which keys it could use.
        let known = table.backend.is_some() || !table.keys.iter().any(|key| key.value == "backend");
        for key in table.keys.iter().filter(|key| known && !is_used(backend, &key.value)) {
            let message =
                format!("`{}` has no use with `backend = \"{}\"`", key.value, BACKENDS.word(backend));
            // Django takes it there, too, and ignores it.
            let code = match (&table.backend, key.value.as_str()) {
                (Some(_), "hosts") | (None, _) => Code::UnusableKey,
                (Some(_), _) => Code::NoEffect,
            };
            let diagnostic = Diagnostic::new(code, key.span.clone(), message);
            self.push(match (&table.backend, backend) {
                (Some(at), Backend::PubSub) => diagnostic
                    .with(at.span.clone(), "the backend")
                    .help("it belongs to `channels_redis.core`; pub/sub stores no messages and has nothing to limit"),
                (Some(at), _) => diagnostic.with(at.span.clone(), "the backend"),
                (None, _) => diagnostic.help(
                    "add `backend = \"channels_redis.core\"`, or `.pubsub`: without it the layer is in memory",
                ),
            });
        }
        if backend == Backend::Memory {
            return Some(LayerConfig::Memory);
        }
        let hosts = match &table.hosts {
            Some(at) if at.value.is_empty() => {
                let help = "leave it out for `redis://localhost:6379/0`";
                self.push(Diagnostic::new(Code::Empty, at.span.clone(), "`hosts` is empty").help(help));
                None
            }
            Some(at) => all(at.value.iter().map(|host| self.redis_host(host, backend))),
            None => Some(vec![RedisHost::default()]),
        };
        let keys = all(items(table.symmetric_encryption_keys.as_ref()).map(|at| self.encryption_key(at)));
        let prefix = table.prefix.as_ref().map_or_else(|| "asgi".to_owned(), |at| at.value.clone());
        let serializer_format = value(table.serializer_format.as_ref()).unwrap_or(SerializerFormat::MsgPack);
        let redis = || {
            Some(RedisLayerConfig {
                hosts: hosts?,
                prefix,
                symmetric_encryption_keys: keys?,
                serializer_format,
            })
        };
        if backend == Backend::PubSub {
            return redis().map(LayerConfig::PubSub);
        }
        let capacities = table.channel_capacity.as_ref().map_or(&[][..], |at| &at.value);
        let capacity = |entry: &CapacityEntry| Some((self.channel_pattern(&entry.pattern)?, entry.capacity));
        let channel_capacity = all(capacities.iter().map(capacity));
        let random_prefix_length = value(table.random_prefix_length.as_ref()).unwrap_or(12);
        Some(LayerConfig::Core {
            redis: redis()?,
            expiry: value(table.expiry.as_ref()).unwrap_or(Duration::from_mins(1)),
            group_expiry: value(table.group_expiry.as_ref()).unwrap_or(Duration::from_hours(24)),
            capacity: value(table.capacity.as_ref()).unwrap_or(100),
            channel_capacity: channel_capacity?,
            random_prefix_length: usize::try_from(random_prefix_length).unwrap_or(12),
        })
    }

    fn channel_pattern(&self, at: &At<String>) -> Option<ChannelPattern> {
        let pattern = ChannelPattern::new(&at.value);
        if pattern.is_none() {
            let message = format!("a pattern of channels has at most {} bytes", ChannelPattern::LEN_MAX);
            self.push(Diagnostic::new(Code::OutOfRange, at.span.clone(), message));
        }
        pattern
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

    pub(super) fn secret(&self, secret: &SecretText, span: &Span) -> Option<String> {
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

/// Whether a backend looks at a key. All look at `backend`, and what is no key at all has been reported.
fn is_used(backend: Backend, key: &str) -> bool {
    match key {
        "hosts" | "prefix" | "symmetric_encryption_keys" | "serializer_format" => backend != Backend::Memory,
        "expiry" | "group_expiry" | "capacity" | "channel_capacity" | "random_prefix_length" => {
            backend == Backend::Core
        }
        _ => true,
    }
}
