//! TLS up to the end of its handshake.
//!
//! Rule: only versions 1.2 and 1.3, with the suites of rustls in the server's order.

mod certificate;
mod choice;
mod store;

pub use certificate::{Certificate, ClientAuth, InvalidCertificate};
pub use store::CertificateStore;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{HandshakeKind, InvalidMessage, ServerConfig, ServerConnection};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::time;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::listener::{NetStream, TlsInfo, TlsMetrics};

/// From the accept, or the end of the PROXY header, until the handshake is complete.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS 1.2 sessions without tickets that can be resumed.
const SESSIONS: usize = 1_024;
/// The protocols that are offered (ALPN).
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";
/// For a client that speaks HTTP in clear where TLS is spoken.
const IN_CLEAR: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 34\r\nConnection: close\r\n\r\nbad_request: this port speaks TLS\n";

/// The side of the server in the handshakes of one listener. What it shows and asks for changes while it runs, for
/// handshakes from then on; connections that are open stay as they are.
pub struct Tls {
    certificates: Arc<CertificateStore>,
    http2: bool,
    in_force: ArcSwap<InForce>,
}

struct InForce {
    config: Arc<ServerConfig>,
    client_auth: Option<ClientAuth>,
    /// What `client_auth` comes to.
    clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Shows the certificates of the store, and asks clients for theirs as `client_auth` says.
    ///
    /// # Errors
    ///
    /// The authorities for clients are not usable, or there is no randomness to be had.
    pub fn new(
        certificates: Arc<CertificateStore>,
        http2: bool,
        client_auth: Option<ClientAuth>,
    ) -> Result<Arc<Self>, TlsError> {
        let in_force = ArcSwap::new(InForce::new(Arc::clone(&certificates), http2, client_auth)?);
        Ok(Arc::new(Self { certificates, http2, in_force }))
    }

    /// The certificates that are shown.
    pub fn certificates(&self) -> &CertificateStore {
        &self.certificates
    }

    /// Whose certificates clients show, if they are to show any.
    pub fn client_auth(&self) -> Option<ClientAuth> {
        self.in_force.load().client_auth.clone()
    }

    /// Asks clients for other certificates. No session of before is resumed: its client is not asked again.
    ///
    /// # Errors
    ///
    /// As of [`Tls::new`]; then all stays as it is.
    pub fn replace_client_auth(&self, client_auth: Option<ClientAuth>) -> Result<(), TlsError> {
        self.in_force.store(InForce::new(Arc::clone(&self.certificates), self.http2, client_auth)?);
        Ok(())
    }

    /// Takes a connection through the handshake, which has 10 s. Counts what comes of it.
    pub(in crate::listener) async fn accept(
        &self,
        stream: NetStream,
        metrics: Option<&TlsMetrics>,
    ) -> Result<(Box<TlsStream<NetStream>>, TlsInfo), HandshakeError> {
        let started_at = Instant::now();
        let done = time::timeout(HANDSHAKE_TIMEOUT, self.handshake(stream)).await;
        let done = done.unwrap_or(Err(HandshakeError::Timeout));
        if let Some(metrics) = metrics {
            metrics.ended(done.as_ref().map_or_else(HandshakeError::outcome, |_| Outcome::Ok));
            if done.is_ok() {
                metrics.duration.observe(started_at.elapsed().as_secs_f64());
            }
        }
        let stream = Box::new(done?);
        let info = info(stream.get_ref().1);
        Ok((stream, info))
    }

    async fn handshake(&self, mut stream: NetStream) -> Result<TlsStream<NetStream>, HandshakeError> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // A record of TLS begins with a small number, a request with the letters of its method.
        if first.first().is_some_and(u8::is_ascii_uppercase) {
            stream.write_all(IN_CLEAR).await?;
            stream.shutdown_write()?;
            // What is left unread would take the answer back.
            let mut request = vec![0; 16 << 10];
            tokio::io::AsyncReadExt::read(&mut stream, &mut request).await?;
            return Err(HandshakeError::InClear);
        }
        let in_force = self.in_force.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&in_force.config)).accept(stream).await?;
        if let Err(error) = in_force.check_resumed(stream.get_ref().1) {
            self.end_sessions(&in_force);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error).into());
        }
        Ok(stream)
    }

    /// Lets no session be resumed that began under what is `in_force`.
    ///
    /// It is too late to ask the client of a resumed session for its certificate. It would come again with that
    /// session, or with those that it was given just now, and could not show the new certificate that it may have.
    fn end_sessions(&self, in_force: &Arc<InForce>) {
        match in_force.with_new_sessions() {
            // What has been put in force meanwhile has new sessions already.
            Ok(fresh) => drop(self.in_force.compare_and_swap(in_force, fresh)),
            Err(error) => tracing::error!(
                listener = self.certificates.listener(),
                %error,
                "the session of a client whose certificate is no longer good stays",
            ),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificates", &self.certificates)
            .field("http2", &self.http2)
            .finish_non_exhaustive()
    }
}

