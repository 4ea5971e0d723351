//! While a handler is away from `recv`, a thread stands in for it: the peer is answered and judged all the same, and what
//! it sends waits in order.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender as Queue, bounded, unbounded};
use heartwire::{
    Client as HeartwireClient, CloseReason, ConfirmError, Connection, Error, Event, HeartbeatPolicy, Liveness, Message,
    Sender, Server, TrySendError,
};
use support::{
    BINARY, CEILING, CLOSE, End, Incoming, PING, PONG, Running, TEXT, close_payload, eventually, live, masked, ms,
    receive, server, start,
};

/// Longer than any test takes: a handler that is away for good, until its test lets it go.
struct Absence {
    gate: Receiver<()>,
}

/// A server whose handler takes one message, if it is to, and then waits for the gate: until that is dropped.
fn start_away(server: Server, takes_first: bool, then: Then) -> (Running, Queue<()>, Receiver<Sender>) {
    let (open, gate) = bounded(0);
    let (senders, received) = unbounded();
    let absence = Arc::new(Absence { gate });
    let running = start(server, move |conn| {
        let _ = senders.send(conn.sender());
        if takes_first {
            conn.recv()?;
        }
        let _ = absence.gate.recv();
        then(conn)
    });
    (running, open, received)
}

type Then = fn(&mut Connection) -> Result<(), Error>;

/// Echoes what has come, up to the end.
fn echo_all(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.send(message)?;
    }
}

fn is_closed(event: &Event) -> bool {
    matches!(event, Event::Closed(_))
}

fn quick() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(400), ms(400)).max_missed(2)
}

// The heartbeat.

