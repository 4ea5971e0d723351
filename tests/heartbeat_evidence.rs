//! What may be concluded from what, where either side is slow, late or held up: the table of
//! [`Evidence`](heartwire::heartbeat::Evidence), by scenarios and by properties over random schedules of all of them.
//!
//! In the names of bounds: *T* is the timeout, *n* the misses allowed, *L* how late we look at most.

#[path = "support/world.rs"]
mod world;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{self, Dead, Missed, Ping, Stalled};
use heartwire::heartbeat::Liveness::{AnyByte, PongOnly};
use heartwire::heartbeat::{Evidence, Heartbeat};
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use world::Event::{self, Blocks, Drains, Holds, LetsGo, Paused, Reads, Spurious, StopsReading, Suspended, Takes};
use world::{BYTES, FOREVER, MS, NS, PONG, Reader, S, What, World, durations, frames, phases};

/// The default one, spelt out: dead after 30 s of silence from the first Ping on.
fn policy() -> HeartbeatPolicy {
    HeartbeatPolicy::new(20 * S, 10 * S).max_missed(3).liveness(AnyByte)
}

const LIMIT: Action = Stalled(Duration::from_secs(30));

fn misses(world: &World) -> Vec<(Duration, Action)> {
    world.trace.iter().filter(|(_, action)| *action != Ping).copied().collect()
}

/// The same every so many seconds, from a second on.
fn every(pause: u32, from: u32, event: Event) -> impl Iterator<Item = (Duration, Event)> {
    (0..2000 / pause).map(move |n| ((from + n * pause) * S, event))
}

// More bytes have arrived than when the Ping was written: alive, since they arrived.

#[test]
fn a_handler_that_always_looks_late_kills_nobody_who_answers_in_time() {
    for policy in [policy().max_missed(1), policy().max_missed(1).liveness(PongOnly)] {
        for lag in [2 * S, 9 * S, 30 * S, 3600 * S] {
            let mut world = World::new(policy).read_by(Reader::AtLooks).late([], lag).answering(vec![10 * S; 1000]);
            world.run_until(100 * (20 * S + lag));
            assert!(world.trace.len() > 50 && world.trace.iter().all(|(_, action)| *action == Ping), "{lag:?} late");
        }
    }
}

#[test]
fn an_old_backlog_is_no_news_however_slowly_it_is_read() {
    let mut world = World::new(policy()).read_by(Reader::Slow(1, S));
    world.arrives(5 * S, What::Data(1_000_000));
    world.arrives(6 * S, PONG);
    let three = [(20, Ping), (30, Missed(1)), (30, Ping), (40, Missed(2)), (40, Ping), (50, Dead(3))];
    assert_eq!(world.play(FOREVER), three, "50 s after its last byte at most");

    // Where only a Pong counts, one may be in there: it is dead when all of it was read, and not before.
    let mut world = World::new(policy().liveness(PongOnly)).read_by(Reader::Slow(1, S));
    world.arrives(5 * S, What::Data(100));
    world.arrives(6 * S, PONG);
    world.run_until(FOREVER);
    // The Pong in it came before the Ping.
    assert_eq!(misses(&world), [(110 * S, Missed(1)), (120 * S, Missed(2)), (130 * S, Dead(3))]);
}

#[test]
fn news_that_wait_in_the_socket_are_life_before_they_are_read() {
    let mut world = World::new(policy().max_missed(1)).read_by(Reader::Slow(1, S));
    world.arrives(5 * S, What::Data(1_000_000));
    // A byte within each timeout, which is read days later.
    (0..40).for_each(|n| world.arrives((30 + 20 * n) * S, BYTES));
    world.run_until(FOREVER);
    assert_eq!(world.dead, Some(830 * S), "the Ping at 820 s is the first that nothing follows");
}

