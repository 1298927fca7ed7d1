//! A proxy before Redis that puts other commands in the place of some.
//!
//! Redis then answers as one does that has another clock, other clients or another version.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::string::FromUtf8Error;
use std::sync::Arc;
use std::thread;

/// The words of a command in place of those that came; none when it is to be swallowed.
type Rewrite = dyn Fn(&[String]) -> Vec<String> + Send + Sync;

/// It goes on until the test process ends.
pub(super) struct Rewriting {
    port: u16,
}

impl Rewriting {
    pub(super) fn start(
        redis: u16,
        rewrite: impl Fn(&[String]) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rewrite: Arc<Rewrite> = Arc::new(rewrite);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", redis)).unwrap();
                let (from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut &from, &mut to));
                let rewrite = Arc::clone(&rewrite);
                thread::spawn(move || pass(&client, server, &*rewrite));
            }
        });
        Self { port }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// Passes commands on until the client is gone.
fn pass(client: &TcpStream, mut server: TcpStream, rewrite: &Rewrite) {
    let mut client = BufReader::new(client);
    while let Some(words) = command(&mut client) {
        let words = words.into_iter().map(|word| String::from_utf8(word).map_err(FromUtf8Error::into_bytes));
        let words: Vec<Result<String, Vec<u8>>> = words.collect();
        let text: Option<Vec<String>> = words.iter().map(|word| word.as_ref().ok().cloned()).collect();
        let passed: Vec<Vec<u8>> = match text {
            Some(text) => rewrite(&text).into_iter().map(String::into_bytes).collect(),
            // What holds bytes is a message.
            None => {
                words.into_iter().map(|word| word.map_or_else(|bytes| bytes, String::into_bytes)).collect()
            }
        };
        if passed.is_empty() {
            continue;
        }
        let mut bytes = format!("*{}\r\n", passed.len()).into_bytes();
        for word in passed {
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        if server.write_all(&bytes).is_err() {
            break;
        }
    }
    server.shutdown(std::net::Shutdown::Both).unwrap_or_default();
}

/// The words of the next command.
fn command(client: &mut BufReader<&TcpStream>) -> Option<Vec<Vec<u8>>> {
    let mut number = |mark: char| {
        let mut line = String::new();
        client.read_line(&mut line).ok()?;
        let count: usize = line.strip_prefix(mark)?.trim_end().parse().ok()?;
        let mut word = vec![0; if mark == '$' { count + 2 } else { 0 }];
        client.read_exact(&mut word).ok()?;
        word.truncate(count);
        Some((count, word))
    };
    let (count, _) = number('*')?;
    (0..count).map(|_| number('$').map(|(_, word)| word)).collect()
}
