//! The heartbeat's state machine, by tables on both sides of every boundary and by properties over random schedules.
//!
//! Nothing sleeps: [`World`] stands in for socket and clock, and jumps from one instant at which something happens to
//! the next. Whatever a test is about, it also checks that judging settles, and that misses count up one by one. Where
//! the peer leads the beat is in `heartbeat_peer_led.rs`; what may be concluded from what, where either side is slow,
//! late or held up, is in `heartbeat_evidence.rs`.

use std::time::{Duration, Instant};

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{self, Dead, Missed, Ping, Wait};
use heartwire::heartbeat::Liveness::{AnyByte, PongOnly};
use heartwire::heartbeat::{Evidence, Heartbeat};
use proptest::collection::vec;
use proptest::prelude::*;

use super::strategies::{durations, frames, led_policies, obstacles, phases};
use super::world::{BYTES, Event, FOREVER, MS, NS, ORDINARY, PONG, S, World, announced};

/// The default one, spelt out.
fn policy() -> HeartbeatPolicy {
    HeartbeatPolicy::new(20 * S, 10 * S).max_missed(3).liveness(AnyByte)
}

#[test]
fn a_silent_peer_is_pinged_at_once_after_each_miss_and_dead_after_the_last() {
    assert_eq!(policy(), HeartbeatPolicy::default());
    let three = [(20, Ping), (30, Missed(1)), (30, Ping), (40, Missed(2)), (40, Ping), (50, Dead(3))];
    assert_eq!(World::new(policy()).play(FOREVER), three);
    // A miss and a scheduled Ping at the same instant make one Ping.
    let even = HeartbeatPolicy::new(10 * S, 10 * S).max_missed(2);
    assert_eq!(World::new(even).play(FOREVER), [(10, Ping), (20, Missed(1)), (20, Ping), (30, Dead(2))]);
    // Zero misses would be dead from the start, so 0 is 1.
    for n in [0, 1] {
        let mut world = World::new(policy().max_missed(n));
        assert_eq!(world.play(FOREVER), [(20, Ping), (30, Dead(1))]);
        assert_eq!(world.judge(), Dead(1), "dead stays dead");
    }
}

#[test]
fn nothing_is_due_before_its_deadline_and_everything_at_it() {
    let mut world = World::new(policy().max_missed(2));
    for (due, action) in [(20 * S, Ping), (30 * S, Missed(1)), (40 * S, Dead(2))] {
        world.run_until(due - NS);
        assert_eq!((world.now, world.judge()), (due - NS, Wait(Some(world.origin + due))));
        world.now = due;
        world.settle();
        assert!(world.trace.contains(&(due, action)), "{action:?} at {due:?} in {:?}", world.trace);
    }
}

#[test]
fn with_a_timeout_longer_than_the_interval_scheduled_pings_go_on_and_do_not_restart_the_clock() {
    let mut world = World::new(HeartbeatPolicy::new(4 * S, 10 * S).max_missed(2));
    let pings = [(4, Ping), (8, Ping), (12, Ping), (14, Missed(1)), (14, Ping), (16, Ping), (20, Ping), (24, Dead(2))];
    assert_eq!(world.play(FOREVER), pings);
}

#[test]
fn any_life_forgets_the_misses_and_moves_no_ping() {
    let mut world = World::new(policy());
    world.arrives(49 * S, BYTES);
    let before = [(20, Ping), (30, Missed(1)), (30, Ping), (40, Missed(2)), (40, Ping)];
    let after = [(60, Ping), (70, Missed(1)), (70, Ping), (80, Missed(2)), (80, Ping), (90, Dead(3))];
    assert_eq!(world.play(FOREVER), [before.as_slice(), &after].concat());
}

#[test]
fn life_at_the_deadline_is_in_time_and_just_after_it_is_not() {
    for (late, missed) in [(Duration::ZERO, 0), (NS, 1)] {
        let mut world = World::pinged(policy());
        world.arrives(30 * S + late, PONG);
        world.run_until(30 * S);
        assert_eq!(world.heart.missed(), missed);
    }
}

#[test]
fn pong_only_takes_any_pong_and_no_bytes_for_life() {
    let strict = |what| (PongOnly, what, what == PONG);
    let lax = |what| (AnyByte, what, true);
    let all = [BYTES, PONG, ORDINARY, announced(1)];
    for (liveness, what, lives) in all.map(lax).into_iter().chain(all.map(strict)) {
        let mut world = World::new(policy().liveness(liveness));
        // Unasked for, and out of step with the Pings.
        (0..100).for_each(|n| world.arrives(9 * n * S, what));
        world.run_until(900 * S);
        assert_eq!(world.dead, (!lives).then_some(50 * S), "{liveness:?} {what:?}");
    }
}

#[test]
fn off_never_does_anything() {
    for off in [HeartbeatPolicy::off(), HeartbeatPolicy::off().timeout(S)] {
        let mut world = World::new(off);
        world.arrives(5 * S, PONG);
        world.happens(6 * S, Event::Spurious);
        assert_eq!(world.play(FOREVER), []);
        assert_eq!((world.judge(), off.worst_case()), (Wait(None), None));
    }
}

