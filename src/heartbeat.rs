//! The heartbeat: when to send a Ping, what counts as a miss, and when the peer is dead.
//!
//! A pure state machine: no socket, no clock, no thread. Whoever drives it passes `Instant`s in, hands all that is known
//! of the peer to [`Heartbeat::judge`] as one [`Evidence`], carries out the [`Action`] that comes back, and reports what
//! became of each Ping. Calling it too often is harmless.
//!
//! Invariants:
//! - A peer from which nothing arrives after the instant *t*, and that takes nothing that we send, is dead at
//!   `t + interval + max_missed x timeout` at the latest ([`HeartbeatPolicy::worst_case`]), if deadlines are kept.
//! - A peer from which something arrives within `timeout` of every Ping is never dead, however late we look: what has
//!   arrived is evidence, and when we read it is not.
//! - Nothing excuses a peer for ever: our own lateness moves its deadlines once in each silence. If no look is later than
//!   *L*, a silent peer is dead within `interval + timeout / 4 + L + (max_missed + 1) x (timeout + L)`.
//!
//! Where the peer leads the beat, windows of silence take the place of Pings.

use std::time::{Duration, Instant};

mod clock;
mod evidence;
mod phase;
mod policy;
pub(crate) mod round_trip;
mod text;

use clock::{Clock, Place, Silence, Stall};
pub use evidence::{Evidence, Reading};
pub(crate) use phase::phase;
pub use policy::{HeartbeatPolicy, Liveness};
pub(crate) use text::{announcement, text_ping};

/// A frame that belongs to the heartbeat, as the reader of the socket reports it to [`Heartbeat::life`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// A Pong, whether asked for or not (RFC 6455 section 5.5.3 allows both).
    Pong,
    /// A Ping: a frame, or a heartbeat in text. It may announce when the next one is due.
    Ping {
        /// Time until the next one, if announced.
        next: Option<Duration>,
    },
}

/// What [`Heartbeat::judge`] asks of its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing to do until this instant, or ever (`None`), unless something arrives.
    Wait(Option<Instant>),
    /// Write a Ping now, then report it by [`Heartbeat::ping_written`] or [`Heartbeat::ping_queued`].
    Ping,
    /// One more miss, the `n`th in a row. Judge again: where we lead the beat, a Ping is due at once.
    Missed(u32),
    /// The peer is dead, after this many misses in a row.
    Dead(u32),
    /// The peer is dead: data waited, it took nothing and nothing arrived for this long.
    Stalled(Duration),
}

/// The heartbeat of one connection.
///
/// The server drives one per connection; it is public so that it can drive any other WebSocket as well, as the example
/// `plain_tungstenite` does.
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
/// // Nothing has arrived yet; at 20 s a Ping is due.
/// let silent = Evidence::new(0, start);
/// assert_eq!(heart.judge(start, &silent), Action::Wait(Some(start + 20 * second)));
/// assert_eq!(heart.judge(start + 20 * second, &silent), Action::Ping);
/// heart.ping_written(start + 20 * second, 0);
///
/// // Six bytes have arrived a second later: it lives.
/// let answered = Evidence::new(6, start + 21 * second);
/// assert_eq!(heart.judge(start + 21 * second, &answered), Action::Wait(Some(start + 40 * second)));
/// assert_eq!(heart.judge(start + 40 * second, &answered), Action::Ping);
/// heart.ping_written(start + 40 * second, 6);
///
/// // Nothing more has, within 10 s of the second Ping.
/// # for tick in 1..4 { heart.judge(start + 40 * second + tick * second * 5 / 2, &answered); }
/// assert_eq!(heart.judge(start + 50 * second, &answered), Action::Dead(1));
/// ```
#[derive(Debug, Clone)]
pub struct Heartbeat {
    policy: HeartbeatPolicy,
    /// The schedule: when our next Ping is due. `None` if we do not lead.
    next_ping: Option<Instant>,
    /// A Ping should leave at once.
    ping_owed: bool,
    /// Where the peer leads: how long it may be silent now.
    window: Option<Duration>,
    /// The silence under way. Where we lead, there is one from a Ping until it is answered; where the peer does, always.
    silence: Option<Silence>,
    /// The deadline of its next miss.
    clock: Option<Clock>,
    /// What waits for the peer, since it last took any of it.
    stall: Option<Stall>,
    /// How much had arrived by the last look, and when the newest of it did.
    seen: (u64, Instant),
    /// When we mean to look again. If that look comes late, we were held up.
    next_look: Option<Instant>,
    /// How long the machine had been suspended in all when we last looked.
    suspended: Option<Duration>,
}

