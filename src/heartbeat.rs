//! The heartbeat: when to send a Ping, what counts as a miss, and when the peer is dead.
//!
//! A pure state machine: no socket, no clock, no thread. Whoever drives it passes `Instant`s in, carries out the
//! [`Action`] that [`Heartbeat::poll`] asks for, and reports what arrived. Calling it too often is harmless.
//!
//! Invariant: with every deadline kept, a peer that shows no life after the instant *t* is dead at
//! `t + interval + max_missed x timeout` at the latest ([`HeartbeatPolicy::worst_case`]), and a peer that shows life
//! within `timeout` of every Ping never is. Where the peer leads the beat, windows of silence take the place of Pings.

use std::time::{Duration, Instant};

mod policy;

pub(crate) use policy::parse_announcement;
pub use policy::{HeartbeatPolicy, Liveness};

/// A sign of life, as the reader of the socket reports it to [`Heartbeat::life`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sign {
    /// Some bytes arrived.
    Bytes,
    /// A Pong frame arrived, whether asked for or not (RFC 6455 section 5.5.3 allows both).
    Pong,
    /// A Ping arrived: a frame, or a heartbeat in text. It may announce when the next one is due.
    Ping {
        /// Time until the next one, if announced.
        next: Option<Duration>,
    },
}

/// What [`Heartbeat::poll`] asks of its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing to do until this instant, or ever (`None`), unless something arrives.
    Wait(Option<Instant>),
    /// Write a Ping now, then report it by [`Heartbeat::ping_written`] or [`Heartbeat::ping_queued`].
    Ping,
    /// One more miss, the `n`th in a row. Poll again: where we lead the beat, a Ping is due at once.
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
/// heart.life(Sign::Pong, start + 21 * second);
/// assert_eq!(heart.poll(start + 40 * second, false), Action::Ping);
/// heart.ping_written(start + 40 * second);
/// assert_eq!(heart.poll(start + 50 * second, false), Action::Dead(1));
/// ```
#[derive(Debug, Clone)]
pub struct Heartbeat {
    policy: HeartbeatPolicy,
    /// The schedule: when our next Ping is due. `None` if we do not lead.
    next_ping: Option<Instant>,
    /// The miss clock. Where we lead it runs from the writing of a Ping until some life, or a miss; where the peer does,
    /// it always runs, and life sets it back to a whole window.
    life_due: Option<Instant>,
    /// Where the peer leads: how long it may be silent now.
    window: Option<Duration>,
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
        let next_ping = policy.ping_interval().map(|interval| now + interval.mul_f64(phase).min(interval));
        let window = policy.window(None);
        let life_due = window.map(|window| now + window);
        Self { policy, next_ping, life_due, window, ping_owed: false, missed: 0 }
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

    /// When [`poll`](Self::poll) next has something to do; an instant in the past means at once. To be asked when `poll`
    /// has said [`Action::Wait`]: after any other action the next poll is due at once.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.next_ping, self.life_due) {
            (Some(ping), Some(pong)) => Some(ping.min(pong)),
            (ping, pong) => ping.or(pong),
        }
    }

    /// Something arrived. If it counts as life, the misses are forgotten and the miss clock stops; where the peer leads,
    /// it starts anew.
    pub fn life(&mut self, sign: Sign, now: Instant) {
        let is_led = self.window.is_some();
        let counts = match self.policy.liveness {
            Liveness::AnyByte => true,
            Liveness::PongOnly => sign == Sign::Pong || is_led && matches!(sign, Sign::Ping { .. }),
        };
        if !counts {
            return;
        }
        self.missed = 0;
        if let Sign::Ping { next } = sign
            && is_led
        {
            // What was announced before is no longer true, whether it was longer or shorter.
            self.window = self.policy.window(next);
            self.life_due = None;
        }
        let window_ends = self.window.map(|window| now + window);
        self.life_due = window_ends.max(self.life_due.filter(|_| is_led));
    }

    /// The end of the miss clock, if a [`poll`](Self::poll) at `now` would count a miss. A driver that has not yet read
    /// all that was in its socket at that instant should do so first.
    pub fn would_miss(&self, now: Instant) -> Option<Instant> {
        self.life_due.filter(|due| *due <= now && now - *due <= self.policy.tolerance())
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
        if let Some(due) = self.life_due.filter(|due| *due <= now) {
            self.life_due = self.window.map(|window| now + window);
            self.ping_owed = self.next_ping.is_some();
            if !excused && now - due <= self.policy.tolerance() {
                self.missed += 1;
                return if self.missed >= self.policy.max_missed {
                    Action::Dead(self.missed)
                } else {
                    Action::Missed(self.missed)
                };
            }
        }
        if let (Some(due), Some(interval)) = (self.next_ping, self.policy.ping_interval())
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
        if self.life_due.is_none() && self.next_ping.is_some() {
            self.life_due = self.policy.timeout.map(|timeout| now + timeout);
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
