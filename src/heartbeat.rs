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
//! - Nothing excuses a peer for ever: our own lateness moves its deadlines once in each silence.
//!
//! Where the peer leads the beat, windows of silence take the place of Pings.

use std::time::{Duration, Instant};

mod evidence;
mod phase;
mod policy;
mod text;

pub use evidence::{Evidence, Reading};
pub(crate) use phase::phase;
pub use policy::{HeartbeatPolicy, Liveness};
pub(crate) use text::{announcement, text_ping};

/// A frame that belongs to the heartbeat, as the reader of the socket reports it to [`Heartbeat::life`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sign {
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
    /// The miss clock. Where we lead, it runs from the first Ping that is unanswered; where the peer does, always.
    clock: Option<Clock>,
    /// Where the peer leads: how long it may be silent now.
    window: Option<Duration>,
    /// Bytes that had arrived when this silence began: at the first unanswered Ping, or at the last life of a peer that
    /// leads. More than these are life.
    mark: u64,
    /// A Ping should leave at once.
    ping_owed: bool,
    missed: u32,
    /// Since when the peer takes nothing and nothing arrives, as far as it is known, with what our own lateness adds.
    stall: Option<Stall>,
    /// When we mean to look again while something is awaited of the peer. If that look comes late, we were held up.
    tick: Option<Instant>,
    /// How long the machine had been suspended in all when we last looked.
    suspended: Option<Duration>,
    /// Whether this silence was excused already.
    is_excused: bool,
    /// When the peer last showed life: where it leads, its window begins there.
    lived_at: Instant,
}

/// A deadline for some life.
#[derive(Debug, Clone, Copy)]
struct Clock {
    due: Instant,
    /// When the Ping was written, or handed to the queue.
    since: Instant,
    /// When the Ping was last seen to wait behind data. Until it leaves, silence proves nothing.
    waited: Option<Instant>,
    /// With [`Liveness::PongOnly`]: how much had arrived when the time was over, and has to be looked through first.
    until: Option<u64>,
}

/// A deadline for something to be taken, or to arrive, while data waits.
#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Instant,
    due: Instant,
    /// Whether our own lateness has moved it already.
    is_excused: bool,
}

