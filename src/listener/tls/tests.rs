use prometheus::Registry;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::UnixStream;

use super::*;
use crate::listener::Metrics;

/// A certificate for these names and its key, in PEM.
fn issue(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_certificate_is_read_with_its_key_or_not_at_all() {
    let (cert, key) = issue(&["App.example.com", "*.example.org"]);
    let (_, other_key) = issue(&["app.example.com"]);
    let parsed = Certificate::parse("a.pem", "a.key", &cert, &key).unwrap();
    assert_eq!(parsed.names(), ["app.example.com", "*.example.org"]);
    assert_eq!((parsed.cert(), parsed.key()), ("a.pem", "a.key"));
    assert!(!format!("{parsed:?}").contains("PRIVATE"));
    let half = cert.get(..cert.len() / 2).unwrap();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let rubbish = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cases = [
        ("", &*key, "there is no certificate in it (`-----BEGIN CERTIFICATE-----`)"),
        ("rubbish", &*key, "there is no certificate in it (`-----BEGIN CERTIFICATE-----`)"),
        (&*key, &*key, "there is no certificate in it (`-----BEGIN CERTIFICATE-----`)"),
        (half, &*key, "the certificate cannot be read"),
        (&*cert, "", "there is no private key in it (`-----BEGIN PRIVATE KEY-----`)"),
        (&*cert, &*cert, "there is no private key in it (`-----BEGIN PRIVATE KEY-----`)"),
        (&*cert, encrypted, "the private key is encrypted; `openssl pkey` takes the passphrase off"),
        (&*cert, rubbish, "the private key cannot be used"),
        (&*cert, &*other_key, "the private key is not that of the certificate"),
    ];
    for (cert, key, why) in cases {
        let error = Certificate::parse("a.pem", "a.key", cert, key).unwrap_err();
        assert!(error.to_string().starts_with(why), "{error} in place of {why}");
    }
    assert!(ClientAuth::parse("ca.pem", true, "").is_err());
    assert!(ClientAuth::parse("ca.pem", true, &cert).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_ten_seconds() {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let (cert, key) = issue(&["localhost"]);
    let certificate = Certificate::parse("a.pem", "a.key", &cert, &key).unwrap();
    let store = CertificateStore::new("public".into(), vec![certificate], &metrics);
    let tls = Tls::new(store, true, None).unwrap();
    let handles = metrics.listener("public", true).tls;
    // Nothing at all, and the start of a record that never ends.
    for start in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.try_write(start).unwrap();
        let started_at = Instant::now();
        let done = tls.accept(NetStream::Unix(ours), handles.as_ref()).await;
        assert!(matches!(done, Err(HandshakeError::Timeout)));
        assert_eq!(started_at.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
        drop(theirs);
    }
}
