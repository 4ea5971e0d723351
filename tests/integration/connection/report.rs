//! What the report of a connection counts.

use std::time::Instant;

use heartwire::{Connection, HeartbeatPolicy};

use crate::support::{
    BINARY, CLOSE, Client, End, PING, PONG, TEXT, by_us, close_payload, echo, masked, ms, over_tls, request,
    request_with, server, start,
};

#[test]
fn the_report_counts_everything_both_ways() {
    let running = start(server().heartbeat(HeartbeatPolicy::keepalive(ms(50))), echo);
    let request = request_with("/room?id=7", "");
    let began = Instant::now();
    let mut client = Client::tcp(running.address()).upgraded(&request);
    let peer = client.local_addr();
    let (mut sent, mut received, mut pings) = (0, 0, 0);
    client.send_text("12345");
    client.send(BINARY, [0; 200]);
    client.send(PING, "marco");
    // Each frame goes by itself, and over TLS in a record of its own: what is around it in TLS 1.3.
    let record = if over_tls::is_on() { 5 + 1 + 16 } else { 0 };
    sent += (6 + 5) + (8 + 200) + (6 + 5) + 3 * record;
    let (mut messages, mut pongs) = (0, 0);
    while messages < 2 || pongs < 1 || pings < 2 {
        let frame = client.frame();
        received += frame.payload.len() as u64 + if frame.payload.len() > 125 { 4 } else { 2 } + record;
        match frame.opcode {
            PING => {
                client.send(PONG, &frame.payload);
                sent += 6 + frame.payload.len() as u64 + record;
                pings += 1;
            }
            PONG => {
                assert_eq!(frame.payload, b"marco");
                pongs += 1;
            }
            _ => messages += 1,
        }
    }
    client.send_close(1000, "");
    sent += 6 + 2 + record;
    loop {
        let frame = client.frame();
        received += 2 + frame.payload.len() as u64 + record;
        match frame.opcode {
            PING => pings += 1,
            _ => break assert_eq!(frame.close().0, Some(1000)),
        }
    }
    assert_eq!(client.expect_end(), End::Clean);
    // Over TLS our last word leaves together with what says that nothing follows: an alert of two bytes.
    received += if over_tls::is_on() { 2 + record } else { 0 };
    let report = running.closed();
    let lifetime = began.elapsed();
    assert_eq!((report.peer_addr, &report.path[..], report.id), (peer, "/room", running.events.opened()));
    let traffic = report.traffic;
    assert_eq!((traffic.messages_in, traffic.messages_out, traffic.dropped), (2, 2, 0), "{report:?}");
    assert_eq!((traffic.bytes_in, traffic.bytes_out), (sent, received), "{report:?}");
    assert_eq!((report.pings, report.missed), (pings, 0), "{report:?}");
    let round_trip = report.round_trip.expect("at least two Pings were answered");
    assert!(report.pongs >= 2 && round_trip.samples == report.pongs && report.age <= lifetime, "{report:?}");
    assert!(round_trip.min <= round_trip.last && round_trip.last < lifetime, "{report:?}");
}

#[test]
fn bytes_pipelined_behind_the_handshake_are_counted_too() {
    let running = start(server(), echo);
    let mut client = Client::tcp(running.address());
    let frames = [masked(TEXT, b"early"), masked(CLOSE, &close_payload(1000, ""))].concat();
    client.write(&[request().into_bytes(), frames.clone()].concat());
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.text(), "early");
    assert_eq!(client.expect_close().0, Some(1000));
    assert_eq!(client.expect_end(), End::Clean);
    // Over TLS they came in the request's record, and were opened with it.
    assert_eq!(running.closed().traffic.bytes_in, frames.len() as u64);
}

#[test]
fn a_close_that_never_left_is_not_reported_as_sent() {
    let running = start(server().close_timeout(ms(100)).queue_size(64 * 1024 * 1024), |conn: &mut Connection| {
        conn.send(vec![9; 32 * 1024 * 1024])
    });
    let _client = running.connect();
    let report = running.closed();
    assert_eq!((report.reason, report.sent), (by_us(1000, ""), None));
}
