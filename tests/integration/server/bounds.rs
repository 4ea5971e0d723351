//! What nobody can make us use more of than is said: memory of queues, processor time; and that no write of ours ends
//! the process. All these are of a process, so each test has one of its own.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use heartwire::{HeartbeatPolicy, Sender, Server};

#[cfg(target_os = "linux")]
use crate::support::usage;
use crate::support::{Client, alone, echo, eventually, ms, receive, request_with, server, start, start_listening};

// Memory.

const MIB: usize = 1024 * 1024;

/// What a debug build, the test and the allocator may add.
const SPARE: usize = 4 * MIB;

#[cfg(target_os = "linux")]
#[test]
fn a_queue_of_empty_messages_costs_no_more_memory_than_its_size() {
    if !alone!() {
        return;
    }
    let (running, senders) = start_listening(server().queue_size(MIB));
    let never_reads = running.connect();
    let sender = receive("a Sender", &senders);
    sender.send(vec![0; 32 * MIB]).unwrap();
    never_reads.reset();
    running.closed();
    let (before, _never_reads) = (usage::resident(), running.connect());
    let sender = receive("a Sender", &senders);
    let (mut sent, mut refused) = (0, 0);
    // Until the system's own buffers are full, and the queue after them.
    while refused < 1000 {
        match sender.try_send("") {
            Ok(()) => (sent, refused) = (sent + 1, 0),
            Err(_) => refused += 1,
        }
    }
    let (queued, grown) = (sender.queued(), usage::resident().saturating_sub(before));
    println!("{sent} empty messages taken, {queued} bytes of them queued; {grown} bytes more resident");
    assert!(queued > 0 && grown < MIB + SPARE, "{grown} bytes for a queue of {MIB}");
    assert!((running.handle.stats().buffered as usize) <= MIB, "{:?}", running.handle.stats());
}

#[cfg(target_os = "linux")]
#[test]
fn all_queues_together_cost_no_more_than_the_total_and_something_is_left_for_the_next() {
    if !alone!() {
        return;
    }
    const TOTAL: usize = 16 * MIB;
    const PEERS: usize = 30;
    const MESSAGE: usize = 100_000;
    let (running, senders) = start_listening(server().queue_size(8 * MIB).max_buffered(TOTAL));
    let fill = |sender: &Sender| {
        let mut refused = 0;
        while refused < 100 {
            match sender.try_send(vec![1; MESSAGE]) {
                Ok(()) => refused = 0,
                Err(_) => refused += 1,
            }
        }
        sender.queued()
    };
    let before = usage::resident();
    let (mut never_read, mut filled) = (Vec::new(), Vec::new());
    let queued: Vec<usize> = (0..PEERS)
        .map(|_| {
            never_read.push(running.connect());
            let sender = receive("a Sender", &senders);
            let queued = fill(&sender);
            filled.push(sender);
            queued
        })
        .collect();
    // The system may have had room for the only one that waited.
    eventually("one message is let in for each", || {
        filled.iter().for_each(|sender| _ = sender.try_send(vec![1; MESSAGE]));
        filled.iter().all(|sender| sender.queued() > 0)
    });
    let (all, grown) = (running.handle.stats().buffered as usize, usage::resident().saturating_sub(before));
    println!("{queued:?} bytes queued, {all} in all; {grown} bytes more resident");
    assert!(queued[0] > TOTAL / 2 - 4 * MESSAGE && queued[0] <= TOTAL / 2, "the first has half");
    assert!(all <= TOTAL + PEERS * (MESSAGE + 128), "{all} bytes");
    assert!(grown < all + 2 * SPARE, "{grown} bytes for {all}");
    never_read.into_iter().for_each(Client::reset);
    eventually("what was queued is given back", || running.handle.stats().buffered == 0);
}