#[test]
fn where_only_a_pong_counts_a_flood_hides_none_and_replaces_none() {
    let strict = policy().liveness(PongOnly);
    let flood = || (1..=10_000).map(|n| (n * 100 * MS, Event::Arrives(What::Data(1000))));
    // It is read half as fast as it arrives.
    let reader = Reader::Slow(500, 100 * MS);
    let mut answered = World::new(strict.max_missed(1)).read_by(reader).with(flood()).answering(vec![9 * S; 1000]);
    answered.run_until(FOREVER);
    assert_eq!(answered.dead, None, "each Pong was there in time, however late it was read");

    // What had arrived by 30 s is read by 60 s: then the first is missed. And so on.
    let mut unanswered = World::new(strict).read_by(reader).with(flood());
    unanswered.run_until(FOREVER);
    let whole = misses(&unanswered)
        .into_iter()
        .map(|(at, action)| (at.as_secs_f64().round() as u32, action))
        .collect::<Vec<_>>();
    assert_eq!(whole, [(60, Missed(1)), (140, Missed(2)), (300, Dead(3))]);
}

// Our Ping waits behind data, or data waits: the stall rule.

#[test]
fn a_silent_peer_that_takes_nothing_is_stalled_after_its_last_byte() {
    for (name, events, end) in [
        ("from the beginning", vec![(5, Blocks)], 35),
        ("it said something later", vec![(5, Blocks), (17, Event::Arrives(BYTES))], 47),
        ("it took something later", vec![(5, Blocks), (34, Takes)], 64),
        ("both", vec![(5, Blocks), (34, Takes), (60, Event::Arrives(BYTES))], 90),
        ("the other way round", vec![(5, Blocks), (34, Event::Arrives(BYTES)), (60, Takes)], 90),
        ("the Ping had not been asked for", vec![(5, Blocks), (6, Spurious)], 35),
        ("we do not read", vec![(5, Blocks), (6, Event::Arrives(BYTES)), (6, StopsReading)], 36),
    ] {
        let events = events.into_iter().map(|(at, event)| (at * S, event));
        let mut world = World::new(policy()).with(events);
        assert_eq!(world.fate(FOREVER), Some((end * S, LIMIT)), "{name}: {:?}", world.trace);
        assert_eq!(world.missed, 0, "{name}");
    }
    // Taken one nanosecond before its time is over, it lives on for as long.
    let mut world = World::new(policy()).with([(5 * S, Blocks), (35 * S - NS, Takes)]);
    assert_eq!(world.fate(FOREVER), Some((65 * S - NS, LIMIT)));
    // It is not found before we look: at the next Ping at the latest.
    let rare = HeartbeatPolicy::new(60 * S, S).max_missed(2);
    let mut world = World::new(rare).with([(5 * S, Blocks)]);
    assert_eq!(world.fate(FOREVER), Some((60 * S, Stalled(2 * S))));
}

#[test]
fn where_the_peer_leads_and_takes_nothing_it_is_stalled_or_silent_whichever_is_first() {
    let led = HeartbeatPolicy::peer_led(20 * S).timeout(10 * S).max_missed(3);
    let mut world = World::new(led).with([(5 * S, Blocks)]);
    assert_eq!(world.fate(FOREVER), Some((35 * S, LIMIT)));
    let mut world = World::new(led).with([(5 * S, Blocks)]).with(every(29, 29, Takes));
    assert_eq!(world.fate(FOREVER), Some((60 * S, Dead(3))), "it is asked for a sign all the same");
}

#[test]
fn a_peer_that_talks_and_takes_nothing_lives() {
    for policy in [policy(), HeartbeatPolicy::peer_led(25 * S).timeout(10 * S)] {
        let mut world = World::new(policy).with([(5 * S, Blocks)]).with(every(19, 19, Event::Arrives(BYTES)));
        world.run_until(FOREVER);
        assert_eq!(world.dead, None);
        assert!(world.trace.iter().all(|(_, action)| *action == Ping), "{:?}", world.trace);
    }
}

#[test]
fn a_ping_behind_data_that_is_taken_slowly_leads_to_no_conclusion() {
    let mut world = World::new(policy().max_missed(3)).with([(5 * S, Blocks)]).with(every(29, 29, Takes));
    world.run_until(FOREVER);
    assert!(world.dead.is_none() && world.trace.iter().all(|(_, action)| *action == Ping), "{:?}", world.trace);
}

