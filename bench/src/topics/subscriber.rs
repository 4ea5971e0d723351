//! Subscribers: they come all at once, take every message once, and note where they are.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::board::Board;
use super::dialect::{Dialect, Memory, Said};
use super::number;
use crate::process::Server;
use crate::wire::{self, Parser, Piece, wrong};

/// Subscribers of one server, on a few threads.
pub(crate) struct Crowd {
    pub(crate) board: Arc<Board>,
    threads: Vec<JoinHandle<Vec<Subscriber>>>,
}

impl Crowd {
    /// Lets so many come at once. The waker is that of whoever looks at the board.
    pub(crate) fn gather(server: &Server, count: usize, threads: usize, waker: Arc<Waker>) -> io::Result<Self> {
        Self::of((0..count).map(|_| None).collect(), server, threads, waker)
    }

    /// Lets these come back at once.
    pub(crate) fn again(server: &Server, left: Vec<Memory>, threads: usize, waker: Arc<Waker>) -> io::Result<Self> {
        Self::of(left.into_iter().map(Some).collect(), server, threads, waker)
    }

    fn of(memories: Vec<Option<Memory>>, server: &Server, threads: usize, waker: Arc<Waker>) -> io::Result<Self> {
        let board = Arc::new(Board::new(memories.len(), waker));
        let threads = threads.clamp(1, memories.len().max(1));
        let mut groups: Vec<Vec<Option<Memory>>> = (0..threads).map(|_| Vec::new()).collect();
        for (number, memory) in memories.into_iter().enumerate() {
            groups[number % threads].push(memory);
        }
        let (dialect, address) = (Dialect::of(server.kind), server.address);
        let start = |group: Vec<Option<Memory>>| {
            let board = Arc::clone(&board);
            thread::Builder::new().name("subscribers".to_owned()).spawn(move || {
                let mut subscribers = Vec::with_capacity(group.len());
                if let Err(error) = receive(group, dialect, address, &board, &mut subscribers) {
                    board.failed(error);
                }
                subscribers
            })
        };
        let threads = groups.into_iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self { board, threads })
    }

    /// Ends the threads. The subscribers are still connected.
    pub(crate) fn stop(self) -> Vec<Subscriber> {
        self.board.end();
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    }
}

/// The thread of a group.
fn receive(
    group: Vec<Option<Memory>>,
    dialect: Dialect,
    server: SocketAddr,
    board: &Board,
    subscribers: &mut Vec<Subscriber>,
) -> io::Result<()> {
    let mut poll = Poll::new()?;
    for (number, memory) in group.into_iter().enumerate() {
        let subscriber = Subscriber::come(dialect, server, memory)?;
        let fd = subscriber.stream.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE | Interest::WRITABLE)?;
        subscribers.push(subscriber);
    }
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    while !board.is_over() {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            subscribers[event.token().0].proceed(&mut scratch, board)?;
        }
    }
    Ok(())
}

enum Stage {
    /// What it says first, as soon as it is connected.
    Connecting(Vec<u8>),
    /// What came of the answer to its opening handshake.
    Opening(Vec<u8>),
    Open,
}

pub(crate) struct Subscriber {
    stream: TcpStream,
    dialect: Dialect,
    stage: Stage,
    inbox: Inbox,
    /// What it has come back with.
    before: Option<Memory>,
    now: Memory,
    taken: Taken,
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

/// Which messages a subscriber has.
#[derive(Debug, Default)]
struct Taken {
    count: u64,
    newest: u64,
    /// The newest, and those before it, from the lowest bit on.
    window: u128,
}

impl Taken {
    /// # Errors
    /// It has the message already, or might have: nothing is as old as that.
    fn note(&mut self, number: u64) -> io::Result<()> {
        if self.count == 0 || number > self.newest {
            let shift = u32::try_from(number - self.newest).unwrap_or(u32::MAX);
            self.window = self.window.checked_shl(shift).unwrap_or(0) | 1;
            self.newest = number;
        } else {
            let bit = u32::try_from(self.newest - number).ok().and_then(|age| 1_u128.checked_shl(age));
            match bit {
                Some(bit) if self.window & bit == 0 => self.window |= bit,
                _ => return Err(wrong(&format!("message {number} twice"))),
            }
        }
        self.count += 1;
        Ok(())
    }
}

impl Subscriber {
    /// Begins to connect.
    fn come(dialect: Dialect, server: SocketAddr, before: Option<Memory>) -> io::Result<Self> {
        let stream = wire::begin_connect(server)?;
        let stage = Stage::Connecting(dialect.handshake(server, before.as_ref()));
        let (inbox, taken) = (Inbox::default(), Taken::default());
        Ok(Self { stream, dialect, stage, inbox, before, now: Memory::default(), taken })
    }

