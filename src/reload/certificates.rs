//! Certificates in force: read again when their files change, however they are written.
//!
//! Their content is looked at each second. A renewal swaps links and directories in more ways than a watcher
//! can be told of, and there are few of them.

use std::path::Path;
use std::sync::Arc;

use crate::config::{SecretSource, Secrets as _};
use crate::listener::{Certificate, CertificateStore};
use crate::reload::{CertificateProblem, FileSecrets};

/// The certificates of all listeners that speak TLS.
#[derive(Debug)]
pub(super) struct Certificates {
    stores: Vec<Arc<CertificateStore>>,
    secrets: Arc<FileSecrets>,
    problems: Vec<Problem>,
}

/// Files that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    what: CertificateProblem,
    /// Of their content, or what the system says.
    state: State,
    /// It was there when they were looked at again. Until then they may be half written.
    is_lasting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Read([u8; 32]),
    Unreadable,
}

/// What a change has come to: the certificate that is in force now, or why it is not.
pub(super) type Change = Result<String, CertificateProblem>;

impl Certificates {
    /// The certificates of these stores, whose files are relative to the configuration at `path`.
    pub(super) fn new(stores: Vec<Arc<CertificateStore>>, path: &Path) -> Self {
        Self { stores, secrets: Arc::new(FileSecrets::beside(path)), problems: Vec::new() }
    }

    /// Puts the certificates of a configuration in force; says how many lists have changed.
    ///
    /// Whether a listener speaks TLS at all takes a restart.
    pub(super) fn replace(&mut self, listeners: Vec<(String, Vec<Certificate>)>) -> usize {
        let mut changes = 0;
        for (name, certificates) in listeners {
            let store = self.stores.iter().find(|store| store.listener() == name);
            if let Some(store) =
                store.filter(|store| !certificates.is_empty() && *store.load() != certificates)
            {
                store.replace(certificates);
                changes += 1;
            }
        }
        changes
    }

    /// Looks at all files, and takes those that have changed to something good. Gives what is new to tell, and
    /// all files that cannot be used.
    pub(super) async fn look(&mut self) -> (Vec<Change>, Vec<CertificateProblem>) {
        if self.stores.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let (stores, secrets, before) =
            (self.stores.clone(), Arc::clone(&self.secrets), self.problems.clone());
        // A network file system may take its time; the accept loops must not wait for it.
        let looking = tokio::task::spawn_blocking(move || look(&stores, &secrets, &before));
        let Ok((changes, problems)) = looking.await else { return (Vec::new(), self.lasting()) };
        self.problems = problems;
        (changes, self.lasting())
    }

    fn lasting(&self) -> Vec<CertificateProblem> {
        let lasting = self.problems.iter().filter(|problem| problem.is_lasting);
        lasting.map(|problem| problem.what.clone()).collect()
    }
}

fn look(
    stores: &[Arc<CertificateStore>],
    secrets: &FileSecrets,
    before: &[Problem],
) -> (Vec<Change>, Vec<Problem>) {
    let (mut changes, mut problems) = (Vec::new(), Vec::new());
    for store in stores {
        let mut certificates = Vec::clone(&store.load());
        let mut changed = false;
        for certificate in &mut certificates {
            let (state, read) = match read(certificate, secrets) {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(why) => (State::Unreadable, Err(why)),
            };
            match read {
                Ok(good) => {
                    changes.push(Ok(good.cert().to_owned()));
                    *certificate = good;
                    changed = true;
                }
                Err(error) => {
                    let listener = store.listener().to_owned();
                    let what = CertificateProblem { listener, cert: certificate.cert().to_owned(), error };
                    let known = before.iter().find(|known| known.what == what && known.state == state);
                    if known.is_some_and(|known| !known.is_lasting) {
                        changes.push(Err(what.clone()));
                    }
                    problems.push(Problem { what, state, is_lasting: known.is_some() });
                }
            }
        }
        if changed {
            store.replace(certificates);
        }
    }
    (changes, problems)
}

/// A certificate and key as they are read, or why they cannot be used.
type Read = Result<Certificate, String>;

/// Reads the files of a certificate; `None` if they are those in force.
///
/// # Errors
///
/// One of them cannot be read.
fn read(certificate: &Certificate, secrets: &FileSecrets) -> Result<Option<(State, Read)>, String> {
    let text = |path: &str| {
        let text = secrets.read(&SecretSource::File(path.to_owned()));
        text.map_err(|why| format!("`{path}`: {why}"))
    };
    let (cert, key) = (certificate.cert(), certificate.key());
    let (cert_pem, key_pem) = (text(cert)?, text(key)?);
    let digest = Certificate::digest_of(&cert_pem, &key_pem);
    if digest == certificate.digest() {
        return Ok(None);
    }
    let parsed = Certificate::parse(cert, key, &cert_pem, &key_pem);
    let parsed = parsed.map_err(|error| format!("`{}`: {error}", if error.is_of_key() { key } else { cert }));
    Ok(Some((State::Read(digest), parsed)))
}
