//! Compressed messages (permessage-deflate, RFC 7692): what is agreed, what is on the wire, and what is refused.

use std::thread;
use std::time::Instant;

use crossbeam_channel::unbounded;
use heartwire::{Deflate, HeartbeatPolicy, Message, Server, TrySendError};

use super::stand_in::start_away;
use crate::support::deflate::{COMPRESSED, Peer, compressed, inflated};
use crate::support::{
    BINARY, BareServer, CEILING, CLOSE, CONTINUATION, Client, PING, PONG, Running, TEXT, client, close_payload, echo,
    eventually, exchange, fragment, live, ms, receive, request_with, run, server, start, start_listening,
};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// More than the threshold, and compressible.
const TEXT_OF_2_KB: usize = 2000;

fn text(number: usize) -> String {
    format!("{{\"number\": {number}, \"padding\": \"").repeat(TEXT_OF_2_KB / 20)
}

fn with_offer(offer: &str) -> String {
    request_with("/", &format!("Sec-WebSocket-Extensions: {offer}\r\n"))
}

/// A client that has agreed to compress each message by itself.
fn connect(running: &Running) -> Client {
    Client::tcp(running.address()).upgraded(&with_offer(OFFER))
}

fn deflating() -> Server {
    server().deflate(Deflate::new())
}

#[test]
fn compression_is_agreed_to_where_both_want_it_and_reported() {
    let (senders, extensions) = unbounded();
    let running = start(deflating(), move |conn| {
        let _ = senders.send(conn.extensions().to_owned());
        echo(conn)
    });
    for (offer, expected) in [(OFFER, AGREED), ("permessage-bzip2", "")] {
        let mut client = Client::tcp(running.address());
        client.write(with_offer(offer).as_bytes());
        let answer = client.answer();
        assert_eq!(answer.header("Sec-WebSocket-Extensions").unwrap_or_default(), expected);
        assert_eq!(receive("what was agreed", &extensions), expected);
        assert_eq!(running.handle.connections()[0].extensions, expected);
        client.close();
        assert_eq!(running.closed().extensions, expected);
    }
    // A server that does not compress says nothing of it.
    let plain = start(server(), echo);
    let mut client = Client::tcp(plain.address());
    client.write(with_offer(OFFER).as_bytes());
    assert_eq!(client.answer().header("Sec-WebSocket-Extensions"), None);
}

#[test]
fn an_offer_that_is_no_list_of_extensions_is_refused() {
    let running = start(deflating(), echo);
    let answer = exchange(running.address(), with_offer("permessage-deflate; =1"));
    assert_eq!((answer.status, &*answer.body), (400, "invalid Sec-WebSocket-Extensions\n"));
    // What cannot be agreed to is declined, and the connection is plain.
    let mut client = Client::tcp(running.address()).upgraded(&with_offer("permessage-deflate; unheard_of"));
    client.send_text(&text(1));
    assert_eq!(client.text(), text(1));
}

#[test]
fn long_messages_are_compressed_and_short_ones_and_noise_are_not() {
    let running = start(deflating(), echo);
    let mut client = connect(&running);
    let noise: Vec<u8> = (0..2000).map(|_| rand::random()).collect();
    for (opcode, message, is_compressed) in [
        (TEXT, text(1).into_bytes(), true),
        (BINARY, vec![7; 1024], true),
        (BINARY, vec![7; 1023], false),
        (TEXT, b"short".to_vec(), false),
        (TEXT, Vec::new(), false),
        (BINARY, noise, false),
        (BINARY, vec![9; 1 << 20], true),
    ] {
        client.write(&fragment(COMPRESSED | opcode, &compressed(&message)));
        let frame = client.message();
        assert_eq!((frame.opcode, frame.is_compressed), (opcode, is_compressed), "{} bytes", message.len());
        let got = if is_compressed { inflated(&frame.payload) } else { frame.payload.clone() };
        assert!(got == message, "{} bytes came back otherwise", message.len());
        assert!(!is_compressed || frame.payload.len() < message.len() / 2);
    }
}

