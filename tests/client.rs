//! The client while it is connected: messages, heartbeats at both ends, its handle, and how a connection ends. How it
//! connects is in `client_connect.rs`, how it comes back in `client_reconnect.rs`.

#[path = "support/other_end.rs"]
mod other_end;
mod support;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};
use heartwire::{
    Backoff, Bytes, Client, ClientHandle, ClientSendError, CloseReason, ConnectError, Connection, Error, Event,
    HeartbeatPolicy, Message, Server,
};
use other_end::{BareServer, client, listen, quick, run, unmasked};
use support::{CEILING, CLOSE, End, PING, PONG, TEXT, codes, echo, eventually, ms, receive, server, start};

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(10);

/// Passes what comes on to the test.
fn forward(messages: crossbeam_channel::Sender<Message>) -> impl FnMut(&mut Connection) -> Result<(), Error> + Send {
    move |conn| {
        loop {
            let _ = messages.send(conn.recv()?);
        }
    }
}

// Messages.

#[test]
fn messages_of_every_size_come_back_whole_and_in_order() {
    const BIG: usize = 5 << 20;
    let running = start(server().max_message_size(BIG), echo);
    let (sender, messages) = unbounded();
    let client = run(client(running.address()).max_message_size(BIG), forward(sender));
    assert!(client.handle.wait_connected(CEILING));
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, BIG] {
        for message in [Message::from("x".repeat(size)), Message::from(vec![0x7f; size])] {
            client.handle.send(message.clone()).unwrap();
            assert!(receive("the echo", &messages) == message, "{size} bytes");
        }
    }
    client.stop();
    let report = running.closed();
    assert_eq!((report.traffic.messages_in, report.traffic.messages_out), (16, 16));
    assert_eq!(codes(&report), (Some(1000), Some(1000)));
}

#[test]
fn what_comes_in_one_piece_with_the_answer_of_the_handshake_is_not_lost() {
    let server = BareServer::bind();
    let (sender, messages) = unbounded();
    let _client = run(client(server.address()), forward(sender));
    let mut connection = server.accept();
    let request = connection.request();
    let mut answer = other_end::acceptance(&request, "").into_bytes();
    answer.extend(unmasked(TEXT, b"early"));
    answer.extend(unmasked(TEXT, b"bird"));
    connection.write(&answer);
    assert_eq!(receive("the first", &messages), Message::from("early"));
    assert_eq!(receive("the second", &messages), Message::from("bird"));
    connection.close(1000);
}

#[test]
fn no_two_frames_have_the_same_mask_and_no_two_handshakes_the_same_key() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    let mut keys = HashSet::new();
    let mut masks = HashSet::new();
    for _ in 0..3 {
        let mut connection = server.accept();
        let request = connection.upgrade("");
        keys.insert(request.lines().find(|line| line.starts_with("Sec-WebSocket-Key")).unwrap().to_owned());
        assert!(client.handle.wait_connected(CEILING));
        for _ in 0..20 {
            client.handle.send("the same").unwrap();
            let frame = connection.frame();
            assert_eq!((frame.opcode, frame.payload), (TEXT, b"the same".to_vec()));
            masks.insert(frame.mask);
        }
        // Control frames have masks as well.
        for payload in [&b"one"[..], b"one", b"two"] {
            connection.send(PING, payload);
            let frame = connection.frame();
            assert_eq!((frame.opcode, &frame.payload[..]), (PONG, payload));
            masks.insert(frame.mask);
        }
        connection.send_close(1000);
        let close = connection.frame();
        assert_eq!(close.opcode, CLOSE);
        masks.insert(close.mask);
    }
    assert_eq!((keys.len(), masks.len()), (3, 3 * 24), "{masks:?}");
}

