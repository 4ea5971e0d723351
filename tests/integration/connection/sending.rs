//! Any thread sends at any time, while the connection's thread waits for its peer, and however slow that is.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{CloseReason, ConfirmError, Error, Message, TrySendError};

use super::stand_in::start_away;
use crate::support::{
    BINARY, CEILING, CLOSE, Client, End, Incoming, PING, PONG, TEXT, echo, eventually, fill, masked, ms, receive,
    request_with, server, start, start_listening,
};

#[test]
fn send_from_many_threads_while_the_handler_waits_in_recv_keeps_frames_whole_and_in_order() {
    const THREADS: u8 = 6;
    const MESSAGES: u32 = 250;
    let (running, senders) = start_listening(server().queue_size(100_000));
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    eventually("the handler waits in recv", || running.handle.connections()[0].away.is_none());
    let barrier = Arc::new(Barrier::new(usize::from(THREADS)));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (sender, barrier) = (sender.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                for number in 0..MESSAGES {
                    // Of all sizes, from nothing but the marks to more than a write takes at once.
                    let mut payload = vec![thread; 5 + (number as usize * 7919) % 20_000];
                    payload[1..5].copy_from_slice(&number.to_be_bytes());
                    sender.send(payload).expect("it is open");
                }
            })
        })
        .collect();
    let mut next = [0; THREADS as usize];
    for _ in 0..u32::from(THREADS) * MESSAGES {
        let frame = client.message();
        let (thread, number) = (frame.payload[0], u32::from_be_bytes(*frame.payload[1..].first_chunk().unwrap()));
        assert_eq!(number, next[usize::from(thread)], "of thread {thread}");
        assert_eq!(frame.payload.len(), 5 + (number as usize * 7919) % 20_000);
        assert!(frame.payload[5..].iter().all(|byte| *byte == thread), "torn");
        next[usize::from(thread)] += 1;
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(next, [MESSAGES; THREADS as usize]);
    client.close();
    assert_eq!(running.closed().traffic.messages_out, u64::from(THREADS) * u64::from(MESSAGES));
}

#[test]
fn send_from_outside_waits_for_nothing() {
    let (running, senders) = start_listening(server());
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    let mut slowest = Duration::ZERO;
    for number in 0..200 {
        let sent = Instant::now();
        sender.send(number.to_string()).unwrap();
        assert_eq!(client.text(), number.to_string());
        slowest = slowest.max(sent.elapsed());
    }
    // Every message waiting for a tick, even of a few milliseconds, would show in the sum; one hiccup may not.
    println!("slowest of 200: {slowest:?}");
    assert!(slowest < Duration::from_secs(5));
}

#[test]
fn large_messages_go_both_ways_whole_even_if_the_peer_reads_slowly() {
    let running = start(server().max_message_size(32 * 1024 * 1024), echo);
    for (size, sip) in [(1024 * 1024, 30_000), (20 * 1024 * 1024, 500_000)] {
        // Each stretch of 1,000 bytes is another, so that one in the wrong place shows.
        let mut payload = Vec::with_capacity(size);
        while payload.len() < size {
            let number = (payload.len() as u64).to_be_bytes();
            payload.extend_from_slice(&number);
            payload.resize(payload.len() + 992, number[6]);
        }
        let mut client = running.connect();
        let mut writer = client.try_clone();
        let frame = masked(BINARY, &payload);
        let sending = thread::spawn(move || writer.write(&frame));
        let echoed = loop {
            assert!(client.sip(sip) > 0, "the end came early");
            if let Some(frame) = client.sipped() {
                break frame;
            }
            thread::sleep(ms(2));
        };
        sending.join().expect("it is taken");
        assert!(echoed.opcode == BINARY && echoed.payload == payload, "{size} bytes came back changed");
        client.close();
    }
}

#[test]
fn send_takes_a_message_larger_than_the_queue_whole() {
    let running = start(server().queue_size(1000), |conn| {
        for number in 0..3 {
            conn.send(vec![number; 5_000_000])?;
        }
        Ok(())
    });
    let mut client = running.connect();
    for number in 0..3 {
        assert!(client.message().payload == vec![number; 5_000_000]);
    }
    assert_eq!(client.expect_close().0, Some(1000));
}

