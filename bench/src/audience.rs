//! The load of a fan-out: one publisher, many listeners that verify what they get, and perhaps some who never read.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::answers::{Answers, Dialect, Seen, Template};
use crate::channel::Channel;
use crate::load::PageLoad;
use crate::pages::{self, Conversation, Terms};
use crate::process::Server;
use crate::procfs::Usage;
use crate::requester::{await_ends, say_goodbye};
use crate::wire::wrong;
use crate::{interrupt, load, procfs};

/// How a server's fan-out is to be loaded.
#[derive(Debug, Clone)]
pub(crate) struct Fanout {
    pub(crate) listeners: usize,
    /// Connections that never read.
    pub(crate) deaf: usize,
    pub(crate) payload: usize,
    /// State pages in place of that: the listeners make the offer, and the publisher none.
    pub(crate) pages: Option<PageLoad>,
    /// Messages under way while the rate is measured.
    pub(crate) window: usize,
    pub(crate) threads: usize,
    /// For each of the two parts.
    pub(crate) duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Nanoseconds from publishing until the last listener has it, one message at a time.
    pub(crate) last: Histogram<u64>,
    /// Verified deliveries per second, with a window of messages under way.
    pub(crate) rate: f64,
    /// The server's processor time for each delivery, while that was measured.
    pub(crate) processor: Duration,
    /// The load's own.
    pub(crate) own_processor: Duration,
    /// What all deliveries took.
    pub(crate) seen: Seen,
    /// The server's at the end, with all connections open.
    pub(crate) usage: Usage,
}

/// Runs it. `None` after Ctrl-C.
pub(crate) fn run(server: &Server, fanout: &Fanout) -> io::Result<Option<Outcome>> {
    let dialect = server.dialect(false);
    let conversation = fanout.pages.as_ref().map(|load| Arc::new(Conversation::new(&load.pages)));
    let template = match &conversation {
        Some(conversation) => Template::pages(dialect, conversation, Terms::PLAIN),
        None => Template::new(dialect, fanout.payload, 0),
    };
    let deaf: Vec<TcpStream> =
        (0..fanout.deaf).map(|_| open_deaf(server.address, dialect)).collect::<io::Result<_>>()?;
    let groups = open(server.address, fanout, &template, conversation.as_ref())?;
    let publisher = open_stream(server.address, dialect)?;
    // A client may be through with its handshake a moment before the server counts it in.
    interrupt::sleep_until(Instant::now() + Duration::from_millis(500));

    let (report, complete) = channel();
    let tally = Tally::new(fanout);
    let outcome = thread::scope(|scope| {
        let listeners: Vec<_> = groups
            .into_iter()
            .map(|group| {
                let (report, tally) = (report.clone(), &tally);
                scope.spawn(move || listen(group, tally, &report))
            })
            .collect();
        // What comes back to the publisher is not looked at.
        let echo = publisher.try_clone()?;
        scope.spawn(move || io::copy(&mut &echo, &mut io::sink()));

        let pids = [server.process.pid(), std::process::id()];
        let published = Publisher { stream: &publisher, template, complete, next: 0, pids }.run(fanout);
        let usage = procfs::usage(server.process.pid());
        tally.is_over.store(true, SeqCst);
        let listened: Vec<_> = listeners.into_iter().map(|listener| listener.join()).collect();
        say_goodbye(&publisher, dialect.is_websocket);
        let (mut streams, mut seen) = (Vec::new(), Seen::default());
        for result in listened {
            for listener in result.map_err(|_| io::Error::other("a listener panicked"))?? {
                seen.add(listener.answers.seen());
                streams.push(listener.stream);
            }
        }
        streams.iter().for_each(|stream| say_goodbye(stream, dialect.is_websocket));
        await_ends(streams.iter());
        let _ = publisher.shutdown(Shutdown::Both);
        let Published { last, rate, processors: [processor, own_processor] } = published?;
        Ok::<_, io::Error>(Outcome { last, rate, processor, own_processor, seen, usage })
    })?;
    drop(deaf);
    Ok((!interrupt::is_set()).then_some(outcome))
}

/// How many listeners have each message that is under way.
struct Tally {
    listeners: usize,
    /// By number, modulo the length, which is twice the window.
    counts: Vec<AtomicUsize>,
    is_over: AtomicBool,
}

impl Tally {
    fn new(fanout: &Fanout) -> Self {
        let counts = (0..2 * fanout.window.max(1)).map(|_| AtomicUsize::new(0)).collect();
        Self { listeners: fanout.listeners, counts, is_over: AtomicBool::new(false) }
    }

    /// A listener has this message. Whether it was the last.
    fn count(&self, number: u64) -> bool {
        let count = &self.counts[number as usize % self.counts.len()];
        let is_last = count.fetch_add(1, SeqCst) + 1 == self.listeners;
        if is_last {
            count.store(0, SeqCst);
        }
        is_last
    }
}

struct Publisher<'a> {
    stream: &'a TcpStream,
    template: Template,
    complete: Receiver<Instant>,
    next: u64,
    /// The server, and this process.
    pids: [u32; 2],
}

/// What a publisher has measured.
struct Published {
    last: Histogram<u64>,
    rate: f64,
    /// For each delivery.
    processors: [Duration; 2],
}

