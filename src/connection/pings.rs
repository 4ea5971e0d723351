//! The Pings of a connection that are under way, for all threads that send one or receive a Pong.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::heartbeat::round_trip::{PingTracker, RoundTrip};

#[derive(Debug, Default)]
pub(super) struct Pings {
    /// Protects the tracker; taken for moments only.
    tracker: Mutex<PingTracker>,
}

/// A Pong that answered a Ping of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// The time since that Ping.
    pub(super) elapsed: Duration,
    /// Whether it says something about the line.
    pub(super) is_sample: bool,
}

impl Pings {
    /// Enters a Ping before it is written, for its Pong may be here before its sender runs again. Gives its payload.
    pub(super) fn enter(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> String {
        self.tracker().ping(Instant::now(), next, waiter)
    }

    /// The same for one that takes its turn among the data.
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

    /// No Pong will come any more: those who wait for one learn it by the end of their channel.
    pub(super) fn close(&self) {
        self.tracker().close();
    }

    fn tracker(&self) -> MutexGuard<'_, PingTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
