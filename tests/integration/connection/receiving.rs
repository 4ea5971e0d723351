//! What a connection knows of its peer, and receiving with a timeout.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use heartwire::Connection;

use crate::support::{CEILING, Client, TEXT, masked, ms, receive, request_with, server, start};

#[test]
fn recv_timeout_gives_none_in_time_and_keeps_half_a_message() {
    let (sender, nones) = unbounded();
    let running = start(server(), move |conn| {
        loop {
            let start = Instant::now();
            match conn.recv_timeout(ms(40))? {
                Some(message) => conn.send(message)?,
                None => {
                    let _ = sender.send(start.elapsed());
                }
            }
        }
    });
    let mut client = running.connect();
    let frame = masked(TEXT, b"in three pieces");
    for piece in [&frame[..1], &frame[1..9], &frame[9..]] {
        let waited = receive("a timeout", &nones);
        assert!(waited >= ms(40) && waited < CEILING, "{waited:?}");
        nones.try_iter().count();
        client.write(piece);
    }
    assert_eq!(client.text(), "in three pieces");
    // Trickling does not stretch the timeout either.
    let frame = masked(TEXT, &[b'x'; 100]);
    nones.try_iter().count();
    for byte in &frame[..80] {
        client.write(&[*byte]);
        thread::sleep(ms(2));
    }
    assert!(nones.try_iter().count() >= 2, "it waited for the message to be complete");
    client.write(&frame[80..]);
    assert_eq!(client.text().len(), 100);
}

#[test]
fn recv_timeout_of_zero_takes_what_is_there() {
    let (go, wait) = bounded::<()>(0);
    let running = start(server(), move |conn| {
        assert_eq!(conn.recv_timeout(Duration::ZERO)?, None);
        let _ = wait.recv_timeout(CEILING);
        let _ = wait.recv_timeout(CEILING);
        for expected in ["one", "two"] {
            assert_eq!(conn.recv_timeout(Duration::ZERO)?, Some(expected.into()));
        }
        assert_eq!(conn.recv_timeout(Duration::ZERO)?, None);
        conn.send("all as expected")
    });
    let mut client = running.connect();
    go.send_timeout((), CEILING).unwrap();
    // Loopback: what is written is in the other's socket.
    client.write(&[masked(TEXT, b"one"), masked(TEXT, b"two")].concat());
    go.send_timeout((), CEILING).unwrap();
    assert_eq!(client.text(), "all as expected");
}

#[test]
fn recv_timeout_without_end_is_as_good_as_recv() {
    let running = start(server(), |conn| {
        let message = conn.recv_timeout(Duration::MAX)?.expect("a message");
        conn.send(message)
    });
    running.connect().expect_echo("hello");
}

#[test]
fn a_connection_tells_what_it_is() {
    let running = start(server(), |conn: &mut Connection| {
        assert!(conn.peer_addr().ip().is_loopback());
        assert_eq!((conn.path(), conn.request().query()), ("/room", Some("id=7")));
        assert_eq!(conn.request().header("x-token"), Some("abc"));
        assert_eq!((conn.subprotocol(), conn.missed(), conn.round_trip()), (None, 0, None));
        assert_eq!((conn.sender().id(), conn.sender().peer_addr()), (conn.id(), conn.peer_addr()));
        conn.send(format!("{:?}", (conn.id(), conn.peer_addr())))
    });
    let request = request_with("/room?id=7", "X-Token: abc\r\n");
    let mut client = Client::tcp(running.address()).upgraded(&request);
    let peer = client.local_addr();
    assert_eq!(client.text(), format!("{:?}", (1, peer)));
}
