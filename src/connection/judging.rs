//! Judging the peer: collects the evidence, passes it to the pure [`Heartbeat`](crate::heartbeat::Heartbeat), and
//! carries out the verdict.
//!
//! Invariants: the same code judges, whether the connection's own thread or the stand-in drives the receiving end. Once
//! either side has begun to close, nothing is judged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::receiving_end::{JudgedPing, Over, ReceivingEnd};
use crate::connection::shared::Shared;
use crate::connection::suspension;
use crate::error::Error;
use crate::heartbeat::{self, Action, Evidence, HeartbeatPolicy};
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::Phase;
use crate::supervisor::notice::Notice;
use crate::transport::socket;
use crate::transport::write_half::{Sent, Uptake};

impl ReceivingEnd {
    /// Does what the heartbeat requires, and returns the time of its next check. `None` once either side has begun to
    /// close.
    pub(crate) fn beat_if_due(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Instant>, Over> {
        if !shared.write_half.is_open() {
            return Ok(None);
        }
        if self.is_calm && self.deadline.is_none_or(|deadline| now < deadline) {
            // The usual case: nothing can be due yet.
            return Ok(self.deadline);
        }
        self.judge(shared, now)
    }

    /// Not inlined: this keeps the usual case of [`beat_if_due`](Self::beat_if_due) small.
    #[inline(never)]
    fn judge(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Instant>, Over> {
        if self.is_dead {
            // The verdict is final.
            return Err(Over);
        }
        let before = self.heartbeat.missed();
        // The heartbeat requests one action at a time. Each action may change the evidence for the next.
        loop {
            // A full queue has a time limit of its own, even if the peer is alive.
            let (evidence, blocked_too_long) = self.evidence(shared, now);
            if let Some(limit) = blocked_too_long {
                return Err(self.found_dead(shared, CloseReason::WriteStalled { limit }));
            }
            // Then the heartbeat judges.
            let policy = self.heartbeat.policy();
            match self.heartbeat.judge(now, &evidence) {
                // If the Ping cannot be sent, the next read returns the cause.
                Action::Ping => _ = self.ping(shared),
                Action::Missed(missed) => shared.miss(missed, &policy),
                Action::Dead(missed) => {
                    shared.miss(missed, &policy);
                    return Err(self.found_dead(shared, CloseReason::HeartbeatLost { missed }));
                }
                Action::Stalled(limit) => {
                    return Err(self.found_dead(shared, CloseReason::WriteStalled { limit }));
                }
                // Nothing is due. Publish the count of misses, and store until when `beat_if_due` can return at once.
                Action::Wait(deadline) => {
                    self.publish_missed(shared, before);
                    // No event says that a queue has begun to wait, so this looks once in each limit.
                    let full = shared.settings.full_queue_timeout;
                    let full = full.map(|limit| evidence.blocked_since.unwrap_or(now) + limit);
                    self.deadline = [deadline, full].into_iter().flatten().min();
                    self.is_calm = !self.heartbeat.awaits_activity() && shared.settings.full_queue_timeout.is_none();
                    return Ok(self.deadline);
                }
            }
        }
    }

    fn found_dead(&mut self, shared: &Shared, reason: CloseReason) -> Over {
        (self.is_dead, self.is_calm) = (true, false);
        shared.abort(reason);
        Over
    }

    /// Sends a Ping, and starts its miss clock.
    pub(crate) fn ping(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        // Count the arrived bytes before the write: whatever arrives later may be the answer, and is a sign of life.
        let before = Instant::now();
        self.has_arrived(shared.stats.bytes_in() + socket::unread_bytes(self.read_half.stream()), before);
        if !self.heartbeat.has_miss_timer() {
            // No miss clock runs, so the silence is measured from this Ping.
            self.ping = JudgedPing { asked: before, left: None };
        }
        // Send it. Its miss clock starts when the socket has taken it.
        let sent = shared.ping(self.heartbeat.policy().announcement(), None);
        self.is_calm = false;
        match sent {
            Ok(Sent::Written) => {
                self.note_ping_left(&shared.write_half.uptake());
                self.heartbeat.ping_written(Instant::now(), self.arrived);
            }
            // The drainer may have written it by now. The next look at the evidence finds that.
            Ok(_) | Err(_) => self.heartbeat.ping_queued(before, self.arrived),
        }
        sent.map(drop)
    }

    /// Starts another policy. If that sends Pings, one leaves at once: it announces the new interval, and it finds a
    /// peer that is dead already.
    pub(crate) fn change_heartbeat(&mut self, shared: &Arc<Shared>, policy: HeartbeatPolicy) -> Result<(), Error> {
        self.set_heartbeat(shared, policy);
        if policy.ping_interval().is_some() {
            return self.ping(shared);
        }
        if shared.write_half.is_closing() { Err(shared.closed()) } else { Ok(()) }
    }

    pub(crate) fn set_heartbeat(&mut self, shared: &Shared, policy: HeartbeatPolicy) {
        let now = Instant::now();
        self.heartbeat.set_policy(policy, now, shared.phase(&policy, now));
        self.is_calm = false;
        shared.stats.begin_heartbeat(policy.misses_allowed());
    }

    /// Collects the evidence about the peer. Also returns the limit of `full_queue_timeout` if the queue has been
    /// blocked for that long.
    fn evidence(&mut self, shared: &Shared, now: Instant) -> (Evidence, Option<Duration>) {
        // What has arrived, read or not.
        let read = shared.stats.bytes_in();
        self.has_arrived(read + socket::unread_bytes(self.read_half.stream()), now);

        // What the socket has taken. Looking into the system's send buffer costs system calls, so that happens only
        // when a timeout is over.
        let uptake = shared.write_half.uptake();
        self.note_ping_left(&uptake);
        let is_held_back = match self.ping.left {
            Some((_, offset)) if self.heartbeat.is_overdue(now) => {
                socket::has_unsent_before_last(self.read_half.stream(), uptake.bytes - offset)
            }
            _ => false,
        };

        // All of it, for the heartbeat.
        let evidence = Evidence {
            arrived: self.arrived,
            examined: read - self.read_half.decoder.unexamined() as u64,
            last_arrival: self.last_arrival,
            reading: self.reading,
            ping_left: self.ping.left.map(|(at, _)| at),
            is_held_back,
            blocked_since: uptake.blocked_since,
            suspended: suspension::so_far(),
        };
        // The queue's own time limit.
        let limit = shared
            .settings
            .full_queue_timeout
            .filter(|limit| uptake.blocked_since.is_some_and(|since| now.saturating_duration_since(since) >= *limit));
        (evidence, limit)
    }

    /// Records when the judged Ping left our queue. Of several waiting Pings only the newest remains, so a newer one
    /// that has left counts as well.
    fn note_ping_left(&mut self, uptake: &Uptake) {
        let last_left = uptake.ping_left.filter(|(at, _)| *at >= self.ping.asked);
        self.ping.left = self.ping.left.or(last_left);
    }

    pub(crate) fn policy(&self) -> HeartbeatPolicy {
        self.heartbeat.policy()
    }

    pub(super) fn publish_missed(&self, shared: &Shared, before: u32) {
        if self.heartbeat.missed() != before {
            shared.stats.set_missed(self.heartbeat.missed());
        }
    }
}

impl Shared {
    /// Records a miss and notifies the supervisor, unless the end was reported before.
    pub(crate) fn miss(&self, missed: u32, policy: &HeartbeatPolicy) {
        self.stats.set_missed(missed);
        let max_missed = policy.misses_allowed();
        let what = if policy.ping_interval().is_some() { "Pong" } else { "sign of life" };
        self.notify_unless_over(Notice::Missed { connection: self.identity, what, missed, max_missed });
    }

    /// Counts a notice and passes it to the supervisor, unless the connection has ended. The notice is dropped if the
    /// supervisor is behind.
    ///
    /// The lock orders this with the report of the end, so no such notice follows that report.
    pub(super) fn notify_unless_over(&self, notice: Notice) {
        self.write_half.close_state(|close_state| {
            if close_state.phase() != Phase::Over {
                self.supervisor.count(|stats| match notice {
                    Notice::Missed { .. } => stats.missed += 1,
                    Notice::HandlerStalled { .. } => stats.handlers_stalled += 1,
                    _ => {}
                });
                self.supervisor.notify_if_room(notice);
            }
        });
    }

    /// The point within its interval at which a heartbeat that starts now first beats, as a fraction.
    pub(crate) fn phase(&self, policy: &HeartbeatPolicy, now: Instant) -> f64 {
        heartbeat::phase(self.id(), policy, now.saturating_duration_since(self.supervisor.epoch))
    }
}
