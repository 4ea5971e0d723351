//! The heartbeat of a client, beside that of its server.

use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use heartwire::{CloseReason, Error, HeartbeatPolicy};

use crate::support::{
    BareConnection, BareServer, CEILING, PING, PONG, SLACK, client, echo, eventually, fill, listen, ms, receive, run,
    server, start,
};

#[test]
fn both_ends_beat_and_neither_misses() {
    let patient = |interval| HeartbeatPolicy::new(ms(interval), CEILING);
    let running = start(server().heartbeat(patient(30)), echo);
    let (sender, beaten) = bounded(1);
    let client = run(client(running.address()).heartbeat(patient(20)), move |conn| {
        while conn.round_trip().is_none_or(|figures| figures.samples < 5) {
            conn.recv_timeout(ms(5))?;
        }
        let _ = sender.send(());
        listen(conn)
    });
    receive("five round trips of the client", &beaten);
    eventually("five of the server", || running.handle.connections().iter().any(|open| open.pongs >= 5));
    client.stop();
    assert!(!client.story().iter().any(|event| event.starts_with("missed")));
    let report = running.closed();
    assert_eq!((report.missed, report.reason.name()), (0, "peer"));
}

#[test]
fn a_server_that_stops_answering_is_found_dead_within_the_bound_and_left_for_a_new_connection() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    let server = BareServer::bind();
    let client = run(client(server.address()).heartbeat(policy), listen);
    let mut silent = server.accept();
    let before = Instant::now();
    silent.upgrade("");
    assert_eq!((client.events.missed(), client.events.missed()), ((1, 2), (2, 2)));
    let report = client.closed();
    let found = before.elapsed();
    assert!(found >= 2 * ms(100), "{found:?}");
    assert!(found < policy.worst_case().unwrap() + SLACK, "{found:?}");
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }) && report.missed == 2, "{report:?}");
    assert_eq!(silent.close_code(), Some(1011), "as far as the socket takes it");
    assert_eq!(silent.next_frame(), None);
    server.open().expect_close_at_stop(&client);
}

#[test]
fn a_server_that_takes_nothing_any_more_is_found_although_the_heartbeat_waits_behind_data() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    let server = BareServer::bind();
    let client = run(client(server.address()), move |conn| {
        // A Ping that left before anything waited would be missed, and that would be the cause.
        fill(&conn.sender());
        conn.set_heartbeat(policy);
        listen(conn)
    });
    let _never_reads = server.open();
    let report = client.closed();
    assert!(matches!(report.reason, CloseReason::WriteStalled { .. }), "{report:?}");
    assert!(report.traffic.unsent > 0, "{report:?}");
}

#[test]
fn a_server_that_only_pings_keeps_a_client_without_a_heartbeat() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    let mut connection = server.open();
    for number in 0..20 {
        let payload = format!("ping {number}");
        connection.send(PING, payload.as_bytes());
        let answer = connection.frame();
        assert_eq!((answer.opcode, answer.payload), (PONG, payload.into_bytes()), "and no Ping of its own");
    }
    assert!(client.handle.is_connected());
    connection.expect_close_at_stop(&client);
}

#[test]
fn set_heartbeat_is_announced_at_once_and_holds_from_then_on() {
    let server = BareServer::bind();
    let announcing = |ms: u64| HeartbeatPolicy::keepalive(Duration::from_millis(ms)).announcing(true);
    let (sender, policies) = unbounded();
    let client = run(client(server.address()).heartbeat(announcing(3_600_000)), move |conn| {
        loop {
            let _ = sender.send(conn.heartbeat());
            conn.recv()?;
        }
    });
    let mut connection = server.open();
    let announced = |connection: &mut BareConnection| {
        let frame = connection.frame();
        assert_eq!(frame.opcode, PING);
        connection.send(PONG, &frame.payload);
        String::from_utf8(frame.payload).unwrap()
    };
    let first = announced(&mut connection);
    assert!(first.starts_with("next=3600000"), "said on opening, not after half an hour: {first}");
    assert!(client.handle.wait_connected(CEILING));
    assert_eq!(receive("on opening", &policies), announcing(3_600_000));

    client.handle.set_heartbeat(announcing(60_000)).unwrap();
    assert!(announced(&mut connection).starts_with("next=60000"));
    connection.send_text("what is in force now?");
    assert_eq!(receive("after the change", &policies), announcing(60_000));

    client.handle.set_heartbeat(announcing(30)).unwrap();
    for _ in 0..5 {
        assert!(announced(&mut connection).starts_with("next=30"), "beats in its new rhythm");
    }
    client.handle.set_heartbeat(HeartbeatPolicy::off()).unwrap();
    connection.send_text("and now?");
    drop(connection);
    client.stop();
    assert!(matches!(client.handle.set_heartbeat(announcing(1)), Err(Error::Closed(_))));
}
