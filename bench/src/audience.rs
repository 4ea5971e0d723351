//! The load of a fan-out: one publisher, many listeners that verify what they get, and perhaps some who never read.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::answers::{Answers, Dialect, Template};
use crate::channel::Channel;
use crate::process::Server;
use crate::requester::{await_ends, say_goodbye};
use crate::wire::wrong;
use crate::{interrupt, load};

/// How a server's fan-out is to be loaded.
#[derive(Debug, Clone)]
pub(crate) struct Fanout {
    pub(crate) listeners: usize,
    /// Connections that never read.
    pub(crate) deaf: usize,
    pub(crate) payload: usize,
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
}

/// Runs it. `None` after Ctrl-C.
pub(crate) fn run(server: &Server, fanout: &Fanout) -> io::Result<Option<Outcome>> {
    let dialect = server.dialect(false);
    let template = Template::new(dialect, fanout.payload, 0);
    let deaf: Vec<TcpStream> =
        (0..fanout.deaf).map(|_| open_deaf(server.address, dialect)).collect::<io::Result<_>>()?;
    let groups = open(server.address, dialect, fanout, &template)?;
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

        let published = Publisher { stream: &publisher, template, complete, next: 0 }.run(fanout);
        tally.is_over.store(true, SeqCst);
        let listened: Vec<_> = listeners.into_iter().map(|listener| listener.join()).collect();
        say_goodbye(&publisher, dialect.is_websocket);
        let mut streams = Vec::new();
        for result in listened {
            streams.extend(result.map_err(|_| io::Error::other("a listener panicked"))??);
        }
        streams.iter().for_each(|stream| say_goodbye(stream, dialect.is_websocket));
        await_ends(streams.iter());
        let _ = publisher.shutdown(Shutdown::Both);
        published
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
}

impl Publisher<'_> {
    /// How long a message may take before the server counts as held up.
    const PATIENCE: Duration = Duration::from_secs(5);

    fn run(mut self, fanout: &Fanout) -> io::Result<Outcome> {
        self.stream.set_write_timeout(Some(Self::PATIENCE))?;
        let mut last = load::new_histogram();
        // The first few are not counted: buffers grow, code is paged in.
        let begin = Instant::now() + fanout.duration / 4;
        let end = begin + fanout.duration;
        while Instant::now() < end && !interrupt::is_set() {
            let published = Instant::now();
            self.publish(1)?;
            let complete = self.await_complete()?;
            if published >= begin {
                last.saturating_record(complete.saturating_duration_since(published).as_nanos() as u64);
            }
        }

        let begin = Instant::now() + fanout.duration / 4;
        let end = begin + fanout.duration;
        let mut messages = 0_u64;
        self.publish(fanout.window)?;
        for under_way in 0.. {
            let complete = self.await_complete()?;
            if complete >= end || interrupt::is_set() {
                (1..fanout.window).try_for_each(|_| self.await_complete().map(drop))?;
                break;
            }
            messages += u64::from(under_way > 0 && complete >= begin);
            self.publish(1)?;
        }
        let rate = messages as f64 * fanout.listeners as f64 / fanout.duration.as_secs_f64();
        Ok(Outcome { last, rate })
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

/// Receives until it is over. Gives the streams back, to be closed.
fn listen(mut listeners: Vec<Listener>, tally: &Tally, complete: &Sender<Instant>) -> io::Result<Vec<TcpStream>> {
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
    Ok(listeners.into_iter().map(|listener| listener.stream).collect())
}

impl Listener {
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
fn open(address: SocketAddr, dialect: Dialect, fanout: &Fanout, template: &Template) -> io::Result<Vec<Vec<Listener>>> {
    let threads = fanout.threads.min(fanout.listeners).max(1);
    thread::scope(|scope| {
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..fanout.listeners).step_by(threads);
                scope.spawn(move || {
                    let numbers = numbers.take_while(|_| !interrupt::is_set());
                    numbers
                        .map(|_| Ok(Listener { stream: open_stream(address, dialect)?, answers: template.answers(0) }))
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