impl Heartbeat {
    /// A heartbeat that starts `now`, its first Ping due after `phase` (above 0, at most 1) of an interval.
    ///
    /// Different phases keep connections that were opened together from beating in step.
    pub fn new(policy: HeartbeatPolicy, now: Instant, phase: f64) -> Self {
        let phase = if phase > 0.0 && phase <= 1.0 { phase } else { 1.0 };
        let window = policy.window(None);
        let mut heartbeat = Self {
            policy,
            next_ping: policy.ping_interval().map(|interval| now + interval.mul_f64(phase).min(interval)),
            ping_owed: false,
            window,
            silence: window.map(|_| Silence::new(now, 0)),
            clock: window.map(|window| Clock::new(now + window)),
            stall: None,
            seen: (0, now),
            next_look: None,
            suspended: None,
        };
        heartbeat.plan(now);
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

    /// Changes the policy. The beat starts afresh: no misses, and the next Ping as after [`new`](Self::new).
    pub fn set_policy(&mut self, policy: HeartbeatPolicy, now: Instant, phase: f64) {
        *self = Self::new(policy, now, phase);
    }

    /// When [`judge`](Self::judge) next has something to do; an instant in the past means at once. To be asked when
    /// `judge` has said [`Action::Wait`]: after any other action it is to be called again at once.
    pub fn deadline(&self) -> Option<Instant> {
        self.next_look
    }

    /// Whether some life is awaited: then a driver that sees bytes arrive should have them judged at once, so that
    /// misses are forgotten when they are answered and not a deadline later.
    pub fn awaits_activity(&self) -> bool {
        self.missed() > 0 || self.window.is_none() && self.silence.is_some() || self.is_examining()
    }

    /// Whether a Ping's clock runs, so that the next Ping is not the one that is judged by.
    pub(crate) fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Whether all evidence is needed at `now`, whatever it costs: the miss clock has run out, or something was last seen
    /// to wait for the peer.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.stall.is_some() || self.clock.is_some_and(|clock| clock.due <= now || clock.is_waiting())
    }

    /// A Ping or a Pong arrived, the `position`th byte from the peer its last. With [`Liveness::PongOnly`] nothing else
    /// is life, and only what arrived after the Ping is news. Where the peer leads, its Ping also says how long it may be
    /// silent from now on.
    pub fn on_activity(&mut self, activity: Activity, position: u64, now: Instant) {
        if self.window.is_none() && (self.policy.liveness == Liveness::AnyByte || activity != Activity::Pong) {
            return;
        }
        let Some(silence) = self.silence else { return };
        // It may have been read long after it arrived.
        let at = if position <= self.seen.0 { self.seen.1 } else { now };
        if let (Some(_), Activity::Ping { next }) = (self.window, activity) {
            // What was announced before is no longer true, whether it was longer or shorter.
            self.window = self.policy.window(next);
            self.clock = self.window.map(|window| Clock::new(at + window));
        }
        if position > silence.mark {
            self.forget_misses(position, at);
        }
        self.plan(now);
    }

    /// What is to be done `now`, by all that is known of the peer. To be called when [`deadline`](Self::deadline) has
    /// come, and when bytes arrive while [some life is awaited](Self::awaits_activity); at any other time it is harmless.
    ///
    /// After [`Action::Dead`] and [`Action::Stalled`] the heartbeat has done its work and should be dropped.
    pub fn judge(&mut self, now: Instant, evidence: &Evidence) -> Action {
        if self.missed() >= self.policy.max_missed {
            return Action::Dead(self.missed());
        }
        self.seen = (evidence.arrived, evidence.heard);
        self.on_bytes(evidence.arrived, evidence.heard);
        if let Some(clock) = &mut self.clock {
            clock.see_ping_leave(now, evidence);
        }
        self.see_stall(now, evidence);
        self.excuse_hold_up(now, evidence.suspended);
        if let (Some(limit), Some(_)) = (self.policy.stall_limit(), self.stall.filter(|stall| stall.due <= now)) {
            return Action::Stalled(limit);
        }
        if self.is_missed(now, evidence) {
            return self.miss(now);
        }
        if let (Some(due), Some(interval)) = (self.next_ping, self.policy.ping_interval())
            && due <= now
        {
            self.ping_owed = true;
            self.next_ping = Some(next_beat(due, interval, now));
        }
        self.plan(now);
        if self.ping_owed { Action::Ping } else { Action::Wait(self.next_look) }
    }

