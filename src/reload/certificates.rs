//! Certificates in force, and authorities for those of clients: read again when their files change, however they are
//! written.
//!
//! Their content is looked at each second. A renewal swaps links and directories in more ways than a watcher
//! can be told of, and there are few of them.

use std::path::Path;
use std::sync::Arc;

use crate::config::{ListenerConfig, SecretSource, Secrets as _};
use crate::listener::{Certificate, ClientAuth, Tls};
use crate::reload::{CertificateProblem, FileSecrets};

/// The certificates of all listeners that speak TLS.
#[derive(Debug)]
pub(super) struct Certificates {
    listeners: Vec<Arc<Tls>>,
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

/// What a change has come to: the file whose content is in force now, or why it is not.
pub(super) type Change = Result<String, CertificateProblem>;

impl Certificates {
    /// The certificates of these listeners, whose files are relative to the configuration at `path`.
    pub(super) fn new(listeners: Vec<Arc<Tls>>, path: &Path) -> Self {
        Self { listeners, secrets: Arc::new(FileSecrets::beside(path)), problems: Vec::new() }
    }

    /// Puts the certificates and authorities of a configuration in force; says how many lists have changed.
    ///
    /// Whether a listener speaks TLS at all takes a restart.
    pub(super) fn replace(&mut self, listeners: Vec<ListenerConfig>) -> usize {
        let mut changes = 0;
        for ListenerConfig { name, tls: certificates, client_auth, .. } in listeners {
            let tls = self.listeners.iter().find(|tls| tls.certificates().listener() == name);
            let Some(tls) = tls.filter(|_| !certificates.is_empty()) else { continue };
            if *tls.certificates().load() != certificates {
                tls.certificates().replace(certificates);
                changes += 1;
            }
            if tls.client_auth() != client_auth {
                match tls.replace_client_auth(client_auth) {
                    Ok(()) => changes += 1,
                    Err(error) => tracing::error!(
                        listener = name,
                        %error,
                        "`client_ca` cannot be put in force, what was before stays"
                    ),
                }
            }
        }
        changes
    }

    /// Looks at all files, and takes those that have changed to something good. Gives what is new to tell, and
    /// all files that cannot be used.
    pub(super) async fn look(&mut self) -> (Vec<Change>, Vec<CertificateProblem>) {
        if self.listeners.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let (listeners, secrets, before) =
            (self.listeners.clone(), Arc::clone(&self.secrets), self.problems.clone());
        // A network file system may take its time; the accept loops must not wait for it.
        let looking = tokio::task::spawn_blocking(move || look(&listeners, &secrets, &before));
        let Ok((changes, problems)) = looking.await else { return (Vec::new(), self.lasting()) };
        self.problems = problems;
        (changes, self.lasting())
    }

    fn lasting(&self) -> Vec<CertificateProblem> {
        let lasting = self.problems.iter().filter(|problem| problem.is_lasting);
        lasting.map(|problem| problem.what.clone()).collect()
    }
}

fn look(listeners: &[Arc<Tls>], secrets: &FileSecrets, before: &[Problem]) -> (Vec<Change>, Vec<Problem>) {
    let mut report = Report { before, changes: Vec::new(), problems: Vec::new() };
    for tls in listeners {
        let store = tls.certificates();
        let mut certificates = Vec::clone(&store.load());
        let mut changed = false;
        for certificate in &mut certificates {
            let read = read_pair(certificate, secrets);
            if let Some(good) = report.add(store.listener(), certificate.cert(), read) {
                *certificate = good;
                changed = true;
            }
        }
        if changed {
            store.replace(certificates);
        }
        if let Some(auth) = tls.client_auth() {
            let renewed = renew_authorities(tls, &auth, secrets);
            report.add(store.listener(), &auth.ca, renewed);
        }
    }
    (report.changes, report.problems)
}

/// What a look at all files has found.
struct Report<'a> {
    before: &'a [Problem],
    changes: Vec<Change>,
    problems: Vec<Problem>,
}

impl Report<'_> {
    /// Notes what was found in a file, and gives what is good and new.
    fn add<T>(&mut self, listener: &str, file: &str, read: Read<T>) -> Option<T> {
        let (state, found) = match read {
            Ok(read) => read?,
            Err(why) => (State::Unreadable, Err(why)),
        };
        match found {
            Ok(good) => {
                self.changes.push(Ok(file.to_owned()));
                Some(good)
            }
            Err(error) => {
                let what = CertificateProblem { listener: listener.to_owned(), file: file.to_owned(), error };
                let known = self.before.iter().find(|known| known.what == what && known.state == state);
                if known.is_some_and(|known| !known.is_lasting) {
                    self.changes.push(Err(what.clone()));
                }
                self.problems.push(Problem { what, state, is_lasting: known.is_some() });
                None
            }
        }
    }
}

/// What files hold, or why that cannot be used; `None` if it is in force. An error if one cannot be read.
type Read<T> = Result<Option<(State, Result<T, String>)>, String>;

fn read_pair(in_force: &Certificate, secrets: &FileSecrets) -> Read<Certificate> {
    let (cert, key) = (in_force.cert(), in_force.key());
    let (cert_pem, key_pem) = (read(cert, secrets)?, read(key, secrets)?);
    let digest = Certificate::digest_of(&cert_pem, &key_pem);
    if digest == in_force.digest() {
        return Ok(None);
    }
    let parsed = Certificate::parse(cert, key, &cert_pem, &key_pem);
    let parsed = parsed.map_err(|error| format!("`{}`: {error}", if error.is_of_key() { key } else { cert }));
    Ok(Some((State::Read(digest), parsed)))
}

/// Puts the authorities that a file holds now in force.
fn renew_authorities(tls: &Tls, in_force: &ClientAuth, secrets: &FileSecrets) -> Read<()> {
    let ClientAuth { ca, required, .. } = in_force;
    let pem = read(ca, secrets)?;
    let digest = ClientAuth::digest_of(&pem);
    if digest == in_force.digest() {
        return Ok(None);
    }
    let parsed = ClientAuth::parse(ca, *required, &pem).map_err(|error| format!("`{ca}`: {error}"));
    let renewed =
        parsed.and_then(|auth| tls.replace_client_auth(Some(auth)).map_err(|error| error.to_string()));
    Ok(Some((State::Read(digest), renewed)))
}

fn read(path: &str, secrets: &FileSecrets) -> Result<String, String> {
    secrets.read(&SecretSource::File(path.to_owned())).map_err(|why| format!("`{path}`: {why}"))
}
