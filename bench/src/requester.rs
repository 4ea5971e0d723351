//! One connection of a load: requests out, answers in.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::answers::{Answers, Dialect, Template};
use crate::wire::{self, wrong};

pub(crate) struct Requester {
    pub(crate) stream: TcpStream,
    dialect: Dialect,
    template: Template,
    answers: Answers,
    requests: u64,
    /// When the requests left whose answers were not taken yet.
    sent: VecDeque<Instant>,
    out: Vec<u8>,
    written: usize,
}

impl Requester {
    pub(crate) fn open(server: SocketAddr, dialect: Dialect, payload: usize, number: usize) -> io::Result<Self> {
        Self::with_template(server, dialect, Template::new(dialect, payload, number))
    }

    pub(crate) fn with_template(server: SocketAddr, dialect: Dialect, template: Template) -> io::Result<Self> {
        let stream = wire::connect(server)?;
        let tail = if dialect.is_websocket { wire::upgrade(&stream)? } else { Vec::new() };
        let mut answers = template.answers(0);
        let mut out = Vec::new();
        answers.take(&tail, &mut out)?;
        Ok(Self { stream, dialect, template, answers, requests: 0, sent: VecDeque::new(), out, written: 0 })
    }

    /// Requests whose answers are awaited.
    pub(crate) fn under_way(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.sent.is_empty() && self.written == self.out.len()
    }

    /// Puts a request into the buffer.
    pub(crate) fn request(&mut self, now: Instant) {
        self.template.write(self.requests, &mut self.out);
        self.requests += 1;
        self.sent.push_back(now);
    }

    /// Awaits an answer to what somebody else requests.
    pub(crate) fn expect(&mut self) {
        self.requests += 1;
        self.sent.push_back(Instant::now());
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match (&self.stream).write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what the socket has. A read that does not fill the buffer has emptied it.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            match (&self.stream).read(scratch) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server sent its end")),
                Ok(count) => {
                    self.answers.take(&scratch[..count], &mut self.out)?;
                    if self.answers.number() > self.requests {
                        return Err(wrong("an answer that nobody asked for"));
                    }
                    if count < scratch.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// When the oldest answer that is here and was not taken yet had been asked for.
    pub(crate) fn take_answer(&mut self) -> Option<Instant> {
        let taken = self.requests - self.sent.len() as u64;
        if taken < self.answers.number() { self.sent.pop_front() } else { None }
    }

    /// When those requests were made whose answers are awaited no more.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Instant> {
        self.sent.drain(..)
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.dialect.is_websocket
    }
}

/// Closes politely: a Close frame, our end, and then the server's.
pub(crate) fn close(requesters: &[Requester]) {
    for requester in requesters {
        say_goodbye(&requester.stream, requester.is_websocket());
    }
    await_ends(requesters.iter().map(|requester| &requester.stream));
}

/// A Close frame, and our end of the connection.
pub(crate) fn say_goodbye(stream: &TcpStream, is_websocket: bool) {
    // Whatever fails here, the measurement is over.
    let _ = stream.set_nonblocking(false);
    if is_websocket {
        let mut farewell = Vec::new();
        wire::frame(&mut farewell, wire::CLOSE, &1000_u16.to_be_bytes());
        let _ = (&*stream).write_all(&farewell);
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// The server's ends; two seconds in all at most.
pub(crate) fn await_ends<'a>(streams: impl Iterator<Item = &'a TcpStream>) {
    let deadline = Instant::now() + Duration::from_secs(2);
    for mut stream in streams {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let _ = stream.set_read_timeout(Some(left));
        let _ = io::copy(&mut stream, &mut io::sink());
    }
}
