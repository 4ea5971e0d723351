//! What runs while the peer is silent: the silence itself, the clock of its next miss, and the wait of what is to be taken.

use std::time::{Duration, Instant};

use super::Evidence;

/// A silence of the peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    /// When the first Ping that is unanswered was written or queued; or, of a peer that leads, its last life.
    pub(super) since: Instant,
    /// Bytes that had arrived by then. More than these are news.
    pub(super) mark: u64,
    /// Misses so far.
    pub(super) missed: u32,
    /// Whether our own lateness has prolonged it already.
    pub(super) is_excused: bool,
}

impl Silence {
    pub(super) fn new(since: Instant, mark: u64) -> Self {
        Self { since, mark, missed: 0, is_excused: false }
    }
}

/// A deadline for some life, after which there is a miss.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) due: Instant,
    /// When its Ping was handed to the queue, if it waits there.
    queued: Option<Instant>,
    /// Whether it was last seen to wait in the system's buffer.
    pub(super) is_held_back: bool,
    /// When it left, if it had to wait: until then, silence proves nothing.
    pub(super) left: Option<Instant>,
    /// Where only a Pong counts: how much had arrived when the time was over, and is to be looked through for one.
    pub(super) examine: Option<u64>,
}

impl Clock {
    pub(super) fn new(due: Instant) -> Self {
        Self { due, queued: None, is_held_back: false, left: None, examine: None }
    }

    /// The same for a Ping that was handed to the queue at `at`.
    pub(super) fn queued(self, at: Instant) -> Self {
        Self { queued: Some(at), ..self }
    }

    /// Whether its Ping was last seen to wait, wherever.
    pub(super) fn is_waiting(&self) -> bool {
        self.queued.is_some() || self.is_held_back
    }

    /// Takes note if its Ping waits no longer.
    pub(super) fn see_ping_leave(&mut self, now: Instant, evidence: &Evidence) {
        if let (Some(queued), Some(left)) = (self.queued, evidence.ping_left)
            && queued <= left
        {
            (self.queued, self.left) = (None, Some(left));
        }
        if self.is_held_back && !evidence.is_held_back {
            (self.is_held_back, self.left) = (false, Some(now));
        }
    }

    /// Whether its Ping is on its way to the peer.
    pub(super) fn has_left(&self, evidence: &Evidence) -> bool {
        self.queued.is_none() && !evidence.is_held_back
    }
}

/// Where data waits for the peer, and since when at least: when some of it was last taken, or seen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In our own queue.
    Queue(Instant),
    /// In the system's buffer, where we cannot see it move.
    Buffer(Instant),
}

/// Data that waits for a peer which takes nothing, and from which nothing arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    pub(super) place: Place,
    /// When the newest byte from the peer was first seen.
    heard: Instant,
    /// When the peer last took something, or something arrived.
    pub(super) since: Instant,
    pub(super) due: Instant,
    is_excused: bool,
}

impl Stall {
    /// What waits in this place, where this waited before, if the peer may leave it for `limit`.
    pub(super) fn next(before: Option<Self>, place: Place, heard: Instant, limit: Duration, timeout: Duration) -> Self {
        match (before.filter(|before| before.heard == heard), place) {
            (Some(before), place) if before.place == place => before,
            // That more waits, and now in our queue, need not mean that it took something; but it may.
            (Some(before @ Self { place: Place::Buffer(_), .. }), Place::Queue(since)) => {
                Self { place, due: before.due.max(since + timeout), ..before }
            }
            (_, Place::Queue(taken) | Place::Buffer(taken)) => {
                let since = taken.max(heard);
                Self { place, heard, since, due: since + limit, is_excused: false }
            }
        }
    }

    /// We were late by so much: the deadline moves, once, and does not come before `earliest`.
    pub(super) fn excuse(&mut self, late: Duration, earliest: Instant) {
        if !std::mem::replace(&mut self.is_excused, true) {
            self.due = (self.due + late).max(earliest);
        }
    }
}
