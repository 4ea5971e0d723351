//! Any thread sends at any time, while the connection's thread waits for its peer; slow peers; and what that costs.

mod support;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use heartwire::{CloseReason, Connection, Error, HeartbeatPolicy, Message, Sender, TrySendError};
use support::{
    BINARY, CEILING, CLOSE, Client, End, PING, PONG, TEXT, echo, masked, ms, receive, server, start, start_listening,
};

#[test]
fn many_threads_send_while_the_connections_own_waits_in_recv_and_every_frame_is_whole_and_in_order() {
    const THREADS: u8 = 6;
    const MESSAGES: u32 = 250;
    let (running, senders) = start_listening(server().queue_size(100_000));
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    support::eventually("the handler waits in recv", || running.handle.connections()[0].away.is_none());
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
fn what_is_sent_from_outside_does_not_wait_for_anything() {
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
fn a_message_larger_than_the_queue_is_sent_whole() {
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

/// Fills the queue of a peer that does not read, and gives the message that was not taken.
fn fill(sender: &Sender) -> Message {
    let start = Instant::now();
    let mut waiting = None;
    loop {
        match sender.try_send(vec![3; 10_000]) {
            Ok(()) => assert!(start.elapsed() < CEILING, "never full"),
            // Full for good is what stays so: the kernel may still be making room.
            Err(TrySendError::Full(message)) if waiting == Some(sender.queued()) => return message,
            Err(TrySendError::Full(_)) => {
                waiting = Some(sender.queued());
                thread::sleep(ms(20));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
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
    support::eventually("the drainer has taken note of it", || sender.queued() == 0);
    sender.try_send("room").expect("there is room");
    assert_eq!(client.text(), "room");
    client.close();
    running.closed();
    assert_eq!(sender.try_send("too late"), Err(TrySendError::Closed(Message::text("too late"))));
    assert!(sender.is_closed() && sender.queued() == 0);
}

#[test]
fn a_blocked_send_ends_with_the_connection() {
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

// Feeding.

#[test]
fn fed_messages_arrive_all_and_in_the_order_of_the_calls_among_sent_ones() {
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
fn what_was_fed_leaves_with_the_next_recv_a_return_or_a_close() {
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
        let mut client = Client::tcp(running.address()).upgraded(&support::request_with(path, ""));
        assert_eq!(client.text(), "one", "{path}");
    }
}

#[test]
fn large_and_many_fed_messages_do_not_pile_up_in_memory() {
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

// Receiving with a timeout.

#[test]
fn recv_timeout_gives_none_in_time_and_keeps_what_has_arrived() {
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
fn a_timeout_of_zero_takes_what_is_there() {
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
fn an_endless_timeout_is_as_good_as_none() {
    let running = start(server(), |conn| {
        let message = conn.recv_timeout(Duration::MAX)?.expect("a message");
        conn.send(message)
    });
    running.connect().expect_echo("hello");
}

// Pings.

#[test]
fn a_ping_from_any_thread_measures_the_round_trip() {
    let (running, senders) = start_listening(server());
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    let answers: Vec<_> = (0..3).map(|_| sender.ping().unwrap()).collect();
    let pings: Vec<_> = (0..3).map(|_| client.frame()).collect();
    assert!(pings.iter().all(|frame| frame.opcode == PING));
    assert!(answers[0].recv_timeout(ms(50)).is_err(), "nothing was answered yet");
    // The second answers for the first as well (RFC 6455 section 5.5.3).
    client.send(PONG, &pings[1].payload);
    for answer in &answers[..2] {
        let round_trip = receive("a round trip", answer);
        assert!(round_trip >= ms(50) && round_trip < CEILING, "{round_trip:?}");
    }
    assert!(answers[2].try_recv().is_err());
    client.send(PONG, "nobody asked");
    client.send(PONG, &pings[2].payload);
    receive("a round trip", &answers[2]);
    let info = running.handle.connections().pop().unwrap();
    assert_eq!((info.pings, info.pongs, info.round_trip.unwrap().samples), (3, 2, 2), "{info:?}");
}

#[test]
fn whoever_waits_for_a_pong_is_told_when_the_connection_ends() {
    let (running, senders) = start_listening(server());
    for how in ["close", "drop", "reset"] {
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        let answer = sender.ping().unwrap();
        assert_eq!(client.frame().opcode, PING);
        match how {
            "close" => client.close(),
            "drop" => drop(client),
            _ => client.reset(),
        }
        let error = answer.recv_timeout(CEILING).unwrap_err();
        assert!(error.is_disconnected(), "{how}: {error:?}");
        running.closed();
        assert!(matches!(sender.ping(), Err(Error::Closed(_))), "{how}");
    }
}

#[test]
fn a_ping_overtakes_data_that_waits() {
    // What the drainer may have had in hand already, and what the kernel may have taken meanwhile.
    const IN_HAND: usize = 500_000;
    let (running, senders) = start_listening(server().queue_size(2_000_000));
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    fill(&sender);
    let queued = sender.queued();
    sender.ping().unwrap();
    client.send(PING, "asked while data waited");
    client.send_text("and this tells that it was read");
    support::eventually("the Ping was read", || running.handle.connections()[0].traffic.messages_in == 1);
    sender.close(1000, "").unwrap();
    let (mut behind_ping, mut behind_pong) = (None, None);
    loop {
        let frame = client.frame();
        match frame.opcode {
            PING => behind_ping = Some(0),
            PONG => {
                assert_eq!(frame.payload, b"asked while data waited");
                behind_pong = Some(0);
            }
            CLOSE => break,
            _ => {
                behind_ping = behind_ping.map(|bytes| bytes + frame.payload.len());
                behind_pong = behind_pong.map(|bytes| bytes + frame.payload.len());
            }
        }
    }
    println!("of {queued} bytes that waited, {behind_ping:?} came behind the Ping, {behind_pong:?} behind the Pong");
    assert!(behind_ping.is_some_and(|bytes| bytes + IN_HAND >= queued), "the Ping waited");
    assert!(behind_pong.is_some_and(|bytes| bytes + IN_HAND >= queued), "the Pong waited");
}

#[test]
fn a_heartbeat_in_text_and_a_ping_are_both_answered_while_data_waits() {
    let (running, senders) = start_listening(server().text_heartbeat(true).queue_size(2_000_000));
    for text_first in [true, false] {
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        fill(&sender);
        let beat = |client: &mut Client, is_text: bool| match is_text {
            true => client.send_text("ping"),
            false => client.send(PING, "asked"),
        };
        beat(&mut client, text_first);
        beat(&mut client, !text_first);
        client.send_text("and this tells that they were read");
        let info = || running.handle.connections().into_iter().find(|info| info.id == sender.id());
        support::eventually("the beats were read", || info().is_some_and(|info| info.traffic.messages_in == 1));
        sender.close(1000, "").unwrap();
        let mut answers = Vec::new();
        loop {
            let frame = client.frame();
            match frame.opcode {
                PONG | TEXT => answers.push((frame.opcode, frame.payload)),
                CLOSE => break,
                _ => {}
            }
        }
        answers.sort();
        assert_eq!(answers, [(TEXT, b"pong".to_vec()), (PONG, b"asked".to_vec())], "text first: {text_first}");
    }
}

#[test]
fn of_pongs_that_wait_only_the_newest_is_sent() {
    let (running, senders) = start_listening(server().queue_size(2_000_000));
    let mut client = running.connect();
    let sender = receive("a Sender", &senders);
    fill(&sender);
    let queued = sender.queued();
    for number in 0..10_000 {
        client.send(PING, format!("{number:05}"));
    }
    client.send_text("and this tells that they were read");
    support::eventually("all Pings were read", || running.handle.connections()[0].traffic.messages_in == 1);
    assert!(sender.queued() <= queued + 7, "{} bytes wait", sender.queued());
    let (mut pongs, mut newest) = (0, Vec::new());
    sender.close(1000, "").unwrap();
    loop {
        let frame = client.frame();
        match frame.opcode {
            PONG => {
                pongs += 1;
                newest = frame.payload;
            }
            CLOSE => break,
            _ => {}
        }
    }
    assert!(pongs <= 3 && newest == b"09999", "{pongs} Pongs, the last {newest:?}");
}

#[test]
fn pings_of_the_peer_are_answered_at_once_even_inside_a_fragmented_message() {
    let running = start(server(), echo);
    let mut client = running.connect();
    client.write(&support::fragment(TEXT, b"be"));
    for payload in [&b""[..], b"1", &[0xff; 125]] {
        client.send(PING, payload);
        let pong = client.frame();
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, payload));
    }
    client.send(support::CONTINUATION, "gun");
    assert_eq!(client.text(), "begun");
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

// What it costs.

#[cfg(target_os = "linux")]
#[test]
fn an_idle_connection_is_one_thread_and_one_that_is_behind_is_two() {
    use support::threads_named;
    if !support::alone("an_idle_connection_is_one_thread_and_one_that_is_behind_is_two") {
        return;
    }
    const IDLE: usize = 50;
    let (running, senders) = start_listening(server().heartbeat(HeartbeatPolicy::new(ms(100), ms(10_000))));
    let mut clients: Vec<Client> = (0..IDLE).map(|_| running.connect()).collect();
    let mut senders: Vec<Sender> = (0..IDLE).map(|_| receive("a Sender", &senders)).collect();
    // They came as their threads started; connections are numbered as they were let in.
    senders.sort_by_key(Sender::id);
    // Beating and talking changes nothing.
    for (client, sender) in clients.iter_mut().zip(&senders) {
        sender.send("hello").unwrap();
        assert_eq!(client.text(), "hello");
    }
    let count = || (threads_named("heartwire-conn"), threads_named("heartwire-drain-"));
    assert_eq!(count(), (IDLE, 0));
    assert_eq!(threads_named("heartwire-"), IDLE + 3, "and the supervisor, the stand-in and the log");

    let behind: Vec<usize> = (0..IDLE).filter(|index| fills(&senders[*index], *index < 5)).collect();
    assert_eq!(behind, [0, 1, 2, 3, 4]);
    // A thread has its name a moment after it has started.
    support::eventually("there is a drainer for each that is behind, and no other", || count() == (IDLE, 5));
    for client in &mut clients[..5] {
        while client.message().opcode != TEXT {}
    }
    support::eventually("the drainers have ended", || count() == (IDLE, 0));

    clients.truncate(20);
    support::eventually("the threads of closed connections have ended", || count() == (20, 0));
    drop(clients);
    running.stop();
    support::eventually("all threads have ended", || threads_named("heartwire-") == 0);
}

#[cfg(target_os = "linux")]
fn fills(sender: &Sender, really: bool) -> bool {
    if really {
        fill(sender);
        // Not before there is room; the reader ends with it.
        let sender = sender.clone();
        thread::spawn(move || sender.send("the last"));
    }
    really
}

#[cfg(target_os = "linux")]
#[test]
fn a_sender_that_is_kept_does_not_keep_the_file_descriptor() {
    if !support::alone("a_sender_that_is_kept_does_not_keep_the_file_descriptor") {
        return;
    }
    let (running, senders) = start_listening(server());
    let at_rest = support::open_sockets();
    let mut kept: Vec<Sender> = Vec::new();
    for round in 0..10 {
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        if round % 2 == 0 {
            // Behind, and so with a drainer at the end.
            fill(&sender);
        }
        assert!(support::open_sockets() >= at_rest + 2);
        match round % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                client.send_close(1000, "");
                while client.frame().opcode != CLOSE {}
                client.expect_end();
            }
        }
        running.closed();
        kept.push(sender);
    }
    support::eventually("all sockets but the listener are closed", || support::open_sockets() == at_rest);
    assert!(kept.iter().all(Sender::is_closed));
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
    let request = support::request_with("/room?id=7", "X-Token: abc\r\n");
    let mut client = Client::tcp(running.address()).upgraded(&request);
    let peer = client.local_addr();
    assert_eq!(client.text(), format!("{:?}", (1, peer)));
}
