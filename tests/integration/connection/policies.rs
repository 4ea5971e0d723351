//! The policy of a connection: that of its server, its own from the handshake, another one later, or none.

use std::thread;
use std::time::Instant;

use heartwire::{Event, HeartbeatPolicy};

use super::{brisk, start_echo};
use crate::support::{CEILING, Client, Incoming, PING, echo, lost, ms, request_with, server, start};

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
    let _mortal = Client::tcp(running.address()).upgraded(&request_with("/brisk", ""));
    let report = running.closed();
    assert_eq!((lost(&report), &report.path[..]), (2, "/brisk"));
    let left = running.handle.connections();
    assert_eq!(left.iter().map(|info| &info.path[..]).collect::<Vec<_>>(), ["/"]);
}

#[test]
fn set_heartbeat_changes_a_live_connection() {
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
fn set_heartbeat_that_is_faster_is_followed_by_the_stand_in() {
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
