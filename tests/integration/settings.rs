//! The settings of both ends: whatever they are set to, a server serves and a client connects, and both end.

use std::time::Duration;

use crossbeam_channel::unbounded;
use heartwire::{Client, HeartbeatPolicy, Message, Server};

use crate::support::{CEILING, Running, RunningClient, client, echo, receive, run, server, start};

/// A message goes there and back. The first attempts may fail: a deadline of one millisecond is soon over.
fn connected(server: Server, set: impl FnOnce(Client) -> Client, name: &str) -> (Running, RunningClient) {
    let running = start(server, echo);
    let (sender, messages) = unbounded();
    let client = run(set(client(running.address())), move |conn| {
        loop {
            let _ = sender.send(conn.recv()?);
        }
    });
    assert!(client.handle.wait_connected(CEILING), "{name}: not connected");
    client.handle.send("hello").unwrap();
    assert_eq!(receive("the echo", &messages), Message::from("hello"), "{name}");
    (running, client)
}

fn assert_server_works(set: impl FnOnce(Server) -> Server, name: &str) {
    println!("Server::{name}");
    let (running, client) = connected(set(server()), |client| client, name);
    running.handle.shutdown();
    // By the supervisor, which keeps the deadline: without it nobody says Close.
    client.closed();
    running.closed();
    running.wait_for_end();
}

fn assert_client_works(set: impl FnOnce(Client) -> Client, name: &str) {
    println!("Client::{name}");
    let (running, client) = connected(server(), set, name);
    client.stop();
    client.closed();
    running.closed();
}

const DURATIONS: [Duration; 2] = [Duration::ZERO, Duration::MAX];

const SIZES: [usize; 2] = [0, usize::MAX];

#[test]
fn a_server_works_with_any_duration() {
    type Set = fn(Server, Duration) -> Server;
    let settings: [(&str, Set); 5] = [
        ("handshake_timeout", Server::handshake_timeout),
        ("close_timeout", Server::close_timeout),
        ("full_queue_timeout", |server, duration| server.full_queue_timeout(Some(duration))),
        ("busy_poll", Server::busy_poll),
        ("heartbeat", |server, duration| server.heartbeat(HeartbeatPolicy::keepalive(duration))),
    ];
    for (name, set) in settings {
        for duration in DURATIONS {
            assert_server_works(|server| set(server, duration), &format!("{name}({duration:?})"));
        }
    }
}

#[test]
fn a_client_works_with_any_duration() {
    type Set = fn(Client, Duration) -> Client;
    let settings: [(&str, Set); 6] = [
        ("connect_timeout", Client::connect_timeout),
        ("handshake_timeout", Client::handshake_timeout),
        ("close_timeout", Client::close_timeout),
        ("full_queue_timeout", |client, duration| client.full_queue_timeout(Some(duration))),
        ("busy_poll", Client::busy_poll),
        ("heartbeat", |client, duration| client.heartbeat(HeartbeatPolicy::keepalive(duration))),
    ];
    for (name, set) in settings {
        for duration in DURATIONS {
            assert_client_works(|client| set(client, duration), &format!("{name}({duration:?})"));
        }
    }
}

/// Not among them: messages of no size and threads with a stack larger than memory. They are what they say.
#[test]
fn a_server_works_with_any_size() {
    type Set = fn(Server, usize) -> Server;
    let settings: [(&str, Set, &[usize]); 6] = [
        ("max_message_size", Server::max_message_size, &SIZES[1..]),
        ("queue_size", Server::queue_size, &SIZES),
        ("read_buffer_size", Server::read_buffer_size, &SIZES),
        ("read_ahead", Server::read_ahead, &SIZES),
        ("max_buffered", Server::max_buffered, &SIZES),
        ("stack_size", Server::stack_size, &SIZES[..1]),
    ];
    for (name, set, sizes) in settings {
        for size in sizes {
            assert_server_works(|server| set(server, *size), &format!("{name}({size})"));
        }
    }
}

#[test]
fn a_client_works_with_any_size() {
    type Set = fn(Client, usize) -> Client;
    let settings: [(&str, Set, &[usize]); 6] = [
        ("max_message_size", Client::max_message_size, &SIZES[1..]),
        ("queue_size", Client::queue_size, &SIZES),
        ("read_buffer_size", Client::read_buffer_size, &SIZES),
        ("read_ahead", Client::read_ahead, &SIZES),
        ("max_buffered", Client::max_buffered, &SIZES),
        ("stack_size", Client::stack_size, &SIZES),
    ];
    for (name, set, sizes) in settings {
        for size in sizes {
            assert_client_works(|client| set(client, *size), &format!("{name}({size})"));
        }
    }
}
