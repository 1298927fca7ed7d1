//! What a pattern may say, and what to write in place of what only others understand.
//!
//! Patterns are pasted from Django projects, so each construct of Python's `re` that a linear matcher lacks, and the
//! converters of Django's `path()`, are refused with a hint and with the place.

use std::convert::Infallible;
use std::ops::Range;

use regex_automata::meta::BuildError;
use regex_syntax::ast;
use regex_syntax::ast::Ast;
use regex_syntax::hir::literal::{Extractor, Literal};
use regex_syntax::hir::translate::Translator;
use regex_syntax::hir::{Hir, Look};

use crate::route::pattern::Form;

/// Why a text is not a [`Pattern`](crate::route::Pattern).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// What is wrong, in one line.
    pub message: String,
    /// Where, in bytes of the pattern; `None` when it is the pattern as a whole.
    pub span: Option<Range<usize>>,
    /// What to write instead.
    pub help: Option<String>,
    /// What else is wrong further on, as far as that can be told.
    pub further: Vec<Self>,
}

impl PatternError {
    fn new(message: impl Into<String>, span: Range<usize>, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..Self::bare(message, Some(span)) }
    }

    /// Without a hint.
    pub(super) fn bare(message: impl Into<String>, span: Option<Range<usize>>) -> Self {
        Self { message: message.into(), span, help: None, further: Vec::new() }
    }
}

pub(super) fn parse_ast(text: &str) -> Result<Ast, PatternError> {
    ast::parse::Parser::new().parse(text).map_err(|error| syntax_error(text, &error))
}

pub(super) fn parse_hir(text: &str, tree: &Ast) -> Result<Hir, PatternError> {
    Translator::new()
        .translate(text, tree)
        .map_err(|error| PatternError::bare(error.kind().to_string(), Some(bytes(error.span()))))
}

fn bytes(span: &ast::Span) -> Range<usize> {
    span.start.offset..span.end.offset
}

/// Refuses what is no pattern, matches no path, or is of another language, with every place where that shows.
///
/// The parser stops at the first construct that only Python has. It is then read again with something harmless
/// of the same length in that place, so that the places of what follows remain true.
pub(super) fn refuse_foreign(form: Form, full: bool, text: &str) -> Result<(), PatternError> {
    let mut errors = Vec::new();
    let mut patched = text.to_owned();
    loop {
        match ast::parse::Parser::new().parse(&patched) {
            Ok(tree) => {
                errors.append(&mut Dialect::read(form, &tree).errors);
                // A stand-in might be what keeps it from matching.
                if patched == text
                    && let Ok(hir) = parse_hir(text, &tree)
                {
                    errors.extend(refuse_unmatchable(form, full, text, &hir).err());
                }
                break;
            }
            Err(error) => {
                let stand_in = stand_in(&patched, &error);
                // What is no Python either may be a consequence of the stand-ins.
                if errors.is_empty() || stand_in.is_some() {
                    errors.push(syntax_error(&patched, &error));
                }
                let Some((at, stand_in)) = stand_in else { break };
                patched.replace_range(at..at + stand_in.len(), &stand_in);
            }
        }
    }
    errors.sort_by_key(|error| error.span.as_ref().map(|span| span.start));
    let mut errors = errors.into_iter();
    match errors.next() {
        Some(first) => Err(PatternError { further: errors.collect(), ..first }),
        None => Ok(()),
    }
}

/// Where something stands that only Python has, and what could stand there instead.
fn stand_in(text: &str, error: &ast::Error) -> Option<(usize, String)> {
    let span = bytes(error.span());
    let found = text.get(span.clone())?;
    let stand_in = match error.kind() {
        ast::ErrorKind::UnsupportedLookAround if found.len() == 3 => "(?:".to_owned(),
        ast::ErrorKind::UnsupportedLookAround => "(?i:".to_owned(),
        ast::ErrorKind::UnsupportedBackreference | ast::ErrorKind::EscapeUnrecognized => {
            "x".repeat(found.len())
        }
        ast::ErrorKind::FlagUnrecognized => {
            let span = flag_error(text, span).span?;
            let group = text.get(span.clone())?;
            let stand_in = match group.get(..3)? {
                "(?>" => "(?:".to_owned(),
                // Up to the parenthesis, which may not be there.
                "(?P" | "(?#" if group.ends_with(')') => "x".repeat(group.len()),
                _ => return None,
            };
            return Some((span.start, stand_in));
        }
        _ => return None,
    };
    Some((span.start, stand_in))
}

