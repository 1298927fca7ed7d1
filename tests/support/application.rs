//! An application behind the server, which remembers to the byte what it was sent.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::client::ACCEPT;

/// How long a connection may be silent.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request line and the headers, each on a line.
    pub head: String,
    pub body: Vec<u8>,
    /// Of the connections to the application, counted from 0.
    pub connection: usize,
}

impl Seen {
    /// The target in the request line.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// The values of a header, in order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

/// What the application does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Sends these bytes and waits for the next request.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Last(Vec<u8>),
    /// Answers the handshake and sends back all that comes.
    Echo,
    /// Says nothing.
    Silence,
}

impl Reply {
    /// A whole answer of 200 with this text.
    pub fn ok(body: &str) -> Self {
        Self::text(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// These bytes, on a connection that stays.
    pub fn text(answer: &str) -> Self {
        Self::Bytes(answer.as_bytes().to_vec())
    }
}

/// A running application. Its threads end with the connections to it.
#[derive(Debug)]
pub struct Application {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Application {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), answer)
    }

    /// Starts at this address, which is free.
    pub fn start_on(address: SocketAddr, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (seeing, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (seeing, answer) = (Arc::clone(&seeing), Arc::clone(&answer));
                thread::spawn(move || serve(stream, connection, &seeing, &*answer));
            }
        });
        Self { address, seen }
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Forgets the requests so far and gives them.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// A connection that ends in whatever way ends its thread.
fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    answer: &dyn Fn(&Seen) -> Reply,
) -> Option<()> {
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.set_nodelay(true).ok()?;
    let mut unread = Vec::new();
    loop {
        let request = read_request(&mut stream, &mut unread, connection)?;
        seen.lock().unwrap().push(request.clone());
        match answer(&request) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).ok()?,
            Reply::Last(bytes) => return stream.write_all(&bytes).ok(),
            Reply::Echo => {
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).ok()?;
                stream.write_all(&unread).ok()?;
                return std::io::copy(&mut stream.try_clone().ok()?, &mut stream).map(drop).ok();
            }
            Reply::Silence => {
                // Until the other side has had enough.
                std::io::copy(&mut stream, &mut std::io::sink()).ok()?;
                return None;
            }
        }
    }
}

fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    let head_len = read_until(stream, unread, b"\r\n\r\n")?;
    let head: Vec<u8> = unread.drain(..head_len).collect();
    let head = String::from_utf8_lossy(&head).replace("\r\n", "\n");
    let mut seen = Seen { head, body: Vec::new(), connection };
    if let Some(length) = seen.header("content-length").first() {
        let length: usize = length.parse().ok()?;
        while unread.len() < length {
            read_more(stream, unread)?;
        }
        seen.body = unread.drain(..length).collect();
    } else if !seen.header("transfer-encoding").is_empty() {
        loop {
            let line_len = read_until(stream, unread, b"\r\n")?;
            let line: Vec<u8> = unread.drain(..line_len).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            while unread.len() < size + 2 {
                read_more(stream, unread)?;
            }
            let chunk: Vec<u8> = unread.drain(..size + 2).collect();
            seen.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    Some(seen)
}

/// Reads until the bytes have come; the length up to their end.
fn read_until(stream: &mut TcpStream, unread: &mut Vec<u8>, end: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = unread.windows(end.len()).position(|window| window == end) {
            return Some(at + end.len());
        }
        read_more(stream, unread)?;
    }
}

fn read_more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 16_384];
    let read = stream.read(&mut chunk).ok().filter(|&read| 0 < read)?;
    unread.extend_from_slice(&chunk[..read]);
    Some(())
}
