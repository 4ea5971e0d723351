//! Random policies, signs of life, and obstacles.

use std::time::Duration;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Activity;
use heartwire::heartbeat::Liveness::{AnyByte, PongOnly};
use proptest::prelude::*;

use super::world::{Event, PONG, S, What};
use What::{Data, Frame};

/// Whole seconds, so that instants coincide, or anything.
pub(crate) fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![(1..=12u32).prop_map(|n| n * S), (100_000_000..30_000_000_000u64).prop_map(Duration::from_nanos)]
}

pub(crate) fn phases() -> impl Strategy<Value = f64> {
    (0.0..1.0).prop_map(|below_one| 1.0 - below_one)
}

pub(crate) fn pings() -> impl Strategy<Value = What> {
    let next = prop_oneof![durations(), Just(Duration::ZERO), Just(Duration::MAX)];
    proptest::option::of(next).prop_map(|next| Frame(Activity::Ping { next }))
}

pub(crate) fn frames() -> impl Strategy<Value = What> {
    prop_oneof![(1..100u64).prop_map(Data), Just(PONG), pings()]
}

/// What gets in the way, of either side; and what takes it away again.
pub(crate) fn obstacles() -> impl Strategy<Value = Event> {
    use Event::{Blocks, Drains, Holds, LetsGo, Paused, Reads, Spurious, StopsReading, Suspended, Takes};
    prop_oneof![
        prop::sample::select(vec![Blocks, Takes, Drains, Holds, LetsGo, StopsReading, Reads, Spurious]),
        durations().prop_map(Suspended),
        (durations(), any::<bool>()).prop_map(|(length, is_lossy)| Paused(length, is_lossy)),
    ]
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
