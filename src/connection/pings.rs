//! The Pings under way on a connection, for all threads that send Pings or receive Pongs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::heartbeat::round_trip::{PingTracker, RoundTrip};

#[derive(Debug, Default)]
pub(super) struct Pings {
    /// Protects the tracker. Held for moments only.
    tracker: Mutex<PingTracker>,
}

/// A Pong that answered a Ping of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// The time since that Ping.
    pub(super) elapsed: Duration,
    /// Whether it is a round-trip sample.
    pub(super) is_sample: bool,
}

impl Pings {
    /// Registers a Ping before it is written, because its Pong may arrive before its sender runs again. Returns its
    /// payload.
    pub(super) fn enter(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> String {
        self.tracker().ping(Instant::now(), next, waiter)
    }

    /// The same for a Ping that keeps its place among the data.
    pub(super) fn enter_ordered(&self, waiter: channel::Sender<Duration>) -> String {
        self.tracker().ordered_ping(Instant::now(), waiter)
    }

    /// The Ping with this payload went straight to the socket.
    pub(super) fn written(&self, payload: &[u8]) {
        self.tracker().written(payload);
    }

    /// A Pong arrived. `None` if it answers no Ping of ours.
    pub(super) fn answer(&self, payload: &[u8], now: Instant) -> Option<Answered> {
        let mut tracker = self.tracker();
        let samples = |tracker: &PingTracker| tracker.round_trip().map_or(0, |round_trip| round_trip.samples);
        let before = samples(&tracker);
        let elapsed = tracker.pong(payload, now)?;
        Some(Answered { elapsed, is_sample: samples(&tracker) > before })
    }

    pub(super) fn round_trip(&self) -> Option<RoundTrip> {
        self.tracker().round_trip()
    }

    /// Pings sent, Pongs that answered them, and the round-trip figures.
    pub(super) fn figures(&self) -> (u64, u64, Option<RoundTrip>) {
        self.tracker().figures()
    }

    /// No more Pongs will come: disconnects the channels of those who wait for one.
    pub(super) fn close(&self) {
        self.tracker().close();
    }

    fn tracker(&self) -> MutexGuard<'_, PingTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
