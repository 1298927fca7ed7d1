//! The rules of `handler = "room"`.

use std::collections::HashMap;
use std::ops::Range;

use crate::channel_layer::{GroupName, InvalidName};
use crate::config::compile::{Compiler, Unique, all, value};
use crate::config::diagnostic::{Code, Diagnostic, Span, nearest, one_of};
use crate::config::file::{EventTable, FORMATS, RouteTable};
use crate::config::table::At;
use crate::handler::{Deliver, Format, Receive, Room};
use crate::route::Pattern;
use crate::scope::{Placeholder, Template};

impl Compiler<'_> {
    pub(super) fn room(&self, table: &RouteTable, pattern: Option<(&At<String>, &Pattern)>) -> Option<Room> {
        let format = value(table.format.as_ref()).unwrap_or(Format::Json);
        let publish = value(table.publish.as_ref()).unwrap_or(true);
        if format != Format::Text {
            for (key, at) in [("welcome", &table.welcome), ("username", &table.username)] {
                let Some(at) = at else { continue };
                let message =
                    format!("`{key}` has no use in a room with `format = \"{}\"`", FORMATS.word(format));
                let help = "it belongs to `format = \"text\"`";
                self.push(Diagnostic::new(Code::UnusableKey, at.span.clone(), message).help(help));
            }
        }
        if let (false, Some(publish_at)) = (publish, &table.publish) {
            if let Some(receive) = &table.receive {
                let message = "`receive` says what becomes of clients' messages, and this room takes none";
                let diagnostic = Diagnostic::new(Code::Conflict, receive.span.clone(), message)
                    .with(publish_at.span.clone(), "listen-only")
                    .help("leave one of the two out");
                self.push(diagnostic);
            }
            if table.group.is_none() && !table.keys.iter().any(|key| key.value == "group") {
                let message = "without a `group`, a listen-only room never hears anything";
                let help = "add `group`, or leave `publish` out";
                self.push(Diagnostic::new(Code::Conflict, publish_at.span.clone(), message).help(help));
            }
        }
        // What is wrong with one key must not hide what is wrong with the next.
        let group = match &table.group {
            Some(at) => self.group(at, pattern).map(Some),
            None => Some(None),
        };
        let receive = self.receive(table, format);
        let deliver = self.deliver(table, format, receive.as_ref());
        if let (true, Some(receive), Some(deliver)) = (publish, &receive, &deliver) {
            self.is_heard(table, receive, deliver);
        }
        let direct = self.direct(table, deliver.as_deref());
        let announce = self.announce(table);
        let welcome = table.welcome.as_ref().map_or_else(|| "[Welcome {username}!]", |at| self.welcome(at));
        let username = match &table.username {
            Some(at) => self.template(at, pattern),
            None => "Anonymous".parse().ok(),
        };
        Some(Room {
            group: group?,
            format,
            publish,
            receive: receive?,
            deliver: deliver?,
            direct: direct?,
            announce: announce?,
            welcome: (format == Format::Text && !welcome.is_empty()).then(|| welcome.to_owned()),
            username: username?,
        })
    }

    fn receive(&self, table: &RouteTable, format: Format) -> Option<Receive> {
        let fallback = Receive {
            kind: default_kind(format).to_owned(),
            pick: default_pick(format),
            reply_channel: false,
        };
        let Some(at) = &table.receive else { return Some(fallback) };
        let kind = match &at.value.kind {
            Some(kind) => self.event_type(kind),
            None => Some(fallback.kind),
        };
        let pick = self.pick(&at.value, format, fallback.pick).filter(|_| self.picks_no_channel(&at.value));
        let reply_channel = self.reply_channel(table, &at.value)?;
        Some(Receive { kind: kind?, pick: pick?, reply_channel })
    }

    fn deliver(&self, table: &RouteTable, format: Format, receive: Option<&Receive>) -> Option<Vec<Deliver>> {
        let Some(at) = &table.deliver else {
            let receive = receive?;
            return Some(vec![Deliver { kind: receive.kind.clone(), pick: receive.pick.clone() }]);
        };
        if at.value.is_empty() {
            let message = "`deliver` is empty, so no event would reach a client";
            let help = "write `deliver = { \"chat.message\" = { pick = [\"message\"] } }`, or leave it out";
            self.push(Diagnostic::new(Code::Empty, at.span.clone(), message).help(help));
        }
        let mut methods: HashMap<String, Span> = HashMap::new();
        all(at.value.iter().map(|event| {
            let kind_at = event.kind.as_ref()?;
            let kind = self.event_type(kind_at);
            let pick = self.pick(event, format, default_pick(format));
            let kind = kind?;
            if let Some(first) = methods.get(&kind.replace('.', "_")) {
                let message = format!("the event type `{kind}` is delivered twice");
                let diagnostic = Diagnostic::new(Code::Duplicate, kind_at.span.clone(), message)
                    .with(first.clone(), "first here")
                    .help("`.` and `_` are the same in an event type, as in the name of a consumer's method");
                self.push(diagnostic);
                return None;
            }
            methods.insert(kind.replace('.', "_"), kind_at.span.clone());
            Some(Deliver { kind, pick: pick? })
        }))
    }

    /// Warns when clients' messages become events that no client is told of, and both were written down.
    fn is_heard(&self, table: &RouteTable, receive: &Receive, deliver: &[Deliver]) {
        let kind_at = table.receive.as_ref().and_then(|receive| receive.value.kind.as_ref());
        let (Some(kind_at), Some(deliver_at)) = (kind_at, &table.deliver) else { return };
        let method = |kind: &str| kind.replace('.', "_");
        if deliver.iter().any(|event| method(&event.kind) == method(&receive.kind)) {
            return;
        }
        let message = format!("no client hears what clients say: `deliver` does not list `{}`", receive.kind);
        let diagnostic = Diagnostic::new(Code::Unheard, kind_at.span.clone(), message)
            .with(deliver_at.span.clone(), "the events that reach clients")
            .help(format!("add `\"{}\" = {{ … }}` to `deliver`", receive.kind));
        self.push(diagnostic);
    }

    /// Rule: Channels calls the method of that name, with `_` for `.`, and none that begins with `_`.
    pub(super) fn event_type(&self, at: &At<String>) -> Option<String> {
        let kind = at.value.as_str();
        let (message, help) = if kind.is_empty() {
            ("an event type must not be empty".to_owned(), "write `chat.message`, say")
        } else if kind.starts_with(['_', '.']) {
            (
                format!("the event type `{kind}` begins with `.` or `_`, which no consumer may handle"),
                "begin with a letter",
            )
        } else if kind.starts_with("websocket.") {
            (
                format!("the event type `{kind}` is reserved"),
                "`websocket.send` and `websocket.close` are understood in every room, and only from the layer",
            )
        } else if kind.starts_with("edge.") {
            (
                format!("the event type `{kind}` is reserved"),
                "`edge.group_add` and `edge.group_discard` are for `direct`, and only from the layer",
            )
        } else if kind.contains(|ch: char| ch.is_whitespace() || ch.is_control()) {
            (
                format!("the event type `{}` holds white space", kind.escape_debug()),
                "write `chat.message`, say",
            )
        } else {
            return Some(kind.to_owned());
        };
        self.push(Diagnostic::new(Code::LayerName, at.span.clone(), message).help(help));
        None
    }

    fn pick(&self, event: &EventTable, format: Format, default: Vec<String>) -> Option<Vec<String>> {
        let Some(at) = &event.pick else { return Some(default) };
        let help = match (format, at.value.len()) {
            (Format::Json, 0) => "name the members to pass on, such as `pick = [\"message\"]`",
            (Format::Text, len) if len != 1 => {
                "name the one member that holds the line: `pick = [\"message\"]`"
            }
            (Format::Raw, _) => "leave it out: a raw room passes `text` and `bytes` on",
            (Format::Json | Format::Text, _) => {
                let mut unique = Unique::new("member");
                return all(at.value.iter().map(|member| {
                    let fine = self.is_member(member) && unique.add(self, member);
                    fine.then(|| member.value.clone())
                }));
            }
        };
        let (code, message) = match (format, at.value.is_empty()) {
            (Format::Raw, _) => (Code::UnusableKey, "`pick` has no use in a room with `format = \"raw\"`"),
            (Format::Json | Format::Text, true) => (Code::Empty, "`pick` is empty"),
            (Format::Json | Format::Text, false) => {
                (Code::Conflict, "a room with `format = \"text\"` picks one member")
            }
        };
        self.push(Diagnostic::new(code, at.span.clone(), message).help(help));
        None
    }

    fn is_member(&self, at: &At<String>) -> bool {
        let message = match at.value.as_str() {
            "" => "the name of a member must not be empty",
            "type" => "`type` is the type of the event itself and is set by `receive` and `deliver`",
            _ => return true,
        };
        self.push(Diagnostic::new(Code::LayerName, at.span.clone(), message));
        false
    }

    /// The welcome of a text room knows one placeholder, and everything else in it is plain text.
    fn welcome<'t>(&self, at: &'t At<String>) -> &'t str {
        let mut rest = at.value.as_str();
        let mut start = 0;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after_name)) = after.split_once('}') else { break };
            let opened = start + before.len();
            if is_identifier(name) && name != "username" {
                let span = self.inside(at, &(opened..opened + name.len() + 2));
                let message = format!("the welcome knows no `{{{name}}}`");
                self.push(Diagnostic::new(Code::Template, span, message).help("it knows `{username}` alone"));
            }
            start = opened + name.len() + 2;
            rest = after_name;
        }
        &at.value
    }

    fn template(&self, at: &At<String>, pattern: Option<(&At<String>, &Pattern)>) -> Option<Template> {
        let template = self.parse_template(at)?;
        // With a wrong pattern it is not known which captures there are.
        let (pattern_at, pattern) = pattern?;
        self.knows_captures(at, &template, pattern_at, pattern).then_some(template)
    }

    fn parse_template(&self, at: &At<String>) -> Option<Template> {
        match at.value.parse::<Template>() {
            Ok(template) => Some(template),
            Err(error) => {
                let span = self.inside(at, &error.span);
                self.push(Diagnostic::new(Code::Template, span, error.to_string()).help(error.help()));
                None
            }
        }
    }

    fn knows_captures(
        &self,
        at: &At<String>,
        template: &Template,
        pattern_at: &At<String>,
        pattern: &Pattern,
    ) -> bool {
        let mut complete = true;
        for (placeholder, span) in template.placeholders() {
            let Placeholder::Capture(name) = placeholder else { continue };
            if pattern.names().any(|known| known == name) {
                continue;
            }
            let message = format!("the pattern captures no `{name}`");
            let help = nearest(name, pattern.names().chain(Placeholder::RESERVED.iter().copied()))
                .map_or_else(
                    || format!("capture it with `(?P<{name}>[A-Za-z0-9_-]{{1,64}})`"),
                    |known| format!("did you mean `{{{known}}}`?"),
                );
            let diagnostic = Diagnostic::new(Code::Template, self.inside(at, &span), message);
            self.push(diagnostic.with(pattern_at.span.clone(), "the pattern").help(help));
            complete = false;
        }
        complete
    }

    fn group(&self, at: &At<String>, pattern: Option<(&At<String>, &Pattern)>) -> Option<Template> {
        if at.value.is_empty() {
            let help = "leave it out for a room of the socket's own";
            self.push(Diagnostic::new(Code::Empty, at.span.clone(), "`group` is empty").help(help));
            return None;
        }
        let template = self.parse_template(at)?;
        let literals_len = self.group_literals(at, &template);
        // With a wrong pattern it is not known which captures there are.
        let (pattern_at, pattern) = pattern?;
        let complete = self.knows_captures(at, &template, pattern_at, pattern);
        let mut is_safe = true;
        for (placeholder, span) in template.placeholders() {
            let used_at = self.inside(at, &span);
            let why = match placeholder {
                Placeholder::Capture(name) => {
                    is_safe &= self.is_safe_capture(pattern_at, pattern, name, used_at);
                    continue;
                }
                Placeholder::User => continue,
                Placeholder::Client => "IPv6 addresses hold `:`",
                Placeholder::Path => "a path holds `/`",
                Placeholder::Query | Placeholder::QueryKey(_) | Placeholder::Header(_) => {
                    "the client writes what it likes"
                }
            };
            self.unsafe_placeholder(placeholder, used_at, why);
            is_safe = false;
        }
        let literals_len = literals_len?;
        if complete && is_safe {
            self.group_len(at, &template, literals_len, pattern_at, pattern);
        }
        complete.then_some(template)
    }

    /// Warns of a name that the captures can make too long or leave empty, all their characters being right.
    fn group_len(
        &self,
        at: &At<String>,
        template: &Template,
        literals_len: usize,
        pattern_at: &At<String>,
        pattern: &Pattern,
    ) {
        let captures: Vec<_> = template
            .placeholders()
            .filter_map(|(placeholder, span)| match placeholder {
                Placeholder::Capture(name) => Some((name, self.inside(at, &span))),
                _ => None,
            })
            .collect();
        let others = template.placeholders().count() - captures.len();
        let can_be_empty = |name: &str| pattern.unsafe_capture(name).is_some_and(|found| found.can_be_empty);
        if literals_len == 0 && others == 0 && captures.iter().all(|(name, _)| can_be_empty(name)) {
            let diagnostic =
                Diagnostic::new(Code::UnsafeGroup, at.span.clone(), "the name of this group can be empty")
                    .with(pattern_at.span.clone(), "the pattern")
                    .help("put a text before it; an empty name is refused with `group_name`");
            return self.push(diagnostic);
        }
        let user_len = others * Placeholder::ANONYMOUS.len();
        let mut room = GroupName::LEN_MAX.saturating_sub(literals_len + user_len);
        for (name, used_at) in captures {
            if let Some(rest) = pattern.capture_len_max(name).and_then(|len| room.checked_sub(len)) {
                room = rest;
                continue;
            }
            let span = pattern.unsafe_capture(name).map(|found| self.inside(pattern_at, &found.span));
            let span = span.unwrap_or_else(|| pattern_at.span.clone());
            let message = format!(
                "capture `{name}` can make a group name of more than {} characters",
                GroupName::LEN_MAX
            );
            let help = match room.min(64) {
                0 => "make the others shorter".to_owned(),
                len => format!("limit it, as `{{1,{len}}}` does"),
            };
            let diagnostic = Diagnostic::new(Code::UnsafeGroup, span, message)
                .with(used_at, "used here")
                .help(format!("{help}; what does not fit is refused with `group_name`"));
            return self.push(diagnostic);
        }
    }

    /// What stands between the placeholders must fit a group name; gives its length.
    fn group_literals(&self, at: &At<String>, template: &Template) -> Option<usize> {
        let mut fits = true;
        let mut literals: Vec<Range<usize>> = Vec::new();
        let mut start = 0;
        for (_, span) in template.placeholders() {
            literals.push(start..span.start);
            start = span.end;
        }
        literals.push(start..at.value.len());
        let mut len = 0;
        for literal in literals {
            let Some(text) = at.value.get(literal.clone()).filter(|text| !text.is_empty()) else { continue };
            len += text.len();
            let strange = match text.parse::<GroupName>() {
                Err(InvalidName::Char { at, ch }) => Some((at, ch)),
                Ok(_) | Err(InvalidName::Empty | InvalidName::TooLong { .. }) => None,
            };
            if let Some((offset, ch)) = strange {
                let start = literal.start + offset;
                let span = self.inside(at, &(start..start + ch.len_utf8()));
                let message = format!("`{ch}` may not stand in a group name");
                let help = "a group name has ASCII letters, digits, `-`, `_` and `.`";
                self.push(Diagnostic::new(Code::LayerName, span, message).help(help));
                fits = false;
            }
        }
        if GroupName::LEN_MAX < len {
            let message = format!("a group name has at most {} characters, not {len}", GroupName::LEN_MAX);
            self.push(Diagnostic::new(Code::LayerName, at.span.clone(), message));
            fits = false;
        }
        fits.then_some(len)
    }

    /// Warns of a capture that can hold what a group name may not.
    fn is_safe_capture(&self, pattern_at: &At<String>, pattern: &Pattern, name: &str, used_at: Span) -> bool {
        let found = pattern.unsafe_capture(name).filter(|found| !found.chars.is_empty());
        let Some(found) = found else { return true };
        let samples = one_of(found.chars.iter().map(|ch| ch.escape_debug()));
        let message = format!("capture `{name}` can hold characters that a group name may not");
        self.push(
            Diagnostic::new(Code::UnsafeGroup, self.inside(pattern_at, &found.span), message)
                .label(format!("matches {samples}, for example"))
                .with(used_at, "used here")
                .help("use [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`"),
        );
        false
    }

    fn unsafe_placeholder(&self, placeholder: &Placeholder, used_at: Span, why: &str) {
        let message = format!("`{{{placeholder}}}` can hold characters that a group name may not");
        self.push(
            Diagnostic::new(Code::UnsafeGroup, used_at, message)
                .label(why)
                .help("use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`"),
        );
    }
}

fn default_kind(format: Format) -> &'static str {
    match format {
        Format::Json | Format::Text => "chat.message",
        Format::Raw => "room.message",
    }
}

fn default_pick(format: Format) -> Vec<String> {
    match format {
        Format::Json | Format::Text => vec!["message".to_owned()],
        Format::Raw => Vec::new(),
    }
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|ch: char| ch.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}