impl Publisher<'_> {
    /// How long a message may take before the server counts as held up.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// Messages that a rate is taken of at least, however long they take.
    const FEWEST: u64 = 3;

    fn run(mut self, fanout: &Fanout) -> io::Result<Published> {
        self.stream.set_write_timeout(Some(Self::PATIENCE))?;
        let last = self.one_by_one(fanout)?;
        let (rate, processors) = self.with_window(fanout)?;
        Ok(Published { last, rate, processors })
    }

    fn one_by_one(&mut self, fanout: &Fanout) -> io::Result<Histogram<u64>> {
        let mut last = load::new_histogram();
        // The first few are not counted: buffers grow, code is paged in.
        let begin = Instant::now() + fanout.duration / 4;
        let end = begin + fanout.duration;
        while (Instant::now() < end || last.is_empty()) && !interrupt::is_set() {
            let published = Instant::now();
            self.publish(1)?;
            let complete = self.await_complete()?;
            if published >= begin {
                last.saturating_record(complete.saturating_duration_since(published).as_nanos() as u64);
            }
        }
        Ok(last)
    }

    /// Deliveries per second, and what each takes of the processors.
    fn with_window(&mut self, fanout: &Fanout) -> io::Result<(f64, [Duration; 2])> {
        let begin = Instant::now() + fanout.duration / 4;
        let end = begin + fanout.duration;
        let mut first: Option<(Instant, [Duration; 2])> = None;
        let mut messages = 0_u64;
        self.publish(fanout.window)?;
        let (elapsed, processors) = loop {
            let complete = self.await_complete()?;
            messages += u64::from(first.is_some());
            if let Some((first, before)) = first
                && (complete >= end && messages >= Self::FEWEST || interrupt::is_set())
            {
                let after = self.pids.map(procfs::processor);
                (1..fanout.window).try_for_each(|_| self.await_complete().map(drop))?;
                break (complete - first, [0, 1].map(|process| after[process].saturating_sub(before[process])));
            }
            if first.is_none() && complete >= begin {
                first = Some((complete, self.pids.map(procfs::processor)));
            }
            self.publish(1)?;
        };
        let deliveries = messages as f64 * fanout.listeners as f64;
        let rate = deliveries / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        Ok((rate, processors.map(|time| time.div_f64(deliveries.max(1.0)))))
    }

    fn publish(&mut self, count: usize) -> io::Result<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            self.template.write(self.next, &mut out);
            self.next += 1;
        }
        self.stream.write_all(&out)
    }

    /// When the last listener had the next message.
    fn await_complete(&self) -> io::Result<Instant> {
        self.complete.recv_timeout(Self::PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "listeners are held up"),
            RecvTimeoutError::Disconnected => wrong("something else, or its end"),
        })
    }
}

struct Listener {
    stream: TcpStream,
    answers: Answers,
}

/// Receives until it is over. Gives the listeners back, to be closed.
fn listen(mut listeners: Vec<Listener>, tally: &Tally, complete: &Sender<Instant>) -> io::Result<Vec<Listener>> {
    let mut poll = Poll::new()?;
    for (number, listener) in listeners.iter().enumerate() {
        listener.stream.set_nonblocking(true)?;
        let fd = listener.stream.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
    }
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    while !tally.is_over.load(SeqCst) {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            listeners[event.token().0].receive(&mut scratch, tally, complete)?;
        }
    }
    Ok(listeners)
}

impl Listener {
    fn open(
        address: SocketAddr,
        fanout: &Fanout,
        template: &Template,
        conversation: Option<&Arc<Conversation>>,
    ) -> io::Result<Self> {
        let dialect = template.dialect();
        let (Some(PageLoad { offer, .. }), Some(conversation)) = (&fanout.pages, conversation) else {
            return Ok(Self { stream: open_stream(address, dialect)?, answers: template.answers(0) });
        };
        let mut channel = Channel::connect(address, None)?;
        let (terms, rest) = pages::upgrade(&mut channel, *offer)?;
        if !rest.is_empty() {
            return Err(wrong("something before it was asked"));
        }
        let answers = Template::pages(dialect, conversation, terms).answers(0);
        Ok(Self { stream: channel.into_stream(), answers })
    }

    fn receive(&mut self, scratch: &mut [u8], tally: &Tally, complete: &Sender<Instant>) -> io::Result<()> {
        loop {
            let count = match (&self.stream).read(scratch) {
                Ok(0) => return Err(wrong("its end")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let before = self.answers.number();
            let mut pong = Vec::new();
            self.answers.take(&scratch[..count], &mut pong)?;
            if !pong.is_empty() {
                (&self.stream).write_all(&pong)?;
            }
            for number in before..self.answers.number() {
                if tally.count(number) {
                    // Fails only when the publisher has given up.
                    let _ = complete.send(Instant::now());
                }
            }
            if count < scratch.len() {
                return Ok(());
            }
        }
    }
}

/// Opens the listeners, a group for each thread.
fn open(
    address: SocketAddr,
    fanout: &Fanout,
    template: &Template,
    conversation: Option<&Arc<Conversation>>,
) -> io::Result<Vec<Vec<Listener>>> {
    let threads = fanout.threads.min(fanout.listeners).max(1);
    thread::scope(|scope| {
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..fanout.listeners).step_by(threads);
                scope.spawn(move || {
                    let numbers = numbers.take_while(|_| !interrupt::is_set());
                    numbers
                        .map(|_| Listener::open(address, fanout, template, conversation))
                        .collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        openers.into_iter().map(|opener| opener.join().map_err(|_| io::Error::other("a listener panicked"))?).collect()
    })
}

fn open_stream(address: SocketAddr, dialect: Dialect) -> io::Result<TcpStream> {
    let mut channel = Channel::connect(address, None)?;
    if dialect.is_websocket && !channel.upgrade()?.is_empty() {
        return Err(wrong("something before it was asked"));
    }
    Ok(channel.into_stream())
}

/// Opens a connection that will never be read from. Its buffer is small, so that the server notices soon.
fn open_deaf(address: SocketAddr, dialect: Dialect) -> io::Result<TcpStream> {
    let stream = open_stream(address, dialect)?;
    socket2::SockRef::from(&stream).set_recv_buffer_size(4096)?;
    Ok(stream)
}
