//! Many clients in one process and one thread: they answer Pings and do nothing else.
//!
//! It says `ready` when all are connected, and lives until its standard input ends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::process;
use crate::wire::{self, Parser, Piece};

struct Member {
    stream: TcpStream,
    parser: Parser,
    ping: Vec<u8>,
    is_ping: bool,
    is_open: bool,
}

pub(crate) fn run(server: SocketAddr, count: usize, is_websocket: bool) -> io::Result<()> {
    process::end_with_stdin();
    let mut poll = Poll::new()?;
    let mut crowd = Vec::with_capacity(count);
    for number in 0..count {
        let mut member = Member::open(server, is_websocket)?;
        let interest = Interest::READABLE;
        poll.registry().register(&mut SourceFd(&member.stream.as_raw_fd()), Token(number), interest)?;
        member.take(&[])?;
        crowd.push(member);
        // Those who are here already must not look dead while the rest arrives.
        if number % 256 == 255 {
            answer(&mut poll, &mut crowd, Duration::ZERO)?;
        }
    }
    println!("ready");
    loop {
        answer(&mut poll, &mut crowd, Duration::from_secs(1))?;
    }
}

fn answer(poll: &mut Poll, crowd: &mut [Member], wait: Duration) -> io::Result<()> {
    let mut events = Events::with_capacity(1024);
    match poll.poll(&mut events, Some(wait)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
        _ => {}
    }
    for event in &events {
        let member = &mut crowd[event.token().0];
        if member.is_open && member.receive().is_err() {
            member.is_open = false;
        }
    }
    Ok(())
}

impl Member {
    fn open(server: SocketAddr, is_websocket: bool) -> io::Result<Self> {
        let stream = wire::connect(server)?;
        let tail = if is_websocket { wire::upgrade(&stream)? } else { Vec::new() };
        stream.set_nonblocking(true)?;
        let mut member = Self { stream, parser: Parser::default(), ping: Vec::new(), is_ping: false, is_open: true };
        member.take(&tail)?;
        Ok(member)
    }

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
                Piece::Begin(opcode, _) => {
                    self.is_ping = opcode == wire::PING;
                    self.ping.clear();
                }
                Piece::Payload(payload) => self.ping.extend_from_slice(payload),
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
