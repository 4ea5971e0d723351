//! Where a server listens.

use std::io::ErrorKind;

use heartwire::{Error, Server};

use crate::support::{echo, server, start};

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
fn bind_to_an_address_in_use_is_an_error() {
    let running = start(server(), echo);
    match Server::bind(running.address()) {
        Err(Error::Io(error)) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
        other => panic!("{other:?}"),
    }
    assert!(matches!(Server::bind("nonsense"), Err(Error::Io(_))));
}
