//! The names of inboxes and of members, and the hosts that they are on.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::channel_layer::redis::shard::host_index;

/// What the local part of a name begins with when it belongs to a node, and not to a process of Python, which has 32
/// hexadecimal digits there. For a group as many follow.
const MARK: &str = "anteroom.";
/// What follows the mark in the name of a socket.
const SOCKET: &str = "socket.";

/// The keys under a prefix.
#[derive(Clone, Debug)]
pub(in crate::channel_layer::redis) struct CoreKeys {
    prefix: String,
}

impl CoreKeys {
    pub(in crate::channel_layer::redis) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The set of the members of a group.
    pub(in crate::channel_layer::redis) fn group(&self, group: &str) -> String {
        format!("{}:group:{group}", self.prefix)
    }

    /// The inbox of a channel: that of its process, or its own when it has no process.
    pub(in crate::channel_layer::redis) fn inbox(&self, channel: &str) -> String {
        format!("{}{}", self.prefix, non_local(channel))
    }

    /// Where a node shows that it lives. No name of a channel holds a colon, so nothing else is called so.
    pub(in crate::channel_layer::redis) fn lease(&self, node: &str) -> String {
        format!("{}:node:{node}", self.prefix)
    }
}

/// A channel's name up to its `!`, and all of it when there is none.
///
/// Rule: `channels_redis` finds the inbox of a channel and its host by this part.
pub(in crate::channel_layer::redis) fn non_local(channel: &str) -> &str {
    match channel.split_once('!') {
        Some((process, _)) => channel.get(..=process.len()).unwrap_or(channel),
        None => channel,
    }
}

/// The node in the name of a group's member that belongs to one: the node itself, or a socket of it.
pub(in crate::channel_layer::redis) fn node_of(channel: &str) -> Option<&str> {
    let (node, local) = channel.strip_prefix("specific.")?.split_once('!')?;
    local.starts_with(MARK).then_some(node)
}

/// What this node is called on one host.
///
/// Each host knows it by another name, chosen so that the inbox of that name is on that host, where the groups
/// are that the name is a member of. So one host that is lost takes only its own groups with it.
#[derive(Clone, Debug)]
pub(in crate::channel_layer::redis) struct Node {
    /// 32 hexadecimal digits.
    pub(in crate::channel_layer::redis) id: String,
    host: usize,
    hosts: usize,
}

impl Node {
    /// A new name for a host; `random` gives 128 random bits each time.
    pub(in crate::channel_layer::redis) fn new(
        host: usize,
        hosts: usize,
        mut random: impl FnMut() -> u128,
    ) -> Self {
        // One in `hosts` fits, so all of these fail at once less often than names collide.
        const TRIES: usize = 100;
        let fits = |id: &String| host_index(format!("specific.{id}!").as_bytes(), hosts) == host;
        let mut ids = (0..TRIES * hosts.max(1)).map(|_| format!("{:032x}", random()));
        let id = ids.find(fits).unwrap_or_else(|| format!("{:032x}", random()));
        Self { id, host, hosts }
    }

    /// The channel that its inbox belongs to, without a local part.
    pub(in crate::channel_layer::redis) fn channel(&self) -> String {
        format!("specific.{}!", self.id)
    }

    /// The name under which it is a member of a group: always the same one.
    ///
    /// Rule: `channels_redis` sends to a single channel by the hash of its whole name, and so to another host
    /// than the one where the channel is read. This name is chosen so that both are the same.
    pub(in crate::channel_layer::redis) fn member(&self, group: &str) -> String {
        let name = |salt: u8| {
            let digest = Sha256::new().chain_update([salt]).chain_update(group).finalize();
            let mut name = format!("{}{MARK}", self.channel());
            for byte in digest.iter().take(16) {
                write!(name, "{byte:02x}").ok();
            }
            name
        };
        let fits = |name: &String| host_index(name.as_bytes(), self.hosts) == self.host;
        (0..u8::MAX).map(name).find(fits).unwrap_or_else(|| name(u8::MAX))
    }

