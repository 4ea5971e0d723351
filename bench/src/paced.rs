//! A load of messages at a steady pace, whether the answers to the last ones have come or not.
//!
//! A message counts from the time when it was due, not from when it left: a server that holds the load up has to answer
//! for the messages that could not leave meanwhile. One that is never answered counts with the time for which it was
//! awaited. So a connection that was closed stays in the figures.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::answers::Dialect;
use crate::requester::Requester;
use crate::{interrupt, load};

/// When messages are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From one message to the next, on whichever connection: they take turns.
    pub(crate) gap: Duration,
    /// Messages that are due earlier are sent and not counted.
    pub(crate) from: Instant,
    pub(crate) until: Instant,
    /// How long the last answers are awaited.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Nanoseconds from when a message was due to its verified answer.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds from when a message was due to when it left: the load's own share of the latency.
    pub(crate) late: Histogram<u64>,
    pub(crate) due: u64,
    pub(crate) answered: u64,
    /// Connections that the server ended, though their Pings were answered.
    pub(crate) ended: usize,
    /// Connections on which something came that was not the next answer.
    pub(crate) wrong: usize,
}

/// Opens so many connections, one after the other.
pub(crate) fn open(address: SocketAddr, dialect: Dialect, connections: usize) -> io::Result<Vec<Requester>> {
    (0..connections).map(|number| Requester::open(address, dialect, 20, number)).collect()
}

/// Runs the load in this thread.
pub(crate) fn run(requesters: Vec<Requester>, pace: Pace) -> io::Result<Outcome> {
    Load::new(requesters, pace)?.run()
}

struct Load {
    peers: Vec<Peer>,
    pace: Pace,
    poll: Poll,
    timer: OwnedFd,
    /// When the next message is due, and which in order it is.
    due: Instant,
    number: usize,
    outcome: Outcome,
    /// When those counted messages were due that will not be answered.
    missing: Vec<Instant>,
    scratch: Vec<u8>,
}

struct Peer {
    requester: Requester,
    is_open: bool,
}

const TIMER: Token = Token(usize::MAX);

