//! What is known of a peer at one moment.

use std::time::{Duration, Instant};

/// All that a [`Heartbeat`](super::Heartbeat) judges a peer by.
///
/// What may be concluded from what:
///
/// | seen | concluded |
/// | --- | --- |
/// | more bytes have arrived than when the Ping was written | alive |
/// | the Ping has left, its timeout is over, nothing more has arrived | a miss, however late we look |
/// | we were held up as a whole, or the machine was suspended | deadlines move by as much, once in each silence |
/// | the Ping waits behind data | nothing by silence |
/// | we have stopped reading, and nothing more arrives | nothing by silence |
/// | data waits, none of it is taken, nothing arrives, for `max_missed x timeout` | dead |
/// | data waits, none of it is taken, but bytes arrive | alive |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Bytes that have arrived from the peer: those that were read, and those that wait in the socket.
    pub arrived: u64,
    /// How many of them were read and looked through for frames.
    pub examined: u64,
    /// When the newest of them was first seen.
    pub heard: Instant,
    /// Whether what arrives is read. If not, the peer may have no room to send in.
    pub reading: Reading,
    /// When the Ping whose clock runs left our own queue for the socket, if it did. A later one does as well, if the queue
    /// had only that.
    pub ping_left: Option<Instant>,
    /// Whether that Ping still waits behind data in the system's own buffer, because the peer is slow to take it. One that
    /// only the line holds up, with nothing before it, has left.
    pub is_held_back: bool,
    /// Since when data has waited for the peer without any of it being taken; `None` if nothing waits.
    pub blocked_since: Option<Instant>,
    /// How long the machine was suspended in all, as far as that can be known. Only its growth counts.
    pub suspended: Duration,
}

impl Evidence {
    /// The evidence of a driver that reads whatever arrives and whose writes do not wait: so many bytes have arrived, the
    /// newest at that instant.
    pub fn new(arrived: u64, heard: Instant) -> Self {
        Self {
            arrived,
            examined: arrived,
            heard,
            reading: Reading::Always,
            ping_left: None,
            is_held_back: false,
            blocked_since: None,
            suspended: Duration::ZERO,
        }
    }
}

/// Whether what arrives is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Ever since the connection opened.
    Always,
    /// Since this instant, when all that had waited was read.
    Since(Instant),
    /// Not now: there is no room for more, and something waits.
    Stopped,
}

impl Reading {
    /// Since when the peer has had room to send in, if there ever was none.
    pub(super) fn has_room_from(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Always => None,
            Self::Since(since) => Some(since),
            Self::Stopped => Some(now),
        }
    }
}
