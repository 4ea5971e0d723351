//! What the supervisor is told, and what it is asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::connection::identity::{ConnectionId, Identity};
use crate::connection::report::CloseReport;
use crate::connection::shared::Shared;
use crate::http::forwarded::Remote;
use crate::protocol::frame::Frame;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
use crate::supervisor::stats::Snapshot;

/// What connections and the accept loop report: a few for each connection, and while too many wait none is accepted. Misses
/// and absences are not told then. Kept small: it passes over the stack of every connection's thread.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A TCP connection was accepted, and its thread is about to start.
    Accepted(Arc<PendingHandshake>),
    /// It has become a connection, or its thread is about to end.
    HandshakeEnds { number: u64 },
    /// The opening handshake is complete.
    Opened(Arc<Shared>),
    /// The opening handshake came to nothing.
    HandshakeFailed { remote: Remote, failure: Box<HandshakeFailure> },
    /// A Pong, or whatever the peer was to give, was missed.
    Missed { connection: Identity, what: &'static str, missed: u32, max_missed: u32 },
    /// A Ping was sent, or a Pong came. Only while lines of that level are logged.
    Beat { connection: Identity, beat: String },
    /// A handler has been away from `recv` for longer than the heartbeat's interval.
    HandlerStalled { connection: Identity, away: Duration },
    /// A write has failed. What the connection ended of is told by its report.
    WriteFailed { connection: Identity, error: String },
    /// A closing handshake has begun that must not last beyond the deadline.
    Closing { shared: Arc<Shared>, deadline: Instant },
    /// The connection has ended.
    Closed(Box<CloseReport>),
    /// The connection's thread is about to end. `heard` is dropped when the supervisor has heard of it.
    ThreadEnds { id: ConnectionId, heard: Option<channel::Sender<()>> },
    /// Somebody wants to know what is open.
    Snapshot { reply: channel::Sender<Snapshot> },
    /// The server is to end.
    Shutdown,
    /// One of our own threads has panicked: the server is to end at once.
    Failed,
    /// Has the supervisor panic.
    #[cfg(test)]
    Panic,
    /// There will be no more connections.
    NoMoreConnections,
}

/// What users ask for. Bounded: whoever broadcasts faster than the fan-out waits.
#[derive(Debug)]
pub(crate) enum Command {
    Broadcast { frame: Frame, except: Option<ConnectionId> },
}
