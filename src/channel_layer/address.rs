//! What a socket is called in the name of its channel.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};

use crate::channel_layer::{Ticket, WorkerId};

/// Digits of the worker, the socket on it, the salt and the seal, in this order.
const DIGITS: [usize; 4] = [4, 12, 2, 14];
const LEN: usize = 32;

/// Gives the sockets of this process names, and finds them by these again, without a list of them.
///
/// A name holds where the socket is and a seal, keyed with a secret of the process, so that knowing the name of one
/// socket is of no help in finding that of another.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    secret: RandomState,
}

impl Addresses {
    /// 32 hexadecimal digits, as many as a consumer in Python has. Each `salt` gives another name for the socket.
    pub(super) fn name(&self, socket: Ticket, salt: u8) -> String {
        let place = [socket.worker.0 as u64, socket.socket, salt.into()];
        let mut name = String::with_capacity(LEN);
        for (part, digits) in place.into_iter().chain([self.seal(place)]).zip(DIGITS) {
            // Writing to a `String` does not fail.
            write!(name, "{part:0digits$x}").unwrap_or_default();
        }
        name
    }

    /// The socket of such a name.
    pub(super) fn find(&self, name: &str) -> Option<Ticket> {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if name.len() != LEN || !name.bytes().all(digits) {
            return None;
        }
        let mut at = 0;
        let [worker, socket, salt, seal] = DIGITS.map(|digits| {
            let part = name.get(at..at + digits).unwrap_or_default();
            at += digits;
            u64::from_str_radix(part, 16).unwrap_or_default()
        });
        let known = seal == self.seal([worker, socket, salt]);
        known.then_some(Ticket { worker: WorkerId(usize::try_from(worker).ok()?), socket })
    }

    fn seal(&self, place: [u64; 3]) -> u64 {
        let [.., digits] = DIGITS;
        self.secret.hash_one(place) >> (u64::BITS as usize - 4 * digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_each_of_its_names() {
        let addresses = Addresses::default();
        for (worker, socket) in [(0, 1), (1, 0), (0xffff, 0xffff_ffff_ffff)] {
            let socket = Ticket { worker: WorkerId(worker), socket };
            for salt in [0, 1, 255] {
                let name = addresses.name(socket, salt);
                assert_eq!((name.len(), addresses.find(&name)), (32, Some(socket)), "{name}");
            }
            assert_ne!(addresses.name(socket, 0), addresses.name(socket, 1));
        }
    }

    #[test]
    fn nobody_else_can_make_a_name() {
        let addresses = Addresses::default();
        let name = addresses.name(Ticket { worker: WorkerId(0), socket: 7 }, 0);
        for at in 0..name.len() {
            let other = if name.as_bytes()[at] == b'0' { "1" } else { "0" };
            let mut forged = name.clone();
            forged.replace_range(at..=at, other);
            assert_eq!(addresses.find(&forged), None, "{forged}");
        }
        let mut upper = name.clone();
        upper.replace_range(4..5, "A");
        let shorter = name.split_at(1).1;
        for wrong in ["", shorter, &format!("{name}0"), &upper, "\u{e9}0123456789012345678901234567890"] {
            assert_eq!(addresses.find(wrong), None, "{wrong}");
        }
        assert_eq!(Addresses::default().find(&name), None);
    }
}
