//! The files that a configuration was made of beside its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::config::{SecretSource, Secrets};

/// Which files were read for a configuration, and what each of them held.
///
/// Those of listeners are not among them: what listeners show and ask for changes without the rest.
#[derive(Clone, Default)]
pub struct ReadFiles(BTreeMap<String, [u8; 32]>);

impl ReadFiles {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that does not hold what it did, or cannot be read any more.
    pub fn changed(&self, secrets: &dyn Secrets) -> Option<&str> {
        let is_same = |path: &str, digest| {
            let text = secrets.read(&SecretSource::File(path.to_owned()));
            text.is_ok_and(|text| digest_of(&text) == digest)
        };
        self.0.iter().find(|(path, digest)| !is_same(path, **digest)).map(|(path, _)| &**path)
    }
}

/// Without the digests: that of a short secret gives it away.
impl fmt::Debug for ReadFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Notes which files are read.
pub(super) struct Noting<'a> {
    secrets: &'a dyn Secrets,
    files: RefCell<ReadFiles>,
}

impl<'a> Noting<'a> {
    pub(super) fn new(secrets: &'a dyn Secrets) -> Self {
        Self { secrets, files: RefCell::default() }
    }

    /// To read what is not to be noted.
    pub(super) fn unnoted(&self) -> &'a dyn Secrets {
        self.secrets
    }

    pub(super) fn into_files(self) -> ReadFiles {
        self.files.into_inner()
    }
}

impl Secrets for Noting<'_> {
    fn read(&self, source: &SecretSource) -> Result<String, String> {
        let text = self.secrets.read(source)?;
        if let SecretSource::File(path) = source {
            // Of a file that changes between two readings the first counts, so that the next look finds a change.
            self.files.borrow_mut().0.entry(path.clone()).or_insert_with(|| digest_of(&text));
        }
        Ok(text)
    }

    fn find_folder(&self, path: &str) -> Result<(), String> {
        self.secrets.find_folder(path)
    }

    fn find_authorities(&self) -> Result<(), String> {
        self.secrets.find_authorities()
    }
}

fn digest_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
