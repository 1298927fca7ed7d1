//! A plain WebSocket client over a blocking socket, which can also send what no client should.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// How long anything may take to come.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The accept value that belongs to it.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An answer to a plain request, or to a handshake that failed.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The code, 1005 for a frame without one, and the reason.
    Close(u16, String),
    /// The connection has ended.
    End,
}

/// What a client reads from and writes to.
pub trait Wire: Read + Write {
    fn set_read_timeout(&self, limit: Option<Duration>);
    fn shutdown(&self, how: Shutdown);
}

impl Wire for TcpStream {
    fn set_read_timeout(&self, limit: Option<Duration>) {
        Self::set_read_timeout(self, limit).unwrap();
    }

    fn shutdown(&self, how: Shutdown) {
        Self::shutdown(self, how).unwrap();
    }
}

impl Wire for UnixStream {
    fn set_read_timeout(&self, limit: Option<Duration>) {
        Self::set_read_timeout(self, limit).unwrap();
    }

    fn shutdown(&self, how: Shutdown) {
        Self::shutdown(self, how).unwrap();
    }
}

impl Wire for Box<dyn Wire> {
    fn set_read_timeout(&self, limit: Option<Duration>) {
        (**self).set_read_timeout(limit);
    }

    fn shutdown(&self, how: Shutdown) {
        (**self).shutdown(how);
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    pub stream: S,
    unread: Vec<u8>,
    /// The answer to the handshake.
    pub handshake: Response,
}

impl Client {
    /// Opens a WebSocket; a `Host` of `localhost` unless `headers` has one.
    pub fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Response> {
        Self::handshake(address, &handshake(path, headers))
    }

    /// Sends these bytes as a handshake, whatever follows it included.
    pub fn handshake(address: SocketAddr, bytes: &[u8]) -> Result<Self, Response> {
        Self::handshake_over(dial(address), bytes)
    }
}

impl<S: Wire> Client<S> {
    /// Sends these bytes as a handshake over a connection that is there.
    pub fn handshake_over(mut stream: S, bytes: &[u8]) -> Result<Self, Response> {
        stream.set_read_timeout(Some(TIMEOUT));
        stream.write_all(bytes).unwrap();
        let (response, unread) = read_head(&mut stream);
        if response.status == 101 {
            assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
            return Ok(Self { stream, unread, handshake: response });
        }
        Err(read_body(&mut stream, response, unread))
    }

    pub fn send_text(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }

    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.send(0x82, bytes);
    }

    /// Sends one masked frame with this first byte.
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        self.send_raw(&frame(first, payload));
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn close(&mut self, code: u16) {
        self.send(0x88, &code.to_be_bytes());
    }

    /// The next frame that is no ping; pings are answered.
    pub fn next(&mut self) -> Frame {
        loop {
            match self.next_frame() {
                Frame::Ping(payload) => self.send(0x8a, &payload),
                frame => return frame,
            }
        }
    }

    /// The next frame, which must be text.
    pub fn next_text(&mut self) -> String {
        match self.next() {
            Frame::Text(text) => text,
            other => panic!("{other:?} in place of text"),
        }
    }

    /// The next frame, which must be a close frame; its code.
    pub fn next_close(&mut self) -> u16 {
        match self.next() {
            Frame::Close(code, _) => code,
            other => panic!("{other:?} in place of a close frame"),
        }
    }

    /// Whether the connection ends without another frame.
    pub fn ends(&mut self) -> bool {
        self.next() == Frame::End
    }

    /// What has come and belongs to no frame yet.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Tells the server that nothing more will come, and goes on reading.
    pub fn finish_writing(&self) {
        self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame, whatever it is.
    pub fn next_frame(&mut self) -> Frame {
        loop {
            if let Some((frame, len)) = parse_frame(&self.unread) {
                self.unread.drain(..len);
                return frame;
            }
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Frame::End,
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Frame::End,
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    /// Whether nothing comes for this long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        if parse_frame(&self.unread).is_some() {
            return false;
        }
        self.stream.set_read_timeout(Some(time));
        let mut chunk = [0; 4096];
        let silent = match self.stream.read(&mut chunk) {
            Ok(read) => {
                self.unread.extend_from_slice(&chunk[..read]);
                false
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        };
        self.stream.set_read_timeout(Some(TIMEOUT));
        silent
    }

    /// Ends the connection without a close frame.
    pub fn hang_up(self) {
        self.stream.shutdown(Shutdown::Both);
    }
}

/// A handshake as a browser sends it, but for the Origin.
pub fn handshake(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: localhost\r\n");
    }
    text.push_str("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
    for (name, value) in [("Sec-WebSocket-Key", KEY)].iter().chain(headers) {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A masked frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        len @ ..126 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            frame.push(0xfe);
            frame.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0xff);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A connection to a server.
pub fn dial(address: SocketAddr) -> TcpStream {
    prepare(TcpStream::connect(address).unwrap())
}

/// A connection from one of the many addresses of the loopback network.
pub fn dial_from(from: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    prepare(socket.into())
}

/// A connection whose kernel holds next to nothing of what is not read.
pub fn dial_narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&address.into()).unwrap();
    prepare(socket.into())
}

fn prepare(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request and reads the answer to its end.
pub fn request(address: SocketAddr, text: &str) -> Response {
    exchange(&mut dial(address), text)
}

/// Sends a request on a connection, which stays open, and reads the answer to its end.
pub fn exchange(stream: &mut (impl Read + Write), text: &str) -> Response {
    stream.write_all(text.as_bytes()).unwrap();
    let (response, unread) = read_head(stream);
    read_body(stream, response, unread)
}

/// Reads the head of an answer; status 0 if the connection ends first.
pub fn read_head(stream: &mut impl Read) -> (Response, Vec<u8>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) => return (Response::default(), bytes),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return (Response::default(), bytes);
            }
            Err(error) => panic!("no answer came: {error}"),
        }
    };
    let unread = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    (Response { status, headers: lines.filter_map(header).collect(), body: String::new() }, unread)
}

fn read_body(stream: &mut impl Read, mut response: Response, mut bytes: Vec<u8>) -> Response {
    let announced = response.header("content-length").and_then(|len| len.parse().ok());
    let mut chunk = [0; 16_384];
    while announced.is_none_or(|len| bytes.len() < len) {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    response.body = String::from_utf8_lossy(&bytes).into_owned();
    response
}

/// The first frame in the bytes and its length, if it is complete.
pub fn parse_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    assert_eq!(first & 0x80, 0x80, "this server does not fragment");
    let (len, start) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap(), 10),
        len => (usize::from(len), 2),
    };
    let payload = bytes.get(start..start + len)?.to_vec();
    let frame = match first & 0x0f {
        1 => Frame::Text(String::from_utf8(payload).unwrap()),
        2 => Frame::Binary(payload),
        8 if payload.is_empty() => Frame::Close(1005, String::new()),
        8 => {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            Frame::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap())
        }
        9 => Frame::Ping(payload),
        10 => Frame::Pong(payload),
        other => panic!("a frame of opcode {other}"),
    };
    Some((frame, start + len))
}
