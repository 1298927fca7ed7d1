//! A certificate with its key, and the authorities that clients' certificates are checked against.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::listener::ClientCertificate;

/// A chain of certificates and the key of its first. Immutable; whoever holds it goes on with it.
#[derive(Clone)]
pub struct Certificate {
    cert: Arc<str>,
    key: Arc<str>,
    digest: [u8; 32],
    /// In lower case; `*.` in front for one label of any name.
    names: Arc<[String]>,
    not_after: i64,
    certified: Arc<CertifiedKey>,
}

/// Why two texts are no certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidCertificate {
    /// The first text has no certificate in it.
    #[error("there is no certificate in it (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// A certificate that cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The second text has no key in it.
    #[error("there is no private key in it (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    /// The key can only be read with a passphrase, which nobody is there to give.
    #[error("the private key is encrypted; `openssl pkey` takes the passphrase off")]
    EncryptedKey,
    /// A key that cannot be read, or of a kind that is not known.
    #[error("the private key cannot be used")]
    Key,
    /// The key is that of another certificate.
    #[error("the private key is not that of the certificate")]
    Mismatch,
}

impl InvalidCertificate {
    /// Whether the key is to blame, and not the certificate.
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::EncryptedKey | Self::Key | Self::Mismatch)
    }
}

impl Certificate {
    /// Reads a chain and a key, in PEM, that stand in files of these names.
    ///
    /// # Errors
    ///
    /// One of the texts is not what it should be, or they do not belong together.
    pub fn parse(cert: &str, key: &str, cert_pem: &str, key_pem: &str) -> Result<Self, InvalidCertificate> {
        let chain = read_chain(cert_pem)?;
        let first = chain.first().ok_or(InvalidCertificate::NoCertificate)?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|error| InvalidCertificate::Certificate(error.to_string()))?;
        let not_after = parsed.validity().not_after.timestamp();
        let names = names(&parsed);
        let private = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| {
            let is_encrypted = key_pem.contains("ENCRYPTED");
            if is_encrypted { InvalidCertificate::EncryptedKey } else { InvalidCertificate::NoKey }
        })?;
        let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => InvalidCertificate::Mismatch,
            rustls::Error::InvalidCertificate(error) => InvalidCertificate::Certificate(format!("{error:?}")),
            // Its words could show parts of the key.
            _ => InvalidCertificate::Key,
        })?;
        Ok(Self {
            cert: cert.into(),
            key: key.into(),
            digest: Self::digest_of(cert_pem, key_pem),
            names: names.into(),
            not_after,
            certified: Arc::new(certified),
        })
    }

    /// Tells two pairs of texts apart.
    pub fn digest_of(cert_pem: &str, key_pem: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        for text in [cert_pem, key_pem] {
            digest.update(text.len().to_be_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }

    /// The file of the chain, as it is configured.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// The file of the key, as it is configured.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The digest of the texts that it was read from.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The names that it is for, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("cert", &self.cert)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Of the same files with the same content.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.cert == other.cert && self.key == other.key && self.digest == other.digest
    }
}

impl Eq for Certificate {}

/// The authorities whose signature makes a client's certificate good.
#[derive(Clone)]
pub struct ClientAuth {
    /// The file, as it is configured.
    pub ca: String,
    /// Whether a client without a certificate is refused.
    pub required: bool,
    digest: [u8; 32],
    pub(super) roots: Arc<RootCertStore>,
}

impl ClientAuth {
    /// Reads certificates of authorities, in PEM, that stand in a file of this name.
    ///
    /// # Errors
    ///
    /// There is none, or one that cannot be used.
    pub fn parse(ca: &str, required: bool, pem: &str) -> Result<Self, InvalidCertificate> {
        let mut roots = RootCertStore::empty();
        for certificate in read_chain(pem)? {
            roots.add(certificate).map_err(|error| InvalidCertificate::Certificate(error.to_string()))?;
        }
        let (ca, roots) = (ca.to_owned(), Arc::new(roots));
        Ok(Self { ca, required, digest: Self::digest_of(pem), roots })
    }

    /// Tells two texts apart.
    pub fn digest_of(pem: &str) -> [u8; 32] {
        Sha256::digest(pem.as_bytes()).into()
    }

    /// The digest of the text that they were read from.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth")
            .field("ca", &self.ca)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        self.ca == other.ca && self.required == other.required && self.digest == other.digest
    }
}

impl Eq for ClientAuth {}

/// What is kept of a client's certificate, whose signature was checked.
pub(super) fn client(certificate: &CertificateDer<'_>) -> ClientCertificate {
    let subject = match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => parsed.subject().to_string(),
        Err(_) => String::new(),
    };
    let subject: String = subject.chars().filter(|ch| !ch.is_control()).collect();
    let sha256 = format!("{:x}", Sha256::digest(certificate));
    ClientCertificate { subject: subject.into(), sha256: sha256.into() }
}

/// The certificates of a text, at least one.
fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, InvalidCertificate> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| InvalidCertificate::Certificate(error.to_string()))?;
    if chain.is_empty() { Err(InvalidCertificate::NoCertificate) } else { Ok(chain) }
}

/// The DNS names of the certificate. The common name has not counted for long.
///
/// Rule: RFC 6125, section 6.4.4.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
