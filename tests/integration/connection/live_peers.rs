//! Live peers are never found dead, however slow they or their handlers are.

use std::thread;
use std::time::{Duration, Instant};

use heartwire::{CloseReason, Event, HeartbeatPolicy, Liveness, Message};

use super::{brisk, start_echo};
use crate::support::{
    BINARY, Incoming, PING, PONG, TEXT, echo, fragment, is_closed, live, lost, masked, ms, server, start,
};

/// Two misses.
const DEADLY: Duration = Duration::from_millis(200);

const TEN_TIMES_THE_BOUND: Duration = Duration::from_secs(3);

#[test]
fn one_late_answer_takes_all_misses_back() {
    live(4 * ms(100), |pulse| {
        let running = start_echo(HeartbeatPolicy::new(ms(100), ms(100)).max_missed(4));
        let mut client = running.connect();
        for _ in 0..2 {
            // A third miss may have been on its way when the answer came; then the count starts over.
            while running.events.missed() != (1, 4) {}
            assert_eq!(running.events.missed(), (2, 4));
            let taken = client.try_write(&masked(TEXT, b"here I am"));
            pulse.beat();
            assert!(taken, "{:?}", running.events.so_far());
            assert_eq!(client.text(), "here I am");
        }
        assert_eq!(lost(&running.closed()), 4);
    });
}

#[test]
fn a_peer_that_answers_every_ping_lives_and_is_measured() {
    live(DEADLY, |pulse| {
        let running = start_echo(brisk());
        let mut client = running.connect();
        let end = Instant::now() + TEN_TIMES_THE_BOUND;
        let mut answered = 0;
        while let Incoming::Frame(ping) = client.next_before(end) {
            assert_eq!(ping.opcode, PING);
            client.send(PONG, &ping.payload);
            pulse.beat();
            answered += 1;
        }
        client.expect_echo("alive");
        let info = running.handle.connections().pop().expect("it is open");
        let round_trip = info.round_trip.expect("measured");
        assert!(round_trip.min <= round_trip.last && round_trip.samples == info.pongs, "{info:?}");
        assert!(info.pongs >= answered && info.pongs >= 10, "{answered} answered; {info:?}");
        assert!(!running.events.so_far().iter().any(is_closed));
    });
}

#[test]
fn a_peer_that_trickles_a_large_message_lives() {
    live(DEADLY, |pulse| {
        let running = start_echo(brisk());
        let mut client = running.connect();
        let message = "x".repeat(100_000);
        let frame = masked(TEXT, message.as_bytes());
        let (mut sent, start) = (0, Instant::now());
        while start.elapsed() < TEN_TIMES_THE_BOUND {
            let taken = client.try_write(&frame[sent..=sent]);
            pulse.beat();
            assert!(taken, "dead after {:?}: {:?}", start.elapsed(), running.events.so_far());
            sent += 1;
            thread::sleep(ms(25));
        }
        client.write(&frame[sent..]);
        assert_eq!(client.text(), message, "after {sent} single bytes");
        assert!(!running.events.so_far().iter().any(is_closed));
    });
}

#[test]
fn a_sleeping_handler_kills_nobody_and_the_stand_in_beats_for_it() {
    // An interval until the Ping, and two misses.
    live(3 * ms(100), |pulse| {
        let running = start(server().heartbeat(brisk()), |conn| {
            loop {
                let message = conn.recv()?;
                if message.as_text() == Some("sleep") {
                    thread::sleep(TEN_TIMES_THE_BOUND);
                }
                conn.send(message)?;
            }
        });
        let mut client = running.connect();
        client.expect_echo("hello");
        running.events.opened();
        client.send_text("sleep");
        let mut pings = 0;
        loop {
            let frame = client.frame();
            pulse.beat();
            match frame.opcode {
                PING => {
                    client.send(PONG, &frame.payload);
                    pings += 1;
                }
                _ => break assert_eq!(frame.text(), "sleep"),
            }
        }
        println!("{pings} Pings in {TEN_TIMES_THE_BOUND:?}");
        assert!(pings >= 10, "{pings} Pings in 30 intervals");
        client.expect_echo("alive");

        let mut stalled = running.events.so_far();
        stalled.retain(|event| matches!(event, Event::HandlerStalled { .. }));
        match &stalled[..] {
            [Event::HandlerStalled { away, .. }] => {
                assert!(*away >= ms(100) && *away < TEN_TIMES_THE_BOUND, "{away:?}")
            }
            other => panic!("one absence is one report: {other:?}"),
        }
        assert_eq!(running.handle.stats().handlers_stalled, 1);
        client.close();
        let report = running.closed();
        assert!(matches!(report.reason, CloseReason::Peer { .. }), "{report:?}");
    });
}

