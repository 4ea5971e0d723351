//! The heartbeat's state machine where the peer leads: windows of silence, announcements, and lies about them. By
//! tables and properties, as in `heartbeat.rs`.

use std::time::Duration;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{Dead, Missed, Ping, Wait};
use heartwire::heartbeat::Activity;
use heartwire::heartbeat::Liveness::PongOnly;
use proptest::collection::vec;
use proptest::prelude::*;

use super::strategies::{durations, frames, led_policies, phases, pings};
use super::world::{BYTES, Event, FOREVER, MS, NS, ORDINARY, PONG, Reader, S, What, World, announced};

/// Windows of 20 s, announced ones of 5 s to 60 s and 2 s more, dead after two.
fn led() -> HeartbeatPolicy {
    HeartbeatPolicy::peer_led(20 * S).timeout(2 * S).max_missed(2).announcements(5 * S, 60 * S)
}

#[test]
fn each_silent_window_is_a_miss_and_no_ping_is_sent() {
    let three = HeartbeatPolicy::peer_led(20 * S).max_missed(3);
    assert_eq!(World::new(three).play(FOREVER), [(20, Missed(1)), (40, Missed(2)), (60, Dead(3))]);
    assert_eq!(three.worst_case(), Some(60 * S));
    for n in [0, 1] {
        let mut world = World::in_phase(three.max_missed(n), 0.3);
        assert_eq!(world.play(FOREVER), [(20, Dead(1))], "in whatever phase");
        assert_eq!(world.judge(), Dead(1), "dead stays dead");
    }
    let mut world = World::new(three);
    for (due, action) in [(20 * S, Missed(1)), (40 * S, Missed(2)), (60 * S, Dead(3))] {
        world.now = due - NS;
        assert_eq!(world.judge(), Wait(Some(world.origin + due)));
        world.now = due;
        world.settle();
        assert_eq!(world.trace.last(), Some(&(due, action)));
    }
}

#[test]
fn any_life_starts_the_window_anew_and_forgets_the_misses() {
    for sign in [BYTES, PONG, ORDINARY] {
        let mut world = World::new(led());
        for at in [35, 40, 59] {
            world.arrives(at * S, sign);
        }
        assert_eq!(world.play(FOREVER), [(20, Missed(1)), (79, Missed(1)), (99, Dead(2))], "{sign:?}");
    }
    // At its end is in time, and just after it is not.
    for (late, missed) in [(Duration::ZERO, 0), (NS, 1)] {
        let mut world = World::new(led());
        world.arrives(20 * S + late, BYTES);
        world.run_until(20 * S);
        assert_eq!(world.heart.missed(), missed);
    }
}

#[test]
fn pong_only_takes_its_pings_and_pongs_and_no_data() {
    for (sign, lives) in [(BYTES, false), (PONG, true), (ORDINARY, true), (announced(20), true)] {
        let mut world = World::new(led().liveness(PongOnly));
        (0..100).for_each(|n| world.arrives(9 * n * S, sign));
        world.run_until(900 * S);
        assert_eq!(world.dead, (!lives).then_some(40 * S), "{sign:?}");
    }
}

#[test]
fn announced_windows_are_clamped_and_hold_until_the_next_ping() {
    let strict = led().liveness(PongOnly);
    let deaf = HeartbeatPolicy::peer_led(20 * S).timeout(2 * S).max_missed(2);
    let exact = HeartbeatPolicy::keepalive(S).led_by_peer(20 * S).max_missed(2).announcements(5 * S, 60 * S);
    let at_10 = |next| vec![(10, announced(next))];
    for (name, policy, signs, first, second) in [
        ("longer", led(), at_10(50), 62, 114),
        ("shorter", led(), at_10(8), 20, 30),
        ("as short as allowed", led(), at_10(5), 17, 24),
        ("shorter than allowed", led(), at_10(4), 17, 24),
        ("at once", led(), at_10(0), 17, 24),
        ("as long as allowed", led(), at_10(60), 72, 134),
        ("longer than allowed", led(), at_10(61), 72, 134),
        ("as good as for ever", led(), at_10(u64::MAX), 72, 134),
        ("an ordinary Ping", led(), vec![(10, ORDINARY)], 30, 50),
        ("announcements not heeded", deaf, at_10(50), 30, 50),
        ("no timeout to be slow in", exact, at_10(50), 60, 110),
        ("data leaves it as it is", led(), vec![(10, announced(50)), (30, BYTES)], 82, 134),
        ("so does a Pong", led(), vec![(10, announced(50)), (30, PONG)], 82, 134),
        ("a Ping takes it back", led(), vec![(10, announced(50)), (30, ORDINARY)], 50, 70),
        ("a shorter one replaces it", led(), vec![(10, announced(50)), (30, announced(8))], 40, 50),
        ("a longer one replaces it", led(), vec![(10, announced(8)), (15, announced(50))], 67, 119),
        ("with PongOnly as well", strict, vec![(10, announced(50)), (30, BYTES)], 62, 114),
    ] {
        let mut world = World::new(policy);
        signs.into_iter().for_each(|(at, sign)| world.arrives(at * S, sign));
        assert_eq!(world.play(FOREVER), [(first, Missed(1)), (second, Dead(2))], "{name}");
    }
}