    /// The Ping asked for was handed to the socket at `now`: from here its timeout counts, unless an earlier Ping's still
    /// does. `arrived`: how many bytes had come from the peer before, so that they cannot be its answer.
    pub fn ping_written(&mut self, now: Instant, arrived: u64) {
        self.begin_clock(now, arrived, false);
    }

    /// The Ping asked for waits behind data that the peer is slow to take; it was handed to the queue at `now` or later.
    /// Its clock starts when it leaves, which the next [`Evidence`] tells; but if an earlier Ping of this silence was
    /// missed, misses go on.
    pub fn ping_queued(&mut self, now: Instant, arrived: u64) {
        self.begin_clock(now, arrived, true);
    }

    fn begin_clock(&mut self, now: Instant, arrived: u64, is_queued: bool) {
        self.ping_owed = false;
        let Some(timeout) = self.policy.timeout.filter(|_| self.next_ping.is_some()) else { return };
        self.on_bytes(arrived, now);
        self.silence.get_or_insert(Silence::new(now, arrived));
        if self.clock.is_none() {
            let clock = Clock::new(now + timeout);
            self.clock = Some(if is_queued && self.missed() == 0 { clock.queued(now) } else { clock });
        }
        self.plan(now);
    }

    /// So many bytes had arrived at `at`: more than when the silence began is life, where any byte is.
    fn on_bytes(&mut self, arrived: u64, at: Instant) {
        let is_news = self.silence.is_some_and(|silence| arrived > silence.mark);
        if is_news && self.policy.liveness == Liveness::AnyByte {
            self.forget_misses(arrived, at);
        }
    }

    /// Some life, at `at`: the silence is over, and where the peer leads the next begins.
    fn forget_misses(&mut self, arrived: u64, at: Instant) {
        let before = self.clock.take();
        self.silence = None;
        if let Some(window) = self.window {
            // Data does not shorten a window that was announced.
            let due = before.map_or(at + window, |before| before.due.max(at + window));
            self.clock = Some(Clock::new(due));
            self.silence = Some(Silence::new(at, arrived));
        }
    }

    /// Notes since when data has waited for a peer that took none of it, and from which nothing arrived.
    fn see_stall(&mut self, now: Instant, evidence: &Evidence) {
        let (Some(limit), Some(timeout)) = (self.policy.stall_limit(), self.policy.timeout) else { return };
        let place = match evidence.blocked_since {
            Some(since) => Some(Place::Queue(since)),
            None if self.ping_waits(evidence) => Some(match self.stall.map(|stall| stall.place) {
                // The system's buffer has taken all of it, some time after the last look.
                Some(Place::Queue(_)) => Place::Buffer(now),
                Some(buffer) => buffer,
                None => Place::Buffer(evidence.ping_left.unwrap_or(now)),
            }),
            None => None,
        };
        self.stall = place.map(|place| Stall::next(self.stall, place, evidence.heard, limit, timeout));
    }

    /// Whether our Ping, which is data as well, has not left for the peer.
    fn ping_waits(&self, evidence: &Evidence) -> bool {
        self.window.is_none() && self.clock.is_some_and(|clock| !clock.has_left(evidence))
    }