#[test]
fn a_peer_that_dies_while_its_handler_sleeps_is_found_and_reported_before_the_handler_is_back() {
    let policy = quick();
    let (running, open, _) = start_away(server().heartbeat(policy), true, echo_all);
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
            let (running, open, _) = start_away(server().heartbeat(policy), is_away, echo_all);
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
        assert_eq!(frame.opcode, PING);
        alive.send(PONG, &frame.payload);
    }
    let report = running.events.closed_of(dead_id);
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }));
    assert!(!running.events.so_far().iter().any(is_closed), "only one of them was dead");
    drop(dead);
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
            echo_all(conn)
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
    let (running, open, _) = start_away(server().text_heartbeat(true), false, echo_all);
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
fn a_heartbeat_that_another_thread_switches_on_finds_a_peer_that_was_dead_already() {
    // In `recv`, quietly or just after much was said, and in the handler.
    for (name, is_away, messages) in [("waiting", false, 0), ("talking", false, 50), ("away", true, 0)] {
        let (running, open, senders) = start_away(server(), false, echo_all);
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
    let running = start(server().heartbeat(strict), support::echo);
    let client = HeartwireClient::new(&format!("ws://{}/", running.address())).unwrap();
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

// What is read ahead.

#[test]
fn what_was_read_ahead_waits_in_order_before_what_comes_later() {
    const MESSAGES: usize = 2_000;
    let (running, open, _) = start_away(server(), false, echo_all);
    let mut client = running.connect();
    let mut writer = client.try_clone();
    let sending = thread::spawn(move || {
        for number in 0..MESSAGES {
            writer.send_text(&format!("{number} {}", "x".repeat(number % 200)));
            if number % 100 == 0 {
                thread::sleep(ms(3));
            }
        }
    });
    thread::sleep(ms(400));
    drop(open);
    for number in 0..MESSAGES {
        assert_eq!(client.text(), format!("{number} {}", "x".repeat(number % 200)));
    }
    sending.join().unwrap();
    client.close();
}

#[test]
fn no_more_is_read_ahead_than_may_be_and_a_message_under_way_is_read_to_its_end() {
    // The sizes of the buffers of two systems are beside the point: what counts is what our process took out of them.
    let taken = |read_ahead: usize, max_buffered: usize, size: usize| {
        let server = server().read_ahead(read_ahead).max_buffered(max_buffered).max_message_size(1 << 20);
        let (running, open, _) = start_away(server, false, echo_all);
        let mut client = running.connect();
        running.events.opened();
        let mut writer = client.try_clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let sending = thread::spawn(move || {
            let frame = masked(BINARY, &vec![1; size]);
            while !stopping.load(SeqCst) && writer.try_write(&frame) {}
        });
        let read = || running.handle.connections()[0].traffic.bytes_in as usize;
        let mut before = usize::MAX;
        eventually("it reads no further", || {
            thread::sleep(ms(300));
            std::mem::replace(&mut before, read()) == read()
        });
        let taken = read();
        stop.store(true, SeqCst);
        drop(open);
        let reading = thread::spawn(move || client.drain_within(CEILING));
        sending.join().unwrap();
        drop(running);
        let _ = reading.join();
        taken
    };
    // Beyond the bound there may be what one read took in, and the message that was under way.
    let buffer = 65 * 1024;
    for (read_ahead, max_buffered, size) in [
        (64 * 1024, usize::MAX, 1000),
        (64 * 1024, usize::MAX, 300_000),
        (usize::MAX, 200_000, 1000),
        (0, usize::MAX, 1000),
    ] {
        let taken = taken(read_ahead, max_buffered, size);
        // One alone gets half of the total.
        let bound = read_ahead.min(max_buffered / 2);
        println!("read {taken} bytes ahead where {bound} are the bound, in messages of {size}");
        assert!(taken <= bound + size + buffer, "{taken} bytes where {bound} are the bound");
        assert!(bound == 0 || taken >= bound / 2, "{taken} bytes where {bound} are the bound");
    }
}

#[test]
fn messages_of_a_peer_that_has_died_are_still_the_handlers() {
    let (open, gate) = bounded::<()>(0);
    let (messages, received) = unbounded();
    let running = start(server().heartbeat(quick()), move |conn| {
        let _ = gate.recv();
        loop {
            let message = conn.recv();
            let is_end = message.is_err();
            let _ = messages.send(message.map_err(|error| error.to_string()));
            if is_end {
                return Ok(());
            }
        }
    });
    let mut client = running.connect();
    client.send_text("one");
    client.send_text("two");
    assert!(matches!(running.closed().reason, CloseReason::HeartbeatLost { missed: 2, .. }));
    drop(open);
    for text in ["one", "two"] {
        assert_eq!(receive("a message", &received), Ok(Message::from(text)));
    }
    let end = receive("the end", &received).unwrap_err();
    assert!(end.contains("heartbeat lost"), "{end}");
}

// Endings.

#[test]
fn a_close_that_comes_while_the_handler_is_away_is_answered_when_it_is_back_behind_its_replies() {
    let (running, open, senders) = start_away(server(), false, echo_all);
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    client.send_text("before the end");
    client.send_close(4001, "enough");
    thread::sleep(ms(500));
    assert!(!running.events.so_far().iter().any(is_closed));
    sender.send("still accepted").unwrap();
    assert_eq!(client.text(), "still accepted");
    drop(open);
    assert_eq!(client.text(), "before the end");
    assert_eq!(client.expect_close(), (Some(4001), String::new()));
    assert_eq!(client.expect_end(), End::Clean);
    let report = running.closed();
    assert_eq!(report.reason, CloseReason::Peer { code: Some(4001.into()), reason: "enough".into() });
    assert_eq!(support::codes(&report), (Some(4001), Some(4001)));
}

#[test]
fn a_last_word_that_nobody_comes_back_for_is_answered_after_the_close_timeout() {
    let close = masked(CLOSE, &close_payload(1000, ""));
    let violation = [0x83, 0x80, 0, 0, 0, 0];
    for (name, last_word, answer, cause) in [
        ("a Close frame", &close[..], Some(1000), "peer"),
        ("a violation", &violation[..], Some(1002), "protocol"),
        ("the end of the stream", &[][..], None, "disconnected"),
    ] {
        let (running, open, senders) = start_away(server().close_timeout(ms(700)), false, echo_all);
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        let said = Instant::now();
        client.write(last_word);
        if last_word.is_empty() {
            client.half_close();
        }
        let report = running.closed();
        assert!(said.elapsed() >= ms(700), "{name}: reported after {:?}", said.elapsed());
        assert_eq!(report.reason.name(), cause, "{name}: {report:?}");
        assert!(sender.send("too late").is_err());
        if let Some(code) = answer {
            assert_eq!(client.expect_close().0, Some(code), "{name}");
        }
        assert_eq!(client.expect_end(), End::Clean, "{name}");
        drop(open);
    }
}

#[test]
fn a_close_from_another_thread_ends_when_the_peer_answers_though_the_handler_sleeps() {
    let (running, open, senders) = start_away(server().close_timeout(CEILING), false, echo_all);
    let mut client = running.connect();
    receive("a Sender", &senders).close(1000, "done").unwrap();
    assert_eq!(client.expect_close(), (Some(1000), "done".into()));
    client.send_close(1000, "");
    let report = running.closed();
    assert_eq!(report.reason, CloseReason::Local { code: 1000.into(), reason: "done".into() });
    assert_eq!(support::codes(&report), (Some(1000), Some(1000)));
    drop(open);
}

#[test]
fn a_reset_while_the_handler_sleeps_is_reported_at_once() {
    let (running, open, senders) = start_away(server().close_timeout(CEILING), false, echo_all);
    let client = running.connect();
    let sender = receive("a Sender", &senders);
    running.events.opened();
    client.reset();
    let report = running.closed();
    assert!(matches!(report.reason, CloseReason::Io { .. }), "{report:?}");
    assert!(sender.send("to nobody").is_err());
    drop(open);
}

#[test]
fn a_handler_that_returns_without_looking_at_the_peers_close_has_the_peer_for_its_cause() {
    let (running, open, _) = start_away(server(), false, |_| Ok(()));
    let mut client = running.connect();
    client.send_close(4002, "I was first");
    thread::sleep(ms(400));
    drop(open);
    assert_eq!(client.expect_close(), (Some(4002), String::new()));
    let report = running.closed();
    assert_eq!(report.reason, CloseReason::Peer { code: Some(4002.into()), reason: "I was first".into() });
}

// Confirmed delivery.

#[test]
fn what_was_sent_is_confirmed_when_the_peer_has_read_it_and_not_before() {
    for is_away in [false, true] {
        let (running, open, senders) = start_away(server().queue_size(10_000_000), false, echo_all);
        let mut open = Some(open).filter(|_| is_away);
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        sender.send(vec![1; 4_000_000]).unwrap();
        sender.send("the last").unwrap();
        assert_eq!(sender.confirm(ms(300)), Err(ConfirmError::Timeout), "nothing was read");
        let overtaking = sender.ping().unwrap();
        let confirming = sender.clone();
        let confirmed = thread::spawn(move || confirming.confirm(CEILING));
        let mut has_last = false;
        while !has_last {
            let frame = client.frame();
            match frame.opcode {
                PING => {
                    assert!(!confirmed.is_finished(), "confirmed before all was read");
                    client.send(PONG, &frame.payload);
                }
                opcode => has_last = opcode == TEXT,
            }
        }
        assert!(overtaking.recv_timeout(CEILING).is_ok());
        while !confirmed.is_finished() {
            if let Incoming::Frame(frame) = client.next_within(ms(50)) {
                assert_eq!(frame.opcode, PING);
                client.send(PONG, &frame.payload);
            }
        }
        assert_eq!(confirmed.join().unwrap(), Ok(()));
        let waiting = sender.clone();
        let unconfirmed = thread::spawn(move || waiting.confirm(CEILING));
        while client.frame().opcode != PING {}
        client.send_close(1000, "");
        drop(open.take());
        let end = unconfirmed.join().unwrap();
        assert!(matches!(end, Err(ConfirmError::Closed(CloseReason::Peer { .. }))), "{end:?}");
        assert!(matches!(sender.confirm(CEILING), Err(ConfirmError::Closed(_))));
    }
}

#[test]
fn a_send_with_a_timeout_waits_for_room_for_so_long_and_gives_the_message_back() {
    let (running, open, senders) = start_away(server().queue_size(10_000), false, echo_all);
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    let large = vec![0; 8_000_000];
    sender.send(large).unwrap();
    let asked = Instant::now();
    match sender.send_timeout("no room", ms(300)) {
        Err(TrySendError::Full(message)) => assert_eq!(message.as_text(), Some("no room")),
        other => panic!("{other:?}"),
    }
    assert!(asked.elapsed() >= ms(300));
    let waiting = sender.clone();
    let sent = thread::spawn(move || waiting.send_timeout("in time", CEILING));
    assert_eq!(client.message().opcode, BINARY);
    assert_eq!(sent.join().unwrap(), Ok(()));
    assert_eq!(client.text(), "in time");
    client.send_close(1000, "");
    drop(open);
    running.closed();
    assert!(matches!(sender.send_timeout("too late", CEILING), Err(TrySendError::Closed(_))));
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
        let closed = running.events.so_far().into_iter().find_map(|event| match event {
            Event::Closed(report) => Some(report.reason),
            _ => None,
        });
        let stalled =
            |reason: &CloseReason| matches!(reason, CloseReason::WriteStalled { limit: it, .. } if Some(*it) == limit);
        assert!(closed.as_ref().map_or(limit.is_none(), stalled), "{closed:?}");
    }
}

/// Whether the peer's Ping is answered soon.
fn answers(client: &mut support::Client) -> bool {
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
    let (running, open, senders) = start_away(server(), true, echo_all);
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
fn a_close_of_ours_that_is_the_answer_ends_the_connection_though_the_handler_sleeps() {
    for by_handler in [false, true] {
        let (open, gate) = bounded::<()>(0);
        let (senders, received) = unbounded();
        let running = start(server().close_timeout(ms(600)), move |conn| {
            let _ = senders.send(conn.sender());
            if by_handler {
                thread::sleep(ms(400));
                assert!(matches!(conn.close(1000, ""), Err(Error::Closed(CloseReason::Peer { .. }))));
            }
            let _ = gate.recv();
            Ok(())
        });
        let mut client = running.connect();
        client.send_close(4003, "I was first");
        if !by_handler {
            thread::sleep(ms(400));
            let closed = receive("a Sender", &received).close(1000, "");
            assert!(matches!(closed, Err(Error::Closed(CloseReason::Peer { .. }))), "{closed:?}");
        }
        assert_eq!(client.expect_close(), (Some(4003), String::new()));
        let report = running.closed();
        assert_eq!(report.reason, CloseReason::Peer { code: Some(4003.into()), reason: "I was first".into() });
        drop(open);
    }
}

#[test]
fn a_reset_is_reported_at_once_though_no_more_is_read_ahead() {
    for policy in [HeartbeatPolicy::off(), quick()] {
        let server = server().read_ahead(10_000).heartbeat(policy);
        let (running, open, _) = start_away(server, false, echo_all);
        let mut client = running.connect();
        running.events.opened();
        for _ in 0..20 {
            client.send_text(&"x".repeat(1000));
        }
        thread::sleep(ms(500));
        client.reset();
        let report = running.closed();
        assert!(matches!(report.reason, CloseReason::Io { .. }), "{report:?}");
        drop(open);
    }
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