#[test]
fn try_send_gives_the_message_back_when_the_queue_is_full_and_when_the_connection_is_closed() {
    let (running, senders) = start_listening(server().queue_size(100_000));
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    assert_eq!(fill(&sender), Message::binary(vec![3; 10_000]));
    assert!(sender.queued() <= 100_000 && sender.queued() > 80_000, "{} bytes wait", sender.queued());
    assert_eq!(running.handle.connections()[0].queued, sender.queued());

    // The peer reads on, and there is room again: for one who waits, and for one who tries.
    let waiting = {
        let sender = sender.clone();
        thread::spawn(move || sender.send("waited for room"))
    };
    while client.message().opcode != TEXT {}
    waiting.join().expect("no panic").expect("there was room");
    eventually("the drainer has taken note of it", || sender.queued() == 0);
    sender.try_send("room").expect("there is room");
    assert_eq!(client.text(), "room");
    client.close();
    running.closed();
    assert_eq!(sender.try_send("too late"), Err(TrySendError::Closed(Message::text("too late"))));
    assert!(sender.is_closed() && sender.queued() == 0);
}

#[test]
fn send_that_blocks_ends_with_the_connection() {
    let (running, senders) = start_listening(server().queue_size(100_000));
    for how in ["reset", "close from outside", "violation"] {
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        fill(&sender);
        let (done, ends) = bounded(1);
        let blocked = sender.clone();
        thread::spawn(move || {
            while blocked.send(vec![0; 10_000]).is_ok() {}
            let _ = done.send(blocked.send("x").unwrap_err());
        });
        assert!(ends.recv_timeout(ms(30)).is_err(), "it should wait");
        match how {
            "reset" => client.reset(),
            "violation" => {
                client.write(&masked(3, b""));
                receive("the end of send", &ends);
                continue;
            }
            _ => sender.close(1000, "").unwrap(),
        }
        let error = receive("the end of send", &ends);
        match (how, &error) {
            ("reset", Error::Closed(CloseReason::Io { .. } | CloseReason::Disconnected)) => {}
            ("close from outside", Error::Closed(CloseReason::Local { .. })) => {}
            _ => panic!("{how}: {error:?}"),
        }
    }
}

// Confirmed delivery.

#[test]
fn confirm_returns_when_the_peer_has_read_what_was_sent_and_not_before() {
    for is_away in [false, true] {
        let (running, open, senders) = start_away(server().queue_size(10_000_000), false, echo);
        let mut open = Some(open).filter(|_| is_away);
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        sender.send(vec![1; 4_000_000]).unwrap();
        sender.send("the last").unwrap();
        assert_eq!(sender.confirm(ms(300)), Err(ConfirmError::Timeout), "nothing was read");
        let overtaking = sender.ping().unwrap();
        let confirming = sender.clone();
        let confirmed = thread::spawn(move || confirming.confirm(CEILING));
        let mut has_last = false;
        while !has_last {
            let frame = client.frame();
            match frame.opcode {
                PING => {
                    assert!(!confirmed.is_finished(), "confirmed before all was read");
                    client.send(PONG, &frame.payload);
                }
                opcode => has_last = opcode == TEXT,
            }
        }
        assert!(overtaking.recv_timeout(CEILING).is_ok());
        while !confirmed.is_finished() {
            if let Incoming::Frame(frame) = client.next_within(ms(50)) {
                assert_eq!(frame.opcode, PING);
                client.send(PONG, &frame.payload);
            }
        }
        assert_eq!(confirmed.join().unwrap(), Ok(()));
        let waiting = sender.clone();
        let unconfirmed = thread::spawn(move || waiting.confirm(CEILING));
        while client.frame().opcode != PING {}
        client.send_close(1000, "");
        drop(open.take());
        let end = unconfirmed.join().unwrap();
        assert!(matches!(end, Err(ConfirmError::Closed(CloseReason::Peer { .. }))), "{end:?}");
        assert!(matches!(sender.confirm(CEILING), Err(ConfirmError::Closed(_))));
    }
}

