//! What other threads report to the supervisor, and what they ask of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::connection::identity::{ConnectionId, Identity};
use crate::connection::report::CloseReport;
use crate::connection::shared::Shared;
use crate::http::forwarded::Remote;
use crate::protocol::close::CloseReason;
use crate::supervisor::broadcast::Broadcast;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
use crate::supervisor::stats::Snapshot;

/// What threads of connections and the accept loop report: a few notices for each connection. While too many wait, no
/// connection is accepted, and misses and stalled handlers are not reported. A notice is small, since it passes over
/// the stack of every connection's thread.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A TCP connection was accepted, and its thread is about to start.
    Accepted(Arc<PendingHandshake>),
    /// The client has become a connection, or its thread is about to end.
    HandshakeEnds { number: u64 },
    /// The opening handshake is complete.
    Opened(Arc<Shared>),
    /// The opening handshake has failed.
    HandshakeFailed { remote: Remote, failure: Box<HandshakeFailure> },
    /// The peer has missed a Pong, or whatever else it had to send.
    Missed { connection: Identity, what: &'static str, missed: u32, max_missed: u32 },
    /// A Ping was sent, or a Pong has arrived. Only reported while `trace` is logged.
    Beat { connection: Identity, beat: String },
    /// A handler has been away from `recv` for longer than the heartbeat's interval.
    HandlerStalled { connection: Identity, away: Duration },
    /// A write has failed. The report of the connection tells what ended it.
    WriteFailed { connection: Identity, error: String },
    /// A closing handshake has begun that has to end by the deadline.
    Closing { shared: Arc<Shared>, deadline: Instant },
    /// The connection has ended.
    Closed(Box<CloseReport>),
    /// The connection's thread is about to end. The supervisor drops `heard` when it has received the notice.
    ThreadEnds { id: ConnectionId, heard: Option<channel::Sender<()>> },
    /// Somebody asks which connections are open.
    Snapshot { reply: channel::Sender<Snapshot> },
    /// Somebody asks whether the supervisor makes progress.
    Probe { reply: channel::Sender<()> },
    /// The server or client shuts down, and closes all connections with this reason.
    Shutdown { reason: Box<CloseReason> },
    /// The server drains, and is to be empty by then.
    Drain { until: Instant },
    /// A thread of ours has panicked: the server or client ends at once.
    Failed,
    /// Makes the supervisor panic.
    #[cfg(test)]
    Panic,
    /// Stalls the supervisor until the other end is dropped.
    #[cfg(test)]
    Stall(channel::Receiver<()>),
    /// No more connections will come.
    NoMoreConnections,
}

/// What users ask for. The channel is bounded, so a caller that broadcasts faster than the fan-out waits.
#[derive(Debug)]
pub(crate) enum Command {
    Broadcast { broadcast: Broadcast, except: Option<ConnectionId> },
}
