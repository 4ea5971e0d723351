//! The load: connections that send requests, verify every byte of every answer, and answer Pings.
//!
//! A few threads wait for readiness (epoll) and read and write raw sockets, so that they cost less than the servers
//! do. A thread that has one connection only, with small messages, blocks in its reads instead: the shortest way.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::answers::Seen;
use crate::pages::{Conversation, Pages};
use crate::process::Server;
use crate::procfs::Usage;
use crate::requester::{Requester, close};
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
    /// State pages in place of all that.
    pub(crate) pages: Option<PageLoad>,
    pub(crate) threads: usize,
    /// Not counted.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// State pages, and what the server is offered to compress them.
#[derive(Debug, Clone)]
pub(crate) struct PageLoad {
    pub(crate) pages: Arc<Pages>,
    pub(crate) offer: Option<&'static str>,
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
    /// The load's own.
    pub(crate) own_processor: Duration,
    /// What all answers took, those of the warm-up too.
    pub(crate) seen: Seen,
    /// The server's at the end, with all connections open.
    pub(crate) usage: Usage,
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
        let processors = span.processors(server);
        let usage = procfs::usage(server.process.pid());

        let (mut latency, mut seen) = (new_histogram(), Seen::default());
        for worker in workers {
            let (counted, taken) = worker.join().map_err(|_| io::Error::other("a load thread panicked"))??;
            latency.add(counted).map_err(io::Error::other)?;
            seen.add(taken);
        }
        let answers = u32::try_from(latency.len().max(1)).unwrap_or(u32::MAX);
        let rate = latency.len() as f64 / load.duration.as_secs_f64();
        let [processor, own_processor] = processors.map(|time| time / answers);
        let outcome = Outcome { rate, latency, processor, own_processor, seen, usage };
        Ok((!interrupt::is_set()).then_some(outcome))
    })
}

/// Opens the connections, a group for each thread.
fn open(server: &Server, load: &Load) -> io::Result<Vec<Vec<Requester>>> {
    let threads = load.threads.min(load.connections);
    let dialect = server.dialect(load.text);
    let address = server.address;
    let conversation = load.pages.as_ref().map(|load| (Arc::new(Conversation::new(&load.pages)), load.offer));
    let conversation = conversation.as_ref();
    thread::scope(|scope| {
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..load.connections).step_by(threads);
                scope.spawn(move || {
                    numbers
                        .take_while(|_| !interrupt::is_set())
                        .map(|number| match conversation {
                            Some((conversation, offer)) => {
                                Requester::with_pages(address, dialect, conversation, *offer)
                            }
                            None => Requester::open(address, dialect, load.payload, number),
                        })
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

pub(crate) fn new_histogram() -> Histogram<u64> {
    // Three digits up to a minute; the bounds are constant and valid.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap_or_else(|_| unreachable!())
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Span {
    pub(crate) fn contains(self, now: Instant) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// Waits until it is over. What it took of the processors: the server, and this process.
    pub(crate) fn processors(self, server: &Server) -> [Duration; 2] {
        let pids = [server.process.pid(), std::process::id()];
        interrupt::sleep_until(self.from);
        let before = pids.map(procfs::processor);
        interrupt::sleep_until(self.until);
        let after = pids.map(procfs::processor);
        [0, 1].map(|process| after[process].saturating_sub(before[process]))
    }
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
        let is_small = load.pages.is_none() && load.window * load.payload <= Self::SMALL;
        let is_blocking = requesters.len() == 1 && is_small;
        let poll = if is_blocking { None } else { Some(Poll::new()?) };
        for (number, requester) in requesters.iter().enumerate() {
            let stream = requester.stream();
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

    fn run(mut self) -> io::Result<(Histogram<u64>, Seen)> {
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
        let mut seen = Seen::default();
        self.requesters.iter().for_each(|requester| seen.add(requester.seen()));
        close(&mut self.requesters);
        Ok((self.latency, seen))
    }

    /// Takes what a connection has received, and sends the next requests.
    fn serve(&mut self, number: usize) -> io::Result<()> {
        let requester = &mut self.requesters[number];
        requester.receive(&mut self.scratch)?;
        let now = Instant::now();
        while let Some(sent) = requester.take_answer() {
            if self.span.contains(now) {
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
