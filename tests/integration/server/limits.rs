//! How many connections there may be in all, and from each address.

use std::net::IpAddr;
use std::thread;
use std::time::Instant;

use super::assert_proper;
use crate::support::{
    CEILING, Client, HOUR, alone, echo, eventually, exchange, ms, request, request_with, server, start,
};

// The limit of connections.

#[test]
fn max_connections_has_others_told_to_retry_and_gives_a_free_place_again() {
    let running = start(server().max_connections(2), echo);
    let (first, second) = (running.connect(), running.connect());
    for number in 1..=3 {
        let answer = exchange(running.address(), request());
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("5")));
        assert_proper(&answer, "over the limit");
        assert_eq!(running.events.handshake_failed().0, Some(503));
        assert_eq!(running.handle.stats().refused, number);
    }
    // Who only asks over HTTP, for the server's health perhaps, is answered.
    assert_eq!(exchange(running.address(), "GET / HTTP/1.1\r\nHost: test\r\n\r\n").status, 426);

    first.close();
    let start = Instant::now();
    let mut third = loop {
        let mut client = Client::tcp(running.address());
        client.write(request().as_bytes());
        match client.answer().status {
            101 => break client,
            503 => assert!(start.elapsed() < CEILING, "the place is not given again"),
            other => panic!("{other}"),
        }
    };
    third.expect_echo("in");
    (0..3).for_each(|_| _ = running.events.opened());
    drop(second);
}

#[test]
fn clients_that_are_refused_and_do_not_hang_up_take_no_places() {
    let running = start(server().max_connections(1).handshake_timeout(2 * CEILING), echo);
    let first = running.connect();
    let mut refused: Vec<Client> = (0..3).map(|_| Client::tcp(running.address())).collect();
    for client in &mut refused {
        client.write(request().as_bytes());
        assert_eq!(client.answer().status, 503);
    }
    first.close();
    running.closed();
    // The thread ends a moment after the report; the refused would be waited for much longer.
    let start = Instant::now();
    loop {
        let mut client = Client::tcp(running.address());
        client.write(request().as_bytes());
        if client.answer().status == 101 {
            break;
        }
        assert!(start.elapsed() < CEILING, "the place is taken by those who were refused");
        thread::sleep(ms(5));
        refused.push(client);
    }
}

#[test]
fn far_over_the_limit_the_longest_silent_are_dropped_and_reported_and_others_served() {
    const SEATS: usize = 64;
    const MORE: usize = 16;
    // So many handshakes of TLS, one after another, may take a busy machine long.
    let running = start(server().max_connections(0).handshake_timeout(HOUR), echo);
    let mut clients: Vec<Client> = (0..SEATS).map(|_| Client::tcp(running.address())).collect();
    // They are accepted in their order. The first says something meanwhile, so it is not the longest silent.
    eventually("all are accepted", || running.handle.stats().accepted == SEATS as u64);
    clients[0].write(&request().as_bytes()[..10]);
    thread::sleep(ms(100));
    for _ in 0..MORE {
        clients.push(Client::tcp(running.address()));
        let reason = "dropped: too many clients were waiting, and it was silent for longest";
        assert_eq!(running.events.handshake_failed(), (None, reason.into()));
    }
    for mut client in clients.drain(1..=MORE) {
        // It may be a reset or not, but it is the end.
        client.drain();
    }
    clients[0].write(&request().as_bytes()[10..]);
    for client in &mut clients[1..] {
        client.write(request().as_bytes());
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 503);
    }
    let all = (SEATS + MORE) as u64;
    eventually("all are counted", || (running.handle.stats().accepted, running.handle.stats().refused) == (all, all));
}

/// How many threads serve connections, and those that have none.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    crate::support::threads_named("heartwire-conn")
}

#[cfg(target_os = "linux")]
#[test]
fn plain_requests_that_are_held_open_have_a_bound_of_their_own_and_health_is_told_all_the_same() {
    if !alone!() {
        return;
    }
    const CONNECTIONS: usize = 10;
    const GET: &str = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
    let server = server().max_connections(CONNECTIONS);
    let running = start(server.on_request(|_| Some(heartwire::Response::new(200).text("ok\n"))), echo);
    let mut most = 0;
    let held: Vec<Client> = (0..400)
        .map(|_| {
            let mut client = Client::tcp(running.address());
            assert!(client.try_write(GET.as_bytes()));
            most = most.max(threads());
            client
        })
        .collect();
    // Those that are dropped end when they have their turn, and the system forgets a thread a little later.
    assert!(most <= CONNECTIONS + 2 * 64 + 20, "{most} threads for {CONNECTIONS} connections");
    eventually("those that were dropped have ended", || threads() <= CONNECTIONS + 64);
    assert_eq!(exchange(running.address(), GET).status, 200, "with {} held open", held.len());

    // And with as many that say nothing, in the overflow and in every connection slot.
    let _silent: Vec<Client> = (0..CONNECTIONS + 64).map(|_| Client::tcp(running.address())).collect();
    let accepted = 1 + held.len() + _silent.len();
    eventually("all have come", || running.handle.stats().accepted == accepted as u64);
    eventually("those that were dropped have ended", || threads() <= CONNECTIONS + 64);
    assert_eq!(exchange(running.address(), GET).status, 200);
    assert_eq!(exchange(running.address(), GET).status, 200);
}

// The limit of each address.

#[test]
fn max_connections_per_address_refuses_more_and_gives_a_free_place_again() {
    let running = start(server().max_connections_per_address(Some(2)), echo);
    let (first, _second) = (running.connect(), running.connect());
    let answer = exchange(running.address(), request());
    assert_eq!((answer.status, answer.header("Retry-After")), (429, Some("5")));
    assert_eq!(answer.body, "too many connections from this address\n");
    assert_eq!(
        running.events.handshake_failed(),
        (Some(429), "too many connections from this address (max_connections_per_address)".into())
    );
    assert_eq!(running.handle.stats().refused, 1);
    // Who only asks over HTTP is answered, and counts no longer when it was.
    let mut lingering = Client::tcp(running.address());
    lingering.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(lingering.answer().status, 426);

    first.close();
    eventually("its place is given again", || {
        let mut client = Client::tcp(running.address());
        client.write(request().as_bytes());
        client.answer().status == 101
    });
}

#[test]
fn max_connections_per_address_counts_each_client_behind_a_trusted_proxy() {
    let server = server().max_connections_per_address(Some(1)).trust_proxies([IpAddr::from([127, 0, 0, 1])]);
    let running = start(server, echo);
    let from = |client: &str| request_with("/", &format!("X-Forwarded-For: {client}\r\n"));
    let clients = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    let connected: Vec<Client> =
        clients.iter().map(|client| Client::tcp(running.address()).upgraded(&from(client))).collect();
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::2"] {
        assert_eq!(exchange(running.address(), from(client)).status, 429, "{client}");
    }
    eventually("they are counted", || running.handle.stats().refused == 3);
    drop(connected);
    (0..3).for_each(|_| _ = running.closed());
    eventually("all may come again", || {
        clients.iter().all(|client| {
            let mut again = Client::tcp(running.address());
            again.write(from(client).as_bytes());
            let status = again.answer().status;
            again.reset();
            status == 101
        })
    });
}
