//! Many clients in one process and one thread: they answer Pings and do nothing else, until some are told to be silent.
//!
//! It says `ready` when all are connected. At `silence N` that many answer no more; for each of them it says
//! `late MICROSECONDS` when the server ends it, counted from the first Ping that it left unanswered. Should the server
//! end another, it says `lost`. It lives until its standard input ends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::process::{self, Process, Server};
use crate::wire::{self, Parser, Piece};

struct Member {
    stream: TcpStream,
    parser: Parser,
    ping: Vec<u8>,
    is_ping: bool,
    is_silent: bool,
    /// When the first Ping came that it leaves unanswered.
    unanswered: Option<Instant>,
    is_open: bool,
}

/// The token of whoever tells us to be silent.
const ORDERS: Token = Token(usize::MAX);

pub(crate) fn run(server: SocketAddr, count: usize, is_websocket: bool) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), ORDERS)?;
    let silent = Arc::new(AtomicUsize::new(0));
    let ordered = Arc::clone(&silent);
    process::obey_stdin(move |line| {
        if let Some(count) = line.strip_prefix("silence ").and_then(|count| count.parse().ok()) {
            ordered.store(count, Relaxed);
            // If it fails, the order is seen at the next Ping.
            let _ = waker.wake();
        }
    });

    let mut crowd = Vec::with_capacity(count);
    for number in 0..count {
        let member = Member::open(server, is_websocket)?;
        let interest = Interest::READABLE;
        poll.registry().register(&mut SourceFd(&member.stream.as_raw_fd()), Token(number), interest)?;
        crowd.push(member);
        // Those who are here already must not look dead while the rest arrives.
        if number % 64 == 63 {
            answer(&mut poll, &mut crowd, Duration::ZERO)?;
        }
    }
    println!("ready");
    loop {
        answer(&mut poll, &mut crowd, Duration::from_secs(1))?;
        let silent = silent.swap(0, Relaxed);
        // Evenly spread, for their heartbeats are spread in the order of their arrival.
        if let Some(step) = crowd.len().checked_div(silent).map(|step| step.max(1)) {
            crowd.iter_mut().step_by(step).take(silent).for_each(|member| member.is_silent = true);
        }
    }
}

fn answer(poll: &mut Poll, crowd: &mut [Member], wait: Duration) -> io::Result<()> {
    let mut events = Events::with_capacity(1024);
    match poll.poll(&mut events, Some(wait)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
        _ => {}
    }
    for event in events.iter().filter(|event| event.token() != ORDERS) {
        let member = &mut crowd[event.token().0];
        if member.is_open && member.receive().is_err() {
            member.is_open = false;
            match member.unanswered {
                Some(since) => println!("late {}", since.elapsed().as_micros()),
                None => println!("lost"),
            }
        }
    }
    Ok(())
}

impl Member {
    fn open(server: SocketAddr, is_websocket: bool) -> io::Result<Self> {
        let stream = wire::connect(server)?;
        let tail = if is_websocket {
            wire::upgrade(&stream)?
        } else {
            // Waits until the server has taken it in, as the handshake does: a rush would overrun its backlog.
            (&stream).write_all(b"?")?;
            (&stream).read_exact(&mut [0])?;
            Vec::new()
        };
        stream.set_nonblocking(true)?;
        let mut member = Self {
            stream,
            parser: Parser::default(),
            ping: Vec::new(),
            is_ping: false,
            is_silent: false,
            unanswered: None,
            is_open: true,
        };
        member.take(&tail)?;
        Ok(member)
    }

    /// Takes what came; an error when the server has ended it, or said Close.
    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1024];
        loop {
            match (&self.stream).read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.take(&chunk[..count])?;
                    if count < chunk.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(piece) = self.parser.next(&mut bytes)? {
            match piece {
                Piece::Begin(wire::CLOSE, _) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Piece::Begin(opcode, _) => {
                    self.is_ping = opcode == wire::PING;
                    self.ping.clear();
                }
                Piece::Payload(payload) => self.ping.extend_from_slice(payload),
                Piece::End if self.is_ping && self.is_silent => {
                    self.unanswered.get_or_insert_with(Instant::now);
                }
                Piece::End if self.is_ping => {
                    let mut pong = Vec::with_capacity(32);
                    wire::frame(&mut pong, wire::PONG, &self.ping);
                    // A few bytes on an idle connection: the socket takes them.
                    (&self.stream).write_all(&pong)?;
                }
                Piece::End => {}
            }
        }
        Ok(())
    }
}

/// Starts a crowd in a process of its own, and waits until it is complete.
pub(crate) fn start(server: &Server, count: usize) -> io::Result<Process> {
    let mut arguments = vec!["crowd".to_owned(), server.address.to_string(), count.to_string()];
    if !server.kind.is_websocket() {
        arguments.push("--bare".into());
    }
    let crowd = Process::start(&arguments)?;
    let line = crowd.line(Duration::from_secs(120))?;
    if line == "ready" { Ok(crowd) } else { Err(io::Error::other(format!("the crowd said: {line}"))) }
}