impl Load {
    fn new(requesters: Vec<Requester>, pace: Pace) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (number, requester) in requesters.iter().enumerate() {
            requester.stream().set_nonblocking(true)?;
            let fd = requester.stream().as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE | Interest::WRITABLE)?;
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let peers = requesters.into_iter().map(|requester| Peer { requester, is_open: true }).collect();
        let (latency, late) = (load::new_histogram(), load::new_histogram());
        let outcome = Outcome { latency, late, due: 0, answered: 0, ended: 0, wrong: 0 };
        let due = Instant::now();
        Ok(Self { peers, pace, poll, timer, due, number: 0, outcome, missing: Vec::new(), scratch: vec![0; 16 * 1024] })
    }

    fn run(mut self) -> io::Result<Outcome> {
        // A poll's own timeout is in whole milliseconds.
        let gap = self.pace.gap.max(Duration::from_nanos(1));
        let gap = Timespec { tv_sec: gap.as_secs() as i64, tv_nsec: i64::from(gap.subsec_nanos()) };
        let every = Itimerspec { it_interval: gap, it_value: gap };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &every)?;
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, Some(Duration::from_millis(100))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            // Nothing of the count is needed: what is due is known by the clock.
            let _ = rustix::io::read(&self.timer, &mut [0; 8]);
            for event in events.iter().filter(|event| event.token() != TIMER) {
                self.receive(event.token().0);
            }
            self.send_what_is_due();
            let now = Instant::now();
            let is_done = self.peers.iter().all(|peer| !peer.is_open || peer.requester.is_done());
            if interrupt::is_set() || now >= self.pace.until && (is_done || now >= self.pace.until + self.pace.patience)
            {
                return Ok(self.finish(now));
            }
        }
    }

    fn is_counted(&self, due: Instant) -> bool {
        (self.pace.from..self.pace.until).contains(&due)
    }

    fn send_what_is_due(&mut self) {
        let now = Instant::now();
        while self.due <= now && self.due < self.pace.until {
            let (number, due) = (self.number % self.peers.len(), self.due);
            self.number += 1;
            self.due += self.pace.gap;
            let is_counted = self.is_counted(due);
            self.outcome.due += u64::from(is_counted);
            let peer = &mut self.peers[number];
            if peer.is_open {
                peer.requester.request(due);
                let flushed = peer.requester.flush();
                if is_counted {
                    self.outcome.late.saturating_record(due.elapsed().as_nanos() as u64);
                }
                self.note(number, flushed);
            } else if is_counted {
                self.missing.push(due);
            }
        }
    }

    fn receive(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        if !peer.is_open {
            return;
        }
        let received = peer.requester.receive(&mut self.scratch).and_then(|()| peer.requester.flush());
        let now = Instant::now();
        while let Some(due) = self.peers[number].requester.take_answer() {
            if self.is_counted(due) {
                self.outcome.answered += 1;
                self.outcome.latency.saturating_record(now.saturating_duration_since(due).as_nanos() as u64);
            }
        }
        self.note(number, received);
    }

    /// A connection that fails is counted, and the others go on.
    fn note(&mut self, number: usize, result: io::Result<()>) {
        let Err(error) = result else { return };
        match error.kind() {
            io::ErrorKind::InvalidData => self.outcome.wrong += 1,
            _ => self.outcome.ended += 1,
        }
        self.close(number);
    }

    fn close(&mut self, number: usize) {
        let given_up: Vec<Instant> = self.peers[number].requester.give_up().collect();
        let counted = given_up.into_iter().filter(|due| self.is_counted(*due));
        self.missing.extend(counted.collect::<Vec<_>>());
        self.peers[number].is_open = false;
    }

    fn finish(mut self, now: Instant) -> Outcome {
        (0..self.peers.len()).for_each(|number| self.close(number));
        for due in self.missing {
            self.outcome.latency.saturating_record(now.saturating_duration_since(due).as_nanos() as u64);
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// Ends as soon as all is answered; for a busy machine.
    const LONG: Duration = Duration::from_secs(10);

    /// Two connections over plain TCP: one is answered, and the other is done to by `server` as it likes.
    fn run_beside(patience: Duration, server: fn(TcpStream)) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let servers = thread::spawn(move || {
            let (mut echoed, _) = listener.accept().unwrap();
            let (other, _) = listener.accept().unwrap();
            let other = thread::spawn(move || server(other));
            let mut message = [0; 26];
            while echoed.read_exact(&mut message).is_ok() && echoed.write_all(&message).is_ok() {}
            other.join().unwrap();
        });
        let requesters = open(address, Dialect { is_websocket: false, is_tls: false, text: false }, 2).unwrap();
        let from = Instant::now() + Duration::from_millis(20);
        let until = from + Duration::from_millis(200);
        let pace = Pace { gap: Duration::from_millis(5), from, until, patience };
        let outcome = run(requesters, pace).unwrap();
        servers.join().unwrap();
        assert!((39..=41).contains(&outcome.due), "{} were due", outcome.due);
        assert_eq!(outcome.latency.len(), outcome.due, "each message has a latency");
        outcome
    }

    #[test]
    fn messages_of_a_connection_that_was_ended_stay_due() {
        let outcome = run_beside(LONG, drop);
        assert_eq!((outcome.ended, outcome.wrong), (1, 0));
        assert!((19..=21).contains(&outcome.answered), "{} were answered", outcome.answered);
        assert!(outcome.latency.max() > 150_000_000, "the first was awaited to the end");
    }

    #[test]
    fn an_answer_that_never_comes_counts_with_the_time_it_was_awaited() {
        let outcome = run_beside(Duration::from_millis(300), |mut silent| {
            let _ = io::copy(&mut silent, &mut io::sink());
        });
        assert_eq!((outcome.ended, outcome.wrong), (0, 0));
        let longest = Duration::from_nanos(outcome.latency.max());
        assert!(longest >= Duration::from_millis(480), "{longest:?}");
    }

    #[test]
    fn a_wrong_answer_is_no_end() {
        let outcome = run_beside(LONG, |mut liar| {
            let _ = liar.write_all(&[0; 26]);
            let _ = io::copy(&mut liar, &mut io::sink());
        });
        assert_eq!((outcome.ended, outcome.wrong), (0, 1));
    }
}
