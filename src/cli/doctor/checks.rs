//! What is made of the facts. Pure: what Redis said comes in, findings go out.

use core::time::Duration;
use std::collections::HashSet;

use crate::channel_layer::{
    Answer, ClientFacts, ClockFacts, Denied, HostFacts, InboxFacts, Info, Store, Traffic, Unreached, Why,
};
use crate::cli::doctor::finding::{Code, Finding};
use crate::cli::plural;

/// A clock may be off by this much, in seconds.
const CLOCK_MAX: f64 = 1.0;
/// A clock that is off by more than this has its messages pruned by others at once, whatever `expiry` is.
const CLOCK_BROKEN: f64 = 60.0;
/// Memory and connections are short above this share of what is allowed, in percent.
const SHORT: u64 = 90;
/// So many connections a second that are closed again have a reason.
const CHURN: f64 = 5.0;
/// So many members of dead processes in a group are worth a word.
const DEAD_MANY: u64 = 10;
/// Names that a message tells.
const NAMED_MAX: usize = 3;

/// The layer that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PubSub,
    Core {
        /// `expiry`, in seconds.
        expiry: u64,
    },
}

/// All findings on the hosts of a layer.
pub(super) fn check(kind: Kind, hosts: &[HostFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(finding) = several(kind, hosts.len()) {
        findings.push(finding);
    }
    // A member of a group may have its inbox on any host.
    let stuck: HashSet<&str> = hosts
        .iter()
        .filter_map(|host| host.store.as_ref().ok())
        .flat_map(|store| &store.inboxes)
        .filter(|inbox| inbox.stale != 0)
        .map(|inbox| inbox.key.as_str())
        .collect();
    for host in hosts {
        findings.extend(check_host(kind, host, &stuck).into_iter().map(|finding| finding.at(&host.address)));
    }
    findings
}

fn check_host(kind: Kind, host: &HostFacts, stuck: &HashSet<&str>) -> Vec<Finding> {
    let mut findings = vec![connect(host)];
    if host.connected.is_err() {
        return findings;
    }
    if let Some(what) = host.silent_at {
        findings.push(silent(what));
    }
    match &host.info {
        Ok(info) => {
            findings.extend([version(kind, info), role(info)]);
            findings.extend(cluster(kind, info));
            findings.extend(eviction(kind, info));
            findings.extend(usage(kind, info));
        }
        Err(Some(reason)) => findings.push(uninformed(&host.user, reason)),
        Err(None) => {}
    }
    if let (Kind::Core { expiry }, Ok(facts)) = (kind, &host.clock) {
        findings.push(clock(*facts, expiry));
    }
    if !host.commands.is_empty() {
        findings.extend(commands(&host.user, &host.commands));
    }
    if let Ok(facts) = &host.traffic {
        findings.push(connections(*facts));
    }
    if let Kind::Core { .. } = kind {
        findings.extend(redis_py(&host.info, &host.clients));
        match &host.store {
            Ok(store) => findings.extend([inboxes(store), groups(store, stuck)]),
            Err(Some(reason)) => findings.push(
                Finding::note(Code::Inboxes, format!("inboxes and groups were not looked at: {reason}"))
                    .help(format!("grant it for this check: {}", grant(&host.user, &["SCAN"]))),
            ),
            Err(None) => {}
        }
    }
    findings
}

fn several(kind: Kind, hosts: usize) -> Option<Finding> {
    match kind {
        Kind::Core { .. } if 1 < hosts => {
            let message = format!(
                "with {hosts} hosts, `channel_layer.send` from Python to a consumer in Python looks for it on the \
                 wrong host and is often lost (4 in 10 with two hosts, 6 in 10 with three); group sends arrive"
            );
            let help = "one host, or groups in place of direct sends; sockets and groups of anteroom have names \
                        that avoid it";
            Some(Finding::warning(Code::Hosts, message).help(help))
        }
        _ => None,
    }
}

fn connect(host: &HostFacts) -> Finding {
    let (message, help) = match &host.connected {
        Ok(took) => {
            let milliseconds = took.as_secs_f64() * 1e3;
            let which = if host.server == host.address {
                "connected and".to_owned()
            } else {
                format!("connected to {} and", host.server)
            };
            return Finding::ok(
                Code::Connect,
                format!("{which} logged in as `{}` within {milliseconds:.1} ms", host.user),
            );
        }
        Err(Unreached::Away(reason)) => (
            format!("there is no connection: {reason}"),
            "see that the name resolves, that Redis runs and listens there, and that nothing stands between",
        ),
        Err(Unreached::Login(reason)) => (
            format!("Redis does not let `{}` in: {reason}", host.user),
            "see user and password in `hosts`, and `ACL LIST` on that Redis",
        ),
        Err(Unreached::Silent) => (
            "nothing answers".to_owned(),
            "Redis may be frozen or busy with one long command, or a firewall drops packets; try `redis-cli PING` there",
        ),
        Err(Unreached::Sentinel) => (
            "this is a Sentinel, which carries no messages".to_owned(),
            "write it as `{ sentinels = [[\"host\", 26379]], master_name = \"name\" }`",
        ),
        Err(Unreached::TooOld) => {
            ("this Redis does not know RESP3".to_owned(), "Redis must be version 6 or newer")
        }
    };
    Finding::failure(Code::Connect, message).help(help)
}

fn silent(what: &str) -> Finding {
    Finding::failure(
        Code::Answers,
        format!("Redis stopped to answer at {what}; what follows it was not looked at"),
    )
    .help("look for long commands in `SLOWLOG GET`, for swapping and for a full disk on that machine")
}

fn uninformed(user: &str, reason: &str) -> Finding {
    let message =
        format!("`INFO` is refused, so version, role, memory and connections were not looked at: {reason}");
    Finding::note(Code::Info, message).help(format!("grant it for this check: {}", grant(user, &["INFO"])))
}

fn version(kind: Kind, info: &Info) -> Finding {
    let shown = info.get("redis_version").unwrap_or("unknown");
    match (kind, info.version()) {
        (_, None) => Finding::note(Code::Version, format!("the version of Redis is not known: {shown}"))
            .help("version 6 or newer, or 7 for `channels_redis.core` in batches"),
        (_, Some(version)) if version < (6, 0) => {
            Finding::failure(Code::Version, format!("Redis {shown} is too old")).help("version 6 or newer")
        }
        (Kind::Core { .. }, Some(version)) if version < (7, 0) => {
            let message = format!(
                "Redis {shown} has no BZMPOP: when an inbox is empty, the next message is taken alone"
            );
            Finding::note(Code::Version, message)
                .help("version 7 takes them in batches, for less work in Redis")
        }
        _ => Finding::ok(Code::Version, format!("Redis {shown}")),
    }
}

fn role(info: &Info) -> Finding {
    let role = info.get("role").unwrap_or("unknown");
    if info.number("loading") == Some(1) {
        return Finding::failure(Code::Role, "Redis is still loading its data").help("wait until it has");
    }
    if role != "slave" {
        return Finding::ok(Code::Role, format!("its role is `{role}`"));
    }
    let primary = format!(
        "{}:{}",
        info.get("master_host").unwrap_or("unknown"),
        info.get("master_port").unwrap_or("unknown")
    );
    if info.number("cluster_enabled") == Some(1) {
        return Finding::ok(Code::Role, format!("it is a replica of {primary} in a cluster"));
    }
    Finding::failure(
        Code::Role,
        "this is a replica, which is not used: what is sent to it is heard nowhere else",
    )
    .help(format!("put its primary {primary} into `hosts`, or the Sentinels that know which one it is"))
}

fn cluster(kind: Kind, info: &Info) -> Option<Finding> {
    if info.number("cluster_enabled") != Some(1) {
        return None;
    }
    Some(match kind {
        Kind::Core { .. } => Finding::failure(
            Code::Cluster,
            "this is a node of Redis Cluster, on which `channels_redis.core` does not work",
        )
        .help("a Redis without `cluster-enabled`, or `channels_redis.pubsub`"),
        Kind::PubSub => Finding::note(
            Code::Cluster,
            "this is a node of Redis Cluster: each message goes to all nodes, so any of them will do",
        )
        .help("nothing has to be done; what `PUBLISH` counts are the subscribers of one node"),
    })
}

fn clock(facts: ClockFacts, expiry: u64) -> Finding {
    let off = (facts.ahead.abs() - facts.round_trip / 2.0).max(0.0);
    let way = if facts.ahead < 0.0 { "behind" } else { "ahead of" };
    let message = format!("the clock of Redis is {:.3} s {way} ours", facts.ahead.abs());
    let help = "run NTP (chrony, systemd-timesyncd) on this machine, on that of Redis and on those of Django";
    let expiry = Duration::from_secs(expiry).as_secs_f64();
    if CLOCK_BROKEN.min(expiry) < off {
        let message = format!("{message}: whoever is right prunes the messages of who is wrong as too old");
        Finding::failure(Code::Clock, message).help(help)
    } else if CLOCK_MAX < off {
        let message = format!("{message}: messages are ordered and expire by the clocks of their senders");
        Finding::warning(Code::Clock, message).help(help)
    } else {
        Finding::ok(Code::Clock, message)
    }
}

fn eviction(kind: Kind, info: &Info) -> Option<Finding> {
    let policy = info.get("maxmemory_policy")?;
    if kind == Kind::PubSub {
        // Nothing is stored.
        return None;
    }
    let message = format!("`maxmemory-policy` is `{policy}`");
    let help = "set `maxmemory-policy noeviction`, or give the channel layer a Redis of its own";
    Some(match (policy, info.number("maxmemory")) {
        ("noeviction", _) => Finding::ok(Code::Eviction, message),
        (_, Some(0)) => Finding::note(
            Code::Eviction,
            format!("{message}, which evicts nothing as long as there is no `maxmemory`"),
        )
        .help(help),
        _ => Finding::warning(
            Code::Eviction,
            format!("{message}: when memory is short Redis deletes groups and inboxes, and rooms go silent"),
        )
        .help(help),
    })
}

fn usage(kind: Kind, info: &Info) -> Vec<Finding> {
    let mut findings = Vec::new();
    let share = |used: u64, max: u64| used.saturating_mul(100).checked_div(max);
    let memory = info.number("used_memory").zip(info.number("maxmemory"));
    if let Some((percent, (used, max))) =
        memory.and_then(|(used, max)| share(used, max).zip(Some((used, max))))
    {
        let message = format!("{percent} % of `maxmemory` is in use ({used} of {max} bytes)");
        let help = "raise `maxmemory`, or give the channel layer a Redis of its own";
        let stops = 100 <= percent && info.get("maxmemory_policy") == Some("noeviction");
        findings.push(match kind {
            Kind::Core { .. } if stops => {
                Finding::failure(Code::Usage, format!("{message}: Redis refuses what is sent")).help(help)
            }
            Kind::Core { .. } if SHORT <= percent => Finding::warning(Code::Usage, message).help(help),
            _ => Finding::ok(Code::Usage, message),
        });
    }
    let clients = info.number("connected_clients").zip(info.number("maxclients"));
    if let Some((open, max)) = clients
        && share(open, max).is_some_and(|percent| SHORT <= percent)
    {
        let message = format!("{open} of {max} connections are open: soon Redis refuses new ones");
        findings.push(
            Finding::warning(Code::Usage, message).help("raise `maxclients`, or find who keeps them open"),
        );
    }
    findings
}

/// Who needs a command that we can do without. `pops_many`: we take messages with BZMPOP, and not with what Python
/// takes them with.
fn needed_by(command: &str, pops_many: bool) -> Option<&'static str> {
    match command {
        "BZPOPMIN" | "ZPOPMIN" if !pops_many => None,
        "ZCOUNT" | "BZPOPMIN" | "ZPOPMIN" => Some("Django, if it logs in as this user"),
        "PSUBSCRIBE" | "PUNSUBSCRIBE" => Some("routes with direct sends to single sockets"),
        _ => None,
    }
}

