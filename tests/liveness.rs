//! Dead peers are found in bounded time, live ones never: the heartbeat of real connections.
//!
//! Lower bounds are exact, since a peer must be given its time. Upper bounds are those of the policy plus [`SLACK`]: on
//! a machine that is busy a deadline may be noticed late, and then it is no miss.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use heartwire::{CloseReason, CloseReport, Error, Event, HeartbeatPolicy, Liveness, Message};
use support::{
    BINARY, CEILING, Client, End, Incoming, PING, PONG, Running, TEXT, echo, fragment, live, masked, ms, server, start,
};

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(10);

/// Worst case 300 ms.
fn brisk() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2)
}

/// Two misses.
const DEADLY: Duration = Duration::from_millis(200);

const TEN_TIMES_THE_BOUND: Duration = Duration::from_secs(3);

fn start_echo(policy: HeartbeatPolicy) -> Running {
    start(server().heartbeat(policy), echo)
}

fn lost(report: &CloseReport) -> u32 {
    match report.reason {
        CloseReason::HeartbeatLost { missed, .. } => missed,
        _ => panic!("{report:?}"),
    }
}

fn is_closed(event: &Event) -> bool {
    matches!(event, Event::Closed(_))
}

#[test]
fn a_silent_peer_is_dead_after_three_misses_and_not_before() {
    let policy = HeartbeatPolicy::new(ms(200), ms(200)).max_missed(3);
    let running = start_echo(policy);
    let mut client = running.connect();
    let before_last_byte = Instant::now();
    client.expect_echo("my last words");
    let after_last_byte = Instant::now();

    let misses: Vec<_> = (0..3).map(|_| running.events.missed()).collect();
    let report = running.closed();
    assert!(before_last_byte.elapsed() >= 3 * ms(200), "dead after {:?}", before_last_byte.elapsed());
    let found = after_last_byte.elapsed();
    assert!(found < policy.worst_case().unwrap() + SLACK, "dead after {found:?}");
    println!("found dead after {found:?}, worst case {:?}", policy.worst_case().unwrap());

    assert_eq!(misses, [(1, 3), (2, 3), (3, 3)]);
    assert_eq!((lost(&report), report.missed), (3, 3), "{report:?}");
    assert_eq!((report.sent.map(u16::from), report.received), (Some(1011), None), "{report:?}");
    assert!(report.pings >= 3 && report.pongs == 0 && report.round_trip.is_none(), "{report:?}");

    for number in 1..=report.pings {
        let ping = client.frame();
        assert_eq!((ping.opcode, ping.payload), (PING, number.to_string().into_bytes()));
    }
    assert_eq!(client.expect_close(), (Some(1011), "heartbeat lost".into()));
    assert_eq!(client.expect_end(), End::Clean);
    assert!(running.stop().iter().all(|event| matches!(event, Event::Opened { .. })), "one report, and no more misses");
}

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
        [Event::HandlerStalled { away, .. }] => assert!(*away >= ms(100) && *away < TEN_TIMES_THE_BOUND, "{away:?}"),
        other => panic!("one absence is one report: {other:?}"),
    }
    assert_eq!(running.handle.stats().handlers_stalled, 1);
    client.close();
    let report = running.closed();
    assert!(matches!(report.reason, CloseReason::Peer { .. }), "{report:?}");
}

#[test]
fn what_came_while_the_handler_was_busy_is_life_even_if_the_deadline_has_passed() {
    // The handler is away for less than is clearly late, so that the deadline has come and counts, if nothing was read.
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
        assert_eq!(ping.opcode, PING, "{ping:?}");
        client.send(PONG, &ping.payload);
    }
    let events = running.events.so_far();
    assert!(!events.iter().any(|event| is_closed(event) || matches!(event, Event::Missed { .. })), "{events:?}");
}

