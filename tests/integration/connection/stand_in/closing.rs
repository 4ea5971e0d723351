//! Connections that end while their handler is away.

use std::thread;
use std::time::Instant;

use crossbeam_channel::{bounded, unbounded};
use heartwire::{CloseReason, Error, HeartbeatPolicy};

use super::{quick, start_away};
use crate::support::{CEILING, CLOSE, End, close_payload, codes, echo, is_closed, masked, ms, receive, server, start};

#[test]
fn a_close_that_comes_while_the_handler_is_away_is_answered_when_it_is_back_behind_its_replies() {
    let (running, open, senders) = start_away(server(), false, echo);
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
    assert_eq!(codes(&report), (Some(4001), Some(4001)));
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
        let (running, open, senders) = start_away(server().close_timeout(ms(700)), false, echo);
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
fn close_from_another_thread_ends_when_the_peer_answers_though_the_handler_sleeps() {
    let (running, open, senders) = start_away(server().close_timeout(CEILING), false, echo);
    let mut client = running.connect();
    receive("a Sender", &senders).close(1000, "done").unwrap();
    assert_eq!(client.expect_close(), (Some(1000), "done".into()));
    client.send_close(1000, "");
    let report = running.closed();
    assert_eq!(report.reason, CloseReason::Local { code: 1000.into(), reason: "done".into() });
    assert_eq!(codes(&report), (Some(1000), Some(1000)));
    drop(open);
}

#[test]
fn a_reset_while_the_handler_sleeps_is_reported_at_once() {
    let (running, open, senders) = start_away(server().close_timeout(CEILING), false, echo);
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
        let (running, open, _) = start_away(server, false, echo);
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
