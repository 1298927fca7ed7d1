//! A TCP link to a server that can be slow, narrow, deaf or cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::pause;

/// What is passed on at once over a narrow link.
const SLICE: usize = 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    FromServer,
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Close,
    Reset,
}

/// What a link does to the bytes that come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Sound,
    /// Each byte comes so much later.
    Slow(Duration),
    /// So many bytes a second and way.
    Narrow(u32),
    /// Takes everything and passes on nothing.
    Deaf,
    /// All connections are cut in front of this byte that goes this way.
    CutAt(Way, usize, Cut),
}

/// A port that leads to another one. Its threads end with the connections through it.
#[derive(Debug)]
pub struct Link {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: u16,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    connections: Vec<Arc<Connection>>,
    opened: usize,
    cuts: usize,
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Something that came over it was swallowed, so that it can never be used again.
    deaf: Mutex<bool>,
}

impl Link {
    /// A sound link to a port of the loopback address.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Inner { mode: Mode::Sound, connections: Vec::new(), opened: 0, cuts: 0 };
        let state = Arc::new(State { server, inner: Mutex::new(inner) });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepting.lock().opened += 1;
                // Where no server is, no connection stays.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", accepting.server)) {
                    accepting.open(client, server);
                }
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address as that of a Redis server.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// From now on all is passed on at once. What has swallowed something stays deaf.
    pub fn heal(&self) {
        self.state.lock().mode = Mode::Sound;
    }

    /// From now on each byte comes so much later.
    pub fn slow(&self, delay: Duration) {
        self.state.lock().mode = Mode::Slow(delay);
    }

    /// From now on so many bytes a second come through each way of a connection.
    pub fn narrow(&self, bytes_per_second: u32) {
        self.state.lock().mode = Mode::Narrow(bytes_per_second);
    }

    /// From now on everything is swallowed, and the server does not learn of the end of a connection, as when
    /// the network between the two has gone.
    pub fn deafen(&self) {
        self.state.lock().mode = Mode::Deaf;
    }

    /// All connections are cut once, when so many bytes more have gone one way.
    pub fn cut_after(&self, way: Way, bytes: usize, cut: Cut) {
        self.state.lock().mode = Mode::CutAt(way, bytes, cut);
    }

    /// Cuts all connections now.
    pub fn cut(&self, cut: Cut) {
        self.state.lock().cut(cut);
    }

    /// How many connections were opened so far.
    pub fn opened(&self) -> usize {
        self.state.lock().opened
    }

    /// How often connections were cut.
    pub fn cuts(&self) -> usize {
        self.state.lock().cuts
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn open(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let connection = Arc::new(Connection { client, server, deaf: Mutex::new(false) });
        self.lock().connections.push(Arc::clone(&connection));
        for way in [Way::ToServer, Way::FromServer] {
            let (sender, chunks) = channel();
            let (state, reading) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || read(&state, &reading, way, &sender));
            let (state, writing) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || write(&state, &writing, way, &chunks));
        }
    }
}

impl Inner {
    fn cut(&mut self, cut: Cut) {
        self.cuts += 1;
        for connection in self.connections.drain(..) {
            for stream in [&connection.client, &connection.server] {
                // The other end may have been faster.
                match cut {
                    Cut::Close => stream.shutdown(Shutdown::Both).unwrap_or_default(),
                    Cut::Reset => rustix::net::connect_unspec(stream).unwrap_or_default(),
                }
            }
        }
    }

    /// How many of these bytes go, and what comes after them.
    fn pass(&mut self, way: Way, len: usize) -> (usize, Option<Cut>) {
        match self.mode {
            Mode::CutAt(cut_way, left, cut) if cut_way == way && left <= len => {
                self.mode = Mode::Sound;
                (left, Some(cut))
            }
            Mode::CutAt(cut_way, left, cut) if cut_way == way => {
                self.mode = Mode::CutAt(way, left - len, cut);
                (len, None)
            }
            _ => (len, None),
        }
    }
}

impl Connection {
    fn ends(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Way::ToServer => (&self.client, &self.server),
            Way::FromServer => (&self.server, &self.client),
        }
    }
}

/// Takes in what comes one way, to be passed on when its time has come. Nothing stands for the end.
fn read(state: &State, connection: &Connection, way: Way, sender: &Sender<(Instant, Vec<u8>)>) {
    let (mut from, _) = connection.ends(way);
    let mut chunk = [0; 16 * 1024];
    loop {
        let len = from.read(&mut chunk).unwrap_or_default();
        let mode = state.lock().mode;
        let mut deaf = connection.deaf.lock().unwrap();
        *deaf |= mode == Mode::Deaf;
        if !*deaf {
            let due = if let Mode::Slow(delay) = mode { Instant::now() + delay } else { Instant::now() };
            // Whoever passes it on has failed at the other end.
            sender.send((due, chunk[..len].to_vec())).unwrap_or_default();
        }
        if len == 0 {
            return;
        }
    }
}

/// Passes on what has come one way.
fn write(state: &State, connection: &Connection, way: Way, chunks: &Receiver<(Instant, Vec<u8>)>) {
    let (_, mut to) = connection.ends(way);
    for (due, bytes) in chunks {
        pause(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() {
            break;
        }
        for slice in bytes.chunks(SLICE) {
            if let Mode::Narrow(bytes_per_second) = state.lock().mode {
                pause(Duration::from_secs(1) * u32::try_from(slice.len()).unwrap() / bytes_per_second);
            }
            let (len, cut) = state.lock().pass(way, slice.len());
            let written = to.write_all(&slice[..len]);
            if let Some(cut) = cut {
                state.lock().cut(cut);
            }
            if written.is_err() || cut.is_some() {
                return;
            }
        }
    }
    if !*connection.deaf.lock().unwrap() {
        to.shutdown(Shutdown::Both).unwrap_or_default();
    }
}
