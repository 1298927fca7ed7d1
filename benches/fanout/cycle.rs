//! Sockets that come and go: connect, handshake, one message echoed, closing handshake, end of the stream.

use anyhow::{Context, Result, bail, ensure};

use crate::support::client::{self, Endpoint, Stream};
use crate::support::cycles;
use crate::support::frame;
use crate::support::poll::{Poller, Trigger};
use crate::support::report::Counts;

const MESSAGE: &[u8] = &[b'.'; 128];
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();

struct Cycle {
    stream: Stream,
    stage: Stage,
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
    cycles::run(at_once, cycles, |poller, token| Cycle::begin(to, poller, token), Cycle::advance)
}

impl Cycle {
    fn begin(to: &Endpoint, poller: &Poller, token: usize) -> Result<Self> {
        let mut stream = client::begin(to, "/echo/")?;
        stream.set_nonblocking()?;
        poller.add(&stream, token, Trigger::Level)?;
        Ok(Self { stream, stage: Stage::Handshake, input: Vec::new() })
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
