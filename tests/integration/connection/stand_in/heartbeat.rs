//! The heartbeat of a connection whose handler is away, in both directions.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{CloseReason, Event, HeartbeatPolicy, Liveness};

use super::{Then, quick, start_away};
use crate::support::{
    BINARY, CEILING, Client, Incoming, PING, PONG, TEXT, client_for, echo, eventually, is_closed, live, masked, ms,
    receive, server, start, url,
};

#[test]
fn a_peer_that_dies_while_its_handler_sleeps_is_found_and_reported_before_the_handler_is_back() {
    let policy = quick();
    let (running, open, _) = start_away(server().heartbeat(policy), true, echo);
    let mut client = running.connect();
    let before = Instant::now();
    client.send_text("my last words");
    let report = running.closed();
    assert!(before.elapsed() >= 2 * ms(400), "found after {:?}", before.elapsed());
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }));
    println!("found after {:?}, bound {:?}", before.elapsed(), policy.worst_case());
    drop(open);
    assert_eq!(client.frame().opcode, PING, "the stand-in beats");
}

#[test]
fn an_answer_that_comes_at_once_is_news_whoever_looks_for_it() {
    // Quicker than the thread that has sent the Ping comes to its next line.
    let policy = HeartbeatPolicy::new(ms(20), ms(500)).max_missed(1);
    for is_away in [false, true] {
        live(ms(500), |pulse| {
            let (running, open, _) = start_away(server().heartbeat(policy), is_away, echo);
            let mut client = running.connect();
            client.send_text("go on");
            let _open = if is_away { Some(open) } else { None };
            for _ in 0..100 {
                let frame = client.frame();
                if frame.opcode == PING {
                    client.send(PONG, &frame.payload);
                }
                pulse.beat();
            }
            assert_eq!(running.handle.stats().missed, 0);
        });
    }
}

#[test]
fn a_polling_handler_keeps_nobody_dead_alive_and_kills_nobody_who_lives() {
    live(3 * ms(400), |pulse| {
        let polls: Then = |conn| {
            loop {
                conn.recv_timeout(Duration::ZERO)?;
                thread::sleep(ms(1500));
            }
        };
        let (running, open, _) = start_away(server().heartbeat(quick()), false, polls);
        drop(open);
        let dead = running.connect();
        let dead_id = running.events.opened();
        let mut alive = running.connect();
        let end = Instant::now() + ms(4000);
        while let Incoming::Frame(frame) = alive.next_before(end) {
            pulse.beat();
            assert_eq!(frame.opcode, PING);
            alive.send(PONG, &frame.payload);
        }
        let report = running.events.closed_of(dead_id);
        assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }));
        assert!(!running.events.so_far().iter().any(is_closed), "only one of them was dead");
        drop(dead);
    });
}

#[test]
fn pings_of_the_peer_are_answered_while_the_handler_sleeps_or_waits_for_room() {
    for (name, away) in [("asleep", false), ("waiting for room", true)] {
        let (waits, is_waiting) = (Arc::new(AtomicBool::new(away)), Arc::new(AtomicBool::new(false)));
        let (open, gate) = bounded::<()>(0);
        let (waits_there, is_waiting_there) = (Arc::clone(&waits), Arc::clone(&is_waiting));
        let running = start(server().queue_size(100_000), move |conn| {
            is_waiting_there.store(true, SeqCst);
            while waits_there.load(SeqCst) {
                conn.send(vec![7; 50_000])?;
            }
            let _ = gate.recv();
            echo(conn)
        });
        let mut client = running.connect();
        eventually("the handler has begun", || is_waiting.load(SeqCst));
        thread::sleep(ms(300));
        let mut worst = Duration::ZERO;
        for number in 0..5_u32 {
            let asked = Instant::now();
            client.send(PING, number.to_string());
            loop {
                let frame = client.frame();
                if frame.opcode == PONG {
                    assert_eq!(frame.payload, number.to_string().into_bytes());
                    break;
                }
                assert_eq!(frame.opcode, BINARY);
            }
            worst = worst.max(asked.elapsed());
        }
        println!("{name}: the slowest Pong took {worst:?}");
        assert!(worst < CEILING, "{name}: {worst:?}");
        waits.store(false, SeqCst);
        drop(open);
        drop(client);
    }
}

#[test]
fn texts_of_a_page_are_answered_while_the_handler_sleeps_and_never_reach_it() {
    let (running, open, _) = start_away(server().text_heartbeat(true), false, echo);
    let mut client = running.connect();
    for ping in ["ping", "ping next=5000"] {
        client.send_text(ping);
        assert_eq!(client.text(), "pong");
    }
    client.send_text("a message");
    drop(open);
    assert_eq!(client.text(), "a message");
}

#[test]
fn set_heartbeat_from_another_thread_finds_a_peer_that_was_dead_already() {
    // In `recv`, quietly or just after much was said, and in the handler.
    for (name, is_away, messages) in [("waiting", false, 0), ("talking", false, 50), ("away", true, 0)] {
        let (running, open, senders) = start_away(server(), false, echo);
        let _open = Some(open).filter(|_| is_away);
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        for _ in 0..messages {
            client.expect_echo("hello");
        }
        thread::sleep(if messages > 0 { Duration::ZERO } else { ms(300) });
        sender.set_heartbeat(HeartbeatPolicy::new(Duration::from_secs(3600), ms(200)).max_missed(2)).unwrap();
        let report = running.closed();
        assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }), "{name}");
    }
}

