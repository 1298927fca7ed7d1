//! What is wrong with a file, told to the person who edits it: where, why, and what to write instead.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde_json::json;

/// A range of bytes in the text of the file.
pub(super) type Span = Range<usize>;

/// All findings about one file, in the order in which they stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    name: String,
    /// The file with its secrets masked: a finding shows the line that it stands in, in the log too.
    text: String,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(super) fn new(name: &str, text: &str, findings: Findings) -> Self {
        let mut list = findings.list.into_inner();
        for label in list.iter_mut().flat_map(|diagnostic| &mut diagnostic.labels) {
            label.span = clamp(text, &label.span);
        }
        list.sort_by_key(Diagnostic::start);
        Self { name: name.to_owned(), text: mask_secrets(text), list }
    }

    /// The one finding about a file that has no text, in the words of whoever tried to read it.
    pub fn unreadable(name: &str, why: impl fmt::Display) -> Self {
        let (code, message) = (Code::Unreadable, why.to_string());
        let diagnostic = Diagnostic { code, message, labels: Vec::new(), help: None };
        Self { name: name.to_owned(), text: String::new(), list: vec![diagnostic] }
    }

    /// Each finding as rustc would print it, with an empty line between two and a line end after the last;
    /// empty when there is none. With `color` for a terminal.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let lines = Lines::new(&self.text);
        let rendered: Vec<_> = self
            .list
            .iter()
            .map(|diagnostic| self.render_one(&renderer, &lines, diagnostic) + "\n")
            .collect();
        rendered.join("\n")
    }

    fn render_one(&self, renderer: &Renderer, lines: &Lines<'_>, diagnostic: &Diagnostic) -> String {
        // The renderer looks at the whole source each time, so it gets no more than it has to show.
        let start = diagnostic.labels.iter().map(|label| label.span.start).min().unwrap_or_default();
        let end = diagnostic.labels.iter().map(|label| label.span.end).max().unwrap_or_default();
        let shown = lines.around(&(start..end));
        let source = self.text.get(shown.clone()).unwrap_or_default();
        let annotations = diagnostic.labels.iter().enumerate().map(|(index, label)| {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(label.span.start - shown.start..label.span.end - shown.start);
            if label.text.is_empty() { annotation } else { annotation.label(label.text.as_str()) }
        });
        let level = match diagnostic.code.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = Snippet::source(source)
            .line_start(lines.number(shown.start))
            .path(self.name.as_str())
            .annotations(annotations);
        let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.as_str());
        let mut group = if diagnostic.labels.is_empty() {
            title.element(Origin::path(self.name.as_str()))
        } else {
            title.element(snippet)
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// An array with an object for each finding: `code`, `severity` (`"error"` or `"warning"`), `file`, `line`
    /// and `column` (counted in characters from 1, null for the file as a whole), `message`, and `help`, which
    /// may be null.
    pub fn to_json(&self) -> serde_json::Value {
        let lines = Lines::new(&self.text);
        let object = |diagnostic: &Diagnostic| {
            let at = diagnostic.labels.first().map(|label| label.span.start);
            json!({
                "code": diagnostic.code.as_str(),
                "severity": diagnostic.code.severity().as_str(),
                "file": self.name,
                "line": at.map(|at| lines.number(at)),
                "column": at.map(|at| lines.column(at)),
                "message": diagnostic.message,
                "help": diagnostic.help,
            })
        };
        self.list.iter().map(object).collect()
    }

    /// How many findings refuse the file.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many findings let the file pass.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.code.severity() == severity).count()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The findings, in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }
}

/// One line: the file and the counts, such as `routes.toml: 2 errors, 1 warning`.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (errors, warnings) = (self.errors(), self.warnings());
        match (errors, warnings) {
            (0, 0) => write!(f, "{}: no findings", self.name),
            (_, 0) => write!(f, "{}: {errors} error{}", self.name, plural(errors)),
            (0, _) => write!(f, "{}: {warnings} warning{}", self.name, plural(warnings)),
            _ => write!(
                f,
                "{}: {errors} error{}, {warnings} warning{}",
                self.name,
                plural(errors),
                plural(warnings)
            ),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    code: Code,
    message: String,
    /// The first is where the finding is; the others are what it has to do with. None for the file as a whole.
    labels: Vec<Label>,
    help: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    span: Span,
    text: String,
}

