//! Names of groups and channels.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a group: 1 to 99 ASCII letters, digits, `-`, `_` or `.`.
///
/// Rule: the group names of Django Channels 4, without two accidents of Python's `re`: other scripts' digits
/// and a trailing newline are refused here, so that every name made here is valid there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// The most bytes a name may have.
    pub const LEN_MAX: usize = 99;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for the channels of this node's sockets where a layer keeps its subscriptions. No group is called
    /// so.
    pub(super) fn of_sockets() -> Self {
        Self(Self::OF_SOCKETS.into())
    }

    /// [`Self::of_sockets`] as text.
    pub(super) const OF_SOCKETS: &'static str = "*";

    /// Whether it is [`Self::of_sockets`].
    pub(super) fn is_of_sockets(&self) -> bool {
        &*self.0 == Self::OF_SOCKETS
    }
}

impl FromStr for GroupName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if let Some((at, ch)) = text.char_indices().find(|&(_, ch)| !is_name_char(ch)) {
            return Err(InvalidName::Char { at, ch });
        }
        if Self::LEN_MAX < text.len() {
            return Err(InvalidName::TooLong { len: text.len(), len_max: Self::LEN_MAX });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For look-ups by a name that came in as part of a Redis channel.
impl Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is no group name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// There is no character in it.
    #[error("a group name must not be empty")]
    Empty,
    /// It is longer than a name may be.
    #[error("a group name has at most {len_max} characters, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed.
        len_max: usize,
    },
    /// It holds a character that no name may hold.
    #[error("a group name has only ASCII letters, digits, `-`, `_` and `.`, not {ch:?} (at byte {at})")]
    Char {
        /// Where the character begins, in bytes.
        at: usize,
        /// The character.
        ch: char,
    },
}

/// The name of a channel: one consumer in Python, one socket here, or a general channel that workers read.
///
/// 1 to 99 characters: ASCII letters, digits, `-`, `_` and `.`, then perhaps a `!` and what the process behind it
/// calls the channel, where letters and digits of any script may stand.
///
/// Rule: the channel names of Django Channels 4, without the accidents that [`GroupName`] names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// The most characters a name may have.
    pub const LEN_MAX: usize = GroupName::LEN_MAX;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that was put together here.
    pub(super) fn made(name: String) -> Self {
        Self(name.into())
    }
}

impl FromStr for ChannelName {
    type Err = InvalidChannel;

    fn from_str(text: &str) -> Result<Self, InvalidChannel> {
        let (process, local) = text.split_once('!').unwrap_or((text, ""));
        if process.is_empty() {
            return Err(InvalidChannel::Empty);
        }
        let wrong = process.char_indices().find(|&(_, ch)| !is_name_char(ch));
        let is_local = |ch: char| ch.is_alphanumeric() || is_name_char(ch);
        let from = process.len() + 1;
        let wrong = wrong
            .or_else(|| local.char_indices().find(|&(_, ch)| !is_local(ch)).map(|(at, ch)| (from + at, ch)));
        if let Some((at, ch)) = wrong {
            return Err(InvalidChannel::Char { at, ch });
        }
        let len = text.chars().count();
        if Self::LEN_MAX < len {
            return Err(InvalidChannel::TooLong { len, len_max: Self::LEN_MAX });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no name of a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannel {
    /// There is nothing in it, or nothing before its `!`.
    #[error("the name of a channel must not be empty, nor begin with `!`")]
    Empty,
    /// It is longer than a name may be.
    #[error("the name of a channel has at most {len_max} characters, this one has {len}")]
    TooLong {
        /// Its length in characters.
        len: usize,
        /// The most that is allowed.
        len_max: usize,
    },
    /// It holds a character that no name may hold there.
    #[error(
        "the name of a channel has only ASCII letters, digits, `-`, `_` and `.`, and one `!`, not {ch:?} (at byte {at})"
    )]
    Char {
        /// Where the character begins, in bytes.
        at: usize,
        /// The character.
        ch: char,
    },
}

fn is_name_char(ch: char) -> bool {
    ch.is_ascii_alphanumeric() || matches!(ch, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_channels_accepts() {
        // Names that Python accepts by accident and that are refused here.
        let stricter = ["a\u{663}", "a\n"];
        let mut seen = 0;
        for line in include_str!("../../tests/fixtures/name_cases.jsonl").lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            // What is no string cannot be asked here: the type of the argument says it.
            let (true, Some(name)) = (row["kind"] == "group", row["name"].as_str()) else { continue };
            let valid = row["valid"] == true && !stricter.contains(&name);
            assert_eq!(name.parse::<GroupName>().is_ok(), valid, "{row}");
            seen += 1;
        }
        assert_eq!(seen, 19);
    }

    #[test]
    fn channels_are_those_that_channels_accepts() {
        let stricter = ["a\u{663}", "a\n", "a!b\n"];
        let mut seen = 0;
        for line in include_str!("../../tests/fixtures/name_cases.jsonl").lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let (Some(name), Some(kind)) = (row["name"].as_str(), row["kind"].as_str()) else { continue };
            let valid = row["valid"] == true && !stricter.contains(&name);
            let channel = name.parse::<ChannelName>();
            match kind {
                "channel" => assert_eq!(channel.is_ok(), valid, "{row}"),
                // In Python only a whole process receives, whose name ends at the mark.
                "channel_receive" => {
                    let is_whole = name.split_once('!').is_none_or(|(_, local)| local.is_empty());
                    assert_eq!(channel.is_ok() && is_whole, valid, "{row}");
                }
                _ => continue,
            }
            seen += 1;
        }
        assert_eq!(seen, 46);
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        let cases = [
            ("", InvalidName::Empty),
            ("caf\u{e9}", InvalidName::Char { at: 3, ch: '\u{e9}' }),
            ("a\n", InvalidName::Char { at: 1, ch: '\n' }),
            (&"a".repeat(100), InvalidName::TooLong { len: 100, len_max: 99 }),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<GroupName>(), Err(error), "{text:?}");
        }
    }
}