#[test]
fn a_connection_tells_what_it_asked_for_and_what_was_agreed_upon() {
    let running = start(
        server().on_handshake(|request| {
            assert_eq!(request.header("Authorization"), Some("Bearer swordfish"));
            Ok(heartwire::Accept::new().subprotocol("second"))
        }),
        echo,
    );
    let url = format!("ws://{}/a/b?c=d", running.address());
    let asked = Client::new(&url).unwrap().header("Authorization", "Bearer swordfish");
    let (sender, seen) = bounded(1);
    run(asked.subprotocol("first").subprotocol("second"), move |conn| {
        let figures =
            (conn.path().to_owned(), conn.request().target().to_owned(), conn.subprotocol().map(str::to_owned));
        let _ = sender.send((figures, conn.peer_addr(), conn.id()));
        Ok(())
    })
    .result()
    .unwrap();
    let (figures, peer, id) = receive("the connection", &seen);
    assert_eq!(figures, ("/a/b".to_owned(), "/a/b?c=d".to_owned(), Some("second".to_owned())));
    assert_eq!((peer, id), (running.address(), 1));
}

// Heartbeats.

#[test]
fn both_ends_beat_and_neither_misses() {
    let patient = |interval| HeartbeatPolicy::new(ms(interval), CEILING);
    let running = start(server().heartbeat(patient(30)), echo);
    let (sender, beaten) = bounded(1);
    let client = run(client(running.address()).heartbeat(patient(20)), move |conn| {
        while conn.round_trip().is_none_or(|figures| figures.samples < 5) {
            conn.recv_timeout(ms(5))?;
        }
        let _ = sender.send(());
        listen(conn)
    });
    receive("five round trips of the client", &beaten);
    eventually("five of the server", || running.handle.connections().iter().any(|open| open.pongs >= 5));
    client.stop();
    assert!(!client.story().iter().any(|event| event.starts_with("missed")));
    let report = running.closed();
    assert_eq!((report.missed, report.reason.name()), (0, "peer"));
}

#[test]
fn a_server_that_stops_answering_is_found_dead_within_the_bound_and_left_for_a_new_connection() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    let server = BareServer::bind();
    let client = run(client(server.address()).heartbeat(policy), listen);
    let mut silent = server.accept();
    let before = Instant::now();
    silent.upgrade("");
    assert_eq!((client.events.missed(), client.events.missed()), ((1, 2), (2, 2)));
    let report = client.closed();
    let found = before.elapsed();
    assert!(found >= 2 * ms(100), "{found:?}");
    assert!(found < policy.worst_case().unwrap() + SLACK, "{found:?}");
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 2, .. }) && report.missed == 2, "{report:?}");
    assert_eq!(silent.close_code(), Some(1011), "as far as the socket takes it");
    assert_eq!(silent.next_frame(), None);
    server.open().expect_close_at_stop(&client);
}

#[test]
fn a_server_that_takes_nothing_any_more_is_found_although_the_heartbeat_waits_behind_data() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    let server = BareServer::bind();
    let client = run(client(server.address()).heartbeat(policy).queue_size(64 << 20), |conn| {
        for _ in 0..32 {
            conn.send(vec![0; 1 << 20])?;
        }
        listen(conn)
    });
    let _never_reads = server.open();
    let report = client.closed();
    assert!(matches!(report.reason, CloseReason::WriteStalled { .. }), "{report:?}");
    assert!(report.traffic.unsent > 0, "{report:?}");
}

#[test]
fn a_server_that_only_pings_keeps_a_client_without_a_heartbeat() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    let mut connection = server.open();
    for number in 0..20 {
        let payload = format!("ping {number}");
        connection.send(PING, payload.as_bytes());
        let answer = connection.frame();
        assert_eq!((answer.opcode, answer.payload), (PONG, payload.into_bytes()), "and no Ping of its own");
    }
    assert!(client.handle.is_connected());
    connection.expect_close_at_stop(&client);
}