/// Explains a syntax error, above all the constructs that Python has and a linear-time matcher has not.
fn syntax_error(text: &str, error: &ast::Error) -> PatternError {
    let span = bytes(error.span());
    match error.kind() {
        ast::ErrorKind::UnsupportedLookAround => look_around(text, span),
        ast::ErrorKind::UnsupportedBackreference => PatternError::new(
            "back-references are not supported: paths are matched in linear time",
            span,
            "write the text out, or capture both places and compare them in the application",
        ),
        ast::ErrorKind::FlagUnrecognized => flag_error(text, span),
        ast::ErrorKind::EscapeUnrecognized => escape_error(text, span),
        ast::ErrorKind::RepetitionCountDecimalEmpty | ast::ErrorKind::RepetitionCountUnclosed => {
            PatternError::new(
                "`{` does not begin a repetition here",
                span,
                r"write `\{` for the character itself, `{0,3}` for Python's `{,3}`",
            )
        }
        kind => PatternError::bare(kind.to_string(), Some(span)),
    }
}

fn look_around(text: &str, span: Range<usize>) -> PatternError {
    let (what, help) = match text.get(span.clone()) {
        Some("(?=") => ("look-ahead `(?=…)`", "match what must follow as a part of the pattern"),
        Some("(?!") => (
            "negative look-ahead `(?!…)`",
            "put a route for the excluded paths before this one: the first route that matches wins",
        ),
        Some("(?<=") => ("look-behind `(?<=…)`", "match what must stand before as a part of the pattern"),
        _ => (
            "negative look-behind `(?<!…)`",
            "put a route for the excluded paths before this one: the first route that matches wins",
        ),
    };
    PatternError::new(format!("{what} is not supported: paths are matched in linear time"), span, help)
}

/// `(?` followed by something that is no flag here.
fn flag_error(text: &str, span: Range<usize>) -> PatternError {
    let opened = text.get(..span.start).and_then(|before| before.rfind("(?")).unwrap_or(span.start);
    let group = text.get(opened..).unwrap_or_default();
    let closed = group.find(')').map_or(text.len(), |at| opened + at + 1);
    if group.starts_with("(?P=") {
        return PatternError::new(
            "the back-reference `(?P=name)` is not supported: paths are matched in linear time",
            opened..closed,
            "write the text out, or give the second place a group of its own and compare in the application",
        );
    }
    if group.starts_with("(?(") {
        return PatternError::new(
            "conditional groups `(?(…)yes|no)` are not supported",
            opened..closed,
            "write both forms as alternatives, `(?:…|…)`, or as two routes",
        );
    }
    if group.starts_with("(?>") {
        return PatternError::new(
            "atomic groups `(?>…)` are not supported",
            opened..opened + 3,
            "write `(?:…)`: matching is linear in any case",
        );
    }
    if group.starts_with("(?#") {
        return PatternError::new(
            "comments `(?#…)` are not supported",
            opened..closed,
            "put the comment on a line of its own, after a `#`",
        );
    }
    if matches!(text.get(span.clone()), Some("a" | "L")) {
        return PatternError::new(
            "Python's flags `a` and `L` are not supported",
            span,
            r"write ASCII classes out, `[A-Za-z0-9_]` for `\w` and `[0-9]` for `\d`",
        );
    }
    PatternError::new(
        "unknown group or flag after `(?`",
        span,
        "known are `(?:…)`, `(?P<name>…)` and the flags `imsxu`",
    )
}