#[test]
fn an_announcement_is_kept_or_else_a_lie_and_both_have_their_bound() {
    assert_eq!(led().worst_case(), Some(2 * 62 * S), "the longest window that it may have");
    let small = HeartbeatPolicy::peer_led(20 * S).timeout(2 * S).max_missed(2).announcements(S, 3 * S);
    assert_eq!(small.worst_case(), Some(2 * 20 * S), "which may be the one without an announcement");
    let swapped = HeartbeatPolicy::peer_led(20 * S).timeout(2 * S).max_missed(2).announcements(60 * S, 5 * S);
    assert_eq!(
        swapped.worst_case(),
        Some(2 * 62 * S),
        "bounds that are none: the longer is the shortest and the longest"
    );
    // Kept, each time at the last moment.
    let mut world = World::new(led());
    (0..10).for_each(|n| world.arrives((10 + 62 * n) * S, announced(60)));
    assert_eq!(world.play((10 + 620) * S), [(630, Missed(1))]);
}

#[test]
fn our_lateness_is_a_fresh_window_once_in_each_silence() {
    for (expect, tolerance) in [(MS, 20 * MS), (80 * MS, 20 * MS), (S, 250 * MS), (4 * S, S), (60 * S, S)] {
        for (late, missed) in [(Duration::ZERO, 1), (tolerance, 1), (tolerance + NS, 0), (3600 * S, 0)] {
            let mut world = World::new(HeartbeatPolicy::peer_led(expect)).late([late], Duration::ZERO);
            assert!(world.step(Duration::MAX));
            assert_eq!(world.now, expect + late);
            assert_eq!(world.heart.missed(), missed, "{late:?} late for a window of {expect:?}");
            assert_eq!(world.deadline(), Some(world.now + expect));
        }
    }
    // A second time in the same silence it is no excuse any more; in the next one it is again.
    let mut world = World::new(led()).late([], 5 * S);
    world.arrives(51 * S, BYTES);
    assert_eq!(world.play(FOREVER), [(50, Missed(1)), (101, Missed(1)), (126, Dead(2))]);
}

#[test]
fn a_suspended_machine_gives_it_a_fresh_window_and_no_more() {
    // Before the first window is over, two fresh ones follow; after it, its miss stays.
    for (at, dead) in [(1, 41), (19, 59), (20, 60), (25, 45), (39, 59)] {
        let mut world = World::new(led());
        world.happens(at * S, Event::Suspended(3600 * S));
        world.happens(at * S, Event::Spurious);
        world.run_until(FOREVER);
        assert_eq!(world.dead, Some(dead * S), "suspended at {at} s");
    }
}

#[test]
fn what_is_read_late_counts_from_when_it_arrived() {
    // Pings that came within a second, and are read one in five seconds; with a look at what waits in the meantime.
    for policy in [led(), led().liveness(PongOnly)] {
        let mut world = World::new(policy).read_by(Reader::Slow(6, 5 * S)).with([(S, Event::Spurious)]);
        (1..=4).for_each(|n| world.arrives(n * 200 * MS, ORDINARY));
        assert_eq!(world.play(FOREVER), [(21, Missed(1)), (41, Dead(2))]);
    }
}

#[test]
fn the_lead_can_change_hands() {
    let ours = HeartbeatPolicy::default().max_missed(1);
    for (name, before, at, after, expected) in [
        ("to the peer, with our clock running", ours, 25, led(), [(45, Missed(1)), (65, Dead(2))].as_slice()),
        ("to us, with an announcement in force", led(), 15, ours, &[(35, Ping), (45, Dead(1))]),
        ("to nobody", led(), 15, HeartbeatPolicy::off(), &[]),
        ("to the peer again: the announcement is forgotten", led(), 15, led(), &[(35, Missed(1)), (55, Dead(2))]),
    ] {
        let mut world = World::new(before);
        world.arrives(10 * S, announced(60));
        world.run_until(at * S);
        world.set_policy(after);
        world.trace.clear();
        assert_eq!(world.play(200 * S), expected, "{name}");
    }
    // An interval gives the lead back to us, and announcements without a leader change nothing.
    assert_eq!(led().interval(20 * S), HeartbeatPolicy::default().timeout(2 * S).max_missed(2));
    assert_eq!(HeartbeatPolicy::default().announcements(S, 2 * S), HeartbeatPolicy::default());
    assert_eq!(HeartbeatPolicy::off().announcements(S, 2 * S), HeartbeatPolicy::off());
}

