//! Bounds of life and death under random schedules of everything that either side may do, or suffer.
//!
//! In the names of bounds: *T* is the timeout, *n* the misses allowed, *L* how late we look at most.

use std::time::Duration;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{Dead, Ping, Stalled};
use heartwire::heartbeat::Liveness::{AnyByte, PongOnly};
use proptest::collection::vec;
use proptest::prelude::*;

use super::strategies::{durations, frames, phases};
use super::world::Event::{
    self, Blocks, Drains, Holds, LetsGo, Paused, Reads, Spurious, StopsReading, Suspended, Takes,
};
use super::world::{FOREVER, MS, Reader, S, World};

/// A policy that finds peers dead, with its interval, timeout and number of misses.
fn deadly() -> impl Strategy<Value = (HeartbeatPolicy, Duration, Duration, u32)> {
    let liveness = prop_oneof![3 => Just(AnyByte), 1 => Just(PongOnly)];
    (durations(), durations(), 1..5u32, liveness).prop_map(|(interval, timeout, n, liveness)| {
        (HeartbeatPolicy::new(interval, timeout).max_missed(n).liveness(liveness), interval, timeout, n)
    })
}

/// Something in the way of what we send, or out of it again.
fn resistance() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![Blocks, Takes, Drains, Holds, LetsGo])
}

fn reading() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![StopsReading, Reads])
}

fn happenings(event: impl Strategy<Value = Event>) -> impl Strategy<Value = Vec<(Duration, Event)>> {
    vec((durations(), event), 0..25).prop_map(|pauses| {
        let mut at = Duration::ZERO;
        let mut add = |pause: Duration| {
            at += pause / 4;
            at
        };
        pauses.into_iter().map(|(pause, event)| (add(pause), event)).collect()
    })
}

fn readers() -> impl Strategy<Value = Reader> {
    let slow = (1..200u64, 1..3000u32).prop_map(|(count, ms)| Reader::Slow(count, ms * MS));
    prop_oneof![Just(Reader::Prompt), Just(Reader::AtLooks), slow]
}

/// Half of the looks are in time.
fn lags() -> impl Strategy<Value = Vec<Duration>> {
    vec(prop_oneof![Just(Duration::ZERO), durations()], 0..200)
}

/// How often we look while something is awaited.
fn tick(timeout: Duration) -> Duration {
    (timeout / 4).max(5 * MS)
}

