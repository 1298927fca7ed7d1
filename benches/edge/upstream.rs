//! The application behind both servers: it answers and echoes with as little work as can be, so that the load and it
//! share one processor without holding anyone up.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::http;
use crate::support::client;
use crate::support::frame;
use crate::support::poll::{Poller, Trigger};

const LISTENER: usize = 0;
/// Where it echoes.
const ECHO: &[u8] = b"/echo/";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

struct Upstream {
    listener: TcpListener,
    poller: Poller,
    /// By token, less that of the listener.
    conns: Vec<Option<Conn>>,
    answers: Answers,
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    switching: Vec<u8>,
}

struct Conn {
    stream: TcpStream,
    is_tunnel: bool,
    input: Vec<u8>,
}

/// Serves from now to the end of this program, on a thread of its own.
pub(crate) fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        if let Err(error) = Upstream::new(listener).and_then(Upstream::serve) {
            eprintln!("the upstream has ended: {error:#}");
        }
    })?;
    Ok(address)
}

impl Upstream {
    fn new(listener: TcpListener) -> Result<Self> {
        let poller = Poller::new()?;
        poller.add(&listener, LISTENER, Trigger::Level)?;
        let answers = Answers {
            small: http::answer(http::SMALL_LEN),
            large: http::answer(http::LARGE_LEN),
            switching: format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                client::ACCEPT
            )
            .into_bytes(),
        };
        Ok(Self { listener, poller, conns: Vec::new(), answers })
    }

    fn serve(mut self) -> Result<()> {
        let mut ready = Vec::new();
        let mut input = vec![0; 64 * 1024];
        let mut output = Vec::new();
        loop {
            self.poller.wait(&mut ready, None)?;
            for &token in &ready {
                if token == LISTENER {
                    self.accept()?;
                } else if self.advance(token - 1, &mut input, &mut output).is_err() {
                    // The load misses the answer, and says so.
                    self.conns[token - 1] = None;
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("accept"),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let free = self.conns.iter().position(Option::is_none);
        let at = free.unwrap_or(self.conns.len());
        if free.is_none() {
            self.conns.push(None);
        }
        self.poller.add(&stream, at + 1, Trigger::Level)?;
        self.conns[at] = Some(Conn { stream, is_tunnel: false, input: Vec::new() });
        Ok(())
    }

    /// Takes one read and answers all that is whole.
    ///
    /// # Errors
    ///
    /// The connection has ended, or what came is nothing that the load sends.
    fn advance(&mut self, at: usize, input: &mut [u8], output: &mut Vec<u8>) -> Result<()> {
        let conn = self.conns[at].as_mut().context("no such connection")?;
        let len = match conn.stream.read(input) {
            Ok(0) => bail!("the connection has ended"),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        conn.input.extend_from_slice(&input[..len]);
        output.clear();
        let mut used = 0;
        loop {
            if conn.is_tunnel {
                let Some(frame) = frame::parse(&conn.input[used..])? else { break };
                let payload = &mut conn.input[used..][frame.payload.clone()];
                frame::apply_mask(payload, frame.mask.context("a client frame without a mask")?);
                frame::push_server(output, frame.opcode, payload);
                used += frame.payload.end;
            } else {
                let Some(len) = http::head_len(&conn.input[used..]) else { break };
                let head = &conn.input[used..used + len];
                output.extend_from_slice(self.answers.to(head));
                conn.is_tunnel = path(head) == Some(ECHO);
                used += len;
            }
        }
        conn.input.drain(..used);
        if !output.is_empty() {
            // The load has little in flight on one connection: less than any socket buffer.
            let len = conn.stream.write(output)?;
            ensure!(len == output.len(), "the kernel took {len} of {} bytes", output.len());
        }
        Ok(())
    }
}

impl Answers {
    fn to(&self, head: &[u8]) -> &[u8] {
        match path(head) {
            Some(http::SMALL) => &self.small,
            Some(http::LARGE) => &self.large,
            Some(ECHO) => &self.switching,
            _ => NOT_FOUND,
        }
    }
}

fn path(head: &[u8]) -> Option<&[u8]> {
    head.split(|&byte| byte == b' ').nth(1)
}