#[test]
fn extreme_windows_neither_panic_nor_spin() {
    let durations = [Duration::ZERO, NS, MS, S, Duration::MAX];
    for (expect, longest) in durations.into_iter().flat_map(|a| durations.map(|b| (a, b))) {
        for max_missed in [0, 3, u32::MAX] {
            let policy = HeartbeatPolicy::peer_led(expect).announcements(NS, longest).max_missed(max_missed);
            assert!(policy.worst_case().is_some());
            let mut world = World::new(policy);
            world.arrives(Duration::ZERO, What::Frame(Activity::Ping { next: Some(Duration::MAX) }));
            (0..10).for_each(|_| _ = world.step(Duration::MAX));
            assert!(!world.trace.is_empty());
        }
    }
}

proptest! {
    #[test]
    fn death_comes_max_missed_windows_after_the_last_life_to_the_nanosecond(
        led in led_policies(), phase in phases(), lives in vec((durations(), frames()), 0..20),
    ) {
        let mut world = World::in_phase(led.policy, phase);
        let mut at = Duration::ZERO;
        let mut windows = Vec::new();
        for (pause, sign) in lives {
            at += pause;
            world.arrives(at, sign);
            if let What::Frame(Activity::Ping { next }) = sign { windows.push((at, led.window(next))) }
        }
        world.run_until(100 * FOREVER);
        let silence = world.dead.expect("a silent peer dies") - world.last_life;
        // The window in force is the last that was announced before the last life.
        let window = windows.iter().rfind(|(at, _)| *at <= world.last_life).map_or(led.expect, |(_, window)| *window);
        prop_assert_eq!(silence, led.n * window);
        prop_assert!(silence <= led.policy.worst_case().unwrap());
        prop_assert!(world.trace.iter().all(|(_, action)| *action != Ping));
    }

    /// Whenever we look, and however often the machine sleeps: n + 1 times its window and how late we look at most.
    #[test]
    fn it_dies_within_a_bound_however_late_we_look(
        led in led_policies(), lives in vec((durations(), frames()), 0..20), lag in durations(),
        lags in vec(prop_oneof![Just(Duration::ZERO), durations()], 0..50), is_at_looks in any::<bool>(),
        noise in vec(
            (0..300_000u32, prop_oneof![Just(Event::Spurious), durations().prop_map(Event::Suspended)]),
            0..10,
        ),
    ) {
        let latest = lags.iter().copied().max().unwrap_or_default().max(lag);
        let mut world = World::new(led.policy).late(lags, lag);
        if is_at_looks { world = world.read_by(Reader::AtLooks) }
        let mut at = Duration::ZERO;
        for (pause, what) in lives {
            at += pause;
            world.arrives(at, what);
        }
        world = world.with(noise.into_iter().map(|(at, event)| (at * MS, event)));
        world.run_until(100 * FOREVER);
        let dead = world.dead.expect("a silent peer dies");
        // What is read only when we look has not been there before, as far as we know.
        let last = world.last_arrival.max(world.last_read);
        let bound = (led.n + 1) * (led.policy.worst_case().unwrap() / led.n + latest);
        prop_assert!(dead.saturating_sub(last) <= bound, "{dead:?} is more than {bound:?} after {last:?}");
    }

    #[test]
    fn one_that_keeps_its_word_never_misses(
        led in led_policies(), pings in vec((pings(), prop_oneof![Just(1.0), 0.0..1.0]), 1..50),
        lag in prop_oneof![Just(Duration::ZERO), durations()],
    ) {
        let mut world = World::new(led.policy.max_missed(1)).late([], lag);
        let mut at = Duration::ZERO;
        let mut window = led.expect;
        for (sign, share) in pings {
            // Due when it was announced, and late by as much as it may be.
            at += window.mul_f64(share).min(window);
            world.arrives(at, sign);
            if let What::Frame(Activity::Ping { next }) = sign { window = led.window(next) }
        }
        world.run_until(at);
        prop_assert_eq!(world.trace, []);
    }
}
