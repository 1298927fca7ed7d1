//! What a named group can capture, read off the compiled pattern.

use std::ops::Range;
use std::sync::Arc;

use regex_syntax::hir::{Capture, Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

/// Why a named group is not safe to build a group name from; see [`Pattern::unsafe_capture`](crate::route::Pattern::unsafe_capture).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeCapture {
    /// The group, in bytes of the pattern, parentheses included.
    pub span: Range<usize>,
    /// Up to three characters that it can produce outside of ASCII letters, digits, `-`, `_` and `.`;
    /// empty when it cannot.
    pub chars: Vec<char>,
    /// Whether it can capture nothing, or take no part in a match.
    pub can_be_empty: bool,
    /// Whether it can be longer than the 99 characters of a group name.
    pub can_be_too_long: bool,
}

/// Adds the named groups with their numbers.
pub(super) fn collect_names(hir: &Hir, names: &mut Vec<(usize, Arc<str>)>) {
    match hir.kind() {
        HirKind::Capture(capture) => {
            let number = usize::try_from(capture.index).unwrap_or(usize::MAX);
            names.extend(capture.name.as_deref().map(|name| (number, Arc::from(name))));
            collect_names(&capture.sub, names);
        }
        HirKind::Repetition(repetition) => collect_names(&repetition.sub, names),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            for part in parts {
                collect_names(part, names);
            }
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => {}
    }
}

/// The group with that name, and whether a match can do without it.
pub(super) fn find_capture<'a>(hir: &'a Hir, name: &str, optional: bool) -> Option<(&'a Capture, bool)> {
    match hir.kind() {
        HirKind::Capture(capture) if capture.name.as_deref() == Some(name) => Some((capture, optional)),
        HirKind::Capture(capture) => find_capture(&capture.sub, name, optional),
        HirKind::Repetition(repetition) => {
            find_capture(&repetition.sub, name, optional || repetition.min == 0)
        }
        HirKind::Concat(parts) => parts.iter().find_map(|part| find_capture(part, name, optional)),
        HirKind::Alternation(parts) => parts.iter().find_map(|part| find_capture(part, name, true)),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => None,
    }
}

/// Adds every character that a match of `hir` can hold.
pub(super) fn collect_chars(hir: &Hir, set: &mut ClassUnicode) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => {
            for ch in String::from_utf8_lossy(&literal.0).chars() {
                set.push(ClassUnicodeRange::new(ch, ch));
            }
        }
        HirKind::Class(Class::Unicode(class)) => set.union(class),
        HirKind::Class(Class::Bytes(class)) => {
            // An expression over text has only ASCII ranges here.
            for range in class.ranges() {
                set.push(ClassUnicodeRange::new(char::from(range.start()), char::from(range.end())));
            }
        }
        HirKind::Repetition(repetition) => collect_chars(&repetition.sub, set),
        HirKind::Capture(capture) => collect_chars(&capture.sub, set),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            for part in parts {
                collect_chars(part, set);
            }
        }
    }
}

/// The fewest characters of a match.
pub(super) fn len_min(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => String::from_utf8_lossy(&literal.0).chars().count(),
        HirKind::Class(_) => 1,
        HirKind::Repetition(repetition) => {
            let times = usize::try_from(repetition.min).unwrap_or(usize::MAX);
            len_min(&repetition.sub).saturating_mul(times)
        }
        HirKind::Capture(capture) => len_min(&capture.sub),
        HirKind::Concat(parts) => parts.iter().map(len_min).fold(0, usize::saturating_add),
        HirKind::Alternation(parts) => parts.iter().map(len_min).min().unwrap_or(0),
    }
}

/// The most characters of a match, `None` when there is no end to it.
pub(super) fn len_max(hir: &Hir) -> Option<usize> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(0),
        HirKind::Literal(literal) => Some(String::from_utf8_lossy(&literal.0).chars().count()),
        HirKind::Class(_) => Some(1),
        HirKind::Repetition(repetition) => {
            let once = len_max(&repetition.sub)?;
            if once == 0 {
                return Some(0);
            }
            once.checked_mul(usize::try_from(repetition.max?).ok()?)
        }
        HirKind::Capture(capture) => len_max(&capture.sub),
        HirKind::Concat(parts) => {
            parts.iter().try_fold(0_usize, |total, part| total.checked_add(len_max(part)?))
        }
        HirKind::Alternation(parts) => {
            parts.iter().try_fold(0, |longest, part| Some(len_max(part)?.max(longest)))
        }
    }
}

/// The characters of a Channels group name.
pub(super) fn name_chars() -> ClassUnicode {
    let ranges = [('a', 'z'), ('A', 'Z'), ('0', '9'), ('-', '-'), ('_', '_'), ('.', '.')];
    ClassUnicode::new(ranges.map(|(start, end)| ClassUnicodeRange::new(start, end)))
}

/// Up to three characters of the set, those first that say most to a reader.
pub(super) fn samples(set: &ClassUnicode) -> Vec<char> {
    let has = |ch: char| set.ranges().iter().any(|range| (range.start()..=range.end()).contains(&ch));
    let telling = ['é', '/', ' ', '٣', '!', ':', '@', '+', '~'].into_iter().filter(|&ch| has(ch));
    let telling: Vec<char> = telling.take(3).collect();
    if telling.is_empty() {
        set.ranges().first().map(ClassUnicodeRange::start).into_iter().collect()
    } else {
        telling
    }
}
