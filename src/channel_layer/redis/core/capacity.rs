//! How many messages may wait for a channel.

use regex::Regex;

/// `capacity` and `channel_capacity`.
///
/// Rule: `channels_redis` asks the patterns in their order with the full name of a channel; the first that
/// matches says the number.
#[derive(Clone, Debug)]
pub struct Capacities {
    default: u64,
    patterns: Vec<(ChannelPattern, u64)>,
}

impl Capacities {
    /// A number for all channels, and others for those that a pattern matches.
    pub fn new(default: u64, patterns: Vec<(ChannelPattern, u64)>) -> Self {
        Self { default, patterns }
    }

    /// The number for a channel.
    pub fn of(&self, channel: &str) -> u64 {
        let found = self.patterns.iter().find(|(pattern, _)| pattern.matches(channel));
        found.map_or(self.default, |(_, capacity)| *capacity)
    }
}

impl Default for Capacities {
    /// 100 for each, as in `channels_redis`.
    fn default() -> Self {
        Self::new(100, Vec::new())
    }
}

/// A pattern over names of channels: `*` for anything, `?` for one character, `[abc]`, `[a-z]` and `[!abc]` for
/// one of a set or none of it.
///
/// Rule: `fnmatch` of Python, with its cases: a bracket that is never closed stands for itself, and so does
/// `]` at the start of a set.
#[derive(Clone, Debug)]
pub struct ChannelPattern {
    text: String,
    regex: Regex,
}

impl ChannelPattern {
    /// The longest pattern.
    pub const LEN_MAX: usize = 200;

    /// Reads a pattern, unless it is too long.
    pub fn new(text: &str) -> Option<Self> {
        if Self::LEN_MAX < text.len() {
            return None;
        }
        let regex = Regex::new(&translate(text)).ok()?;
        Some(Self { text: text.to_owned(), regex })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern takes the whole name.
    pub fn matches(&self, channel: &str) -> bool {
        self.regex.is_match(channel)
    }
}

impl PartialEq for ChannelPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ChannelPattern {}

/// The pattern as a regular expression.
fn translate(pattern: &str) -> String {
    let mut regex = String::from(r"(?s)\A");
    let mut rest = pattern.chars();
    while let Some(ch) = rest.next() {
        match ch {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => match set(rest.as_str()) {
                Some((set, after)) => {
                    regex.push_str(&set);
                    rest = after.chars();
                }
                None => regex.push_str(r"\["),
            },
            ch => push_literal(&mut regex, ch),
        }
    }
    regex.push_str(r"\z");
    regex
}

/// The set that begins behind a bracket, and what follows it.
fn set(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('!').unwrap_or(text);
    // A bracket in the first place belongs to the set.
    let from = usize::from(inner.starts_with(']'));
    let end = from + inner.get(from..)?.find(']')?;
    let (inner, after) = (inner.get(..end)?, inner.get(end + 1..)?);
    let mut alternatives = Vec::new();
    let mut chars = inner.chars();
    while let Some(low) = chars.next() {
        let mut ahead = chars.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) => {
                chars = ahead;
                // A range that runs backwards holds nothing.
                if low <= high {
                    alternatives.push((low, high));
                }
            }
            _ => alternatives.push((low, low)),
        }
    }
    let negated = text.starts_with('!');
    if alternatives.is_empty() {
        return Some(((if negated { "." } else { "[^\\s\\S]" }).to_owned(), after));
    }
    let mut regex = String::from(if negated { "[^" } else { "[" });
    for (low, high) in alternatives {
        push_literal(&mut regex, low);
        regex.push('-');
        push_literal(&mut regex, high);
    }
    regex.push(']');
    Some((regex, after))
}

fn push_literal(regex: &mut String, ch: char) {
    regex.push_str(&regex_syntax::escape(ch.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_those_that_python_finds() {
        let mut seen = 0;
        for line in include_str!("../../../../tests/fixtures/capacity_cases.jsonl").lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let patterns = row["channel_capacity"].as_object().unwrap().iter();
            let patterns =
                patterns.map(|(text, number)| (ChannelPattern::new(text).unwrap(), number.as_u64().unwrap()));
            let capacities = Capacities::new(row["default"].as_u64().unwrap(), patterns.collect());
            assert_eq!(capacities.of(row["channel"].as_str().unwrap()), row["capacity"], "{row}");
            seen += 1;
        }
        assert_eq!(seen, 13);
    }

    /// Each row was asked of `fnmatch` in Python 3.11.
    #[test]
    fn patterns_match_as_fnmatch_does() {
        let cases = [
            // pattern, name, whether it matches
            ("*", "", true),
            ("*", "a\nb", true),
            ("a.c", "abc", false),
            ("a+", "aa", false),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[]", "[]", true),
            ("[]a]", "]", true),
            ("[]a]", "a", true),
            ("[!]a]", "b", true),
            ("[!]a]", "]", false),
            ("[!]", "[!]", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[c-a]", "b", false),
            ("[!c-a]", "b", true),
            ("[a-]", "-", true),
            ("[-a]", "-", true),
            ("[^a]", "^", true),
            ("[^a]", "b", false),
            ("[[a]", "[", true),
            ("[a&&b]", "&", true),
            ("[\\]", "\\", true),
            ("?", "\u{e9}", true),
            ("specific.*!*", "specific.1!2", true),
            ("specific.*!", "specific.1!2", false),
        ];
        for (pattern, name, matches) in cases {
            assert_eq!(ChannelPattern::new(pattern).unwrap().matches(name), matches, "{pattern:?} {name:?}");
        }
        assert_eq!(ChannelPattern::new(&"*".repeat(201)), None);
    }
}
