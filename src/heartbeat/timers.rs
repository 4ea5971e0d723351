//! What runs while the peer is silent: the silence, the timer of the next miss, and the stall of data that waits for
//! it.

use std::time::{Duration, Instant};

use super::Evidence;

/// A silence of the peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    /// When the first unanswered Ping was written or queued. If the peer leads: when it last showed life.
    pub(super) since: Instant,
    /// How many bytes had arrived by then. Any further byte is news.
    pub(super) arrived_before: u64,
    /// Misses so far.
    pub(super) missed: u32,
    /// Whether our own delay has moved its deadlines already.
    pub(super) is_excused: bool,
}

impl Silence {
    pub(super) fn new(since: Instant, arrived_before: u64) -> Self {
        Self { since, arrived_before, missed: 0, is_excused: false }
    }
}

/// The deadline for some life. After it there is a miss.
#[derive(Debug, Clone, Copy)]
pub(super) struct MissTimer {
    pub(super) due: Instant,
    /// When its Ping entered our queue, if it waits there.
    queued: Option<Instant>,
    /// Whether its Ping was last seen to wait in the system's send buffer.
    pub(super) is_held_back: bool,
    /// When its Ping left, if it had to wait. Until then, silence proves nothing.
    pub(super) left: Option<Instant>,
    /// If only a Pong counts: how many bytes had arrived when the timer ran out. They have to be examined for a Pong.
    pub(super) examine_up_to: Option<u64>,
}

impl MissTimer {
    pub(super) fn new(due: Instant) -> Self {
        Self { due, queued: None, is_held_back: false, left: None, examine_up_to: None }
    }

    /// The timer of a Ping that entered our queue at `at`.
    pub(super) fn queued(self, at: Instant) -> Self {
        Self { queued: Some(at), ..self }
    }

    /// Whether its Ping was last seen to wait, in our queue or in the send buffer.
    pub(super) fn is_waiting(&self) -> bool {
        self.queued.is_some() || self.is_held_back
    }

    /// Records when its Ping has left, if it waited before.
    pub(super) fn update_ping(&mut self, now: Instant, evidence: &Evidence) {
        if let (Some(queued), Some(left)) = (self.queued, evidence.ping_left)
            && queued <= left
        {
            (self.queued, self.left) = (None, Some(left));
        }
        if self.is_held_back && !evidence.is_held_back {
            (self.is_held_back, self.left) = (false, Some(now));
        }
    }

    /// Whether its Ping is on the way to the peer.
    pub(super) fn has_left(&self, evidence: &Evidence) -> bool {
        self.queued.is_none() && !evidence.is_held_back
    }
}

/// Where data waits for the peer, and since when at least: when some of it was last taken, or first seen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsIn {
    /// In our own queue.
    Queue(Instant),
    /// In the system's send buffer, where we cannot see it move.
    SendBuffer(Instant),
}

/// Data that waits for a peer that takes none of it and sends nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    pub(super) waits_in: WaitsIn,
    /// When the newest byte from the peer was first seen.
    last_arrival: Instant,
    /// When the peer last took something, or something arrived.
    pub(super) since: Instant,
    pub(super) due: Instant,
    is_excused: bool,
}

impl Stall {
    /// The stall now that data waits in `waits_in`. `before` is the stall at the last check, `limit` how long data may
    /// wait.
    pub(super) fn next(
        before: Option<Self>,
        waits_in: WaitsIn,
        last_arrival: Instant,
        limit: Duration,
        timeout: Duration,
    ) -> Self {
        match (before.filter(|before| before.last_arrival == last_arrival), waits_in) {
            (Some(before), waits_in) if before.waits_in == waits_in => before,
            // The wait moves from the send buffer to our queue. Perhaps the peer took something meanwhile, perhaps not.
            (Some(before @ Self { waits_in: WaitsIn::SendBuffer(_), .. }), WaitsIn::Queue(since)) => {
                Self { waits_in, due: before.due.max(since + timeout), ..before }
            }
            (_, WaitsIn::Queue(taken) | WaitsIn::SendBuffer(taken)) => {
                let since = taken.max(last_arrival);
                Self { waits_in, last_arrival, since, due: since + limit, is_excused: false }
            }
        }
    }

    /// Moves the deadline by our own delay `late`, and to `earliest` at least. Only the first call does.
    pub(super) fn excuse(&mut self, late: Duration, earliest: Instant) {
        if !std::mem::replace(&mut self.is_excused, true) {
            self.due = (self.due + late).max(earliest);
        }
    }
}
