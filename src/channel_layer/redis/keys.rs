//! Names on the wire.

/// The Redis channel names of the pub/sub layer: `<prefix>__group__<group>` for a group and, for a socket,
/// `<prefix>specific.<node>.<socket>`, where a consumer in Python has `<prefix>specific.` and 32 digits.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Everything before the name of the group.
    group_prefix: String,
    /// Everything before what a socket of this node is called.
    socket_prefix: String,
}

impl Keys {
    /// Names under a prefix, `asgi` in a fresh Django project, for a node with this number.
    pub(super) fn new(prefix: &str, node: u128) -> Self {
        Self {
            group_prefix: format!("{prefix}__group__"),
            socket_prefix: format!("{prefix}specific.{node:032x}."),
        }
    }

    /// The channel of a socket, from what it is called on this node.
    pub(super) fn socket_channel(&self, socket: &str) -> String {
        format!("{}{socket}", self.socket_prefix)
    }

    /// What the socket of a Redis channel is called on this node, when it is one of these names.
    pub(super) fn socket_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(channel.strip_prefix(self.socket_prefix.as_bytes())?).ok()
    }

    /// The pattern of PSUBSCRIBE that takes the channels of all sockets of this node and nothing else.
    pub(super) fn sockets_pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.socket_prefix.len() + 1);
        for ch in self.socket_prefix.chars() {
            if matches!(ch, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(ch);
        }
        pattern + "*"
    }

    /// The Redis channel of a group.
    pub(super) fn group_channel(&self, group: &str) -> String {
        format!("{}{group}", self.group_prefix)
    }

    /// The group of a Redis channel, when it is one of these names.
    pub(super) fn group_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(channel.strip_prefix(self.group_prefix.as_bytes())?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_again_in_its_channel() {
        let cases = [
            ("asgi", "asgi__group__chat_lobby"),
            ("myapp:", "myapp:__group__chat_lobby"),
            ("", "__group__chat_lobby"),
        ];
        for (prefix, channel) in cases {
            let keys = Keys::new(prefix, 0x11);
            assert_eq!(keys.group_channel("chat_lobby"), channel);
            assert_eq!(keys.group_of(channel.as_bytes()), Some("chat_lobby"));
        }
        let keys = Keys::new("asgi", 0x11);
        assert_eq!(keys.group_of(b"asgi2__group__chat_lobby"), None);
        assert_eq!(keys.group_of(b"asgi__group__\xff"), None);
    }

    #[test]
    fn a_socket_is_found_again_in_its_channel_and_the_pattern_takes_it_literally() {
        let node = "00000000000000000000000000000011";
        let cases = [
            ("asgi", format!("asgispecific.{node}."), format!("asgispecific.{node}.*")),
            ("a*[b]?\\", format!("a*[b]?\\specific.{node}."), format!("a\\*\\[b\\]\\?\\\\specific.{node}.*")),
        ];
        for (prefix, begins, pattern) in cases {
            let keys = Keys::new(prefix, 0x11);
            let channel = keys.socket_channel("7");
            assert_eq!((channel.clone(), keys.sockets_pattern()), (format!("{begins}7"), pattern));
            assert_eq!(keys.socket_of(channel.as_bytes()), Some("7"));
            assert_eq!(keys.group_of(channel.as_bytes()), None);
            assert_eq!(Keys::new(prefix, 0x12).socket_of(channel.as_bytes()), None);
        }
    }
}
