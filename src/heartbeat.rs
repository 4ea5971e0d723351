//! The heartbeat: when to send a Ping, what counts as a miss, and when the peer is dead.
//!
//! It is a pure state machine: no socket, no clock, no thread. Its driver passes `Instant`s in, hands all that is known
//! of the peer to [`Heartbeat::judge`] as one [`Evidence`], carries out the [`Action`] that comes back, and reports
//! what became of each Ping. Extra calls are harmless.
//!
//! Invariants:
//! - A peer from which nothing arrives after the instant *t*, and that takes nothing that we send, is dead at `t +
//!   interval + max_missed x timeout` at the latest ([`HeartbeatPolicy::worst_case`]), if the driver keeps deadlines.
//! - A peer from which something arrives within `timeout` of every Ping is never dead, however late the driver calls.
//!   What counts is when bytes arrived, not when we read them.
//! - Nothing excuses a peer for ever: our own delay moves its deadlines once in each silence. If no call is later than
//!   *L*, a silent peer is dead within `interval + timeout / 4 + L + (max_missed + 1) x (timeout + L)`.
//!
//! If the peer leads, windows of silence take the place of Pings.

use std::time::{Duration, Instant};

mod evidence;
mod phase;
mod policy;
pub(crate) mod round_trip;
mod text;
mod timers;

pub use evidence::{Evidence, Reading};
pub(crate) use phase::phase;
pub use policy::{HeartbeatPolicy, Liveness};
pub(crate) use text::{announcement, text_ping};
use timers::{MissTimer, Silence, Stall, WaitsIn};

/// A heartbeat frame from the peer, as the driver reports it to [`Heartbeat::on_activity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// A Pong, whether it answers a Ping or not (RFC 6455 section 5.5.3 allows both).
    Pong,
    /// A Ping, as a frame or as a text message. It may announce when the next one is due.
    Ping {
        /// The time until the next Ping, if announced.
        next: Option<Duration>,
    },
}

/// What the driver has to do after [`Heartbeat::judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing is due before this instant, or at all (`None`), unless something arrives.
    Wait(Option<Instant>),
    /// Send a Ping now, and report it by [`Heartbeat::ping_written`] or [`Heartbeat::ping_queued`].
    Ping,
    /// One more miss, the `n`th in a row. Call `judge` again at once: if we lead, a Ping is due.
    Missed(u32),
    /// The peer is dead, after so many misses in a row.
    Dead(u32),
    /// The peer is dead: data waited for this long, and the peer took none of it and sent nothing.
    Stalled(Duration),
}

/// The heartbeat of one connection.
///
/// The server and the client drive one for each connection. It is public so that it can drive any other WebSocket too;
/// the example `plain_tungstenite` does so.
///
/// ```
/// use heartwire::heartbeat::{Action, Evidence, Heartbeat};
/// use heartwire::HeartbeatPolicy;
/// use std::time::{Duration, Instant};
///
/// let second = Duration::from_secs(1);
/// let start = Instant::now();
/// let policy = HeartbeatPolicy::new(20 * second, 10 * second).max_missed(1);
/// let mut heart = Heartbeat::new(policy, start, 1.0);
///
/// // Nothing has arrived yet. At 20 s a Ping is due.
/// let silent = Evidence::new(0, start);
/// assert_eq!(heart.judge(start, &silent), Action::Wait(Some(start + 20 * second)));
/// assert_eq!(heart.judge(start + 20 * second, &silent), Action::Ping);
/// heart.ping_written(start + 20 * second, 0);
///
/// // A second later six bytes have arrived: the peer is alive.
/// let answered = Evidence::new(6, start + 21 * second);
/// assert_eq!(heart.judge(start + 21 * second, &answered), Action::Wait(Some(start + 40 * second)));
/// assert_eq!(heart.judge(start + 40 * second, &answered), Action::Ping);
/// heart.ping_written(start + 40 * second, 6);
///
/// // Nothing more arrives within 10 s of the second Ping.
/// # for tick in 1..4 { heart.judge(start + 40 * second + tick * second * 5 / 2, &answered); }
/// assert_eq!(heart.judge(start + 50 * second, &answered), Action::Dead(1));
/// ```
#[derive(Debug, Clone)]
pub struct Heartbeat {
    policy: HeartbeatPolicy,
    /// When our next scheduled Ping is due. `None` if we do not lead.
    next_ping: Option<Instant>,
    /// A Ping is due at once.
    ping_owed: bool,
    /// How long the peer may be silent now, if it leads.
    window: Option<Duration>,
    /// The silence under way. If we lead, it lasts from a Ping until some life; if the peer leads, there always is one.
    silence: Option<Silence>,
    /// The deadline of the next miss.
    miss_timer: Option<MissTimer>,
    /// Data that waits for the peer, since the peer last took any.
    stall: Option<Stall>,
    /// How many bytes had arrived by the last check, and when the newest of them did.
    newest: (u64, Instant),
    /// When the next call of `judge` is due. If that call comes late, we were held up.
    next_check: Option<Instant>,
    /// How long the machine had been suspended in all at the last check.
    suspended: Option<Duration>,
}

