//! Ends without a closing handshake.

use std::thread;

use crossbeam_channel::bounded;
use heartwire::CloseReason;

use crate::support::{
    CEILING, End, Incoming, TEXT, by_peer, codes, echo, fragment, masked, ms, receive, server, start,
};

#[test]
fn an_end_without_close_is_a_disconnection() {
    let running = start(server(), echo);
    for (what, bytes) in [
        ("at rest", vec![]),
        ("in the middle of a header", vec![0x81]),
        ("in the middle of a message", masked(TEXT, b"unfinished")[..8].to_vec()),
        ("between fragments", fragment(TEXT, b"unfinished")),
    ] {
        let mut client = running.connect();
        client.write(&bytes);
        drop(client);
        let report = running.closed();
        assert_eq!((&report.reason, codes(&report)), (&CloseReason::Disconnected, (None, None)), "{what}");
    }
}

#[test]
fn a_half_closed_peer_still_gets_its_replies() {
    const SIZE: usize = 3 * 1024 * 1024;
    let running = start(server(), |conn| {
        loop {
            let message = conn.recv()?;
            conn.send(vec![1; SIZE])?;
            conn.send(message)?;
        }
    });
    let mut client = running.connect();
    client.send_text("one");
    client.send_text("two");
    client.half_close();
    for expected in ["one", "two"] {
        assert_eq!(client.message().payload.len(), SIZE);
        assert_eq!(client.text(), expected);
    }
    let end = client.next_within(CEILING);
    assert!(matches!(&end, Incoming::End(End::Clean)), "{end:?}");
    drop(client);
    let report = running.closed();
    assert_eq!((report.reason, report.traffic.messages_out), (CloseReason::Disconnected, 4));
}

#[test]
fn a_reset_is_reported_as_what_it_is() {
    let running = start(server(), echo);
    let mut client = running.connect();
    client.expect_echo("hello");
    client.reset();
    let report = running.closed();
    match &report.reason {
        CloseReason::Io { kind, .. } => assert_eq!(*kind, std::io::ErrorKind::ConnectionReset, "{report:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_peer_that_said_close_and_reset_while_we_were_sending_is_still_a_peer_that_said_close() {
    let (sender, senders) = bounded(1);
    let (go, wait) = bounded::<()>(1);
    let running = start(server(), move |conn| {
        let _ = sender.send(conn.sender());
        // Away while Close and end arrive, so that a write fails before anything is read.
        let _ = wait.recv_timeout(CEILING);
        while conn.send("into the void").is_ok() {
            thread::sleep(ms(1));
        }
        loop {
            conn.recv()?;
        }
    });
    let mut client = running.connect();
    receive("a Sender", &senders);
    client.send_close(4000, "gone");
    drop(client);
    go.send(()).unwrap();
    let report = running.closed();
    assert_eq!((&report.reason, report.received.map(u16::from)), (&by_peer(Some(4000), "gone"), Some(4000)));
}
