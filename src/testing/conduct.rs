//! How a peer behaves.

use std::time::Duration;

use crate::protocol::close::CloseCode;

/// How a [`Peer`](super::Peer) behaves. It can [change](super::Peer::set_conduct) at any time.
///
/// | conduct | reads | answers Pings | sends | found by |
/// | --- | --- | --- | --- | --- |
/// | `Live` | yes | yes | what the test sends | nobody: it lives |
/// | `Echo` | yes | yes | each message back | nobody: it lives |
/// | `Trickle` | yes | slowly | each message back, byte by byte | nobody: it lives |
/// | `Silent` | yes | no | what the test sends | the heartbeat: `HeartbeatLost` |
/// | `Stopped` | no | no | nothing | the heartbeat; or `WriteStalled`, if much is sent to it |
/// | `NeverReads` | no | no | Pongs that nobody asked for | `full_queue_timeout`: `WriteStalled` |
/// | `Close` | yes | yes | a Close frame | its Close frame: `Peer` |
///
/// By TCP they all look alive: the system acknowledges what they do not read, up to the size of its buffers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Conduct {
    /// A good peer: it reads, and answers Pings and the Close frame. What it receives is for
    /// [`Peer::recv`](super::Peer::recv). The default.
    #[default]
    Live,
    /// A good peer that sends back each message. [`Peer::recv`](super::Peer::recv) gets none of them.
    Echo,
    /// Like `Echo`, but whatever it sends, its Pongs included, is sent one byte at a time, in packets of their own as
    /// far as that is ours to decide. So it is in the middle of a frame for most of the time, and alive by each byte.
    Trickle {
        /// The pause before each byte.
        pause: Duration,
    },
    /// It reads everything and answers nothing, neither Pings nor the Close frame: its system works and its
    /// application hangs.
    Silent,
    /// It neither reads nor sends, nor does it close, until its conduct changes or it is dropped. So it looks when its
    /// process is stopped (`SIGSTOP`), and nearly so when it vanishes with its machine or its line: no FIN, no reset.
    /// What one process cannot imitate is that nothing is acknowledged any more, which the heartbeat does not look at.
    Stopped,
    /// It reads nothing and sends a Pong that nobody asked for again and again. Any Pong is life, so it is alive with
    /// each [`Liveness`](crate::Liveness), but what is sent to it piles up.
    NeverReads {
        /// The time between two Pongs.
        every: Duration,
    },
    /// It sends this Close frame, and behaves like `Live` from then on.
    Close {
        /// The code. One that must not be sent (RFC 6455 section 7.4) is sent all the same.
        code: CloseCode,
        /// The reason, of which 123 bytes are sent.
        reason: String,
    },
}

impl Conduct {
    /// [`Close`](Self::Close) with this code and reason.
    pub fn close(code: impl Into<CloseCode>, reason: &str) -> Self {
        Self::Close { code: code.into(), reason: reason.to_owned() }
    }
}