#[test]
fn send_timeout_waits_for_room_for_so_long_and_gives_the_message_back() {
    let (running, open, senders) = start_away(server().queue_size(10_000), false, echo);
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    let large = vec![0; 8_000_000];
    sender.send(large).unwrap();
    let asked = Instant::now();
    match sender.send_timeout("no room", ms(300)) {
        Err(TrySendError::Full(message)) => assert_eq!(message.as_text(), Some("no room")),
        other => panic!("{other:?}"),
    }
    assert!(asked.elapsed() >= ms(300));
    let waiting = sender.clone();
    let sent = thread::spawn(move || waiting.send_timeout("in time", CEILING));
    assert_eq!(client.message().opcode, BINARY);
    assert_eq!(sent.join().unwrap(), Ok(()));
    assert_eq!(client.text(), "in time");
    client.send_close(1000, "");
    drop(open);
    running.closed();
    assert!(matches!(sender.send_timeout("too late", CEILING), Err(TrySendError::Closed(_))));
}

// Feeding.

#[test]
fn feed_keeps_the_order_of_the_calls_among_sent_messages() {
    const ROUNDS: u32 = 300;
    let running = start(server(), |conn| {
        conn.recv()?;
        for round in 0..ROUNDS {
            conn.feed(format!("{round} fed"))?;
            conn.feed(format!("{round} fed too"))?;
            if round % 3 == 0 {
                conn.send(format!("{round} sent"))?;
            }
        }
        conn.recv().map(drop)
    });
    let mut client = running.connect();
    client.send_text("go");
    for round in 0..ROUNDS {
        assert_eq!(client.text(), format!("{round} fed"));
        assert_eq!(client.text(), format!("{round} fed too"));
        if round % 3 == 0 {
            assert_eq!(client.text(), format!("{round} sent"));
        }
    }
    client.close();
}

#[test]
fn feed_leaves_with_the_next_recv_a_return_or_a_close() {
    let running = start(server(), |conn| {
        conn.feed("one")?;
        assert!(conn.sender().queued() > 0, "a small message waits in memory");
        match conn.path() {
            "/recv" => loop {
                conn.recv()?;
            },
            "/timeout" => loop {
                conn.recv_timeout(ms(1))?;
            },
            "/zero" => {
                assert_eq!(conn.recv_timeout(Duration::ZERO)?, None);
                thread::sleep(ms(100));
                Ok(())
            }
            "/close" => conn.close(1000, ""),
            "/return" => Ok(()),
            "/panic" => panic!("with a message in memory"),
            _ => Err(Error::handler("failed")),
        }
    });
    for path in ["/recv", "/timeout", "/zero", "/close", "/return", "/panic", "/error"] {
        let mut client = Client::tcp(running.address()).upgraded(&request_with(path, ""));
        assert_eq!(client.text(), "one", "{path}");
    }
}

#[test]
fn feed_lets_neither_large_nor_many_messages_pile_up_in_memory() {
    let running = start(server(), |conn| {
        conn.recv()?;
        for _ in 0..1000 {
            conn.feed(vec![8; 1000])?;
            assert!(conn.sender().queued() <= 1024 * 1024 + 1004, "{} bytes wait", conn.sender().queued());
        }
        conn.feed(vec![9; 3_000_000])?;
        Ok(())
    });
    let mut client = running.connect();
    client.send_text("go");
    for _ in 0..1000 {
        assert_eq!(client.message().payload, [8; 1000]);
    }
    assert_eq!(client.message().payload.len(), 3_000_000);
}

// The ends of things.

#[test]
fn nothing_follows_a_close_frame_whoever_sends() {
    for _ in 0..20 {
        let (running, senders) = start_listening(server());
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || while sender.send("more and more").is_ok() && sender.ping().is_ok() {})
            })
            .collect();
        for _ in 0..20 {
            client.frame();
        }
        sender.close(1000, "").unwrap();
        while client.frame().opcode != CLOSE {}
        client.send_close(1000, "");
        assert_eq!(client.expect_end(), End::Clean);
        senders.into_iter().for_each(|thread| thread.join().expect("no panic"));
        // A server's end waits for handlers, not for peers that have left.
        drop(client);
        running.stop();
    }
}

#[test]
fn a_sender_may_outlive_its_server() {
    let (running, senders) = start_listening(server());
    let client = running.connect();
    let sender = receive("a Sender", &senders);
    client.close();
    running.stop();
    assert!(matches!(sender.send("x"), Err(Error::Closed(CloseReason::Peer { .. }))));
    assert!(matches!(sender.close(1000, ""), Err(Error::Closed(_))));
    assert!(sender.ping().is_err() && sender.is_closed());
}
