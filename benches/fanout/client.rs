//! The client's side of the handshake.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

// The example of RFC 6455, section 1.3: the load does not need a fresh key.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How many handshakes are under way at once while sockets are opened: well within any backlog.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Opens one socket for each path, in order, non-blocking and past its handshake.
pub(crate) fn open_all(address: SocketAddr, paths: &[String]) -> Result<Vec<TcpStream>> {
    let mut opened = Vec::with_capacity(paths.len());
    for chunk in paths.chunks(HANDSHAKES_MAX) {
        let mut under_way = Vec::with_capacity(chunk.len());
        for path in chunk {
            under_way.push(begin(address, path)?);
        }
        for mut stream in under_way {
            finish(&mut stream).with_context(|| format!("handshake {}", opened.len() + 1))?;
            stream.set_nonblocking(true)?;
            opened.push(stream);
        }
    }
    Ok(opened)
}

/// Connects and sends the request; the answer is still to be read.
pub(crate) fn begin(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE_MAX).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_MAX))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nConnection: Upgrade\r\n\
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
pub(crate) fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let len = stream.write(bytes).context("send")?;
    ensure!(len == bytes.len(), "the kernel took {len} of {} bytes", bytes.len());
    Ok(())
}

/// Reads what is there: `None` when there is nothing, 0 at the end of the stream.
pub(crate) fn receive(stream: &mut TcpStream, input: &mut [u8]) -> Result<Option<usize>> {
    match stream.read(input) {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("receive"),
    }
}

fn finish(stream: &mut TcpStream) -> Result<()> {
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
