//! `anteroom publish`: one event to a group.

use std::fmt::Write as _;
use std::io;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value as Json, json};
use tokio::runtime;
use tokio::time::{self, Duration};

use crate::channel_layer::{GroupName, LayerConfig, Message, Posted, Sent, Value};
use crate::cli::guest::{Guest, News};
use crate::cli::{EXIT_CONFIG, complain, one_line, plural, report, say};
use crate::config;
use crate::config::Diagnostics;

/// An event waits this long for a host that is not connected.
const AGE_MAX: Duration = Duration::from_millis(1500);
/// Beyond connecting, no answer is waited for longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The longest text that is read. The layer takes less.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// What is written to be sent.
const EXAMPLE: &str = r#"{"type": "chat.message", "message": "hello"}"#;
/// The key under which `channels_redis.core` writes whom an event is for.
const RESERVED: &str = "__asgi_channel__";

pub(super) const EXIT_CODES: &str = "\
The event is a JSON object with a text `type`, as in:
  anteroom publish chat_lobby '{\"type\": \"chat.message\", \"message\": \"hello\"}'

Exit codes:
  0   Redis has taken it, even if nobody is in the group
  1   It was not sent, or not to all: all inboxes are over capacity, or some could not be written to
  78  The configuration cannot be used, or names a layer that no other process reaches";

#[derive(Args, Debug)]
pub(super) struct Publish {
    /// The name of the group
    group: String,
    /// The event; read from standard input if it is `-` or left out
    #[arg(value_name = "JSON")]
    event: Option<String>,
    /// The configuration that names the layer
    #[arg(short, long, value_name = "FILE", default_value = "routes.toml")]
    config: PathBuf,
    /// Print what became of it as a JSON object
    #[arg(long)]
    json: bool,
}