impl Diagnostic {
    pub(super) fn new(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: vec![Label { span, text: String::new() }], help: None }
    }

    /// Says something beside the carets of the finding itself.
    pub(super) fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(label) = self.labels.first_mut() {
            label.text = text.into();
        }
        self
    }

    /// Points at another place that the finding has to do with.
    pub(super) fn with(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Says what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As [`Self::help`], where there may be nothing to say.
    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    fn start(&self) -> usize {
        self.labels.first().map_or(0, |label| label.span.start)
    }

    /// The kind of finding.
    pub fn code(&self) -> Code {
        self.code
    }

    /// One line without a full stop.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Whether a finding refuses the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The kind of a finding: `E…` refuses the file, `W…` does not. A code keeps its meaning between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// E001: the text is not TOML.
    Syntax,
    /// E002: `version = 1` is missing, or the version is another.
    Version,
    /// E003: a key that does not exist here.
    UnknownKey,
    /// E004: a key or value of the schema that this release does not support yet.
    NotSupportedYet,
    /// E005: a value of the wrong type.
    WrongType,
    /// E006: a key that must be there is missing.
    MissingKey,
    /// E007: a value that is none of the words allowed.
    UnknownWord,
    /// E008: a duration or size that is no whole number with a unit.
    Quantity,
    /// E009: a number, duration or size out of its range.
    OutOfRange,
    /// E010: a key that this handler, format or backend has no use for.
    UnusableKey,
    /// E011: two settings that contradict each other.
    Conflict,
    /// E012: a name or address that is already taken.
    Duplicate,
    /// E013: a name with characters or a length that it may not have.
    Name,
    /// E014: a list or text that must not be empty is empty.
    Empty,
    /// E015: an address to listen on that is none.
    Address,
    /// E016: `path` or `re_path` is no pattern that can be compiled.
    Pattern,
    /// E017: a template that cannot be filled in.
    Template,
    /// E018: a group name, prefix or event type that the channel layer would not take.
    LayerName,
    /// E019: a pattern in `hosts` that can match no host.
    HostPattern,
    /// E020: a pattern in `origins` that can match no origin.
    OriginPattern,
    /// E021: an entry of `trust.proxies` that is no network.
    TrustedProxy,
    /// E022: an address of a Redis server that cannot be used.
    RedisHost,
    /// E023: a secret that could not be read.
    Secret,
    /// E024: a status or header that cannot be sent.
    Response,
    /// E025: the file has no text that could be read.
    Unreadable,
    /// E026: a certificate, key or authority that could not be read or is not there, or that does not go with its other
    /// half.
    Certificate,
    /// E027: an address or name of an upstream's server that cannot be used.
    Server,
    /// W001: a client can choose characters that a group name may not hold, or too many or none of them; it is
    /// refused with `group_name`.
    UnsafeGroup,
    /// W002: a route that no request can reach.
    Unreachable,
    /// W003: a setting that has no effect as the others stand.
    NoEffect,
    /// W004: a room whose clients are not told what clients say.
    Unheard,
    /// W005: a folder that is not there.
    Folder,
}

impl Code {
    /// The code as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "E001",
            Self::Version => "E002",
            Self::UnknownKey => "E003",
            Self::NotSupportedYet => "E004",
            Self::WrongType => "E005",
            Self::MissingKey => "E006",
            Self::UnknownWord => "E007",
            Self::Quantity => "E008",
            Self::OutOfRange => "E009",
            Self::UnusableKey => "E010",
            Self::Conflict => "E011",
            Self::Duplicate => "E012",
            Self::Name => "E013",
            Self::Empty => "E014",
            Self::Address => "E015",
            Self::Pattern => "E016",
            Self::Template => "E017",
            Self::LayerName => "E018",
            Self::HostPattern => "E019",
            Self::OriginPattern => "E020",
            Self::TrustedProxy => "E021",
            Self::RedisHost => "E022",
            Self::Secret => "E023",
            Self::Response => "E024",
            Self::Unreadable => "E025",
            Self::Certificate => "E026",
            Self::Server => "E027",
            Self::UnsafeGroup => "W001",
            Self::Unreachable => "W002",
            Self::NoEffect => "W003",
            Self::Unheard => "W004",
            Self::Folder => "W005",
        }
    }

    /// Whether a finding of this kind refuses the file.
    pub fn severity(self) -> Severity {
        match self {
            Self::UnsafeGroup | Self::Unreachable | Self::NoEffect | Self::Unheard | Self::Folder => {
                Severity::Warning
            }
            _ => Severity::Error,
        }
    }
}