fn commands(user: &str, tried: &[(&'static str, Result<(), Denied>)]) -> Vec<Finding> {
    type Group<'a> = (Why, Option<&'static str>, &'a str, Vec<&'static str>);
    // What has one cause is said once, with what Redis said first.
    let mut groups: Vec<Group<'_>> = Vec::new();
    let pops_many = tried.iter().any(|(name, _)| *name == "BZMPOP");
    for (name, result) in tried {
        let Err(denied) = result else { continue };
        let who = if denied.why == Why::State { None } else { needed_by(name, pops_many) };
        match groups.iter_mut().find(|(why, known, ..)| (*why, *known) == (denied.why, who)) {
            Some((.., names)) if names.contains(name) => {}
            Some((.., names)) => names.push(name),
            None => groups.push((denied.why, who, &denied.reason, vec![name])),
        }
    }
    if groups.is_empty() {
        return vec![Finding::ok(Code::Commands, "every command that the layer needs is allowed")];
    }
    let finding = |(why, who, reason, names): Group<'_>| {
        let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        let refused = if names.len() == 1 { "is refused" } else { "are refused" };
        let message = format!("{} {refused}: {reason}", quoted.join(", "));
        let help = match why {
            Why::Command => format!("allow it: {}", grant(user, &names)),
            Why::Key => {
                format!("let the user at all keys under the prefix, such as `ACL SETUSER {user} ~asgi*`")
            }
            // A pattern is allowed only by the very same pattern, and ours has a random part.
            Why::Channel if names.contains(&"PSUBSCRIBE") => {
                format!("allow all channels: `ACL SETUSER {user} allchannels`")
            }
            Why::Channel => {
                format!("let the user at all channels under the prefix, such as `ACL SETUSER {user} &asgi*`")
            }
            Why::Unknown => {
                "this Redis lacks it, or has it under another name: undo `rename-command`".to_owned()
            }
            Why::State => "it is no matter of permissions; see the other findings on this host".to_owned(),
        };
        match who {
            Some(who) => Finding::warning(Code::Commands, format!("{message}; needed by {who}")).help(help),
            None => Finding::failure(Code::Commands, message).help(help),
        }
    };
    groups.into_iter().map(finding).collect()
}

