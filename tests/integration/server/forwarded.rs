//! The client's address behind a proxy, wherever the library tells it, and nowhere unless the proxy is trusted.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use heartwire::{Accept, Event, Handle, IpNet, Response, Server};

/// Longer than anything takes on a busy machine: only a failing test ever waits so long.
const CEILING: Duration = Duration::from_secs(30);

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Serves, with a handler that says whom it has before it, and rejects the path `/no` with a note of whom.
fn start(server: Server) -> (Handle, Receiver<Event>) {
    let server = server.on_handshake(|request| match request.path() {
        "/no" => Err(Response::new(403).text(format!("{} via {}\n", request.client(), request.peer()))),
        _ => Ok(Accept::new()),
    });
    let handle = server.handle();
    let events = handle.events();
    thread::spawn(move || {
        server.serve(|conn| {
            conn.send(format!("{} via {}", conn.client(), conn.peer()))?;
            conn.recv().map(drop)
        })
    });
    (handle, events)
}

/// Asks for a WebSocket with these header lines.
fn ask(handle: &Handle, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(handle.local_addr()).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Reads until this has come.
fn expect(stream: &mut TcpStream, text: &str) {
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains(text) {
        let mut byte = [0];
        let count = stream.read(&mut byte).expect("it comes in time");
        assert_ne!(count, 0, "{text:?} did not come, but: {}", String::from_utf8_lossy(&received));
        received.push(byte[0]);
    }
}

fn wait_for<T>(events: &Receiver<Event>, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = pick(events.recv_timeout(CEILING).expect("the event comes")) {
            return found;
        }
    }
}

/// Connects with these header lines, and checks that the client is said to be `client` wherever it is told.
fn check(server: Server, headers: &str, client: IpAddr) {
    let (handle, events) = start(server);
    let mut stream = ask(&handle, "/", headers);
    let peer: SocketAddr = stream.local_addr().unwrap();
    expect(&mut stream, &format!("{client} via {peer}"));
    let opened = wait_for(&events, |event| match event {
        Event::Opened { peer, client, .. } => Some((peer, client)),
        _ => None,
    });
    assert_eq!(opened, (peer, client));
    let connections = handle.connections();
    assert_eq!(connections.iter().map(|info| (info.peer, info.client)).collect::<Vec<_>>(), [(peer, client)]);
    drop(stream);
    let closed = wait_for(&events, |event| match event {
        Event::Closed(report) => Some((report.peer, report.client)),
        _ => None,
    });
    assert_eq!(closed, (peer, client));

    let mut stream = ask(&handle, "/no", headers);
    let peer = stream.local_addr().unwrap();
    // To its end, so that hanging up is no reset.
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends");
    assert!(answer.ends_with(&format!("\r\n\r\n{client} via {peer}\n")), "{answer}");
    drop(stream);
    let failed = wait_for(&events, |event| match event {
        Event::HandshakeFailed { peer, client, status, .. } => Some((peer, client, status)),
        _ => None,
    });
    assert_eq!(failed, (peer, client, Some(403)));
    handle.shutdown();
    // The end of the server is the end of the channel.
    while events.recv_timeout(CEILING).inspect_err(|error| assert!(error.is_disconnected(), "it hangs")).is_ok() {}
}

fn server() -> Server {
    Server::bind("127.0.0.1:0").unwrap()
}

const FORWARDED: &str = "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\nX-Real-IP: 198.51.100.2\r\n";

#[test]
fn a_trusted_proxy_says_whom_it_speaks_for() {
    check(server().trust_proxies([PROXY]), FORWARDED, ip("203.0.113.9"));
    let networks: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
    check(server().trust_proxies(networks), "X-Real-IP: 2001:db8::9\r\n", ip("2001:db8::9"));
}

#[test]
fn calls_add_up() {
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
