//! The rules of `[trust]`.

use crate::config::TrustConfig;
use crate::config::compile::{Compiler, items, value};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::file::{ListenerTable, TrustTable};
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
}