#[test]
fn a_ping_that_waited_has_its_timeout_from_when_it_left() {
    for left in [21, 29, 30, 31, 44, 45, 46] {
        let mut world = World::new(policy()).with([(18 * S, Blocks), (left * S, Drains)]);
        world.run_until(FOREVER);
        let after = |seconds| (left + seconds) * S;
        assert_eq!(
            misses(&world),
            [(after(10), Missed(1)), (after(20), Missed(2)), (after(30), Dead(3))],
            "left at {left} s"
        );
    }
    // An answer within that is in time.
    for (latency, missed) in [(10 * S, 0), (10 * S + NS, 1)] {
        let mut world = World::new(policy()).with([(18 * S, Blocks), (44 * S, Drains)]).answering([latency]);
        world.run_until(54 * S);
        assert_eq!(world.heart.missed(), missed);
    }
}

#[test]
fn a_ping_that_the_driver_reports_a_moment_after_it_left_has_left() {
    // The socket says when it took the Ping, and the driver looks at its clock afterwards.
    let start = Instant::now();
    let mut heart = Heartbeat::new(policy(), start, 1.0);
    let mut evidence = Evidence::new(0, start);
    heart.judge(start, &evidence);
    assert_eq!(heart.judge(start + 20 * S, &evidence), Ping);
    evidence.ping_left = Some(start + 20 * S);
    heart.ping_written(start + 20 * S + MS, 0);
    evidence.is_held_back = true;
    for tick in 1..=12u32 {
        evidence.is_held_back = tick < 6;
        let now = start + 20 * S + MS + tick * 2500 * MS;
        let action = heart.judge(now, &evidence);
        // Held back until 32.5 s at least, and seen to be gone at 35 s.
        assert_eq!(action == Missed(1), tick == 10, "{action:?} at the {tick}th tick");
        if action == Missed(1) {
            return;
        }
    }
}

#[test]
fn a_ping_that_left_is_missed_though_later_ones_wait() {
    // From the first miss on, it is no excuse that the next Ping waits.
    for blocked in [21, 29] {
        let mut world = World::new(policy()).with([(blocked * S, Blocks)]).with(every(5, 31, Takes));
        let trace = world.play(FOREVER);
        assert_eq!(trace.last(), Some(&(50, Dead(3))), "data waits from {blocked} s on: {trace:?}");
    }
    // Nor that a scheduled one does, while the first has its timeout.
    let mut world = World::new(HeartbeatPolicy::new(4 * S, 10 * S).max_missed(1)).with([(5 * S, Blocks)]);
    world.happens(9 * S, Takes);
    assert_eq!(world.play(FOREVER), [(4, Ping), (8, Ping), (12, Ping), (14, Dead(1))]);
}

#[test]
fn what_the_systems_buffer_holds_back_waits_as_well_and_not_for_ever() {
    // Data was written at 5 s, and the Ping at 20 s goes into the buffer behind it; so do those that follow.
    let mut world = World::new(policy()).with([(5 * S, Holds)]);
    assert_eq!(world.play(FOREVER), [(20, Ping), (40, Ping), (50, LIMIT)]);
    let brisk = HeartbeatPolicy::new(S, 10 * S).max_missed(3);
    assert_eq!(World::new(brisk).with([(S / 2, Holds)]).fate(FOREVER), Some((31 * S, LIMIT)), "a Ping each second");

    // When it lets go, the Ping has its timeout from when that was seen: a tick later at most.
    let tick = 2500 * MS;
    for let_go in [21, 30, 37, 44] {
        let mut world = World::new(policy()).with([(5 * S, Holds), (let_go * S, LetsGo)]);
        let (end, action) = world.fate(FOREVER).expect("it is silent");
        let silence = end - let_go.max(20) * S;
        assert_eq!(action, Dead(3), "let go at {let_go} s: {:?}", world.trace);
        assert!((end == 50 * S && let_go <= 30) || 30 * S <= silence && silence <= 30 * S + tick, "{silence:?}");
    }
    // At 30 s it still waits, so its answer may take as long from when it left; at 29 s it has left, and may not.
    for (let_go, missed) in [(31, 0), (29, 1)] {
        let mut world = World::new(policy()).with([(5 * S, Holds), (let_go * S, LetsGo)]).answering(vec![10 * S; 100]);
        world.run_until(1000 * S);
        assert_eq!((world.dead, misses(&world).len()), (None, missed));
    }
    // From our queue into the buffer: it has taken something, and has as long again.
    let mut world = World::new(policy()).with([(15 * S, Holds), (18 * S, Blocks), (44 * S, Drains)]);
    let (end, action) = world.fate(FOREVER).expect("it takes nothing more");
    assert_eq!(action, LIMIT);
    assert!((74 * S..=74 * S + tick).contains(&end), "{end:?}");
}

