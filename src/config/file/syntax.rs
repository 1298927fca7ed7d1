//! What is no TOML.

use toml::de::{DeTable, DeValue};

use crate::config::diagnostic::{Code, Diagnostic, Findings, Span};

/// The most syntax errors that are shown: what follows the first few is mostly their consequence.
const SYNTAX_ERRORS_MAX: usize = 20;

/// The first error of each line: the parser resumes within the line and mostly stumbles over the same thing.
pub(super) fn report(text: &str, document: &DeTable<'_>, errors: &[toml::de::Error], findings: &Findings) {
    let line_of = |at: usize| text.bytes().take(at).filter(|&byte| byte == b'\n').count();
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut line_last = None;
    errors.retain(|(span, _)| line_last.replace(line_of(span.start)) != Some(line_of(span.start)));
    for (span, message) in errors.into_iter().take(SYNTAX_ERRORS_MAX) {
        let report = |message: &str| Diagnostic::new(Code::Syntax, span.clone(), message);
        findings.push(match message.split_once(',').map_or(message, |(start, _)| start) {
            "string values must be quoted" if span.is_empty() => report("there is no value here"),
            "string values must be quoted" => {
                report("this string has no quotes").help("put it into `\"…\"` or `'…'`")
            }
            "duplicate key" => {
                let again = report("this key or table stands here a second time");
                match first_place(text, document, &span) {
                    Some(first) => again.with(first, "first here"),
                    None => again,
                }
            }
            "missing escaped value" => {
                let escaped = text.get(span.start..).and_then(|rest| rest.chars().next());
                let escape = span.start.saturating_sub(1)..span.start + escaped.map_or(0, char::len_utf8);
                Diagnostic::new(Code::Syntax, escape, "a string in double quotes has no such escape")
                    .help("write it in single quotes, `'…'`, where a backslash is a character as any other")
            }
            _ => report(message),
        });
    }
}

/// Where the key or table stands that is there again at `again`.
///
/// A key is looked for on the same footing, on lines of its own or within a line, and the nearest before it is
/// the one in the same table.
fn first_place(text: &str, document: &DeTable<'_>, again: &Span) -> Option<Span> {
    let line_start = |at: usize| text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let before = |span: &Span| text.get(line_start(span.start)..span.start).unwrap_or_default().trim();
    let mut spans = Vec::new();
    if before(again).starts_with('[') {
        // The document holds the last of the headers alone.
        let header = text.get(line_start(again.start)..again.end)?.trim().trim_start_matches('[');
        let mut start = 0;
        for line in text.get(..line_start(again.start))?.split_inclusive('\n') {
            let name = line.trim_start().strip_prefix('[').map(|name| name.trim_start_matches('['));
            let found = name.and_then(|name| Some((name.len(), name.strip_prefix(header)?)));
            if let Some((len, _)) = found.filter(|(_, rest)| rest.starts_with(']')) {
                let name_start = start + line.len() - len;
                spans.push(name_start..name_start + header.len());
            }
            start += line.len();
        }
    } else {
        places(document, text.get(again.clone())?.trim_matches(['"', '\'']), &mut spans);
        spans.retain(|span| span.end <= again.start && before(span).is_empty() == before(again).is_empty());
    }
    spans.into_iter().max_by_key(|span| span.start)
}

/// Every place where a key of this name stands, at any depth.
fn places(table: &DeTable<'_>, name: &str, spans: &mut Vec<Span>) {
    for (key, value) in table {
        if key.get_ref() == name {
            spans.push(key.span());
        }
        places_below(value.get_ref(), name, spans);
    }
}

fn places_below(value: &DeValue<'_>, name: &str, spans: &mut Vec<Span>) {
    match value {
        DeValue::Table(table) => places(table, name, spans),
        DeValue::Array(values) => {
            values.iter().for_each(|value| places_below(value.get_ref(), name, spans));
        }
        _ => (),
    }
}