impl Heartbeat {
    /// A heartbeat that starts `now`. Its first Ping is due after `phase` of an interval (above 0, at most 1; any other
    /// value counts as 1).
    ///
    /// Different phases keep connections that were opened together from sending their Pings together.
    pub fn new(policy: HeartbeatPolicy, now: Instant, phase: f64) -> Self {
        let phase = if phase > 0.0 && phase <= 1.0 { phase } else { 1.0 };
        let window = policy.window(None);
        let mut heartbeat = Self {
            policy,
            next_ping: policy.ping_interval().map(|interval| now + interval.mul_f64(phase).min(interval)),
            ping_owed: false,
            window,
            silence: window.map(|_| Silence::new(now, 0)),
            miss_timer: window.map(|window| MissTimer::new(now + window)),
            stall: None,
            newest: (0, now),
            next_check: None,
            suspended: None,
        };
        heartbeat.schedule(now);
        heartbeat
    }

    /// The policy in force.
    pub fn policy(&self) -> HeartbeatPolicy {
        self.policy
    }

    /// Misses in a row so far.
    pub fn missed(&self) -> u32 {
        self.silence.map_or(0, |silence| silence.missed)
    }

    /// Changes the policy. The heartbeat starts afresh, as after [`new`](Self::new): no misses, and a new schedule.
    pub fn set_policy(&mut self, policy: HeartbeatPolicy, now: Instant, phase: f64) {
        *self = Self::new(policy, now, phase);
    }

    /// When [`judge`](Self::judge) is next due. An instant in the past means at once; `None` means not before something
    /// arrives. Valid after `judge` has returned [`Action::Wait`]; after any other action, `judge` is due at once.
    pub fn deadline(&self) -> Option<Instant> {
        self.next_check
    }

    /// Whether life from the peer is awaited. If so, the driver should call [`judge`](Self::judge) as soon as bytes
    /// arrive, so that an answer ends the misses at once and not at the next deadline.
    pub fn awaits_activity(&self) -> bool {
        self.missed() > 0 || self.window.is_none() && self.silence.is_some() || self.awaits_examination()
    }

    /// Whether the miss timer of an earlier Ping runs, so that the next Ping starts none.
    pub fn has_miss_timer(&self) -> bool {
        self.miss_timer.is_some()
    }

