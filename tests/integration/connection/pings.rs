//! Pings and Pongs of both ends that no schedule asked for, and that data which waits does not hold up.

use heartwire::Error;

use crate::support::{
    CEILING, CLOSE, CONTINUATION, Client, PING, PONG, TEXT, echo, eventually, fill, fragment, ms, receive, server,
    start, start_listening,
};

#[test]
fn ping_from_any_thread_measures_the_round_trip() {
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
fn ping_tells_who_waits_for_its_pong_when_the_connection_ends() {
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
fn ping_overtakes_data_that_waits() {
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
    eventually("the Ping was read", || running.handle.connections()[0].traffic.messages_in == 1);
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
        eventually("the beats were read", || info().is_some_and(|info| info.traffic.messages_in == 1));
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
    eventually("all Pings were read", || running.handle.connections()[0].traffic.messages_in == 1);
    // The newest waits, and one may have been gathered each time that the socket took a part of a message.
    assert!(sender.queued() <= queued + 3 * 7, "{} bytes wait, after {queued}", sender.queued());
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
    client.write(&fragment(TEXT, b"be"));
    for payload in [&b""[..], b"1", &[0xff; 125]] {
        client.send(PING, payload);
        let pong = client.frame();
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, payload));
    }
    client.send(CONTINUATION, "gun");
    assert_eq!(client.text(), "begun");
}