#[test]
fn what_came_while_the_handler_was_busy_is_life_even_if_the_deadline_has_passed() {
    // An interval until the Ping, and one miss.
    live(2 * ms(400), |pulse| {
        // The handler is away for less than is clearly late, so that the deadline has come and counts, if nothing was
        // read.
        let policy = HeartbeatPolicy::new(ms(400), ms(400)).max_missed(1);
        let running = start(server().heartbeat(policy), |conn| {
            loop {
                if conn.recv_timeout(ms(10))?.is_none() {
                    // Away for most of the time, listening for a moment.
                    thread::sleep(ms(45));
                }
            }
        });
        let mut client = running.connect();
        let end = Instant::now() + ms(2500);
        while let Incoming::Frame(ping) = client.next_before(end) {
            pulse.beat();
            assert_eq!(ping.opcode, PING, "{ping:?}");
            client.send(PONG, &ping.payload);
        }
        let events = running.events.so_far();
        assert!(!events.iter().any(|event| is_closed(event) || matches!(event, Event::Missed { .. })), "{events:?}");
    });
}

#[test]
fn with_pong_only_a_chatty_peer_that_answers_lives() {
    live(DEADLY, |pulse| {
        let running = start_echo(brisk().liveness(Liveness::PongOnly));
        let mut client = running.connect();
        let (mut pings, end) = (0, Instant::now() + TEN_TIMES_THE_BOUND);
        while Instant::now() < end {
            client.send_text("chatter");
            while let Incoming::Frame(frame) = client.next_within(ms(5)) {
                if frame.opcode == PING {
                    client.send(PONG, &frame.payload);
                    pings += 1;
                }
            }
            pulse.beat();
        }
        assert!(pings >= 10, "{pings} Pings");
        client.send_text("alive");
        while client.text() != "alive" {}
        assert!(!running.events.so_far().iter().any(is_closed));
    });
}

#[test]
fn with_pong_only_an_unsolicited_pong_is_life_but_no_measurement() {
    live(DEADLY, |pulse| {
        let running = start_echo(brisk().liveness(Liveness::PongOnly));
        let mut client = running.connect();
        let end = Instant::now() + 4 * ms(300);
        while Instant::now() < end {
            let taken = client.try_write(&masked(PONG, b""));
            pulse.beat();
            assert!(taken, "{:?}", running.events.so_far());
            thread::sleep(ms(20));
        }
        let info = running.handle.connections().pop().expect("it is open");
        assert!(info.pings > 0 && info.pongs == 0 && info.round_trip.is_none(), "{info:?}");
    });
}

#[test]
fn a_peer_that_reads_slowly_but_steadily_is_not_stalled() {
    const SIZE: usize = 24 * 1024 * 1024;
    const BYTES_IN_A_MILLISECOND: usize = 12_000;
    let policy = HeartbeatPolicy::new(ms(300), ms(300)).max_missed(3);
    live(3 * ms(300), |pulse| {
        let running = start(server().heartbeat(policy), |conn| {
            conn.send(vec![7; SIZE])?;
            echo(conn)
        });
        let mut client = running.connect();
        let (start, mut read) = (Instant::now(), 0);
        let frame = loop {
            // It lives: the Pings are behind the message. Only its slowness could be held against it.
            let taken = client.try_write(&masked(PONG, b""));
            pulse.beat();
            assert!(taken, "after {read} bytes: {:?}", running.events.so_far());
            if read >= start.elapsed().as_millis() as usize * BYTES_IN_A_MILLISECOND {
                thread::sleep(ms(5));
                continue;
            }
            let count = client.sip(64 * 1024);
            assert!(count > 0, "the end came after {read} bytes: {:?}", running.events.so_far());
            read += count;
            if let Some(frame) = client.sipped().filter(|frame| frame.opcode == BINARY) {
                break frame;
            }
        };
        println!("{SIZE} bytes in {:?}", start.elapsed());
        assert_eq!(frame.payload.len(), SIZE);
        assert!(start.elapsed() > policy.worst_case().unwrap(), "too quick to prove anything: {:?}", start.elapsed());
        client.expect_echo("done");
    });
}

#[test]
fn a_queued_message_does_not_keep_a_ping_from_a_live_but_slow_peer() {
    let (pinged, is_pinged) = crossbeam_channel::bounded(1);
    let running = start(server(), move |conn| {
        let message = conn.recv()?;
        // More than the kernel takes, so that it waits.
        conn.send(Message::binary(vec![0; 8 * 1024 * 1024]))?;
        assert!(conn.sender().queued() > 0);
        conn.sender().ping()?;
        let _ = pinged.send(());
        conn.send(message)?;
        conn.recv().map(drop)
    });
    let mut client = running.connect();
    client.write(&fragment(0x81, b"behind the Ping"));
    // The peer is so slow that it reads nothing until then.
    is_pinged.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(client.frame().payload.len(), 8 * 1024 * 1024);
    assert_eq!(client.frame().opcode, PING);
    assert_eq!(client.text(), "behind the Ping");
}
