//! Close codes, the payload of a Close frame, and the reason for which a connection ended (RFC 6455 section 7).
//!
//! Invariants: a Close frame of ours has only a code that may be sent, and its payload is at most 125 bytes.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

/// A close code (RFC 6455 section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the connection has served its purpose.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server is shutting down, or the user has left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: the peer sent a kind of message that is not accepted.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: a text message is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a message violates our policy.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: we failed (a handler panicked, or the heartbeat was lost).
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the server is restarting.
    pub const RESTART: Self = Self(1012);
    /// 1013: the server is overloaded; the client may try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Whether a Close frame may carry the code: 1000 to 1003, 1007 to 1014, 3000 to 4999. Other codes are reserved, or
    /// denote something that is never sent (1005, 1006, 1015).
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest reason that fits into a Close frame after its code, in bytes (RFC 6455 section 5.5).
pub(crate) const MAX_REASON: usize = 123;

/// The reason beside 1012 that tells a client to come back at once, because others were not sent away at this moment.
/// Only its end matters, so that other servers may say more before it.
pub(crate) const RECONNECT_AT_ONCE: &str = "restart; reconnect at once";

/// Whether the peer tells us to come back at once.
pub(crate) fn is_to_reconnect_at_once(code: CloseCode, reason: &str) -> bool {
    code == CloseCode::RESTART && reason.ends_with("reconnect at once")
}

/// Makes the payload of a Close frame. A reason that is too long is cut at a character boundary.
pub(crate) fn close_payload(code: Option<CloseCode>, reason: &str) -> Bytes {
    let Some(code) = code else { return Bytes::new() };
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.0.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    payload.into()
}

