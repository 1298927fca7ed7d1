//! Who owns what in a Redis Cluster. Pure.

use redis::Value;

use crate::channel_layer::redis::RedisAddress;
use crate::channel_layer::redis::connect::text;

/// As many slots as a cluster has.
const SLOTS: u16 = 16_384;

/// The slot of a channel.
///
/// Rule: the key distribution model of the Redis Cluster specification: CRC-16/XMODEM of the part in the first
/// braces, or of the whole name when there is none in them.
pub(super) fn slot(channel: &[u8]) -> u16 {
    let tag = channel.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = channel.get(open + 1..)?;
        let close = rest.iter().position(|&byte| byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    let crc = tag.unwrap_or(channel).iter().fold(0_u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

/// Which master has which slots, as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// First and last of each range, in ascending order, and its master.
    ranges: Vec<(u16, u16, RedisAddress)>,
}

impl Slots {
    /// Reads an answer to `CLUSTER SLOTS` of a node that was asked at an address; also gives all nodes in it.
    pub(super) fn read(answer: &Value, asked: &RedisAddress) -> (Self, Vec<RedisAddress>) {
        let (mut slots, mut nodes) = (Self::default(), Vec::new());
        let Value::Array(entries) = answer else { return (slots, nodes) };
        for entry in entries {
            let Value::Array(entry) = entry else { continue };
            let [Value::Int(first), Value::Int(last), owners @ ..] = entry.as_slice() else { continue };
            let owners: Vec<_> = owners.iter().filter_map(|owner| address(owner, asked)).collect();
            if let (Ok(first), Ok(last), Some(master)) =
                (u16::try_from(*first), u16::try_from(*last), owners.first())
            {
                slots.ranges.push((first, last, master.clone()));
            }
            nodes.extend(owners);
        }
        slots.ranges.sort_by_key(|(first, ..)| *first);
        nodes.sort_by_key(ToString::to_string);
        nodes.dedup();
        (slots, nodes)
    }

    /// Every master once.
    pub(super) fn masters(&self) -> Vec<RedisAddress> {
        let mut masters: Vec<RedisAddress> = Vec::new();
        for (_, _, master) in &self.ranges {
            if !masters.contains(master) {
                masters.push(master.clone());
            }
        }
        masters
    }

    /// The master of a slot, if it has one.
    pub(super) fn master(&self, slot: u16) -> Option<&RedisAddress> {
        let range = self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        range.map(|(_, _, master)| master)
    }
}

/// A node that does not know what others call it is where it was asked.
fn address(node: &Value, asked: &RedisAddress) -> Option<RedisAddress> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let RedisAddress::Tcp(asked, _) = asked else { return None };
    let host = text(host).filter(|host| !host.is_empty() && *host != "?").unwrap_or(asked);
    RedisAddress::tcp(host, u16::try_from(*port).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        let cases = [
            ("123456789", 0x31c3),
            ("foo", 12_182),
            ("bar", 5061),
            ("{foo}bar", 12_182),
            ("a{foo}{bar}", 12_182),
            // Without anything in them, braces are like all else.
            ("", 0),
        ];
        for (channel, owner) in cases {
            assert_eq!(slot(channel.as_bytes()), owner, "{channel}");
        }
        assert_ne!(slot(b"{}foo"), slot(b"foo"));
        assert_ne!(slot(b"{foo"), slot(b"foo"));
    }

    #[test]
    fn the_map_of_a_cluster_is_read() {
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), Value::Array(Vec::new())]);
        let word = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
        };
        let answer = Value::Array(vec![
            range(8192, 16_383, vec![node(word("10.0.0.2"), 7001), node(word("10.0.0.3"), 7002)]),
            range(0, 8191, vec![node(Value::Nil, 7000)]),
            range(-1, 5, vec![node(word("x"), 1)]),
            Value::Nil,
        ]);
        let at = |host: &str, port| RedisAddress::tcp(host, port).unwrap();
        let (slots, nodes) = Slots::read(&answer, &at("10.0.0.1", 9));
        assert_eq!(slots.masters(), [at("10.0.0.1", 7000), at("10.0.0.2", 7001)]);
        assert_eq!(slots.master(8191), Some(&at("10.0.0.1", 7000)));
        assert_eq!(slots.master(16_383), Some(&at("10.0.0.2", 7001)));
        assert!(nodes.contains(&at("10.0.0.3", 7002)));
        assert_eq!(Slots::read(&Value::Okay, &at("a", 1)).0.master(0), None);
    }
}
