//! The counters of a server or a client, and snapshots with its open connections.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::connection::report::{ConnectionInfo, Traffic};

/// The counters of a server or a client since it started. See [`ServerHandle::stats`](crate::ServerHandle::stats) and
/// [`ClientHandle::stats`](crate::ClientHandle::stats).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that completed the opening handshake.
    pub opened: u64,
    /// Connections that ended, by the [name](crate::CloseReason::name) of their cause.
    pub closed: BTreeMap<&'static str, u64>,
    /// Opening handshakes that failed, including those that were refused. Every accepted TCP connection is eventually
    /// counted: here or in `opened`, `http_requests`, `http_unclaimed`, `without_request` or `thread_errors`. It is
    /// counted once, unless it was kept for further requests, each of which is counted.
    pub handshakes_failed: u64,
    /// Plain HTTP requests that [`on_request`](crate::Server::on_request) answered, or one of the server's own paths,
    /// such as a [health check](crate::Server::health).
    pub http_requests: u64,
    /// Plain HTTP requests that only got 426 or 405: a browser that requests `/favicon.ico`, or a probe.
    pub http_unclaimed: u64,
    /// Clients that sent no request: a browser that connects in advance, or a check whether the port is open.
    pub without_request: u64,
    /// Those of the failures that were refused because the server, or the client's address, was at its limit of
    /// connections, or because the server drains.
    pub refused: u64,
    /// Failures to accept a TCP connection (no file descriptors, no memory).
    pub accept_errors: u64,
    /// Failures to start a thread for a connection.
    pub thread_errors: u64,
    /// Pings sent.
    pub pings: u64,
    /// Pongs that answered them.
    pub pongs: u64,
    /// The distribution of the round trips.
    pub round_trips: RoundTrips,
    /// Pongs missed.
    pub missed: u64,
    /// Handlers reported as stalled.
    pub handlers_stalled: u64,
    /// What waits in all queues and was read ahead now, in bytes, as counted against
    /// [`max_buffered`](crate::Server::max_buffered).
    pub buffered: u64,
    /// The traffic of the connections that ended.
    pub traffic: Traffic,
    /// Log lines that were lost, because the logger was slow or panicked.
    pub log_lines_lost: u64,
}

impl Stats {
    /// Connections that ended, for any cause.
    pub fn closed_total(&self) -> u64 {
        self.closed.values().sum()
    }
}

/// A server at one moment. See [`ServerHandle::snapshot`](crate::ServerHandle::snapshot).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The open connections, in the order of their numbers.
    pub connections: Vec<ConnectionInfo>,
    /// The counters. Their `traffic` covers the connections that ended; each open connection has its own.
    pub stats: Stats,
}

/// A histogram of the round trips on all connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundTrips {
    counts: [u64; Self::BOUNDS.len() + 1],
    sum: Duration,
}

impl RoundTrips {
    /// The upper bounds, each included, from the shortest to the longest.
    pub const BOUNDS: &[Duration] = {
        let us = Duration::from_micros;
        let ms = Duration::from_millis;
        &[
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

    /// The number of samples within each bound and above the previous one. The bound `None` is for samples above the
    /// last bound.
    pub fn counts(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = Self::BOUNDS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts)
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all samples.
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
