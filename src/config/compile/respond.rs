//! The rules of `handler = "respond"`.

use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::config::compile::{Compiler, value};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::file::{HeaderEntry, RouteTable};
use crate::handler::Respond;

impl Compiler<'_> {
    pub(super) fn respond(&self, table: &RouteTable) -> Option<Respond> {
        let default = if table.location.is_some() { 302 } else { 200 };
        let code = value(table.status.as_ref()).unwrap_or(default);
        let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok())?;
        let status_at = table.status.as_ref().map_or_else(|| table.span.clone(), |at| at.span.clone());
        let mut headers = self.headers(table);
        let body = table.body.as_ref().map_or("", |at| at.value.as_str());

        if let (Some(at), false) = (&table.location, status.is_redirection()) {
            let message = format!("`location` needs a status of 3xx, and this one is {code}");
            let diagnostic = Diagnostic::new(Code::Conflict, at.span.clone(), message);
            self.push(
                diagnostic
                    .with(status_at.clone(), "the status")
                    .help("write `status = 302`, or leave it out"),
            );
        }
        let wants_location = matches!(code, 301 | 302 | 303 | 307 | 308);
        if wants_location && !table.keys.iter().any(|key| key.value == "location") {
            let message = format!("status {code} sends the client elsewhere, and there is no `location`");
            let help = "add `location = \"https://example.com/\"`";
            self.push(Diagnostic::new(Code::MissingKey, status_at.clone(), message).help(help));
        }
        if let (Some(at), true) = (&table.body, matches!(code, 204 | 205 | 304) && !body.is_empty()) {
            let message = format!("an answer with status {code} has no body");
            self.push(
                Diagnostic::new(Code::Response, at.span.clone(), message).with(status_at, "the status"),
            );
        }
        if let Some(at) = &table.location {
            match HeaderValue::from_str(&at.value) {
                Ok(location) if at.value.is_ascii() && !at.value.is_empty() => {
                    headers.insert(header::LOCATION, location);
                }
                _ => {
                    let message = "this `location` cannot stand in a header";
                    let help = "write a URL with `%…` for everything that is not ASCII";
                    self.push(Diagnostic::new(Code::Response, at.span.clone(), message).help(help));
                }
            }
        }
        if !body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        Some(Respond { status, headers, body: Bytes::from(body.to_owned()) })
    }

    fn headers(&self, table: &RouteTable) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for HeaderEntry { name: name_at, value: value_at } in table.headers.iter().flat_map(|at| &at.value) {
            let Ok(name) = HeaderName::from_str(&name_at.value) else {
                let message = format!("`{}` is no name for a header", name_at.value);
                self.push(Diagnostic::new(Code::Response, name_at.span.clone(), message));
                continue;
            };
            let help = match name {
                header::LOCATION => Some("use the key `location`"),
                header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::DATE => {
                    Some("leave it out: the server knows it")
                }
                header::CONNECTION | header::UPGRADE | header::TE | header::TRAILER => {
                    Some("leave it out: it is between the server and the client's connection")
                }
                _ => None,
            };
            if let Some(help) = help {
                let message = format!("the header `{name}` cannot be set here");
                self.push(Diagnostic::new(Code::Response, name_at.span.clone(), message).help(help));
                continue;
            }
            let Ok(value) = HeaderValue::from_str(&value_at.value) else {
                let message =
                    format!("the value of the header `{name}` holds a character that a header may not");
                self.push(Diagnostic::new(Code::Response, value_at.span.clone(), message));
                continue;
            };
            if headers.insert(&name, value).is_some() {
                let message = format!("the header `{name}` stands here twice");
                self.push(Diagnostic::new(Code::Duplicate, name_at.span.clone(), message));
            }
        }
        headers
    }
}
