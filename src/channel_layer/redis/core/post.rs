//! Which inboxes a message goes to, and the script that puts it there.

use std::collections::HashMap;

use crate::channel_layer::redis::core::capacity::Capacities;
use crate::channel_layer::redis::core::names::{CoreKeys, non_local};
use crate::channel_layer::redis::shard::host_index;

/// Puts messages into inboxes, in their order, and answers with the places of those that found no room.
///
/// What is too old has been dropped before, in a command of its own: a script that has written may go on
/// writing when Redis has no memory left. An inbox to which something was added lives for `expiry`. What is
/// there but is no inbox counts as full.
///
/// `KEYS` are the inboxes. `ARGV` is `expiry`, and for each message the place of its inbox, the capacity, the
/// time and the message.
///
/// Rule: `channels_redis` does the same for one message at a time. In one step nobody reads between two
/// messages, so that what comes behind a message without room finds none either.
pub(super) const POST: &str = "\
local waiting, added, full = {}, {}, {}
for place, inbox in ipairs(KEYS) do
    local count = redis.pcall('ZCARD', inbox)
    waiting[place] = type(count) == 'number' and count or math.huge
end
for at = 2, #ARGV, 4 do
    local place = tonumber(ARGV[at])
    if waiting[place] < tonumber(ARGV[at + 1]) then
        redis.call('ZADD', KEYS[place], ARGV[at + 2], ARGV[at + 3])
        waiting[place] = waiting[place] + 1
        added[place] = true
    else
        full[#full + 1] = (at - 2) / 4
    end
end
for place, inbox in ipairs(KEYS) do
    if added[place] then
        redis.call('EXPIRE', inbox, ARGV[1])
    end
end
return full
";

/// Ends memberships of a node, and of its sockets, unless the node lives; says whether it does. In one step, so that a node that
/// comes back just now keeps what it adds.
///
/// `KEYS` are the lease of the node and the group, `ARGV` are the members.
pub(super) const CLEAR: &str = "\
if redis.call('EXISTS', KEYS[1]) == 1 then
    return 1
end
redis.call('ZREM', KEYS[2], unpack(ARGV))
return 0
";

/// Deletes what stands in the place of an inbox and is none; says how much that was. `KEYS` is the inbox.
pub(super) const CLEAR_INBOX: &str = "\
if redis.call('TYPE', KEYS[1]).ok == 'zset' then
    return 0
end
return redis.call('DEL', KEYS[1])
";

/// The members of a group that share an inbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bucket<'a> {
    pub(super) inbox: String,
    /// The host of the inbox.
    pub(super) host: usize,
    pub(super) capacity: u64,
    pub(super) channels: Vec<&'a str>,
}

/// Sorts the members of a group by their inboxes.
///
/// Rule: `channels_redis` keeps the order in which inboxes appear; the first member of an inbox says its
/// capacity.
pub(super) fn buckets<'a>(
    members: &[&'a str],
    keys: &CoreKeys,
    capacities: &Capacities,
    hosts: usize,
) -> Vec<Bucket<'a>> {
    let mut places = HashMap::new();
    let mut buckets: Vec<Bucket<'a>> = Vec::new();
    for &channel in members {
        let process = non_local(channel);
        let place = *places.entry(process).or_insert(buckets.len());
        match buckets.get_mut(place) {
            Some(bucket) => bucket.channels.push(channel),
            None => buckets.push(Bucket {
                inbox: keys.inbox(channel),
                host: host_index(process.as_bytes(), hosts),
                capacity: capacities.of(channel),
                channels: vec![channel],
            }),
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel_layer::redis::core::capacity::ChannelPattern;

    #[test]
    fn members_are_sorted_by_inbox_in_the_order_of_appearance() {
        let members = ["specific.1!a", "general", "specific.2!b", "specific.1!c"];
        let patterns = [("specific.1!c", 7), ("general", 3), ("specific.*!b", 5)];
        let patterns = patterns.map(|(text, capacity)| (ChannelPattern::new(text).unwrap(), capacity));
        let capacities = Capacities::new(100, patterns.into());
        let bucket =
            |inbox: &str, capacity, channels| Bucket { inbox: inbox.to_owned(), host: 0, capacity, channels };
        assert_eq!(
            buckets(&members, &CoreKeys::new("asgi"), &capacities, 1),
            [
                bucket("asgispecific.1!", 100, vec!["specific.1!a", "specific.1!c"]),
                bucket("asgigeneral", 3, vec!["general"]),
                bucket("asgispecific.2!", 5, vec!["specific.2!b"]),
            ],
        );
    }

    #[test]
    fn an_inbox_is_on_the_host_of_its_process() {
        let members: Vec<_> = (0..100).map(|number| format!("specific.{number}!x")).collect();
        let members: Vec<_> = members.iter().map(String::as_str).collect();
        for bucket in buckets(&members, &CoreKeys::new("asgi"), &Capacities::default(), 3) {
            let process = bucket.inbox.strip_prefix("asgi").unwrap();
            assert_eq!(bucket.host, host_index(process.as_bytes(), 3));
        }
    }
}
