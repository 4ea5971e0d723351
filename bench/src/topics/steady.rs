//! A publisher at a steady pace, whatever becomes of its messages: an open loop, with another connection whenever all
//! wait for their answers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::TOPIC;
use super::line::Line;
use crate::interrupt;

/// How long it waits for answers when all is published.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message, by its number in the order of their publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) due: Instant,
    /// When its publisher was told that it is published.
    pub(crate) accepted: Option<Instant>,
}

pub(crate) struct Steady {
    thread: JoinHandle<io::Result<Vec<Sent>>>,
}

impl Steady {
    /// Begins to publish so many messages, one after each interval.
    pub(crate) fn start(server: SocketAddr, interval: Duration, count: u32) -> io::Result<Self> {
        let mut publisher = Open { poll: Poll::new()?, server, lines: Vec::new(), sent: Vec::new() };
        let thread = thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            publisher.publish_all(interval, count)?;
            Ok(publisher.sent)
        })?;
        Ok(Self { thread })
    }

    /// Waits for the last message and the last answer.
    pub(crate) fn finish(self) -> io::Result<Vec<Sent>> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    }
}

struct Open {
    poll: Poll,
    server: SocketAddr,
    /// By their tokens. `None` where one was cut off.
    lines: Vec<Option<Line>>,
    sent: Vec<Sent>,
}

impl Open {
    fn publish_all(&mut self, interval: Duration, count: u32) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut scratch = vec![0; 16 * 1024];
        let begin = Instant::now() + interval;
        for number in 0..count {
            let due = begin + interval * number;
            while Instant::now() < due && !interrupt::is_set() {
                self.proceed(&mut events, &mut scratch, due)?;
            }
            self.sent.push(Sent { due, accepted: None });
            self.publish(u64::from(number))?;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.lines.iter().flatten().any(|line| line.under_way.is_some()) && !interrupt::is_set() {
            if Instant::now() > deadline {
                // Their publisher gives up, and does not know that they are published.
                break;
            }
            self.proceed(&mut events, &mut scratch, deadline)?;
        }
        Ok(())
    }

    fn publish(&mut self, number: u64) -> io::Result<()> {
        let is_free = |line: &Option<Line>| line.as_ref().is_some_and(|line| line.under_way.is_none());
        let place = match self.lines.iter().position(is_free) {
            Some(place) => place,
            None => {
                let line = Line::open(self.server, true)?;
                let fd = line.stream.as_raw_fd();
                self.poll.registry().register(&mut SourceFd(&fd), Token(self.lines.len()), Interest::READABLE)?;
                self.lines.push(Some(line));
                self.lines.len() - 1
            }
        };
        if self.lines[place].as_mut().is_some_and(|line| line.publish(TOPIC, number).is_err()) {
            self.lines[place] = None;
        }
        Ok(())
    }

    fn proceed(&mut self, events: &mut Events, scratch: &mut [u8], until: Instant) -> io::Result<()> {
        // Not longer than that, for Ctrl-C.
        let wait = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in events.iter() {
            let Some(line) = &mut self.lines[event.token().0] else { continue };
            match line.receive(scratch) {
                Ok(Some(answer)) => {
                    self.sent[answer.number as usize].accepted = answer.is_success.then(Instant::now);
                }
                Ok(None) => {}
                // Without an answer its publisher does not know that it is published.
                Err(_) => self.lines[event.token().0] = None,
            }
        }
        Ok(())
    }
}
