//! One connection of a load: requests out, answers in.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answers::{Answers, Dialect, Seen, Template};
use crate::channel::{Channel, Received};
use crate::pages::{self, Conversation};
use crate::tls;
use crate::wire::{self, wrong};

pub(crate) struct Requester {
    channel: Channel,
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
        let mut channel = Channel::connect(server, dialect.is_tls.then(tls::careless_client))?;
        let tail = if dialect.is_websocket { channel.upgrade()? } else { Vec::new() };
        Self::new(channel, template, &tail)
    }

    /// One that sends state pages, on terms of which the server is offered these extensions.
    pub(crate) fn with_pages(
        server: SocketAddr,
        dialect: Dialect,
        conversation: &Arc<Conversation>,
        offer: Option<&str>,
    ) -> io::Result<Self> {
        let mut channel = Channel::connect(server, dialect.is_tls.then(tls::careless_client))?;
        let (terms, tail) = pages::upgrade(&mut channel, offer)?;
        Self::new(channel, Template::pages(dialect, conversation, terms), &tail)
    }

    fn new(channel: Channel, template: Template, tail: &[u8]) -> io::Result<Self> {
        let dialect = template.dialect();
        let mut answers = template.answers(0);
        let mut out = Vec::new();
        answers.take(tail, &mut out)?;
        Ok(Self { channel, dialect, template, answers, requests: 0, sent: VecDeque::new(), out, written: 0 })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.channel.stream()
    }

    /// What the answers took so far.
    pub(crate) fn seen(&self) -> Seen {
        self.answers.seen()
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
            match self.channel.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        match self.channel.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads what the socket has. A read that does not fill the buffer has emptied it.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            let Self { channel, answers, out, .. } = self;
            match channel.receive(scratch, |bytes| answers.take(bytes, out)) {
                Ok(Received::End) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server sent its end"));
                }
                Ok(received) => {
                    if self.answers.number() > self.requests {
                        return Err(wrong("an answer that nobody asked for"));
                    }
                    if received == Received::All {
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
}

/// Closes politely: a Close frame, our end, and then the server's.
pub(crate) fn close(requesters: &mut [Requester]) {
    for requester in requesters.iter_mut() {
        // Whatever fails here, the measurement is over.
        let _ = requester.stream().set_nonblocking(false);
        if requester.dialect.is_websocket {
            let _ = requester.channel.write(&farewell());
        }
        let _ = requester.stream().shutdown(Shutdown::Write);
    }
    await_ends(requesters.iter().map(Requester::stream));
}

/// A Close frame, and our end of the connection.
pub(crate) fn say_goodbye(stream: &TcpStream, is_websocket: bool) {
    // Whatever fails here, the measurement is over.
    let _ = stream.set_nonblocking(false);
    if is_websocket {
        let _ = (&*stream).write_all(&farewell());
    }
    let _ = stream.shutdown(Shutdown::Write);
}

fn farewell() -> Vec<u8> {
    let mut farewell = Vec::new();
    wire::frame(&mut farewell, wire::CLOSE, &1000_u16.to_be_bytes());
    farewell
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
