//! The client's address behind a proxy, wherever the library tells it, and nowhere unless the proxy is trusted.

use std::net::{IpAddr, Ipv4Addr};

use heartwire::{Accept, Event, IpNet, Response, Server};

use crate::support::{Client, request_with, server, start};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Connects with these header lines, and is refused with them: the client is said to be `client` wherever it is told.
fn check(server: Server, headers: &str, client: IpAddr) {
    let server = server.on_handshake(|request| match request.path() {
        "/no" => Err(Response::new(403).text(format!("{} via {}\n", request.remote_ip(), request.peer_addr()))),
        _ => Ok(Accept::new()),
    });
    let running = start(server, |conn| {
        conn.send(format!("{} via {}", conn.remote_ip(), conn.peer_addr()))?;
        conn.recv().map(drop)
    });
    let mut accepted = Client::tcp(running.address()).upgraded(&request_with("/", headers));
    let peer = accepted.local_addr();
    assert_eq!(accepted.text(), format!("{client} via {peer}"));
    let opened = running.events.wait_for("Opened", |event| match event {
        Event::Opened { peer_addr, remote_ip, .. } => Some((*peer_addr, *remote_ip)),
        _ => None,
    });
    assert_eq!(opened, (peer, client));
    let connections = running.handle.connections();
    assert_eq!(connections.iter().map(|info| (info.peer_addr, info.remote_ip)).collect::<Vec<_>>(), [(peer, client)]);
    drop(accepted);
    let report = running.closed();
    assert_eq!((report.peer_addr, report.remote_ip), (peer, client));

    let mut refused = Client::tcp(running.address());
    let peer = refused.local_addr();
    refused.write(request_with("/no", headers).as_bytes());
    assert_eq!(refused.refusal().body, format!("{client} via {peer}\n"));
    let failed = running.events.wait_for("HandshakeFailed", |event| match event {
        Event::HandshakeFailed { peer_addr, remote_ip, status, .. } => Some((*peer_addr, *remote_ip, *status)),
        _ => None,
    });
    assert_eq!(failed, (peer, client, Some(403)));
}

const FORWARDED: &str = "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\nX-Real-IP: 198.51.100.2\r\n";

#[test]
fn a_trusted_proxy_says_whom_it_speaks_for() {
    check(server().trust_proxies([PROXY]), FORWARDED, ip("203.0.113.9"));
    let networks: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
    check(server().trust_proxies(networks), "X-Real-IP: 2001:db8::9\r\n", ip("2001:db8::9"));
}

#[test]
fn trust_proxies_adds_to_earlier_calls() {
    let server = server().trust_proxies([PROXY]).trust_proxies([ip("203.0.113.9")]);
    check(server, FORWARDED, ip("198.51.100.1"));
}

#[test]
fn headers_of_a_peer_that_is_not_trusted_change_nothing() {
    check(server(), FORWARDED, PROXY);
    check(server().trust_proxies([ip("127.0.0.2"), ip("203.0.113.9"), ip("::1")]), FORWARDED, PROXY);
}

#[test]
fn a_trusted_proxy_that_says_nothing_speaks_for_itself() {
    check(server().trust_proxies([PROXY]), "", PROXY);
}