fn escape_error(text: &str, span: Range<usize>) -> PatternError {
    let escape = text.get(span.clone()).unwrap_or_default().to_owned();
    let help = match escape.as_str() {
        r"\Z" => r"write `\z`, which is what Python's `\Z` means",
        r"\N" => r"write `\u{…}` with the number of the character",
        _ => r"write the character without the backslash, or `\\` for a backslash",
    };
    PatternError::new(format!("the escape `{escape}` is not known"), span, help)
}

/// Why an expression that parses does not compile.
pub(super) fn compile_error(error: &BuildError) -> PatternError {
    let Some(limit) = error.size_limit() else { return PatternError::bare(error.to_string(), None) };
    let help = r"repeat fewer times, or repeat an ASCII class: `[A-Za-z0-9_]` is far smaller than `\w`";
    let message = format!("the compiled pattern is larger than {} MiB", limit / 1024 / 1024);
    PatternError { help: Some(help.to_owned()), ..PatternError::bare(message, None) }
}

/// Refuses a comment of `(?x)` behind which a pattern would have no end, in whatever it is put.
pub(super) fn refuse_open_comment(text: &str) -> Result<(), PatternError> {
    if parse_ast(&format!("(?:{text})")).is_ok() {
        return Ok(());
    }
    let message = "a comment of `(?x)` does not end before the pattern does";
    let span = text.rfind('#').map(|at| at..text.len());
    Err(PatternError { help: Some("leave the comment out".to_owned()), ..PatternError::bare(message, span) })
}

/// Refuses a pattern that no path can match because of how it begins.
fn refuse_unmatchable(form: Form, full: bool, text: &str, hir: &Hir) -> Result<(), PatternError> {
    if !full && !hir.properties().look_set_prefix().contains(Look::Start) {
        return Ok(());
    }
    let starts = Extractor::new().extract(hir);
    let Some(starts) = starts.literals() else { return Ok(()) };
    let slash = |literal: &Literal| literal.as_bytes().first() == Some(&b'/');
    let open = |literal: &Literal| literal.is_empty() && !literal.is_exact();
    let (wrong, message, help) = match form {
        Form::RePath => (
            !starts.is_empty() && starts.iter().all(slash),
            "this matches no path: `re_path` sees the path without its leading slashes",
            "leave the leading slash out, or use `path` for the whole path",
        ),
        Form::Path => (
            !starts.iter().any(|literal| slash(literal) || open(literal)),
            "this matches no path: `path` sees the whole path, which begins with a slash",
            "begin with `/`, or use `re_path` for a pattern from Django",
        ),
    };
    if wrong { Err(PatternError::new(message, 0..text.len(), help)) } else { Ok(()) }
}

/// Walks a syntax tree: notes the named groups, and what means something else elsewhere.
pub(super) struct Dialect {
    form: Form,
    pub(super) groups: Vec<(String, Range<usize>)>,
    pub(super) errors: Vec<PatternError>,
}

impl Dialect {
    pub(super) fn read(form: Form, tree: &Ast) -> Self {
        let mut dialect = Self { form, groups: Vec::new(), errors: Vec::new() };
        let Ok(()) = ast::visit(tree, &mut dialect);
        dialect
    }

    fn refuse(&mut self, message: impl Into<String>, span: Range<usize>, help: impl Into<String>) {
        self.errors.push(PatternError::new(message, span, help));
    }

    fn refuse_set(&mut self, span: &ast::Span) {
        if self.form == Form::RePath {
            self.refuse(
                "in Python `[`, `&&`, `--` and `~~` inside of a class are plain characters, here they are not",
                bytes(span),
                r"put a backslash before each of these characters",
            );
        }
    }

