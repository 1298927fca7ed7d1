//! Smaller expressions that match whatever a pattern matches, and perhaps more.

use regex_syntax::hir::{Capture, Class, ClassUnicodeRange, Hir, HirKind, Look, Repetition};

/// A pattern for which all characters outside of ASCII are alike.
///
/// It says the same of a path in ASCII, with the same captures.
#[derive(Debug)]
pub(super) struct Wide {
    pub(super) hir: Hir,
    /// Whether it says the same of every path.
    pub(super) is_exact: bool,
}

impl Wide {
    pub(super) fn new(hir: &Hir) -> Self {
        let mut is_exact = true;
        let hir = map(hir, &mut |part| match part.kind() {
            HirKind::Class(Class::Unicode(class)) if !class.is_ascii() => {
                let mut wide = class.clone();
                wide.push(ClassUnicodeRange::new('\u{80}', char::MAX));
                is_exact &= wide == *class;
                Hir::class(Class::Unicode(wide))
            }
            _ => part,
        });
        Self { hir, is_exact }
    }
}

/// What to try first when there are many patterns.
///
/// A thousand routes with Unicode classes and large counts make an automaton that does not fit in any cache. Without
/// these a table stays small and is passed in one go.
#[derive(Clone, Debug)]
pub(super) struct Sieve {
    /// The expression.
    pub(super) hir: Hir,
    exact: Exact,
}

/// For which paths something says the same as the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exact {
    Always,
    InAscii,
    Never,
}

impl Sieve {
    /// Counts up to this stay as they are.
    const COUNT_MAX: u32 = 4;

    pub(super) fn new(wide: &Wide, full: bool) -> Self {
        let mut exact = if wide.is_exact { Exact::Always } else { Exact::InAscii };
        // Each step lets through more than before or the same, and all that a pattern is made of keeps that so.
        let hir = map(&wide.hir, &mut |part| match part.kind() {
            HirKind::Look(look) if !matches!(look, Look::Start | Look::End) => {
                exact = Exact::Never;
                Hir::empty()
            }
            HirKind::Repetition(repetition) if Self::COUNT_MAX < repetition.max.unwrap_or(repetition.min) => {
                exact = Exact::Never;
                let min = repetition.min.min(Self::COUNT_MAX);
                Hir::repetition(Repetition { min, max: None, ..repetition.clone() })
            }
            HirKind::Capture(capture) => (*capture.sub).clone(),
            _ => part,
        });
        Self { hir: anchor(hir, full), exact }
    }

    /// Whether the pattern matches this path for certain, when the sieve lets it through.
    pub(super) fn decides(&self, path: &str) -> bool {
        match self.exact {
            Exact::Always => true,
            Exact::InAscii => path.is_ascii(),
            Exact::Never => false,
        }
    }
}

/// The same expression, which must match to both ends if it is `full`.
pub(super) fn anchor(hir: Hir, full: bool) -> Hir {
    if full { Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]) } else { hir }
}

/// The expression with each of its parts replaced, from the innermost out.
fn map(hir: &Hir, replace: &mut impl FnMut(Hir) -> Hir) -> Hir {
    let mut each = |parts: &[Hir]| parts.iter().map(|part| map(part, replace)).collect();
    let whole = match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => hir.clone(),
        HirKind::Repetition(repetition) => Hir::repetition(repetition.with(map(&repetition.sub, replace))),
        HirKind::Capture(capture) => {
            let sub = Box::new(map(&capture.sub, replace));
            Hir::capture(Capture { index: capture.index, name: capture.name.clone(), sub })
        }
        HirKind::Concat(parts) => Hir::concat(each(parts)),
        HirKind::Alternation(parts) => Hir::alternation(each(parts)),
    };
    replace(whole)
}
