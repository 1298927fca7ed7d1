//! The rules of `handler = "proxy"`.

use crate::config::ProxyConfig;
use crate::config::compile::Compiler;
use crate::config::diagnostic::{Code, Diagnostic, nearest};
use crate::config::file::{RouteTable, UpstreamTable};

impl Compiler<'_> {
    pub(super) fn proxy(
        &self,
        table: &RouteTable,
        upstreams: &[UpstreamTable],
        body_bytes_max: u64,
    ) -> Option<ProxyConfig> {
        let try_files = self.try_files(table);
        let Some(at) = &table.upstream else {
            // Of the wrong type, it is reported already.
            if !table.keys.iter().any(|key| key.value == "upstream") {
                let message = "this route passes requests on, but does not say where to";
                let help = "add `upstream = \"django\"`, and `[upstream.django]` with its `servers`";
                self.push(Diagnostic::new(Code::MissingKey, table.span.clone(), message).help(help));
            }
            return None;
        };
        if !upstreams.iter().any(|upstream| upstream.name.value == at.value) {
            let message = format!("there is no upstream `{}`", at.value);
            let names = upstreams.iter().map(|upstream| upstream.name.value.as_str());
            let help = match nearest(&at.value, names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("add `[upstream.{}]` with its `servers`", at.value),
            };
            self.push(Diagnostic::new(Code::UnknownWord, at.span.clone(), message).help(help));
            return None;
        }
        Some(ProxyConfig { upstream: at.value.clone(), body_bytes_max, try_files })
    }

    /// Upstreams that no route leads to.
    pub(super) fn unused_upstreams(&self, routes: &[RouteTable], upstreams: &[UpstreamTable]) {
        // A route that could not be read may be the one that leads there.
        if self.findings.has_errors() {
            return;
        }
        let used: Vec<_> =
            routes.iter().filter_map(|route| route.upstream.as_ref()).map(|at| at.value.as_str()).collect();
        for UpstreamTable { name, .. } in upstreams {
            if !used.contains(&name.value.as_str()) {
                let message = format!("no route leads to the upstream `{}`", name.value);
                let help =
                    format!("a route does by `handler = \"proxy\"` and `upstream = \"{}\"`", name.value);
                self.push(Diagnostic::new(Code::NoEffect, name.span.clone(), message).help(help));
            }
        }
    }
}
