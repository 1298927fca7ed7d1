//! The rules of `handler = "static"`, and of `try_files`.

use std::path::PathBuf;

use http::HeaderValue;

use crate::config::compile::{Compiler, items, value};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::file::RouteTable;
use crate::config::table::At;
use crate::files::Files;

impl Compiler<'_> {
    pub(super) fn files(&self, table: &RouteTable) -> Option<Files> {
        let Some(root) = &table.root else {
            // Of the wrong type, it is reported already.
            if !table.keys.iter().any(|key| key.value == "root") {
                let message = "this route answers with files, but does not say of which folder";
                let help = "add `root = \"public\"`, a folder beside this file, or an absolute path";
                self.push(Diagnostic::new(Code::MissingKey, table.span.clone(), message).help(help));
            }
            return None;
        };
        self.files_below(table, root, value(table.index.as_ref()).unwrap_or(true))
    }

    /// The files that a proxy looks for before it passes a request on.
    pub(super) fn try_files(&self, table: &RouteTable) -> Option<Files> {
        let Some(root) = &table.try_files else {
            let of_files = ["precompressed", "cache_control"];
            for key in table.keys.iter().filter(|key| of_files.contains(&key.value.as_str())) {
                let message = format!("`{}` has no use without `try_files`", key.value);
                let help = "add `try_files = \"public\"`, or leave it out";
                self.push(Diagnostic::new(Code::UnusableKey, key.span.clone(), message).help(help));
            }
            return None;
        };
        // What a folder is answered with is for the application to say, as with nginx's `try_files $uri`.
        self.files_below(table, root, false)
    }

    fn files_below(&self, table: &RouteTable, root: &At<String>, index: bool) -> Option<Files> {
        if root.value.is_empty() {
            let message = "an empty path is no folder";
            let help = "write `\".\"` for the folder of this file";
            self.push(Diagnostic::new(Code::Empty, root.span.clone(), message).help(help));
            return None;
        }
        if let Err(why) = self.secrets.find_folder(&root.value) {
            let message = format!("no file is found in `{}`: {why}", root.value);
            let help = "make it, while the server runs if you like; a relative path begins at the folder of this file";
            self.push(Diagnostic::new(Code::Folder, root.span.clone(), message).help(help));
        }
        let cache_control = match &table.cache_control {
            Some(at) => Some(self.cache_control(at)?),
            None => None,
        };
        let mut precompressed = Vec::new();
        for at in items(table.precompressed.as_ref()) {
            if precompressed.contains(&at.value) {
                let message = "this form stands here a second time";
                self.push(Diagnostic::new(Code::Duplicate, at.span.clone(), message));
                return None;
            }
            precompressed.push(at.value);
        }
        Some(Files { root: PathBuf::from(&root.value), index, precompressed, cache_control })
    }

    fn cache_control(&self, at: &At<String>) -> Option<HeaderValue> {
        match HeaderValue::from_str(&at.value) {
            Ok(header) if at.value.is_ascii() && !at.value.is_empty() => Some(header),
            _ => {
                let message = "this `cache_control` cannot stand in a header";
                let help = "write it as HTTP has it: `\"public, max-age=3600\"`";
                self.push(Diagnostic::new(Code::Response, at.span.clone(), message).help(help));
                None
            }
        }
    }
}