/// Where the lines of a text begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The number of the line that this byte is in, from 1.
    fn number(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at)
    }

    /// The number of the character that begins here, from 1 in each line.
    fn column(&self, at: usize) -> usize {
        let start = self.start(self.number(at));
        self.text.get(start..at).map_or(0, |before| before.chars().count()) + 1
    }

    /// The whole lines that this span touches.
    fn around(&self, span: &Span) -> Span {
        let last = self.number(span.end.saturating_sub(1).max(span.start));
        self.start(self.number(span.start))..self.start(last + 1)
    }

    /// Where the line of this number begins; behind the last line, the end of the text.
    fn start(&self, number: usize) -> usize {
        self.starts.get(number.saturating_sub(1)).copied().unwrap_or(self.text.len())
    }
}

/// The findings while they are being made.
#[derive(Debug, Default)]
pub(super) struct Findings {
    // Readers of nested tables report to the same list.
    list: RefCell<Vec<Diagnostic>>,
}

impl Findings {
    pub(super) fn push(&self, diagnostic: Diagnostic) {
        self.list.borrow_mut().push(diagnostic);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.list.borrow().iter().any(|diagnostic| diagnostic.code.severity() == Severity::Error)
    }
}

/// The known word that was most likely meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('-', "_");
    let word = plain(word);
    let distance_max = word.chars().count().max(3) / 3;
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), known))
        .filter(|&(distance, _)| distance <= distance_max)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known)
}

/// A list of words for a sentence: "`a`, `b` or `c`".
pub(super) fn one_of(words: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let mut quoted: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.pop() {
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} or {last}", quoted.join(", ")),
        None => String::new(),
    }
}

/// The nearest span that can be sliced out of the text.
fn clamp(text: &str, span: &Span) -> Span {
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// The text with `*` for every byte of a password, in a URL too, and of an encryption key.
///
/// It also works on a text that is not TOML, since its lines are shown as well.
fn mask_secrets(text: &str) -> String {
    let mut secret = vec![false; text.len()];
    let mut mark = |span: Span| secret.get_mut(span).into_iter().flatten().for_each(|byte| *byte = true);
    for (at, separator) in text.match_indices("://") {
        let start = at + separator.len();
        let rest = text.get(start..).unwrap_or_default();
        let url =
            rest.split(|ch: char| ch.is_whitespace() || ch == '"' || ch == '\'').next().unwrap_or_default();
        if let Some(login) = url.rfind('@').and_then(|end| url.get(..end))
            && let Some(colon) = login.find(':')
        {
            mark(start + colon + 1..start + login.len());
        }
    }
    for (at, key) in text.match_indices("symmetric_encryption_keys") {
        mask_keys(text, at + key.len(), &mut mark);
    }
    for (at, key) in text.match_indices("password") {
        mask_value(text, at + key.len(), &mut mark);
    }
    let mask = |(at, ch): (usize, char)| match secret.get(at) {
        Some(true) => "*".repeat(ch.len_utf8()),
        _ => ch.to_string(),
    };
    text.char_indices().map(mask).collect()
}

/// Marks the keys of the list that begins here; names of variables and files may be seen.
fn mask_keys(text: &str, start: usize, mark: &mut impl FnMut(Span)) {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut escaped = false;
    let mut visible_until = start;
    for (offset, ch) in text.get(start..).unwrap_or_default().char_indices() {
        let at = start + offset;
        match (quote, ch) {
            (_, '\n') if depth == 0 => break,
            (Some(_), '\n') => quote = None,
            (Some(open), ch) if ch == open && !escaped => quote = None,
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                mark(at..at + 1);
                continue;
            }
            (None, '"' | '\'') => quote = Some(ch),
            (None, '[') => depth += 1,
            (None, ']') if depth <= 1 => break,
            (None, ']') => depth -= 1,
            (None, '{') => {
                let table =
                    text.get(at..).and_then(|rest| rest.split(['}', '\n']).next()).unwrap_or_default();
                let entry = table.trim_start_matches(['{', ' ', '\t']);
                if entry.starts_with("env") || entry.starts_with("file") {
                    visible_until = at + table.len();
                }
            }
            (None, '}' | ',' | '=') => (),
            (None, ch) if ch.is_whitespace() => (),
            _ if at < visible_until => (),
            _ => mark(at..at + ch.len_utf8()),
        }
        escaped = false;
    }
}

