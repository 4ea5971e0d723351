//! The world of a heartbeat under test: a driver, a peer and a clock that jumps; and random policies and signs of life.

// Each test file has its own copy of this module, and uses its part of it.
#![allow(dead_code)]

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{self, Dead, Missed, Ping, Wait};
use heartwire::heartbeat::Heartbeat;
use heartwire::heartbeat::Liveness::{AnyByte, PongOnly};
use heartwire::heartbeat::Sign::{self, Bytes, Pong};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use std::vec::IntoIter;

/// A driver that keeps every deadline, `lag` late, and a peer that answers as it is told. Times count from `origin`.
pub(crate) struct World {
    pub(crate) heart: Heartbeat,
    pub(crate) phase: f64,
    pub(crate) origin: Instant,
    pub(crate) now: Duration,
    pub(crate) lag: Duration,
    /// Pings wait behind data instead of being written.
    pub(crate) congested: bool,
    /// The nth Ping is answered by a Pong this much later; those beyond the list never are.
    pub(crate) answers: IntoIter<Duration>,
    /// What comes from outside, in order of time.
    pub(crate) events: Vec<(Duration, Event)>,
    /// Every action carried out.
    pub(crate) trace: Vec<(Duration, Action)>,
    pub(crate) missed: u32,
    pub(crate) last_life: Duration,
    pub(crate) dead: Option<Duration>,
}

#[derive(Clone, Copy)]
pub(crate) enum Event {
    Life(Sign),
    /// A poll that nobody asked for, excused or not.
    Spurious(bool),
}

impl World {
    pub(crate) fn new(policy: HeartbeatPolicy) -> Self {
        Self::in_phase(policy, 1.0)
    }

    pub(crate) fn in_phase(policy: HeartbeatPolicy, phase: f64) -> Self {
        let origin = Instant::now();
        Self {
            heart: Heartbeat::new(policy, origin, phase),
            phase,
            origin,
            now: Duration::ZERO,
            lag: Duration::ZERO,
            congested: false,
            answers: Vec::new().into_iter(),
            events: Vec::new(),
            trace: Vec::new(),
            missed: 0,
            last_life: Duration::ZERO,
            dead: None,
        }
    }

    /// At the instant at which the first Ping was written, one interval after the start.
    pub(crate) fn pinged(policy: HeartbeatPolicy) -> Self {
        let mut world = Self::new(policy);
        assert!(world.step(Duration::MAX));
        assert_eq!(world.trace, [(world.now, Ping)]);
        world
    }

    pub(crate) fn happens(&mut self, at: Duration, event: Event) {
        let place = self.events.partition_point(|(earlier, _)| *earlier <= at);
        self.events.insert(place, (at, event));
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.heart.deadline().map(|due| due - self.origin)
    }

    pub(crate) fn poll(&mut self, excused: bool) -> Action {
        self.heart.poll(self.origin + self.now, excused)
    }

    pub(crate) fn life(&mut self, sign: Sign) {
        self.heart.life(sign, self.origin + self.now);
        let policy = self.heart.policy();
        let strict = policy == policy.liveness(PongOnly);
        if !strict || sign == Pong || is_led(policy) && matches!(sign, Sign::Ping { .. }) {
            (self.missed, self.last_life) = (0, self.now);
        }
        assert_eq!(self.heart.missed(), self.missed);
    }

    pub(crate) fn set_policy(&mut self, policy: HeartbeatPolicy) {
        self.heart.set_policy(policy, self.origin + self.now, self.phase);
        self.missed = 0;
    }

    /// Carries out what is due. A miss, a Ping and a wait are the most that one instant may ask for.
    pub(crate) fn settle(&mut self, excused: bool) {
        for _ in 0..3 {
            let foretold = self.heart.would_miss(self.origin + self.now).is_some();
            let action = self.poll(excused);
            assert_eq!(matches!(action, Missed(_) | Dead(_)), foretold && !excused, "{action:?}");
            match action {
                Wait(until) => {
                    assert_eq!(until, self.heart.deadline());
                    assert!(until.is_none_or(|due| due > self.origin + self.now), "a busy loop");
                    return;
                }
                Ping if self.congested => self.heart.ping_queued(),
                Ping => {
                    self.heart.ping_written(self.origin + self.now);
                    if let Some(latency) = self.answers.next() {
                        self.happens(self.now + latency, Event::Life(Pong));
                    }
                }
                Missed(n) | Dead(n) => {
                    self.missed += 1;
                    assert_eq!((n, self.heart.missed()), (self.missed, self.missed));
                }
                other => panic!("unknown action {other:?}"),
            }
            self.trace.push((self.now, action));
            if matches!(action, Dead(_)) {
                self.dead = Some(self.now);
                return;
            }
        }
        panic!("polling does not settle: {:?}", self.trace);
    }