fn grant(user: &str, commands: &[&str]) -> String {
    let commands: Vec<_> = commands.iter().map(|name| format!("+{}", name.to_lowercase())).collect();
    format!("`ACL SETUSER {user} {}`", commands.join(" "))
}

fn connections(facts: Traffic) -> Finding {
    #[expect(clippy::cast_precision_loss, reason = "nobody opens 2^52 connections in a second")]
    let rate = facts.opened.saturating_sub(facts.grown) as f64 / facts.seconds.max(0.001);
    if rate < CHURN {
        return Finding::ok(Code::Connections, format!("{rate:.0} connections a second come and go"));
    }
    let message = format!(
        "{rate:.0} connections a second are opened and closed again, as by `async_to_sync(channel_layer.group_send)`, \
         which opens one for each call"
    );
    let help =
        "call the layer from async code, or from one long-lived event loop; `CLIENT LIST` names who it is";
    Finding::warning(Code::Connections, message).help(help)
}

fn redis_py(info: &Answer<Info>, clients: &Answer<Vec<ClientFacts>>) -> Option<Finding> {
    let help = "give Django `{\"address\": \"redis://…\", \"socket_timeout\": None}` in `hosts`, or redis<8";
    let trap = "the default socket timeout of redis-py 8 is as long as a consumer waits at its inbox, so idle \
                consumers in Python die after 5 to 15 s";
    let old = info.as_ref().is_ok_and(|info| info.version().is_some_and(|version| version < (7, 2)));
    let clients = match clients {
        Ok(clients) => clients,
        Err(Some(reason)) => {
            let message = format!("the versions of redis-py were not looked at ({reason}); {trap}");
            return Some(Finding::note(Code::RedisPy, message).help(help));
        }
        Err(None) => return None,
    };
    if old {
        let message = format!("Redis before 7.2 does not know the versions of its clients; {trap}");
        return Some(Finding::note(Code::RedisPy, message).help(help));
    }
    let python: Vec<_> = clients.iter().filter(|client| client.library.starts_with("redis-py")).collect();
    let major = |client: &ClientFacts| client.version.split('.').next()?.parse::<u32>().ok();
    let new = python.iter().filter(|client| major(client).is_some_and(|major| 8 <= major)).count();
    Some(if new == 0 {
        Finding::ok(
            Code::RedisPy,
            format!("{} with redis-py, none with version 8", counted(python.len() as u64, "connection")),
        )
    } else {
        let connections = counted(new as u64, "connection");
        Finding::warning(
            Code::RedisPy,
            format!("{connections} with redis-py 8: unless told otherwise, {trap}"),
        )
        .help(help)
    })
}