#[test]
fn a_heartbeat_set_by_the_handle_is_announced_at_once_and_holds_from_then_on() {
    let server = BareServer::bind();
    let announcing = |ms: u64| HeartbeatPolicy::keepalive(Duration::from_millis(ms)).announcing(true);
    let (sender, policies) = unbounded();
    let client = run(client(server.address()).heartbeat(announcing(3_600_000)), move |conn| {
        loop {
            let _ = sender.send(conn.heartbeat());
            conn.recv()?;
        }
    });
    let mut connection = server.open();
    let announced = |connection: &mut other_end::BareConnection| {
        let frame = connection.frame();
        assert_eq!(frame.opcode, PING);
        connection.send(PONG, &frame.payload);
        String::from_utf8(frame.payload).unwrap()
    };
    let first = announced(&mut connection);
    assert!(first.starts_with("next=3600000"), "said on opening, not after half an hour: {first}");
    assert!(client.handle.wait_connected(CEILING));
    assert_eq!(receive("on opening", &policies), announcing(3_600_000));

    client.handle.set_heartbeat(announcing(60_000)).unwrap();
    assert!(announced(&mut connection).starts_with("next=60000"));
    connection.send_text("what is in force now?");
    assert_eq!(receive("after the change", &policies), announcing(60_000));

    client.handle.set_heartbeat(announcing(30)).unwrap();
    for _ in 0..5 {
        assert!(announced(&mut connection).starts_with("next=30"), "beats in its new rhythm");
    }
    client.handle.set_heartbeat(HeartbeatPolicy::off()).unwrap();
    connection.send_text("and now?");
    drop(connection);
    client.stop();
    assert!(matches!(client.handle.set_heartbeat(announcing(1)), Err(Error::Closed(_))));
}

// The end of a connection.

/// Runs a client against a server made by hand up to its end: what it said in its Close frame, and its result.
fn closes_with<H>(handler: H) -> (Option<u16>, Result<(), Error>, String)
where
    H: FnMut(&mut Connection) -> Result<(), Error> + Send + 'static,
{
    let server = BareServer::bind();
    let client = run(client(server.address()), handler);
    let mut connection = server.open();
    let code = connection.close_code();
    connection.send_close(code.unwrap_or(1000));
    let result = client.result();
    (code, result, client.closed().reason.name().to_owned())
}

#[test]
fn a_handler_that_returns_ok_ends_the_client_with_1000() {
    let (code, result, reason) = closes_with(|_| Ok(()));
    assert!(matches!((code, result, &*reason), (Some(1000), Ok(()), "local")));
}

#[test]
fn a_handler_that_closes_ends_the_client_with_its_code() {
    let (code, result, reason) = closes_with(|conn| {
        conn.close(4001, "enough")?;
        conn.recv().map(drop)
    });
    assert!(matches!((code, result, &*reason), (Some(4001), Ok(()), "local")));
    let (code, result, _) = closes_with(|conn| {
        conn.sender().close(4002, "by another way")?;
        listen(conn)
    });
    assert!(matches!((code, result), (Some(4002), Ok(()))));
}

#[test]
fn a_handler_that_fails_ends_the_client_with_1011_and_its_error() {
    let (code, result, reason) = closes_with(|_| Err(Error::handler("out of paper")));
    assert_eq!((code, &*reason), (Some(1011), "handler_failed"));
    assert!(matches!(&result, Err(Error::Handler(error)) if error.to_string() == "out of paper"), "{result:?}");
}

#[test]
fn the_end_of_another_connection_is_an_error_of_the_handler() {
    let (code, result, reason) = closes_with(|_| Err(Error::Closed(CloseReason::Disconnected)));
    assert_eq!((code, &*reason), (Some(1011), "handler_failed"));
    assert!(matches!(result, Err(Error::Closed(CloseReason::Disconnected))));
}

#[test]
fn a_panic_of_the_handler_passes_through_and_the_server_gets_1011() {
    let server = BareServer::bind();
    let client = client(server.address());
    let (handle, events) = (client.handle(), client.handle().events());
    let runs = thread::spawn(move || catch_unwind(AssertUnwindSafe(|| client.run(|_| panic!("as you wish")))));
    server.open().expect_close(1011);
    let panic = runs.join().unwrap().unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as you wish"));
    assert!(handle.has_ended());
    let closed = events.iter().find_map(|event| match event {
        Event::Closed(report) => Some(report.reason),
        _ => None,
    });
    assert_eq!(closed, Some(CloseReason::HandlerPanicked("as you wish".to_owned())));
}