/// Why a connection ended: the first cause, and the error that `recv` and `send` give from then on.
///
/// [`Peer`](Self::Peer), [`Local`](Self::Local) and [`Shutdown`](Self::Shutdown) hold what a Close frame can hold, a
/// code and a reason (RFC 6455 section 5.5.1): no field will be added to them, so a program may make them, for instance
/// to compare. The other variants with fields may get more of them, and are matched with `..`:
///
/// ```
/// # use heartwire::CloseReason;
/// fn is_dead(reason: &CloseReason) -> bool {
///     matches!(reason, CloseReason::HeartbeatLost { .. } | CloseReason::WriteStalled { .. })
/// }
/// assert!(!is_dead(&CloseReason::Peer { code: Some(1001.into()), reason: String::new() }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer sent a Close frame.
    Peer {
        /// The peer's code; `None` if it gave none.
        code: Option<CloseCode>,
        /// The peer's reason, often empty.
        reason: String,
    },
    /// We closed: the handler returned, or the application called `close`.
    Local {
        /// The code that we sent.
        code: CloseCode,
        /// The reason that we sent.
        reason: String,
    },
    /// The server is shutting down. [`ServerHandle::shutdown`](crate::ServerHandle::shutdown) closes with 1001.
    Shutdown {
        /// The code that we sent.
        code: CloseCode,
        /// The reason that we sent.
        reason: String,
    },
    /// The peer gave no sign of life for this many timeouts in a row (1011, if it can still be sent).
    #[non_exhaustive]
    HeartbeatLost {
        /// Misses in a row.
        missed: u32,
    },
    /// Data waited for the peer, and the peer took no byte of it for this long.
    #[non_exhaustive]
    WriteStalled {
        /// The time without progress: `max_missed x timeout`, or the limit of a full queue.
        limit: Duration,
    },
    /// The peer broke the protocol (1002).
    Protocol(&'static str),
    /// A text message was not UTF-8 (1007).
    InvalidUtf8,
    /// A compressed message was not what DEFLATE allows (1007): damaged, cut off, or with a reference to what was not
    /// sent. See [`Server::deflate`](crate::Server::deflate).
    InvalidDeflate,
    /// A message was larger than the limit (1009).
    #[non_exhaustive]
    TooBig {
        /// The message's size as far as announced, in bytes. Of a compressed message it is one more than the limit, for
        /// it is not decompressed any further.
        size: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The TCP connection ended without a Close frame: an abnormal closure (1006, which is never sent).
    Disconnected,
    /// The socket failed, for example because the peer reset the connection.
    #[non_exhaustive]
    Io {
        /// The kind of error.
        kind: io::ErrorKind,
        /// The error as text.
        message: String,
    },
    /// The handler panicked, with this message (1011).
    HandlerPanicked(String),
    /// The handler returned an error of its own, with this message (1011).
    HandlerFailed(String),
}

impl CloseReason {
    /// We close because all is done: 1000, without a reason.
    pub(crate) fn normal() -> Self {
        Self::Local { code: CloseCode::NORMAL, reason: String::new() }
    }

    /// The server shuts down, and nobody has said with which code: 1001.
    pub(crate) fn shutdown() -> Self {
        Self::Shutdown { code: CloseCode::GOING_AWAY, reason: "server shutting down".to_owned() }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string() }
    }

    /// Whether the peer was found dead.
    pub(crate) fn is_death(&self) -> bool {
        matches!(self, Self::HeartbeatLost { .. } | Self::WriteStalled { .. })
    }

    /// A short name of the reason, for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Peer { .. } => "peer",
            Self::Local { .. } => "local",
            Self::Shutdown { .. } => "shutdown",
            Self::HeartbeatLost { .. } => "heartbeat_lost",
            Self::WriteStalled { .. } => "write_stalled",
            Self::Protocol(_) => "protocol",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidDeflate => "invalid_deflate",
            Self::TooBig { .. } => "too_big",
            Self::Disconnected => "disconnected",
            Self::Io { .. } => "io",
            Self::HandlerPanicked(_) => "handler_panicked",
            Self::HandlerFailed(_) => "handler_failed",
        }
    }

    /// The text that comes from outside heartwire: the peer, the application or the system. Empty for other reasons.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Peer { reason: text, .. }
            | Self::Local { reason: text, .. }
            | Self::Shutdown { reason: text, .. }
            | Self::Io { message: text, .. }
            | Self::HandlerPanicked(text)
            | Self::HandlerFailed(text) => text,
            _ => "",
        }
    }

    /// Whether the end is orderly: either side closed, or the server shut down.
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Peer { .. } | Self::Local { .. } | Self::Shutdown { .. })
    }

    /// The code and text of our Close frame, if we send one first.
    pub(crate) fn close_frame(&self) -> Option<(CloseCode, &str)> {
        Some(match self {
            Self::Local { code, reason } | Self::Shutdown { code, reason } => (*code, reason),
            Self::HeartbeatLost { .. } => (CloseCode::INTERNAL_ERROR, "heartbeat lost"),
            Self::Protocol(what) => (CloseCode::PROTOCOL_ERROR, what),
            Self::InvalidUtf8 => (CloseCode::INVALID_DATA, "text is not UTF-8"),
            Self::InvalidDeflate => (CloseCode::INVALID_DATA, "compressed message is not valid"),
            Self::TooBig { .. } => (CloseCode::TOO_BIG, "message too big"),
            Self::HandlerPanicked(_) | Self::HandlerFailed(_) => (CloseCode::INTERNAL_ERROR, "internal error"),
            Self::Peer { .. } | Self::WriteStalled { .. } | Self::Disconnected | Self::Io { .. } => return None,
        })
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_reason = |f: &mut fmt::Formatter<'_>, who: &str, code: &dyn fmt::Display, reason: &str| {
            write!(f, "closed by {who} with {code}")?;
            if reason.is_empty() { Ok(()) } else { write!(f, " {reason:?}") }
        };
        match self {
            Self::Peer { code: Some(code), reason } => with_reason(f, "peer", code, reason),
            Self::Peer { code: None, .. } => f.write_str("closed by peer without a code"),
            Self::Local { code, reason } => with_reason(f, "us", code, reason),
            Self::Shutdown { code: CloseCode::GOING_AWAY, .. } => f.write_str("server shutdown"),
            Self::Shutdown { code, reason } => {
                write!(f, "server shutdown with {code}")?;
                if reason.is_empty() { Ok(()) } else { write!(f, " {reason:?}") }
            }
            Self::HeartbeatLost { missed } => {
                write!(f, "heartbeat lost ({} missed)", counted(u64::from(*missed), "Pong"))
            }
            Self::WriteStalled { limit } => write!(f, "write stalled (peer took nothing for {limit:?})"),
            Self::Protocol(what) => write!(f, "protocol error: {what}"),
            Self::InvalidUtf8 => f.write_str("text is not UTF-8"),
            Self::InvalidDeflate => f.write_str("compressed message is not valid"),
            Self::TooBig { size, limit } => write!(f, "message of {size} bytes or more is over the limit of {limit}"),
            Self::Disconnected => f.write_str("disconnected without a Close frame"),
            Self::Io { message, .. } => write!(f, "socket error: {message}"),
            Self::HandlerPanicked(message) => write!(f, "handler panicked: {message}"),
            Self::HandlerFailed(message) => write!(f, "handler failed: {message}"),
        }
    }
}

/// A count with its noun in the singular or plural.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_may_be_sent_are_sendable() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(CloseCode(code).is_sendable(), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!CloseCode(code).is_sendable(), "{code}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let payload = close_payload(Some(CloseCode::NORMAL), &"é".repeat(100));
        assert_eq!(payload.len(), 2 + 122, "a character of two bytes does not fit into the 123rd");
        assert_eq!(std::str::from_utf8(&payload[2..]).unwrap(), "é".repeat(61));
        assert_eq!(close_payload(None, "unused").len(), 0);
    }

    #[test]
    fn every_close_frame_of_ours_has_a_sendable_code() {
        let reasons = [
            CloseReason::shutdown(),
            CloseReason::HeartbeatLost { missed: 3 },
            CloseReason::Protocol("reserved bits"),
            CloseReason::InvalidUtf8,
            CloseReason::TooBig { size: 2, limit: 1 },
            CloseReason::HandlerPanicked(String::new()),
        ];
        for reason in reasons {
            let (code, text) = reason.close_frame().unwrap();
            assert!(code.is_sendable() && text.len() <= MAX_REASON, "{reason:?}");
        }
    }
}
