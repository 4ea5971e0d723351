//! Many handshakes at once: all succeed, and a flood of those that never end keeps nobody out.

use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;

use rustls::ClientConnection;

use super::{connect, dial, secure, start};
use crate::support::tls::client_config;
use crate::support::{Client, HOUR, alone, eventually, request};

#[test]
fn handshakes_that_all_come_at_once_all_succeed() {
    const CLIENTS: usize = 60;
    let running = start(secure().handshake_timeout(HOUR));
    let (barrier, address) = (Barrier::new(CLIENTS), running.address());
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut client = dial(address, client_config(rustls::ALL_VERSIONS));
                barrier.wait();
                client = client.upgraded(&request());
                client.expect_echo(&format!("{number}"));
                client.close();
            });
        }
    });
    eventually("all are counted", || running.handle.stats().opened == CLIENTS as u64);
    assert_eq!(running.handle.stats().handshakes_failed, 0);
}

/// The first bytes of a handshake, as far as the kernel takes them.
fn half_open(address: SocketAddr, hello: &[u8]) -> Client {
    use crate::support::wire::Wire;
    let mut client = Client::on(Wire::plain(TcpStream::connect(address).expect("the server listens")));
    client.try_write(hello);
    client
}

fn hello() -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut tls = ClientConnection::new(client_config(rustls::ALL_VERSIONS).into(), name).expect("a configuration");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("into memory");
    bytes
}

#[test]
fn a_flood_of_half_handshakes_keeps_nobody_out() {
    // Both ends of each connection are ours.
    if !alone!(8192) {
        return;
    }
    const FLOOD: usize = 1100;
    // A quarter of so many may be half open, 1,024.
    let running = start(secure().max_connections(4096).handshake_timeout(HOUR));
    let hello = hello();
    let (half, whole) = (&hello[..hello.len() / 2], &hello[..]);
    // Some never say a word, some stop in the middle of their hello, and some after it.
    let said = [&b""[..], half, whole];
    let mut flood: Vec<Client> =
        (0..FLOOD).map(|number| half_open(running.address(), said[number % said.len()])).collect();
    eventually("the oldest are dropped", || running.handle.stats().handshakes_failed > 0);
    let mut served = Vec::new();
    for round in 0..10 {
        let mut client = connect(&running);
        client.expect_echo(&format!("served {round}"));
        served.push(client);
        flood.push(half_open(running.address(), half));
    }
    for client in &mut served {
        client.expect_echo("and still connected");
    }
    eventually("all are counted", || running.handle.stats().opened == 10);
    assert_eq!(running.handle.stats().closed_total(), 0);
}
