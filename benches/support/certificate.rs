//! A certificate for a server on this machine.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use rcgen::CertifiedKey;
use rustls::RootCertStore;

/// Writes `cert.pem` and `key.pem` (P-256) for the address into the directory, and says whom to trust.
pub(crate) fn write(directory: &Path, address: SocketAddr) -> Result<RootCertStore> {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([address.ip().to_string()])?;
    fs::write(directory.join("cert.pem"), cert.pem())?;
    fs::write(directory.join("key.pem"), signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone())?;
    Ok(roots)
}
