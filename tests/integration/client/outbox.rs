//! What is sent while there is no connection is kept, in bounds, or comes back.

use std::thread;
use std::time::Instant;

use crossbeam_channel::{Sender, bounded, unbounded};
use heartwire::{Bytes, ClientHandle, ClientSendError, ConnectError, Message};

use crate::support::{BareServer, CEILING, client, eventually, listen, ms, over_tls, receive, refusal, run};

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
fn send_without_a_connection_gives_the_message_back_unless_there_is_an_outbox() {
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
fn outbox_drops_oldest_keeps_the_newest() {
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
    // The last of them may have been dropped too. One that is sent when the connection stands never is.
    let (last, handle) = (numbers + 1, client.handle.clone());
    let sender = thread::spawn(move || {
        sender.join().unwrap();
        handle.send(format!("{last:len$}")).unwrap();
    });
    let mut received: Vec<usize> = Vec::new();
    while received.last() != Some(&last) {
        received.push(connection.text().trim().parse().unwrap());
    }
    sender.join().unwrap();
    assert!(received.is_sorted_by(|a, b| a < b), "in order, and none twice: {received:?}");
    assert_eq!(received.len() as u64 + client.handle.outbox_dropped(), last as u64);
    connection.expect_close_at_stop(&client);
}

#[test]
fn what_is_sent_while_a_full_outbox_leaves_is_in_order_and_sent_or_counted() {
    // The sender outruns the outbox; and it fills all that the connection takes before the server reads.
    send_while_a_full_outbox_leaves(100_000, 4, 100 * (4 + KEPT));
    send_while_a_full_outbox_leaves(500, 60_000, 4 << 20);
}

/// The memory of a message that sends the next as soon as it is let go of, until so many were sent: its sender is never
/// too slow for an outbox that leaves.
struct Chain {
    handle: ClientHandle,
    bytes: Vec<u8>,
    last: u8,
}

impl Chain {
    fn send(handle: &ClientHandle, number: u8, len: usize, last: u8) {
        let chain = Self { handle: handle.clone(), bytes: vec![number; len], last };
        handle.send(Bytes::from_owner(chain)).expect("there is always room for the newest");
    }
}

impl AsRef<[u8]> for Chain {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if self.bytes[0] < self.last {
            Self::send(&self.handle, self.bytes[0] + 1, self.bytes.len(), self.last);
        }
    }
}

/// One message at a time is in the outbox, each sent when the one before it leaves: none is ever too many.
fn send_whenever_one_leaves(last: u8, len: usize) {
    let server = BareServer::bind();
    let client = client(server.address()).outbox_size(len + KEPT).outbox_drops_oldest(true).queue_size(1);
    Chain::send(&client.handle(), 1, len, last);
    let client = run(client, listen);
    let mut connection = server.open();
    assert!(client.handle.wait_connected(CEILING), "the handler does not wait for the server to read");
    for number in 1..=last {
        assert!(connection.frame().payload == vec![number; len], "message {number}");
    }
    assert_eq!(client.handle.outbox_dropped(), 0);
    connection.expect_close_at_stop(&client);
}

#[test]
fn the_newest_messages_are_not_dropped_for_older_ones_that_have_left_the_outbox() {
    // Several outboxes leave while the connection opens.
    send_whenever_one_leaves(20, 4);
    // A server that does not read yet: what left stays in the connection's queue.
    send_whenever_one_leaves(2, 16 << 20);
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
fn take_outbox_gives_what_was_never_sent_and_makes_room() {
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
    server.answer(&refusal(401, ""));
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
    server.answer(&refusal(503, ""));
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
    let accounted = report.traffic.bytes_out + report.traffic.unsent;
    if over_tls::is_on() {
        // Records add to what the socket takes, and what is in the one that it took in part is lost as a whole.
        let (records, part) = (22 * (all / (16 << 10) + count), 17 << 10);
        assert!((all..=all + records + part).contains(&accounted), "{accounted} of {all}: {report:?}");
    } else {
        assert_eq!(accounted, all, "nothing is silently lost: {report:?}");
    }
}