#[cfg(target_os = "linux")]
#[test]
fn events_that_nobody_takes_out_are_bounded_and_what_was_lost_is_counted_and_told() {
    if !alone!() {
        return;
    }
    const CONNECTIONS: u64 = 1500;
    let running = start(server(), echo);
    let path = format!("/{}", "x".repeat(15_000));
    let come_and_go = || {
        Client::tcp(running.address()).upgraded(&request_with(&path, "")).reset();
    };
    // Another subscriber's, which takes its own out all the time.
    let take_out = || running.events.forget();
    come_and_go();
    let (before, silent) = (usage::resident(), running.handle.events());
    for _ in 0..CONNECTIONS {
        come_and_go();
        take_out();
    }
    let closed = || running.handle.stats().closed_total();
    eventually("all have ended", || {
        take_out();
        closed() == CONNECTIONS + 1
    });
    let grown = usage::resident().saturating_sub(before);
    println!("{} events wait, {grown} bytes more resident", silent.len());
    assert!(grown < 16 * MIB + 2 * SPARE, "{grown} bytes for {} events of 15 kB", silent.len());

    // It hears of it as soon as there is room, although nothing else happens.
    let (mut events, mut lost) = (0, 0);
    while lost == 0 {
        match receive("what was lost", &silent) {
            heartwire::Event::Lost { count, .. } => lost = count,
            _ => events += 1,
        }
    }
    // The first may have been told before, or after it began to listen.
    assert!((2 * CONNECTIONS..=2 * CONNECTIONS + 2).contains(&(events + lost)), "{events} came, {lost} were lost");
    assert!(lost > 100, "{lost} lost");
}

// Processor time.

#[cfg(target_os = "linux")]
#[test]
fn a_listener_that_another_holder_made_non_blocking_costs_no_processor_time() {
    if !alone!() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.try_clone().unwrap();
    let server = Server::from_listener(listener).unwrap().heartbeat(HeartbeatPolicy::off());
    let running = start(server, echo);
    running.connect().expect_echo("it serves");
    other.set_nonblocking(true).unwrap();
    // It may be in `accept` still, and come back from there.
    running.connect().expect_echo("it serves");

    let before = usage::processor_time();
    thread::sleep(Duration::from_secs(2));
    let used = usage::processor_time() - before;
    assert!(used < ms(500), "{used:?} of two seconds in which nothing happened");
    running.connect().expect_echo("it serves all the same");
    running.stop();
}

// Writes that do not end the process.

#[cfg(unix)]
#[test]
fn where_sigpipe_ends_a_process_no_write_of_ours_raises_it() {
    if !alone!() {
        return;
    }
    sigpipe::reset();
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    let server = server().on_handshake(|request| {
        if request.path() == "/gone" {
            // Until its client has reset the connection.
            thread::sleep(ms(300));
        }
        Ok(heartwire::Accept::new())
    });
    let running = start(server.heartbeat(policy), |conn| match conn.path() {
        "/flood" => loop {
            conn.send(vec![0; 100_000])?;
        },
        _ => echo(conn),
    });
    // A peer that takes nothing is cut while a write of several pieces waits for it; one that resets while it is
    // behind.
    let _never_reads = Client::tcp(running.address()).upgraded(&request_with("/flood", ""));
    running.closed();
    let resets = Client::tcp(running.address()).upgraded(&request_with("/flood", ""));
    thread::sleep(ms(50));
    resets.reset();
    running.closed();
    // The answer to a handshake, and that of a plain request, when nobody is there any more.
    for request in [request_with("/gone", ""), "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned()] {
        let mut client = Client::tcp(running.address());
        client.write(request.as_bytes());
        client.reset();
    }
    eventually("all four have come to their end", || {
        let stats = running.handle.stats();
        let without = stats.handshakes_failed + stats.http_unclaimed + stats.without_request;
        stats.closed_total() + without >= 4
    });
    // The stand-in is woken up to the end, by whoever leaves `recv`.
    running.stop();
}