    /// How many messages it has.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.count
    }

    /// Leaves without a word, and keeps what it needs to come back.
    pub(crate) fn leave(self) -> Memory {
        self.now
    }

    /// Does what it can: connects, or reads what is there.
    fn proceed(&mut self, scratch: &mut [u8], board: &Board) -> io::Result<()> {
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
            self.take(&scratch[..count], board)?;
            if count < scratch.len() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8], board: &Board) -> io::Result<()> {
        if let Stage::Opening(answer) = &mut self.stage {
            answer.extend_from_slice(bytes);
            let Some(end) = wire::upgraded(answer)? else { return Ok(()) };
            let rest = answer.split_off(end);
            self.stage = Stage::Open;
            match self.dialect.greeting(self.before.as_ref()) {
                Some(greeting) => self.say(wire::TEXT, greeting.as_bytes())?,
                None => board.subscribed(),
            }
            return self.take_frames(&rest, board);
        }
        self.take_frames(bytes, board)
    }

    fn take_frames(&mut self, mut bytes: &[u8], board: &Board) -> io::Result<()> {
        while let Some(piece) = self.inbox.parser.next(&mut bytes)? {
            match piece {
                Piece::Begin(opcode, len) => (self.inbox.opcode, self.inbox.len) = (opcode, len),
                // Mostly a frame comes whole, and is not copied.
                Piece::Payload(whole) if whole.len() as u64 == self.inbox.len => self.take_frame(whole, board)?,
                Piece::Payload(part) => {
                    self.inbox.part.extend_from_slice(part);
                    if self.inbox.part.len() as u64 == self.inbox.len {
                        let whole = std::mem::take(&mut self.inbox.part);
                        self.take_frame(&whole, board)?;
                    }
                }
                Piece::End if self.inbox.len == 0 => self.take_frame(&[], board)?,
                Piece::End => {}
            }
        }
        Ok(())
    }

    fn take_frame(&mut self, payload: &[u8], board: &Board) -> io::Result<()> {
        match self.inbox.opcode {
            wire::PING => return self.say(wire::PONG, payload),
            wire::TEXT => {}
            other => return Err(wrong(&format!("a frame of opcode {other}"))),
        }
        match self.dialect.understand(payload, self.before.as_ref())? {
            Said::Message { payload, place } => {
                let number = number(payload).ok_or_else(|| wrong(&String::from_utf8_lossy(payload)))?;
                self.taken.note(number)?;
                self.now.place.clear();
                self.now.place.extend_from_slice(place);
                board.delivered(number);
            }
            Said::Subscribed => board.subscribed(),
            Said::Session(session, answer) => {
                self.now.session = session.to_vec();
                match answer {
                    Some(answer) => self.say(wire::TEXT, answer.as_bytes())?,
                    None => board.subscribed(),
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_taken_once_in_any_order() {
        let mut taken = Taken::default();
        for number in [3, 1, 2, 500, 499, 400] {
            taken.note(number).unwrap();
        }
        assert_eq!(taken.count, 6);
        for twice in [500, 499, 400, 3] {
            assert!(taken.note(twice).is_err(), "{twice}");
        }
        taken.note(401).unwrap();
    }
}
