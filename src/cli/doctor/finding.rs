//! What a check found.

use serde_json::{Value as Json, json};

use crate::cli::one_line;

/// What was looked at: a fixed word, the same in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Memory,
    Hosts,
    Connect,
    Answers,
    Info,
    Version,
    Role,
    Cluster,
    Clock,
    Eviction,
    Usage,
    Commands,
    Connections,
    RedisPy,
    Inboxes,
    Groups,
    RoundTrip,
}

impl Code {
    /// All codes, in the order in which things are looked at.
    #[cfg(test)]
    pub(super) const ALL: [Self; 17] = [
        Self::Memory,
        Self::Hosts,
        Self::Connect,
        Self::Answers,
        Self::Info,
        Self::Version,
        Self::Role,
        Self::Cluster,
        Self::Clock,
        Self::Eviction,
        Self::Usage,
        Self::Commands,
        Self::Connections,
        Self::RedisPy,
        Self::Inboxes,
        Self::Groups,
        Self::RoundTrip,
    ];

    /// The word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Hosts => "hosts",
            Self::Connect => "connect",
            Self::Answers => "answers",
            Self::Info => "info",
            Self::Version => "version",
            Self::Role => "role",
            Self::Cluster => "cluster",
            Self::Clock => "clock",
            Self::Eviction => "eviction",
            Self::Usage => "usage",
            Self::Commands => "commands",
            Self::Connections => "connections",
            Self::RedisPy => "redis_py",
            Self::Inboxes => "inboxes",
            Self::Groups => "groups",
            Self::RoundTrip => "round_trip",
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// It is as it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, and one day it may not.
    Warning,
    /// It does not work.
    Failure,
}

impl Severity {
    /// The word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    /// How terminals show it.
    fn color(self) -> &'static str {
        match self {
            Self::Ok => "\u{1b}[32m",
            Self::Note => "\u{1b}[36m",
            Self::Warning => "\u{1b}[33m",
            Self::Failure => "\u{1b}[1;31m",
        }
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) code: Code,
    pub(super) severity: Severity,
    /// The host, if it is about one.
    pub(super) host: Option<String>,
    pub(super) message: String,
    /// What to do.
    pub(super) help: Option<String>,
}

impl Finding {
    pub(super) fn new(code: Code, severity: Severity, message: impl Into<String>) -> Self {
        Self { code, severity, host: None, message: message.into(), help: None }
    }

    pub(super) fn ok(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Ok, message)
    }

    pub(super) fn note(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Note, message)
    }

    pub(super) fn warning(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, message)
    }

    pub(super) fn failure(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Failure, message)
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub(super) fn at(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// One line, and one more with what to do.
    pub(super) fn render(&self, color: bool) -> String {
        let (word, code) = (self.severity.as_str(), self.code.as_str());
        let (begin, end) = if color { (self.severity.color(), "\u{1b}[0m") } else { ("", "") };
        let host = self.host.as_ref().map_or_else(String::new, |host| format!("{host}: "));
        let message = one_line(&self.message);
        let help = self.help.as_ref().map_or_else(String::new, |help| format!("{:21}help: {help}\n", ""));
        format!("{begin}{word:<8}{end} {code:<11} {host}{message}\n{help}")
    }

    pub(super) fn to_json(&self) -> Json {
        json!({
            "code": self.code.as_str(),
            "severity": self.severity.as_str(),
            "host": self.host,
            "message": self.message,
            "help": self.help,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_what_to_do() {
        let finding = Finding::warning(Code::Clock, "it is wrong").at("h:1").help("set it");
        let help = "                     help: set it\n";
        assert_eq!(finding.render(false), format!("warning  clock       h:1: it is wrong\n{help}"));
        let painted = format!("\u{1b}[33mwarning \u{1b}[0m clock       h:1: it is wrong\n{help}");
        assert_eq!(finding.render(true), painted);
        // Keys of others come into messages.
        let odd = Finding::ok(Code::Groups, "\u{1b}[2J\nfailure");
        assert_eq!(odd.render(false), "ok       groups      \u{fffd}[2J\u{fffd}failure\n");
        let ok = Finding::ok(Code::Hosts, "fine");
        assert_eq!(ok.render(false), "ok       hosts       fine\n");
        assert_eq!(
            ok.to_json(),
            json!({ "code": "hosts", "severity": "ok", "host": null, "message": "fine", "help": null })
        );
    }

    /// The page says of each code what it means and what to do.
    #[test]
    fn the_page_has_each_code_once_and_no_other() {
        let page = include_str!("../../../docs/doctor.md");
        let headings = page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
        assert_eq!(headings.collect::<Vec<_>>(), Code::ALL.map(Code::as_str));
    }
}