#[test]
fn with_pong_only_a_chatty_peer_that_never_answers_dies() {
    let policy = brisk().liveness(Liveness::PongOnly);
    let running = start_echo(policy);
    let mut client = running.connect();
    let start = Instant::now();
    while client.try_write(&masked(TEXT, b"chatter")) && start.elapsed() < CEILING {
        while let Incoming::Frame(_) = client.next_within(ms(1)) {}
        if running.events.so_far().iter().any(is_closed) {
            break;
        }
        thread::sleep(ms(5));
    }
    let report = running.closed();
    assert!(start.elapsed() >= 2 * ms(100), "dead after {:?}", start.elapsed());
    assert!(start.elapsed() < policy.worst_case().unwrap() + SLACK, "dead after {:?}", start.elapsed());
    assert_eq!(lost(&report), 2);
    assert!(report.traffic.messages_in >= 3, "{report:?}");
    assert_eq!((running.events.missed(), running.events.missed()), ((1, 2), (2, 2)));
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
fn keepalive_keeps_the_line_busy_and_never_kills() {
    let running = start_echo(HeartbeatPolicy::keepalive(ms(30)));
    let mut client = running.connect();
    thread::sleep(ms(1000));
    let mut pings = 0;
    client.send_text("still here");
    loop {
        let frame = client.frame();
        match frame.opcode {
            PING => pings += 1,
            _ => break assert_eq!(frame.text(), "still here"),
        }
    }
    assert!((5..=35).contains(&pings), "{pings} Pings in 33 intervals");
    let events = running.stop();
    assert!(!events.iter().any(|event| matches!(event, Event::Missed { .. })), "{events:?}");
}

#[test]
fn without_a_heartbeat_nothing_is_sent_and_nobody_dies() {
    let running = start_echo(HeartbeatPolicy::off());
    let mut client = running.connect();
    assert_eq!(client.next_within(ms(700)), Incoming::Nothing);
    client.expect_echo("still here");
    client.close();
    let report = running.closed();
    assert_eq!((report.pings, report.missed, report.round_trip), (0, 0, None));
}

#[test]
fn a_heartbeat_given_at_the_handshake_is_the_connections_own() {
    let server = server().on_handshake(|request| match request.path() {
        "/brisk" => Ok(heartwire::Accept::new().heartbeat(brisk())),
        _ => Ok(heartwire::Accept::new()),
    });
    let running = start(server, echo);
    let _immortal = running.connect();
    let _mortal = Client::tcp(running.address()).upgraded(&support::request_with("/brisk", ""));
    let report = running.closed();
    assert_eq!((lost(&report), &report.path[..]), (2, "/brisk"));
    let left = running.handle.connections();
    assert_eq!(left.iter().map(|info| &info.path[..]).collect::<Vec<_>>(), ["/"]);
}

#[test]
fn a_heartbeat_can_be_changed_on_a_live_connection() {
    let running = start(server(), |conn| {
        assert_eq!(conn.heartbeat(), HeartbeatPolicy::off());
        conn.recv()?;
        conn.set_heartbeat(brisk());
        conn.recv()?;
        conn.set_heartbeat(HeartbeatPolicy::off());
        let message = conn.recv()?;
        conn.set_heartbeat(brisk());
        conn.send(message)?;
        conn.recv().map(drop)
    });
    let mut client = running.connect();
    assert_eq!(client.next_within(ms(300)), Incoming::Nothing, "off at first");
    client.send_text("on");
    assert_eq!(client.frame().opcode, PING);
    client.send_text("off");
    // A Ping, or two, may be on its way.
    while client.next_within(ms(300)) != Incoming::Nothing {}
    assert_eq!(client.next_within(ms(300)), Incoming::Nothing, "off again");
    client.send_text("on again");
    assert_eq!(client.text(), "on again");
    let report = running.closed();
    assert_eq!(lost(&report), 2);
}

#[test]
fn the_stand_in_follows_a_heartbeat_that_was_made_faster() {
    let running = start(server().heartbeat(HeartbeatPolicy::keepalive(CEILING)), |conn| {
        // Long enough for somebody to stand in for us.
        thread::sleep(ms(400));
        conn.set_heartbeat(HeartbeatPolicy::new(ms(100), ms(10_000)));
        thread::sleep(ms(1500));
        conn.recv().map(drop)
    });
    let mut client = running.connect();
    let end = Instant::now() + ms(1800);
    let mut pings = 0;
    while let Incoming::Frame(frame) = client.next_before(end) {
        pings += u32::from(frame.opcode == PING);
    }
    assert!(pings >= 4, "{pings} Pings in 14 intervals");
}

/// Sends until the connection is closed, and tells why it was.
fn flood(conn: &mut heartwire::Connection, ends: &Sender<CloseReason>) -> Result<(), Error> {
    let (sender, outside) = (conn.sender(), ends.clone());
    // Two threads are stuck in `send` when the peer is found out: the connection's own and another.
    let other = thread::spawn(move || {
        loop {
            if let Err(Error::Closed(reason)) = sender.send(vec![2; 50_000]) {
                return outside.send(reason);
            }
        }
    });
    let end = loop {
        if let Err(error) = conn.send(vec![1; 50_000]) {
            break error;
        }
    };
    if let Error::Closed(reason) = &end {
        let _ = ends.send(reason.clone());
    }
    let _ = other.join();
    Err(end)
}

#[test]
fn a_peer_that_never_reads_is_found_and_its_senders_are_freed_while_others_are_served() {
    let policy = HeartbeatPolicy::new(ms(200), ms(200)).max_missed(2);
    let (sender, ends) = unbounded();
    let running = start(server().heartbeat(policy).queue_size(256 * 1024), move |conn| match conn.path() {
        "/flood" => {
            let ends = sender.clone();
            flood(conn, &ends)
        }
        _ => echo(conn),
    });
    let mut others: Vec<Client> = (0..5).map(|_| running.connect()).collect();
    let start = Instant::now();
    let mut glutton = Client::tcp(running.address()).upgraded(&support::request_with("/flood", ""));

    let mut echo_times = Vec::new();
    while !running.events.so_far().iter().any(is_closed) {
        for client in &mut others {
            let sent = Instant::now();
            client.expect_echo("quick?");
            echo_times.push(sent.elapsed());
        }
        assert!(start.elapsed() < CEILING, "the peer that never reads is not found");
        thread::sleep(ms(2));
    }
    let found = start.elapsed();
    let report = running.closed();
    assert!(matches!(report.reason, CloseReason::WriteStalled { limit, .. } if limit == ms(400)), "{report:?}");
    assert_eq!((&report.path[..], report.sent), ("/flood", None), "{report:?}");
    assert!(report.age >= ms(400) && found < policy.worst_case().unwrap() + SLACK, "found after {found:?}");
    for _ in 0..2 {
        assert_eq!(support::receive("the end of a blocked send", &ends), report.reason);
    }

    echo_times.sort();
    let (median, longest) = (echo_times[echo_times.len() / 2], echo_times[echo_times.len() - 1]);
    println!("found after {found:?}; {} echoes of others: median {median:?}, longest {longest:?}", echo_times.len());
    assert!(longest < ms(5000), "somebody was held up: {longest:?}");
    for client in &mut others {
        client.expect_echo("and still");
    }
    glutton.drain();
    assert_eq!(running.handle.connections().len(), 5);
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
            let mut sipped = None;
            while sipped.is_none() && read < start.elapsed().as_millis() as usize * BYTES_IN_A_MILLISECOND {
                read += client.sip(64 * 1024);
                sipped = client.sipped().filter(|frame| frame.opcode == BINARY);
            }
            match sipped {
                Some(frame) => break frame,
                None => thread::sleep(ms(5)),
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
