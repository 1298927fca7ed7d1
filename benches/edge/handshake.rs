//! TLS connections that come and go: connect, handshake, one request answered, end of the stream.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, version};

use crate::http;
use crate::support::client::Endpoint;
use crate::support::cycles;
use crate::support::poll::{Poller, Trigger};
use crate::support::report::Counts;
use crate::target::FIXED;

/// What each client keeps: more than a server hands out on one connection.
const TICKETS_MAX: usize = 8;
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Clients that connect again and again.
pub(crate) struct Clients {
    to: Endpoint,
    name: ServerName<'static>,
    request: Vec<u8>,
    /// One for each client, so that it has tickets of its own.
    configs: Vec<Arc<ClientConfig>>,
}

struct Cycle {
    tcp: TcpStream,
    session: ClientConnection,
    input: Vec<u8>,
}

impl Clients {
    /// Clients that come back with what the server gave them, if they are to resume.
    pub(crate) fn new(to: &Endpoint, resume: bool, count: usize) -> Result<Self> {
        let config = to.tls.as_deref().context("an endpoint without TLS")?;
        let own = |_| {
            let mut config = config.clone();
            config.resumption =
                if resume { Resumption::in_memory_sessions(TICKETS_MAX) } else { Resumption::disabled() };
            Arc::new(config)
        };
        Ok(Self {
            to: to.clone(),
            name: ServerName::IpAddress(to.address.ip().into()),
            request: http::request(to, FIXED, "Connection: close\r\n"),
            configs: (0..count).map(own).collect(),
        })
    }

    /// Goes through `cycles` cycles, one of each client at any time. All of them have handshakes of this kind, if
    /// any is given.
    pub(crate) fn run(&self, cycles: usize, kind: Option<HandshakeKind>) -> Result<Counts> {
        let advance = |cycle: &mut Cycle| {
            if !cycle.advance()? {
                return Ok(false);
            }
            let answered = http::answer_len(&cycle.input, http::SMALL_LEN)?.context("half an answer")?;
            ensure!(answered == cycle.input.len(), "the server said more than it was asked");
            let done = cycle.session.handshake_kind();
            ensure!(kind.is_none() || done == kind, "a handshake of the kind {done:?}");
            Ok(true)
        };
        cycles::run(self.configs.len(), cycles, |poller, token| self.begin(poller, token), advance)
    }

    fn begin(&self, poller: &Poller, token: usize) -> Result<Cycle> {
        let tcp = TcpStream::connect_timeout(&self.to.address, CONNECT_MAX).context("connect")?;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        poller.add(&tcp, token, Trigger::Level)?;
        let mut session = ClientConnection::new(Arc::clone(&self.configs[token]), self.name.clone())?;
        // It waits there for the end of the handshake.
        session.writer().write_all(&self.request)?;
        let mut cycle = Cycle { tcp, session, input: Vec::new() };
        cycle.flush()?;
        Ok(cycle)
    }
}

impl Cycle {
    /// Takes one read; `true` when the stream has ended.
    fn advance(&mut self) -> Result<bool> {
        match self.session.read_tls(&mut self.tcp) {
            Ok(0) => return Ok(true),
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("receive"),
        }
        self.session.process_new_packets().context("TLS")?;
        match self.session.reader().read_to_end(&mut self.input) {
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            Err(error) => return Err(error.into()),
        }
        self.flush()?;
        Ok(false)
    }

    fn flush(&mut self) -> Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.tcp).context("send")?;
        }
        Ok(())
    }
}

/// TLS 1.3 with X25519, which both servers have: neither is asked for a harder exchange than the other.
pub(crate) fn config(roots: RootCertStore) -> Result<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Ok(ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
