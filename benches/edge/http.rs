//! Requests over connections that stay: each sends the next one when it has the whole answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::client::{self, Endpoint, Stream};
use crate::support::poll::{Poller, Trigger};
use crate::support::report::Counts;

/// The paths that the upstream answers, and the lengths of its answers, which consist of one letter.
pub(crate) const SMALL: &[u8] = b"/small";
pub(crate) const LARGE: &[u8] = b"/large";
pub(crate) const SMALL_LEN: usize = 100;
pub(crate) const LARGE_LEN: usize = 16 * 1024;
const FILLING: u8 = b'.';
/// How long a phase may take before the run is given up.
const PHASE_MAX: Duration = Duration::from_mins(1);

/// Clients that ask for one path.
pub(crate) struct Clients {
    poller: Poller,
    request: Vec<u8>,
    body_len: usize,
    conns: Vec<Conn>,
}

struct Conn {
    stream: Stream,
    sent_at: Instant,
    input: Vec<u8>,
}

impl Clients {
    /// Opens the connections.
    pub(crate) fn open(to: &Endpoint, count: usize, path: &str, body_len: usize) -> Result<Self> {
        let poller = Poller::new()?;
        let mut conns = Vec::with_capacity(count);
        for token in 0..count {
            let mut stream = Stream::connect(to)?;
            stream.set_nonblocking()?;
            poller.add(&stream, token, Trigger::Level)?;
            conns.push(Conn { stream, sent_at: Instant::now(), input: Vec::new() });
        }
        Ok(Self { poller, request: request(to, path, ""), body_len, conns })
    }

    /// Sends `requests` in all and returns when each is answered.
    pub(crate) fn run(&mut self, requests: usize) -> Result<Counts> {
        let mut latencies = Vec::with_capacity(requests);
        let mut ready = Vec::new();
        let mut input = vec![0; 64 * 1024];
        let start = Instant::now();
        let mut sent = 0;
        for conn in self.conns.iter_mut().take(requests) {
            conn.send(&self.request)?;
            sent += 1;
        }
        while latencies.len() < requests {
            let left = (start + PHASE_MAX).saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} of {requests} answers within {PHASE_MAX:?}", latencies.len());
            self.poller.wait(&mut ready, Some(left))?;
            for &token in &ready {
                let conn = &mut self.conns[token];
                let Some(len) = client::receive(&mut conn.stream, &mut input)? else { continue };
                ensure!(0 < len, "the server hung up");
                conn.input.extend_from_slice(&input[..len]);
                let Some(len) = answer_len(&conn.input, self.body_len)? else { continue };
                ensure!(len == conn.input.len(), "the server spoke before it was asked");
                conn.input.clear();
                latencies.push(u32::try_from(conn.sent_at.elapsed().as_micros())?);
                if sent < requests {
                    conn.send(&self.request)?;
                    sent += 1;
                }
            }
        }
        Ok(Counts { units: requests as u64, elapsed: start.elapsed(), latencies })
    }
}

impl Conn {
    fn send(&mut self, request: &[u8]) -> Result<()> {
        self.sent_at = Instant::now();
        client::send(&mut self.stream, request)
    }
}

/// What a browser sends, less what neither server looks at; `more` are whole lines.
pub(crate) fn request(to: &Endpoint, path: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) bench\r\n\
         Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
         Cookie: csrftoken=0123456789abcdef0123456789abcdef; sessionid=0123456789abcdef\r\n{more}\r\n",
        to.address
    )
    .into_bytes()
}

/// The upstream's answer with a body of this length.
pub(crate) fn answer(body_len: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {body_len}\r\n\
         X-Frame-Options: DENY\r\nVary: Cookie\r\n\r\n"
    )
    .into_bytes();
    answer.extend(body(body_len));
    answer
}

pub(crate) fn body(len: usize) -> Vec<u8> {
    vec![FILLING; len]
}

/// The length of the head at the start of `input`, `None` when it is not whole yet.
pub(crate) fn head_len(input: &[u8]) -> Option<usize> {
    Some(input.windows(4).position(|window| window == b"\r\n\r\n")? + 4)
}

/// The length of the whole answer at the start of `input`, `None` when it is not there yet.
///
/// # Errors
///
/// It is not the answer that was to come.
pub(crate) fn answer_len(input: &[u8], body_len: usize) -> Result<Option<usize>> {
    let Some(head_len) = head_len(input) else { return Ok(None) };
    let len = head_len + body_len;
    if input.len() < len {
        return Ok(None);
    }
    let head = std::str::from_utf8(&input[..head_len])?;
    let mut lines = head.lines();
    let status = lines.next().context("no status line")?;
    ensure!(status.starts_with("HTTP/1.1 200 "), "the server answered: {head}");
    let announced = lines
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("content-length").then_some(value));
    ensure!(announced == Some(&body_len.to_string()), "an answer of another length: {head}");
    ensure!(input[head_len..len].iter().all(|&byte| byte == FILLING), "an answer with another body");
    Ok(Some(len))
}
