//! Many clients in one process and one thread: they answer Pings and do nothing else, until some are told to be silent.
//!
//! It says `ready` when all are connected; with `--talk` when each has had an echo, a Pong to a Ping of its own,
//! and has answered a Ping of the server's, if that sends any. At `silence N` that many answer no more; for each of
//! them it says `late MICROSECONDS` when the server ends it, counted from the first Ping that it left unanswered.
//! Should the server end another, it says `lost`. It lives until its standard input ends.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::answers::Dialect;
use crate::channel::{Channel, Received, SCRATCH};
use crate::pages::{self, Pages, Terms};
use crate::process::{self, Process, Server};
use crate::tls;
use crate::wire::{self, Parser, Piece};

/// What a crowd is like.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Options {
    /// Plain TCP, no WebSocket.
    #[arg(long)]
    pub(crate) bare: bool,
    /// Over TLS.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Each has an echo and a Pong first.
    #[arg(long)]
    pub(crate) talk: bool,
    /// Each waits for a Ping of the server, too.
    #[arg(long)]
    pub(crate) await_ping: bool,
    /// What each has echoed, with --talk, is a state page of so many bytes.
    #[arg(long)]
    pub(crate) page: Option<usize>,
    /// The page is compressed, each way.
    #[arg(long)]
    pub(crate) deflate: bool,
}

impl Options {
    fn arguments(self) -> Vec<String> {
        let Self { bare, tls, talk, await_ping, page, deflate } = self;
        let flags = [(bare, "--bare"), (tls, "--tls"), (talk, "--talk"), (await_ping, "--await-ping")];
        let flags = flags.into_iter().chain([(deflate, "--deflate")]);
        let mut arguments: Vec<String> = flags.filter(|(is_set, _)| *is_set).map(|(_, flag)| flag.to_owned()).collect();
        if let Some(page) = page {
            arguments.extend(["--page".into(), page.to_string()]);
        }
        arguments
    }
}

struct Member {
    channel: Channel,
    parser: Parser,
    ping: Vec<u8>,
    is_ping: bool,
    heard: Heard,
    is_silent: bool,
    /// When the first Ping came that it leaves unanswered.
    unanswered: Option<Instant>,
    is_open: bool,
}

const MOST_AT_ONCE: usize = 1024;

/// The token of whoever tells us to be silent.
const ORDERS: Token = Token(usize::MAX);

pub(crate) fn run(server: SocketAddr, count: usize, options: Options) -> io::Result<()> {
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
    let pages = options.page.map(Pages::new).transpose()?;
    for number in 0..count {
        let member = Member::open(server, options, pages.as_ref())?;
        let interest = Interest::READABLE;
        poll.registry().register(&mut SourceFd(&member.channel.stream().as_raw_fd()), Token(number), interest)?;
        crowd.push(member);
        // Those who are here already must not look dead while the rest arrives, however slowly that goes.
        if number % 64 == 63 {
            while answer(&mut poll, &mut crowd, Duration::ZERO)? == MOST_AT_ONCE {}
        }
    }
    while !crowd.iter().all(|member| member.heard.is_enough(options)) {
        answer(&mut poll, &mut crowd, Duration::from_millis(100))?;
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

/// Reads what has come to so many members at most, and answers Pings. Returns how many they were.
fn answer(poll: &mut Poll, crowd: &mut [Member], wait: Duration) -> io::Result<usize> {
    let mut events = Events::with_capacity(MOST_AT_ONCE);
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
    Ok(events.iter().count())
}

/// What a member has had of the server.
#[derive(Debug, Default)]
struct Heard {
    echo: bool,
    pong: bool,
    ping: bool,
}

impl Heard {
    fn is_enough(&self, options: Options) -> bool {
        (!options.talk || self.echo && self.pong) && (!options.await_ping || self.ping)
    }
}

impl Member {
    fn open(server: SocketAddr, options: Options, pages: Option<&Pages>) -> io::Result<Self> {
        let mut channel = Channel::connect(server, options.tls.then(tls::careless_client))?;
        let mut terms = Terms::PLAIN;
        let tail = if options.bare {
            // Waits until the server has taken it in, as the handshake does: a rush would overrun its backlog.
            channel.stream().write_all(b"?")?;
            channel.stream().read_exact(&mut [0])?;
            Vec::new()
        } else {
            let (agreed, tail) = pages::upgrade(&mut channel, options.deflate.then_some(pages::WITHOUT_TAKEOVER))?;
            terms = agreed;
            tail
        };
        if options.talk {
            let mut words = Vec::with_capacity(64);
            match pages {
                Some(pages) => words.extend_from_slice(pages.frame(0, terms)),
                None => wire::frame(&mut words, wire::BINARY, &[b'0'; 20]),
            }
            wire::frame(&mut words, wire::PING, b"?");
            channel.write(&words)?;
        }
        channel.stream().set_nonblocking(true)?;
        let mut member = Self {
            channel,
            parser: Parser::new(terms.is_compressed),
            ping: Vec::new(),
            is_ping: false,
            heard: Heard::default(),
            is_silent: false,
            unanswered: None,
            is_open: true,
        };
        member.take(&tail)?;
        Ok(member)
    }

    /// Takes what came; an error when the server has ended it, or said Close.
    fn receive(&mut self) -> io::Result<()> {
        let mut scratch = [0; SCRATCH];
        let mut arrived = Vec::new();
        loop {
            let received = self.channel.receive(&mut scratch, |bytes| {
                arrived.extend_from_slice(bytes);
                Ok(())
            });
            self.take(&std::mem::take(&mut arrived))?;
            match received {
                Ok(Received::End) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Received::All) => return Ok(()),
                Ok(Received::Part) => {}
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
                    self.heard.echo |= matches!(opcode & !wire::COMPRESSED, wire::BINARY | wire::TEXT);
                    self.heard.pong |= opcode == wire::PONG;
                    self.heard.ping |= self.is_ping;
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
                    self.channel.write(&pong)?;
                }
                Piece::End => {}
            }
        }
        Ok(())
    }
}

/// Starts a crowd in a process of its own, and waits until it is complete.
pub(crate) fn start(server: &Server, count: usize) -> io::Result<Process> {
    start_with(server, count, Options::default())
}

/// One whose members talk first, and await a Ping of the server.
pub(crate) fn start_talking(server: &Server, count: usize, await_ping: bool) -> io::Result<Process> {
    start_with(server, count, Options { talk: true, await_ping, ..Options::default() })
}

/// One whose members have a state page echoed first, and await a Ping of the server.
pub(crate) fn start_reading(server: &Server, count: usize, page: usize, deflate: bool) -> io::Result<Process> {
    start_with(server, count, Options { talk: true, await_ping: true, page: Some(page), deflate, ..Options::default() })
}

fn start_with(server: &Server, count: usize, options: Options) -> io::Result<Process> {
    let Dialect { is_websocket, is_tls, .. } = server.dialect(false);
    let mut arguments = vec!["crowd".to_owned(), server.address.to_string(), count.to_string()];
    arguments.extend(Options { bare: !is_websocket, tls: is_tls, ..options }.arguments());
    let crowd = Process::start(&arguments)?;
    let line = crowd.line(Duration::from_secs(120))?;
    if line == "ready" { Ok(crowd) } else { Err(io::Error::other(format!("the crowd said: {line}"))) }
}
