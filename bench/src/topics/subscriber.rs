//! A subscriber: comes, takes what it is sent, and notes where it is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::dialect::{Dialect, Memory, Said};
use super::number;
use crate::wire::{self, Parser, Piece, wrong};

/// Who is told what a subscriber gets.
pub(super) trait Listener {
    /// The subscription is there.
    fn subscribed(&mut self);

    /// # Errors
    /// It must not have come.
    fn message(&mut self, number: u64) -> io::Result<()>;

    /// It is told that it has missed something.
    ///
    /// # Errors
    /// It must not have missed anything.
    fn lost(&mut self) -> io::Result<()>;
}

enum Stage {
    /// What it says first, as soon as it is connected.
    Connecting(Vec<u8>),
    /// What came of the answer to its opening handshake.
    Opening(Vec<u8>),
    Open,
}

pub(super) struct Subscriber {
    pub(super) stream: TcpStream,
    dialect: Dialect,
    stage: Stage,
    inbox: Inbox,
    /// What it has come back with.
    before: Option<Memory>,
    now: Memory,
}

/// Texts and Pings, out of frames.
#[derive(Default)]
struct Inbox {
    parser: Parser,
    opcode: u8,
    len: u64,
    /// What has come of a frame that was cut.
    part: Vec<u8>,
}

impl Subscriber {
    /// Begins to connect.
    pub(super) fn come(dialect: Dialect, server: SocketAddr, before: Option<Memory>) -> io::Result<Self> {
        let stream = wire::begin_connect(server)?;
        let stage = Stage::Connecting(dialect.handshake(server, before.as_ref()));
        let now = before.clone().unwrap_or_default();
        Ok(Self { stream, dialect, stage, inbox: Inbox::default(), before, now })
    }

    /// Leaves without a word, and keeps what it needs to come back.
    pub(super) fn leave(self) -> Memory {
        self.now
    }

    /// Does what it can: connects, or reads what is there.
    pub(super) fn proceed(&mut self, scratch: &mut [u8], listener: &mut impl Listener) -> io::Result<()> {
        if let Stage::Connecting(request) = &self.stage {
            match (&self.stream).write_all(request) {
                Ok(()) => self.stage = Stage::Opening(Vec::new()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        loop {
            let count = match (&self.stream).read(scratch) {
                Ok(0) => return Err(wrong("its end")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.take(&scratch[..count], listener)?;
            if count < scratch.len() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8], listener: &mut impl Listener) -> io::Result<()> {
        if let Stage::Opening(answer) = &mut self.stage {
            answer.extend_from_slice(bytes);
            let Some(end) = wire::upgraded(answer)? else { return Ok(()) };
            let rest = answer.split_off(end);
            self.stage = Stage::Open;
            match self.dialect.greeting(self.before.as_ref()) {
                Some(greeting) => self.say(wire::TEXT, greeting.as_bytes())?,
                None => listener.subscribed(),
            }
            return self.take_frames(&rest, listener);
        }
        self.take_frames(bytes, listener)
    }

    fn take_frames(&mut self, mut bytes: &[u8], listener: &mut impl Listener) -> io::Result<()> {
        while let Some(piece) = self.inbox.parser.next(&mut bytes)? {
            match piece {
                Piece::Begin(opcode, len) => (self.inbox.opcode, self.inbox.len) = (opcode, len),
                // Mostly a frame comes whole, and is not copied.
                Piece::Payload(whole) if whole.len() as u64 == self.inbox.len => self.take_frame(whole, listener)?,
                Piece::Payload(part) => {
                    self.inbox.part.extend_from_slice(part);
                    if self.inbox.part.len() as u64 == self.inbox.len {
                        let whole = std::mem::take(&mut self.inbox.part);
                        self.take_frame(&whole, listener)?;
                    }
                }
                Piece::End if self.inbox.len == 0 => self.take_frame(&[], listener)?,
                Piece::End => {}
            }
        }
        Ok(())
    }

    fn take_frame(&mut self, payload: &[u8], listener: &mut impl Listener) -> io::Result<()> {
        match self.inbox.opcode {
            wire::PING => return self.say(wire::PONG, payload),
            wire::TEXT => {}
            other => return Err(wrong(&format!("a frame of opcode {other}"))),
        }
        match self.dialect.understand(payload, self.before.as_ref())? {
            Said::Message { payload, place } => {
                let number = number(payload).ok_or_else(|| wrong(&String::from_utf8_lossy(payload)))?;
                self.now.place.clear();
                self.now.place.extend_from_slice(place);
                listener.message(number)?;
            }
            Said::Subscribed => listener.subscribed(),
            Said::Session { session, is_lost, answer } => {
                self.now.session = session.to_vec();
                if is_lost {
                    listener.lost()?;
                }
                match answer {
                    Some(answer) => self.say(wire::TEXT, answer.as_bytes())?,
                    None => listener.subscribed(),
                }
            }
            Said::Lost => listener.lost()?,
            Said::Asked(answer) => self.say(wire::TEXT, answer.as_bytes())?,
            Said::Nothing => {}
        }
        Ok(())
    }

    /// A few bytes, which the socket takes.
    fn say(&self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 8);
        wire::frame(&mut frame, opcode, payload);
        (&self.stream).write_all(&frame)
    }
}
