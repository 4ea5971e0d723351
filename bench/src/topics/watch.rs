//! Subscribers that come back whenever they are cut off, with what they remember, and note all that they get.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::dialect::{Dialect, Memory};
use super::subscriber::{Listener, Subscriber};
use crate::interrupt;
use crate::process::Server;

/// How long whoever was cut off waits before it comes back.
const PAUSE: Duration = Duration::from_millis(200);

/// What a subscriber got.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Numbers of messages, and when they came.
    pub(crate) arrivals: Vec<(u64, Instant)>,
    /// When it was told that it has missed something.
    pub(crate) told: Vec<Instant>,
    /// How often it was cut off.
    pub(crate) cuts: u64,
    /// What it needs to come back.
    pub(crate) memory: Memory,
}

pub(crate) struct Watch {
    subscribers: usize,
    progress: Arc<Progress>,
    thread: JoinHandle<io::Result<Vec<Record>>>,
}

#[derive(Debug, Default)]
struct Progress {
    /// How many subscriptions there were.
    subscribed: AtomicUsize,
    /// How many subscribers have as many messages as are awaited.
    complete: AtomicUsize,
    /// How many were told that they have missed something.
    told: AtomicUsize,
    /// Messages that came.
    arrivals: AtomicU64,
    is_over: AtomicBool,
}

impl Watch {
    /// Lets subscribers come, some with what they remember. Each is complete with so many messages.
    pub(crate) fn start(server: &Server, memories: Vec<Memory>, awaited: u64) -> io::Result<Self> {
        let (subscribers, progress) = (memories.len(), Arc::new(Progress::default()));
        let mut group = Group {
            poll: Poll::new()?,
            dialect: Dialect::of(server.kind),
            server: server.address,
            seats: memories.into_iter().map(Seat::new).collect(),
        };
        let seen = Arc::clone(&progress);
        let thread = thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || group.watch(&seen, awaited).map(|()| group.into_records()))?;
        Ok(Self { subscribers, progress, thread })
    }

    pub(crate) fn await_subscribed(&self, deadline: Instant) -> io::Result<()> {
        while self.progress.subscribed.load(SeqCst) < self.subscribers {
            self.pause_before(deadline, "not all are subscribed")?;
        }
        Ok(())
    }

    /// Waits until each is complete, or was told that it has missed something.
    pub(crate) fn await_settled(&self, deadline: Instant) -> io::Result<()> {
        while self.progress.complete.load(SeqCst) + self.progress.told.load(SeqCst) < self.subscribers {
            self.pause_before(deadline, "messages are missing, without a word")?;
        }
        Ok(())
    }

    /// Waits until all are complete, or nothing has come for so long.
    pub(crate) fn await_quiet(&self, quiet: Duration) {
        let mut last = (self.progress.arrivals.load(SeqCst), Instant::now());
        while self.progress.complete.load(SeqCst) < self.subscribers && last.1.elapsed() < quiet {
            if !interrupt::sleep_until(Instant::now() + Duration::from_millis(20)) {
                return;
            }
            let arrivals = self.progress.arrivals.load(SeqCst);
            if arrivals > last.0 {
                last = (arrivals, Instant::now());
            }
        }
    }

    fn pause_before(&self, deadline: Instant, otherwise: &str) -> io::Result<()> {
        if Instant::now() > deadline || !interrupt::sleep_until(Instant::now() + Duration::from_millis(2)) {
            return Err(io::Error::new(ErrorKind::TimedOut, otherwise));
        }
        Ok(())
    }

    /// Cuts all off.
    pub(crate) fn stop(self) -> io::Result<Vec<Record>> {
        self.progress.is_over.store(true, SeqCst);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    }
}

/// The subscribers of a thread.
struct Group {
    poll: Poll,
    dialect: Dialect,
    server: SocketAddr,
    seats: Vec<Seat>,
}

struct Seat {
    /// `None` if it is to come.
    subscriber: Option<Subscriber>,
    comes: Instant,
    notes: Notes,
}

impl Seat {
    fn new(memory: Memory) -> Self {
        let record = Record { memory, ..Record::default() };
        Self { subscriber: None, comes: Instant::now(), notes: Notes { record, ..Notes::default() } }
    }
}

impl Group {
    fn watch(&mut self, progress: &Progress, awaited: u64) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; 64 * 1024];
        while !progress.is_over.load(SeqCst) {
            self.let_come()?;
            match self.poll.poll(&mut events, Some(Duration::from_millis(20))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                self.proceed(event.token().0, &mut scratch, progress, awaited);
            }
        }
        Ok(())
    }

    fn let_come(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for (number, seat) in self.seats.iter_mut().enumerate() {
            if seat.subscriber.is_some() || seat.comes > now {
                continue;
            }
            let memory = Some(seat.notes.record.memory.clone()).filter(|memory| !memory.is_empty());
            let Ok(subscriber) = Subscriber::come(self.dialect, self.server, memory) else {
                seat.comes = now + PAUSE;
                continue;
            };
            let fd = subscriber.stream.as_raw_fd();
            let wanted = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut SourceFd(&fd), Token(number), wanted)?;
            seat.subscriber = Some(subscriber);
        }
        Ok(())
    }

    fn proceed(&mut self, number: usize, scratch: &mut [u8], progress: &Progress, awaited: u64) {
        let Seat { subscriber, comes, notes } = &mut self.seats[number];
        let Some(current) = subscriber else { return };
        if current.proceed(scratch, &mut Noted { notes, progress, awaited }).is_err() {
            notes.record.cuts += 1;
            notes.record.memory = subscriber.take().map(Subscriber::leave).unwrap_or_default();
            *comes = Instant::now() + PAUSE;
        }
    }

    fn into_records(self) -> Vec<Record> {
        let record = |seat: Seat| {
            let mut record = seat.notes.record;
            if let Some(subscriber) = seat.subscriber {
                record.memory = subscriber.leave();
            }
            record
        };
        self.seats.into_iter().map(record).collect()
    }
}

#[derive(Default)]
struct Notes {
    record: Record,
    /// The messages that came, each once.
    has: HashSet<u64>,
    was_subscribed: bool,
}

struct Noted<'a> {
    notes: &'a mut Notes,
    progress: &'a Progress,
    awaited: u64,
}

impl Listener for Noted<'_> {
    fn subscribed(&mut self) {
        if !std::mem::replace(&mut self.notes.was_subscribed, true) {
            self.progress.subscribed.fetch_add(1, SeqCst);
        }
    }

    fn message(&mut self, number: u64) -> io::Result<()> {
        self.notes.record.arrivals.push((number, Instant::now()));
        if self.notes.has.insert(number) && self.notes.has.len() as u64 == self.awaited {
            self.progress.complete.fetch_add(1, SeqCst);
        }
        self.progress.arrivals.fetch_add(1, SeqCst);
        Ok(())
    }

    fn lost(&mut self) -> io::Result<()> {
        if self.notes.record.told.is_empty() {
            self.progress.told.fetch_add(1, SeqCst);
        }
        self.notes.record.told.push(Instant::now());
        Ok(())
    }
}
