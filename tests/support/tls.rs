//! An authority, the certificates that it signs, and a client that trusts it.

use std::io;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS12;
use rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use crate::support::client::{Wire, dial};

/// A connection through TLS.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Wire for TlsStream {
    fn set_read_timeout(&self, limit: Option<Duration>) {
        self.sock.set_read_timeout(limit).unwrap();
    }

    fn shutdown(&self, how: Shutdown) {
        self.sock.shutdown(how).unwrap();
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Issued {
    /// Writes `<name>.pem` and `<name>.key`.
    pub fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.pem")), &self.cert).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), &self.key).unwrap();
    }
}

/// An authority of a test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub cert: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "An authority of tests");
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), cert }
    }

    /// A certificate for these DNS names.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.sign("test", names, &KeyPair::generate().unwrap())
    }

    /// The same with an RSA key.
    pub fn issue_rsa(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        self.sign("test", names, &key)
    }

    /// A certificate of a client with this common name.
    pub fn issue_client(&self, name: &str) -> Issued {
        self.sign(name, &[], &KeyPair::generate().unwrap())
    }

    fn sign(&self, common_name: &str, names: &[&str], key: &KeyPair) -> Issued {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let cert = params.signed_by(key, &self.issuer).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts this authority, and offers HTTP/1.1.
    pub fn client(&self) -> TlsClient {
        TlsClient::new(&self.cert, aws_lc_rs::default_provider(), ALL_VERSIONS, None)
    }

    /// The same without TLS 1.3.
    pub fn client_of_1_2(&self) -> TlsClient {
        TlsClient::new(&self.cert, aws_lc_rs::default_provider(), &[&TLS12], None)
    }

    /// A client that shows this certificate.
    pub fn client_as(&self, identity: &Issued) -> TlsClient {
        TlsClient::new(&self.cert, aws_lc_rs::default_provider(), ALL_VERSIONS, Some(identity))
    }

    /// A client that only takes certificates with RSA keys.
    pub fn client_of_rsa(&self) -> TlsClient {
        let mut provider = aws_lc_rs::default_provider();
        let all = provider.signature_verification_algorithms;
        let is_rsa = |scheme: SignatureScheme| format!("{scheme:?}").contains("RSA");
        // With `all` it still checks the signature of the authority, whose key is another.
        let mapping: Vec<_> = all.mapping.iter().copied().filter(|(scheme, _)| is_rsa(*scheme)).collect();
        provider.signature_verification_algorithms =
            WebPkiSupportedAlgorithms { all: all.all, mapping: Box::leak(mapping.into_boxed_slice()) };
        TlsClient::new(&self.cert, provider, ALL_VERSIONS, None)
    }
}

/// An application that answers each request over TLS, on a connection of its own.
#[derive(Debug)]
pub struct TlsApplication {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl TlsApplication {
    pub fn start(certificate: &Issued) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(server_config(certificate)));
        let in_force = Arc::clone(&config);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let config = Arc::clone(&in_force.lock().unwrap());
                // Whoever does not trust the certificate leaves.
                let _left = stream.and_then(|stream| answer(stream, config));
            }
        });
        Self { address, config }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Shows another certificate from the next connection on.
    pub fn show(&self, certificate: &Issued) {
        *self.config.lock().unwrap() = server_config(certificate);
    }
}

fn server_config(Issued { cert, key }: &Issued) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// A client, with the sessions that it can resume.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A client that trusts this certificate, in PEM, and offers HTTP/1.1.
    pub fn trusting(cert: &str) -> Self {
        Self::new(cert, aws_lc_rs::default_provider(), ALL_VERSIONS, None)
    }

    fn new(
        authority: &str,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Issued>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(Issued { cert, key }) => {
                let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// The same client with these protocols (ALPN); none for no such offer.
    pub fn alpn(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// The settings of this client, for one that does not block.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// Connects and completes the handshake, as far as the client can see.
    ///
    /// # Errors
    ///
    /// The handshake fails. With TLS 1.3 a server that does not like the client only says so afterwards.
    pub fn connect(&self, address: SocketAddr, server_name: &str) -> io::Result<TlsStream> {
        self.connect_over(dial(address), server_name)
    }

    /// The same over a connection that is there.
    pub fn connect_over(&self, mut stream: TcpStream, server_name: &str) -> io::Result<TlsStream> {
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }
}
