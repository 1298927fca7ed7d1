//! Reading one table: values of the right type, each with its place.

use core::time::Duration;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::config::SecretSource;
use crate::config::diagnostic::{Code, Diagnostic, Findings, Span, nearest, one_of};
use crate::config::units;
use crate::config::units::{QuantityError, format_duration, format_size, parse_duration, parse_size};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A text that may be kept out of the file.
#[derive(Clone, Debug)]
pub(super) enum SecretText {
    /// The text itself.
    Plain(String),
    /// Where to read it.
    Source(SecretSource),
}

/// The words of a setting: those that exist, and those that a later release brings.
pub(super) struct Words<T: 'static> {
    pub(super) now: &'static [(&'static str, T)],
    /// Other spellings, which no message offers.
    pub(super) aliases: &'static [(&'static str, T)],
    pub(super) later: &'static [&'static str],
}

impl<T: Copy + PartialEq> Words<T> {
    /// The word for the value.
    pub(super) fn word(&self, value: T) -> &'static str {
        self.now.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
    }
}

/// A kind of table.
pub(super) struct Kind {
    /// As a message names it.
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
    /// Keys that a later release brings.
    pub(super) later: &'static [&'static str],
    /// Keys that are not ours but are often written here, and what to do instead.
    pub(super) foreign: &'static [(&'static str, &'static str)],
}

pub(super) const SECRET: Kind = Kind { name: "a secret", keys: &["env", "file"], later: &[], foreign: &[] };

pub(super) type Entry<'a> = (&'a Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>);

pub(super) fn in_file_order<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Reads one table: each getter reports a value of the wrong shape and then answers as if it were not there.
pub(super) struct Table<'a> {
    entries: &'a DeTable<'a>,
    pub(super) span: Span,
    kind: &'static Kind,
    pub(super) findings: &'a Findings,
}

impl<'a> Table<'a> {
    /// Reports the keys that are not known.
    pub(super) fn new(
        entries: &'a DeTable<'a>,
        span: Span,
        kind: &'static Kind,
        findings: &'a Findings,
    ) -> Self {
        for key in entries.keys() {
            let name = key.get_ref().as_ref();
            if kind.keys.contains(&name) {
                continue;
            }
            findings.push(if kind.later.contains(&name) {
                let message = format!("`{name}` in {} is not supported yet", kind.name);
                Diagnostic::new(Code::NotSupportedYet, key.span(), message)
                    .help("leave it out; a later release brings it")
            } else if let Some((_, help)) = kind.foreign.iter().find(|(foreign, _)| *foreign == name) {
                let message = format!("`{name}` is no setting of {}", kind.name);
                Diagnostic::new(Code::UnknownKey, key.span(), message).help(*help)
            } else {
                let message = format!("unknown key `{name}` in {}", kind.name);
                let known = kind.keys.iter().chain(kind.later).copied();
                let help = nearest(name, known).map_or_else(
                    || format!("the keys are {}", one_of(kind.keys.iter().copied())),
                    |known| format!("did you mean `{known}`?"),
                );
                Diagnostic::new(Code::UnknownKey, key.span(), message).help(help)
            });
        }
        Self { entries, span, kind, findings }
    }

    pub(super) fn at<T>(&self, value: T) -> At<T> {
        At { value, span: self.span.clone() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entries.get(key)
    }

    pub(super) fn keys(&self) -> Vec<At<String>> {
        self.entries.keys().map(|key| At { value: key.get_ref().to_string(), span: key.span() }).collect()
    }

    pub(super) fn require(&self, key: &str) {
        if !self.entries.contains_key(key) {
            let what = self.kind.name.trim_start_matches("an ");
            let message = format!("this {what} has no `{key}`");
            self.findings.push(Diagnostic::new(Code::MissingKey, self.span.clone(), message));
        }
    }

    pub(super) fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str, help: Option<String>) {
        let message = format!("`{key}` is {wanted}, not {}", type_of(value.get_ref()));
        self.findings.push(Diagnostic::new(Code::WrongType, value.span(), message).maybe_help(help));
    }

