//! TLS at either end or both, over real sockets. What holds with and without it is shown by the other tests, which the
//! stage `tls` runs over it; here is what only TLS has. The other end is played by rustls' own buffered connection,
//! by bytes made by hand, or by ours.

mod certificates;
mod clients;
mod duplex;
mod endings;
mod handshakes;
mod many;
mod peers;

use std::net::{SocketAddr, TcpStream};

use heartwire::{Connection, Error, HeartbeatPolicy, Server};
use rustls::version::TLS13;
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::support::tls::{client_config, client_tls, server_tls};
use crate::support::wire::Wire;
use crate::support::{Client, Running, client_for, echo, quick, request, server, start_as_it_is};

/// Both versions that there are.
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS12], &[&TLS13]];

/// A server with the tests' certificate.
fn secure() -> Server {
    server().tls(server_tls())
}

fn start(server: Server) -> Running {
    start_as_it_is(server, echo)
}

/// A client that speaks TLS, and has said nothing so far.
fn dial(address: SocketAddr, config: ClientConfig) -> Client {
    Client::on(Wire::to_tls_server(TcpStream::connect(address).expect("the server listens"), config))
}

/// A client that speaks TLS, its opening handshake done.
fn connect(running: &Running) -> Client {
    dial(running.address(), client_config(rustls::ALL_VERSIONS)).upgraded(&request())
}

/// Our own client to a server at this port, which trusts the tests' certificates.
fn client(address: SocketAddr) -> heartwire::Client {
    let client = client_for(&format!("wss://localhost:{}/", address.port())).tls(client_tls());
    client.heartbeat(HeartbeatPolicy::off()).reconnect(quick())
}

/// Says a word, and expects it back.
fn say_hello(conn: &mut Connection) -> Result<(), Error> {
    conn.send("hello")?;
    assert_eq!(conn.recv()?.as_text(), Some("hello"));
    Ok(())
}

#[test]
fn a_client_and_a_server_talk() {
    let running = start(secure());
    client(running.address())
        .run(|conn| {
            for size in [0, 1, 100, 5000, 16_383, 16_384, 16_385, 100_000, 1_000_000] {
                let message = (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>();
                conn.send(message.clone())?;
                assert_eq!(conn.recv()?.as_bytes(), message);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn either_version_is_spoken() {
    let running = start(secure());
    for versions in VERSIONS {
        let mut client = dial(running.address(), client_config(versions)).upgraded(&request());
        client.expect_echo("hello");
        let version = client.wire().tls().with(|connection| connection.protocol_version());
        assert_eq!(version, Some(versions[0].version));
        client.close();
    }
}
