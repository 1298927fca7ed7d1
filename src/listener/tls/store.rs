//! The certificates of a listener, which change while it runs.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::IntGaugeVec;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::listener::Metrics;
use crate::listener::tls::certificate::Certificate;
use crate::listener::tls::choice::choose;

/// What new handshakes show. Connections that are open stay as they are.
pub struct CertificateStore {
    listener: Arc<str>,
    certificates: ArcSwap<Vec<Certificate>>,
    not_after: IntGaugeVec,
}

impl CertificateStore {
    /// Puts the certificates of a listener in force; the first is for clients that ask for none of the others.
    pub fn new(listener: Arc<str>, certificates: Vec<Certificate>, metrics: &Metrics) -> Arc<Self> {
        let store = Self { listener, certificates: ArcSwap::default(), not_after: metrics.not_after.clone() };
        store.replace(certificates);
        Arc::new(store)
    }

    /// The name of the listener.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// The certificates in force.
    pub fn load(&self) -> Arc<Vec<Certificate>> {
        self.certificates.load_full()
    }

    /// Puts others in force, for handshakes from now on.
    pub fn replace(&self, certificates: Vec<Certificate>) {
        for one in &certificates {
            self.not_after.with_label_values(&[&*self.listener, one.cert()]).set(one.not_after());
        }
        let before = self.certificates.swap(Arc::new(certificates));
        let now = self.certificates.load();
        for gone in before.iter().filter(|one| now.iter().all(|other| other.cert() != one.cert())) {
            // Two certificates of one file have one series, which may be gone already.
            self.not_after.remove_label_values(&[&*self.listener, gone.cert()]).unwrap_or_default();
        }
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let schemes = hello.signature_schemes();
        let is_usable = |one: &Certificate| one.certified().key.choose_scheme(schemes).is_some();
        let certificates = self.certificates.load();
        let chosen = choose(&certificates, Certificate::names, name.as_deref(), is_usable)?;
        Some(Arc::clone(chosen.certified()))
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CertificateStore").field(&self.load()).finish()
    }
}
