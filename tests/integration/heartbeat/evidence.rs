//! What may be concluded from what, where either side is slow or held up: the table of
//! [`Evidence`](heartwire::heartbeat::Evidence), by scenarios.

use std::time::{Duration, Instant};

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{Dead, Missed, Ping, Stalled};
use heartwire::heartbeat::Liveness::PongOnly;
use heartwire::heartbeat::{Evidence, Heartbeat};

use super::world::Event::{self, Blocks, Drains, Holds, LetsGo, Reads, Spurious, StopsReading, Takes};
use super::world::{BYTES, FOREVER, MS, NS, PONG, Reader, S, What, World};
use super::{LIMIT, misses, policy};

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
