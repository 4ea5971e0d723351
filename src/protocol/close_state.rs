//! How far a connection is closed: one state machine for both halves, the stand-in and the supervisor.
//!
//! Pure: instants are passed in, and the frame to send comes back. The state lies under the write half's lock, because
//! nothing may be sent after a Close frame.
//!
//! ```text
//!            our Close frame                 the peer's
//!   Open ─────────────────────> Closing ──────────────────> Closed
//!    │                                                         ^
//!    └──> PeerEnded ───────────────────────────────────────────┘
//!  the peer's end       our answer, when the handler knows
//!
//!   any of them ── a write fails ──> Broken          any of them ──> Over
//! ```
//!
//! Invariants: a phase is never followed by an earlier one; the first cause stays; [`CloseState::end`] returns `true`
//! once.

use std::time::{Duration, Instant};

use crate::protocol::close::{CloseCode, CloseReason};

/// How far the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Messages go both ways.
    Open,
    /// The peer has ended its side, and the handler does not know it yet: what the handler sends still goes out. By
    /// this deadline the peer's Close frame is answered.
    PeerEnded { by: Instant },
    /// Our Close frame follows all that was accepted before it, and nothing more is accepted. The peer has to answer by
    /// this deadline.
    Closing { by: Instant },
    /// Both sides have ended. What is queued has to go out by this deadline.
    Closed { by: Instant },
    /// A write has failed: nothing goes out any more. What the peer sent before is still read, since it may be the
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

/// A Close frame that is to be sent.
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
    /// The code in our Close frame, once that is sent or queued.
    sent: Option<CloseCode>,
    is_written: bool,
    /// The code in the peer's Close frame.
    received: Option<CloseCode>,
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

    /// We close, for this reason. Returns the frame to send, if it was not sent before and there is somebody to send it
    /// to. If the peer has ended first, the frame is the answer, and the cause stays the peer's.
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

    /// The peer has ended its side. Further calls are harmless.
    pub(crate) fn peer_ended(&mut self, last: PeerEnd, now: Instant) {
        let by = now + self.timeout;
        self.phase = match self.phase {
            Phase::Open => Phase::PeerEnded { by },
            Phase::Closing { by } => Phase::Closed { by },
            Phase::Broken => Phase::Broken,
            // Only the first end counts.
            Phase::PeerEnded { .. } | Phase::Closed { .. } | Phase::Over => return,
        };
        let (cause, answer) = match last {
            PeerEnd::Close(code, reason) => {
                self.received = self.received.or(code);
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

    /// The handler knows that the peer has ended, or the time for that is over. Returns the frame to send, if there is
    /// one.
    pub(crate) fn answer(&mut self, now: Instant) -> Option<CloseFrame> {
        let Phase::PeerEnded { .. } = self.phase else { return None };
        self.phase = Phase::Closed { by: now + self.timeout };
        let frame = self.answer.take()?;
        self.sent = frame.0;
        Some(frame)
    }

    /// The socket has taken our Close frame.
    pub(crate) fn close_written(&mut self) {
        self.is_written = true;
    }

    /// A write has failed.
    pub(crate) fn write_failed(&mut self, reason: CloseReason) {
        if self.phase != Phase::Over {
            self.phase = Phase::Broken;
        }
        self.write_error.get_or_insert(reason);
    }

    /// The connection has ended, with `otherwise` as its reason if none is known. Whether this call was the first.
    pub(crate) fn end(&mut self, otherwise: CloseReason) -> bool {
        let reason = self.reason(otherwise);
        self.cause.get_or_insert(reason);
        std::mem::replace(&mut self.phase, Phase::Over) != Phase::Over
    }
}

#[cfg(test)]
mod tests;