impl Heartbeat {
    /// A heartbeat that starts `now`, its first Ping due after `phase` (above 0, at most 1) of an interval.
    ///
    /// Different phases keep connections that were opened together from beating in step.
    pub fn new(policy: HeartbeatPolicy, now: Instant, phase: f64) -> Self {
        let phase = if phase > 0.0 && phase <= 1.0 { phase } else { 1.0 };
        let next_ping = policy.ping_interval().map(|interval| now + interval.mul_f64(phase).min(interval));
        let window = policy.window(None);
        Self {
            policy,
            next_ping,
            clock: window.map(|window| Clock::new(now, window)),
            window,
            mark: 0,
            ping_owed: false,
            missed: 0,
            stall: None,
            tick: None,
            suspended: None,
            is_excused: false,
            lived_at: now,
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> HeartbeatPolicy {
        self.policy
    }

    /// Misses in a row so far.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// Changes the policy. The beat starts afresh: no misses, and the next Ping as after [`new`](Self::new).
    pub fn set_policy(&mut self, policy: HeartbeatPolicy, now: Instant, phase: f64) {
        *self = Self::new(policy, now, phase);
    }

    /// When [`judge`](Self::judge) next has something to do; an instant in the past means at once. To be asked when
    /// `judge` has said [`Action::Wait`]: after any other action it is to be called again at once.
    pub fn deadline(&self) -> Option<Instant> {
        let clock = self.clock.map(|clock| clock.due);
        let stall = self.stall.map(|stall| stall.due);
        [self.next_ping, clock, stall, self.tick].into_iter().flatten().min()
    }

    /// Whether some life is awaited: then a driver that sees bytes arrive should have them judged at once, so that
    /// misses are forgotten when they are answered and not a deadline later.
    pub fn awaits_life(&self) -> bool {
        self.missed > 0 || self.next_ping.is_some() && self.clock.is_some()
    }

    /// Whether the miss clock has run out at `now`, so that all evidence is needed, whatever it costs.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.clock.is_some_and(|clock| clock.due <= now)
    }

    /// A Ping or a Pong arrived, the `position`th byte from the peer its last. With [`Liveness::PongOnly`] nothing else
    /// is life, and only what arrived after the Ping is news. Where the peer leads, its Ping also says how long it may be
    /// silent from now on.
    pub fn life(&mut self, sign: Sign, position: u64, now: Instant) {
        if self.window.is_some() {
            self.life_of_leader(sign, position, now);
        } else if self.policy.liveness == Liveness::PongOnly && sign == Sign::Pong && position > self.mark {
            self.lives(position, now);
        }
    }

    fn life_of_leader(&mut self, sign: Sign, position: u64, now: Instant) {
        if let Sign::Ping { next } = sign {
            // What was announced before is no longer true, whether it was longer or shorter.
            self.window = self.policy.window(next);
            self.clock = self.window.map(|window| Clock::new(self.lived_at, window));
        }
        // What was known to have arrived before is no news.
        if position > self.mark {
            if matches!(sign, Sign::Ping { .. }) {
                self.clock = None;
            }
            self.lives(position, now);
        }
    }

    /// What is to be done `now`, by all that is known of the peer. To be called when [`deadline`](Self::deadline) has
    /// come, and when bytes arrive while [some life is awaited](Self::awaits_life); at any other time it is harmless.
    ///
    /// After [`Action::Dead`] and [`Action::Stalled`] the heartbeat has done its work and should be dropped.
    pub fn judge(&mut self, now: Instant, evidence: &Evidence) -> Action {
        if self.missed >= self.policy.max_missed {
            return Action::Dead(self.missed);
        }
        if self.policy.liveness == Liveness::AnyByte && evidence.arrived > self.mark && self.is_awaiting() {
            self.lives(evidence.arrived, evidence.heard);
        }
        self.excuse_hold_up(now, evidence);
        if let Some(limit) = self.judge_stall(now, evidence) {
            return Action::Stalled(limit);
        }
        if self.judge_silence(now, evidence) {
            self.missed += 1;
            self.tick = None;
            return if self.missed >= self.policy.max_missed {
                Action::Dead(self.missed)
            } else {
                Action::Missed(self.missed)
            };
        }
        if let (Some(due), Some(interval)) = (self.next_ping, self.policy.ping_interval())
            && due <= now
        {
            self.ping_owed = true;
            self.next_ping = Some(next_beat(due, interval, now));
        }
        self.set_tick(now);
        if self.ping_owed { Action::Ping } else { Action::Wait(self.deadline()) }
    }

    /// The Ping asked for was handed to the socket at `now`, when `arrived` bytes had come from the peer: from here its
    /// timeout counts, unless an earlier Ping's still does.
    pub fn ping_written(&mut self, now: Instant, arrived: u64) {
        self.begin_clock(now, arrived, None);
    }

    /// The Ping asked for waits behind data that the peer is slow to take. Its clock starts when it leaves, which the
    /// next [`Evidence`] tells; but if an earlier Ping of this silence has left, its clock goes on.
    pub fn ping_queued(&mut self, now: Instant, arrived: u64) {
        self.begin_clock(now, arrived, Some(now));
    }

    fn begin_clock(&mut self, now: Instant, arrived: u64, waited: Option<Instant>) {
        self.ping_owed = false;
        if self.next_ping.is_none() {
            return;
        }
        if self.policy.liveness == Liveness::AnyByte && self.is_awaiting() && arrived > self.mark {
            self.lives(arrived, now);
        }
        if self.clock.is_none_or(|clock| clock.waited.is_some() && waited.is_none()) {
            if !self.is_awaiting() {
                self.mark = arrived;
            }
            // A Ping of this silence has left already: that the next waits is no excuse.
            let waited = waited.filter(|_| self.missed == 0);
            self.clock = self.policy.timeout.map(|timeout| Clock { waited, ..Clock::new(now, timeout) });
        }
        self.set_tick(now);
    }

    /// Whether a silence is under way.
    fn is_awaiting(&self) -> bool {
        self.clock.is_some() || self.missed > 0 || self.is_excused
    }

    /// Some life, at `now`: the silence is over, and where the peer leads the next window begins.
    fn lives(&mut self, arrived: u64, now: Instant) {
        self.missed = 0;
        self.is_excused = false;
        self.mark = arrived;
        self.lived_at = now;
        let before = self.clock.take();
        if let Some(window) = self.window {
            let clock = Clock::new(now, window);
            // Data does not shorten a window that was announced.
            let due = before.map_or(clock.due, |before| before.due.max(clock.due));
            self.clock = Some(Clock { due, ..clock });
        }
        self.tick = None;
    }

    /// If we were held up as a whole, by more than is usual, the deadlines move by it, and a fresh Ping gets a fresh
    /// timeout: once in each silence. Between two looks we see only that the second came late; and a machine that was
    /// suspended has a clock that stood still.
    fn excuse_hold_up(&mut self, now: Instant, evidence: &Evidence) {
        let late = self.tick.map_or(Duration::ZERO, |tick| now.saturating_duration_since(tick));
        let before = self.suspended.replace(evidence.suspended).unwrap_or(evidence.suspended);
        let held_up = late.saturating_add(evidence.suspended.saturating_sub(before));
        if held_up <= self.policy.tolerance() {
            return;
        }
        if let Some(stall) = self.stall.as_mut().filter(|stall| !stall.is_excused) {
            stall.due += held_up;
            stall.is_excused = true;
        }
        if let Some(clock) = self.clock.as_mut().filter(|_| !self.is_excused) {
            self.is_excused = true;
            if self.window.is_some() {
                clock.due += held_up;
            } else {
                self.ping_owed = true;
                self.clock = None;
            }
        }
    }

    /// Whether data waits for a peer that took nothing of it, and from which nothing arrived, for too long: then how long
    /// that is.
    fn judge_stall(&mut self, now: Instant, evidence: &Evidence) -> Option<Duration> {
        let limit = self.policy.stall_limit()?;
        // A Ping that the system's own buffer holds back is data that waits as well.
        let held_back = self.clock.filter(|clock| clock.waited.is_some() && !clock.has_left(evidence));
        let Some(blocked_since) = evidence.blocked_since.or(held_back.map(|clock| clock.since)) else {
            self.stall = None;
            return None;
        };
        let since = blocked_since.max(evidence.heard);
        let stall = *self.stall.get_or_insert(Stall::new(since, limit));
        if stall.since != since {
            // It took something, or something arrived.
            self.stall = Some(Stall::new(since, limit));
        }
        self.stall.filter(|stall| stall.due <= now).map(|_| limit)
    }

    /// Whether the miss clock has run out and nothing speaks for the peer.
    fn judge_silence(&mut self, now: Instant, evidence: &Evidence) -> bool {
        let Some(mut clock) = self.clock.filter(|clock| clock.due <= now) else { return false };
        let Some(allowed) = self.window.or(self.policy.timeout) else { return false };
        // There may be no room for its answer to arrive in, or there has not been for long.
        let has_room_from = match evidence.reading {
            Reading::Always => None,
            Reading::Since(since) => Some(since),
            Reading::Stopped => Some(now),
        };
        let is_miss = if let Some(due) = has_room_from.map(|from| from + allowed).filter(|due| *due > now) {
            clock = Clock { due, ..Clock::new(now, allowed) };
            false
        } else if self.window.is_none() && self.missed == 0 && !clock.has_left(evidence) {
            clock.waited = Some(now);
            clock.due = now + self.policy.tick();
            false
        } else if let Some(waited) = clock.waited.take() {
            clock.due = evidence.ping_left.map_or(waited, |left| left.max(waited)) + allowed;
            clock.due <= now
        } else {
            true
        };
        if is_miss && self.policy.liveness == Liveness::PongOnly {
            // A Pong may be among what has arrived and was not looked through yet.
            let until = *clock.until.get_or_insert(evidence.arrived);
            if evidence.examined < until {
                self.clock = Some(clock);
                return false;
            }
        }
        if is_miss {
            self.ping_owed = self.next_ping.is_some();
            self.clock = self.window.map(|window| Clock::new(now, window));
        } else {
            self.clock = Some(clock);
        }
        is_miss
    }

    /// When to look again, while we wait for a sign of life that our own lateness could cost the peer.
    fn set_tick(&mut self, now: Instant) {
        self.tick = match (self.clock, self.stall) {
            (None, None) => None,
            // How long it takes us to look through what has arrived is for the reader to decide.
            (Some(Clock { until: Some(_), .. }), _) => None,
            // Nothing that we do decides whether a peer that leads is heard in time, up to its deadline.
            (Some(clock), None) if self.window.is_some() => Some(clock.due.max(now)),
            (clock, stall) => {
                let due = [clock.map(|clock| clock.due), stall.map(|stall| stall.due)].into_iter().flatten().min();
                due.map(|due| due.min(now + self.policy.tick()).max(now))
            }
        };
    }
}

impl Clock {
    fn new(now: Instant, allowed: Duration) -> Self {
        Self { due: now + allowed, since: now, waited: None, until: None }
    }

    /// Whether its Ping is on its way to the peer.
    fn has_left(&self, evidence: &Evidence) -> bool {
        let is_queued = self.waited.is_some() && evidence.ping_left.is_none_or(|left| left < self.since);
        !is_queued && !evidence.is_held_back
    }
}

impl Stall {
    fn new(since: Instant, limit: Duration) -> Self {
        Self { since, due: since + limit, is_excused: false }
    }
}

/// The first instant after `now` on the schedule that `due` is on. Beats that were slept through are skipped, not
/// caught up on, so that nobody gets a burst of Pings after our suspension.
fn next_beat(due: Instant, interval: Duration, now: Instant) -> Instant {
    let behind = (now - due).as_nanos() % interval.as_nanos();
    now + interval - Duration::new((behind / 1_000_000_000) as u64, (behind % 1_000_000_000) as u32)
}