#[test]
fn compressed_messages_in_fragments_arrive_with_pings_between() {
    let running = start(deflating(), echo);
    let mut client = connect(&running);
    let payload = compressed(text(1).as_bytes());
    let (first, rest) = payload.split_at(payload.len() / 2);
    client.write(&fragment(0x40 | TEXT, first));
    client.send(PING, "between");
    assert_eq!(client.frame().opcode, PONG);
    client.write(&fragment(CONTINUATION, rest));
    client.write(&fragment(0x80 | CONTINUATION, b""));
    assert_eq!(inflated(&client.message().payload), text(1).into_bytes());
    // Byte by byte.
    let frame = fragment(COMPRESSED | TEXT, &payload);
    client.write_byte_by_byte(&frame);
    assert_eq!(inflated(&client.message().payload), text(1).into_bytes());
}

#[test]
fn what_is_wrong_with_a_compressed_message_ends_the_connection_with_its_code() {
    let bomb = compressed(&vec![0; 16 << 20]);
    assert!(bomb.len() < 17 << 10);
    let cut = compressed(text(1).as_bytes());
    let cut = &cut[..cut.len() / 2];
    let text_frame = |payload: &[u8]| fragment(COMPRESSED | TEXT, payload);
    let limit = 1 << 20;
    for (what, frames, code, cause) in [
        ("a bomb", text_frame(&bomb), 1009, "too_big"),
        (
            "a bomb in fragments",
            [fragment(0x42, &bomb[..9000]), fragment(0x80, &bomb[9000..])].concat(),
            1009,
            "too_big",
        ),
        ("more on the wire than is allowed", text_frame(&vec![7; limit + limit / 16 + 65]), 1009, "too_big"),
        ("no DEFLATE", text_frame(&[0xff; 10]), 1007, "invalid_deflate"),
        ("a stream that ends nowhere", text_frame(cut), 1007, "invalid_deflate"),
        ("nothing at all", text_frame(b""), 1007, "invalid_deflate"),
        ("a distance too far back", text_frame(&[0xf2, 0x00, 0x11, 0x00, 0x00]), 1007, "invalid_deflate"),
        ("a storm of last blocks", text_frame(&[3, 0].repeat(1000)), 1007, "invalid_deflate"),
        ("no UTF-8", text_frame(&compressed(b"\xff\xfe")), 1007, "invalid_utf8"),
        ("the bit on a continuation", [fragment(0x01, b"a"), fragment(0xc0, b"b")].concat(), 1002, "protocol"),
        ("the bit on a Ping", fragment(COMPRESSED | PING, b""), 1002, "protocol"),
        ("the bit on a Close", fragment(COMPRESSED | CLOSE, &close_payload(1000, "")), 1002, "protocol"),
        ("another bit", fragment(0xa1, b""), 1002, "protocol"),
    ] {
        let running = start(deflating(), echo);
        let mut client = connect(&running);
        client.write(&frames);
        assert_eq!(client.expect_close().0, Some(code), "{what}");
        assert_eq!(running.closed().reason.name(), cause, "{what}");
    }
    // Where nothing was agreed.
    let running = start(deflating(), echo);
    let mut client = running.connect();
    client.write(&text_frame(&compressed(b"x")));
    assert_eq!(client.expect_close(), (Some(1002), "reserved bits".to_owned()));
}

#[test]
fn both_ends_of_heartwire_understand_each_other_whatever_is_agreed() {
    let settings = [
        Deflate::new().threshold(0),
        Deflate::new().context_takeover(true),
        Deflate::new().threshold(0).window_bits(9).level(9),
        Deflate::new().sending_context_takeover(true).window_bits(12).level(1),
        Deflate::new().receiving_context_takeover(true),
    ];
    for (at_server, at_client) in settings.iter().flat_map(|one| settings.iter().map(move |other| (one, other))) {
        let running = start(server().deflate(*at_server), echo);
        let (echoes, received) = unbounded();
        let client = run(client(running.address()).deflate(*at_client), move |conn| {
            assert!(conn.extensions().starts_with("permessage-deflate"), "{}", conn.extensions());
            loop {
                let _ = echoes.send(conn.recv()?);
            }
        });
        assert!(client.handle.wait_connected(CEILING));
        let long = "long ".repeat(20_000);
        let messages = [text(1), text(1), String::new(), "short".to_owned(), text(2), "ü".repeat(3000), long];
        for message in &messages {
            client.handle.send(message).unwrap();
        }
        client.handle.send(vec![7; 5000]).unwrap();
        for message in messages {
            assert_eq!(receive("an echo", &received), Message::from(message), "{at_server:?} {at_client:?}");
        }
        assert_eq!(receive("an echo", &received), Message::from(vec![7; 5000]));
    }
}

