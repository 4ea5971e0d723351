//! The Pings of a connection that are under way, for all threads that send one or receive a Pong.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::heartbeat::round_trip::{PingLedger, RoundTrip};

#[derive(Debug, Default)]
pub(super) struct Pings {
    /// Protects the ledger; taken for moments only.
    ledger: Mutex<PingLedger>,
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
        self.ledger().ping(Instant::now(), next, waiter)
    }

    /// The same for one that takes its turn among the data.
    pub(super) fn enter_in_line(&self, waiter: channel::Sender<Duration>) -> String {
        self.ledger().ping_in_line(Instant::now(), waiter)
    }

    /// The Ping with this payload went straight to the socket.
    pub(super) fn written(&self, payload: &[u8]) {
        self.ledger().written(payload);
    }

    /// A Pong arrived. `None` if it answers no Ping of ours.
    pub(super) fn answer(&self, payload: &[u8], now: Instant) -> Option<Answered> {
        let mut ledger = self.ledger();
        let samples = |ledger: &PingLedger| ledger.round_trip().map_or(0, |round_trip| round_trip.samples);
        let before = samples(&ledger);
        let elapsed = ledger.pong(payload, now)?;
        Some(Answered { elapsed, is_sample: samples(&ledger) > before })
    }

    pub(super) fn round_trip(&self) -> Option<RoundTrip> {
        self.ledger().round_trip()
    }

    /// Pings sent, Pongs that answered them, and the round-trip figures.
    pub(super) fn figures(&self) -> (u64, u64, Option<RoundTrip>) {
        self.ledger().figures()
    }

    /// No Pong will come any more: those who wait for one learn it by the end of their channel.
    pub(super) fn close(&self) {
        self.ledger().close();
    }

    fn ledger(&self) -> MutexGuard<'_, PingLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
