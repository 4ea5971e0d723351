//! The Pings of a connection that are under way: how they are sent, by any thread, and what their Pongs tell.

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

impl Shared {
    /// Sends a Ping with the next number, which may announce when the next is due. `waiter` is told the round-trip
    /// time.
    pub(crate) fn ping(
        self: &Arc<Self>,
        next: Option<Duration>,
        waiter: Option<channel::Sender<Duration>>,
    ) -> Result<Sent, Error> {
        // Entered before it is written: the Pong may be here before this thread is back.
        let payload = self.enter_ping(next, waiter);
        let sent = WriteHalf::send_control(self, Outgoing::ping(payload.clone())).map_err(|_| self.closed())?;
        if sent == Sent::Written {
            self.pings.written(&payload);
        }
        self.trace_ping(&payload, sent);
        self.supervisor.count(|stats| stats.pings += 1);
        Ok(sent)
    }

    /// Sends a Ping behind everything that was accepted before, and has `waiter` told of its Pong: then the peer has
    /// read all of it. `false` if there was no room for it as long as `wait` says.
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

    /// Not inlined, to keep the stack low for the send that follows.
    #[inline(never)]
    fn enter_ping(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> Bytes {
        self.pings.enter(next, waiter).into()
    }

    /// A Pong arrived: its round trip counts for this connection and for all of them.
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

    /// Has the supervisor log a beat, if anybody listens at that level: others hold locks here, and must not be held
    /// up.
    fn trace(&self, beat: impl FnOnce() -> String) {
        if log::max_level() == log::LevelFilter::Trace {
            self.tell_beat(beat);
        }
    }

    /// Not inlined, to keep the stack of all others low.
    #[cold]
    #[inline(never)]
    fn tell_beat(&self, beat: impl FnOnce() -> String) {
        self.supervisor.notify(Notice::Beat { connection: self.identity, beat: beat() });
    }
}
