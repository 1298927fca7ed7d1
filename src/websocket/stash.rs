//! A few bytes kept in place, without an allocation of their own.

/// Up to `N` bytes. What does not fit is not taken: every user has a rule that keeps it below `N`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stash<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Stash<N> {
    pub(super) fn extend(&mut self, more: &[u8]) {
        let room = self.bytes.iter_mut().skip(self.len.into());
        for (slot, byte) in room.zip(more) {
            *slot = *byte;
            self.len += 1;
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}

impl<const N: usize> Default for Stash<N> {
    fn default() -> Self {
        const { assert!(N <= 255, "the length is kept in one byte") };
        Self { bytes: [0; N], len: 0 }
    }
}
