//! Names on the wire.

/// The Redis channel names of the pub/sub layer: `<prefix>__group__<group>`.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Everything before the name of the group.
    group_prefix: String,
}

impl Keys {
    /// Names under a prefix, `asgi` in a fresh Django project.
    pub(super) fn new(prefix: &str) -> Self {
        Self { group_prefix: format!("{prefix}__group__") }
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
            let keys = Keys::new(prefix);
            assert_eq!(keys.group_channel("chat_lobby"), channel);
            assert_eq!(keys.group_of(channel.as_bytes()), Some("chat_lobby"));
        }
        assert_eq!(Keys::new("asgi").group_of(b"asgi2__group__chat_lobby"), None);
        assert_eq!(Keys::new("asgi").group_of(b"asgi__group__\xff"), None);
    }
}