    /// If we were held up as a whole by more than is usual, what was under way may be late by as much: a fresh Ping gets
    /// its timeout, a peer that leads a fresh window, and data that waits moves on. Once in each silence.
    ///
    /// That we were shows in a look that comes late, or in a clock that stood still while the machine was suspended.
    fn excuse_hold_up(&mut self, now: Instant, suspended: Duration) {
        let look = self.next_look.unwrap_or(now).min(now);
        let late = now - look;
        let before = self.suspended.replace(suspended).unwrap_or(suspended);
        if late.saturating_add(suspended.saturating_sub(before)) <= self.policy.tolerance() {
            return;
        }
        // What began while we were held up needs no excuse.
        if let (Some(stall), Some(timeout)) =
            (self.stall.as_mut().filter(|stall| stall.since < look), self.policy.timeout)
        {
            stall.excuse(late, now + timeout);
        }
        if let (Some(clock), Some(silence)) = (&mut self.clock, &mut self.silence)
            && silence.since < look
            && !std::mem::replace(&mut silence.is_excused, true)
        {
            match self.window {
                Some(window) => clock.due = clock.due.max(now + window),
                None => {
                    self.clock = None;
                    self.ping_owed = true;
                }
            }
        }
    }

    /// Whether the miss clock has run out and nothing speaks for the peer. Otherwise the clock goes on.
    fn is_missed(&mut self, now: Instant, evidence: &Evidence) -> bool {
        let has_to_leave = self.window.is_none() && self.missed() == 0;
        let mark = self.silence.map_or(0, |silence| silence.mark);
        let Some(allowed) = self.window.or(self.policy.timeout) else { return false };
        let Some(clock) = self.clock.as_mut().filter(|clock| clock.due <= now) else { return false };
        // There may be no room for its answer to arrive in, or there was none until lately. But what has arrived since the
        // Ping has found room.
        let has_had_room = evidence.reading == Reading::Stopped && evidence.arrived > mark;
        if let Some(from) = evidence.reading.has_room_from(now).filter(|from| !has_had_room && *from + allowed > now) {
            clock.due = from + allowed;
            clock.examine = None;
            return false;
        }
        if has_to_leave && !clock.has_left(evidence) {
            clock.is_held_back = evidence.is_held_back;
            clock.due = now + self.policy.tick();
            return false;
        }
        // It has waited, and its time began when it left.
        if let Some(left) = clock.left.take() {
            clock.due = left + allowed;
            if clock.due > now {
                return false;
            }
        }
        // A Pong may be among what has arrived and was not looked through yet.
        if self.policy.liveness == Liveness::PongOnly
            && evidence.examined < *clock.examine.get_or_insert(evidence.arrived)
        {
            return false;
        }
        true
    }

    /// One more miss. Where we lead, the next Ping leaves at once.
    fn miss(&mut self, now: Instant) -> Action {
        self.ping_owed = self.next_ping.is_some();
        self.clock = self.window.map(|window| Clock::new(now + window));
        self.plan(now);
        let Some(silence) = &mut self.silence else { return Action::Wait(self.next_look) };
        silence.missed += 1;
        if silence.missed < self.policy.max_missed {
            Action::Missed(silence.missed)
        } else {
            Action::Dead(silence.missed)
        }
    }

    /// Whether the time for some life is over, and what had arrived by then is to be looked through for it first.
    fn is_examining(&self) -> bool {
        self.clock.is_some_and(|clock| clock.examine.is_some())
    }

    /// When to look again: at the next deadline; and often enough while our own lateness could cost the peer its time.
    fn plan(&mut self, now: Instant) {
        // Where the peer leads, nothing that we do decides whether it is heard in time.
        let watches = self.stall.is_some() || self.window.is_none() && self.clock.is_some() || self.is_examining();
        let tick = watches.then(|| now + self.policy.tick());
        // What has arrived and is to be looked through first has no time: each look at more of it may end it.
        let clock = self.clock.filter(|_| !self.is_examining()).map(|clock| clock.due);
        let stall = self.stall.map(|stall| stall.due);
        let next = [self.next_ping, clock, stall, tick].into_iter().flatten().min();
        self.next_look = next.map(|next| next.max(now));
    }
}

/// The first instant after `now` on the schedule that `due` is on. Beats that were slept through are skipped, not
/// caught up on, so that nobody gets a burst of Pings after our suspension.
fn next_beat(due: Instant, interval: Duration, now: Instant) -> Instant {
    let behind = (now - due).as_nanos() % interval.as_nanos();
    now + interval - Duration::new((behind / 1_000_000_000) as u64, (behind % 1_000_000_000) as u32)
}
