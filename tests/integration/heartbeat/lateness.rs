//! We look late, were held up or asleep, or begin to look when the peer has been gone for long.

use std::time::Duration;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{Dead, Ping};

use super::world::Event::{Blocks, Paused, Spurious, Suspended};
use super::world::{FOREVER, MS, NS, PONG, S, What, World};
use super::{LIMIT, policy};

// We were held up.

#[test]
fn a_look_later_than_the_tolerance_is_no_miss_but_a_new_ping_with_a_fresh_timeout() {
    for (timeout, tolerance) in [(MS, 20 * MS), (80 * MS, 20 * MS), (S, 250 * MS), (4 * S, S), (60 * S, S)] {
        for (late, missed) in [(Duration::ZERO, 1), (tolerance, 1), (tolerance + NS, 0), (3600 * S, 0)] {
            let policy = HeartbeatPolicy::new(20_000 * S, timeout);
            let mut world = World::pinged(policy);
            // The looks before are ticks; this is the one at which the time is over.
            let written = world.now;
            world.run_until(written + timeout - NS);
            world.lags = [late].into();
            assert!(world.step(Duration::MAX));
            assert_eq!(world.now, written + timeout + late);
            assert_eq!(world.heart.missed(), missed, "{late:?} late for a timeout of {timeout:?}");
            assert_eq!(world.trace.last(), Some(&(world.now, Ping)));
            let again = world.now;
            world.run_until(again + timeout - NS);
            assert_eq!(world.heart.missed(), missed);
            world.run_until(again + timeout);
            assert_eq!(world.heart.missed(), missed + 1, "in time, this time");
        }
    }
}

#[test]
fn a_short_timeout_after_a_long_interval_forgives_one_pause_between_two_ticks() {
    let policy = HeartbeatPolicy::new(60 * S, 500 * MS).max_missed(1);
    let pause = |is_lossy| [(60_200 * MS, Paused(3 * S, is_lossy))];
    let mut world = World::new(policy).with(pause(false));
    world.run_until(FOREVER);
    assert_eq!(world.trace, [(60 * S, Ping), (63_200 * MS, Ping), (63_700 * MS, Dead(1))]);
    // What arrived while we were held up is life: no second Ping.
    let mut world = World::new(policy).with(pause(false)).answering(vec![400 * MS; 2]);
    world.run_until(130 * S);
    assert_eq!(world.trace, [(60 * S, Ping), (120 * S, Ping), (120_500 * MS, Ping)][..2]);
    // What the line lost comes again, or the answer to the fresh Ping does.
    let mut world = World::new(policy).with([(60_200 * MS, Paused(400 * MS, true))]).answering(vec![300 * MS; 3]);
    world.run_until(130 * S);
    assert!(world.trace.iter().all(|(_, action)| *action == Ping), "{:?}", world.trace);
    // A second pause in the same silence is none of the peer's luck.
    let mut world = World::new(policy).with(pause(false)).with([(63_300 * MS, Paused(3 * S, false))]);
    world.run_until(FOREVER);
    assert_eq!(world.trace[1..], [(63_200 * MS, Ping), (66_300 * MS, Dead(1))]);
}

#[test]
fn a_machine_that_is_overloaded_for_good_excuses_nobody_for_ever() {
    let lag = 5 * S;
    // Ping due at 20 s. A tick at 27.5 s comes at 32.5 s: excused, with a fresh Ping. Then three timeouts, each found
    // late.
    let mut world = World::new(policy()).late([], lag);
    assert_eq!(world.fate(FOREVER), Some((77_500 * MS, Dead(3))));
    // interval + L, and n + 1 times T + L.
    assert!(world.dead.unwrap() <= 20 * S + lag + 4 * (10 * S + lag));
    // The same where data waits: it is seen at 25 s, excused at 32.5 s by the 5 s that we were late, and found at 45 s.
    let mut world = World::new(policy()).late([], lag).with([(5 * S, Blocks)]);
    let (end, action) = world.fate(FOREVER).expect("it takes nothing");
    assert!(action == LIMIT && end <= 35 * S + lag + 10 * S + lag, "{end:?}");
}

