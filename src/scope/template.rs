//! Texts with holes that a scope fills: group names, welcomes, user names.

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::str::FromStr;

use http::HeaderName;
use percent_encoding::percent_decode_str;

use super::Scope;

/// A text with placeholders, for example `chat_{room_name}`.
///
/// `{room_name}` is a named group of the route's pattern; `{client}`, `{path}`, `{query}` and `{user}`,
/// `{query.KEY}` and `{header.NAME}` are of the request. `{{` and `}}` are the braces themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Hole(Placeholder, Range<usize>),
}

/// What a hole of a [`Template`] is filled with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Placeholder {
    /// `{room_name}`: what a named group of the pattern captured; empty when it took no part.
    Capture(String),
    /// `{client}`: the client's address without its port.
    Client,
    /// `{path}`: the decoded path, with its leading slash.
    Path,
    /// `{query}`: the whole query as sent.
    Query,
    /// `{query.KEY}`: the first value of that key, decoded as a form is; empty when it is missing.
    QueryKey(String),
    /// `{header.NAME}`: that header; repeated ones are joined by a comma, as Daphne does.
    Header(HeaderName),
    /// `{user}`: the name of the user, `anonymous` when there is none.
    User,
}

impl Placeholder {
    /// The words that a capture of the same name cannot be reached by.
    pub const RESERVED: &'static [&'static str] = &["client", "path", "query", "user"];

    /// What `{user}` becomes for a connection without a user.
    pub const ANONYMOUS: &'static str = "anonymous";

    fn parse(name: &str) -> Result<Self, TemplateErrorKind> {
        if let Some(key) = name.strip_prefix("query.") {
            return if key.is_empty() {
                Err(TemplateErrorKind::Empty)
            } else {
                Ok(Self::QueryKey(key.to_owned()))
            };
        }
        if let Some(header) = name.strip_prefix("header.") {
            let header = HeaderName::from_str(header);
            return header.map(Self::Header).map_err(|_| TemplateErrorKind::Header);
        }
        match name {
            "" => Err(TemplateErrorKind::Empty),
            "client" => Ok(Self::Client),
            "path" => Ok(Self::Path),
            "query" => Ok(Self::Query),
            "user" => Ok(Self::User),
            capture if is_identifier(capture) => Ok(Self::Capture(capture.to_owned())),
            other => Err(TemplateErrorKind::Unknown(other.to_owned())),
        }
    }

    fn render(&self, scope: &Scope, out: &mut String) {
        match self {
            Self::Capture(name) => out.push_str(scope.params.get(name).unwrap_or_default()),
            Self::Client => {
                // Writing to a String does not fail.
                let _infallible: fmt::Result = match scope.client.ip() {
                    Some(ip) => write!(out, "{ip}"),
                    None => write!(out, "{}", scope.client),
                };
            }
            Self::Path => out.push_str(&scope.path),
            Self::Query => out.push_str(&scope.query),
            Self::QueryKey(key) => out.push_str(&query_value(&scope.query, key).unwrap_or_default()),
            Self::Header(name) => {
                for (at, value) in scope.headers.get_all(name).iter().enumerate() {
                    if 0 < at {
                        out.push(',');
                    }
                    out.push_str(&String::from_utf8_lossy(value.as_bytes()));
                }
            }
            Self::User => out.push_str(scope.user.as_deref().unwrap_or(Self::ANONYMOUS)),
        }
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capture(name) => out.write_str(name),
            Self::Client => out.write_str("client"),
            Self::Path => out.write_str("path"),
            Self::Query => out.write_str("query"),
            Self::QueryKey(key) => write!(out, "query.{key}"),
            Self::Header(name) => write!(out, "header.{name}"),
            Self::User => out.write_str("user"),
        }
    }
}

impl Template {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The placeholders in order, each with its place (in bytes, braces included).
    pub fn placeholders(&self) -> impl Iterator<Item = (&Placeholder, Range<usize>)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Hole(placeholder, span) => Some((placeholder, span.clone())),
            Piece::Literal(_) => None,
        })
    }

    /// The text with its holes filled. Nothing is escaped: the caller checks the result.
    pub fn render(&self, scope: &Scope) -> String {
        let mut out = String::with_capacity(self.text.len());
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Hole(placeholder, _) => placeholder.render(scope, &mut out),
            }
        }
        out
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((start, ch)) = chars.next() {
            let doubled = matches!(ch, '{' | '}') && chars.next_if(|&(_, next)| next == ch).is_some();
            match ch {
                '{' if !doubled => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    let mut name = String::new();
                    let end = loop {
                        match chars.next() {
                            Some((at, '}')) => break at + 1,
                            None | Some((_, '{')) => {
                                let span = start..start + 1 + name.len();
                                return Err(TemplateError { kind: TemplateErrorKind::Unclosed, span });
                            }
                            Some((_, ch)) => name.push(ch),
                        }
                    };
                    let span = start..end;
                    match Placeholder::parse(&name) {
                        Ok(placeholder) => pieces.push(Piece::Hole(placeholder, span)),
                        Err(kind) => return Err(TemplateError { kind, span }),
                    }
                }
                '}' if !doubled => {
                    return Err(TemplateError { kind: TemplateErrorKind::Unopened, span: start..start + 1 });
                }
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { text: text.to_owned(), pieces })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Why a text is not a [`Template`], and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct TemplateError {
    /// What is wrong.
    pub kind: TemplateErrorKind,
    /// The place, in bytes of the text.
    pub span: Range<usize>,
}