#[test]
fn stopping_sends_what_is_queued_then_closes_with_1000_and_what_the_server_still_says_is_heard() {
    let server = BareServer::bind();
    let (sender, messages) = unbounded();
    let client = run(client(server.address()), forward(sender));
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    for number in 0..100 {
        client.handle.send(format!("{number}")).unwrap();
    }
    client.handle.stop();
    assert!(matches!(client.handle.send("too late"), Err(ClientSendError::Closed(_))));
    assert!(!client.handle.is_connected());
    for number in 0..100 {
        assert_eq!(connection.text(), number.to_string());
    }
    assert_eq!(connection.close_code(), Some(1000));
    connection.send_text("my last word");
    connection.send_close(1000);
    client.result().unwrap();
    assert_eq!(receive("the last word", &messages), Message::from("my last word"));
    assert_eq!(codes(&client.closed()), (Some(1000), Some(1000)));
}

#[test]
fn a_server_that_does_not_answer_close_delays_the_end_by_the_close_timeout_at_most() {
    let server = BareServer::bind();
    let client = run(client(server.address()).close_timeout(ms(300)), listen);
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    let took = client.stop();
    assert!(took < ms(300) + SLACK, "{took:?}");
    let report = client.closed();
    assert_eq!((report.reason.name(), codes(&report)), ("local", (Some(1000), None)));
    assert_eq!(connection.close_code(), Some(1000));
    let _: End = connection.wait_for_end();
}

#[test]
fn stopping_before_the_start_means_that_nothing_is_tried() {
    let server = BareServer::bind();
    let client = client(server.address());
    let handle = client.handle();
    handle.stop();
    client.run(listen).unwrap();
    assert!(server.accept_within(ms(50)).is_none());
    assert!(handle.has_ended() && !handle.wait_connected(CEILING), "and nobody waits for a connection");
}

// The outbox.

/// What a message in the outbox counts for beyond its length.
const KEPT: usize = 128;

fn kept(error: Result<(), ClientSendError<Message>>) -> &'static str {
    match error {
        Ok(()) => "kept",
        Err(ClientSendError::Full(_)) => "full",
        Err(ClientSendError::Closed(_)) => "closed",
        Err(ClientSendError::NotConnected(_)) => "not connected",
        Err(_) => "?",
    }
}

#[test]
fn without_a_connection_messages_come_back_unless_an_outbox_was_asked_for() {
    let server = BareServer::bind();
    let client = client(server.address());
    let handle = client.handle();
    let back = handle.send("hello").unwrap_err();
    assert_eq!(back, ClientSendError::NotConnected(Message::from("hello")));
    assert_eq!((back.to_string(), back.into_inner()), ("not connected".to_owned(), Message::from("hello")));
    handle.stop();
    assert_eq!(kept(handle.send("hello")), "closed", "and never connected again");
    client.run(listen).unwrap();
    assert_eq!(kept(handle.send("hello")), "closed");
}

#[test]
fn the_outbox_is_bounded_counts_its_headers_and_leaves_in_order_before_anything_else() {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(10 * (4 + KEPT));
    let handle = client.handle();
    let verdicts: Vec<_> = (0..11).map(|number| kept(handle.send(format!("n{number:03}")))).collect();
    assert_eq!((&verdicts[..10], verdicts[10]), (&["kept"; 10][..], "full"));
    assert_eq!(kept(handle.send("")), "full", "nothing is free of charge");
    assert_eq!(handle.outbox_len(), 10);

    let client = run(client, |conn| {
        conn.send("said by the handler")?;
        listen(conn)
    });
    let mut connection = server.open();
    for number in 0..10 {
        assert_eq!(connection.text(), format!("n{number:03}"));
    }
    assert_eq!(connection.text(), "said by the handler");
    assert_eq!(handle.outbox_len(), 0);
    // And again, for the next connection.
    drop(connection);
    client.closed();
    let mut connection = server.accept();
    assert_eq!(kept(handle.send("between two")), "kept");
    connection.upgrade("");
    assert_eq!(connection.text(), "between two");
    connection.expect_close_at_stop(&client);
    assert_eq!(client.closed().traffic.unsent, 0);
}

#[test]
fn an_outbox_that_drops_its_oldest_leaves_with_the_newest() {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(3 * (4 + KEPT)).outbox_drops_oldest(true);
    let handle = client.handle();
    for number in 0..10 {
        assert_eq!(kept(handle.send(format!("n{number:03}"))), "kept");
    }
    assert_eq!(kept(handle.send("x".repeat(3 * (4 + KEPT)))), "full", "it would not fit with all others dropped");
    assert_eq!((handle.outbox_len(), handle.outbox_dropped()), (3, 7));
    let client = run(client, listen);
    let mut connection = server.open();
    for number in 7..10 {
        assert_eq!(connection.text(), format!("n{number:03}"));
    }
    connection.expect_close_at_stop(&client);
}