    /// Jumps to the next instant at which something happens, unless that is after `end`. What arrives at a deadline
    /// comes first: a driver reads before it judges.
    pub(crate) fn step(&mut self, end: Duration) -> bool {
        let wake = self.deadline().map_or(Duration::MAX, |due| due + self.lag);
        let next = self.events.first().map_or(wake, |(at, _)| wake.min(*at));
        if self.dead.is_some() {
            return false;
        }
        self.now = next.clamp(self.now, end);
        if next > end {
            return false;
        }
        if self.events.first().is_none_or(|(at, _)| *at > next) {
            self.settle(false);
            return true;
        }
        match self.events.remove(0).1 {
            Event::Life(sign) => self.life(sign),
            // On the deadline itself it would not be spurious, and an excuse would rightly count.
            Event::Spurious(excused) if self.deadline().is_none_or(|due| due > self.now) => self.settle(excused),
            Event::Spurious(_) => {}
        }
        true
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.step(end) {}
    }

    /// Runs until then, and gives the whole trace in whole seconds.
    pub(crate) fn play(&mut self, end: Duration) -> Vec<(u32, Action)> {
        self.run_until(end);
        assert!(self.trace.iter().all(|(at, _)| at.subsec_nanos() == 0), "{:?}", self.trace);
        self.trace.iter().map(|(at, action)| (at.as_secs() as u32, *action)).collect()
    }
}

/// Whether the peer leads: only then do announcements make a difference.
pub(crate) fn is_led(policy: HeartbeatPolicy) -> bool {
    policy.announcements(MS, MS) != policy.announcements(S, S)
}

/// Longer than any peer here can live.
pub(crate) const FOREVER: Duration = Duration::from_secs(1000);
pub(crate) const S: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const NS: Duration = Duration::from_nanos(1);

/// A Ping that announces nothing.
pub(crate) const ORDINARY: Sign = Sign::Ping { next: None };

pub(crate) fn announced(seconds: u64) -> Sign {
    Sign::Ping { next: Some(Duration::from_secs(seconds)) }
}

/// Whole seconds, so that instants coincide, or anything.
pub(crate) fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![(1..=12u32).prop_map(|n| n * S), (100_000_000..30_000_000_000u64).prop_map(Duration::from_nanos)]
}

pub(crate) fn phases() -> impl Strategy<Value = f64> {
    (0.0..1.0).prop_map(|below_one| 1.0 - below_one)
}

pub(crate) fn pings() -> impl Strategy<Value = Sign> {
    let next = prop_oneof![durations(), Just(Duration::ZERO), Just(Duration::MAX)];
    proptest::option::of(next).prop_map(|next| Sign::Ping { next })
}

pub(crate) fn signs() -> impl Strategy<Value = Sign> {
    prop_oneof![Just(Bytes), Just(Pong), pings()]
}

/// A policy where the peer leads, and what it is made of.
#[derive(Debug, Clone)]
pub(crate) struct Led {
    pub(crate) policy: HeartbeatPolicy,
    pub(crate) expect: Duration,
    pub(crate) timeout: Duration,
    pub(crate) n: u32,
    pub(crate) bounds: Option<(Duration, Duration)>,
}

impl Led {
    /// The window that a Ping gives.
    pub(crate) fn window(&self, next: Option<Duration>) -> Duration {
        match (next, self.bounds) {
            (Some(next), Some((shortest, longest))) => next.max(shortest).min(longest) + self.timeout,
            _ => self.expect,
        }
    }
}

pub(crate) fn led_policies() -> impl Strategy<Value = Led> {
    let bounds = proptest::option::of((durations(), durations()).prop_map(|(a, b)| (a.min(b), a.max(b))));
    let liveness = prop_oneof![Just(AnyByte), Just(PongOnly)];
    (durations(), durations(), 1..6u32, bounds, liveness).prop_map(|(expect, timeout, n, bounds, liveness)| {
        let policy = HeartbeatPolicy::peer_led(expect).timeout(timeout).max_missed(n).liveness(liveness);
        let policy = bounds.map_or(policy, |(shortest, longest)| policy.announcements(shortest, longest));
        Led { policy, expect, timeout, n, bounds }
    })
}
