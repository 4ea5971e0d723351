//! The events of servers and clients.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::connection::identity::ConnectionId;
use crate::connection::report::CloseReport;
use crate::http::request::RequestTarget;

/// Something that happened on a server or a client. See [`ServerHandle::events`](crate::ServerHandle::events) and
/// [`ClientHandle::events`](crate::ClientHandle::events).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "a report in a box would be in the way of whoever matches on it")]
pub enum Event {
    /// The opening handshake is complete; the handler starts.
    #[non_exhaustive]
    Opened {
        /// The connection's number.
        id: ConnectionId,
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, or else the peer's
        /// own.
        remote_ip: IpAddr,
        /// The name of the user whom it belongs to, if [`Accept::user`](crate::Accept::user) has set one.
        user: Option<String>,
        /// The requested path, without the query.
        path: String,
        /// The path with the query, which may hold secrets.
        target: RequestTarget,
    },
    /// No sign of life came within the heartbeat's timeout of a Ping or, if the peer leads, within its window.
    #[non_exhaustive]
    Missed {
        /// The connection's number.
        id: ConnectionId,
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// Misses in a row so far.
        missed: u32,
        /// How many misses in a row make the peer dead.
        max_missed: u32,
    },
    /// The handler has not called `recv` for longer than the heartbeat's interval. Reported once per absence, and never
    /// without an interval. The heartbeat continues meanwhile: see [While the handler is
    /// away](crate#while-the-handler-is-away).
    #[non_exhaustive]
    HandlerStalled {
        /// The connection's number.
        id: ConnectionId,
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// How long the handler has been away from `recv`.
        away: Duration,
    },
    /// The connection ended. There is exactly one for each `Opened`.
    Closed(CloseReport),
    /// The server begins to send its clients away. See [`ServerHandle::drain`](crate::ServerHandle::drain).
    #[non_exhaustive]
    Draining {
        /// How long that may take.
        period: Duration,
    },
    /// The server begins to shut down. See [`ServerHandle::shutdown`](crate::ServerHandle::shutdown).
    ShuttingDown,
    /// A client begins an attempt to connect.
    #[non_exhaustive]
    Connecting {
        /// The number of the attempt, from 1. A connection that lasts starts the count again.
        attempt: u32,
    },
    /// A client's attempt to connect failed.
    #[non_exhaustive]
    ConnectFailed {
        /// The error in words.
        error: String,
        /// Whether the client gives up, because another attempt would fail in the same way.
        is_fatal: bool,
    },
    /// A client pauses before the next attempt.
    #[non_exhaustive]
    Retrying {
        /// The length of the pause.
        delay: Duration,
    },
    /// An opening handshake failed. Plain HTTP requests, and clients that sent no request, are not failures: see
    /// [`Stats::http_unclaimed`](crate::Stats::http_unclaimed) and
    /// [`Stats::without_request`](crate::Stats::without_request).
    #[non_exhaustive]
    HandshakeFailed {
        /// The address of the peer's socket: behind a proxy, the proxy's.
        peer_addr: SocketAddr,
        /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, if its request was
        /// read, or else the peer's own.
        remote_ip: IpAddr,
        /// The HTTP status of the response, if one was sent.
        status: Option<u16>,
        /// What refused it: `on_handshake`, with the reason from [`Response::because`](crate::Response::because), a
        /// limit, or a rule of the protocol.
        reason: String,
        /// The requested path, without the query, if the request was valid HTTP.
        path: Option<String>,
        /// The `Origin` of the request, where browsers name the origin of the page.
        origin: Option<String>,
    },
    /// Events before this one are missing. The subscriber did not take its events, and there was no room for more (16
    /// MiB, some 40,000 events), or more happened at once than could be published. Reported when there is room again,
    /// and at the end. The [counters](crate::Stats) missed nothing.
    #[non_exhaustive]
    Lost {
        /// How many events are missing.
        count: u64,
    },
}

impl Event {
    /// The memory that it takes while it waits for a subscriber.
    pub(crate) fn cost(&self) -> usize {
        /// What the allocator adds to a text, and our counting to an event.
        const MORE: usize = 48;
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = match self {
            Self::Opened { target, user, .. } => 2 * target.as_str().len() + length(user),
            Self::Closed(report) => {
                2 * report.target.as_str().len() + report.reason.text().len() + length(&report.user)
            }
            Self::ConnectFailed { error, .. } => error.len(),
            Self::HandshakeFailed { reason, path, origin, .. } => reason.len() + length(path) + length(origin),
            Self::Missed { .. }
            | Self::HandlerStalled { .. }
            | Self::Draining { .. }
            | Self::ShuttingDown
            | Self::Connecting { .. }
            | Self::Retrying { .. }
            | Self::Lost { .. } => 0,
        };
        size_of::<Self>() + texts + MORE
    }
}
