//! Encrypted messages (Fernet), and secrets that do not show.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use fernet::Fernet;
use sha2::{Digest as _, Sha256};

/// A text that must not appear in logs, errors or printed configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The keys of `symmetric_encryption_keys`: the first encrypts, any of them decrypts.
///
/// Rule: `channels_redis` derives a Fernet key from each secret as the SHA-256 of its UTF-8 bytes.
#[derive(Clone)]
pub(super) struct Keyring {
    ciphers: Vec<Fernet>,
}

impl Keyring {
    /// Derives the keys. No secret, no encryption.
    pub(super) fn new(secrets: &[Secret]) -> Self {
        let cipher = |secret: &Secret| Fernet::new(&URL_SAFE.encode(Sha256::digest(secret.reveal())));
        Self { ciphers: secrets.iter().filter_map(cipher).collect() }
    }

    /// The token of a message, or the message itself when there is no key.
    pub(super) fn seal(&self, body: Vec<u8>) -> Vec<u8> {
        match self.ciphers.first() {
            Some(cipher) => cipher.encrypt(&body).into_bytes(),
            None => body,
        }
    }

    /// The message of a token, `None` when no key opens it. The age of a token does not matter, in the
    /// pub/sub layer of `channels_redis` neither.
    pub(super) fn open(&self, token: &[u8]) -> Option<Vec<u8>> {
        let token = std::str::from_utf8(token).ok()?;
        // The clock is put as far ahead as it goes, since a sender's may be ahead of ours.
        let clock = u64::MAX - 60;
        self.ciphers.iter().find_map(|cipher| cipher.decrypt_at_time(token, None, clock).ok())
    }

    /// Whether there is no key.
    pub(super) fn is_empty(&self) -> bool {
        self.ciphers.is_empty()
    }
}

/// When a token was made, in seconds since 1970, as it says itself: whether it is genuine only its key tells.
pub(super) fn sealed_at(token: &[u8]) -> Option<u64> {
    // A byte of version and 8 of time.
    let head = URL_SAFE.decode(token.get(..12)?).ok()?;
    match *head {
        [0x80, ref time @ ..] => Some(u64::from_be_bytes(time.try_into().ok()?)),
        _ => None,
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.ciphers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_seals_and_any_opens() {
        let (old, new) = (Secret::new("k1"), Secret::new("new"));
        let sealed = Keyring::new(std::slice::from_ref(&old)).seal(b"body".to_vec());
        assert_ne!(sealed, b"body");
        assert_eq!(Keyring::new(&[new.clone(), old]).open(&sealed).as_deref(), Some(&b"body"[..]));
        assert_eq!(Keyring::new(&[new]).open(&sealed), None);
        assert_eq!(Keyring::new(&[]).open(&sealed), None);
    }

    #[test]
    fn a_token_from_a_clock_ahead_of_ours_is_opened() {
        let keys = Keyring::new(&[Secret::new("k1")]);
        let token = keys.ciphers[0].encrypt_at_time(b"body", 40_000_000_000);
        assert_eq!(keys.open(token.as_bytes()).as_deref(), Some(&b"body"[..]));
    }

    #[test]
    fn a_token_says_when_it_was_made() {
        let keys = Keyring::new(&[Secret::new("k1")]);
        for time in [0, 1_750_000_000, u64::MAX] {
            let token = keys.ciphers[0].encrypt_at_time(b"body", time);
            assert_eq!(sealed_at(token.as_bytes()), Some(time));
        }
        for token in
            [&b""[..], b"gAAAAAB", b"AAAAAAAAAAAAAAAA", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(sealed_at(token), None);
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "*** ***");
        assert_eq!(format!("{:?}", Keyring::new(&[secret])), "Keyring(1 keys)");
    }
}
