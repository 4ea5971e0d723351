//! The load: connections that send requests, verify every byte of every answer, and answer Pings.
//!
//! A few threads wait for readiness (epoll) and read and write raw sockets, so that they cost less than the servers
//! do. A thread that has one connection only, with small messages, blocks in its reads instead: the shortest way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::process::Server;
use crate::wire::{self, Parser, Piece, wrong};
use crate::{interrupt, procfs};

/// How a server is to be loaded.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Requests under way on each connection.
    pub(crate) window: usize,
    /// Bytes of each message.
    pub(crate) payload: usize,
    pub(crate) text: bool,
    pub(crate) threads: usize,
    /// Not counted.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Verified answers per second.
    pub(crate) rate: f64,
    /// Nanoseconds from request to verified answer.
    pub(crate) latency: Histogram<u64>,
    /// The server's processor time for each answer.
    pub(crate) processor: Duration,
}

/// Runs a load. `None` after Ctrl-C.
pub(crate) fn run(server: &Server, load: &Load) -> io::Result<Option<Outcome>> {
    let groups = open(server, load)?;
    let from = Instant::now() + load.warm_up;
    let until = from + load.duration;
    let span = Span { from, until };
    thread::scope(|scope| {
        let workers: Vec<_> =
            groups.into_iter().map(|group| scope.spawn(move || Worker::new(group, load, span)?.run())).collect();
        interrupt::sleep_until(from);
        let before = procfs::processor(server.process.pid());
        interrupt::sleep_until(until);
        let processor = procfs::processor(server.process.pid()) - before;

        let mut latency = new_histogram();
        for worker in workers {
            let counted = worker.join().map_err(|_| io::Error::other("a load thread panicked"))??;
            latency.add(counted).map_err(io::Error::other)?;
        }
        let answers = latency.len().max(1);
        let rate = latency.len() as f64 / load.duration.as_secs_f64();
        let outcome = Outcome { rate, latency, processor: processor / u32::try_from(answers).unwrap_or(u32::MAX) };
        Ok((!interrupt::is_set()).then_some(outcome))
    })
}

/// Opens the connections, a group for each thread.
fn open(server: &Server, load: &Load) -> io::Result<Vec<Vec<Requester>>> {
    let threads = load.threads.min(load.connections);
    let (address, is_websocket) = (server.address, server.kind.is_websocket());
    thread::scope(|scope| {
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..load.connections).step_by(threads);
                scope.spawn(move || {
                    numbers
                        .take_while(|_| !interrupt::is_set())
                        .map(|number| Requester::open(address, is_websocket, number, load))
                        .collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        openers
            .into_iter()
            .map(|opener| opener.join().map_err(|_| io::Error::other("a load thread panicked"))?)
            .collect()
    })
}

fn new_histogram() -> Histogram<u64> {
    // Three digits up to a minute; the bounds are constant and valid.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap_or_else(|_| unreachable!())
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    until: Instant,
}

/// A thread's share of the connections.
struct Worker {
    requesters: Vec<Requester>,
    window: usize,
    span: Span,
    poll: Option<Poll>,
    latency: Histogram<u64>,
    scratch: Vec<u8>,
}

impl Worker {
    /// How long the last answers may take.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// What a blocking write surely gets rid of while nobody reads.
    const SMALL: usize = 4096;

    fn new(requesters: Vec<Requester>, load: &Load, span: Span) -> io::Result<Self> {
        let is_blocking = requesters.len() == 1 && load.window * load.payload <= Self::SMALL;
        let poll = if is_blocking { None } else { Some(Poll::new()?) };
        for (number, requester) in requesters.iter().enumerate() {
            let stream = &requester.stream;
            match &poll {
                Some(poll) => {
                    stream.set_nonblocking(true)?;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(number), interest)?;
                }
                None => stream.set_read_timeout(Some(Duration::from_millis(100)))?,
            }
        }
        let latency = new_histogram();
        Ok(Self { requesters, window: load.window, span, poll, latency, scratch: vec![0; 64 * 1024] })
    }

    fn run(mut self) -> io::Result<Histogram<u64>> {
        for number in 0..self.requesters.len() {
            self.request(number, Instant::now())?;
        }
        let mut events = Events::with_capacity(1024);
        loop {
            match &mut self.poll {
                Some(poll) => match poll.poll(&mut events, Some(Duration::from_millis(100))) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ => {
                        for event in &events {
                            self.serve(event.token().0)?;
                        }
                    }
                },
                None => self.serve(0)?,
            }
            let now = Instant::now();
            if interrupt::is_set() || now >= self.span.until && self.requesters.iter().all(Requester::is_done) {
                break;
            }
            if now >= self.span.until + Self::PATIENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "answers are missing"));
            }
        }
        close(self.requesters);
        Ok(self.latency)
    }

    /// Takes what a connection has received, and sends the next requests.
    fn serve(&mut self, number: usize) -> io::Result<()> {
        let requester = &mut self.requesters[number];
        requester.receive(&mut self.scratch)?;
        let now = Instant::now();
        while let Some(sent) = requester.take_answer() {
            if (self.span.from..self.span.until).contains(&now) {
                self.latency.saturating_record((now - sent).as_nanos() as u64);
            }
        }
        self.request(number, now)
    }

    fn request(&mut self, number: usize, now: Instant) -> io::Result<()> {
        let requester = &mut self.requesters[number];
        while now < self.span.until && requester.under_way() < self.window {
            requester.request(now);
        }
        requester.flush()
    }
}