#[test]
fn a_peer_that_wakes_up_with_us_has_its_timeout() {
    for (at, pings, dead) in [
        // Without a Ping under way nothing is to be excused.
        (10, vec![20, 30, 40], 50),
        (25, vec![20, 25, 35, 45], 55),
        // A miss stays a miss.
        (35, vec![20, 30, 35, 45], 55),
    ] {
        let mut world = World::new(policy()).with([(at * S, Suspended(8 * 3600 * S)), (at * S, Spurious)]);
        world.run_until(FOREVER);
        let sent: Vec<_> = world.trace.iter().filter(|(_, action)| *action == Ping).map(|(at, _)| *at).collect();
        let mut expected: Vec<_> = pings.into_iter().map(|at| at * S).collect();
        // The schedule goes on meanwhile.
        expected.extend(sent.iter().filter(|sent| sent.as_secs() == 40 && at > 10));
        expected.sort();
        assert_eq!((sent, world.dead), (expected, Some(dead * S)), "suspended at {at} s");
    }
    // The clock stood still, so what is stalled has one timeout more at most.
    for (at, end) in [(10, 35), (30, 40), (34, 44)] {
        let mut world = World::new(policy()).with([(5 * S, Blocks), (9 * S, Spurious)]);
        world = world.with([(at * S, Suspended(8 * 3600 * S)), (at * S, Spurious)]);
        assert_eq!(world.fate(FOREVER), Some((end * S, LIMIT)), "suspended at {at} s");
    }
    // Too short to matter.
    let mut world = World::new(policy()).with([(25 * S, Suspended(S)), (25 * S, Spurious)]);
    assert_eq!(world.fate(FOREVER), Some((50 * S, Dead(3))));
}

// A heartbeat that is switched on, and a line that is down.

#[test]
fn a_heartbeat_that_is_switched_on_finds_a_peer_that_is_dead_already() {
    for before in [HeartbeatPolicy::off(), HeartbeatPolicy::keepalive(S), policy().max_missed(100)] {
        // By its schedule, and by a Ping at once.
        for (pings_at_once, dead) in [(false, 507 + 50), (true, 507 + 30)] {
            let mut world = World::new(before);
            world.arrives(3 * S, What::Data(100));
            world.run_until(507 * S);
            world.trace.clear();
            world.set_policy(policy());
            if pings_at_once {
                world.ping();
            }
            assert_eq!(world.fate(FOREVER), Some((dead * S, Dead(3))));
        }
        let mut world = World::new(before).with([(3 * S, Blocks)]);
        world.run_until(507 * S);
        world.set_policy(policy());
        let (end, action) = world.fate(FOREVER).expect("it takes nothing");
        assert!(action == LIMIT && end <= 557 * S, "{end:?}");
    }
}

/// The line is down from the instant at which a Ping leaves. TCP sends again ever more rarely, and whatever is under
/// way arrives with the first segment that comes through: the answers are there at once.
#[test]
fn which_policies_outlive_a_line_that_is_down() {
    let again = [300, 900, 2_100, 4_500, 9_300, 18_900, 38_100].map(|ms| ms * MS);
    let up_after = |down: Duration| *again.iter().find(|at| **at >= down).expect("it comes back");
    assert_eq!((up_after(10 * S), up_after(19 * S)), (18_900 * MS, 38_100 * MS));
    for (interval, timeout, n, outlives_10, outlives_19) in [
        (20_000, 10_000, 3, true, false),
        (5_000, 2_000, 2, false, false),
        (45_000, 20_000, 3, true, true),
        (1_000, 500, 2, false, false),
        (1_000, 1_000, 4, false, false),
    ] {
        let policy = HeartbeatPolicy::new(interval * MS, timeout * MS).max_missed(n);
        for (down, outlives) in [(10 * S, outlives_10), (19 * S, outlives_19)] {
            let mut world = World::pinged(policy);
            let back = world.now + up_after(down);
            world.arrives(back, PONG);
            world.run_until(back);
            assert_eq!(world.dead.is_none(), outlives, "{policy:?} with the line down for {down:?}");
            // It lives as long as the answer takes no more than its patience.
            assert_eq!(outlives, up_after(down) <= n * timeout * MS);
            assert!(!outlives || world.heart.missed() == 0);
        }
    }
}
