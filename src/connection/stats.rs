//! The counters of what a connection received, dropped and missed. The write half has its own.
//!
//! The thread that drives the receiving end counts, and so do threads that broadcast; any thread may read. Each number
//! stands alone, so they are relaxed atomics.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::atomic::AtomicU64;

#[derive(Debug)]
pub(crate) struct ConnectionStats {
    pub(crate) opened: Instant,
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    broadcasts_dropped: AtomicU64,
    missed: AtomicU32,
    max_missed: AtomicU32,
    /// Milliseconds from `opened` to the newest bytes from the peer.
    heard_after: AtomicU64,
}

impl ConnectionStats {
    pub(super) fn new(opened: Instant) -> Self {
        Self {
            opened,
            messages_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            broadcasts_dropped: AtomicU64::new(0),
            missed: AtomicU32::new(0),
            max_missed: AtomicU32::new(0),
            heard_after: AtomicU64::new(0),
        }
    }

    // Received.

    /// Counts bytes from the peer. Returns how many there are in all.
    pub(crate) fn count_bytes_in(&self, count: usize) -> u64 {
        add(&self.bytes_in, count as u64)
    }

    /// Records that bytes came from the peer `now`.
    pub(super) fn set_heard(&self, now: Instant) {
        self.heard_after.store(now.saturating_duration_since(self.opened).as_millis() as u64, Relaxed);
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    /// The time from the opening to the newest bytes from the peer.
    pub(super) fn heard_after(&self) -> Duration {
        Duration::from_millis(self.heard_after.load(Relaxed))
    }

    pub(super) fn count_message_in(&self) {
        add(&self.messages_in, 1);
    }

    pub(super) fn messages_in(&self) -> u64 {
        self.messages_in.load(Relaxed)
    }

    // Not sent.

    /// Counts a dropped broadcast. Returns whether it is the first.
    pub(super) fn count_dropped_broadcast(&self) -> bool {
        self.broadcasts_dropped.fetch_add(1, Relaxed) == 0
    }

    pub(super) fn broadcasts_dropped(&self) -> u64 {
        self.broadcasts_dropped.load(Relaxed)
    }

    // The heartbeat.

    /// The misses in a row.
    pub(crate) fn missed(&self) -> u32 {
        self.missed.load(Relaxed)
    }

    pub(super) fn set_missed(&self, missed: u32) {
        self.missed.store(missed, Relaxed);
    }

    /// The number of misses in a row after which the peer is dead.
    pub(super) fn max_missed(&self) -> u32 {
        self.max_missed.load(Relaxed)
    }

    /// Starts a heartbeat that allows `max_missed` misses.
    pub(super) fn begin_heartbeat(&self, max_missed: u32) {
        self.max_missed.store(max_missed, Relaxed);
        self.set_missed(0);
    }
}

/// Adds to a counter of the thread that drives the receiving end. Without another writer it needs no locked
/// instruction.
fn add(counter: &AtomicU64, count: u64) -> u64 {
    let sum = counter.load(Relaxed) + count;
    counter.store(sum, Relaxed);
    sum
}
