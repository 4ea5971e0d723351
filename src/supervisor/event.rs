//! What a server tells of itself: events as they happen, and snapshots on request.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::connection::identity::ConnectionId;
use crate::connection::report::CloseReport;
use crate::http::request::RequestTarget;

/// Something that happened to a connection. See [`ServerHandle::events`](crate::ServerHandle::events).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The opening handshake is complete; the handler starts.
    #[non_exhaustive]
    Opened {
        /// The connection's number.
        id: ConnectionId,
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// The address of whoever is really at the other end: the one that a [trusted
        /// proxy](crate::Server::trust_proxies) named, or else the peer's own.
        remote_ip: IpAddr,
        /// The path that it asked for, without the query.
        path: String,
        /// The path with the query, which may hold secrets.
        target: RequestTarget,
    },
    /// Nothing that counts as life came within the heartbeat's timeout of a Ping, or within the window that the peer
    /// had.
    #[non_exhaustive]
    Missed {
        /// The connection's number.
        id: ConnectionId,
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// Misses in a row so far.
        missed: u32,
        /// How many make the peer dead.
        max_missed: u32,
    },
    /// The handler has not called `recv` for longer than the heartbeat's interval. Said once per absence, and never
    /// without an interval. The heartbeat goes on meanwhile: see [While the handler is
    /// away](crate#while-the-handler-is-away).
    #[non_exhaustive]
    HandlerStalled {
        /// The connection's number.
        id: ConnectionId,
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// For how long.
        away: Duration,
    },
    /// The connection ended. There is exactly one for each `Opened`.
    Closed(CloseReport),
    /// A client begins an attempt to connect.
    #[non_exhaustive]
    Connecting {
        /// The number of the attempt, counted from 1 and from the last connection that lasted.
        attempt: u32,
    },
    /// A client's attempt to connect has failed.
    #[non_exhaustive]
    ConnectFailed {
        /// What was wrong.
        error: String,
        /// Whether the client gives up, since another attempt would end in the same way.
        is_fatal: bool,
    },
    /// A client pauses before it tries again.
    #[non_exhaustive]
    Retrying {
        /// For how long.
        delay: Duration,
    },
    /// An opening handshake did not come to a connection. Plain HTTP requests, and clients that never asked for
    /// anything, are no failures: see [`Stats::http_unclaimed`](crate::Stats::http_unclaimed) and
    /// [`Stats::without_request`](crate::Stats::without_request).
    #[non_exhaustive]
    HandshakeFailed {
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// The address of whoever is really at the other end: the one that a [trusted
        /// proxy](crate::Server::trust_proxies) named, if its request was read that far, or else the peer's own.
        remote_ip: IpAddr,
        /// The HTTP status that it was given, if it got an answer.
        status: Option<u16>,
        /// What was wrong, and what refused it: `on_handshake`, with what
        /// [`Response::because`](crate::Response::because) said, a limit, or a rule of the protocol.
        reason: String,
        /// The path that it asked for, without the query, if its request was understood.
        path: Option<String>,
        /// The `Origin` of its request: browsers name the origin of the page there.
        origin: Option<String>,
    },
    /// So many events before this one are missing: the subscriber did not take out those before, and there was no room
    /// for more (16 MiB, some 40,000 events), or more happened at once than could be told. Said when there is room
    /// again, and at the end. The [counters](crate::Stats) have missed nothing.
    #[non_exhaustive]
    Lost {
        /// How many.
        count: u64,
    },
}

impl Event {
    /// What it costs in memory while it waits for a subscriber.
    pub(crate) fn cost(&self) -> usize {
        /// What the allocator adds to a text, and we to count an event.
        const MORE: usize = 48;
        let texts = match self {
            Self::Opened { target, .. } => 2 * target.as_str().len(),
            Self::Closed(report) => 2 * report.target.as_str().len() + report.reason.text().len(),
            Self::ConnectFailed { error, .. } => error.len(),
            Self::HandshakeFailed { reason, path, origin, .. } => {
                reason.len() + [path, origin].into_iter().flatten().map(String::len).sum::<usize>()
            }
            Self::Missed { .. }
            | Self::HandlerStalled { .. }
            | Self::Connecting { .. }
            | Self::Retrying { .. }
            | Self::Lost { .. } => 0,
        };
        size_of::<Self>() + texts + MORE
    }
}
