//! The evidence: what is known of a peer at one moment.

use std::time::{Duration, Instant};

/// All that [`Heartbeat::judge`](super::Heartbeat::judge) judges a peer by.
///
/// | seen | concluded |
/// | --- | --- |
/// | more bytes have arrived than when the Ping was written | the peer is alive |
/// | the Ping has left, its timeout is over, nothing more has arrived | a miss, however late `judge` is called |
/// | the whole process was held up, or the machine was suspended | deadlines move by as much, once in each silence |
/// | the Ping waits behind data | silence proves nothing |
/// | we have stopped reading, and nothing more arrives | silence proves nothing |
/// | data waits, none of it is taken, nothing arrives, for `max_missed x timeout` | the peer is dead |
/// | data waits, none of it is taken, but bytes arrive | the peer is alive |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// How many bytes have arrived from the peer in all, whether they were read or still wait in the socket.
    pub arrived: u64,
    /// How many of them were read and examined for frames.
    pub examined: u64,
    /// When the newest of them was first seen.
    pub last_arrival: Instant,
    /// Whether we read what arrives. If not, the peer may have no room to send.
    pub reading: Reading,
    /// When the Ping whose timeout runs left our own queue for the socket, if it did. A later Ping may stand in for it
    /// if the queue had only that one.
    pub ping_left: Option<Instant>,
    /// Whether that Ping still waits behind data in the system's send buffer, because the peer is slow to take that
    /// data. A Ping that only the line holds up, with no data before it, has left.
    pub is_held_back: bool,
    /// Since when data has waited in our own queue without the peer taking any of it. `None` if nothing waits.
    pub blocked_since: Option<Instant>,
    /// How long the machine has been suspended in all, as far as that is known. Only the growth counts.
    pub suspended: Duration,
}

impl Evidence {
    /// The evidence of a driver that reads whatever arrives and whose writes never wait: `arrived` bytes have arrived,
    /// the newest of them at `last_arrival`.
    pub fn new(arrived: u64, last_arrival: Instant) -> Self {
        Self {
            arrived,
            examined: arrived,
            last_arrival,
            reading: Reading::Always,
            ping_left: None,
            is_held_back: false,
            blocked_since: None,
            suspended: Duration::ZERO,
        }
    }
}

/// Whether we read what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// We have read since the connection opened.
    Always,
    /// We had stopped, and have read again since this instant, when the socket was empty.
    Since(Instant),
    /// We do not read: our buffers are full, and bytes wait in the socket.
    Stopped,
}

impl Reading {
    /// Since when the peer has had room to send. `None` if it always had.
    pub(super) fn has_room_from(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Always => None,
            Self::Since(since) => Some(since),
            Self::Stopped => Some(now),
        }
    }
}