/// Marks the value of the key that ends here, or the option of a URL; a table says where the secret is.
fn mask_value(text: &str, start: usize, mark: &mut impl FnMut(Span)) {
    let rest = text.get(start..).unwrap_or_default();
    let value = rest.trim_start_matches(['"', '\'', ' ', '\t']);
    let Some(value) = value.strip_prefix(['=', ':']) else { return };
    let value = value.trim_start_matches([' ', '\t']);
    let quote = value.chars().next().filter(|ch| matches!(ch, '"' | '\''));
    let value = if quote.is_some() { value.get(1..).unwrap_or_default() } else { value };
    let begin = start + rest.len() - value.len();
    let mut escaped = false;
    for (offset, ch) in value.char_indices() {
        let at_end = match quote {
            Some(quote) => ch == '\n' || ch == quote && !escaped,
            None => ch.is_whitespace() || "{}],&\"'".contains(ch),
        };
        if at_end {
            break;
        }
        escaped = quote == Some('"') && ch == '\\' && !escaped;
        mark(begin + offset..begin + offset + ch.len_utf8());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_in_the_lines_of_a_finding() {
        let cases = [
            ("hosts = [\"redis://:hunter2@h:1/0\"]", "hosts = [\"redis://:*******@h:1/0\"]"),
            ("'redis://app:a@b@h'", "'redis://app:***@h'"),
            ("redis://app@h https://h/a:b", "redis://app@h https://h/a:b"),
            (
                "symmetric_encryption_keys = [\"é\", 'b]c'] # d",
                "symmetric_encryption_keys = [\"**\", '***'] # d",
            ),
            (
                "symmetric_encryption_keys = [\n  \"a\\\"b\",\n]\nc",
                "symmetric_encryption_keys = [\n  \"****\",\n]\nc",
            ),
            ("symmetric_encryption_keys = \"abc\nd", "symmetric_encryption_keys = \"***\nd"),
            ("symmetric_encryption_keys = [abc", "symmetric_encryption_keys = [***"),
            (
                "symmetric_encryption_keys = [{ env = \"KEY\" }, \"a\"]",
                "symmetric_encryption_keys = [{ env = \"KEY\" }, \"*\"]",
            ),
        ];
        let passwords = [
            ("password = \"a\\\"b\", db = 1", "password = \"****\", db = 1"),
            ("{ 'password' = 'é' }", "{ 'password' = '**' }"),
            ("password = { env = \"NAME\" }", "password = { env = \"NAME\" }"),
            ("password = abc, db = 1", "password = ***, db = 1"),
            ("\"redis://h?password=abc&db=1\"", "\"redis://h?password=***&db=1\""),
            ("\"password\": \"abc", "\"password\": \"***"),
            ("keep the password elsewhere", "keep the password elsewhere"),
        ];
        for (text, shown) in cases.into_iter().chain(passwords) {
            assert_eq!(mask_secrets(text), shown);
        }
    }

    #[test]
    fn lines_and_columns_are_counted_in_characters_from_one() {
        let lines = Lines::new("é\nab\r\n\nx");
        let cases =
            [(0, (1, 1)), (2, (1, 2)), (3, (2, 1)), (5, (2, 3)), (7, (3, 1)), (8, (4, 1)), (9, (4, 2))];
        for (at, place) in cases {
            assert_eq!((lines.number(at), lines.column(at)), place, "{at}");
        }
        assert_eq!((lines.around(&(4..5)), lines.around(&(0..4)), lines.around(&(9..9))), (3..7, 0..7, 8..9));
    }

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["origins", "no_origin", "hosts"];
        let cases = [
            ("orgins", Some("origins")),
            ("Origins", Some("origins")),
            ("no-origin", Some("no_origin")),
            ("host", Some("hosts")),
            ("x", None),
            ("max_connections", None),
        ];
        for (word, found) in cases {
            assert_eq!(nearest(word, known), found, "{word}");
        }
    }
}
