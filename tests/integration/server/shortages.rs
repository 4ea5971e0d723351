//! The system has no file descriptor or thread to give, or clients are gone before they are accepted.

use std::io::Read;
use std::net::TcpStream;
use std::time::Instant;

use crate::support::{CEILING, Client, PING, alone, echo, eventually, fragment, ms, request, server, start};

#[cfg(unix)]
#[test]
fn a_shortage_of_file_descriptors_is_survived_and_counted() {
    if !alone!(100) {
        return;
    }
    // A client's end and the server's: each connection takes two of the hundred.
    let running = start(server(), echo);
    let mut spare = Some(std::fs::File::open("/dev/null").unwrap());
    let mut clients = Vec::new();
    while let Ok(stream) = TcpStream::connect(running.address()) {
        clients.push(Client::of(stream));
        assert!(clients.len() < 100, "there is no limit here");
    }
    let begun = Instant::now();
    eventually("accept fails", || {
        // If the last of them went to a server's end, nobody waits to be accepted: then one more does.
        if begun.elapsed() > ms(1000) && spare.take().is_some() {
            clients.extend(TcpStream::connect(running.address()).map(Client::of));
        }
        running.handle.stats().accept_errors > 0
    });
    // Room again: those who were not accepted yet are, and all are served.
    assert!(clients.len() > 40, "{} clients", clients.len());
    let mut served = clients.split_off(clients.len() - 20);
    drop(clients);
    for client in &mut served {
        client.write(request().as_bytes());
    }
    for client in &mut served {
        assert_eq!(client.answer().status, 101);
        client.expect_echo("here after all");
    }
    let stats = running.handle.stats();
    println!("{} failures to accept while there was no room", stats.accept_errors);
    assert!(stats.accept_errors < 1000, "the loop was spinning: {stats:?}");
    drop(served);
    running.stop();
}

#[test]
fn clients_that_reset_before_they_are_accepted_do_no_harm() {
    let running = start(server(), echo);
    for _ in 0..200 {
        Client::tcp(running.address()).reset();
    }
    let mut client = running.connect();
    client.expect_echo("hello");
    client.write(&fragment(0x80 | PING, b""));
    // Answered behind everything that was reported before.
    assert_eq!(running.handle.connections().len(), 1);
    let stats = running.handle.stats();
    assert_eq!((stats.accept_errors, stats.open), (0, 1), "{stats:?}");
}

#[test]
fn a_thread_that_cannot_be_started_costs_its_client_and_nobody_else() {
    // More than there is address space: no system gives a thread such a stack.
    let running = start(server().stack_size(usize::MAX / 4), echo);
    for refused in 1..=3 {
        let mut client = TcpStream::connect(running.address()).unwrap();
        client.set_read_timeout(Some(CEILING)).unwrap();
        assert_eq!(client.read(&mut [0; 16]).unwrap_or(0), 0, "its connection was closed");
        eventually("it is counted", || running.handle.stats().thread_errors == refused);
    }
    assert_eq!(running.handle.connections().len(), 0);
    // The listener still listens, and the server ends as ever.
    TcpStream::connect(running.address()).unwrap();
    running.stop();
}