    /// What the name of a socket's channel begins with.
    pub(in crate::channel_layer::redis) fn socket_prefix(&self) -> String {
        format!("{}{MARK}{SOCKET}", self.channel())
    }

    /// The name of a socket's channel, whose rest `local` gives, another one for each number. It is chosen as that of
    /// a member is, so that Python writes where this node reads.
    pub(in crate::channel_layer::redis) fn socket(&self, local: impl Fn(u8) -> String) -> String {
        let prefix = self.socket_prefix();
        let name = |salt| format!("{prefix}{}", local(salt));
        let fits = |name: &String| host_index(name.as_bytes(), self.hosts) == self.host;
        (0..u8::MAX).map(name).find(fits).unwrap_or_else(|| name(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel_layer::name::ChannelName;

    fn random() -> impl FnMut() -> u128 {
        let mut rng = fastrand::Rng::with_seed(7);
        move || rng.u128(..)
    }

    #[test]
    fn keys_are_those_of_python() {
        let cases = [
            ("asgi", "asgi:group:g", "asgispecific.11!"),
            ("myapp:", "myapp::group:g", "myapp:specific.11!"),
            ("", ":group:g", "specific.11!"),
            ("pr\u{e9}", "pr\u{e9}:group:g", "pr\u{e9}specific.11!"),
        ];
        for (prefix, group, inbox) in cases {
            let keys = CoreKeys::new(prefix);
            assert_eq!((keys.group("g"), keys.inbox("specific.11!22")), (group.to_owned(), inbox.to_owned()));
        }
        assert_eq!(CoreKeys::new("asgi").inbox("general"), "asgigeneral");
        assert_eq!(CoreKeys::new("asgi").lease("11"), "asgi:node:11");
    }

    #[test]
    fn the_process_of_a_channel_ends_at_the_first_mark() {
        for (channel, process) in
            [("specific.1!2", "specific.1!"), ("a!b!c", "a!"), ("general", "general"), ("!", "!"), ("", "")]
        {
            assert_eq!(non_local(channel), process);
        }
    }

    #[test]
    fn inbox_and_members_of_a_node_are_on_the_host_of_their_groups() {
        for hosts in 1..=5 {
            for host in 0..hosts {
                let node = Node::new(host, hosts, random());
                assert_eq!(host_index(node.channel().as_bytes(), hosts), host);
                for group in ["g", "chat_lobby", &"a".repeat(99)] {
                    let member = node.member(group);
                    assert_eq!(host_index(member.as_bytes(), hosts), host, "{member}");
                    assert_eq!((non_local(&member), node_of(&member)), (&*node.channel(), Some(&*node.id)));
                    assert!(member.len() < 100 && member == node.member(group), "{member}");
                }
                assert_ne!(node.member("g"), node.member("h"));
            }
        }
    }

    #[test]
    fn a_socket_is_written_to_where_its_node_reads() {
        for hosts in 1..=5 {
            for host in 0..hosts {
                let node = Node::new(host, hosts, random());
                for socket in 0..20 {
                    let name = node.socket(|salt| format!("{salt:02x}{socket:030x}"));
                    assert_eq!(host_index(name.as_bytes(), hosts), host, "{name}");
                    assert_eq!((non_local(&name), node_of(&name)), (&*node.channel(), Some(&*node.id)));
                    assert!(name.parse::<ChannelName>().is_ok(), "{name}");
                    let local = name.strip_prefix(&node.socket_prefix()).unwrap();
                    assert!(local.ends_with(&format!("{socket:030x}")), "{name}");
                }
            }
        }
    }

    #[test]
    fn channels_of_python_are_no_nodes() {
        for channel in ["specific.11!22", "general", "specific.11", "other.11!anteroom.22", ""] {
            assert_eq!(node_of(channel), None, "{channel}");
        }
    }
}