#[test]
fn a_server_that_accepts_what_was_not_offered_is_no_server() {
    let bare = BareServer::bind();
    let client = run(client(bare.address()).deflate(Deflate::new()).no_reconnect(), |_| Ok(()));
    let asked = bare.accept().upgrade("Sec-WebSocket-Extensions: permessage-deflate; unheard_of\r\n");
    let offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits";
    assert!(asked.contains(&format!("\r\nSec-WebSocket-Extensions: {offer}\r\n")), "{asked}");
    let error = client.not_connected().to_string();
    assert!(error.contains("its parameters of permessage-deflate are not valid"), "{error}");
}

#[test]
fn with_context_takeover_messages_of_several_threads_leave_in_the_order_of_their_compression() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    let (running, senders) = start_listening(server().deflate(Deflate::new().context_takeover(true)));
    let mut client = Client::tcp(running.address()).upgraded(&with_offer("permessage-deflate"));
    let sender = receive("a Sender", &senders);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let sender = sender.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    let message = format!("{number} {n} {}", "the same again and again, ".repeat(n % 50 + 3));
                    match n % 3 {
                        // Whoever does not wait may have to try again.
                        0 => {
                            while let Err(TrySendError::Full(_)) = sender.try_send(&*message) {
                                thread::yield_now();
                            }
                        }
                        1 => sender.send_timeout(&*message, CEILING).unwrap(),
                        _ => sender.send(&*message).unwrap(),
                    }
                }
            });
        }
        let (mut peer, mut next, mut on_the_wire) = (Peer::default(), [0; THREADS], 0);
        for _ in 0..THREADS * EACH {
            let frame = client.message();
            assert!(frame.is_compressed, "more than 64 bytes");
            on_the_wire += frame.payload.len();
            let message = String::from_utf8(peer.inflate(&frame.payload)).unwrap();
            let mut words = message.split(' ');
            let mut number = || words.next().unwrap().parse::<usize>().unwrap();
            let (thread, n) = (number(), number());
            assert_eq!(n, next[thread], "out of order");
            next[thread] += 1;
        }
        assert!(on_the_wire < 30 * THREADS * EACH, "{on_the_wire} bytes: the context is not used");
    });
}