impl TemplateError {
    /// What to write instead.
    pub fn help(&self) -> &'static str {
        match self.kind {
            TemplateErrorKind::Unclosed => "close it with `}`, or write `{{` for the brace itself",
            TemplateErrorKind::Unopened => "write `}}` for the brace itself",
            TemplateErrorKind::Header => "write the header's name, for example `{header.user-agent}`",
            TemplateErrorKind::Empty | TemplateErrorKind::Unknown(_) => {
                "known are the named groups of the route's pattern, `{client}`, `{path}`, `{query}`, \
                 `{query.KEY}`, `{header.NAME}` and `{user}`"
            }
        }
    }
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateErrorKind {
    /// A `{` without its `}`.
    #[error("`{{` is not closed")]
    Unclosed,
    /// A `}` without its `{`.
    #[error("`}}` without a `{{` before it")]
    Unopened,
    /// `{}` or `{query.}`.
    #[error("the placeholder has no name")]
    Empty,
    /// `{header.NAME}` with a name that no header can have.
    #[error("the placeholder names no valid header")]
    Header,
    /// A name that is neither one of the known words nor that of a group.
    #[error("unknown placeholder `{0}`")]
    Unknown(String),
}

/// Whether a named group could have this name.
fn is_identifier(name: &str) -> bool {
    !name.starts_with(|ch: char| ch.is_numeric()) && name.chars().all(|ch| ch == '_' || ch.is_alphanumeric())
}

/// The first value of `key` in an `application/x-www-form-urlencoded` query.
fn query_value(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(name) == key).then(|| form_decode(value))
    })
}

fn form_decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;
    use http::HeaderValue;

    use super::*;
    use crate::scope::ClientAddr;

    fn scope() -> Scope {
        let mut headers = HeaderMap::new();
        headers.append("x-one", HeaderValue::from_static("1"));
        headers.append("x-two", HeaderValue::from_static("1"));
        headers.append("x-two", HeaderValue::from_static("2"));
        Scope {
            client: ClientAddr::new("192.0.2.1".parse().unwrap(), Some(4000)),
            path: "/chat/lobby/".to_owned(),
            query: "name=J%C3%B6rg+M&name=second&flag".to_owned(),
            headers,
            params: [(Arc::from("room_name"), "lobby".to_owned())].into_iter().collect(),
            user: None,
            subprotocol: None,
        }
    }

    #[test]
    fn each_placeholder_is_filled_from_the_scope() {
        let cases = [
            ("", ""),
            ("plain", "plain"),
            ("chat_{room_name}", "chat_lobby"),
            ("{room_name}{room_name}", "lobbylobby"),
            ("[{absent}]", "[]"),
            ("{client}", "192.0.2.1"),
            ("{path}?{query}", "/chat/lobby/?name=J%C3%B6rg+M&name=second&flag"),
            ("{query.name}", "Jörg M"),
            ("[{query.flag}{query.none}]", "[]"),
            ("{header.x-one} {header.X-Two} {header.x-none}.", "1 1,2 ."),
            ("{user}", "anonymous"),
            ("{{room_name}} {{{room_name}}}", "{room_name} {lobby}"),
            ("é{room_name}", "élobby"),
        ];
        for (text, rendered) in cases {
            assert_eq!(text.parse::<Template>().unwrap().render(&scope()), rendered, "{text}");
        }
    }

    #[test]
    fn a_named_user_is_shown() {
        let scope = Scope { user: Some("ada".to_owned()), ..scope() };
        assert_eq!("{user}".parse::<Template>().unwrap().render(&scope), "ada");
    }

    #[test]
    fn placeholders_come_with_their_places() {
        let template: Template = "é{room}_{header.Accept}{{x}}{query.k}".parse().unwrap();
        let found: Vec<_> = template
            .placeholders()
            .map(|(hole, span)| (hole.to_string(), template.as_str().get(span).unwrap()))
            .collect();
        let expected = [("room", "{room}"), ("header.accept", "{header.Accept}"), ("query.k", "{query.k}")];
        assert_eq!(found, expected.map(|(hole, text)| (hole.to_owned(), text)));
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let cases = [
            ("a{b", TemplateErrorKind::Unclosed, 1..3),
            ("a{b{c}", TemplateErrorKind::Unclosed, 1..3),
            ("a}b", TemplateErrorKind::Unopened, 1..2),
            ("{{a}", TemplateErrorKind::Unopened, 3..4),
            ("x{}", TemplateErrorKind::Empty, 1..3),
            ("{query.}", TemplateErrorKind::Empty, 0..8),
            ("{header.}", TemplateErrorKind::Header, 0..9),
            ("{header.a b}", TemplateErrorKind::Header, 0..12),
            ("{cookie.x}", TemplateErrorKind::Unknown("cookie.x".to_owned()), 0..10),
            ("{0}", TemplateErrorKind::Unknown("0".to_owned()), 0..3),
            ("{ room }", TemplateErrorKind::Unknown(" room ".to_owned()), 0..8),
        ];
        for (text, kind, span) in cases {
            assert_eq!(text.parse::<Template>(), Err(TemplateError { kind, span }), "{text}");
        }
    }
}
