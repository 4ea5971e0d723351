//! The closing handshake, begun by either end: its codes, reasons and deadlines.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use heartwire::{CloseCode, CloseReason, Error};

use crate::support::{
    BINARY, CEILING, CLOSE, Client, End, Incoming, PING, PONG, TEXT, by_peer, by_us, close_payload, codes, echo,
    masked, ms, plain_only, receive, request_with, server, start,
};

/// What connections of a server that is shut down are closed with.
fn shutdown() -> CloseReason {
    CloseReason::Shutdown { code: CloseCode::GOING_AWAY, reason: "server shutting down".into() }
}

// Begun by the peer.

#[test]
fn a_close_of_the_peer_is_answered_with_its_code_and_reported_with_its_reason() {
    let longest = "é".repeat(61);
    let table: [(Vec<u8>, Option<u16>, &str); 6] = [
        (vec![], None, ""),
        (close_payload(1000, "bye"), Some(1000), "bye"),
        (close_payload(1001, ""), Some(1001), ""),
        (close_payload(3000, "mine"), Some(3000), "mine"),
        (close_payload(4999, &longest), Some(4999), &longest),
        (close_payload(1011, "sorry"), Some(1011), "sorry"),
    ];
    let running = start(server(), echo);
    for (payload, code, reason) in table {
        let mut client = running.connect();
        client.send(CLOSE, payload);
        assert_eq!(client.expect_close(), (code, String::new()));
        assert_eq!(client.expect_end(), End::Clean);
        let report = running.closed();
        assert_eq!((&report.reason, codes(&report)), (&by_peer(code, reason), (code, code)));
    }
}