    pub(super) fn text(&self, key: &str) -> Option<At<String>> {
        let value = self.get(key)?;
        if let DeValue::String(text) = value.get_ref() {
            return Some(At { value: text.to_string(), span: value.span() });
        }
        self.wrong(key, value, "a string", None);
        None
    }

    pub(super) fn flag(&self, key: &str) -> Option<At<bool>> {
        let value = self.get(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(At { value: *flag, span: value.span() });
        }
        self.wrong(key, value, "`true` or `false`", None);
        None
    }

    pub(super) fn count(&self, key: &str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        self.count_in(key, self.get(key)?, &range)
    }

    /// A number that stands under a key of this table or of one in it.
    pub(super) fn count_in(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong(key, value, "a whole number", None);
            return None;
        };
        let count = whole_number(number).filter(|count| range.contains(count));
        if count.is_none() {
            self.out_of_range(key, value.span(), &number.to_string(), range.start(), range.end());
        }
        Some(At { value: count?, span: value.span() })
    }

    pub(super) fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
        let example = |number: &str| format!("{number}s");
        let at = self.quantity(key, "duration", "ms, s, m or h", parse_duration, example)?;
        if !range.contains(&at.value) {
            let (min, max) = (format_duration(*range.start()), format_duration(*range.end()));
            self.out_of_range(key, at.span, &format_duration(at.value), &min, &max);
            return None;
        }
        Some(at)
    }

    /// A duration in whole seconds. A number without a unit is understood: Django's settings have none.
    pub(super) fn seconds(&self, key: &str, range: RangeInclusive<u64>) -> Option<At<Duration>> {
        if matches!(self.get(key)?.get_ref(), DeValue::Integer(_)) {
            let At { value, span } = self.count(key, range)?;
            return Some(At { value: Duration::from_secs(value), span });
        }
        let (min, max) = range.into_inner();
        let at = self.duration(key, Duration::from_secs(min)..=Duration::from_secs(max))?;
        if at.value.subsec_nanos() != 0 {
            let message = format!("`{key}` is {}, and Redis counts whole seconds", format_duration(at.value));
            self.findings.push(Diagnostic::new(Code::Quantity, at.span, message));
            return None;
        }
        Some(at)
    }

    /// A duration. A number of seconds without a unit is understood, with a fraction too, to the millisecond:
    /// redis-py's settings have none.
    pub(super) fn exact_seconds(&self, key: &str, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
        let value = self.get(key)?;
        let (duration, written) = match value.get_ref() {
            DeValue::Integer(number) => (whole_number(number).map(Duration::from_secs), number.to_string()),
            DeValue::Float(number) => {
                (number.as_str().parse().ok().and_then(units::seconds), number.to_string())
            }
            _ => return self.duration(key, range),
        };
        let Some(duration) = duration.filter(|duration| range.contains(duration)) else {
            let (min, max) = (format_duration(*range.start()), format_duration(*range.end()));
            self.out_of_range(key, value.span(), &written, &min, &max);
            return None;
        };
        Some(At { value: duration, span: value.span() })
    }

    /// A duration, or `"off"`, which is `None` inside.
    pub(super) fn duration_or_off(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<At<Option<Duration>>> {
        self.off(key).or_else(|| {
            let At { value, span } = self.duration(key, range)?;
            Some(At { value: Some(value), span })
        })
    }

    /// The word `"off"`; anything else is for the caller to read.
    pub(super) fn off<T>(&self, key: &str) -> Option<At<Option<T>>> {
        let value = self.get(key)?;
        matches!(value.get_ref(), DeValue::String(text) if text == "off")
            .then(|| At { value: None, span: value.span() })
    }

    pub(super) fn size(&self, key: &str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let example = |number: &str| number.parse().map_or_else(|_| "64KiB".to_owned(), format_size);
        let at = self.quantity(key, "size", "B, KiB, MiB or GiB", parse_size, example)?;
        if !range.contains(&at.value) {
            let (min, max) = (format_size(*range.start()), format_size(*range.end()));
            self.out_of_range(key, at.span, &format_size(at.value), &min, &max);
            return None;
        }
        Some(at)
    }

    fn quantity<T>(
        &self,
        key: &str,
        what: &str,
        units: &str,
        parse: impl Fn(&str) -> Result<T, QuantityError>,
        with_unit: impl Fn(&str) -> String,
    ) -> Option<At<T>> {
        let value = self.get(key)?;
        let (message, suggestion) = match value.get_ref() {
            DeValue::String(text) => match parse(text) {
                Ok(parsed) => return Some(At { value: parsed, span: value.span() }),
                Err(error) => (format!("`{text}` is no {what}"), error.suggestion),
            },
            DeValue::Integer(number) => {
                let suggestion = (number.radix() == 10).then(|| with_unit(number.as_str()));
                (format!("the {what} `{key}` has no unit"), suggestion)
            }
            _ => {
                self.wrong(key, value, &format!("a {what}"), None);
                return None;
            }
        };
        let help = suggestion.map_or_else(
            || format!("write a whole number and a unit, {units}, as one string"),
            |suggestion| format!("write `\"{suggestion}\"`"),
        );
        self.findings.push(Diagnostic::new(Code::Quantity, value.span(), message).help(help));
        None
    }

    fn out_of_range(
        &self,
        key: &str,
        span: Span,
        value: &str,
        min: &(impl std::fmt::Display + ?Sized),
        max: &(impl std::fmt::Display + ?Sized),
    ) {
        let message = format!("`{key}` is {value}, which is out of range");
        let diagnostic = Diagnostic::new(Code::OutOfRange, span, message);
        self.findings.push(diagnostic.label(format!("allowed is {min} to {max}")));
    }

    pub(super) fn word<T: Copy + PartialEq>(&self, key: &str, words: &'static Words<T>) -> Option<At<T>> {
        self.known_word(key, self.text(key)?, words)
    }

    /// A list of words.
    pub(super) fn words<T: Copy + PartialEq>(
        &self,
        key: &str,
        words: &'static Words<T>,
    ) -> Option<At<Vec<At<T>>>> {
        let texts = self.texts(key)?;
        let wanted = texts.value.len();
        let known: Vec<_> =
            texts.value.into_iter().filter_map(|at| self.known_word(key, at, words)).collect();
        (known.len() == wanted).then_some(At { value: known, span: texts.span })
    }

    fn known_word<T: Copy + PartialEq>(
        &self,
        key: &str,
        at: At<String>,
        words: &'static Words<T>,
    ) -> Option<At<T>> {
        if let Some((_, value)) = words.now.iter().chain(words.aliases).find(|(word, _)| *word == at.value) {
            return Some(At { value: *value, span: at.span });
        }
        let known = || words.now.iter().map(|(word, _)| *word);
        self.findings.push(if words.later.contains(&at.value.as_str()) {
            let message = format!("`{key} = \"{}\"` is not supported yet", at.value);
            let help = format!("this release has {}", one_of(known()));
            Diagnostic::new(Code::NotSupportedYet, at.span, message).help(help)
        } else {
            let message = format!("`{key}` cannot be `{}`", at.value);
            let help = nearest(
                &at.value,
                known().chain(words.aliases.iter().map(|(word, _)| *word)).chain(words.later.iter().copied()),
            )
            .map_or_else(|| format!("write {}", one_of(known())), |known| format!("did you mean `{known}`?"));
            Diagnostic::new(Code::UnknownWord, at.span, message).help(help)
        });
        None
    }

    pub(super) fn texts(&self, key: &str) -> Option<At<Vec<At<String>>>> {
        self.list(key, |value| {
            if let DeValue::String(text) = value.get_ref() {
                return Some(text.to_string());
            }
            self.wrong(key, value, "a list of strings", None);
            None
        })
    }

    pub(super) fn list<T>(
        &self,
        key: &str,
        item: impl Fn(&'a Spanned<DeValue<'a>>) -> Option<T>,
    ) -> Option<At<Vec<At<T>>>> {
        let value = self.get(key)?;
        let DeValue::Array(values) = value.get_ref() else {
            let help = matches!(value.get_ref(), DeValue::String(_))
                .then(|| "put it in brackets: `[\"…\"]`".to_owned());
            self.wrong(key, value, "a list", help);
            return None;
        };
        let item = |value: &'a Spanned<DeValue<'a>>| Some(At { value: item(value)?, span: value.span() });
        let items: Vec<_> = values.iter().filter_map(item).collect();
        // A list that is empty because nothing in it was right is not an empty list.
        (items.is_empty() == values.is_empty()).then(|| At { value: items, span: value.span() })
    }

    pub(super) fn secret(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<SecretText> {
        let inner = match value.get_ref() {
            DeValue::String(text) => return Some(SecretText::Plain(text.to_string())),
            DeValue::Table(inner) => inner,
            _ => {
                let help = "write a string, `{ env = \"NAME\" }` or `{ file = \"path\" }`".to_owned();
                self.wrong(key, value, "a list of strings", Some(help));
                return None;
            }
        };
        let secret = Table::new(inner, value.span(), &SECRET, self.findings);
        match (secret.text("env"), secret.text("file")) {
            (Some(env), None) => Some(SecretText::Source(SecretSource::Env(env.value))),
            (None, Some(file)) => Some(SecretText::Source(SecretSource::File(file.value))),
            (None, None) if !inner.is_empty() => None,
            (None, None) => {
                let message = format!("a table in `{key}` says where a secret is, and this one is empty");
                let help = "write `{ env = \"NAME\" }` or `{ file = \"path\" }`";
                self.findings.push(Diagnostic::new(Code::MissingKey, value.span(), message).help(help));
                None
            }
            (Some(_), Some(_)) => {
                let message = "a secret is in `env` or in `file`, not in both";
                self.findings.push(Diagnostic::new(Code::Conflict, value.span(), message));
                None
            }
        }
    }

    pub(super) fn any_table(&self, key: &str) -> Option<At<&'a DeTable<'a>>> {
        let value = self.get(key)?;
        if let DeValue::Table(table) = value.get_ref() {
            return Some(At { value: table, span: value.span() });
        }
        self.wrong(key, value, "a table", None);
        None
    }

    pub(super) fn table(&self, key: &str, kind: &'static Kind) -> Option<Self> {
        let value = self.get(key)?;
        if matches!(value.get_ref(), DeValue::Array(_)) && kind.name.starts_with('[') {
            self.wrong(key, value, "one table", Some(format!("write `{}`", kind.name)));
            return None;
        }
        let at = self.any_table(key)?;
        Some(Table::new(at.value, at.span, kind, self.findings))
    }

    pub(super) fn tables(&self, key: &str, kind: &'static Kind) -> Vec<Self> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong(key, value, "a list of tables", Some(format!("write `{}`", kind.name)));
            return Vec::new();
        };
        let table = |value: &'a Spanned<DeValue<'a>>| {
            let DeValue::Table(table) = value.get_ref() else {
                self.wrong(key, value, "a list of tables", Some(format!("write `{}`", kind.name)));
                return None;
            };
            Some(Table::new(table, value.span(), kind, self.findings))
        };
        values.iter().filter_map(table).collect()
    }
}

/// A whole number in whichever base it is written; nothing for one below zero or beyond 64 bits.
pub(super) fn whole_number(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
