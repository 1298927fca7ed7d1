//! All patterns of a file, matched at once.

use std::iter::Peekable;

use regex::{RegexSet, RegexSetBuilder, SetMatchesIntoIter};

use super::pattern::Form;
use super::{Pattern, PatternError};
use crate::scope::Params;

/// The patterns of all routes, in file order.
///
/// A path goes through one automaton for all patterns of a form, which leaves out nearly every pattern that does
/// not match. What is left is asked one by one.
#[derive(Clone, Debug)]
pub struct Table {
    patterns: Vec<Pattern>,
    re_path: Group,
    path: Group,
}

impl Table {
    /// Bytes that a thread's matching automaton may grow to before it starts over.
    const AUTOMATON_BYTES_MAX: usize = 32 * 1024 * 1024;

    /// Compiles the patterns together.
    ///
    /// # Errors
    ///
    /// When the compiler refuses the whole though it took every part.
    pub fn new(patterns: Vec<Pattern>) -> Result<Self, PatternError> {
        let re_path = Group::new(&patterns, Form::RePath)?;
        let path = Group::new(&patterns, Form::Path)?;
        Ok(Self { patterns, re_path, path })
    }

    /// The indexes of all patterns that match, in file order.
    ///
    /// `path` is decoded and has its leading slash. It is read once, however many patterns there are.
    pub fn matches<'a>(&'a self, path: &'a str) -> Matches<'a> {
        Matches { table: self, path, by_re_path: self.re_path.sift(path), by_path: self.path.sift(path) }
    }

    /// What the named groups of one pattern captured; `None` when it does not match.
    pub fn captures(&self, index: usize, path: &str) -> Option<Params> {
        self.patterns.get(index)?.captures(path)
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
    set: RegexSet,
    /// From the set's numbers to those of the table, ascending.
    indexes: Vec<usize>,
}

impl Group {
    fn new(patterns: &[Pattern], form: Form) -> Result<Self, PatternError> {
        let ours = patterns.iter().enumerate().filter(|(_, pattern)| pattern.form() == form);
        let (indexes, sources): (Vec<_>, Vec<_>) =
            ours.map(|(at, pattern)| (at, pattern.sieve().source.as_str())).unzip();
        let set = RegexSetBuilder::new(sources)
            // Each pattern has a limit of its own, which bounds the sum.
            .size_limit(usize::MAX)
            .dfa_size_limit(Table::AUTOMATON_BYTES_MAX)
            .build()
            .map_err(|error| PatternError::bare(error.to_string(), None))?;
        Ok(Self { form, set, indexes })
    }

    fn sift(&self, path: &str) -> Candidates<'_> {
        let found = self.set.matches(self.form.subject(path));
        // Going through the numbers of a large set takes longer than matching, so it is only done when one is in.
        let found = found.matched_any().then(|| found.into_iter().peekable());
        Candidates { indexes: &self.indexes, found }
    }
}

/// The indexes of the patterns that match, in file order; see [`Table::matches`].
#[derive(Debug)]
pub struct Matches<'a> {
    table: &'a Table,
    path: &'a str,
    by_re_path: Candidates<'a>,
    by_path: Candidates<'a>,
}

impl Matches<'_> {
    fn next_candidate(&mut self) -> Option<usize> {
        match (self.by_re_path.peek(), self.by_path.peek()) {
            (Some(left), Some(right)) if right < left => self.by_path.next(),
            (Some(_), _) => self.by_re_path.next(),
            (None, _) => self.by_path.next(),
        }
    }
}

impl Iterator for Matches<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let index = self.next_candidate()?;
            let pattern = self.table.patterns.get(index)?;
            if pattern.sieve().is_exact || pattern.is_match(self.path) {
                return Some(index);
            }
        }
    }
}

/// The patterns of one form that the path may match.
#[derive(Debug)]
struct Candidates<'a> {
    indexes: &'a [usize],
    found: Option<Peekable<SetMatchesIntoIter>>,
}

impl Candidates<'_> {
    fn peek(&mut self) -> Option<usize> {
        let at = self.found.as_mut()?.peek()?;
        self.indexes.get(*at).copied()
    }

    fn next(&mut self) -> Option<usize> {
        let at = self.found.as_mut()?.next()?;
        self.indexes.get(at).copied()
    }
}

#[cfg(test)]
mod tests;
