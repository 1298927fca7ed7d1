//! The sockets of a room, which wait for numbered messages: each has to hear every number once, in order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::support::client::{self, Endpoint, Stream};
use crate::support::frame;
use crate::support::poll::{Poller, Trigger};

/// How long nothing comes before nothing is taken to come any more.
const SILENCE: Duration = Duration::from_millis(50);
/// The opcode of what is heard.
const TEXT: u8 = 0x1;

/// All sockets, in one room.
pub(crate) struct Audience {
    poller: Poller,
    ready: Vec<usize>,
    input: Vec<u8>,
    conns: Vec<Conn>,
}

struct Conn {
    stream: Stream,
    /// The beginning of a frame whose rest has not come.
    tail: Vec<u8>,
    /// The latest number, none before the socket was found to be a member.
    heard: Option<u64>,
}

impl Audience {
    pub(crate) fn open(to: &Endpoint, path: &str, members: usize) -> Result<Self> {
        let streams = client::open_all(to, &vec![path.to_owned(); members])?;
        let poller = Poller::new()?;
        let mut conns = Vec::with_capacity(members);
        for (token, stream) in streams.into_iter().enumerate() {
            poller.add(&stream, token, Trigger::Level)?;
            conns.push(Conn { stream, tail: Vec::new(), heard: None });
        }
        Ok(Self { poller, ready: Vec::new(), input: vec![0; 64 * 1024], conns })
    }

    /// Waits until every socket has heard this number, or until so much time is over; says how many have.
    pub(crate) fn hear(&mut self, number: u64, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut heard = 0;
        while heard < self.conns.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.poller.wait(&mut self.ready, Some(left))?;
            for &token in &self.ready {
                let conn = &mut self.conns[token];
                let before = conn.heard;
                conn.read(&mut self.input).with_context(|| format!("socket {token}"))?;
                if conn.heard != before && conn.heard == Some(number) {
                    heard += 1;
                }
            }
        }
        Ok(heard)
    }

    /// Makes sure that no message comes any more.
    pub(crate) fn finish(mut self) -> Result<()> {
        // Pings may come; any number would be one out of order.
        self.hear(u64::MAX, SILENCE).context("after the last message")?;
        Ok(())
    }
}

impl Conn {
    fn read(&mut self, input: &mut [u8]) -> Result<()> {
        let Some(len) = client::receive(&mut self.stream, input)? else { return Ok(()) };
        ensure!(0 < len, "the server hung up");
        self.tail.extend_from_slice(&input[..len]);
        let mut used = 0;
        while let Some(frame) = frame::parse(&self.tail[used..])? {
            let payload = &self.tail[used..][frame.payload.clone()];
            match frame.opcode {
                TEXT => {
                    let number = number_in(payload)?;
                    ensure!(
                        self.heard.is_none_or(|last| last + 1 == number),
                        "{number} after {:?}",
                        self.heard
                    );
                    self.heard = Some(number);
                }
                frame::PING => {
                    let mut output = Vec::new();
                    frame::push_client(&mut output, frame::PONG, payload);
                    client::send(&mut self.stream, &output)?;
                }
                opcode => bail!("a frame with the opcode {opcode}"),
            }
            used += frame.payload.end;
        }
        self.tail.drain(..used);
        Ok(())
    }
}

/// The text of a message: a number, and so much filling that it is as long as any other.
pub(crate) fn text_of(number: u64) -> String {
    format!("{number:0>128}")
}

fn number_in(payload: &[u8]) -> Result<u64> {
    let frame: Value = serde_json::from_slice(payload)?;
    let text = frame["message"].as_str().with_context(|| format!("no message: {frame}"))?;
    let number = text.parse()?;
    ensure!(text == text_of(number), "another text: {text}");
    Ok(number)
}