fn inboxes(store: &Store) -> Finding {
    let part = if store.whole { "" } else { " (not all keys were looked at)" };
    let full = |inbox: &&InboxFacts| inbox.capacity <= inbox.waiting;
    let stuck: Vec<_> = store.inboxes.iter().filter(|inbox| inbox.stale != 0 || full(inbox)).collect();
    if stuck.is_empty() {
        let message = match store.inboxes.first() {
            None => "no inbox holds messages".to_owned(),
            Some(fullest) => format!(
                "{} messages, the fullest {} of {}",
                plural(store.inboxes.len() as u64, "inbox holds", "inboxes hold"),
                fullest.waiting,
                fullest.capacity
            ),
        };
        return Finding::ok(Code::Inboxes, format!("{message}{part}"));
    }
    let named = stuck.iter().take(NAMED_MAX);
    let named: Vec<_> =
        named.map(|inbox| format!("{} with {} of {}", inbox.key, inbox.waiting, inbox.capacity)).collect();
    let more = stuck.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let message = format!(
        "{} full or not emptied for 10 s: {}{more}{part}",
        plural(stuck.len() as u64, "inbox is", "inboxes are"),
        named.join(", ")
    );
    Finding::warning(Code::Inboxes, message).help(
        "its process is dead or too slow, and misses what finds no room; a dead one goes with its last message \
         after `expiry`, unless its groups are sent to",
    )
}

