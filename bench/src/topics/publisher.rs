//! Publishers on one thread: by HTTP over connections that are kept, or, where there are no topics, by a WebSocket.
//! They publish no faster than the slowest subscriber takes it, so that a server has no reason to drop anything.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::TOPIC;
use super::board::Board;
use super::dialect::Dialect;
use super::line::Line;
use crate::process::Server;
use crate::wire::wrong;
use crate::{interrupt, load, procfs};

/// The token of the board's waker.
const BOARD: Token = Token(usize::MAX);

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Publisher {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    lines: Vec<Line>,
    scratch: Vec<u8>,
    /// The processes whose time the server's is.
    servers: Vec<u32>,
}

/// How fast it went.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Messages that all subscribers got, in this time.
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
    /// Processor time for each message, of the server and of the load.
    pub(crate) processors: [Duration; 2],
    /// Deliveries that never came. If there are any, the rest means nothing.
    pub(crate) missing: u64,
}

impl Publisher {
    /// One with so many connections.
    pub(crate) fn open(server: &Server, connections: usize) -> io::Result<Self> {
        let is_answered = Dialect::of(server.kind) != Dialect::Broadcast;
        Self::open_at(server.address, is_answered, vec![server.process.pid()], connections)
    }

    /// One at this address, whose messages are served by these groups of processes.
    pub(crate) fn open_at(
        address: SocketAddr,
        is_answered: bool,
        servers: Vec<u32>,
        connections: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), BOARD)?);
        let mut lines = Vec::with_capacity(connections);
        for number in 0..connections {
            let line = Line::open(address, is_answered)?;
            let fd = line.stream.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
            lines.push(line);
        }
        Ok(Self { poll, events: Events::with_capacity(64), waker, lines, scratch: vec![0; 16 * 1024], servers })
    }

    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits until all are subscribed.
    pub(crate) fn await_subscribed(&mut self, board: &Board) -> io::Result<()> {
        let deadline = Instant::now() + 3 * PATIENCE;
        while !board.are_all_subscribed() {
            self.proceed(board, deadline)?;
        }
        // A client may be through with its handshake a moment before the server counts it in.
        interrupt::sleep_until(Instant::now() + Duration::from_millis(300));
        Ok(())
    }

    /// Publishes message after message: each when a connection is free and fewer than `window` are under way.
    pub(crate) fn paced(
        &mut self,
        board: &Board,
        window: usize,
        warm_up: Duration,
        time: Duration,
    ) -> io::Result<Pace> {
        assert!(window <= Board::WINDOW, "more than the board counts");
        let (before, mut next) = (board.complete(), 0);
        let begin = Instant::now() + warm_up;
        let mut first: Option<(u64, Instant, [Duration; 2])> = None;
        let mut patience = (before, Instant::now() + PATIENCE);
        loop {
            let (complete, now) = (board.complete() - before, Instant::now());
            match first {
                None if now >= begin && complete > 0 => {
                    // Nothing is published while that is looked up.
                    let processors = self.processors();
                    first = Some((board.complete() - before, Instant::now(), processors));
                }
                Some((counted, since, processors)) if now >= since + time && complete > counted => {
                    let messages = complete - counted;
                    let after = self.processors();
                    let each = |process: usize| (after[process] - processors[process]).div_f64(messages as f64);
                    let missing = self.await_rest(board, before + next)?;
                    return Ok(Pace { messages, elapsed: now - since, processors: [each(0), each(1)], missing });
                }
                _ => {}
            }
            if board.complete() > patience.0 {
                patience = (board.complete(), now + PATIENCE);
            }
            if now > patience.1 || interrupt::is_set() {
                let missing = board.missing(next - complete);
                return Ok(Pace { messages: 0, elapsed: Duration::ZERO, processors: [Duration::ZERO; 2], missing });
            }
            while next - complete < window as u64
                && self.is_within_reach(next)
                && let Some(line) = self.free_line()
            {
                line.publish(TOPIC, next)?;
                next += 1;
            }
            self.proceed(board, patience.1)?;
        }
    }

    /// Waits for what is under way. How many deliveries never came.
    fn await_rest(&mut self, board: &Board, published: u64) -> io::Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        while board.complete() < published || self.is_busy() {
            if Instant::now() > deadline {
                return Ok(board.missing(published - board.complete()));
            }
            self.proceed(board, deadline)?;
        }
        Ok(0)
    }

    /// Publishes so many messages, each when all subscribers have the one before it. Nanoseconds until the last has it.
    pub(crate) fn one_by_one(&mut self, board: &Board, count: u64) -> io::Result<Histogram<u64>> {
        let mut last = load::new_histogram();
        // The first few are not counted: buffers grow, code is paged in.
        let warm_up = count / 10;
        for number in 0..warm_up + count {
            let published = Instant::now();
            self.lines[0].publish(TOPIC, number)?;
            let missing = self.await_rest(board, number + 1)?;
            if missing > 0 {
                return Err(io::Error::new(ErrorKind::TimedOut, format!("{missing} deliveries never came")));
            }
            if number >= warm_up {
                last.saturating_record(board.completed().saturating_duration_since(published).as_nanos() as u64);
            }
        }
        Ok(last)
    }

    /// Publishes these messages to topics, in any order of the connections. Nobody need get them.
    pub(crate) fn publish_all(
        &mut self,
        board: &Board,
        messages: impl Iterator<Item = (String, u64)>,
    ) -> io::Result<()> {
        for (topic, number) in messages {
            loop {
                if let Some(line) = self.free_line() {
                    line.publish(&topic, number)?;
                    break;
                }
                self.proceed(board, Instant::now() + PATIENCE)?;
            }
        }
        while self.is_busy() {
            self.proceed(board, Instant::now() + PATIENCE)?;
        }
        Ok(())
    }

    /// Waits until so many messages are complete. Whether they are, before the deadline.
    pub(crate) fn await_complete(&mut self, board: &Board, count: u64, deadline: Instant) -> io::Result<bool> {
        while board.complete() < count {
            if Instant::now() > deadline || interrupt::is_set() {
                return Ok(false);
            }
            self.proceed(board, deadline)?;
        }
        Ok(true)
    }

    fn free_line(&mut self) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.under_way.is_none())
    }

    fn is_busy(&self) -> bool {
        self.lines.iter().any(|line| line.under_way.is_some())
    }

    /// Whether a message may be published although others are not answered. A server may take them in any order, so one
    /// that it leaves for later must not be too old when subscribers get it.
    fn is_within_reach(&self, number: u64) -> bool {
        let mut under_way = self.lines.iter().filter_map(|line| line.under_way);
        under_way.all(|oldest| number - oldest < Board::WINDOW as u64)
    }

    /// Waits for answers, or for the board.
    fn proceed(&mut self, board: &Board, deadline: Instant) -> io::Result<()> {
        // Not longer than that, for Ctrl-C.
        let wait = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        board.check()?;
        for event in self.events.iter().filter(|event| event.token() != BOARD) {
            let answer = self.lines[event.token().0].receive(&mut self.scratch)?;
            if let Some(refused) = answer.filter(|answer| !answer.is_success) {
                return Err(wrong(&refused.head));
            }
        }
        Ok(())
    }

    fn processors(&self) -> [Duration; 2] {
        [procfs::processor_of_groups(&self.servers), procfs::processor(std::process::id())]
    }
}
