//! How far a connection is closed: one state machine, by which both halves, the stand-in and the supervisor go.
//!
//! Pure: instants are passed in, and what has to be sent comes back. It lies in the write half's lock, since nothing may
//! be sent behind a Close frame.
//!
//! ```text
//!            our Close frame                 the peer's
//!   Open ─────────────────────> Closing ──────────────────> Closed
//!    │                                                         ^
//!    └──> PeerDone ────────────────────────────────────────────┘
//!  its last word        the answer, when the handler knows
//!
//!   any of them ── a write fails ──> Broken          any of them ──> Over
//! ```
//!
//! Invariants: phases only go on, never back; the first cause stays; [`CloseState::end`] says `true` once.

use std::time::{Duration, Instant};

use crate::protocol::close::{CloseCode, CloseReason};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Messages go both ways.
    Open,
    /// The peer has said its last word, and the handler does not know it yet: what it sends still goes out. It is to be
    /// answered by then.
    PeerDone { by: Instant },
    /// Our Close frame stands behind everything that was accepted before it, and nothing is accepted any more. The peer
    /// has until then to answer.
    Closing { by: Instant },
    /// Both sides have had their last word. What is queued has until then to go out.
    Closed { by: Instant },
    /// A write has failed: nothing goes out any more. What the peer said before is still read, for it may be the cause.
    Broken,
    /// The connection has ended.
    Over,
}

/// The last that comes from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LastWord {
    /// A Close frame.
    Close(Option<CloseCode>, String),
    /// Something that breaks the protocol.
    Violation(CloseReason),
    /// The end of its stream, or an error of the socket, for this reason.
    End(CloseReason),
}

/// A Close frame that is to be sent.
pub(crate) type CloseFrame = (Option<CloseCode>, String);

/// How far a connection is closed, and why.
#[derive(Debug)]
pub(crate) struct CloseState {
    phase: Phase,
    /// How long a closing handshake may take.
    timeout: Duration,
    cause: Option<CloseReason>,
    /// A write that failed: the cause, unless what was received before it says another.
    write_error: Option<CloseReason>,
    /// What the peer's last word is to be answered with.
    answer: Option<CloseFrame>,
    /// The code in our Close frame, once there is one.
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

    /// Whether what is sent is still accepted.
    pub(crate) fn accepts(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::PeerDone { .. })
    }

    /// Until when the phase may last.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::PeerDone { by } | Phase::Closing { by } | Phase::Closed { by } => Some(by),
            Phase::Open | Phase::Broken | Phase::Over => None,
        }
    }

    /// The first cause of the end; `otherwise` if nobody knows any.
    pub(crate) fn reason(&self, otherwise: CloseReason) -> CloseReason {
        self.cause.as_ref().or(self.write_error.as_ref()).cloned().unwrap_or(otherwise)
    }

    /// The code in our Close frame, if it has one and the socket has taken it whole.
    pub(crate) fn sent(&self) -> Option<CloseCode> {
        self.sent.filter(|_| self.is_written)
    }

    /// The code in the peer's Close frame.
    pub(crate) fn received(&self) -> Option<CloseCode> {
        self.received
    }

    /// We close, for this reason. The frame to send, unless that was done before, or there is nobody to send it to. If the
    /// peer was first it is the answer, and the cause stays the peer's.
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
            Phase::PeerDone { .. } => self.answer(now),
            _ => None,
        }
    }

    /// The peer has said its last word. To say so twice is harmless.
    pub(crate) fn peer_done(&mut self, last: LastWord, now: Instant) {
        let by = now + self.timeout;
        self.phase = match self.phase {
            Phase::Open => Phase::PeerDone { by },
            Phase::Closing { by } => Phase::Closed { by },
            Phase::Broken => Phase::Broken,
            // There is only one last word.
            Phase::PeerDone { .. } | Phase::Closed { .. } | Phase::Over => return,
        };
        let (cause, answer) = match last {
            LastWord::Close(code, reason) => {
                self.received = self.received.or(code);
                (CloseReason::Peer { code, reason }, Some((code, String::new())))
            }
            LastWord::Violation(reason) => {
                let answer = reason.close_frame().map(|(code, text)| (Some(code), text.to_owned()));
                (reason, answer)
            }
            LastWord::End(reason) => (self.write_error.clone().unwrap_or(reason), None),
        };
        self.cause.get_or_insert(cause);
        self.answer = answer;
    }

    /// The handler knows of the peer's last word, or has had its time. The frame to send, if there is one.
    pub(crate) fn answer(&mut self, now: Instant) -> Option<CloseFrame> {
        let Phase::PeerDone { .. } = self.phase else { return None };
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

    /// The connection has ended, for this reason if nobody knows a better one. Whether this call was the first to say so.
    pub(crate) fn end(&mut self, otherwise: CloseReason) -> bool {
        let reason = self.reason(otherwise);
        self.cause.get_or_insert(reason);
        std::mem::replace(&mut self.phase, Phase::Over) != Phase::Over
    }
}

#[cfg(test)]
mod tests;
