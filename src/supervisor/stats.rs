//! Counters of a server or a client, and snapshots of all that is open.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::connection::report::{ConnectionInfo, Traffic};

/// A server's counters since it started. See [`ServerHandle::stats`](crate::ServerHandle::stats).
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
    /// Opening handshakes that did not come to a connection, refusals included. Each client that was accepted is
    /// counted, sooner or later, either here or in `opened`, `http_requests`, `http_unclaimed`, `without_request` or
    /// `thread_errors`.
    pub handshakes_failed: u64,
    /// Plain HTTP requests that [`on_request`](crate::Server::on_request) answered, or the server for it, such as a
    /// [health check](crate::Server::health).
    pub http_requests: u64,
    /// Plain HTTP requests that nobody answered but the server itself, with 426 or 405: a browser that asks for
    /// `/favicon.ico`, a probe.
    pub http_unclaimed: u64,
    /// Clients that sent no request at all: a browser that connects in case it will need it, a check of whether the
    /// port is open.
    pub without_request: u64,
    /// Of the failures, those refused because the server, or their address, had as many connections as it may have.
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
    /// What waits in all queues and was read ahead now, in bytes, as it is counted against
    /// [`max_buffered`](crate::Server::max_buffered).
    pub buffered: u64,
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

/// A server at one moment: see [`ServerHandle::snapshot`](crate::ServerHandle::snapshot).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

    /// How many samples lie within each bound and above the one before; `None` stands for those above the last.
    pub fn counts(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = Self::BOUNDS.iter().copied().map(Some).chain([None]);
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
