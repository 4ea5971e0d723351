//! How a connection over TLS ends: with and without `close_notify`, a Close frame, and the rest of a record.

use std::io::Write;
use std::net::Shutdown;
use std::thread;

use heartwire::CloseReason;
use rustls::version::{TLS12, TLS13};

use super::{client, connect, dial, secure, start};
use crate::support::tls::{client_config, server_config};
use crate::support::wire::Wire;
use crate::support::{
    BareServer, Client, End, TEXT, by_peer, close_payload, codes, listen, masked, request, run, start_as_it_is,
};

/// Ends TCP without a word of TLS.
fn hang_up(client: &Client) {
    client.wire().socket().shutdown(Shutdown::Write).expect("connected");
}

#[test]
fn an_end_that_nobody_announced_is_a_loss_unless_it_follows_a_close_frame() {
    let running = start(secure());
    for versions in [&[&TLS12][..], &[&TLS13]] {
        // Torn off, and announced by TLS alone: neither is an end of a WebSocket.
        for is_announced in [false, true] {
            let mut client = dial(running.address(), client_config(versions)).upgraded(&request());
            client.expect_echo("hello");
            if is_announced {
                client.half_close()
            } else {
                hang_up(&client)
            }
            let report = running.closed();
            assert_eq!((&report.reason, codes(&report)), (&CloseReason::Disconnected, (None, None)), "{report:?}");
            client.expect_end();
        }
        // And after a Close frame the first says no less than the second.
        for is_announced in [false, true] {
            let mut client = dial(running.address(), client_config(versions)).upgraded(&request());
            client.send_close(1000, "bye");
            if is_announced {
                client.half_close()
            } else {
                hang_up(&client)
            }
            let report = running.closed();
            assert_eq!(report.reason, by_peer(Some(1000), "bye"), "{report:?}");
            assert_eq!(client.expect_close().0, Some(1000));
            assert_eq!(client.expect_end(), End::Clean);
        }
    }
}

/// The record of this frame, sealed but not sent.
fn record_of(client: &Client, frame: &[u8]) -> Vec<u8> {
    client.wire().tls().with(|connection| {
        let mut bytes = Vec::new();
        connection.writer().write_all(frame).expect("into memory");
        connection.write_tls(&mut bytes).expect("into memory");
        bytes
    })
}

#[test]
fn a_record_that_is_cut_anywhere_is_delivered_whole_or_not_at_all() {
    let running = start(secure());
    let frame = masked(TEXT, b"cut");
    let len = record_of(&connect(&running), &frame).len();
    running.closed();
    for cut in 0..len {
        let mut client = connect(&running);
        // First with the rest a moment later, and then without it.
        let record = record_of(&client, &frame);
        for piece in [&record[..cut], &record[cut..]] {
            client.wire().socket().write_all(piece).unwrap();
            thread::yield_now();
        }
        assert_eq!(client.text(), "cut", "at {cut}");
        let record = record_of(&client, &frame);
        client.wire().socket().write_all(&record[..cut]).unwrap();
        hang_up(&client);
        let report = running.closed();
        let expected = (&CloseReason::Disconnected, 1);
        assert_eq!((&report.reason, report.traffic.messages_in), expected, "at {cut}: {report:?}");
        client.expect_end();
    }
}

#[test]
fn a_close_frame_in_the_last_record_before_the_end_is_not_lost() {
    let running = start(secure());
    let mut client = connect(&running);
    // All in one write: the Close frame, close_notify and the FIN.
    let bytes = client.wire().tls().with(|connection| {
        let mut bytes = Vec::new();
        connection.writer().write_all(&masked(0x88 & 0x0f, &close_payload(1000, "bye"))).unwrap();
        connection.send_close_notify();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    });
    client.wire().socket().write_all(&bytes).unwrap();
    hang_up(&client);
    assert_eq!(running.closed().reason, by_peer(Some(1000), "bye"));
    assert_eq!(client.expect_close().0, Some(1000));
}

#[test]
fn close_notify_alone_ends_a_connection_although_tcp_goes_on() {
    let running = start(secure());
    let mut client = connect(&running);
    client.expect_echo("hello");
    client.wire().tls().with(|connection| connection.send_close_notify());
    client.wire().tls().flush(client.wire().socket()).unwrap();
    assert_eq!(running.closed().reason, CloseReason::Disconnected);
    client.expect_end();
}

#[test]
fn close_notify_right_behind_the_request_ends_it_too() {
    let running = start(secure());
    let mut client = dial(running.address(), client_config(rustls::ALL_VERSIONS));
    client.wire().tls().shake_hands(client.wire().socket()).unwrap();
    let bytes = client.wire().tls().with(|connection| {
        let mut bytes = Vec::new();
        connection.writer().write_all(request().as_bytes()).unwrap();
        connection.send_close_notify();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    });
    // TCP goes on here as well.
    client.wire().socket().write_all(&bytes).unwrap();
    assert_eq!(client.answer().status, 101);
    assert_eq!(running.closed().reason, CloseReason::Disconnected);
}

#[test]
fn everything_that_was_sent_before_the_handler_ended_arrives_and_then_the_announced_end() {
    let running = start_as_it_is(secure(), |conn| {
        for number in 0..200_u8 {
            conn.send(vec![number; 10_000])?;
        }
        Ok(())
    });
    let mut client = connect(&running);
    for number in 0..200_u8 {
        assert_eq!(client.message().payload, vec![number; 10_000]);
    }
    assert_eq!(client.expect_close().0, Some(1000));
    client.send_close(1000, "");
    assert_eq!(client.expect_end(), End::Clean);
}

#[test]
fn a_server_that_hangs_up_without_a_word_is_a_loss_to_our_client() {
    for versions in [&[&TLS12][..], &[&TLS13]] {
        for is_announced in [false, true] {
            let server = BareServer::bind();
            let client = run(client(server.address()).no_reconnect(), listen);
            let mut connection = server.accept_on(|socket| Wire::from_tls_client(socket, server_config(versions)));
            connection.upgrade("");
            if is_announced {
                connection.stream.end_writing().unwrap();
            } else {
                connection.stream.socket().shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(client.closed().reason, CloseReason::Disconnected);
        }
    }
}