fn groups(store: &Store, stuck: &HashSet<&str>) -> Finding {
    let part = if store.whole { "" } else { " (not all keys were looked at)" };
    let mut bad: Vec<_> = store
        .groups
        .iter()
        .filter_map(|group| {
            let of_stuck = group.inboxes.iter().filter(|(inbox, _)| stuck.contains(inbox.as_str()));
            let dead = group.of_dead_nodes + of_stuck.map(|(_, members)| members).sum::<u64>();
            let many = DEAD_MANY <= dead || (1 < dead && group.seen < 2 * dead);
            many.then_some((dead, group))
        })
        .collect();
    bad.sort_by(|(a, group_a), (b, group_b)| b.cmp(a).then_with(|| group_a.name.cmp(&group_b.name)));
    if bad.is_empty() {
        let groups = plural(store.groups.len() as u64, "group", "groups");
        return Finding::ok(
            Code::Groups,
            format!("{groups}, none with many members of dead processes{part}"),
        );
    }
    let named: Vec<_> = bad
        .iter()
        .take(NAMED_MAX)
        .map(|(dead, group)| format!("{} ({dead} of {})", group.name, group.seen))
        .collect();
    let more = bad.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let message =
        format!("members of processes that take nothing any more: {}{more}{part}", named.join(", "));
    Finding::warning(Code::Groups, message).help(
        "each `group_send` still writes for them; they go after `group_expiry`, or at once with `ZREM`; consumers \
         that end by an exception or a signal never leave their groups",
    )
}

fn counted(number: u64, word: &str) -> String {
    plural(number, word, &format!("{word}s"))
}

#[cfg(test)]
mod tests;