#[test]
fn a_message_that_is_refused_leaves_no_trace_in_the_context() {
    let deflate = Deflate::new().context_takeover(true).threshold(0);
    let (running, senders) = start_listening(server().deflate(deflate).queue_size(20_000));
    let mut client = Client::tcp(running.address()).upgraded(&with_offer("permessage-deflate"));
    let sender = receive("a Sender", &senders);
    // Noise does not compress, so it fills the queue; then it is the peer's turn, and so on.
    let mut peer = Peer::default();
    let mut accepted = Vec::new();
    let mut refused = 0;
    for round in 0..3_u8 {
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let message: Vec<u8> = [vec![round], (0..10_000).map(|_| rand::random()).collect()].concat();
            match sender.try_send(message.clone()) {
                Ok(()) => {
                    accepted.push(message);
                    in_a_row = 0;
                }
                Err(TrySendError::Full(_)) => {
                    refused += 1;
                    in_a_row += 1;
                    thread::sleep(ms(5));
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        for message in accepted.drain(..) {
            assert!(peer.inflate(&client.message().payload) == message, "round {round}");
        }
        eventually("nothing waits", || sender.queued() == 0);
        // Short ones that refer to one another.
        for _ in 0..5 {
            sender.send(format!("after round {round}")).unwrap();
            assert_eq!(peer.inflate(&client.message().payload), format!("after round {round}").into_bytes());
        }
    }
    assert!(refused >= 60);
}

#[test]
fn one_message_can_be_sent_uncompressed() {
    let (running, senders) = start_listening(deflating());
    let mut client = connect(&running);
    let plain = receive("a Sender", &senders).uncompressed();
    plain.send(text(1)).unwrap();
    plain.clone().try_send(text(2)).unwrap();
    plain.send_timeout(text(3), CEILING).unwrap();
    for number in 1..=3 {
        assert_eq!(client.text(), text(number));
    }
}

#[test]
fn a_broadcast_is_compressed_for_those_who_agreed_to_the_same() {
    let running = start(server().deflate(Deflate::new().sending_context_takeover(true)), echo);
    let offers = ["permessage-deflate; server_no_context_takeover", "permessage-deflate"];
    let offers =
        offers.into_iter().chain(["permessage-deflate; server_max_window_bits=10; server_no_context_takeover"]);
    let mut clients: Vec<Client> = offers.map(|o| Client::tcp(running.address()).upgraded(&with_offer(o))).collect();
    clients.push(running.connect());
    eventually("all are open", || running.handle.connections().len() == clients.len());
    for number in 0..3 {
        running.handle.broadcast(text(number));
        running.handle.broadcast("short");
        for (at, client) in clients.iter_mut().enumerate() {
            let frame = client.message();
            // Only the first neither keeps a context nor wants another window.
            assert_eq!(frame.is_compressed, at == 0, "client {at}");
            let message = if frame.is_compressed { inflated(&frame.payload) } else { frame.payload };
            assert_eq!(message, text(number).into_bytes());
            assert_eq!(client.text(), "short");
        }
    }
    // One that keeps a context is none the wiser.
    let (mut peer, client) = (Peer::default(), &mut clients[1]);
    for number in 0..3 {
        client.send_text(&text(number));
        assert_eq!(peer.inflate(&client.message().payload), text(number).into_bytes());
    }
}

#[test]
fn while_the_handler_is_away_compressed_heartbeats_are_answered_and_messages_wait_as_they_came() {
    for takes_over in [false, true] {
        let deflate = Deflate::new().context_takeover(takes_over);
        let (running, open, senders) = start_away(server().text_heartbeat(true).deflate(deflate), false, echo);
        let mut client = Client::tcp(running.address());
        client.write(with_offer(OFFER).as_bytes());
        // A client whose heartbeat is text must be understood at any time.
        let answer = client.answer();
        let agreed = answer.header("Sec-WebSocket-Extensions").unwrap();
        assert!(agreed.contains("client_no_context_takeover"), "{agreed}");
        receive("a Sender", &senders);

        let long = compressed(text(1).as_bytes());
        client.write(&fragment(COMPRESSED | TEXT, &long));
        client.write(&fragment(COMPRESSED | TEXT, &compressed(b"ping")));
        client.write(&fragment(COMPRESSED | TEXT, &compressed(b"pinging")));
        client.send_text("plain");
        client.write(&fragment(COMPRESSED | TEXT, &compressed(b"ping next=60000")));
        client.write(&fragment(0x40 | TEXT, &long[..5]));
        for _ in 0..2 {
            assert_eq!(client.text(), "pong", "the handler is away");
        }
        // The end of a message that began while it was away.
        drop(open);
        client.write(&fragment(0x80 | CONTINUATION, &long[5..]));
        let mut peer = Peer::default();
        for expected in [text(1), "pinging".to_owned(), "plain".to_owned(), text(1)] {
            let frame = client.message();
            let message = if frame.is_compressed { peer.inflate(&frame.payload) } else { frame.payload };
            assert_eq!(message, expected.into_bytes());
        }
        client.close();
        let traffic = running.closed().traffic;
        assert_eq!(traffic.messages_in, 4, "heartbeats are no messages");
    }
}

#[test]
fn what_is_wrong_with_a_message_that_was_read_ahead_is_found_when_the_handler_is_back() {
    let (running, open, senders) = start_away(deflating().read_ahead(1 << 20), false, echo);
    let mut client = connect(&running);
    receive("a Sender", &senders);
    client.write(&fragment(COMPRESSED | TEXT, &compressed(text(1).as_bytes())));
    client.write(&fragment(COMPRESSED | BINARY, &compressed(&vec![0; 16 << 20])));
    client.send_text("after it");
    thread::sleep(ms(300));
    drop(open);
    assert_eq!(inflated(&client.message().payload), text(1).into_bytes());
    assert_eq!(client.expect_close().0, Some(1009));
    assert_eq!(running.closed().reason.name(), "too_big");
}

#[test]
fn what_was_wrong_before_the_peers_end_is_the_cause_though_it_is_found_after_it() {
    for (payload, cause) in [(vec![0xff; 10], "invalid_deflate"), (compressed(b"\xff"), "invalid_utf8")] {
        for closes in [true, false] {
            let (running, open, senders) = start_away(deflating(), false, echo);
            let mut client = connect(&running);
            receive("a Sender", &senders);
            client.write(&fragment(COMPRESSED | TEXT, &payload));
            if closes {
                client.send_close(1000, "");
            } else {
                client.half_close();
            }
            thread::sleep(ms(300));
            drop(open);
            assert_eq!(client.expect_close().0, Some(1007), "{cause}, closes: {closes}");
            let report = running.closed();
            assert_eq!((report.reason.name(), report.received), (cause, closes.then(|| 1000.into())));
        }
    }
}

#[test]
fn what_is_left_when_the_handler_is_done_is_not_decompressed() {
    let (running, open, senders) = start_away(deflating(), false, |_| Ok(()));
    let mut client = connect(&running);
    receive("a Sender", &senders);
    client.write(&fragment(COMPRESSED | BINARY, &compressed(&vec![0; 16 << 20])));
    thread::sleep(ms(300));
    drop(open);
    assert_eq!(client.expect_close().0, Some(1000), "nobody has looked at the bomb");
    client.send_close(1000, "");
    assert_eq!(running.closed().reason.name(), "local");
}

#[test]
fn threads_that_wait_for_their_turn_return_when_the_connection_ends() {
    let (running, senders) = start_listening(server().deflate(Deflate::new().context_takeover(true)));
    let mut client = Client::tcp(running.address()).upgraded(&with_offer("permessage-deflate"));
    let sender = receive("a Sender", &senders);
    let noise: Vec<u8> = (0..4 << 20).map(|_| rand::random()).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| sender.send(noise.clone()))).collect();
        // One of them waits for room, the others for their turn.
        eventually("something waits", || sender.queued() > 0);
        client.send_close(1000, "");
        for thread in threads {
            let _ = thread.join().unwrap();
        }
        assert!(sender.send("too late").is_err());
    });
}

