//! How a pattern is asked whether it matches.

use std::slice;
use std::sync::Arc;

use regex_automata::meta::{Builder, Config, Regex};
use regex_syntax::hir::{Dot, Hir, HirKind, Look};

use crate::route::capture::collect_names;
use crate::route::sieve::{Wide, anchor};
use crate::route::syntax::{PatternError, compile_error};
use crate::scope::Params;

/// What a pattern's text was compiled to.
///
/// What every match begins with is compared first, and where nothing but a `.*` follows, no automaton is needed.
#[derive(Clone)]
pub(super) struct Matcher {
    prefix: Box<[u8]>,
    rest: Rest,
    /// The named groups, by their number.
    names: Vec<(usize, Arc<str>)>,
}

/// What must follow the prefix.
#[derive(Clone)]
enum Rest {
    /// Whatever there is.
    Anything,
    /// The end.
    Nothing,
    /// `.*` up to the end, in a group or not.
    Line,
    /// What these say, of the whole subject.
    Automata(Automata),
}

/// A pattern's automata.
///
/// Django's `\w` is some 800 ranges of Unicode, which make a fast automaton large and slow to build. Paths are
/// nearly always ASCII, for which an automaton that takes all other characters for alike says the same.
#[derive(Clone)]
struct Automata {
    wide: Regex,
    /// For all other paths, where `wide` takes more than the pattern does.
    full: Option<Regex>,
}

impl Matcher {
    /// The most bytes that one automaton may take.
    const COMPILED_BYTES_MAX: usize = 10 * 1024 * 1024;

    /// Compiles a pattern, which must match to the end if it is `full`.
    pub(super) fn new(hir: &Hir, wide: &Wide, full: bool) -> Result<Self, PatternError> {
        let (prefix, parts) = split(hir, full);
        let rest = match parts {
            [] if full => Rest::Nothing,
            [] => Rest::Anything,
            [part] if full && is_line(part) => Rest::Line,
            _ => Rest::Automata(Automata::new(hir, wide, full)?),
        };
        let mut names = Vec::new();
        collect_names(hir, &mut names);
        Ok(Self { prefix: prefix.into(), rest, names })
    }

    pub(super) fn is_match(&self, subject: &str) -> bool {
        let Some(rest) = subject.as_bytes().strip_prefix(&*self.prefix) else { return false };
        match &self.rest {
            Rest::Anything => true,
            Rest::Nothing => rest.is_empty(),
            Rest::Line => !rest.contains(&b'\n'),
            Rest::Automata(automata) => automata.of(subject).is_match(subject),
        }
    }

    /// What the named groups captured, or `None` when it does not match.
    pub(super) fn captures(&self, subject: &str) -> Option<Params> {
        match &self.rest {
            Rest::Automata(automata) if !self.names.is_empty() => {
                let regex = automata.of(subject);
                let mut found = regex.create_captures();
                regex.captures(subject, &mut found);
                let group = |at: usize| subject.get(found.get_group(at)?.range());
                let of = |(at, name): &(_, Arc<str>)| Some((name.clone(), group(*at)?.to_owned()));
                found.is_match().then(|| self.names.iter().filter_map(of).collect())
            }
            _ if !self.is_match(subject) => None,
            _ => {
                // Of these only a line can stand in a group.
                let line = subject.get(self.prefix.len()..)?;
                Some(self.names.iter().map(|(_, name)| (name.clone(), line.to_owned())).collect())
            }
        }
    }

    /// The names of the groups, in the order of the pattern.
    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|(_, name)| &**name)
    }
}

impl Automata {
    fn new(hir: &Hir, wide: &Wide, full: bool) -> Result<Self, PatternError> {
        let fast = Config::new();
        // Rarely asked, so what would make it faster is not worth its size.
        let small = Config::new().hybrid(false).onepass(false);
        Ok(Self {
            wide: build(&wide.hir, full, fast)?,
            full: if wide.is_exact { None } else { Some(build(hir, full, small)?) },
        })
    }

    fn of(&self, subject: &str) -> &Regex {
        match &self.full {
            Some(full) if !subject.is_ascii() => full,
            _ => &self.wide,
        }
    }
}

fn build(hir: &Hir, full: bool, config: Config) -> Result<Regex, PatternError> {
    let config = config.nfa_size_limit(Some(Matcher::COMPILED_BYTES_MAX));
    let built = Builder::new().configure(config).build_from_hir(&anchor(hir.clone(), full));
    built.map_err(|error| compile_error(&error))
}

/// What every match begins with, and the parts that follow it.
fn split(hir: &Hir, full: bool) -> (&[u8], &[Hir]) {
    let is = |part: &Hir, look: Look| matches!(part.kind(), HirKind::Look(found) if *found == look);
    let mut parts = match hir.kind() {
        HirKind::Empty => &[],
        HirKind::Concat(parts) => parts.as_slice(),
        _ => slice::from_ref(hir),
    };
    let mut from_start = full;
    while let [first, others @ ..] = parts
        && is(first, Look::Start)
    {
        from_start = true;
        parts = others;
    }
    while let [others @ .., last] = parts
        && full
        && is(last, Look::End)
    {
        parts = others;
    }
    if let [first, others @ ..] = parts
        && from_start
        && let HirKind::Literal(literal) = first.kind()
    {
        return (&literal.0, others);
    }
    (&[], parts)
}

fn is_line(part: &Hir) -> bool {
    match part.kind() {
        HirKind::Capture(capture) => is_line(&capture.sub),
        HirKind::Repetition(repetition) => {
            repetition.min == 0
                && repetition.max.is_none()
                && *repetition.sub == Hir::dot(Dot::AnyCharExceptLF)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
