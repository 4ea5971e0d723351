//! Unix sockets: the server and the client at them, and what becomes of their files.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "status")]
use heartwire::StatusAccess;
use heartwire::{Client, CloseReason, ConnectError, Error, HeartbeatPolicy, Server};
use tungstenite::Message;

use crate::support::{
    CEILING, Folder, Running, RunningClient, SLACK, echo, eventually, listen, ms, quick, request, request_with, run,
    start_as_it_is,
};

fn bind(path: &Path) -> Server {
    Server::bind_unix(path, None).expect("nobody is there").heartbeat(HeartbeatPolicy::off())
}

/// Any WebSocket client, at a path.
fn connect(path: &Path) -> tungstenite::WebSocket<UnixStream> {
    let stream = UnixStream::connect(path).expect("the server listens");
    stream.set_read_timeout(Some(CEILING)).unwrap();
    tungstenite::client("ws://localhost/", stream).expect("an opening handshake").0
}

fn client(path: &Path) -> Client {
    Client::new(&format!("unix:{}:/a?b", path.display())).unwrap().heartbeat(HeartbeatPolicy::off())
}

fn expect_echo(client: &mut tungstenite::WebSocket<UnixStream>, text: &str) {
    client.send(text.into()).unwrap();
    assert_eq!(client.read().unwrap(), Message::text(text));
}

/// Sends a request that is refused or answered plainly, and gives the status line.
fn exchange(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn bind_unix_serves_any_client_and_reports_that_it_has_no_address() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let running = start_as_it_is(bind(&path), echo);
    assert_eq!((running.handle.unix_paths(), running.handle.local_addrs()), (vec![path.clone()], vec![]));
    let unspecified = (Ipv4Addr::UNSPECIFIED, 0).into();
    assert_eq!(running.handle.local_addr(), unspecified);
    // One after another, so that threads wait for clients, and several at a time.
    for _ in 0..10 {
        let mut clients = [connect(&path), connect(&path), connect(&path)];
        for client in &mut clients {
            expect_echo(client, "hello");
            client.close(None).unwrap();
            while client.read().is_ok() {}
        }
    }
    let report = running.closed();
    assert_eq!((report.peer_addr, report.remote_ip), (unspecified, unspecified.ip()));
    assert!(matches!(report.reason, CloseReason::Peer { .. }));
    assert_eq!(running.handle.stalled_parts(CEILING), []);
    assert_eq!((running.handle.stats().accepted, running.handle.stats().without_request), (30, 0), "no probe counts");
    thread::sleep(ms(1500));
    expect_echo(&mut connect(&path), "when no thread waits any more");
    running.stop();
    assert!(!path.exists(), "the file is removed");
}

#[test]
fn bind_unix_sets_permissions_and_replaces_only_what_nobody_listens_at() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let running = start_as_it_is(Server::bind_unix(&path, Some(0o620)).unwrap(), echo);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    assert!(matches!(Server::bind_unix(&path, None), Err(Error::Io(error)) if error.kind() == ErrorKind::AddrInUse));
    expect_echo(&mut connect(&path), "undisturbed");
    running.stop();
    // As a server leaves it that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let running = start_as_it_is(bind(&path), echo);
    expect_echo(&mut connect(&path), "taken over");
    running.stop();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind_unix(&path, None), Err(Error::Io(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let too_long = folder.at(&"x".repeat(200));
    assert!(matches!(Server::bind_unix(too_long, None), Err(Error::Io(_))));
}

#[test]
fn from_unix_listener_leaves_the_file_and_shares_the_socket() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = || {
        let server = Server::from_unix_listener(listener.try_clone().unwrap()).unwrap();
        start_as_it_is(server.heartbeat(HeartbeatPolicy::off()), echo)
    };
    let first = serving();
    assert_eq!(first.handle.unix_paths(), [path.as_path()]);
    expect_echo(&mut connect(&path), "first");
    first.stop();
    let second = serving();
    expect_echo(&mut connect(&path), "second");
    second.stop();
    assert!(path.exists());
}

#[test]
fn also_bind_unix_serves_beside_tcp() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let server = Server::bind("127.0.0.1:0").unwrap().also_bind_unix(&path, None).unwrap();
    let address = server.local_addr();
    let running = start_as_it_is(server.heartbeat(HeartbeatPolicy::off()), echo);
    assert_eq!(running.handle.local_addrs(), [address]);
    let mut over_tcp = tungstenite::connect(format!("ws://{address}/")).unwrap().0;
    let mut over_unix = connect(&path);
    expect_echo(&mut over_unix, "unix");
    over_tcp.send("tcp".into()).unwrap();
    assert_eq!(over_tcp.read().unwrap(), Message::text("tcp"));
    running.handle.broadcast("all");
    assert_eq!((over_unix.read().unwrap(), over_tcp.read().unwrap()), (Message::text("all"), Message::text("all")));
}

