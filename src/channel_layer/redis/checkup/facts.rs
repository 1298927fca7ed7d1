//! What can be known of a Redis server, and how its answers are read.

use core::time::Duration;
use std::collections::HashMap;

/// What was found at one host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Where it is, without secrets.
    pub address: String,
    /// The server that was found there, which Sentinels may have named.
    pub server: String,
    /// As whom we log in.
    pub user: String,
    /// How long connecting and logging in took.
    pub connected: Result<Duration, Unreached>,
    /// What was asked when it stopped to answer.
    pub silent_at: Option<&'static str>,
    /// `INFO`.
    pub info: Answer<Info>,
    /// `TIME`.
    pub clock: Answer<ClockFacts>,
    /// Commands that were tried, with what Redis had against them.
    pub commands: Vec<(&'static str, Result<(), Denied>)>,
    /// How connections come and go.
    pub traffic: Answer<Traffic>,
    /// `CLIENT LIST`.
    pub clients: Answer<Vec<ClientFacts>>,
    /// What `channels_redis.core` keeps there.
    pub store: Answer<Store>,
}

/// What came of a question; the error is what Redis said, or nothing when it was not asked.
pub type Answer<T> = Result<T, Option<String>>;

impl HostFacts {
    /// A host that nothing is known of.
    pub fn unknown(address: String, user: String) -> Self {
        Self {
            server: address.clone(),
            address,
            user,
            connected: Err(Unreached::Silent),
            silent_at: None,
            info: Err(None),
            clock: Err(None),
            commands: Vec::new(),
            traffic: Err(None),
            clients: Err(None),
            store: Err(None),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// Nobody is there, or it hung up.
    Away(String),
    /// It lets us not in.
    Login(String),
    /// It takes connections and answers nothing, or does not even take them.
    Silent,
    /// It does not know RESP3.
    TooOld,
    /// It is a Sentinel, and was configured as a server.
    Sentinel,
}

impl Unreached {
    /// Reads why connecting failed.
    pub(super) fn new(reason: String) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        if has(&["HELLO"]) && has(&["unknown command", "resp3"]) {
            Self::TooOld
        } else if has(&["AuthenticationFailed", "NOAUTH", "WRONGPASS", "NoPerm", "NOPERM"]) {
            Self::Login(reason)
        } else {
            Self::Away(reason)
        }
    }
}

/// A command that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What kind of refusal it is.
    pub why: Why,
    /// What Redis said.
    pub reason: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The user may not run the command.
    Command,
    /// The user may not use the key.
    Key,
    /// The user may not use the channel of pub/sub.
    Channel,
    /// Redis does not know the command.
    Unknown,
    /// It is no matter of permissions, but of how Redis is.
    State,
}

impl Denied {
    /// Reads an error of Redis; `forbidden` says that it is about permissions.
    pub(super) fn new(forbidden: bool, reason: String) -> Self {
        let why = match forbidden {
            true if reason.contains("to run the") => Why::Command,
            true if reason.contains("channel") => Why::Channel,
            true if reason.contains("key") => Why::Key,
            true => Why::Command,
            false if reason.contains("unknown command") => Why::Unknown,
            false => Why::State,
        };
        Self { why, reason }
    }
}

/// The clock of Redis beside ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockFacts {
    /// How far Redis is ahead, in seconds.
    pub ahead: f64,
    /// How long the best of the questions was under way, in seconds; the difference is known to half of it.
    pub round_trip: f64,
}

/// How connections came and went while we looked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// How long we looked, in seconds.
    pub seconds: f64,
    /// How many were opened.
    pub opened: u64,
    /// How many there were more in the end.
    pub grown: u64,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// What it calls its library.
    pub library: String,
    /// The version of that.
    pub version: String,
}

/// Inboxes and groups under our prefix, as far as they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// Whether all keys were looked at.
    pub whole: bool,
    /// The inboxes that hold messages.
    pub inboxes: Vec<InboxFacts>,
    /// The groups.
    pub groups: Vec<GroupFacts>,
}

/// One inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxFacts {
    /// Its key.
    pub key: String,
    /// How many messages may wait in it.
    pub capacity: u64,
    /// How many do.
    pub waiting: u64,
    /// How many of them for so long that nobody can be taking them.
    pub stale: u64,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Its name.
    pub name: String,
    /// How many members it has.
    pub members: u64,
    /// How many of them were looked at.
    pub seen: u64,
    /// The inboxes of these, with the number of members of each.
    pub inboxes: Vec<(String, u64)>,
    /// How many of these belong to nodes of anteroom that live no more.
    pub of_dead_nodes: u64,
}

/// The answer to `INFO`.
#[derive(Clone, Debug, Default)]
pub struct Info(HashMap<String, String>);

impl Info {
    /// Reads `name:value` lines.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(lines.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect())
    }

    /// A value, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Major and minor version.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.get("redis_version")?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The connections in an answer to `CLIENT LIST`.
pub(super) fn clients(text: &str) -> Vec<ClientFacts> {
    let client = |line: &str| {
        let mut client = ClientFacts::default();
        for (name, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
            match name {
                "lib-name" => value.clone_into(&mut client.library),
                "lib-ver" => value.clone_into(&mut client.version),
                _ => {}
            }
        }
        client
    };
    text.lines().filter(|line| !line.is_empty()).map(client).collect()
}

/// A pattern of Redis that takes this text and nothing else.
pub(super) fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for ch in text.chars() {
        if matches!(ch, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(ch);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_line_by_line() {
        let info =
            Info::parse("# Server\r\nredis_version:7.0.15\r\nos:Linux 6.1 x86_64\r\n\r\nmaxmemory:5\r\n");
        assert_eq!((info.version(), info.number("maxmemory")), (Some((7, 0)), Some(5)));
        assert_eq!((info.get("os"), info.get("role")), (Some("Linux 6.1 x86_64"), None));
        assert_eq!(Info::parse("redis_version:unstable").version(), None);
    }

    /// The texts are those of Redis 6 and 7.
    #[test]
    fn what_a_user_lacks_is_read_from_the_error() {
        let cases = [
            (true, "NoPerm: this user has no permissions to run the 'eval' command", Why::Command),
            (true, "NoPerm: User ann has no permissions to run the 'client|list' command", Why::Command),
            (
                true,
                "NoPerm: this user has no permissions to access one of the keys used as arguments",
                Why::Key,
            ),
            (true, "NoPerm: No permissions to access a key", Why::Key),
            (true, "NoPerm: No permissions to access a channel", Why::Channel),
            (false, "ResponseError: unknown command 'ZPOPMIN', with args", Why::Unknown),
            (false, "ReadOnly: You can't write against a read only replica.", Why::State),
        ];
        for (forbidden, reason, why) in cases {
            assert_eq!(Denied::new(forbidden, reason.to_owned()), Denied { why, reason: reason.to_owned() });
        }
    }

    #[test]
    fn clients_are_read_with_their_libraries() {
        let text =
            "id=3 addr=127.0.0.1:1 name= lib-name=redis-py lib-ver=8.1.0 io-thread=0\nid=4 addr=x cmd=get\n";
        let client = |library: &str, version: &str| ClientFacts {
            library: library.to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(clients(text), [client("redis-py", "8.1.0"), client("", "")]);
        assert_eq!(clients(""), []);
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(literal("a*[b]?\\:"), "a\\*\\[b\\]\\?\\\\:");
    }
}