    /// Whether `judge` needs all evidence at `now`, whatever it costs: the miss timer has run out, or data was last
    /// seen to wait for the peer.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.stall.is_some() || self.miss_timer.is_some_and(|timer| timer.due <= now || timer.is_waiting())
    }

    /// Reports a Ping or a Pong whose last byte was the `position`th byte from the peer.
    ///
    /// With [`Liveness::PongOnly`] only such a frame is life, and only if it arrived after our Ping was sent. If the
    /// peer leads, its Ping also sets how long it may be silent from now on.
    pub fn on_activity(&mut self, activity: Activity, position: u64, now: Instant) {
        if self.window.is_none() && (self.policy.liveness == Liveness::AnyByte || activity != Activity::Pong) {
            return;
        }
        let Some(silence) = self.silence else { return };
        // The frame may have arrived long before we read it.
        let at = if position <= self.newest.0 { self.newest.1 } else { now };
        if let (Some(_), Activity::Ping { next }) = (self.window, activity) {
            // A new announcement replaces the old window, whether that was longer or shorter.
            self.window = self.policy.window(next);
            self.miss_timer = self.window.map(|window| MissTimer::new(at + window));
        }
        if position > silence.arrived_before {
            self.end_silence(position, at);
        }
        self.schedule(now);
    }

    /// What is to be done `now`, by all that is known of the peer.
    ///
    /// Call it when [`deadline`](Self::deadline) has come, and when bytes arrive while
    /// [life is awaited](Self::awaits_activity). Extra calls are harmless. After [`Action::Dead`] or
    /// [`Action::Stalled`] the heartbeat is done; drop it.
    pub fn judge(&mut self, now: Instant, evidence: &Evidence) -> Action {
        if self.missed() >= self.policy.max_missed {
            return Action::Dead(self.missed());
        }

        // What speaks for the peer comes first: bytes that have arrived end the silence before any deadline is read.
        self.newest = (evidence.arrived, evidence.last_arrival);
        self.on_arrival(evidence.arrived, evidence.last_arrival);

        // Then what moves the deadlines: a Ping that has left, data that the peer takes, our own delay.
        if let Some(timer) = &mut self.miss_timer {
            timer.update_ping(now, evidence);
        }
        self.update_stall(now, evidence);
        self.excuse_own_delay(now, evidence.suspended);

        // Only now do the deadlines count.
        if let (Some(limit), Some(_)) = (self.policy.stall_limit(), self.stall.filter(|stall| stall.due <= now)) {
            return Action::Stalled(limit);
        }
        if self.is_missed(now, evidence) {
            return self.record_miss(now);
        }

        // The peer stands as before; what remains is our own schedule.
        if let (Some(due), Some(interval)) = (self.next_ping, self.policy.ping_interval())
            && due <= now
        {
            self.ping_owed = true;
            self.next_ping = Some(next_beat(due, interval, now));
        }
        self.schedule(now);
        if self.ping_owed { Action::Ping } else { Action::Wait(self.next_check) }
    }

    /// Reports that the Ping was handed to the socket at `now`. Its timeout starts here, unless that of an earlier Ping
    /// still runs.
    ///
    /// `arrived`: how many bytes had arrived from the peer before, which therefore cannot be the answer.
    pub fn ping_written(&mut self, now: Instant, arrived: u64) {
        self.start_miss_timer(now, arrived, false);
    }

    /// Reports that the Ping waits behind data that the peer is slow to take. It entered the queue at `now` or later.
    ///
    /// Its timeout starts when it leaves the queue, which the next [`Evidence`] tells. But if an earlier Ping of this
    /// silence was missed, misses go on.
    pub fn ping_queued(&mut self, now: Instant, arrived: u64) {
        self.start_miss_timer(now, arrived, true);
    }

    fn start_miss_timer(&mut self, now: Instant, arrived: u64, is_queued: bool) {
        self.ping_owed = false;
        let Some(timeout) = self.policy.timeout.filter(|_| self.next_ping.is_some()) else { return };
        self.on_arrival(arrived, now);
        self.silence.get_or_insert(Silence::new(now, arrived));
        if self.miss_timer.is_none() {
            let timer = MissTimer::new(now + timeout);
            self.miss_timer = Some(if is_queued && self.missed() == 0 { timer.queued(now) } else { timer });
        }
        self.schedule(now);
    }

    /// `arrived` bytes had arrived at `at`. More than before the silence is life, if any byte is.
    fn on_arrival(&mut self, arrived: u64, at: Instant) {
        let is_news = self.silence.is_some_and(|silence| arrived > silence.arrived_before);
        if is_news && self.policy.liveness == Liveness::AnyByte {
            self.end_silence(arrived, at);
        }
    }

    /// Life at `at` ends the silence and its misses. If the peer leads, the next silence starts at once.
    fn end_silence(&mut self, arrived: u64, at: Instant) {
        let before = self.miss_timer.take();
        self.silence = None;
        if let Some(window) = self.window {
            // Data does not shorten a window that was announced.
            let due = before.map_or(at + window, |before| before.due.max(at + window));
            self.miss_timer = Some(MissTimer::new(due));
            self.silence = Some(Silence::new(at, arrived));
        }
    }

    /// Updates since when data has waited for a peer that took none of it and sent nothing.
    fn update_stall(&mut self, now: Instant, evidence: &Evidence) {
        let (Some(limit), Some(timeout)) = (self.policy.stall_limit(), self.policy.timeout) else { return };
        let waits_in = match evidence.blocked_since {
            Some(since) => Some(WaitsIn::Queue(since)),
            // A Ping in the send buffer is data too.
            None if self.is_ping_waiting(evidence) => Some(match self.stall.map(|stall| stall.waits_in) {
                // The send buffer has taken the whole queue at some time since the last check.
                Some(WaitsIn::Queue(_)) => WaitsIn::SendBuffer(now),
                Some(buffer) => buffer,
                None => WaitsIn::SendBuffer(evidence.ping_left.unwrap_or(now)),
            }),
            None => None,
        };
        self.stall = waits_in.map(|waits_in| Stall::next(self.stall, waits_in, evidence.last_arrival, limit, timeout));
    }

    /// Whether our Ping has not left for the peer yet.
    fn is_ping_waiting(&self, evidence: &Evidence) -> bool {
        self.window.is_none() && self.miss_timer.is_some_and(|timer| !timer.has_left(evidence))
    }

    /// Moves the deadlines if we were held up for longer than is usual, since whatever was under way may be late by as
    /// much. A fresh Ping gets its whole timeout, a peer that leads gets a fresh window, and the deadline of waiting
    /// data moves on. This happens once in each silence.
    ///
    /// We were held up if this call comes late, or if the clock stood still while the machine was suspended.
    fn excuse_own_delay(&mut self, now: Instant, suspended: Duration) {
        let expected = self.next_check.unwrap_or(now).min(now);
        let late = now - expected;
        let before = self.suspended.replace(suspended).unwrap_or(suspended);
        if late.saturating_add(suspended.saturating_sub(before)) <= self.policy.tolerated_delay() {
            return;
        }
        // What began during the delay needs no excuse.
        if let (Some(stall), Some(timeout)) =
            (self.stall.as_mut().filter(|stall| stall.since < expected), self.policy.timeout)
        {
            stall.excuse(late, now + timeout);
        }
        if let (Some(timer), Some(silence)) = (&mut self.miss_timer, &mut self.silence)
            && silence.since < expected
            && !std::mem::replace(&mut silence.is_excused, true)
        {
            match self.window {
                Some(window) => timer.due = timer.due.max(now + window),
                None => {
                    self.miss_timer = None;
                    self.ping_owed = true;
                }
            }
        }
    }

    /// Whether the miss timer has run out and nothing speaks for the peer. If something does, the timer runs on.
    fn is_missed(&mut self, now: Instant, evidence: &Evidence) -> bool {
        let must_leave = self.window.is_none() && self.missed() == 0;
        let arrived_before = self.silence.map_or(0, |silence| silence.arrived_before);
        let Some(allowed) = self.window.or(self.policy.timeout) else { return false };
        let Some(timer) = self.miss_timer.as_mut().filter(|timer| timer.due <= now) else { return false };

        // While we do not read, the answer may have no room to arrive in, and its time starts when it has. But if
        // something has arrived since the Ping, there was room.
        let had_room = evidence.reading == Reading::Stopped && evidence.arrived > arrived_before;
        if let Some(from) = evidence.reading.has_room_from(now).filter(|from| !had_room && *from + allowed > now) {
            timer.due = from + allowed;
            timer.examine_up_to = None;
            return false;
        }

        // A Ping that still waits behind data proves nothing.
        if must_leave && !timer.has_left(evidence) {
            timer.is_held_back = evidence.is_held_back;
            timer.due = now + self.policy.check_interval();
            return false;
        }

        // A Ping that had to wait has its time from when it left.
        if let Some(left) = timer.left.take() {
            timer.due = left + allowed;
            if timer.due > now {
                return false;
            }
        }

        // If only a Pong counts, one may be among the bytes that have arrived and were not examined yet.
        if self.policy.liveness == Liveness::PongOnly
            && evidence.examined < *timer.examine_up_to.get_or_insert(evidence.arrived)
        {
            return false;
        }
        true
    }

    /// Counts one more miss. If we lead, the next Ping is due at once.
    fn record_miss(&mut self, now: Instant) -> Action {
        self.ping_owed = self.next_ping.is_some();
        self.miss_timer = self.window.map(|window| MissTimer::new(now + window));
        self.schedule(now);
        let Some(silence) = &mut self.silence else { return Action::Wait(self.next_check) };
        silence.missed += 1;
        if silence.missed < self.policy.max_missed {
            Action::Missed(silence.missed)
        } else {
            Action::Dead(silence.missed)
        }
    }

    /// Whether the miss timer has run out, but the bytes that had arrived by then have to be examined for a Pong first.
    fn awaits_examination(&self) -> bool {
        self.miss_timer.is_some_and(|timer| timer.examine_up_to.is_some())
    }

    /// Sets the next check: at the next deadline, or sooner while our own delay could cost the peer its time.
    fn schedule(&mut self, now: Instant) {
        // If the peer leads, nothing that we do decides whether it is heard in time.
        let watches_delay =
            self.stall.is_some() || self.window.is_none() && self.miss_timer.is_some() || self.awaits_examination();
        let tick = watches_delay.then(|| now + self.policy.check_interval());
        // The examination has no deadline: any further bytes that are examined may end it.
        let miss = self.miss_timer.filter(|_| !self.awaits_examination()).map(|timer| timer.due);
        let stall = self.stall.map(|stall| stall.due);
        let next = [self.next_ping, miss, stall, tick].into_iter().flatten().min();
        self.next_check = next.map(|next| next.max(now));
    }
}

/// The first instant after `now` on the schedule of `due`. Pings that were due meanwhile are skipped, so that nobody
/// gets a burst of them after our suspension.
fn next_beat(due: Instant, interval: Duration, now: Instant) -> Instant {
    let behind = (now - due).as_nanos() % interval.as_nanos();
    now + interval - Duration::new((behind / 1_000_000_000) as u64, (behind % 1_000_000_000) as u32)
}
