//! Probes of a server that is well. That they find what hangs is shown beside the code, where it can be made to hang.

use std::net::TcpListener;
use std::thread;

use heartwire::Server;

use crate::support::{CEILING, Client, echo, eventually, server, start};

#[test]
fn stalled_parts_are_none_of_a_full_server_and_its_probes_take_no_place_and_are_not_counted() {
    let server = server().max_connections(1).max_connections_per_address(Some(1));
    let running = start(server, echo);
    let mut only = Client::connect(running.address());
    only.expect_echo("hello");
    eventually("the client is counted", || running.handle.stats().accepted == 1);
    let before = running.handle.stats();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| assert_eq!(running.handle.stalled_parts(CEILING), [])));
        }
    });
    only.expect_echo("still here");
    let after = running.handle.stats();
    let counted = [(before.accepted, after.accepted), (before.refused, after.refused)];
    assert_eq!(counted, [(1, 1), (0, 0)]);
    assert_eq!((after.without_request, after.handshakes_failed), (0, 0));
    only.close();
}

#[test]
fn stalled_parts_are_none_whatever_the_address_and_whoever_made_the_listener() {
    let mut servers = vec![
        Server::bind("0.0.0.0:0").unwrap(),
        Server::bind("127.0.0.1:0").unwrap(),
        Server::from_listener(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap(),
    ];
    match Server::bind("[::]:0") {
        Ok(server) => servers.push(server),
        Err(_) => println!("this machine has no IPv6"),
    }
    for server in servers {
        let running = start(server, echo);
        // Which also waits until it serves.
        Client::connect(([127, 0, 0, 1], running.address().port()).into()).close();
        assert_eq!(running.handle.stalled_parts(CEILING), [], "{}", running.address());
        assert_eq!(running.handle.stats().accepted, 1, "{}", running.address());
    }
}