/// Sends numbers as fast as it can, each as long as this, while a connection opens whose server does not read until it
/// stands: all arrive in order, or are counted.
fn send_while_a_full_outbox_leaves(numbers: usize, len: usize, outbox_size: usize) {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(outbox_size).outbox_drops_oldest(true).queue_size(1);
    let client = run(client, listen);
    let handle = client.handle.clone();
    let sender = thread::spawn(move || {
        for number in 1..=numbers {
            handle.send(format!("{number:len$}")).expect("there is always room for the newest");
        }
    });
    eventually("the outbox is full", || client.handle.outbox_dropped() > 0);
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    let mut received: Vec<usize> = Vec::new();
    while received.last() != Some(&numbers) {
        received.push(connection.text().trim().parse().unwrap());
    }
    sender.join().unwrap();
    assert!(received.is_sorted_by(|a, b| a < b), "in order, and none twice: {received:?}");
    assert_eq!(received.len() as u64 + client.handle.outbox_dropped(), numbers as u64);
    connection.expect_close_at_stop(&client);
}

#[test]
fn what_is_sent_while_a_full_outbox_leaves_is_in_order_and_sent_or_counted() {
    // The sender outruns the outbox; and it fills all that the connection takes before the server reads.
    send_while_a_full_outbox_leaves(100_000, 4, 100 * (4 + KEPT));
    send_while_a_full_outbox_leaves(500, 60_000, 4 << 20);
}

/// The memory of a message, which asks the client something when it is let go of.
struct Nosy(ClientHandle, Sender<usize>);

impl AsRef<[u8]> for Nosy {
    fn as_ref(&self) -> &[u8] {
        b"whose memory is the application's own"
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let _ = self.1.send(self.0.outbox_len());
    }
}

#[test]
fn the_memory_of_a_message_that_is_dropped_may_ask_the_client() {
    let handle = client(BareServer::bind().address()).outbox_size(100 + KEPT).outbox_drops_oldest(true).handle();
    let (sender, asked) = unbounded();
    thread::spawn(move || {
        handle.send(Bytes::from_owner(Nosy(handle.clone(), sender))).unwrap();
        handle.send("the next, which takes its room").unwrap();
    });
    assert_eq!(receive("the memory is let go of", &asked), 1);
}

#[test]
fn what_was_never_sent_can_be_taken_out() {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(5 * (9 + KEPT));
    let handle = client.handle();
    let send = |numbers: std::ops::Range<u32>| {
        numbers.map(|number| kept(handle.send(format!("reading {number}")))).collect::<Vec<_>>()
    };
    assert_eq!(send(0..6), ["kept", "kept", "kept", "kept", "kept", "full"]);
    assert_eq!((handle.take_outbox().len(), handle.outbox_len()), (5, 0));
    assert_eq!(send(0..6), ["kept", "kept", "kept", "kept", "kept", "full"], "there is room again");
    let client = run(client, listen);
    server.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 401, .. }));
    let readings: Vec<_> = (0..5).map(|number| Message::from(format!("reading {number}"))).collect();
    assert_eq!((handle.take_outbox(), handle.outbox_len()), (readings, 0));
}

#[test]
fn an_outbox_larger_than_the_queue_gets_through_all_the_same() {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(8 << 20).queue_size(1024);
    let handle = client.handle();
    for number in 0..7_u8 {
        handle.send(vec![number; 1 << 20]).unwrap();
    }
    let client = run(client, listen);
    let mut connection = server.open();
    for number in 0..7_u8 {
        assert!(connection.frame().payload == vec![number; 1 << 20], "message {number}");
    }
    connection.expect_close_at_stop(&client);
}