impl InForce {
    fn new(
        certificates: Arc<CertificateStore>,
        http2: bool,
        client_auth: Option<ClientAuth>,
    ) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients: Arc<dyn ClientCertVerifier> = match &client_auth {
            None => Arc::new(NoClientAuth),
            Some(auth) => {
                let roots = Arc::clone(&auth.roots);
                let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                let clients = if auth.required { clients } else { clients.allow_unauthenticated() };
                clients.build().map_err(|error| TlsError(error.to_string()))?
            }
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_cert_resolver(certificates);
        begin_sessions(&mut config)?;
        config.ignore_client_order = true;
        config.alpn_protocols =
            if http2 { vec![HTTP_2, HTTP_1] } else { vec![HTTP_1] }.into_iter().map(<[u8]>::to_vec).collect();
        Ok(Arc::new(Self { config: Arc::new(config), client_auth, clients }))
    }

    /// The same, without the sessions that were begun until now.
    fn with_new_sessions(&self) -> Result<Arc<Self>, TlsError> {
        let mut config = ServerConfig::clone(&self.config);
        begin_sessions(&mut config)?;
        let (client_auth, clients) = (self.client_auth.clone(), Arc::clone(&self.clients));
        Ok(Arc::new(Self { config: Arc::new(config), client_auth, clients }))
    }

    /// Looks again at the certificate that its client has shown when a resumed session began: it may have expired
    /// since, and rustls takes it as good.
    fn check_resumed(&self, connection: &ServerConnection) -> Result<(), rustls::Error> {
        let Some([shown, chain @ ..]) = connection.peer_certificates() else { return Ok(()) };
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let now = self.config.time_provider.current_time();
        let now = now.ok_or(rustls::Error::FailedToGetCurrentTime)?;
        self.clients.verify_client_cert(shown, chain, now).map(|_| ())
    }
}

/// Sessions outlive the certificates: these keys are the listener's, not the store's.
fn begin_sessions(config: &mut ServerConfig) -> Result<(), TlsError> {
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(())
}

/// Why a listener cannot speak TLS.
#[derive(Debug, Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

/// What came of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is complete.
    Ok,
    /// No certificate here is for a client as this.
    NoCertificate,
    /// The client has shown no certificate, or a wrong one.
    ClientCertificate,
    /// There is no version, suite or protocol that both sides speak.
    Incompatible,
    /// The client did not like what it was shown, its certificate most likely.
    Alert,
    /// The bytes are not those of TLS.
    Protocol,
    /// It did not end in time.
    Timeout,
    /// The client left.
    Gone,
}

impl Outcome {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 8] = [
        Self::Ok,
        Self::NoCertificate,
        Self::ClientCertificate,
        Self::Incompatible,
        Self::Alert,
        Self::Protocol,
        Self::Timeout,
        Self::Gone,
    ];

    /// The word in the metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoCertificate => "no_cert",
            Self::ClientCertificate => "client_cert",
            Self::Incompatible => "incompatible",
            Self::Alert => "alert",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
        }
    }
}

/// Why a handshake has failed.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    #[error("it was not complete within 10 s")]
    Timeout,
    #[error("the client speaks HTTP in clear")]
    InClear,
    /// Holds a `rustls::Error` where TLS is to blame.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl HandshakeError {
    fn outcome(&self) -> Outcome {
        use rustls::Error;
        let error = match self {
            Self::Timeout => return Outcome::Timeout,
            Self::InClear => return Outcome::Protocol,
            Self::Io(error) => error,
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            None => Outcome::Gone,
            Some(Error::AlertReceived(_)) => Outcome::Alert,
            Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Outcome::ClientCertificate,
            Some(
                Error::PeerIncompatible(_)
                | Error::NoApplicationProtocol
                | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion),
            ) => Outcome::Incompatible,
            // What rustls says when the store has nothing to show.
            Some(Error::General(_)) => Outcome::NoCertificate,
            Some(_) => Outcome::Protocol,
        }
    }
}

fn info(connection: &ServerConnection) -> TlsInfo {
    let shown = connection.peer_certificates().and_then(|chain| chain.first());
    TlsInfo {
        server_name: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
        http2: connection.alpn_protocol() == Some(HTTP_2),
        client: shown.map(certificate::client),
    }
}

#[cfg(test)]
mod tests;
