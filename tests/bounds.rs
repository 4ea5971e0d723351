//! What nobody can make us use more of than is said: memory of queues, processor time, threads; and that no write of ours
//! ends the process.

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use heartwire::{HeartbeatPolicy, Sender, Server, TrySendError};
use support::{
    CEILING, Client, PING, Running, TEXT, alone, echo, eventually, masked, ms, receive, request, server, start,
};

/// Processor time that this process has used, and memory that it has resident.
#[cfg(target_os = "linux")]
mod usage {
    use std::fs;
    use std::time::Duration;

    pub(crate) fn processor_time() -> Duration {
        let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // USER_HZ is 100 on every system that we know.
        Duration::from_millis(10 * ticks)
    }

    /// In bytes.
    pub(crate) fn resident() -> usize {
        let status = fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
    }
}

// Processor time.

#[cfg(target_os = "linux")]
#[test]
fn a_listener_that_another_holder_made_non_blocking_costs_no_processor_time() {
    if !alone("a_listener_that_another_holder_made_non_blocking_costs_no_processor_time") {
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
    if !alone("where_sigpipe_ends_a_process_no_write_of_ours_raises_it") {
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
    // A peer that takes nothing is cut while a write of several pieces waits for it; one that resets while it is behind.
    let _never_reads = Client::tcp(running.address()).upgraded(&support::request_with("/flood", ""));
    running.closed();
    let resets = Client::tcp(running.address()).upgraded(&support::request_with("/flood", ""));
    thread::sleep(ms(50));
    resets.reset();
    running.closed();
    // The answer to a handshake, and that of a plain request, when nobody is there any more.
    for request in [support::request_with("/gone", ""), "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned()] {
        let mut client = Client::tcp(running.address());
        client.write(request.as_bytes());
        client.reset();
    }
    eventually("all four have come to their end", || {
        let stats = running.handle.stats();
        stats.closed_total() + stats.handshakes_failed >= 4
    });
    // The stand-in is woken up to the end, by whoever leaves `recv`.
    running.stop();
}
