//! The client's side of a connection: the handshake, in clear or through TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

// The example of RFC 6455, section 1.3: the load does not need a fresh key.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How many handshakes are under way at once while sockets are opened: well within any backlog.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Where a server is, and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A connection.
pub(crate) struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    is_nonblocking: bool,
}

impl Stream {
    /// Connects; through TLS, the handshake is complete then.
    pub(crate) fn connect(to: &Endpoint) -> Result<Self> {
        let mut tcp = TcpStream::connect_timeout(&to.address, HANDSHAKE_MAX).context("connect")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(HANDSHAKE_MAX))?;
        let Some(config) = &to.tls else { return Ok(Self { tcp, tls: None, is_nonblocking: false }) };
        let name = ServerName::IpAddress(to.address.ip().into());
        let mut session = Box::new(ClientConnection::new(Arc::clone(config), name)?);
        while session.is_handshaking() {
            session.complete_io(&mut tcp).context("the handshake of TLS")?;
        }
        Ok(Self { tcp, tls: Some(session), is_nonblocking: false })
    }

    pub(crate) fn set_nonblocking(&mut self) -> io::Result<()> {
        self.is_nonblocking = true;
        self.tcp.set_nonblocking(true)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Read for Stream {
    /// As from a socket: what is there, and less than there is room for only when there is no more.
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.tls else { return self.tcp.read(output) };
        let mut len = 0;
        while len < output.len() && (len == 0 || self.is_nonblocking) {
            match session.reader().read(&mut output[len..]) {
                Ok(0) => break,
                Ok(more) => {
                    len += more;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => (),
                Err(error) => return Err(error),
            }
            match session.read_tls(&mut self.tcp) {
                Ok(_) => session.process_new_packets().map_err(io::Error::other)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock && 0 < len => break,
                Err(error) => return Err(error),
            };
        }
        Ok(len)
    }
}

impl Write for Stream {
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.tls else { return self.tcp.write(input) };
        let len = session.writer().write(input)?;
        while session.wants_write() {
            session.write_tls(&mut self.tcp)?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens one socket for each path, in order, non-blocking and past its handshake.
pub(crate) fn open_all(to: &Endpoint, paths: &[String]) -> Result<Vec<Stream>> {
    let mut opened = Vec::with_capacity(paths.len());
    for chunk in paths.chunks(HANDSHAKES_MAX) {
        let mut under_way = Vec::with_capacity(chunk.len());
        for path in chunk {
            under_way.push(begin(to, path)?);
        }
        for mut stream in under_way {
            finish(&mut stream).with_context(|| format!("handshake {}", opened.len() + 1))?;
            stream.set_nonblocking()?;
            opened.push(stream);
        }
    }
    Ok(opened)
}

/// Connects and sends the request; the answer is still to be read.
pub(crate) fn begin(to: &Endpoint, path: &str) -> Result<Stream> {
    let mut stream = Stream::connect(to)?;
    let address = to.address;
    let scheme = if to.tls.is_some() { "https" } else { "http" };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: {scheme}://{address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    send(&mut stream, request.as_bytes())?;
    Ok(stream)
}

/// The length of the server's answer at the start of `input`, `None` when it is not whole yet.
///
/// # Errors
///
/// The answer is no 101 with the right accept key.
pub(crate) fn answer_len(input: &[u8]) -> Result<Option<usize>> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&input[..end])?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 101"), "the server refused: {status}");
    let accepted = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT);
    ensure!(accepted, "the answer has a wrong accept key");
    Ok(Some(end + 4))
}

/// Sends all of `bytes`. The load is small enough for any socket buffer, so a short write is a fault.
pub(crate) fn send(stream: &mut Stream, bytes: &[u8]) -> Result<()> {
    let len = stream.write(bytes).context("send")?;
    ensure!(len == bytes.len(), "the kernel took {len} of {} bytes", bytes.len());
    Ok(())
}

/// Reads what is there: `None` when there is nothing, 0 at the end of the stream.
pub(crate) fn receive(stream: &mut Stream, input: &mut [u8]) -> Result<Option<usize>> {
    match stream.read(input) {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("receive"),
    }
}

fn finish(stream: &mut Stream) -> Result<()> {
    let mut input = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            bail!("the server hung up");
        }
        input.extend_from_slice(&chunk[..len]);
        if let Some(len) = answer_len(&input)? {
            ensure!(len == input.len(), "the server spoke before it was asked");
            return Ok(());
        }
    }
}
