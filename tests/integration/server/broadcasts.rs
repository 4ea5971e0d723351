//! One message to all connections, in one order, and nobody waits for the slow.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::Message;

use crate::support::{BINARY, Client, echo, server, start};

#[test]
fn broadcast_reaches_all_in_one_order_and_one_that_never_reads_holds_nobody_up() {
    const BROADCASTERS: u32 = 4;
    const EACH: u32 = 250;
    let running = start(server().queue_size(16 * 1024 * 1024), echo);
    let mut clients: Vec<Client> = (0..4).map(|_| running.connect()).collect();
    clients.iter().for_each(|_| _ = running.events.opened());
    let threads: Vec<_> = (0..BROADCASTERS)
        .map(|thread| {
            let handle = running.handle.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    handle.broadcast(format!("{thread} {number}"));
                }
            })
        })
        .collect();
    let mut seen: Vec<Vec<String>> = Vec::new();
    for client in &mut clients {
        seen.push((0..BROADCASTERS * EACH).map(|_| client.text()).collect());
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    for others in &seen[1..] {
        assert!(seen[0] == *others, "two receivers, two orders");
    }
    for thread in 0..BROADCASTERS {
        let prefix = format!("{thread} ");
        let numbers: Vec<u32> = seen[0].iter().filter_map(|text| text.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "the order of the calls");
    }
}

#[test]
fn broadcast_to_a_peer_that_never_reads_is_counted_as_dropped_and_costs_nobody_time() {
    const MESSAGES: u32 = 400;
    const SIZE: usize = 50_000;
    let running = start(server().queue_size(200_000), echo);
    let glutton = running.connect();
    let glutton_id = running.events.opened();
    let mut reader = running.connect();
    running.events.opened();
    let mut slowest = Duration::ZERO;
    for number in 0..MESSAGES {
        let sent = Instant::now();
        let payload = [&number.to_be_bytes()[..], &[0; SIZE]].concat();
        running.handle.broadcast(payload);
        let frame = reader.frame();
        assert_eq!(frame.payload[..4], number.to_be_bytes());
        slowest = slowest.max(sent.elapsed());
    }
    println!("slowest of {MESSAGES} broadcasts of {SIZE} bytes: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let info = running.handle.connections();
    let dropped = info[0].traffic.dropped;
    assert_eq!((info[0].id, info[1].traffic.dropped), (glutton_id, 0));
    assert!(dropped > 0, "{info:?}");
    assert_eq!(info[0].traffic.messages_out + dropped, u64::from(MESSAGES), "each was taken or dropped");
    drop(glutton);
    assert_eq!(running.closed().traffic.dropped, dropped);
    assert_eq!(running.handle.stats().traffic.dropped, dropped);
}

#[test]
fn broadcast_except_leaves_one_out() {
    let (sender, _kept) = bounded(10);
    let server = server();
    let handle = server.handle();
    let running = start(server, move |conn| {
        let _ = sender.send(conn.id());
        loop {
            let message = conn.recv()?;
            handle.broadcast_except(conn.id(), message);
            handle.broadcast("to all");
        }
    });
    let (mut first, mut second) = (running.connect(), running.connect());
    running.events.opened();
    running.events.opened();
    first.send_text("from the first");
    assert_eq!((first.text(), second.text()), ("to all".into(), "from the first".into()));
    assert_eq!(second.text(), "to all");
    running.handle.broadcast(Message::binary(vec![1, 2, 3]));
    for client in [&mut first, &mut second] {
        let frame = client.message();
        assert_eq!((frame.opcode, &frame.payload[..]), (BINARY, &[1, 2, 3][..]));
    }
}
