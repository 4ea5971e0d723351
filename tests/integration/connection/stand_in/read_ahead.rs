//! What the peer sends while the handler is away: it waits in order, and is no more than may be.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use crossbeam_channel::{bounded, unbounded};
use heartwire::{CloseReason, Message};

use super::{quick, start_away};
use crate::support::{BINARY, CEILING, echo, eventually, masked, ms, receive, server, start};

#[test]
fn what_was_read_ahead_waits_in_order_before_what_comes_later() {
    const MESSAGES: usize = 2_000;
    let (running, open, _) = start_away(server(), false, echo);
    let mut client = running.connect();
    let mut writer = client.try_clone();
    let sending = thread::spawn(move || {
        for number in 0..MESSAGES {
            writer.send_text(&format!("{number} {}", "x".repeat(number % 200)));
            if number % 100 == 0 {
                thread::sleep(ms(3));
            }
        }
    });
    thread::sleep(ms(400));
    drop(open);
    for number in 0..MESSAGES {
        assert_eq!(client.text(), format!("{number} {}", "x".repeat(number % 200)));
    }
    sending.join().unwrap();
    client.close();
}

#[test]
fn no_more_is_read_ahead_than_may_be_and_a_message_under_way_is_read_to_its_end() {
    // The sizes of the buffers of two systems are beside the point: what counts is what our process took out of them.
    let taken = |read_ahead: usize, max_buffered: usize, size: usize| {
        let server = server().read_ahead(read_ahead).max_buffered(max_buffered).max_message_size(1 << 20);
        let (running, open, _) = start_away(server, false, echo);
        let mut client = running.connect();
        running.events.opened();
        let mut writer = client.try_clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let sending = thread::spawn(move || {
            let frame = masked(BINARY, &vec![1; size]);
            while !stopping.load(SeqCst) && writer.try_write(&frame) {}
        });
        let read = || running.handle.connections()[0].traffic.bytes_in as usize;
        let mut before = usize::MAX;
        eventually("it reads no further", || {
            thread::sleep(ms(300));
            std::mem::replace(&mut before, read()) == read()
        });
        let taken = read();
        stop.store(true, SeqCst);
        drop(open);
        let reading = thread::spawn(move || client.drain_within(CEILING));
        sending.join().unwrap();
        drop(running);
        let _ = reading.join();
        taken
    };
    // Beyond the bound there may be what one read took in, and the message that was under way.
    let buffer = 65 * 1024;
    for (read_ahead, max_buffered, size) in [
        (64 * 1024, usize::MAX, 1000),
        (64 * 1024, usize::MAX, 300_000),
        (usize::MAX, 200_000, 1000),
        (0, usize::MAX, 1000),
    ] {
        let taken = taken(read_ahead, max_buffered, size);
        // One alone gets half of the total.
        let bound = read_ahead.min(max_buffered / 2);
        println!("read {taken} bytes ahead where {bound} are the bound, in messages of {size}");
        assert!(taken <= bound + size + buffer, "{taken} bytes where {bound} are the bound");
        assert!(bound == 0 || taken >= bound / 2, "{taken} bytes where {bound} are the bound");
    }
}

#[test]
fn messages_of_a_peer_that_has_died_are_still_the_handlers() {
    let (open, gate) = bounded::<()>(0);
    let (messages, received) = unbounded();
    let running = start(server().heartbeat(quick()), move |conn| {
        let _ = gate.recv();
        loop {
            let message = conn.recv();
            let is_end = message.is_err();
            let _ = messages.send(message.map_err(|error| error.to_string()));
            if is_end {
                return Ok(());
            }
        }
    });
    let mut client = running.connect();
    client.send_text("one");
    client.send_text("two");
    assert!(matches!(running.closed().reason, CloseReason::HeartbeatLost { missed: 2, .. }));
    drop(open);
    for text in ["one", "two"] {
        assert_eq!(receive("a message", &received), Ok(Message::from(text)));
    }
    let end = receive("the end", &received).unwrap_err();
    assert!(end.contains("heartbeat lost"), "{end}");
}