#[test]
fn a_client_whose_own_handler_sleeps_answers_its_server_and_finds_it_dead() {
    // The server pings, and takes whoever does not answer for dead.
    let strict = HeartbeatPolicy::new(ms(300), ms(1500)).max_missed(1).liveness(Liveness::PongOnly);
    let running = start(server().heartbeat(strict), echo);
    let client = client_for(&url(running.address(), "/"));
    let client = client.heartbeat(quick()).no_reconnect();
    let (handle, events) = (client.handle(), client.handle().events());
    let (open, gate) = bounded::<()>(0);
    let thread = thread::spawn(move || {
        client.run(move |conn| {
            let _ = gate.recv();
            conn.send("awake")?;
            assert_eq!(conn.recv()?.as_text(), Some("awake"));
            Ok(())
        })
    });
    thread::sleep(ms(4000));
    assert!(!running.events.so_far().iter().any(is_closed), "{:?}", running.events.so_far());
    assert!(!events.try_iter().any(|event| is_closed(&event)));
    drop(open);
    thread.join().unwrap().unwrap();
    assert!(handle.has_ended());
}

// A peer that lives and takes nothing.

#[test]
fn a_peer_that_talks_and_takes_nothing_lives_unless_it_was_given_a_limit() {
    let policy = HeartbeatPolicy::new(ms(300), ms(200)).max_missed(2);
    for limit in [None, Some(ms(1500))] {
        let server = server().heartbeat(policy).full_queue_timeout(limit).queue_size(100_000);
        let running = start(server, |conn| {
            loop {
                conn.send(vec![1; 50_000])?;
            }
        });
        let mut client = running.connect();
        let end = Instant::now() + ms(4000);
        while Instant::now() < end && client.try_write(&masked(TEXT, b"I am here")) {
            thread::sleep(ms(20));
        }
        // Whoever has a limit is closed by now, or about to be reported.
        let closed = match limit {
            Some(_) => Some(running.closed().reason),
            None => running.events.so_far().into_iter().find_map(|event| match event {
                Event::Closed(report) => Some(report.reason),
                _ => None,
            }),
        };
        let stalled =
            |reason: &CloseReason| matches!(reason, CloseReason::WriteStalled { limit: it, .. } if Some(*it) == limit);
        assert!(closed.as_ref().map_or(limit.is_none(), stalled), "{closed:?}");
    }
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_by_its_limit_where_there_is_no_heartbeat() {
    let limit = ms(300);
    for waits_in_recv in [true, false] {
        let server = server().heartbeat(HeartbeatPolicy::off()).full_queue_timeout(Some(limit)).queue_size(100_000);
        let running = start(server, move |conn| {
            let sender = conn.sender();
            // Whoever fills the queue begins when nothing is due any more.
            let fill = move || {
                thread::sleep(ms(200));
                while sender.send(vec![1; 50_000]).is_ok() {}
            };
            if waits_in_recv {
                thread::spawn(fill);
                return conn.recv().map(drop);
            }
            fill();
            Ok(())
        });
        let _takes_nothing = running.connect();
        let reason = running.closed().reason;
        assert!(matches!(reason, CloseReason::WriteStalled { limit: it, .. } if it == limit), "{reason}");
    }
}

/// Whether the peer's Ping is answered soon.
fn answers(client: &mut Client) -> bool {
    client.send(PING, "are you there?");
    let soon = Instant::now() + ms(2000);
    loop {
        match client.next_before(soon) {
            Incoming::Frame(frame) if frame.opcode == PONG => return true,
            Incoming::Frame(_) => {}
            _ => return false,
        }
    }
}

#[test]
fn a_peer_is_stood_in_for_again_when_the_handler_has_made_room_and_left() {
    let (go, gate) = bounded::<()>(0);
    let running = start(server().read_ahead(10_000).close_timeout(ms(500)), move |conn| {
        let _ = gate.recv();
        for _ in 0..10 {
            conn.recv()?;
        }
        let _ = gate.recv();
        Ok(())
    });
    let mut client = running.connect();
    for _ in 0..12 {
        client.send_text(&"x".repeat(1000));
    }
    // By now no more is read ahead.
    thread::sleep(ms(500));
    go.send(()).unwrap();
    assert!(answers(&mut client), "there is room again, and the handler is away");
    client.send_close(1000, "");
    assert_eq!(running.closed().reason.name(), "peer");
    drop(go);
}

#[test]
fn a_peer_is_stood_in_for_after_another_thread_has_switched_the_heartbeat_off() {
    let (running, open, senders) = start_away(server(), true, echo);
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    // The handler waits in `recv`, and so long that it does not hold the receiving end.
    thread::sleep(ms(300));
    sender.set_heartbeat(HeartbeatPolicy::off()).unwrap();
    thread::sleep(ms(200));
    client.send_text("and now it goes away");
    thread::sleep(ms(200));
    assert!(answers(&mut client));
    drop(open);
}

#[test]
fn no_heart_beats_for_a_peer_that_has_said_close_while_the_handler_works_through_what_it_said_before() {
    let replies_slowly: Then = |conn| {
        loop {
            let message = conn.recv()?;
            thread::sleep(ms(300));
            conn.send(message)?;
        }
    };
    let policy = HeartbeatPolicy::new(ms(300), ms(200)).max_missed(2);
    let (running, open, _) = start_away(server().heartbeat(policy).close_timeout(CEILING), false, replies_slowly);
    let mut client = running.connect();
    for text in ["one", "two", "three", "four", "five"] {
        client.send_text(text);
    }
    client.send_close(1000, "that is all");
    thread::sleep(ms(250));
    drop(open);
    for text in ["one", "two", "three", "four", "five"] {
        let frame = client.frame();
        assert_eq!((frame.opcode, frame.text()), (TEXT, text), "whoever has said Close answers no Ping");
    }
    client.expect_close();
    let report = running.closed();
    assert_eq!((report.reason.name(), report.missed), ("peer", 0), "{report:?}");
    assert_eq!(running.handle.stats().missed, 0);
}