#[test]
fn what_is_sent_while_a_connection_dies_is_kept_taken_or_counted() {
    const MESSAGES: u32 = 2000;
    let server = BareServer::bind();
    let client = run(client(server.address()).outbox_size(1 << 20), listen);
    let handle = client.handle.clone();
    let sender = thread::spawn(move || {
        for number in 0..MESSAGES {
            handle.send(number.to_string()).expect("there is room in the outbox");
            if number % 50 == 0 {
                thread::sleep(ms(1));
            }
        }
    });
    let mut received = Vec::new();
    // What a connection that dies has taken is lost; the outbox is for what it has not.
    while !sender.is_finished() {
        let mut connection = server.open();
        let opened = Instant::now();
        connection.stream.set_read_timeout(Some(ms(20))).unwrap();
        while opened.elapsed() < ms(5) && !sender.is_finished() {
            received.extend(connection.text_if_any());
        }
    }
    sender.join().unwrap();
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    client.handle.send(MESSAGES.to_string()).unwrap();
    while received.last() != Some(&MESSAGES.to_string()) {
        received.push(connection.text());
    }
    let numbers: Vec<u32> = received.iter().map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, and none twice: {numbers:?}");
    connection.expect_close_at_stop(&client);
    assert_eq!(client.handle.outbox_len(), 0);
}

#[test]
fn messages_kept_for_a_connection_that_never_comes_are_counted_at_the_end() {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(1 << 20).no_reconnect();
    let handle = client.handle();
    for _ in 0..3 {
        handle.send("hello").unwrap();
    }
    let client = run(client, listen);
    server.answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 503, .. }));
    assert_eq!((handle.outbox_len(), kept(handle.send("hello"))), (3, "closed"));
}

#[test]
fn what_was_queued_and_then_lost_is_in_the_report() {
    let server = BareServer::bind();
    let (sender, queued) = bounded(1);
    let client = run(client(server.address()), move |conn| {
        let mut count = 0;
        while conn.sender().try_send(vec![0; 64 << 10]).is_ok() {
            count += 1;
        }
        let _ = sender.send(count);
        listen(conn)
    });
    let connection = server.open();
    let count: u64 = receive("the queue is full", &queued);
    connection.reset();
    let report = client.closed();
    let all = count * ((64 << 10) + 14);
    assert!(report.traffic.unsent > 512 << 10, "most of a queue of 1 MiB: {report:?}");
    assert!(report.traffic.unsent <= all, "{report:?}");
    assert_eq!(report.traffic.bytes_out + report.traffic.unsent, all, "nothing is silently lost: {report:?}");
}

// Events.

#[test]
fn events_tell_the_story_in_order() {
    let server = BareServer::bind();
    let backoff = Backoff::default().first(ms(2)).longest(ms(4));
    let client = run(client(server.address()).reconnect(backoff), listen);
    server.answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let mut expected = vec!["connecting 1".to_owned(), "failed".into(), "retrying".into(), "connecting 2".into()];
    const LIVES: usize = 30;
    for life in 1..=LIVES {
        let connection = server.open();
        expected.push(format!("opened {life}"));
        if life < LIVES {
            drop(connection);
            expected.extend([format!("closed {life} disconnected"), "retrying".into()]);
            expected.push(format!("connecting {}", life + 2));
        } else {
            eventually("the last connection stands", || client.handle.stats().opened == LIVES as u64);
            connection.expect_close_at_stop(&client);
        }
    }
    expected.push(format!("closed {LIVES} local"));
    assert_eq!(client.story(), expected);
    let stats = client.handle.stats();
    assert_eq!((stats.opened, stats.open, stats.closed_total()), (LIVES as u64, 0, LIVES as u64));
}

#[test]
fn the_run_of_a_client_ends_its_channels_of_events_and_its_threads() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let running = start(server, echo);
    let client = client(running.address()).reconnect(quick());
    let (handle, events) = (client.handle(), client.handle().events());
    client.run(|conn| conn.send("done")).unwrap();
    assert!(handle.has_ended());
    assert!(events.iter().count() >= 3, "and the channel ends");
    assert!(handle.events().recv().is_err(), "as does any that is asked for later");
}

impl other_end::BareConnection {
    /// Stops the client and completes its closing handshake.
    fn expect_close_at_stop(self, client: &other_end::RunningClient) {
        assert!(client.handle.wait_connected(CEILING));
        client.handle.stop();
        self.expect_close(1000);
        client.result().unwrap();
    }
}
