//! Sockets that come and go: connect, handshake, one message echoed, closing handshake, end of the stream.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::client;
use crate::client::{Endpoint, Stream};
use crate::frame;
use crate::poll::{Poller, Trigger};

const MESSAGE: &[u8] = &[b'.'; 128];
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();
const RUN_MAX: Duration = Duration::from_mins(1);

/// What was counted while a number of cycles was gone through.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) elapsed: Duration,
    /// Of each whole cycle, in microseconds, unsorted.
    pub(crate) latencies: Vec<u32>,
}

struct Cycle {
    stream: Stream,
    stage: Stage,
    begun: Instant,
    input: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Stage {
    Handshake,
    Echo,
    Close,
    End,
}

/// Goes through `cycles` cycles, `at_once` of them at any time.
pub(crate) fn run(to: &Endpoint, at_once: usize, cycles: usize) -> Result<Counts> {
    let mut poller = Poller::new()?;
    let mut ready = Vec::new();
    let mut latencies = Vec::with_capacity(cycles);
    let mut begun = 0;
    let mut slots: Vec<Option<Cycle>> = Vec::new();
    let start = Instant::now();
    while begun < cycles.min(at_once) {
        slots.push(Some(Cycle::begin(to, &poller, begun)?));
        begun += 1;
    }
    while latencies.len() < cycles {
        let left = (start + RUN_MAX).saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "{} of {cycles} cycles within {RUN_MAX:?}", latencies.len());
        poller.wait(&mut ready, Some(left))?;
        for &token in &ready {
            let Some(cycle) = slots[token].as_mut() else { continue };
            if !cycle.advance()? {
                continue;
            }
            latencies.push(u32::try_from(cycle.begun.elapsed().as_micros())?);
            // Closed before the next one is opened, so that `at_once` is never exceeded.
            slots[token] = None;
            if begun < cycles {
                slots[token] = Some(Cycle::begin(to, &poller, token)?);
                begun += 1;
            }
        }
    }
    Ok(Counts { elapsed: start.elapsed(), latencies })
}

impl Cycle {
    fn begin(to: &Endpoint, poller: &Poller, token: usize) -> Result<Self> {
        let begun = Instant::now();
        let mut stream = client::begin(to, "/echo/")?;
        stream.set_nonblocking()?;
        poller.add(&stream, token, Trigger::Level)?;
        Ok(Self { stream, stage: Stage::Handshake, begun, input: Vec::new() })
    }

    /// Takes one read; `true` when the cycle is complete.
    fn advance(&mut self) -> Result<bool> {
        let mut chunk = [0; 1024];
        let Some(len) = client::receive(&mut self.stream, &mut chunk)? else { return Ok(false) };
        if len == 0 {
            ensure!(matches!(self.stage, Stage::End), "the server hung up before the closing handshake");
            return Ok(true);
        }
        self.input.extend_from_slice(&chunk[..len]);
        match self.stage {
            Stage::Handshake => {
                let Some(len) = client::answer_len(&self.input)? else { return Ok(false) };
                self.input.drain(..len);
                self.send(frame::BINARY, MESSAGE)?;
                self.stage = Stage::Echo;
            }
            Stage::Echo => {
                let Some(payload) = self.payload(frame::BINARY)? else { return Ok(false) };
                ensure!(payload == MESSAGE, "the echo is not what was sent");
                self.send(frame::CLOSE, &NORMAL_CLOSURE)?;
                self.stage = Stage::Close;
            }
            Stage::Close => {
                let Some(payload) = self.payload(frame::CLOSE)? else { return Ok(false) };
                ensure!(payload == NORMAL_CLOSURE, "closed with {payload:?}");
                self.stage = Stage::End;
            }
            Stage::End => bail!("the server spoke after the closing handshake"),
        }
        Ok(false)
    }

    fn payload(&mut self, opcode: u8) -> Result<Option<Vec<u8>>> {
        let Some(frame) = frame::parse(&self.input)? else { return Ok(None) };
        ensure!(frame.opcode == opcode, "a frame with the opcode {}", frame.opcode);
        let payload = self.input[frame.payload.clone()].to_vec();
        self.input.drain(..frame.payload.end);
        Ok(Some(payload))
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let mut output = Vec::new();
        frame::push_client(&mut output, opcode, payload);
        client::send(&mut self.stream, &output).context("send")
    }
}
