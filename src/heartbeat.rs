//! The heartbeat: when to send a Ping, what counts as a miss, and when the peer is dead.
//!
//! A pure state machine: no socket, no clock, no thread. Whoever drives it passes `Instant`s in, carries out the
//! [`Action`] that [`Heartbeat::poll`] asks for, and reports what arrived. Calling it too often is harmless.
//!
//! Invariant: with every deadline kept, a peer that shows no life after the instant *t* is dead at
//! `t + interval + max_missed x timeout` at the latest ([`HeartbeatPolicy::worst_case`]), and a peer that shows life
//! within `timeout` of every Ping never is.

use std::time::{Duration, Instant};

/// What shows that a peer is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Liveness {
    /// Any byte from the peer, also one of a message that is only half received. The default: whoever sends, lives.
    #[default]
    AnyByte,
    /// Only a Pong frame. Stricter: it also proves that the peer's WebSocket layer answers, not just that it talks.
    PongOnly,
}

/// A sign of life, as the reader of the socket reports it to [`Heartbeat::life`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sign {
    /// Some bytes arrived.
    Bytes,
    /// A Pong frame arrived, whether asked for or not (RFC 6455 section 5.5.3 allows both).
    Pong,
}

/// How a connection's heartbeat beats.
///
/// ```
/// use heartwire::HeartbeatPolicy;
/// use std::time::Duration;
///
/// let policy = HeartbeatPolicy::default();
/// assert_eq!(policy.worst_case(), Some(Duration::from_secs(20 + 3 * 10)));
///
/// let brisk = HeartbeatPolicy::new(Duration::from_secs(5), Duration::from_secs(2)).max_missed(2);
/// assert_eq!(brisk.worst_case(), Some(Duration::from_secs(9)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeartbeatPolicy {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    max_missed: u32,
    liveness: Liveness,
}

/// Ping every 20 s, wait 10 s for life, dead after 3 misses, any byte is life.
impl Default for HeartbeatPolicy {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(20)),
            timeout: Some(Duration::from_secs(10)),
            max_missed: 3,
            liveness: Liveness::AnyByte,
        }
    }
}

impl HeartbeatPolicy {
    /// Durations are kept between these: below the first, timers of the operating system mean nothing; above the
    /// second, `Instant` arithmetic could overflow.
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

    /// A Ping every `interval`, and a miss when nothing comes within `timeout` of it; the rest as by default.
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        Self::default().interval(interval).timeout(timeout)
    }

    /// No heartbeat at all: nothing is sent and nobody is ever found dead by silence.
    pub fn off() -> Self {
        Self { interval: None, timeout: None, ..Self::default() }
    }

    /// Keepalive only: a Ping every `interval` keeps an idle line open through proxies, but silence never kills.
    pub fn keepalive(interval: Duration) -> Self {
        Self { timeout: None, ..Self::default() }.interval(interval)
    }

    /// Time between scheduled Pings. Default 20 s, since proxies cut idle lines after 30 to 120 s.
    ///
    /// Kept between 1 ms and 10 years.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval.clamp(Self::SHORTEST, Self::LONGEST));
        self
    }

    /// How long after a Ping was written some life must show before that is a miss. Default 10 s, well above the round
    /// trip of a bad mobile line. May be shorter or longer than the interval. Kept between 1 ms and 10 years.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout.clamp(Self::SHORTEST, Self::LONGEST));
        self
    }

    /// How many misses in a row make the peer dead. Default 3; 0 is taken as 1.
    pub fn max_missed(mut self, max_missed: u32) -> Self {
        self.max_missed = max_missed.max(1);
        self
    }

    /// What counts as life. Default [`Liveness::AnyByte`].
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// The longest time from a peer's last sign of life until it is found dead: `interval + max_missed x timeout`.
    /// `None` when the policy never finds anyone dead.
    pub fn worst_case(&self) -> Option<Duration> {
        Some(self.interval?.saturating_add(self.timeout?.saturating_mul(self.max_missed)))
    }

    /// How long a blocked write may stay blocked before the peer counts as dead: `max_missed x timeout`, less what the
    /// misses so far have used up, but one timeout at least.
    pub(crate) fn stall_limit(&self, missed: u32) -> Option<Duration> {
        self.interval?;
        let left = self.max_missed.saturating_sub(missed).max(1);
        Some(self.timeout?.saturating_mul(left).min(Self::LONGEST))
    }

    pub(crate) fn misses_allowed(&self) -> u32 {
        self.max_missed
    }

    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        self.interval
    }

    /// How much later than its deadline a miss may be noticed and still be the peer's: a quarter of the timeout, but
    /// one second at most, and no less than timers of operating systems are late anyway. Beyond it we were late
    /// (suspended, starved, busy), and what we did not watch we do not judge.
    fn tolerance(&self) -> Duration {
        let quarter = self.timeout.map_or(Duration::ZERO, |timeout| timeout / 4);
        quarter.clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

/// What [`Heartbeat::poll`] asks of its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing to do until this instant, or ever (`None`), unless something arrives.
    Wait(Option<Instant>),
    /// Write a Ping now, then report it by [`Heartbeat::ping_written`] or [`Heartbeat::ping_queued`].
    Ping,
    /// One more miss, the `n`th in a row. Poll again: a Ping is due at once.
    Missed(u32),
    /// The peer is dead, after this many misses in a row.
    Dead(u32),
}

