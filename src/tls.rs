//! The client side of TLS: whom to take for a server, and what to show it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What of a server's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// That an authority has signed it, and for this name.
    #[default]
    Name,
    /// That an authority has signed it, for whatever name.
    Authority,
    /// Nothing: anybody is taken for the server.
    Nothing,
}

/// A file of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// As the configuration names it.
    pub path: String,
    /// What it holds.
    pub pem: String,
}

impl CaFile {
    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// Why not, naming the file.
    pub fn check(&self) -> Result<(), String> {
        self.certificates().map(|_| ())
    }

    /// The certificates in it, at least one.
    fn certificates(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("`{}`: {error}", self.path))?;
            roots.add(certificate).map_err(|error| format!("`{}`: {error}", self.path))?;
        }
        if roots.is_empty() {
            return Err(format!("`{}` holds no certificate", self.path));
        }
        Ok(roots)
    }
}

/// A certificate to show, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The file of the chain, as the configuration names it.
    pub cert: String,
    /// The file of the key.
    pub key: String,
    /// What the first holds.
    pub cert_pem: String,
    /// What the second holds. It is never shown.
    pub key_pem: String,
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Identity {
    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// Why not, naming the file that is to blame.
    pub fn check(&self) -> Result<(), String> {
        let (chain, key) = self.read()?;
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(format!("`{}` is not the key of the certificate in `{}`", self.key, self.cert))
            }
            Err(rustls::Error::InvalidCertificate(error)) => Err(format!("`{}`: {error:?}", self.cert)),
            // Its words could show parts of the key.
            Err(_) => Err(format!("the key in `{}` cannot be used", self.key)),
        }
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("`{}`: {error}", self.cert))?;
        if chain.is_empty() {
            return Err(format!("`{}` holds no certificate", self.cert));
        }
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| {
            let hint = if self.key_pem.contains("ENCRYPTED") { ": it needs a passphrase" } else { "" };
            format!("`{}` holds no private key that can be read{hint}", self.key)
        })?;
        Ok((chain, key))
    }
}

/// How to talk TLS to servers that have these traits in common.
///
/// Without authorities of its own it is those of the system that count.
///
/// # Errors
///
/// A file cannot be used, or the system has no authorities.
pub fn client_config(
    verify: Verify,
    ca: Option<&CaFile>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let roots = || ca.map_or_else(system, CaFile::certificates);
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        Verify::Name => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots()?), provider);
            verifier.build().map_err(|error| error.to_string())?
        }
        Verify::Authority => Arc::new(Lenient { provider, roots: Some(roots()?) }),
        Verify::Nothing => Arc::new(Lenient { provider, roots: None }),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = identity.read()?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|_| format!("the key in `{}` cannot be used", identity.key))
}

/// Whether the system has authorities, for settings that name none.
///
/// # Errors
///
/// It has none.
pub fn find_authorities() -> Result<(), String> {
    system().map(|_| ())
}

/// The authorities of the system.
fn system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "an authority of the system cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no authorities, and the configuration names none".to_owned());
    }
    Ok(roots)
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Checks less than it could, because the configuration says so.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    /// Who must have signed the certificate, if it matters.
    roots: Option<RootCertStore>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(certificate)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
