use std::sync::Mutex;

use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

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

/// A clock that stands still until it is set.
#[derive(Debug)]
struct Clock(Mutex<UnixTime>);

impl Clock {
    fn set(&self, year: i32, month: u8, day: u8) {
        let seconds = date_time_ymd(year, month, day).unix_timestamp().try_into().unwrap();
        *self.0.lock().unwrap() = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(*self.0.lock().unwrap())
    }
}

/// Shows the certificate that it has at the moment.
#[derive(Debug)]
struct Robot(Mutex<Arc<CertifiedKey>>);

impl ResolvesClientCert for Robot {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How a handshake with this client ends for the server.
async fn shake_hands(tls: &Tls, client: &Arc<ClientConfig>) -> Result<HandshakeKind, Outcome> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serve = async {
        let done = tls.accept(NetStream::Unix(ours), None).await;
        let (mut stream, _) = done.map_err(|error| error.outcome())?;
        stream.shutdown().await.unwrap();
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    let connect = async {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(client));
        // It may be refused at once, or, in TLS 1.3, after what it takes for the end of the handshake.
        if let Ok(mut stream) = connector.connect(name, theirs).await {
            stream.read_to_end(&mut Vec::new()).await.unwrap_or_default();
        }
    };
    tokio::join!(serve, connect).0
}

#[tokio::test]
async fn a_session_is_resumed_as_long_as_the_certificate_of_its_client_is_good() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let authority = Issuer::new(params, key);
    let issue_until = |year, month, day| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        let cert = params.signed_by(&key, &authority).unwrap().der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        Arc::new(CertifiedKey::from_der(vec![cert], key, &aws_lc_rs::default_provider()).unwrap())
    };
    let (cert, key) = issue(&["localhost"]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()).unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();

    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let certificate = Certificate::parse("a.pem", "a.key", &cert, &key).unwrap();
        let store = CertificateStore::new("public".into(), vec![certificate], &metrics);
        let tls = Tls::new(store, true, Some(ClientAuth::parse("ca.pem", true, &ca).unwrap())).unwrap();
        let clock = Arc::new(Clock(Mutex::new(UnixTime::now())));
        let InForce { config, client_auth, clients } = &*tls.in_force.load_full();
        let mut config = ServerConfig::clone(config);
        config.time_provider = Arc::<Clock>::clone(&clock);
        let (client_auth, clients) = (client_auth.clone(), Arc::clone(clients));
        tls.in_force.store(Arc::new(InForce { config: Arc::new(config), client_auth, clients }));

        let robot = Arc::new(Robot(Mutex::new(issue_until(2030, 1, 2))));
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_cert_resolver(Arc::<Robot>::clone(&robot));
        let client = Arc::new(client);

        clock.set(2030, 1, 1);
        assert_eq!(shake_hands(&tls, &client).await, Ok(HandshakeKind::Full));
        assert_eq!(shake_hands(&tls, &client).await, Ok(HandshakeKind::Resumed));
        clock.set(2030, 1, 3);
        // The session first, then what the client shows when it is asked again.
        for _ in 0..2 {
            assert_eq!(shake_hands(&tls, &client).await, Err(Outcome::ClientCertificate));
        }
        *robot.0.lock().unwrap() = issue_until(2031, 1, 1);
        assert_eq!(shake_hands(&tls, &client).await, Ok(HandshakeKind::Full));
        assert_eq!(shake_hands(&tls, &client).await, Ok(HandshakeKind::Resumed));
    }
}