/// Why nothing was sent.
enum Failure {
    /// The file cannot be used.
    File(Diagnostics),
    /// The layer cannot be used from here.
    Layer(&'static str),
    /// The arguments or Redis.
    NotSent(String),
}

/// Sends what the arguments say.
///
/// # Errors
///
/// Ours: no runtime, no metrics.
pub(super) fn publish(args: &Publish) -> anyhow::Result<ExitCode> {
    let failure = match prepare(args) {
        Err(failure) => failure,
        Ok((group, message, layer)) => {
            let backend = layer.backend();
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let sent = runtime.block_on(send(layer, &group, message));
            // A look-up of a name that nobody answers would hold up the end for as long as it likes.
            runtime.shutdown_background();
            match sent? {
                Ok(sent) => {
                    let line = if args.json {
                        to_json(backend, &group, sent).to_string()
                    } else {
                        to_text(&group, sent)
                    };
                    say(&format!("{line}\n"));
                    return Ok(if is_whole(sent) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
                }
                Err(reason) => Failure::NotSent(reason),
            }
        }
    };
    Ok(fail(args, &failure))
}

fn fail(args: &Publish, failure: &Failure) -> ExitCode {
    let (exit, reason, findings) = match failure {
        Failure::File(findings) => {
            (EXIT_CONFIG, format!("{} cannot be used", args.config.display()), Some(findings))
        }
        Failure::Layer(reason) => (EXIT_CONFIG, format!("{}: {reason}", args.config.display()), None),
        Failure::NotSent(reason) => (1, reason.clone(), None),
    };
    if args.json {
        let mut answer = json!({ "sent": false, "group": args.group, "error": reason });
        if let (Some(findings), Some(members)) = (findings, answer.as_object_mut()) {
            members.insert("findings".to_owned(), findings.to_json());
        }
        say(&format!("{answer}\n"));
    } else {
        findings.into_iter().for_each(report);
        complain(&format!("error: not sent: {}\n", one_line(&reason)));
    }
    ExitCode::from(exit)
}

fn prepare(args: &Publish) -> Result<(GroupName, Message, LayerConfig), Failure> {
    let group = args.group.parse().map_err(|error| Failure::NotSent(format!("{error}")))?;
    let layer = super::layer(&args.config).map_err(Failure::File)?;
    if matches!(layer, config::LayerConfig::Memory) {
        return Err(Failure::Layer(
            "with `backend = \"memory\"` groups live inside of the server's process and nobody else reaches \
             them; give `[layer]` a backend on Redis, `channels_redis.pubsub` or `channels_redis.core`",
        ));
    }
    let text = match args.event.as_deref() {
        None | Some("-") => read_input()?,
        Some(text) => text.to_owned(),
    };
    let message = event(&text).map_err(Failure::NotSent)?;
    Ok((group, message, limited(layer.to_channel_layer())))
}

/// The configuration for someone who has no time.
fn limited(mut layer: LayerConfig) -> LayerConfig {
    match &mut layer {
        LayerConfig::Memory => {}
        LayerConfig::PubSub(config) => config.publish_age_max = AGE_MAX,
        LayerConfig::Core(config) => config.publish_age_max = AGE_MAX,
    }
    layer
}

fn read_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    let failed = |error| Failure::NotSent(format!("cannot read the event from standard input: {error}"));
    if TEXT_BYTES_MAX < read.map_err(failed)? as u64 {
        return Err(Failure::NotSent("the event is longer than 4 MiB".to_owned()));
    }
    Ok(text)
}

/// The event that a text says.
fn event(text: &str) -> Result<Message, String> {
    if text.trim().is_empty() {
        return Err(format!("there is no event; write one such as {EXAMPLE}"));
    }
    let json: Json = serde_json::from_str(text)
        .map_err(|error| format!("the event is not JSON: {error}; write it such as {EXAMPLE}"))?;
    let Json::Object(mut members) = json else {
        return Err(format!("the event must be a JSON object, such as {EXAMPLE}"));
    };
    let kind = match members.shift_remove("type") {
        Some(Json::String(kind)) if !kind.is_empty() => kind,
        Some(other) => return Err(format!("`type` must be a text, not {other}; write it as in {EXAMPLE}")),
        None => return Err(format!("the event has no `type`; write it as in {EXAMPLE}")),
    };
    if members.contains_key(RESERVED) {
        return Err(format!("the key `{RESERVED}` belongs to the layer; leave it out"));
    }
    Ok(members
        .into_iter()
        .fold(Message::new(kind), |message, (key, value)| message.with(key, Value::from(value))))
}

async fn send(
    layer: LayerConfig,
    group: &GroupName,
    message: Message,
) -> anyhow::Result<Result<Sent, String>> {
    let (one_host, patience) = (layer.hosts().len() <= 1, Guest::patience(&layer));
    let mut guest = Guest::arrive(layer)?;
    // Inboxes of the members may be on any host.
    let up = guest.is_up_within(patience).await;
    let sent = match (up, guest.layer.health().error) {
        (false, Some(reason)) if one_host => Err(reason),
        _ => through(&mut guest, group, message).await,
    };
    guest.leave().await;
    Ok(sent)
}

async fn through(guest: &mut Guest, group: &GroupName, message: Message) -> Result<Sent, String> {
    guest.layer.group_send(group, message, Guest::TICKET).map_err(|refusal| refusal.to_string())?;
    match time::timeout(ANSWER_MAX, guest.next()).await {
        Ok(Some(News::Sent(Sent::Inboxes(posted))))
            if posted.inboxes != 0 && posted.inboxes == posted.inboxes_full =>
        {
            Err(format!("{} over capacity", all_inboxes(posted.inboxes)))
        }
        Ok(Some(News::Sent(sent))) => Ok(sent),
        Ok(Some(News::Refused(refusal))) => Err(guest.reason(&refusal.to_string())),
        // Nothing is delivered to who is in no group.
        Ok(Some(News::Delivered(_)) | None) | Err(_) => {
            Err("Redis does not answer; the event may have got through".to_owned())
        }
    }
}

/// Whether it was sent to all who can take it.
fn is_whole(sent: Sent) -> bool {
    !matches!(sent, Sent::Inboxes(posted) if posted.inboxes_lost != 0)
}

fn all_inboxes(inboxes: u64) -> String {
    if inboxes == 1 {
        "the only inbox of the group is".to_owned()
    } else {
        format!("all {inboxes} inboxes of the group are")
    }
}

fn to_text(group: &GroupName, sent: Sent) -> String {
    let nobody = format!("sent to {group}, but nobody is in the group");
    match sent {
        Sent::Subscribers(0) | Sent::Inboxes(Posted { inboxes: 0, .. }) => nobody,
        Sent::Subscribers(number) => {
            format!("sent to {group}: {}", plural(number, "subscriber", "subscribers"))
        }
        Sent::Inboxes(posted) => {
            let mut text = format!(
                "sent to {group}: {} in {}",
                plural(posted.members_reached(), "member", "members"),
                plural(posted.inboxes_reached(), "inbox", "inboxes"),
            );
            for (members, inboxes, why) in [
                (posted.members_full, posted.inboxes_full, "over capacity"),
                (posted.members_lost, posted.inboxes_lost, "that could not be written to"),
            ] {
                if inboxes != 0 {
                    let members = plural(members, "member", "members");
                    let inboxes = plural(inboxes, "inbox", "inboxes");
                    write!(text, "; not to {members} in {inboxes} {why}").ok();
                }
            }
            text
        }
    }
}

fn to_json(backend: &str, group: &GroupName, sent: Sent) -> Json {
    let group = group.as_str();
    match sent {
        Sent::Subscribers(number) => {
            json!({ "sent": true, "group": group, "backend": backend, "subscribers": number })
        }
        Sent::Inboxes(posted) => json!({
            "sent": if is_whole(sent) { Json::Bool(true) } else { "partly".into() },
            "group": group,
            "backend": backend,
            "members": posted.members_reached(),
            "inboxes": posted.inboxes_reached(),
            "members_over_capacity": posted.members_full,
            "inboxes_over_capacity": posted.inboxes_full,
            "members_lost": posted.members_lost,
            "inboxes_lost": posted.inboxes_lost,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_an_object_with_a_type() {
        let message = event(r#" {"message": "hello", "type": "chat.message", "n": 1} "#).unwrap();
        assert_eq!(message, Message::new("chat.message").with("message", "hello").with("n", 1));
        let cases = [
            ("", "there is no event"),
            ("hello", "the event is not JSON: expected value at line 1 column 1"),
            (r#"["type"]"#, "must be a JSON object"),
            (r#"{"message": 1}"#, "has no `type`"),
            (r#"{"type": 1}"#, "`type` must be a text, not 1"),
            (r#"{"type": ""}"#, "`type` must be a text, not \"\""),
        ];
        for (text, error) in cases {
            let said = event(text).unwrap_err();
            assert!(said.contains(error) && said.contains(EXAMPLE), "{text}: {said}");
        }
        let said = event(r#"{"type": "x", "__asgi_channel__": "y"}"#).unwrap_err();
        assert!(said.contains("`__asgi_channel__` belongs to the layer"), "{said}");
    }

    #[test]
    fn what_became_of_it_is_one_line() {
        let posted = |members, inboxes, members_full, inboxes_full| {
            Sent::Inboxes(Posted { members, inboxes, members_full, inboxes_full, ..Posted::default() })
        };
        let cases = [
            (Sent::Subscribers(0), "sent to g, but nobody is in the group"),
            (Sent::Subscribers(1), "sent to g: 1 subscriber"),
            (Sent::Subscribers(2), "sent to g: 2 subscribers"),
            (posted(0, 0, 0, 0), "sent to g, but nobody is in the group"),
            (posted(3, 1, 0, 0), "sent to g: 3 members in 1 inbox"),
            (
                posted(6, 3, 5, 2),
                "sent to g: 1 member in 1 inbox; not to 5 members in 2 inboxes over capacity",
            ),
        ];
        let lost = Sent::Inboxes(Posted {
            members: 9,
            inboxes: 4,
            members_full: 1,
            inboxes_full: 1,
            members_lost: 2,
            inboxes_lost: 1,
        });
        let text = "sent to g: 6 members in 2 inboxes; not to 1 member in 1 inbox over capacity; \
            not to 2 members in 1 inbox that could not be written to";
        assert_eq!((to_text(&"g".parse().unwrap(), lost).as_str(), is_whole(lost)), (text, false));
        for (sent, text) in cases {
            assert!(is_whole(sent));
            assert_eq!(to_text(&"g".parse().unwrap(), sent), text);
        }
    }
}
