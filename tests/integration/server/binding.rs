//! Where a server listens.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use heartwire::{Error, Server};

use crate::support::{CEILING, Client, echo, exchange, request, server, start};

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn from_listener_serves_and_so_does_bind_on_ipv6() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let running = start(Server::from_listener(listener).unwrap(), echo);
    running.connect().expect_echo("from a listener");
    match Server::bind("[::1]:0") {
        Ok(server) => {
            let running = start(server, echo);
            let mut client = running.connect();
            client.expect_echo("over IPv6");
            client.close();
            assert!(running.closed().peer_addr.is_ipv6());
        }
        Err(error) => println!("no IPv6 here: {error}"),
    }
}

#[test]
fn also_bind_serves_each_address_as_if_it_were_the_only_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = server().also_bind("127.0.0.1:0").unwrap().also_from_listener(listener).unwrap();
    let addresses = server.local_addrs();
    assert_eq!((addresses.len(), addresses[0]), (3, server.local_addr()));
    let running = start(server, echo);
    assert_eq!((running.handle.local_addrs(), running.address()), (addresses.clone(), addresses[0]));
    // In turn, so that the threads that are free after a client of one address wait while another has a client.
    for round in 0..30 {
        let mut clients: Vec<Client> = addresses.iter().map(|address| Client::connect(*address)).collect();
        for client in &mut clients {
            client.expect_echo(&format!("round {round}"));
        }
        let numbers = running.handle.connections().len();
        assert!(numbers >= 3, "one registry for all: {numbers}");
        clients.into_iter().for_each(Client::close);
    }
    assert_eq!(running.handle.stalled_parts(CEILING), []);
    // Again when nobody waits any more.
    std::thread::sleep(Duration::from_millis(1500));
    let mut clients: Vec<Client> = addresses.iter().map(|address| Client::connect(*address)).collect();
    running.handle.shutdown();
    for client in &mut clients {
        assert_eq!(client.expect_close().0, Some(1001));
        client.send_close(1001, "");
    }
    drop(clients);
    running.wait_for_end();
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "{address} is free");
    }
}

#[test]
fn also_bind_to_an_address_in_use_is_an_error_and_frees_the_first() {
    let running = start(server(), echo);
    let first = server();
    let address = first.local_addr();
    assert!(matches!(first.also_bind(running.address()), Err(Error::Io(_))));
    drop(Server::bind(address).expect("the address is free"));
}

#[test]
fn drain_answers_at_its_own_address_and_leaves_the_listener_that_was_handed_in() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _shared = listener.try_clone().unwrap();
    let running = start(server().also_from_listener(listener).unwrap(), echo);
    Client::connect(address).expect_echo("both are served");
    let _kept = [Client::connect(address), Client::connect(address)];
    (0..3).for_each(|_| _ = running.events.opened());
    running.handle.drain(Duration::from_secs(3600));
    let refused = exchange(running.address(), request());
    assert_eq!(refused.status, 503, "its own address answers");
    let waiting = TcpStream::connect(address).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    (&waiting).write_all(request().as_bytes()).unwrap();
    let answer = (&waiting).read(&mut [0; 1]);
    assert!(answer.is_err_and(|error| is_timeout(&error)), "a listener that was handed in is left alone");
}

#[test]
fn bind_to_an_address_in_use_is_an_error() {
    let running = start(server(), echo);
    match Server::bind(running.address()) {
        Err(Error::Io(error)) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
        other => panic!("{other:?}"),
    }
    assert!(matches!(Server::bind("nonsense"), Err(Error::Io(_))));
}