    /// `<int:id>` of Django's `path()` and `/:id` of other routers, which a regular expression reads as plain
    /// characters.
    fn refuse_converters(&mut self, run: &str, start: usize) {
        for (at, _) in run.match_indices('<') {
            let inner = run.get(at + 1..).and_then(|rest| rest.split_once('>')).map(|(inner, _)| inner);
            let Some(inner) = inner else { continue };
            let (converter, name) = inner.split_once(':').unwrap_or(("str", inner));
            if is_identifier(converter) && is_identifier(name) {
                self.refuse(
                    format!(
                        "`<{inner}>` is a converter of Django's `path()`, and this is a regular expression"
                    ),
                    start + at..start + at + inner.len() + 2,
                    format!("write `(?P<{name}>{})`", class_of(converter)),
                );
            }
        }
        for (at, _) in run.match_indices("/:") {
            let name = run.get(at + 2..).unwrap_or_default();
            let end = name.find(|ch: char| !is_word(ch)).unwrap_or(name.len());
            let Some(name) = name.get(..end).filter(|name| is_identifier(name)) else { continue };
            self.refuse(
                format!("`:{name}` is plain text here and captures nothing"),
                start + at + 1..start + at + 2 + end,
                format!(r"write `(?P<{name}>{})`, or `\:` for the character itself", class_of("str")),
            );
        }
    }
}

/// What a converter of Django's `path()` takes, as far as it is fit for a group name.
fn class_of(converter: &str) -> &'static str {
    match converter {
        "int" => "[0-9]{1,64}",
        "uuid" => "[0-9a-f-]{36}",
        "path" => ".+",
        _ => "[A-Za-z0-9_-]{1,64}",
    }
}

fn is_word(ch: char) -> bool {
    ch.is_ascii_alphanumeric() || ch == '_'
}

fn is_identifier(text: &str) -> bool {
    text.chars().all(is_word) && text.starts_with(|ch: char| !ch.is_ascii_digit())
}

impl ast::Visitor for &mut Dialect {
    type Output = ();
    type Err = Infallible;

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }

    fn visit_pre(&mut self, tree: &Ast) -> Result<(), Infallible> {
        match tree {
            Ast::Group(group) => {
                let ast::GroupKind::CaptureName { name, .. } = &group.kind else { return Ok(()) };
                if name.name.contains(['.', '[', ']']) {
                    self.refuse(
                        format!("`{}` is not a name for a group", name.name),
                        bytes(&name.span),
                        "use letters, digits and `_`",
                    );
                }
                self.groups.push((name.name.clone(), bytes(&group.span)));
            }
            Ast::Repetition(outer) if matches!(*outer.ast, Ast::Repetition(_)) => {
                let possessive = matches!(outer.op.kind, ast::RepetitionKind::OneOrMore);
                let message = if possessive {
                    "possessive repetition is not supported"
                } else {
                    "a repetition of a repetition"
                };
                let help = if possessive {
                    "leave the second `+` out: matching is linear in any case"
                } else {
                    "leave one of them out, or put the inner one into `(?:…)`"
                };
                self.refuse(message, bytes(&outer.op.span), help);
            }
            Ast::Assertion(assertion) if self.form == Form::RePath => {
                let angle = matches!(
                    assertion.kind,
                    ast::AssertionKind::WordBoundaryStartAngle | ast::AssertionKind::WordBoundaryEndAngle
                );
                if angle {
                    self.refuse(
                        r"`\<` and `\>` are plain characters in Python, here they are word boundaries",
                        bytes(&assertion.span),
                        "leave the backslash out",
                    );
                }
            }
            Ast::Concat(concat) => {
                // Characters as they stand, one behind the other: those with a backslash are meant.
                let mut run = (String::new(), 0..0);
                for part in &concat.asts {
                    let Ast::Literal(literal) = part else { continue };
                    let span = bytes(&literal.span);
                    if run.1.end != span.start {
                        self.refuse_converters(&run.0, run.1.start);
                        run = (String::new(), span.start..span.start);
                    }
                    if literal.kind == ast::LiteralKind::Verbatim {
                        run.0.push(literal.c);
                        run.1.end = span.end;
                    }
                }
                self.refuse_converters(&run.0, run.1.start);
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), Infallible> {
        match item {
            ast::ClassSetItem::Bracketed(inner) => self.refuse_set(&inner.span),
            ast::ClassSetItem::Ascii(inner) => self.refuse_set(&inner.span),
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, op: &ast::ClassSetBinaryOp) -> Result<(), Infallible> {
        self.refuse_set(&op.span);
        Ok(())
    }
}