#[test]
fn recv_and_send_give_the_reason_of_the_end_from_then_on() {
    let (sender, results) = unbounded();
    let running = start(server(), move |conn| {
        let received = [conn.recv().unwrap_err(), conn.recv().unwrap_err()];
        let timed = conn.recv_timeout(ms(1)).unwrap_err();
        let sent = [conn.send("x").unwrap_err(), conn.feed("x").unwrap_err(), conn.sender().send("x").unwrap_err()];
        let closed = [conn.close(1000, "").unwrap_err(), conn.sender().close(1000, "").unwrap_err()];
        let pinged = conn.sender().ping().unwrap_err();
        assert!(conn.sender().is_closed());
        for error in received.into_iter().chain([timed, pinged]).chain(sent).chain(closed) {
            let _ = sender.send(error);
        }
        Ok(())
    });
    let mut client = running.connect();
    client.send_close(4000, "enough");
    client.drain();
    drop(client);
    for _ in 0..9 {
        match receive("an error", &results) {
            Error::Closed(reason) => assert_eq!(reason, by_peer(Some(4000), "enough")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(running.closed().reason, by_peer(Some(4000), "enough"));
}

#[test]
fn what_the_peer_sends_behind_its_close_is_ignored() {
    let running = start(server(), echo);
    let mut client = running.connect();
    let mut bytes = masked(TEXT, b"heard");
    bytes.extend(masked(CLOSE, &close_payload(1000, "")));
    bytes.extend(masked(TEXT, b"not heard"));
    bytes.extend(masked(PING, b"not answered"));
    bytes.extend([0xff; 1000]);
    client.write(&bytes);
    assert_eq!(client.text(), "heard");
    assert_eq!(client.frame().close(), (Some(1000), String::new()));
    assert_eq!(client.expect_end(), End::Clean);
    drop(client);
    let report = running.closed();
    assert_eq!((report.reason, report.traffic.messages_in), (by_peer(Some(1000), ""), 1));
}

/// Whether the peer ends its side or not: the closing handshake is complete, and a server then closes at once (RFC 6455
/// section 7.1.1).
#[test]
fn a_server_whose_close_was_answered_or_is_the_answer_waits_for_nothing() {
    plain_only!("a server waits a second for the alert that the peer may still send");
    // A thread that waits for the peer's end does so for a second, each time.
    const WAIT: Duration = Duration::from_millis(900);
    let begun_by_us = start(server(), |conn| conn.close(1000, ""));
    let begun_by_the_peer = start(server(), echo);
    for (running, begins) in [(begun_by_us, false), (begun_by_the_peer, true)] {
        let shortest = (0..5).map(|_| {
            let mut client = running.connect();
            if !begins {
                client.expect_close();
            }
            client.send_close(1000, "");
            if begins {
                client.expect_close();
            }
            let since = Instant::now();
            assert_eq!(client.expect_end(), End::Clean);
            // A socket that is closed refuses what comes.
            while client.try_write(&[0]) && since.elapsed() < CEILING {
                thread::sleep(ms(1));
            }
            since.elapsed()
        });
        let shortest = shortest.min().unwrap();
        assert!(shortest < WAIT, "begun by the peer: {begins}: {shortest:?}");
    }
}

#[test]
fn a_peer_that_says_close_gets_all_replies_before_the_answer() {
    const REPLY: usize = 3 * 1024 * 1024;
    let running = start(server(), |conn| {
        loop {
            conn.recv()?;
            conn.send(vec![5; REPLY])?;
        }
    });
    let mut client = running.connect();
    client.send_text("a lot, please");
    client.send_close(1000, "");
    assert_eq!(client.frame().payload.len(), REPLY);
    assert_eq!(client.frame().close().0, Some(1000));
    assert_eq!(client.expect_end(), End::Clean);
    drop(client);
    let report = running.closed();
    assert_eq!(report.reason, by_peer(Some(1000), ""));
    assert!(report.traffic.bytes_out > REPLY as u64, "{report:?}");
}

/// It answers each Ping that it meets before our Close frame, as it must (RFC 6455 section 5.5.2), though all that we
/// have to say is in the system's hands by then, and some of it not on the line yet.
#[test]
fn a_peer_that_says_close_and_owes_a_pong_gets_all_that_is_on_its_way() {
    let running = start(server().close_timeout(CEILING), |conn| {
        let size = conn.recv()?.as_text().and_then(|text| text.parse().ok()).expect("a size");
        conn.sender().ping()?;
        conn.send(vec![5; size])?;
        conn.recv().map(drop)
    });
    // Where the peer's window is full, and little more than that was said, depends on the system.
    for size in (32 * 1024..512 * 1024).step_by(8 * 1024) {
        let mut client = running.connect();
        client.send_text(&size.to_string());
        client.send_close(1000, "");
        let begun = Instant::now();
        thread::sleep(ms(50));
        let is_in_the_systems_hands = running.handle.stats().open == 0;
        let ping = client.frame();
        assert_eq!(ping.opcode, PING);
        client.send(PONG, &ping.payload);
        thread::sleep(ms(50));
        match client.next_within(CEILING) {
            Incoming::Frame(reply) => {
                assert_eq!(reply.payload.len(), size);
                assert_eq!(client.expect_close().0, Some(1000), "{size}");
            }
            // A peer is waited for a second.
            other => assert!(begun.elapsed() > ms(900), "{other:?} instead of {size} bytes"),
        }
        client.drain();
        assert_eq!(running.closed().reason, by_peer(Some(1000), ""));
        if !is_in_the_systems_hands {
            break;
        }
    }
}

// Begun by us.

#[test]
fn a_handler_that_returns_closes_with_1000() {
    let running = start(server(), |conn| conn.send("done"));
    let mut client = running.connect();
    assert_eq!(client.text(), "done");
    assert_eq!(client.frame().close(), (Some(1000), String::new()));
    client.send_close(1000, "");
    assert_eq!(client.expect_end(), End::Clean);
    let report = running.closed();
    assert_eq!((&report.reason, codes(&report)), (&by_us(1000, ""), (Some(1000), Some(1000))));
}

#[test]
fn close_takes_any_code_that_may_be_sent_and_no_other() {
    let (sender, errors) = unbounded();
    let running = start(server(), move |conn| {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let errors = [conn.close(code, "").unwrap_err(), conn.sender().close(code, "").unwrap_err()];
            for error in errors {
                assert!(matches!(error, Error::InvalidCloseCode(invalid) if u16::from(invalid) == code), "{error:?}");
            }
        }
        assert!(!conn.sender().is_closed());
        let code: u16 = conn.path()[1..].parse().unwrap();
        conn.close(code, "so be it")?;
        let _ = sender.send(conn.close(code, "again").unwrap_err());
        conn.recv().map(drop)
    });
    for code in [1000, 1001, 1003, 1008, 1012, 1013, 1014, 3000, 4999] {
        let request = request_with(&format!("/{code}"), "");
        let mut client = Client::tcp(running.address()).upgraded(&request);
        assert_eq!(client.expect_close(), (Some(code), "so be it".into()));
        client.send_close(4321, "mine");
        assert_eq!(client.expect_end(), End::Clean);
        drop(client);
        let report = running.closed();
        assert_eq!((&report.reason, codes(&report)), (&by_us(code, "so be it"), (Some(code), Some(4321))));
        assert!(matches!(receive("the second close", &errors), Error::Closed(reason) if reason == report.reason));
    }
}

#[test]
fn close_cuts_a_reason_that_is_too_long_at_a_character() {
    let running = start(server(), |conn| conn.close(4000, &"é".repeat(100)));
    let mut client = running.connect();
    assert_eq!(client.expect_close(), (Some(4000), "é".repeat(61)));
}

#[test]
fn a_handler_that_panics_or_fails_closes_with_1011_and_concerns_nobody_else() {
    let running = start(server(), |conn| match conn.recv()?.as_text() {
        Some("panic") => panic!("oh no: {}", 42),
        Some("panic with a value") => std::panic::panic_any(42),
        Some("fail") => Err(Error::handler("the database is gone")),
        Some("io") => Err(std::io::Error::other("disk full").into()),
        Some("foreign") => Err(Error::Closed(shutdown())),
        _ => echo(conn),
    });
    let mut bystander = running.connect();
    bystander.send_text("just echo");
    let table = [
        ("panic", CloseReason::HandlerPanicked("oh no: 42".into())),
        ("panic with a value", CloseReason::HandlerPanicked("no message".into())),
        ("fail", CloseReason::HandlerFailed("the database is gone".into())),
        ("io", CloseReason::HandlerFailed("disk full".into())),
        // The end of some other connection is not this one's.
        ("foreign", CloseReason::HandlerFailed("connection closed: server shutdown".into())),
    ];
    for (what, reason) in table {
        let mut client = running.connect();
        client.send_text(what);
        assert_eq!(client.expect_close(), (Some(1011), "internal error".into()), "{what}");
        client.send_close(1011, "");
        assert_eq!(client.expect_end(), End::Clean, "{what}");
        let report = running.closed();
        assert_eq!((&report.reason, codes(&report)), (&reason, (Some(1011), Some(1011))), "{what}");
    }
    bystander.expect_echo("still served");
}

#[test]
fn shutdown_closes_with_1001() {
    let running = start(server(), echo);
    let mut clients: Vec<Client> = (0..3).map(|_| running.connect()).collect();
    clients.iter().for_each(|_| _ = running.events.opened());
    running.handle.shutdown();
    for client in &mut clients {
        assert_eq!(client.expect_close(), (Some(1001), "server shutting down".into()));
        client.send_close(1001, "");
        assert_eq!(client.expect_end(), End::Clean);
        let report = running.closed();
        assert_eq!((&report.reason, codes(&report)), (&shutdown(), (Some(1001), Some(1001))));
    }
}

#[test]
fn close_from_another_thread_ends_the_recv_of_the_handler() {
    let (sender, senders) = bounded(1);
    let (errors, ends) = bounded(1);
    let running = start(server(), move |conn| {
        let _ = sender.send(conn.sender());
        let end = loop {
            match conn.recv() {
                Ok(message) => assert_eq!(message.as_text(), Some("sent before it knew")),
                Err(end) => break end,
            }
        };
        let _ = errors.send(end.to_string());
        Err(end)
    });
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    sender.send("first").unwrap();
    sender.close(4001, "from outside").unwrap();
    assert!(matches!(sender.send("late"), Err(Error::Closed(reason)) if reason == by_us(4001, "from outside")));
    assert!(sender.is_closed());
    client.send_text("sent before it knew");
    assert_eq!(client.text(), "first");
    assert_eq!(client.frame().close(), (Some(4001), "from outside".into()));
    client.send_close(4002, "");
    assert_eq!(client.expect_end(), End::Clean);
    drop(client);
    assert_eq!(receive("the end", &ends), "connection closed: closed by us with 4001 \"from outside\"");
    let report = running.closed();
    assert_eq!((&report.reason, codes(&report)), (&by_us(4001, "from outside"), (Some(4001), Some(4002))));
    assert_eq!(report.traffic.messages_in, 1);
}

#[test]
fn close_while_a_large_message_is_half_received_ends_by_its_deadline_or_the_peers_answer() {
    for (answers, close_timeout) in [(true, CEILING), (false, ms(300))] {
        let (sender, senders) = bounded(1);
        let running = start(server().close_timeout(close_timeout), move |conn| {
            let _ = sender.send(conn.sender());
            echo(conn)
        });
        let mut client = running.connect();
        let frame = masked(BINARY, &[1; 500_000]);
        client.write(&frame[..250_000]);
        let began = Instant::now();
        receive("a Sender", &senders).close(1000, "").unwrap();
        assert_eq!(client.frame().close().0, Some(1000));
        if answers {
            client.write(&frame[250_000..]);
            client.send_close(1000, "");
        }
        let report = running.closed();
        assert_eq!(codes(&report), (Some(1000), answers.then_some(1000)));
        assert_eq!((report.reason, report.traffic.messages_in), (by_us(1000, ""), u64::from(answers)));
        assert!(answers || began.elapsed() >= close_timeout, "{:?}", began.elapsed());
        client.drain();
    }
}

#[test]
fn what_was_queued_before_a_local_close_arrives_complete_however_slowly_it_is_read() {
    const MESSAGES: u8 = 40;
    const SIZE: usize = 500_000;
    for by_return in [true, false] {
        let server = server().queue_size(64 * 1024 * 1024).close_timeout(Duration::from_secs(20));
        let running = start(server, move |conn| {
            for number in 0..MESSAGES {
                conn.send(vec![number; SIZE])?;
            }
            assert!(conn.sender().queued() > SIZE, "the kernel took all of it: nothing is proved");
            if by_return { Ok(()) } else { conn.close(4000, "") }
        });
        let mut client = running.connect();
        for number in 0..MESSAGES {
            let frame = loop {
                match client.sipped() {
                    Some(frame) => break frame,
                    None => assert!(client.sip(100_000) > 0, "the end came before message {number}"),
                }
                thread::sleep(ms(1));
            };
            assert!(frame.payload == vec![number; SIZE], "message {number}");
        }
        assert_eq!(client.frame().close().0, Some(if by_return { 1000 } else { 4000 }));
        client.send_close(1000, "");
        assert_eq!(client.expect_end(), End::Clean);
        drop(client);
        let report = running.closed();
        assert!(matches!(report.reason, CloseReason::Local { .. }), "{report:?}");
        assert_eq!(report.traffic.messages_out, u64::from(MESSAGES));
    }
}

#[test]
fn a_peer_that_never_answers_a_close_is_left_at_the_deadline_and_not_before() {
    let (sender, senders) = bounded(1);
    let (release, wait) = bounded::<()>(1);
    let running = start(server().close_timeout(ms(250)), move |conn| match conn.path() {
        "/return" => Ok(()),
        "/close" => conn.close(1000, ""),
        "/outside" => conn.recv().map(drop),
        // The handler is away: nobody but the supervisor is there to end it.
        _ => {
            let _ = sender.send(conn.sender());
            let _ = wait.recv_timeout(CEILING);
            conn.recv().map(drop)
        }
    });
    for path in ["/return", "/close", "/away"] {
        let began = Instant::now();
        let mut client = Client::tcp(running.address()).upgraded(&request_with(path, ""));
        if path == "/away" {
            receive("a Sender", &senders).close(1000, "").unwrap();
        }
        assert_eq!(client.expect_close().0, Some(1000), "{path}");
        let report = running.closed();
        assert!(began.elapsed() >= ms(250), "{path}: {:?}", began.elapsed());
        assert_eq!((&report.reason, codes(&report)), (&by_us(1000, ""), (Some(1000), None)), "{path}");
        assert!(report.age >= ms(250), "{report:?}");
        let _ = release.try_send(());
        assert_eq!(client.expect_end(), End::Clean, "{path}");
    }
}

#[test]
fn a_peer_that_never_reads_is_left_at_the_deadline_and_not_before() {
    let running = start(server().close_timeout(ms(250)).queue_size(64 * 1024 * 1024), |conn| {
        while conn.sender().queued() < 1024 * 1024 {
            conn.send(vec![9; 100_000])?;
        }
        Ok(())
    });
    let began = Instant::now();
    let _client = running.connect();
    let report = running.closed();
    assert!(began.elapsed() >= ms(250), "{:?}", began.elapsed());
    assert_eq!((&report.reason, report.received), (&by_us(1000, ""), None));
}
