//! The Pings of a connection: any thread sends them, and their Pongs give round-trip times.
//!
//! Invariants: a Ping is registered before it is written, because its Pong may arrive before the sending thread runs
//! again. The tracker's lock is never held across a write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel as channel;

use crate::connection::shared::Shared;
use crate::error::Error;
use crate::heartbeat::round_trip::{PingTracker, RoundTrip};
use crate::protocol::frame::Outgoing;
use crate::supervisor::notice::Notice;
use crate::transport::write_half::{Refused, Sent, Wait, WriteHalf};

#[derive(Debug, Default)]
pub(super) struct Pings {
    /// Protects the tracker. Held for moments only.
    tracker: Mutex<PingTracker>,
}

/// A Pong that answered one of our Pings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// The time since the Ping.
    pub(super) elapsed: Duration,
    /// Whether the time is a round-trip sample.
    pub(super) is_sample: bool,
}

impl Pings {
    /// Registers a Ping before it is written, and returns its payload.
    pub(super) fn enter(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> String {
        self.tracker().ping(Instant::now(), next, waiter)
    }

    /// Like [`enter`](Self::enter), for a Ping that keeps its place among the data.
    pub(super) fn enter_ordered(&self, waiter: channel::Sender<Duration>) -> String {
        self.tracker().ordered_ping(Instant::now(), waiter)
    }

    /// Records that the Ping with this payload went straight to the socket.
    pub(super) fn written(&self, payload: &[u8]) {
        self.tracker().written(payload);
    }

    /// Records a Pong. `None` if it answers none of our Pings.
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

    /// The number of Pings sent, the number of Pongs that answered them, and the round-trip figures.
    pub(super) fn figures(&self) -> (u64, u64, Option<RoundTrip>) {
        self.tracker().figures()
    }

    /// Whether the peer owes us a Pong.
    pub(super) fn awaits_pong(&self) -> bool {
        self.tracker().awaits_pong()
    }

    /// Ends the wait of all who wait for a Pong: their channels disconnect.
    pub(super) fn close(&self) {
        self.tracker().close();
    }

    fn tracker(&self) -> MutexGuard<'_, PingTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Sends a Ping with the next number. `next` announces when the following Ping is due. `waiter` receives the
    /// round-trip time.
    pub(crate) fn ping(
        self: &Arc<Self>,
        next: Option<Duration>,
        waiter: Option<channel::Sender<Duration>>,
    ) -> Result<Sent, Error> {
        // Register first: the Pong may arrive before this thread runs again.
        let payload = self.enter_ping(next, waiter);
        let sent = WriteHalf::send_control(self, Outgoing::ping(payload.clone())).map_err(|_| self.closed())?;
        if sent == Sent::Written {
            self.pings.written(&payload);
        }
        self.trace_ping(&payload, sent);
        self.supervisor.count(|stats| stats.pings += 1);
        Ok(sent)
    }

    /// Sends a Ping after everything that was accepted before. Its Pong proves that the peer has read all of that, and
    /// goes to `waiter`.
    ///
    /// Returns `false` if no room became free within `wait`.
    pub(crate) fn ping_in_line(self: &Arc<Self>, waiter: channel::Sender<Duration>, wait: Wait) -> Result<bool, Error> {
        let payload = self.pings.enter_ordered(waiter);
        let sent = match WriteHalf::send_in_line(self, Outgoing::ping_in_line(payload.clone()), wait) {
            Ok(sent) => sent,
            Err(Refused::Full) => return Ok(false),
            Err(Refused::Closed) => return Err(self.closed()),
        };
        self.trace_ping(payload.as_bytes(), sent);
        self.supervisor.count(|stats| stats.pings += 1);
        Ok(true)
    }

    /// Not inlined: this keeps the stack small for the send that follows.
    #[inline(never)]
    fn enter_ping(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> Bytes {
        self.pings.enter(next, waiter).into()
    }

    /// Handles a Pong. Its round trip counts for this connection and for the totals of all connections.
    pub(crate) fn pong_received(&self, payload: &[u8], now: Instant) {
        let answered = self.pings.answer(payload, now);
        self.trace(|| match answered {
            Some(Answered { elapsed, .. }) => {
                format!("Pong {} received, round trip {elapsed:.1?}", String::from_utf8_lossy(payload))
            }
            None => "Pong received that answers no Ping of ours".to_owned(),
        });
        if let Some(Answered { elapsed, is_sample }) = answered {
            self.supervisor.count(|stats| {
                stats.pongs += 1;
                if is_sample {
                    stats.round_trips.add(elapsed);
                }
            });
        }
    }

    fn trace_ping(&self, payload: &[u8], sent: Sent) {
        self.trace(|| {
            let what = if sent == Sent::Written { "sent" } else { "queued: the socket takes nothing now" };
            format!("Ping {} {what}", String::from_utf8_lossy(payload))
        });
    }

    /// Makes the supervisor log a beat, if the log level is trace. This thread may hold locks, and a logger may block.
    fn trace(&self, beat: impl FnOnce() -> String) {
        if log::max_level() == log::LevelFilter::Trace {
            self.tell_beat(beat);
        }
    }

    /// Not inlined: this keeps the stack of the usual path small.
    #[cold]
    #[inline(never)]
    fn tell_beat(&self, beat: impl FnOnce() -> String) {
        self.supervisor.notify(Notice::Beat { connection: self.identity, beat: beat() });
    }
}
