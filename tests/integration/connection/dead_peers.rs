//! Dead peers are found in bounded time, with the true cause, and cost nobody else anything.

use std::thread;
use std::time::Instant;

use crossbeam_channel::{Sender, unbounded};
use heartwire::{CloseReason, Connection, Error, Event, HeartbeatPolicy, Liveness};

use super::{brisk, start_echo};
use crate::support::{
    CEILING, Client, End, Incoming, PING, SLACK, TEXT, echo, fill, is_closed, lost, masked, ms, receive, request_with,
    server, start,
};

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
    let others = running.stop();
    let is_expected = |event: &Event| matches!(event, Event::Opened { .. } | Event::ShuttingDown);
    assert!(others.iter().all(is_expected), "one report, and no more misses: {others:?}");
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

/// Sends until the connection is closed, and tells why it was. The heartbeat begins when nothing is taken any more: a
/// Ping that left before that would be missed, and that would be the cause.
fn flood(conn: &mut Connection, policy: HeartbeatPolicy, ends: &Sender<CloseReason>) -> Result<(), Error> {
    fill(&conn.sender());
    conn.set_heartbeat(policy);
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
    let running = start(server().queue_size(256 * 1024), move |conn| match conn.path() {
        "/flood" => {
            let ends = sender.clone();
            flood(conn, policy, &ends)
        }
        _ => echo(conn),
    });
    let mut others: Vec<Client> = (0..5).map(|_| running.connect()).collect();
    let start = Instant::now();
    let mut glutton = Client::tcp(running.address()).upgraded(&request_with("/flood", ""));

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
        assert_eq!(receive("the end of a blocked send", &ends), report.reason);
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