// We have stopped reading: nothing by silence.

#[test]
fn nobody_is_missed_while_there_is_no_room_for_an_answer() {
    for policy in [policy(), policy().liveness(PongOnly), HeartbeatPolicy::peer_led(20 * S)] {
        let mut world = World::new(policy).with([(15 * S, Event::Arrives(BYTES)), (15 * S, StopsReading)]);
        world.run_until(FOREVER);
        assert!(world.trace.iter().all(|(_, action)| *action == Ping), "{:?}", world.trace);
    }
}

#[test]
fn where_reading_went_on_a_peer_has_its_timeout_from_then() {
    let stop = || [(15 * S, Event::Arrives(BYTES)), (15 * S, StopsReading)];
    for (policy, allowed) in
        [(policy(), 10), (policy().liveness(PongOnly), 10), (HeartbeatPolicy::peer_led(20 * S), 20)]
    {
        for resumed in [31, 100, 131] {
            let mut silent = World::new(policy).with(stop()).with([(resumed * S, Reads)]);
            silent.run_until(FOREVER);
            let after = |n: u32| (resumed + n * allowed) * S;
            assert_eq!(misses(&silent), [(after(1), Missed(1)), (after(2), Missed(2)), (after(3), Dead(3))]);
            // What comes within it is in time, and what comes after is not.
            for (late, missed) in [(Duration::ZERO, 0), (NS, 1)] {
                let mut world = World::new(policy).with(stop()).with([(resumed * S, Reads)]);
                world.arrives(after(1) + late, PONG);
                world.run_until(after(1));
                assert_eq!(world.heart.missed(), missed);
            }
        }
    }
    // What arrived while nothing was read is life, since it arrived.
    let mut world = World::new(policy().max_missed(1)).with(stop()).with(every(18, 18, Event::Arrives(BYTES)));
    world.run_until(FOREVER);
    assert_eq!(world.dead, None);
}

#[test]
fn a_ping_that_waits_still_waits_when_reading_goes_on() {
    let mut world = World::new(policy()).with([(15 * S, Event::Arrives(BYTES)), (15 * S, StopsReading)]);
    world = world.with([(18 * S, Blocks), (60 * S, Reads)]).with(every(25, 25, Takes));
    world.run_until(FOREVER);
    assert!(world.dead.is_none() && world.missed == 0, "{:?}", world.trace);
}

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
    // Ping due at 20 s. A tick at 27.5 s comes at 32.5 s: excused, with a fresh Ping. Then three timeouts, each found late.
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

/// The line is down from the instant at which a Ping leaves. TCP sends again ever more rarely, and whatever is under way
/// arrives with the first segment that comes through: the answers are there at once.
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
                let first = world.unanswered_since.expect("a Ping was unanswered");
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
        (policy, ..) in deadly(), phase in phases(), reader in readers().prop_filter("reads", |r| *r != Reader::AtLooks),
        arrivals in happenings(frames().prop_map(Event::Arrives)), resistance in happenings(resistance()),
        reading in happenings(reading()),
        spurious in vec(0..300_000u32, 1..100),
    ) {
        let looks = arrivals.iter().chain(&resistance).chain(&reading).map(|(at, _)| (*at, Spurious)).collect::<Vec<_>>();
        let mut quiet = World::in_phase(policy, phase).read_by(reader);
        quiet = quiet.with(arrivals).with(resistance).with(reading).with(looks);
        let mut disturbed = quiet.clone().with(spurious.into_iter().map(|at| (at * MS, Spurious)));
        quiet.run_until(300 * S);
        disturbed.run_until(300 * S);
        prop_assert_eq!(disturbed.trace, quiet.trace);
    }

    /// Whatever we do, and whenever we look: interval + T / 4 + L, and n + 1 times T + L, after the last byte came or went.
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
        let pauses: Duration = noise.iter().map(|(_, event)| if let Paused(length, _) = event { *length } else { Duration::ZERO }).sum();
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