#[test]
fn a_long_compression_holds_up_neither_the_pings_of_its_connection_nor_anybody_else() {
    let policy = HeartbeatPolicy::new(ms(20), CEILING);
    let (running, senders) = start_listening(server().deflate(Deflate::new().level(9)).heartbeat(policy));
    let mut client = connect(&running);
    let sender = receive("a Sender", &senders);
    let page: String = (0..200_000).map(|number| format!("{{\"number\": {number}}},")).collect();
    thread::scope(|scope| {
        // One compression after another, until there was time for many Pings.
        let began = Instant::now();
        let sending = scope.spawn(move || {
            while began.elapsed() < ms(1000) {
                sender.send(&*page)?;
            }
            sender.close(1000, "")
        });
        let (mut pings, mut messages) = (0, 0);
        loop {
            let frame = client.frame();
            match frame.opcode {
                PING => {
                    pings += 1;
                    client.send(PONG, &frame.payload);
                }
                CLOSE => break,
                _ => {
                    assert!(frame.is_compressed);
                    messages += 1;
                }
            }
        }
        sending.join().unwrap().unwrap();
        // Far fewer than the 50 that were due, for this test shares its processors with others.
        assert!(messages > 0 && pings >= 10, "{pings} Pings beside {messages} messages");
    });
}

#[test]
fn dead_and_live_peers_are_told_apart_with_compression_as_without() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    live(2 * ms(100), |pulse| {
        let running = start(deflating().heartbeat(policy), echo);
        let mut lives = connect(&running);
        let dies = connect(&running);
        for number in 0..20 {
            let taken = lives.try_write(&fragment(COMPRESSED | TEXT, &compressed(text(number).as_bytes())));
            pulse.beat();
            assert!(taken, "{:?}", running.events.so_far());
            assert_eq!(inflated(&lives.message().payload), text(number).into_bytes());
            thread::sleep(ms(50));
        }
        let report = running.closed();
        let open = running.handle.connections().len();
        pulse.beat();
        assert_eq!((report.reason.name(), report.missed, open), ("heartbeat_lost", 2, 1));
        drop(dies);
    });
}