proptest! {
    /// With deadlines kept: exactly, where no data ever waited. Where some did, the peer may have one timeout more.
    #[test]
    fn with_deadlines_kept_death_comes_within_the_worst_case_of_the_last_byte_and_never_before_its_time(
        (policy, interval, timeout, n) in deadly(), phase in phases(),
        arrivals in happenings(frames().prop_map(Event::Arrives)), resistance in happenings(resistance()),
        reading in happenings(reading()),
    ) {
        let mut world = World::in_phase(policy, phase).with(arrivals).with(resistance);
        world = world.with(reading).with([(300 * S, Reads)]);
        world.run_until(FOREVER);
        let dead = world.dead.expect("in the end it is silent and takes nothing");
        let last = if policy == policy.liveness(PongOnly) { world.last_life } else { world.last_sign() };
        let last = last.max(world.resumed);
        let slack = if world.has_waited { timeout } else { Duration::ZERO };
        match world.trace.last() {
            Some((_, Dead(_))) => {
                // An answer that came when its time was over, and was not read, does not count.
                let too_late = world.answered.filter(|ping| world.last_life - *ping >= timeout);
                let first = world.unanswered_since.or(too_late).expect("a Ping was unanswered");
                prop_assert!(dead - first >= n * timeout, "{:?} after the first unanswered Ping", dead - first);
                let bound = interval + n * timeout + slack;
                prop_assert!(dead - last.max(world.last_taken) <= bound, "{:?} after {last:?}", dead - last);
            }
            Some((_, Stalled(limit))) => {
                prop_assert_eq!(*limit, n * timeout);
                let silence = dead - world.last_arrival.max(world.last_seen_taken);
                prop_assert!(silence >= *limit, "{:?} of silence", silence);
                let silence = dead - world.last_sign().max(world.counts_from());
                prop_assert!(silence <= interval + *limit + slack, "{:?} of silence", silence);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn of_whom_something_arrives_within_the_timeout_of_every_ping_never_misses_however_late_we_look(
        (policy, interval, timeout, _) in deadly(), phase in phases(), reader in readers(), lags in lags(),
        shares in vec(prop_oneof![Just(1.0), 0.0..1.0], 20),
        noise in happenings(prop_oneof![
            3 => prop::sample::select(vec![Spurious, Blocks, Takes, Drains, StopsReading, Reads]),
            1 => frames().prop_map(Event::Arrives), 1 => durations().prop_map(Suspended),
            1 => durations().prop_map(|length| Paused(length, false)),
        ]),
    ) {
        let answers = shares.iter().cycle().take(1000).map(|share| timeout.mul_f64(*share).min(timeout));
        let mut world = World::in_phase(policy.max_missed(1), phase).read_by(reader).late(lags, Duration::ZERO);
        world = world.answering(answers).with(noise);
        world.run_until(30 * interval);
        // It may take nothing of what waits for it: then it is stalled, but it has missed nothing.
        prop_assert!(world.trace.iter().all(|(_, action)| matches!(action, Ping | Stalled(_))), "{:?}", world.trace);
    }

    /// But that what they see is known sooner: so here the driver looks, and reads, whenever anything happens.
    #[test]
    fn looks_that_nobody_asked_for_change_nothing(
        (policy, ..) in deadly(), phase in phases(),
        reader in readers().prop_filter("reads", |reader| *reader != Reader::AtLooks),
        arrivals in happenings(frames().prop_map(Event::Arrives)), resistance in happenings(resistance()),
        reading in happenings(reading()),
        spurious in vec(0..300_000u32, 1..100),
    ) {
        let happenings = arrivals.iter().chain(&resistance).chain(&reading);
        let looks: Vec<_> = happenings.map(|(at, _)| (*at, Spurious)).collect();
        let mut quiet = World::in_phase(policy, phase).read_by(reader);
        quiet = quiet.with(arrivals).with(resistance).with(reading).with(looks);
        let mut disturbed = quiet.clone().with(spurious.into_iter().map(|at| (at * MS, Spurious)));
        quiet.run_until(300 * S);
        disturbed.run_until(300 * S);
        prop_assert_eq!(disturbed.trace, quiet.trace);
    }

    /// Whatever we do, and whenever we look: interval + T / 4 + L, and n + 1 times T + L, after the last byte came or
    /// went.
    #[test]
    fn however_late_we_look_a_silent_peer_dies_within_a_bound(
        (policy, interval, timeout, n) in deadly(), phase in phases(), reader in readers(), lags in lags(),
        lag in prop_oneof![Just(Duration::ZERO), durations()],
        arrivals in happenings(frames().prop_map(Event::Arrives)), resistance in happenings(resistance()),
        reading in happenings(reading()), noise in happenings(prop_oneof![
            2 => Just(Spurious), 1 => durations().prop_map(Suspended),
            1 => (durations(), any::<bool>()).prop_map(|(length, is_lossy)| Paused(length, is_lossy)),
        ]),
    ) {
        // A pause holds us up once, by its length, and lags do at each look.
        let paused = |event: &Event| if let Paused(length, _) = event { *length } else { Duration::ZERO };
        let pauses: Duration = noise.iter().map(|(_, event)| paused(event)).sum();
        let latest = lags.iter().copied().max().unwrap_or_default().max(lag);
        let mut world = World::in_phase(policy, phase).read_by(reader).late(lags, lag);
        world = world.with(arrivals).with(resistance).with(noise).with(reading).with([(300 * S, Reads)]);
        world.run_until(10 * FOREVER);
        let dead = world.dead.expect("in the end it is silent and takes nothing");
        // Where a Pong may be in what has arrived, that has to be read first.
        let read = if policy == policy.liveness(PongOnly) { world.last_read } else { Duration::ZERO };
        let bound = interval + tick(timeout) + latest + (n + 1) * (timeout + latest) + pauses;
        let silence = dead.saturating_sub(world.last_sign().max(read).max(world.counts_from()));
        prop_assert!(silence <= bound, "{silence:?} of silence, where {bound:?} is the bound");
    }
}
