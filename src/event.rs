//! What a server tells of itself: events as they happen, and snapshots on request.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::close::{CloseReport, ConnectionId, Traffic};
use crate::request::RequestTarget;
use crate::round_trip::RoundTrip;

/// Something that happened to a connection. See [`Handle::events`](crate::Handle::events).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The opening handshake is complete; the handler starts.
    Opened {
        /// The connection's number.
        id: ConnectionId,
        /// The peer's address.
        peer: SocketAddr,
        /// The client's address: behind a [trusted proxy](crate::Server::trust_proxies) not the peer's.
        client: IpAddr,
        /// The path that it asked for, without the query.
        path: String,
        /// The path with the query, which may hold secrets.
        target: RequestTarget,
    },
    /// Nothing that counts as life came within the heartbeat's timeout of a Ping, or within the window that the peer had.
    Missed {
        /// The connection's number.
        id: ConnectionId,
        /// The peer's address.
        peer: SocketAddr,
        /// Misses in a row so far.
        missed: u32,
        /// How many make the peer dead.
        max_missed: u32,
    },
    /// The handler has not called `recv` for longer than the heartbeat's interval. Said once per absence, and never without
    /// an interval. The heartbeat goes on meanwhile: see [While the handler is away](crate#while-the-handler-is-away).
    HandlerStalled {
        /// The connection's number.
        id: ConnectionId,
        /// The peer's address.
        peer: SocketAddr,
        /// For how long.
        away: Duration,
    },
    /// The connection ended. There is exactly one for each `Opened`.
    Closed(CloseReport),
    /// A client begins an attempt to connect.
    Connecting {
        /// The number of the attempt, counted from 1 and from the last connection that lasted.
        attempt: u32,
    },
    /// A client's attempt to connect has failed.
    ConnectFailed {
        /// What was wrong.
        error: String,
        /// Whether the client gives up, since another attempt would end in the same way.
        is_fatal: bool,
    },
    /// A client pauses before it tries again.
    Retrying {
        /// For how long.
        delay: Duration,
    },
    /// An opening handshake did not come to a connection. Plain HTTP requests, and clients that never asked for anything,
    /// are no failures: see [`Stats::http_unclaimed`] and [`Stats::without_request`].
    HandshakeFailed {
        /// The peer's address.
        peer: SocketAddr,
        /// The client's address: behind a [trusted proxy](crate::Server::trust_proxies) not the peer's, if it got so far as to name it.
        client: IpAddr,
        /// The HTTP status that it was given, if it got an answer.
        status: Option<u16>,
        /// What was wrong, and what refused it: `on_handshake`, with what [`Response::because`](crate::Response::because)
        /// said, a limit, or a rule of the protocol.
        reason: String,
        /// The path that it asked for, without the query, if its request was understood.
        path: Option<String>,
        /// The `Origin` of its request: browsers name the origin of the page there.
        origin: Option<String>,
    },
}

/// A connection at one moment. See [`Handle::connections`](crate::Handle::connections).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's number.
    pub id: ConnectionId,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The client's address: behind a [trusted proxy](crate::Server::trust_proxies) not the peer's.
    pub client: IpAddr,
    /// The path that it asked for, without the query.
    pub path: String,
    /// The path with the query, which may hold secrets.
    pub target: RequestTarget,
    /// How long it has been open.
    pub age: Duration,
    /// For how long no byte has come from the peer.
    pub silent: Duration,
    /// Misses in a row.
    pub missed: u32,
    /// How many misses in a row make the peer dead.
    pub max_missed: u32,
    /// Round-trip figures, if any Ping was answered.
    pub round_trip: Option<RoundTrip>,
    /// Pings that we sent.
    pub pings: u64,
    /// Pongs that answered them.
    pub pongs: u64,
    /// Messages, bytes and drops both ways.
    pub traffic: Traffic,
    /// Bytes that wait for the peer to take them.
    pub queued: usize,
    /// How long its thread has been in the handler; `None` while it waits in `recv`.
    pub away: Option<Duration>,
}

/// A server's counters since it started. See [`Handle::stats`](crate::Handle::stats).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that completed the opening handshake.
    pub opened: u64,
    /// Connections that ended, by the [name](crate::CloseReason::name) of the cause.
    pub closed: BTreeMap<&'static str, u64>,
    /// Opening handshakes that did not come to a connection, refusals included. Each client that was accepted is counted,
    /// sooner or later, either here or in `opened`, `http_requests`, `http_unclaimed`, `without_request` or
    /// `thread_errors`.
    pub handshakes_failed: u64,
    /// Plain HTTP requests that [`on_request`](crate::Server::on_request) answered.
    pub http_requests: u64,
    /// Plain HTTP requests that nobody answered but the server itself, with 426 or 405: a browser that asks for
    /// `/favicon.ico`, a probe.
    pub http_unclaimed: u64,
    /// Clients that sent no request at all: a browser that connects in case it will need it, a check of whether the port
    /// is open.
    pub without_request: u64,
    /// Of the failures, those refused because the server was full.
    pub refused: u64,
    /// Failures to accept a TCP connection (no file descriptors, no memory).
    pub accept_errors: u64,
    /// Failures to start a thread for a connection.
    pub thread_errors: u64,
    /// Pings sent.
    pub pings: u64,
    /// Pongs that answered them.
    pub pongs: u64,
    /// How long the Pongs took.
    pub round_trips: RoundTrips,
    /// Pongs missed.
    pub missed: u64,
    /// Handlers reported as stalled.
    pub handlers_stalled: u64,
    /// What passed over the connections that ended.
    pub traffic: Traffic,
    /// Lines of the log that were lost, because the logger was behind or has panicked.
    pub log_lines_lost: u64,
}

impl Stats {
    /// Connections that ended, whatever the cause.
    pub fn closed_total(&self) -> u64 {
        self.closed.values().sum()
    }
}

/// A server at one moment: see [`Handle::snapshot`](crate::Handle::snapshot).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The open connections, in the order of their numbers.
    pub connections: Vec<ConnectionInfo>,
    /// The counters. What passed over a connection is either here, for it has ended, or with the open ones.
    pub stats: Stats,
}

/// How long Pongs took, over all connections: how many came within each bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundTrips {
    counts: [u64; Self::BOUNDS.len() + 1],
    sum: Duration,
}

impl RoundTrips {
    /// The upper bounds, each included.
    pub const BOUNDS: [Duration; 13] = {
        let us = Duration::from_micros;
        let ms = Duration::from_millis;
        [
            us(500),
            ms(1),
            us(2500),
            ms(5),
            ms(10),
            ms(25),
            ms(50),
            ms(100),
            ms(250),
            ms(500),
            ms(1000),
            ms(2500),
            ms(10_000),
        ]
    };

    pub(crate) fn add(&mut self, sample: Duration) {
        let place = Self::BOUNDS.iter().position(|bound| sample <= *bound).unwrap_or(Self::BOUNDS.len());
        self.counts[place] += 1;
        self.sum += sample;
    }

    /// How many samples lie within each bound and above the one before; `None` stands for those above the last.
    pub fn counts(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = Self::BOUNDS.into_iter().map(Some).chain([None]);
        bounds.zip(self.counts)
    }

    /// How many samples there were.
    pub fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All samples together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_what_is_within_it() {
        let mut round_trips = RoundTrips::default();
        for sample in [0, 500, 501, 10_000_000, 10_000_001] {
            round_trips.add(Duration::from_micros(sample));
        }
        let counts: Vec<u64> = round_trips.counts().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((round_trips.samples(), round_trips.sum()), (5, Duration::from_micros(20_001_002)));
    }
}
