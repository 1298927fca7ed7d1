//! The floor: what a room costs when nothing is done but the system calls.
//!
//! One thread, epoll, and for each client frame one frame built and one `send(2)` of it to each member. No limits,
//! no queues, no time-outs: a member that does not keep up ends the run. It answers what the load sends, no more.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Signal, set_parent_process_death_signal};
use sha1::{Digest, Sha1};

use crate::support::frame;
use crate::support::poll::{Poller, Trigger};

const LISTENER: usize = usize::MAX;
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Serves until it is killed, at the latest with the process that started it.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let mut poller = Poller::new()?;
    poller.add(&listener, LISTENER, Trigger::Level)?;
    let mut floor = Floor { input: vec![0; 64 * 1024], ..Floor::default() };
    let mut ready = Vec::new();
    loop {
        poller.wait(&mut ready, None)?;
        for &token in &ready {
            if token != LISTENER {
                floor.read(token)?;
                continue;
            }
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let token = floor.insert(stream);
                        poller.add(&floor.conn(token).stream, token, Trigger::Level)?;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("accept"),
                }
            }
        }
    }
}

#[derive(Default)]
struct Floor {
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    rooms: Vec<Vec<usize>>,
    room_by_path: HashMap<String, usize>,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Conn {
    stream: TcpStream,
    place: Place,
    /// What came before and is not a whole head or frame yet.
    tail: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Place {
    Handshake,
    Room(usize),
    Echo,
}

impl Floor {
    fn insert(&mut self, stream: TcpStream) -> usize {
        let conn = Some(Conn { stream, place: Place::Handshake, tail: Vec::new() });
        if let Some(token) = self.free.pop() {
            self.conns[token] = conn;
            return token;
        }
        self.conns.push(conn);
        self.conns.len() - 1
    }

    fn conn(&mut self, token: usize) -> &mut Conn {
        self.conns[token].as_mut().expect("only open sockets are polled and are members")
    }

    fn read(&mut self, token: usize) -> Result<()> {
        let mut input = std::mem::take(&mut self.input);
        let conn = self.conn(token);
        let len = match conn.stream.read(&mut input) {
            Ok(0) | Err(_) => {
                self.remove(token);
                self.input = input;
                return Ok(());
            }
            Ok(len) => len,
        };
        if conn.tail.is_empty() {
            let used = self.take(token, &mut input[..len])?;
            if let Some(conn) = self.conns[token].as_mut() {
                conn.tail.extend_from_slice(&input[used..len]);
            }
        } else {
            let mut whole = std::mem::take(&mut conn.tail);
            whole.extend_from_slice(&input[..len]);
            let used = self.take(token, &mut whole)?;
            if let Some(conn) = self.conns[token].as_mut() {
                conn.tail = whole.split_off(used);
            }
        }
        self.input = input;
        Ok(())
    }

    /// Handles what is whole in `input` and says how much that was.
    fn take(&mut self, token: usize, input: &mut [u8]) -> Result<usize> {
        let mut used = 0;
        if matches!(self.conn(token).place, Place::Handshake) {
            let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(0) };
            used = end + 4;
            self.handshake(token, &input[..used])?;
        }
        while let Some(frame) = frame::parse(&input[used..])? {
            let payload = &mut input[used..][frame.payload.clone()];
            used += frame.payload.end;
            frame::apply_mask(payload, frame.mask.context("a client frame without a mask")?);
            if !self.frame(token, frame.opcode, payload)? {
                break;
            }
        }
        Ok(used)
    }

    /// Sends what a frame asks for; `false` when it closed the socket.
    fn frame(&mut self, token: usize, opcode: u8, payload: &[u8]) -> Result<bool> {
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        frame::push_server(&mut output, opcode, payload);
        match self.conn(token).place {
            Place::Room(room) if opcode != frame::CLOSE => {
                for &member in &self.rooms[room] {
                    let conn = self.conns[member].as_mut().context("a closed socket is a member")?;
                    send(&mut conn.stream, &output)?;
                }
            }
            _ => send(&mut self.conn(token).stream, &output)?,
        }
        self.output = output;
        if opcode == frame::CLOSE {
            self.remove(token);
        }
        Ok(opcode != frame::CLOSE)
    }

    fn handshake(&mut self, token: usize, head: &[u8]) -> Result<()> {
        let head = std::str::from_utf8(head)?;
        let path = head.split(' ').nth(1).context("no path")?;
        let key = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            .map(|(_, value)| value.trim())
            .context("no key")?;
        let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize());
        let place = if path == "/echo/" {
            Place::Echo
        } else {
            let rooms = &mut self.rooms;
            let room = *self.room_by_path.entry(path.to_owned()).or_insert_with(|| {
                rooms.push(Vec::new());
                rooms.len() - 1
            });
            self.rooms[room].push(token);
            Place::Room(room)
        };
        let conn = self.conn(token);
        conn.place = place;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        send(&mut conn.stream, answer.as_bytes())
    }

    fn remove(&mut self, token: usize) {
        if let Some(Conn { place: Place::Room(room), .. }) = self.conns[token].take() {
            self.rooms[room].retain(|&member| member != token);
        }
        self.free.push(token);
    }
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    match stream.write(bytes) {
        Ok(len) if len == bytes.len() => Ok(()),
        Ok(len) => {
            bail!("the kernel took {len} of {} bytes: the window is too wide for a floor", bytes.len())
        }
        // The load closes its sockets without a word when a run is over.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
        Err(error) => Err(error).context("send"),
    }
}