#[test]
#[cfg(feature = "status")]
fn clients_without_an_address_have_none_of_its_limits_and_a_trusted_proxy_names_others() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let server = bind(&path).max_connections_per_address(Some(1)).status_page("/", StatusAccess::Loopback);
    let running = start_as_it_is(server, echo);
    let _clients = [connect(&path), connect(&path), connect(&path)];
    let status = exchange(&path, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(status.starts_with("HTTP/1.1 403"), "a proxy may stand there: {status}");
    drop(running);

    let server = bind(&path).max_connections_per_address(Some(1)).trust_proxies([std::net::IpAddr::from([0, 0, 0, 0])]);
    let running = start_as_it_is(server, |conn| {
        let remote = conn.remote_ip().to_string();
        conn.send(remote)?;
        echo(conn)
    });
    let proxied = |client: &str| request_with("/", &format!("X-Forwarded-For: {client}\r\n"));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(proxied("203.0.113.9").as_bytes()).unwrap();
    let mut head = [0; 4];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP");
    eventually("it opens", || running.handle.stats().opened == 1);
    assert_eq!(running.handle.connections()[0].remote_ip.to_string(), "203.0.113.9");
    assert!(exchange(&path, &proxied("203.0.113.9")).starts_with("HTTP/1.1 429"));
    // Who names nobody is the proxy itself.
    let _others = [connect(&path), connect(&path)];
}

#[test]
fn a_client_talks_over_a_unix_socket_and_comes_back_after_a_restart() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let serving = || {
        let server = bind(&path);
        start_as_it_is(server, |conn| {
            assert_eq!((conn.request().target(), conn.request().header("Host")), ("/a?b", Some("localhost")));
            echo(conn)
        })
    };
    let first = serving();
    let client: RunningClient = run(client(&path).reconnect(quick()), listen);
    assert!(client.handle.wait_connected(CEILING));
    client.handle.send("x".repeat(1_000_000)).unwrap();
    eventually("it arrives", || first.handle.snapshot().connections.iter().any(|info| info.traffic.messages_in == 1));
    first.stop();
    client.closed();
    let second = serving();
    assert!(client.handle.wait_connected(CEILING));
    assert_eq!(second.events.opened(), 1);
    assert!(client.stop() < SLACK);
}

#[test]
fn a_client_says_what_is_wrong_with_a_path() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let attempt = || {
        client(&path).no_reconnect().handshake_timeout(ms(200)).connect_timeout(ms(200)).run(|_| Ok(())).unwrap_err()
    };
    let Error::Connect(ConnectError::Unreachable(error)) = attempt() else { panic!("no file") };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let listener = UnixListener::bind(&path).unwrap();
    // It accepts nobody, and as many wait as may.
    let mut waiting = Vec::new();
    let begin = Instant::now();
    let error = loop {
        match attempt() {
            Error::Connect(ConnectError::Unreachable(error)) if error.kind() == ErrorKind::TimedOut => break error,
            // Connected, and nobody answers: it waits there, but our end is closed.
            Error::Connect(ConnectError::TimedOut) => {}
            other => panic!("{other:?}"),
        }
        waiting.extend((0..1000).map_while(|_| {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&socket2::SockAddr::unix(&path).unwrap()).ok().map(|()| socket)
        }));
        assert!(begin.elapsed() < CEILING, "it never fills");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    drop(listener);
    let Error::Connect(ConnectError::Unreachable(error)) = attempt() else { panic!("nobody listens") };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn dead_and_slow_peers_are_found_as_over_tcp() {
    let folder = Folder::new();
    let path = folder.at("socket");
    let policy = HeartbeatPolicy::new(ms(200), ms(200)).max_missed(2);
    let server = bind(&path).heartbeat(policy).queue_size(100_000);
    let running: Running = start_as_it_is(server, |conn| match conn.path() {
        "/flood" => loop {
            conn.send(vec![0; 10_000])?;
        },
        _ => echo(conn),
    });
    let mut silent = UnixStream::connect(&path).unwrap();
    silent.write_all(request().as_bytes()).unwrap();
    assert!(matches!(running.closed().reason, CloseReason::HeartbeatLost { .. }));
    let mut never_reads = UnixStream::connect(&path).unwrap();
    never_reads.write_all(request_with("/flood", "").as_bytes()).unwrap();
    let reason = running.closed().reason;
    assert!(matches!(reason, CloseReason::WriteStalled { .. } | CloseReason::HeartbeatLost { .. }), "{reason}");
    // Who reads slowly gets everything.
    let mut slow = connect(&path);
    slow.send(vec![7; 900_000].into()).unwrap();
    thread::sleep(ms(100));
    loop {
        match slow.read().unwrap() {
            Message::Binary(data) => break assert_eq!(data.len(), 900_000),
            _ => continue,
        }
    }
    let vanished = connect(&path);
    drop(vanished);
    assert_eq!(running.closed().reason, CloseReason::Disconnected);
}

#[test]
fn shutdown_and_drain_end_a_server_at_a_unix_socket() {
    let folder = Folder::new();
    let path = folder.at("socket");
    for round in 0..20 {
        let running = start_as_it_is(bind(&path).close_timeout(Duration::from_secs(20)), echo);
        let mut client = connect(&path);
        expect_echo(&mut client, "hello");
        if round % 2 == 0 {
            running.handle.shutdown();
        } else {
            running.handle.drain(Duration::from_secs(3600));
        }
        let code = if round % 2 == 0 { 1001 } else { 1012 };
        assert!(matches!(client.read().unwrap(), Message::Close(Some(frame)) if u16::from(frame.code) == code));
        while client.read().is_ok() {}
        assert!(running.wait_for_end() < SLACK);
        assert!(!path.exists());
    }
}