#[test]
fn keepalive_pings_on_schedule_and_never_misses() {
    let keepalive = HeartbeatPolicy::keepalive(20 * S);
    let pings: Vec<_> = (1..=100).map(|n| (20 * n, Ping)).collect();
    assert_eq!(World::new(keepalive).play(2000 * S), pings);
    assert_eq!(keepalive.worst_case(), None);
}

#[test]
fn the_first_ping_leaves_after_a_phase_of_the_interval_and_the_others_in_step_with_it() {
    let nonsense = [0.0, -0.0, -0.5, 1.0 + f64::EPSILON, 2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let sound = [(0.25, 5), (0.5, 10), (0.75, 15), (1.0, 20)];
    for (phase, first) in sound.into_iter().chain(nonsense.map(|phase| (phase, 20))) {
        let mut world = World::in_phase(HeartbeatPolicy::keepalive(20 * S), phase);
        let pings = [0, 20, 40].map(|later| (first + later, Ping));
        assert_eq!(world.play((first + 40) * S), pings, "phase {phase}");
    }
}

#[test]
fn beats_slept_through_are_skipped_and_the_schedule_does_not_drift() {
    let mut world = World::new(HeartbeatPolicy::keepalive(20 * S));
    let late = [(27_000, 40), (59_999, 60), (60_000, 80), (80_001, 100), (185_000, 200), (260_000, 280)];
    for (noticed, next) in late {
        world.now = noticed * MS;
        world.settle();
        assert_eq!(world.deadline(), Some(next * S), "after a Ping noticed at {noticed} ms");
    }
    assert_eq!(world.trace, late.map(|(noticed, _)| (noticed * MS, Ping)));
}

#[test]
fn the_miss_clock_starts_when_the_ping_is_written_not_when_it_was_due() {
    let mut world = World::new(policy());
    world.now = 20 * S;
    assert_eq!(world.judge(), Ping);
    assert_eq!(world.judge(), Ping, "asked for until it is reported");
    world.heart.ping_written(world.origin + 23 * S, 0);
    world.now = 23 * S;
    world.settle();
    world.run_until(FOREVER);
    assert_eq!(world.trace[..2], [(33 * S, Missed(1)), (33 * S, Ping)]);
}

#[test]
fn a_new_policy_starts_the_beat_afresh() {
    let (off, keepalive) = (HeartbeatPolicy::off(), HeartbeatPolicy::keepalive(90 * S));
    let (one, two) = (policy().max_missed(1), policy().max_missed(2));
    let shorter = HeartbeatPolicy::new(2 * S, S).max_missed(1);
    let longer = HeartbeatPolicy::new(60 * S, 30 * S).max_missed(1);
    for (name, before, at, after, expected) in [
        ("from off", off, 7, one, [(27, Ping), (37, Dead(1))].as_slice()),
        ("to off, with a clock running", policy(), 35, off, &[]),
        ("to keepalive, with a clock running", policy(), 35, keepalive, &[(125, Ping)]),
        ("shorter", policy(), 7, shorter, &[(9, Ping), (10, Dead(1))]),
        ("longer", policy(), 7, longer, &[(67, Ping), (97, Dead(1))]),
        ("two misses forgotten", policy(), 45, two, &[(65, Ping), (75, Missed(1)), (75, Ping), (85, Dead(2))]),
    ] {
        let mut world = World::new(before);
        world.run_until(at * S);
        world.set_policy(after);
        world.trace.clear();
        assert_eq!((world.heart.policy(), world.heart.missed()), (after, 0), "{name}");
        assert_eq!(world.play(200 * S), expected, "{name}");
    }
}

#[test]
fn extreme_durations_are_kept_between_a_millisecond_and_ten_years_and_neither_panic_nor_spin() {
    let (shortest, longest) = (MS, 10 * 365 * 24 * 3600 * S);
    let same = |a, b| HeartbeatPolicy::new(a, a) == HeartbeatPolicy::new(b, b);
    assert!(same(Duration::ZERO, shortest) && same(shortest - NS, shortest) && !same(shortest + NS, shortest));
    assert!(same(Duration::MAX, longest) && same(longest + NS, longest) && !same(longest - NS, longest));

    let durations = [Duration::ZERO, NS, MS, S, Duration::MAX];
    for (interval, timeout) in durations.into_iter().flat_map(|a| durations.map(|b| (a, b))) {
        for (max_missed, phase) in [(0, f64::MIN_POSITIVE), (1, 0.3), (3, 1.0), (u32::MAX, 1.0 - f64::EPSILON)] {
            let policy = HeartbeatPolicy::new(interval, timeout).max_missed(max_missed);
            assert!(policy.worst_case().is_some());
            let mut world = World::in_phase(policy, phase);
            // Ten steps of ten years: more, and the clocks of some systems would end.
            (0..10).for_each(|_| _ = world.step(Duration::MAX));
            assert!(!world.trace.is_empty());
        }
    }
}

/// A policy that finds peers dead, with its interval, timeout and number of misses.
fn deadly() -> impl Strategy<Value = (HeartbeatPolicy, Duration, Duration, u32)> {
    let liveness = prop_oneof![Just(AnyByte), Just(PongOnly)];
    (durations(), durations(), 1..6u32, liveness).prop_map(|(interval, timeout, n, liveness)| {
        (HeartbeatPolicy::new(interval, timeout).max_missed(n).liveness(liveness), interval, timeout, n)
    })
}

fn policies() -> impl Strategy<Value = HeartbeatPolicy> {
    let keepalive = durations().prop_map(HeartbeatPolicy::keepalive);
    let off = Just(HeartbeatPolicy::off());
    let (deadly, led) = (deadly().prop_map(|deadly| deadly.0), led_policies().prop_map(|led| led.policy));
    prop_oneof![4 => deadly, 4 => led, 1 => keepalive, 1 => off]
}

proptest! {
    #[test]
    fn death_comes_within_the_bound_after_the_last_life_and_not_before_every_miss_had_its_time(
        (policy, interval, timeout, n) in deadly(), phase in phases(), lives in vec((durations(), frames()), 0..20),
    ) {
        let mut world = World::in_phase(policy, phase);
        let mut at = Duration::ZERO;
        for (pause, what) in lives {
            at += pause;
            world.arrives(at, what);
        }
        world.run_until(FOREVER);
        let silence = world.dead.expect("a silent peer dies") - world.last_life;
        prop_assert_eq!(policy.worst_case(), Some(interval + n * timeout));
        prop_assert!(n * timeout <= silence && silence <= interval + n * timeout, "{:?} of silence", silence);
    }

    #[test]
    fn the_bound_is_reached_by_a_peer_that_falls_silent_as_a_ping_is_written(
        (policy, ..) in deadly(), phase in phases(), answered in 1..10usize,
    ) {
        let mut world = World::in_phase(policy, phase).answering(vec![Duration::ZERO; answered]);
        world.run_until(FOREVER);
        prop_assert_eq!(world.dead.map(|dead| dead - world.last_life), policy.worst_case());
    }

    #[test]
    fn a_peer_that_answers_within_the_timeout_never_misses(
        (policy, interval, timeout, _) in deadly(), phase in phases(),
        lag in prop_oneof![Just(Duration::ZERO), durations()], shares in vec(prop_oneof![Just(1.0), 0.0..1.0], 50),
    ) {
        // A driver that is always late sends two Pings in each interval.
        let answers = shares.iter().cycle().take(100).map(|share| timeout.mul_f64(*share).min(timeout));
        let mut world = World::in_phase(policy.max_missed(1), phase).late([], lag).answering(answers);
        world.run_until(50 * interval);
        prop_assert!(world.trace.iter().all(|(_, action)| *action == Ping), "{:?}", world.trace);
    }

    #[test]
    fn pings_keep_to_the_schedule_however_late_they_are_noticed(
        interval in durations(), phase in phases(), lags in vec(prop_oneof![Just(Duration::ZERO), durations()], 1..50),
    ) {
        let mut world = World::in_phase(HeartbeatPolicy::keepalive(interval), phase);
        let first = world.deadline().unwrap();
        for lag in lags {
            world.lag = lag;
            prop_assert!(world.step(Duration::MAX));
            let next = world.deadline().unwrap();
            prop_assert_eq!((next - first).as_nanos() % interval.as_nanos(), 0);
            prop_assert!(world.now < next && next <= world.now + interval, "the next beat of the schedule");
        }
    }

    /// What it asserts is in [`World::settle`]. No pause means: until the next deadline.
    #[test]
    fn whatever_happens_judging_settles_and_life_resets_the_count(
        first in policies(), phase in phases(),
        happenings in vec((proptest::option::of(durations()), proptest::option::weighted(0.3, frames()),
            proptest::option::weighted(0.1, policies()), proptest::option::weighted(0.3, obstacles())), 1..50),
    ) {
        let mut world = World::in_phase(first, phase);
        for (pause, what, policy, obstacle) in happenings {
            let next = pause.map(|pause| world.now + pause).or(world.deadline()).unwrap_or(world.now);
            if let Some(obstacle) = obstacle { world.happens(next, obstacle) }
            if let Some(what) = what { world.arrives(next, what) }
            world.run_until(next);
            if world.dead.is_some() { break }
            if let Some(policy) = policy { world.set_policy(policy) }
            world.settle();
            if world.dead.is_some() { break }
            let is_heard = world.last_life == world.now && what.is_some() && !world.has_unread();
            prop_assert!(!is_heard || world.heart.missed() == 0);
        }
    }
}

#[test]
fn the_bound_is_named_however_long_it_is_and_off_is_off_whatever_else_is_set() {
    assert_eq!(HeartbeatPolicy::new(S, S).max_missed(u32::MAX).worst_case(), Some(S + u32::MAX * S));
    let off = HeartbeatPolicy::off().timeout(S).max_missed(1);
    let start = Instant::now();
    let mut heart = Heartbeat::new(off, start, 1.0);
    heart.ping_written(start, 0);
    assert_eq!(off.worst_case(), None);
    assert_eq!(heart.judge(start + 2 * S, &Evidence::new(0, start)), Action::Wait(None));
}