/// A connection of the load.
struct Requester {
    stream: TcpStream,
    is_websocket: bool,
    parser: Parser,
    /// A request as it is sent, but for its number. The payload begins behind `head`.
    frame: Vec<u8>,
    head: usize,
    /// The answer that is awaited.
    expected: Vec<u8>,
    /// How much of it is here.
    position: usize,
    is_control: bool,
    control: Vec<u8>,
    requests: u64,
    received: u64,
    /// When the requests left that were not answered, and those that were, but not taken.
    sent: VecDeque<Instant>,
    out: Vec<u8>,
    written: usize,
}

impl Requester {
    /// The number of a request stands at the front of its payload, in digits.
    const DIGITS: usize = 16;

    fn open(server: SocketAddr, is_websocket: bool, number: usize, load: &Load) -> io::Result<Self> {
        let stream = wire::connect(server)?;
        let tail = if is_websocket { wire::upgrade(&stream)? } else { Vec::new() };

        let mut payload = vec![b'0'; load.payload.max(Self::DIGITS)];
        let name = format!(" {number} ");
        for (byte, letter) in payload[Self::DIGITS..].iter_mut().zip(name.bytes().cycle()) {
            *byte = letter;
        }
        let mut frame = Vec::new();
        let head = wire::header(&mut frame, if load.text { wire::TEXT } else { wire::BINARY }, payload.len());
        frame.extend_from_slice(&payload);
        // Plain TCP gets as many bytes, and gives them all back.
        let mut expected = if is_websocket { payload } else { frame.clone() };
        let digits = if is_websocket { 0 } else { head };
        number_message(&mut expected[digits..], 0);
        if is_websocket {
            wire::mask(&mut frame[head..], 0);
        }
        let mut requester = Self {
            stream,
            is_websocket,
            parser: Parser::default(),
            frame,
            head,
            expected,
            position: 0,
            is_control: false,
            control: Vec::new(),
            requests: 0,
            received: 0,
            sent: VecDeque::new(),
            out: Vec::new(),
            written: 0,
        };
        requester.take(&tail)?;
        Ok(requester)
    }

    fn under_way(&self) -> usize {
        self.sent.len()
    }

    fn is_done(&self) -> bool {
        self.sent.is_empty() && self.written == self.out.len()
    }

    /// Puts a request into the buffer.
    fn request(&mut self, now: Instant) {
        let start = self.out.len() + self.head;
        self.out.extend_from_slice(&self.frame);
        let digits = &mut self.out[start..start + Self::DIGITS];
        number_message(digits, self.requests);
        if self.is_websocket {
            wire::mask(digits, 0);
        }
        self.requests += 1;
        self.sent.push_back(now);
    }

    /// Writes what the socket takes.
    fn flush(&mut self) -> io::Result<()> {
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
    fn receive(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            match (&self.stream).read(scratch) {
                Ok(0) => return Err(wrong("its end")),
                Ok(count) => {
                    self.take(&scratch[..count])?;
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

    /// When the oldest answer that was received and not yet taken was asked for.
    fn take_answer(&mut self) -> Option<Instant> {
        let taken = self.requests - self.sent.len() as u64;
        if taken < self.received { self.sent.pop_front() } else { None }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if !self.is_websocket {
            while !bytes.is_empty() {
                let (chunk, rest) = bytes.split_at(bytes.len().min(self.expected.len() - self.position));
                self.compare(chunk)?;
                bytes = rest;
                if self.position == self.expected.len() {
                    self.answered(self.head)?;
                }
            }
            return Ok(());
        }
        while let Some(piece) = self.parser.next(&mut bytes)? {
            match piece {
                Piece::Begin(wire::TEXT | wire::BINARY, length) if length == self.expected.len() as u64 => {
                    self.is_control = false;
                }
                Piece::Begin(wire::PING, _) => {
                    self.is_control = true;
                    self.control.clear();
                }
                Piece::Begin(opcode, length) => {
                    return Err(wrong(&format!("a frame with opcode {opcode} and {length} bytes")));
                }
                Piece::Payload(payload) if self.is_control => self.control.extend_from_slice(payload),
                Piece::Payload(payload) => self.compare(payload)?,
                Piece::End if self.is_control => wire::frame(&mut self.out, wire::PONG, &self.control),
                Piece::End => self.answered(0)?,
            }
        }
        Ok(())
    }

    fn compare(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.expected[self.position..self.position + bytes.len()] != *bytes {
            return Err(wrong("another answer than it should have"));
        }
        self.position += bytes.len();
        Ok(())
    }

    /// An answer is complete; the next is expected. Its number stands at `digits`.
    fn answered(&mut self, digits: usize) -> io::Result<()> {
        self.received += 1;
        if self.received > self.requests {
            return Err(wrong("an answer that nobody asked for"));
        }
        self.position = 0;
        number_message(&mut self.expected[digits..], self.received);
        Ok(())
    }
}

fn number_message(payload: &mut [u8], mut number: u64) {
    for digit in payload[..Requester::DIGITS].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Closes politely: a Close frame, our end, and the server's.
fn close(requesters: Vec<Requester>) {
    let mut farewell = Vec::new();
    wire::frame(&mut farewell, wire::CLOSE, &1000_u16.to_be_bytes());
    for requester in &requesters {
        let mut stream = &requester.stream;
        // Whatever fails here, the measurement is over.
        let _ = stream.set_nonblocking(false);
        if requester.is_websocket {
            let _ = stream.write_all(&farewell);
        }
        let _ = stream.shutdown(Shutdown::Write);
    }
    for requester in &requesters {
        let _ = requester.stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = io::copy(&mut &requester.stream, &mut io::sink());
    }
}