/// The heartbeat of one connection.
///
/// The server drives one per connection; it is public so that it can drive any other WebSocket as well, as the example
/// `plain_tungstenite` does.
///
/// ```
/// use heartwire::heartbeat::{Action, Heartbeat, Sign};
/// use heartwire::HeartbeatPolicy;
/// use std::time::{Duration, Instant};
///
/// let second = Duration::from_secs(1);
/// let start = Instant::now();
/// let policy = HeartbeatPolicy::new(20 * second, 10 * second).max_missed(1);
/// let mut heart = Heartbeat::new(policy, start, 1.0);
///
/// assert_eq!(heart.poll(start, false), Action::Wait(Some(start + 20 * second)));
/// assert_eq!(heart.poll(start + 20 * second, false), Action::Ping);
/// heart.ping_written(start + 20 * second);
/// heart.life(Sign::Pong);
/// assert_eq!(heart.poll(start + 40 * second, false), Action::Ping);
/// heart.ping_written(start + 40 * second);
/// assert_eq!(heart.poll(start + 50 * second, false), Action::Dead(1));
/// ```
#[derive(Debug, Clone)]
pub struct Heartbeat {
    policy: HeartbeatPolicy,
    phase: f64,
    /// The schedule: when the next Ping is due. `None` with the interval off.
    next_ping: Option<Instant>,
    /// The miss clock: runs from the writing of a Ping until some life, or a miss.
    pong_due: Option<Instant>,
    /// A Ping should leave at once.
    ping_owed: bool,
    missed: u32,
}

impl Heartbeat {
    /// A heartbeat that starts `now`, its first Ping due after `phase` (above 0, at most 1) of an interval.
    ///
    /// Different phases keep connections that were opened together from beating in step.
    pub fn new(policy: HeartbeatPolicy, now: Instant, phase: f64) -> Self {
        let phase = if phase > 0.0 && phase <= 1.0 { phase } else { 1.0 };
        let next_ping = policy.interval.map(|interval| now + interval.mul_f64(phase).min(interval));
        Self { policy, phase, next_ping, pong_due: None, ping_owed: false, missed: 0 }
    }

    /// The policy in force.
    pub fn policy(&self) -> HeartbeatPolicy {
        self.policy
    }

    /// Misses in a row so far.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// Changes the policy. The beat starts afresh: no misses, and the next Ping as after [`new`](Self::new), in the same
    /// phase.
    pub fn set_policy(&mut self, policy: HeartbeatPolicy, now: Instant) {
        *self = Self::new(policy, now, self.phase);
    }

    /// When [`poll`](Self::poll) next has something to do; an instant in the past means at once. To be asked when `poll`
    /// has said [`Action::Wait`]: after any other action the next poll is due at once.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.next_ping, self.pong_due) {
            (Some(ping), Some(pong)) => Some(ping.min(pong)),
            (ping, pong) => ping.or(pong),
        }
    }

    /// Something arrived. If it counts as life, the misses are forgotten and the miss clock stops.
    pub fn life(&mut self, sign: Sign) {
        if self.policy.liveness == Liveness::AnyByte || sign == Sign::Pong {
            self.missed = 0;
            self.pong_due = None;
        }
    }

    /// The end of the miss clock, if a [`poll`](Self::poll) at `now` would count a miss. A driver that has not yet read
    /// all that was in its socket at that instant should do so first.
    pub fn would_miss(&self, now: Instant) -> Option<Instant> {
        self.pong_due.filter(|due| *due <= now && now - *due <= self.policy.tolerance())
    }

    /// What is to be done `now`. To be called when [`deadline`](Self::deadline) has come and everything that already
    /// waited in the socket has been read and reported; at any other time it is harmless.
    ///
    /// `excused` says that we are in no position to judge, because what we sent has not all left yet or what the peer
    /// sent has not all been looked at: a deadline missed then is no miss. A Ping with a fresh timeout follows, and the
    /// misses so far stand. The same holds for a deadline that is noticed clearly late.
    ///
    /// After [`Action::Dead`] the heartbeat has done its work and should be dropped.
    pub fn poll(&mut self, now: Instant, excused: bool) -> Action {
        if self.missed >= self.policy.max_missed {
            return Action::Dead(self.missed);
        }
        if let Some(due) = self.pong_due.filter(|due| *due <= now) {
            self.pong_due = None;
            self.ping_owed = true;
            if !excused && now - due <= self.policy.tolerance() {
                self.missed += 1;
                return if self.missed >= self.policy.max_missed {
                    Action::Dead(self.missed)
                } else {
                    Action::Missed(self.missed)
                };
            }
        }
        if let (Some(due), Some(interval)) = (self.next_ping, self.policy.interval)
            && due <= now
        {
            self.ping_owed = true;
            self.next_ping = Some(next_beat(due, interval, now));
        }
        if self.ping_owed { Action::Ping } else { Action::Wait(self.deadline()) }
    }

    /// The Ping asked for was handed to the socket at `now`: from here its timeout counts, unless an earlier Ping's
    /// still does.
    pub fn ping_written(&mut self, now: Instant) {
        self.ping_owed = false;
        if self.pong_due.is_none() {
            let Heartbeat { policy: HeartbeatPolicy { interval, timeout, .. }, .. } = *self;
            self.pong_due = interval.and(timeout).map(|timeout| now + timeout);
        }
    }

    /// The Ping asked for waits behind data that the peer is slow to take: no clock runs for it. Whether such a peer
    /// still takes anything is for the write half to watch.
    pub fn ping_queued(&mut self) {
        self.ping_owed = false;
    }
}

/// The first instant after `now` on the schedule that `due` is on. Beats that were slept through are skipped, not
/// caught up on, so that nobody gets a burst of Pings after our suspension.
fn next_beat(due: Instant, interval: Duration, now: Instant) -> Instant {
    let behind = (now - due).as_nanos() % interval.as_nanos();
    now + interval - Duration::new((behind / 1_000_000_000) as u64, (behind % 1_000_000_000) as u32)
}
