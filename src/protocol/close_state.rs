//! The closing state of a connection: one state machine for both halves, the stand-in and the supervisor.
//!
//! It is pure: the caller passes instants in, and sends the frame that comes back. The write half's lock protects it,
//! because nothing may be sent after a Close frame.
//!
//! ```text
//!            our Close frame                 the peer's end
//!   Open ─────────────────────> Closing ──────────────────> Closed
//!    │                                                         ^
//!    └──> PeerEnded ───────────────────────────────────────────┘
//!  the peer's end       our answer, when the handler knows
//!
//!   any of them ── a write fails ──> Broken          any of them ──> Over
//! ```
//!
//! Invariants: no phase is followed by an earlier one; the first cause stays; [`CloseState::end`] returns `true` once.

use std::time::{Duration, Instant};

use crate::protocol::close::{CloseCode, CloseReason};

/// How far the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Messages go both ways.
    Open,
    /// The peer has ended its side, and the handler does not know it yet. What the handler sends still goes out. The
    /// peer's Close frame is answered by this deadline.
    PeerEnded { by: Instant },
    /// Our Close frame is queued or sent, and nothing more is accepted. The peer must answer by this deadline.
    Closing { by: Instant },
    /// Both sides have ended. Queued frames must go out by this deadline.
    Closed { by: Instant },
    /// A write has failed, and nothing more goes out. What the peer sent before is still read, since it may give the
    /// cause.
    Broken,
    /// The connection has ended.
    Over,
}

/// How the peer has ended its side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerEnd {
    /// By a Close frame.
    Close(Option<CloseCode>, String),
    /// By a violation of the protocol.
    Violation(CloseReason),
    /// By the end of its stream or an error of the socket, with this reason.
    Lost(CloseReason),
}

impl PeerEnd {
    #[cold]
    pub(crate) fn lost(reason: CloseReason) -> Box<Self> {
        Box::new(Self::Lost(reason))
    }
}

/// The code and reason of a Close frame to send.
pub(crate) type CloseFrame = (Option<CloseCode>, String);

/// How far a connection is closed, and why.
#[derive(Debug)]
pub(crate) struct CloseState {
    phase: Phase,
    /// The time limit of a closing handshake.
    timeout: Duration,
    cause: Option<CloseReason>,
    /// The error of a failed write. It is the cause unless what the peer sent before gives another.
    write_error: Option<CloseReason>,
    /// The Close frame that answers the peer's end.
    answer: Option<CloseFrame>,
    /// The code in our Close frame, once the frame is sent or queued.
    sent: Option<CloseCode>,
    is_written: bool,
    /// The code in the peer's Close frame.
    received: Option<CloseCode>,
    /// Whether the peer's Close frame has come, with a code or without.
    is_received: bool,
}

impl CloseState {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            phase: Phase::Open,
            timeout,
            cause: None,
            write_error: None,
            answer: None,
            sent: None,
            is_written: false,
            received: None,
            is_received: false,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether new messages are still accepted.
    pub(crate) fn accepts(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::PeerEnded { .. })
    }

    /// The deadline of the phase.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::PeerEnded { by } | Phase::Closing { by } | Phase::Closed { by } => Some(by),
            Phase::Open | Phase::Broken | Phase::Over => None,
        }
    }

    /// The first cause of the end, or `otherwise` if none is known.
    pub(crate) fn reason(&self, otherwise: CloseReason) -> CloseReason {
        self.cause.as_ref().or(self.write_error.as_ref()).cloned().unwrap_or(otherwise)
    }

    /// The code in our Close frame, if it has one and the socket has taken the whole frame.
    pub(crate) fn sent(&self) -> Option<CloseCode> {
        self.sent.filter(|_| self.is_written)
    }

    /// The code in the peer's Close frame.
    pub(crate) fn received(&self) -> Option<CloseCode> {
        self.received
    }

    /// Whether the closing handshake is complete: the peer's Close frame has come, and the socket has taken ours.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_received && self.is_written
    }

    /// Closes for this reason. Returns the frame to send, if none was sent before and the connection still stands.
    ///
    /// If the peer has ended first, the frame is the answer, and the peer's cause stays.
    pub(crate) fn close(&mut self, reason: CloseReason, now: Instant) -> Option<CloseFrame> {
        match self.phase {
            Phase::Open => {
                let (code, text) = reason.close_frame()?;
                let frame = (Some(code), text.to_owned());
                self.cause.get_or_insert(reason);
                self.phase = Phase::Closing { by: now + self.timeout };
                self.sent = Some(code);
                Some(frame)
            }
            Phase::PeerEnded { .. } => self.answer(now),
            _ => None,
        }
    }

    /// Records the peer's end. Of several calls the first counts, but for a violation that is found late: in a
    /// compressed message, which came before the end and was looked at after it.
    pub(crate) fn peer_ended(&mut self, last: PeerEnd, now: Instant) {
        let by = now + self.timeout;
        self.phase = match self.phase {
            Phase::PeerEnded { by } if matches!(last, PeerEnd::Violation(_)) => {
                self.cause = None;
                Phase::PeerEnded { by }
            }
            Phase::Open => Phase::PeerEnded { by },
            Phase::Closing { by } => Phase::Closed { by },
            Phase::Broken => Phase::Broken,
            // Only the first end counts.
            Phase::PeerEnded { .. } | Phase::Closed { .. } | Phase::Over => return,
        };
        let (cause, answer) = match last {
            PeerEnd::Close(code, reason) => {
                self.received = self.received.or(code);
                self.is_received = true;
                (CloseReason::Peer { code, reason }, Some((code, String::new())))
            }
            PeerEnd::Violation(reason) => {
                let answer = reason.close_frame().map(|(code, text)| (Some(code), text.to_owned()));
                (reason, answer)
            }
            PeerEnd::Lost(reason) => (self.write_error.clone().unwrap_or(reason), None),
        };
        self.cause.get_or_insert(cause);
        self.answer = answer;
    }

    /// Answers the peer's end, once the handler knows of it or the deadline has passed. Returns the frame to send, if
    /// there is one.
    pub(crate) fn answer(&mut self, now: Instant) -> Option<CloseFrame> {
        let Phase::PeerEnded { .. } = self.phase else { return None };
        self.phase = Phase::Closed { by: now + self.timeout };
        let frame = self.answer.take()?;
        self.sent = frame.0;
        Some(frame)
    }

    /// Records that the socket has taken our whole Close frame.
    pub(crate) fn close_written(&mut self) {
        self.is_written = true;
    }

    /// Records a failed write.
    pub(crate) fn write_failed(&mut self, reason: CloseReason) {
        if self.phase != Phase::Over {
            self.phase = Phase::Broken;
        }
        self.write_error.get_or_insert(reason);
    }

    /// Ends the connection. `otherwise` is the reason if none is known. Returns whether this call was the first.
    pub(crate) fn end(&mut self, otherwise: CloseReason) -> bool {
        let reason = self.reason(otherwise);
        self.cause.get_or_insert(reason);
        std::mem::replace(&mut self.phase, Phase::Over) != Phase::Over
    }
}

#[cfg(test)]
mod tests;
