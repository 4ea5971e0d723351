//! What subscribers have, counted together, for the publisher to see.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;

#[derive(Debug)]
pub(crate) struct Board {
    subscribers: usize,
    /// How many subscribers have each message that is under way: by number, modulo the length.
    counts: Vec<AtomicUsize>,
    /// How many messages all subscribers have.
    complete: AtomicU64,
    began: Instant,
    /// When the last subscriber had the newest of them, in nanoseconds since it began.
    completed: AtomicU64,
    /// How many subscriptions there are.
    subscribed: AtomicUsize,
    is_over: AtomicBool,
    /// Protects what went wrong first. Taken for a moment.
    failure: Mutex<Option<io::Error>>,
    /// Wakes the publisher.
    waker: Arc<Waker>,
}

impl Board {
    /// Most messages under way to subscribers. As many may follow a message before a server has taken it.
    pub(crate) const WINDOW: usize = 64;

    pub(crate) fn new(subscribers: usize, waker: Arc<Waker>) -> Self {
        Self {
            subscribers,
            // So many that a number that comes late is not taken for a new one.
            counts: (0..4 * Self::WINDOW).map(|_| AtomicUsize::new(0)).collect(),
            complete: AtomicU64::new(0),
            began: Instant::now(),
            completed: AtomicU64::new(0),
            subscribed: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
            waker,
        }
    }

    // Told by subscribers.

    /// A subscriber has this message.
    pub(crate) fn delivered(&self, number: u64) {
        let count = &self.counts[number as usize % self.counts.len()];
        if count.fetch_add(1, SeqCst) + 1 == self.subscribers {
            count.store(0, SeqCst);
            self.completed.store(self.began.elapsed().as_nanos() as u64, SeqCst);
            self.complete.fetch_add(1, SeqCst);
            self.wake();
        }
    }

    pub(crate) fn subscribed(&self) {
        if self.subscribed.fetch_add(1, SeqCst) + 1 == self.subscribers {
            self.wake();
        }
    }

    pub(crate) fn failed(&self, error: io::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.wake();
    }

    /// If it fails, the publisher looks a moment later.
    fn wake(&self) {
        let _ = self.waker.wake();
    }

    // Seen by the publisher.

    pub(crate) fn complete(&self) -> u64 {
        self.complete.load(SeqCst)
    }

    /// When the last subscriber had the newest message that all have.
    pub(crate) fn completed(&self) -> Instant {
        self.began + Duration::from_nanos(self.completed.load(SeqCst))
    }

    pub(crate) fn are_all_subscribed(&self) -> bool {
        self.subscribed.load(SeqCst) >= self.subscribers
    }

    /// How many deliveries of these messages are missing, of which not all subscribers have any.
    pub(crate) fn missing(&self, under_way: u64) -> u64 {
        let there: usize = self.counts.iter().map(|count| count.load(SeqCst)).sum();
        (under_way * self.subscribers as u64).saturating_sub(there as u64)
    }

    /// # Errors
    /// What went wrong at a subscriber.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }
}
