//! The pattern of one route: Django's `re_path`, or our own `path`.

use std::fmt;

use regex_syntax::hir::ClassUnicode;

use crate::route::capture::{
    UnsafeCapture, collect_chars, find_capture, len_max, len_min, name_chars, samples,
};
use crate::route::matcher::Matcher;
use crate::route::sieve::{Sieve, Wide};
use crate::route::syntax::{
    Dialect, PatternError, parse_ast, parse_hir, refuse_foreign, refuse_open_comment,
};
use crate::scope::Params;

/// A compiled pattern that paths are matched against, in linear time.
///
/// Two patterns are equal when they are of the same form and have the same text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    form: Form,
    sieve: Sieve,
    matcher: Matcher,
}

/// How a pattern's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    RePath,
    Path,
}

impl Form {
    /// The part of the path that a pattern of this form sees.
    pub(super) fn subject(self, path: &str) -> &str {
        match self {
            Self::RePath => path.trim_start_matches('/'),
            Self::Path => path,
        }
    }
}

impl Pattern {
    /// The longest name that a Channels group can have.
    const GROUP_NAME_LEN_MAX: usize = 99;

    /// A pattern as Django's `re_path` has it, pasted from `routing.py`.
    ///
    /// **Rule** (Channels' `URLRouter` on a route that leads to a consumer): the path is matched without
    /// *all* its leading slashes. A pattern whose text ends in `$`, even an escaped one, must match the whole
    /// of it; any other is searched, so it is not anchored unless `^` stands there, and may end anywhere.
    ///
    /// # Errors
    ///
    /// The operator's: no regular expression, one that only Python has, one that is too big, or one that
    /// matches no path.
    pub fn re_path(text: &str) -> Result<Self, PatternError> {
        Self::new(text, Form::RePath)
    }

    /// A pattern in our own form: a regular expression for the whole path, leading slash included, anchored
    /// at both ends.
    ///
    /// # Errors
    ///
    /// As [`Pattern::re_path`].
    pub fn path(text: &str) -> Result<Self, PatternError> {
        Self::new(text, Form::Path)
    }

    fn new(text: &str, form: Form) -> Result<Self, PatternError> {
        let full = form == Form::Path || text.ends_with('$');
        refuse_foreign(form, full, text)?;
        if full {
            refuse_open_comment(text)?;
        }
        let hir = parse_hir(text, &parse_ast(text)?)?;
        let wide = Wide::new(&hir);
        let matcher = Matcher::new(&hir, &wide, full)?;
        Ok(Self { text: text.to_owned(), form, sieve: Sieve::new(&wide, full), matcher })
    }

    /// What the named groups captured, or `None` when the path is not of this pattern.
    ///
    /// `path` is decoded and has its leading slash.
    pub fn captures(&self, path: &str) -> Option<Params> {
        self.matcher.captures(self.form.subject(path))
    }

    /// The names of the groups, in the order of the pattern.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.matcher.names()
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the named group can capture that a group name may not hold.
    ///
    /// `None` when it is proven that every capture is 1 to 99 ASCII letters, digits, `-`, `_` or `.`, and
    /// when there is no such group. The proof looks at the group alone, so it may warn of characters that
    /// the rest of the pattern excludes.
    pub fn unsafe_capture(&self, name: &str) -> Option<UnsafeCapture> {
        let tree = parse_ast(&self.text).ok()?;
        let groups = Dialect::read(self.form, &tree).groups;
        let span = groups.into_iter().find_map(|(known, span)| (known == name).then_some(span))?;
        let hir = parse_hir(&self.text, &tree).ok()?;
        let Some((capture, optional)) = find_capture(&hir, name, false) else {
            // The compiler dropped the group, as in `(?P<n>a){0}`: it never takes part.
            return Some(UnsafeCapture {
                span,
                chars: Vec::new(),
                can_be_empty: true,
                can_be_too_long: false,
            });
        };
        let mut set = ClassUnicode::empty();
        collect_chars(&capture.sub, &mut set);
        set.difference(&name_chars());
        let found = UnsafeCapture {
            span,
            chars: samples(&set),
            can_be_empty: optional || len_min(&capture.sub) == 0,
            can_be_too_long: len_max(&capture.sub).is_none_or(|len| Self::GROUP_NAME_LEN_MAX < len),
        };
        (!found.chars.is_empty() || found.can_be_empty || found.can_be_too_long).then_some(found)
    }

    /// The most characters that the named group can capture; `None` when there is no end to it.
    pub fn capture_len_max(&self, name: &str) -> Option<usize> {
        let hir = parse_hir(&self.text, &parse_ast(&self.text).ok()?).ok()?;
        // The compiler drops a group that never takes part.
        find_capture(&hir, name, false).map_or(Some(0), |(capture, _)| len_max(&capture.sub))
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// What to try first when there are many patterns.
    pub(super) fn sieve(&self) -> &Sieve {
        &self.sieve
    }

    pub(super) fn is_match(&self, path: &str) -> bool {
        self.matcher.is_match(self.form.subject(path))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}({:?})", self.form, self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form && self.text == other.text
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests;
