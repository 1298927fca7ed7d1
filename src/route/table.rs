//! All patterns of a file, matched at once.

use std::{ops, vec};

use regex_automata::meta::{Builder, Config, Regex};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::{Input, MatchKind, PatternSet};

use crate::route::pattern::Form;
use crate::route::syntax::compile_error;
use crate::route::{Pattern, PatternError};
use crate::scope::Params;

/// The patterns of all routes, in file order.
///
/// A few are asked one by one, for which the beginning of the path is mostly enough. Where there are many, the path
/// first goes through one automaton for all patterns of a form, which leaves out nearly every pattern that does not
/// match.
#[derive(Clone, Debug)]
pub struct Table {
    patterns: Vec<Pattern>,
    /// One for each form that the patterns have; none for a few patterns.
    groups: Vec<Group>,
}

impl Table {
    /// Up to so many patterns are asked one by one.
    const FEW: usize = 16;

    /// Bytes that a thread's matching automaton may grow to before it starts over.
    const AUTOMATON_BYTES_MAX: usize = 32 * 1024 * 1024;

    /// Compiles the patterns together.
    ///
    /// # Errors
    ///
    /// When the compiler refuses the whole though it took every part.
    pub fn new(patterns: Vec<Pattern>) -> Result<Self, PatternError> {
        let mut groups = Vec::new();
        if Self::FEW < patterns.len() {
            for form in [Form::RePath, Form::Path] {
                groups.extend(Group::new(&patterns, form)?);
            }
        }
        Ok(Self { patterns, groups })
    }

    /// The indexes of all patterns that match, in file order.
    ///
    /// `path` is decoded and has its leading slash. A pattern is asked no sooner than its turn comes.
    pub fn matches<'a>(&'a self, path: &'a str) -> Matches<'a> {
        let candidates = if self.groups.is_empty() {
            Candidates::All(0..self.patterns.len())
        } else {
            let mut found: Vec<usize> = self.groups.iter().flat_map(|group| group.sift(path)).collect();
            found.sort_unstable();
            Candidates::Sifted(found.into_iter())
        };
        Matches { patterns: &self.patterns, path, candidates }
    }

    /// What the named groups of a pattern captured, of a path that it matches.
    ///
    /// A pattern without named groups does not look at the path again.
    pub fn captures(&self, index: usize, path: &str) -> Params {
        let pattern = self.patterns.get(index).filter(|pattern| pattern.names().len() != 0);
        pattern.and_then(|pattern| pattern.captures(path)).unwrap_or_default()
    }

    /// The patterns in file order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

/// The patterns of one form, which all see the same part of the path.
#[derive(Clone, Debug)]
struct Group {
    form: Form,
    /// The sieves of the patterns.
    set: Regex,
    /// From the set's numbers to those of the table.
    indexes: Vec<usize>,
}

impl Group {
    /// `None` when no pattern is of this form.
    fn new(patterns: &[Pattern], form: Form) -> Result<Option<Self>, PatternError> {
        let ours = patterns.iter().enumerate().filter(|(_, pattern)| pattern.form() == form);
        let (indexes, sieves): (Vec<_>, Vec<_>) =
            ours.map(|(at, pattern)| (at, &pattern.sieve().hir)).unzip();
        if indexes.is_empty() {
            return Ok(None);
        }
        let config = Config::new()
            .match_kind(MatchKind::All)
            .which_captures(WhichCaptures::None)
            // Each pattern has a limit of its own, which bounds the sum.
            .nfa_size_limit(None)
            .hybrid_cache_capacity(Table::AUTOMATON_BYTES_MAX);
        let set = Builder::new()
            .configure(config)
            .build_many_from_hir(&sieves)
            .map_err(|error| compile_error(&error))?;
        Ok(Some(Self { form, set, indexes }))
    }

    /// The patterns whose sieves the path passes.
    fn sift(&self, path: &str) -> Vec<usize> {
        let mut found = PatternSet::new(self.indexes.len());
        self.set.which_overlapping_matches(&Input::new(self.form.subject(path)), &mut found);
        // Going through the numbers of a large set takes longer than matching, so it ends with the last that is in.
        let numbers = found.iter().take(found.len());
        numbers.filter_map(|number| self.indexes.get(number.as_usize()).copied()).collect()
    }
}

/// The indexes of the patterns that match, in file order; see [`Table::matches`].
#[derive(Debug)]
pub struct Matches<'a> {
    patterns: &'a [Pattern],
    path: &'a str,
    candidates: Candidates,
}

/// The patterns that the path may match.
#[derive(Debug)]
enum Candidates {
    All(ops::Range<usize>),
    Sifted(vec::IntoIter<usize>),
}

impl Iterator for Matches<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let (patterns, path) = (self.patterns, self.path);
        let is_match = |index: usize| patterns.get(index).is_some_and(|pattern| pattern.is_match(path));
        match &mut self.candidates {
            Candidates::All(indexes) => indexes.find(|&index| is_match(index)),
            Candidates::Sifted(indexes) => indexes.find(|&index| {
                patterns.get(index).is_some_and(|pattern| pattern.sieve().decides(path)) || is_match(index)
            }),
        }
    }
}

#[cfg(test)]
mod tests;
