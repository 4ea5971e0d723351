//! A client that connects through a proxy: what it asks the proxy for, what becomes of each answer, and deadlines.

use std::io::Write;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{Client, CloseReason, ConnectError, Error, HeartbeatPolicy, Proxy, ProxyError, ProxyErrorKind};

use super::forward;
use crate::support::{
    BareConnection, BlackHole, CEILING, ClosedPort, FakeProxy, PING, ProxyConnection, RunningClient, SLACK, client_for,
    listen, ms, plain_only, quick, receive, run, url,
};

const OPEN: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// A client of a server that only the proxy can reach.
fn client_through(scheme: &str, proxy: impl std::fmt::Display, host: &str) -> Client {
    let proxy = Proxy::parse(&format!("{scheme}://{proxy}")).expect("a proxy");
    client_for(&url(host, "/")).heartbeat(HeartbeatPolicy::off()).reconnect(quick()).proxy(proxy)
}

/// The server's end, after a message there and back.
fn assert_open(client: &RunningClient, tunnel: ProxyConnection) -> BareConnection {
    let mut server = tunnel.tunnel();
    server.upgrade("");
    assert!(client.handle.wait_connected(CEILING));
    client.handle.send("hello").unwrap();
    assert_eq!(server.text(), "hello");
    server
}

// HTTP.

#[test]
fn an_http_proxy_is_asked_for_a_tunnel_to_the_host_which_need_have_no_address_here() {
    let proxy = FakeProxy::bind();
    let (sender, messages) = crossbeam_channel::unbounded();
    let (seen, addresses) = bounded(1);
    let client = client_through("http", format_args!("me:p%40ss@{}", proxy.address()), "localhost:7");
    let mut forward = forward(sender);
    let client = run(client, move |conn| {
        let _ = seen.send((conn.peer_addr(), conn.remote_ip()));
        forward(conn)
    });
    let mut tunnel = proxy.accept();
    let expected =
        "CONNECT localhost:7 HTTP/1.1\r\nHost: localhost:7\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n";
    assert_eq!(tunnel.head(), expected);
    tunnel.trickle(b"HTTP/1.1 103 Wait\r\n\r\nHTTP/1.0 200 OK\r\nProxy-Agent: x\r\nContent-Length: 5\r\n\r\n");
    let mut server = assert_open(&client, tunnel);
    server.send_text("and back");
    assert_eq!(receive("the answer", &messages), "and back".into());
    assert_eq!(receive("addresses", &addresses), (proxy.address(), proxy.address().ip()));
    server.expect_close_at_stop(&client);
}

#[test]
fn what_a_server_says_before_it_is_asked_is_not_lost() {
    plain_only!("the test after this one has the same for TLS");
    let proxy = FakeProxy::bind();
    let client = run(client_through("http", proxy.address(), "server.invalid"), listen);
    let mut tunnel = proxy.accept();
    tunnel.head();
    tunnel.write(&[OPEN, b"HTTP/1.1 410 Gone\r\n\r\n"].concat());
    let error = client.not_connected();
    assert!(matches!(error, ConnectError::Refused { status: 410, .. }), "{error:?}");
}

#[test]
#[cfg(feature = "tls")]
fn an_alert_that_comes_before_the_handshake_of_tls_is_not_lost() {
    for (early, told) in [(&[21, 3, 3, 0, 2, 2, 40][..], "alert handshake_failure"), (b"", "connection lost")] {
        let proxy = FakeProxy::bind();
        let client = Client::new("wss://server.invalid/").unwrap().no_reconnect();
        let client = run(client.proxy(Proxy::parse(&proxy.address().to_string()).unwrap()), listen);
        let mut tunnel = proxy.accept();
        assert!(tunnel.head().starts_with("CONNECT server.invalid:443 "));
        tunnel.write(&[OPEN, early].concat());
        tunnel.end();
        let error = client.not_connected();
        assert!(error.to_string().contains(told), "{early:?}: {error:?}");
    }
}

/// What is wrong, in short, and whether it is so for good.
fn failure(error: &ConnectError) -> (String, bool) {
    let ConnectError::Proxy(error) = error else { panic!("not of the proxy: {error:?}") };
    let kind = match error.kind() {
        ProxyErrorKind::Resolve(_) => "resolve".to_owned(),
        ProxyErrorKind::Unreachable(_) => "unreachable".to_owned(),
        ProxyErrorKind::Credentials(_) => "credentials".to_owned(),
        ProxyErrorKind::Status(status) => format!("status {status}"),
        ProxyErrorKind::Reply(code) => format!("reply {code}"),
        ProxyErrorKind::BadResponse(_) => "bad response".to_owned(),
        ProxyErrorKind::TimedOut => "timed out".to_owned(),
        ProxyErrorKind::Lost(_) => "lost".to_owned(),
        other => format!("{other:?}"),
    };
    (kind, error.is_fatal())
}

/// What becomes of a client that makes one attempt, to whose proxy this happens.
fn becomes_of(scheme: &str, happens: impl FnOnce(&mut ProxyConnection)) -> (String, bool) {
    let proxy = FakeProxy::bind();
    let client = client_through(scheme, format_args!("user:s3cret@{}", proxy.address()), "server.invalid");
    let client = run(client.no_reconnect(), listen);
    let mut connection = proxy.accept();
    happens(&mut connection);
    let error = client.not_connected();
    let shown = format!("{error} {error:?} {:?}", client.story());
    assert!(!shown.contains("s3cret") && !shown.contains("user:"), "{shown}");
    assert!(error.to_string().contains(&format!("{scheme}://{}", proxy.address())), "{error}");
    failure(&error)
}

#[test]
fn answers_of_an_http_proxy_that_open_no_tunnel_say_why() {
    let endless = ["HTTP/1.1 200 OK\r\nX: ", &"x".repeat(20_000)].concat();
    let lines = ["HTTP/1.1 200 OK\r\n", &"X: y\r\n".repeat(200), "\r\n"].concat();
    for (answer, kind, is_fatal) in [
        ("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n", "credentials", true),
        ("HTTP/1.1 403 No\r\nContent-Length: 1000\r\n\r\nNo!", "status 403", true),
        ("HTTP/1.1 302 Log in\r\nLocation: http://portal/\r\n\r\n", "status 302", true),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101", true),
        ("HTTP/1.1 404 No\r\n\r\n", "status 404", false),
        ("HTTP/1.1 502 No\r\n\r\n", "status 502", false),
        ("HTTP/1.1 503 No\r\n\r\n", "status 503", false),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "bad response", true),
        ("\x05\x01\x00\x00", "bad response", true),
        (&endless, "bad response", true),
        (&lines, "bad response", true),
        ("HTTP/1.1 200 OK\r\nX: y\r\n", "lost", false),
        ("", "lost", false),
    ] {
        let became = becomes_of("http", |connection| {
            connection.head();
            // The client may have seen enough before it is all written.
            let _ = connection.stream.write_all(answer.as_bytes());
            connection.end();
        });
        assert_eq!(became, (kind.to_owned(), is_fatal), "{:.40}", answer);
    }
}

// SOCKS5.

#[test]
fn a_socks5_proxy_is_told_name_and_port_of_the_host_and_who_asks_if_it_wants_to_know() {
    let name = b"\x05\x01\x00\x03\x0eserver.invalid\x00\x07";
    for (asks, address) in [
        (true, &b"\x01\x7f\x00\x00\x01\x12\x34"[..]),
        (false, &[&b"\x04"[..], &[0; 16], b"\x12\x34"].concat()),
        (false, b"\x03\x05proxy\x12\x34"),
        (false, b"\x03\x00\x12\x34"),
    ] {
        let proxy = FakeProxy::bind();
        // Which the certificates of the tests are not for.
        let host = if crate::support::over_tls::is_on() { "localhost:7" } else { "server.invalid:7" };
        let client = run(client_through("socks5h", format_args!("me:s3cret@{}", proxy.address()), host), listen);
        let mut tunnel = proxy.accept();
        assert_eq!(tunnel.read(), [5, 2, 0, 2]);
        tunnel.trickle(if asks { &[5, 2] } else { &[5, 0] });
        if asks {
            assert_eq!(tunnel.read(), *b"\x01\x02me\x06s3cret");
            tunnel.trickle(&[1, 0]);
        }
        if host.starts_with("server") {
            assert_eq!(tunnel.read(), *name);
        } else {
            assert_eq!(tunnel.read(), *b"\x05\x01\x00\x03\x09localhost\x00\x07");
        }
        tunnel.trickle(&[b"\x05\x00\x00", address].concat());
        assert_open(&client, tunnel).expect_close_at_stop(&client);
    }
}

#[test]
fn a_socks5_proxy_that_leaves_names_to_us_gets_addresses() {
    let proxy = FakeProxy::bind();
    // Has one address or two.
    let client = run(client_through("socks5", proxy.address(), "localhost:7"), listen);
    let mut asked = Vec::new();
    let tunnel = loop {
        let mut tunnel = proxy.accept();
        assert_eq!(tunnel.read(), [5, 1, 0]);
        tunnel.write(&[5, 0]);
        let [5, 1, 0, kind] = tunnel.read() else { panic!("no request to connect") };
        let is_v4 = kind == 1;
        asked.push(kind);
        match is_v4 {
            true => assert_eq!(tunnel.read(), [127, 0, 0, 1, 0, 7]),
            false => assert_eq!(tunnel.read::<18>()[14..], [0, 1, 0, 7]),
        }
        if is_v4 {
            tunnel.write(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            break tunnel;
        }
        // Refused there.
        tunnel.write(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
    };
    assert_open(&client, tunnel).expect_close_at_stop(&client);
    // All in one attempt.
    assert!(!client.story().contains(&"failed".to_owned()), "{asked:?}");
}

#[test]
fn answers_of_a_socks5_proxy_that_open_no_tunnel_say_why() {
    let request = |connection: &mut ProxyConnection| {
        connection.read::<4>();
        connection.write(&[5, 0]);
        connection.read::<21>();
    };
    for code in [1, 2, 3, 4, 5, 6, 7, 8, 9] {
        // No more than these two bytes: some proxies leave out the rest.
        let became = becomes_of("socks5h", |connection| {
            request(connection);
            connection.write(&[5, code]);
        });
        assert_eq!(became, (format!("reply {code}"), [2, 7, 8].contains(&code)));
    }
    for (answer, kind, is_fatal) in [
        (&[5, 0xff][..], "credentials", true),
        (&[5, 1], "bad response", true),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bad response", true),
        (&[5], "lost", false),
        (&[], "lost", false),
    ] {
        let became = becomes_of("socks5h", |connection| {
            connection.read::<4>();
            connection.write(answer);
            connection.end();
        });
        assert_eq!(became, (kind.to_owned(), is_fatal), "{answer:?}");
    }
    let login_refused = becomes_of("socks5h", |connection| {
        connection.read::<4>();
        connection.write(&[5, 2]);
        connection.read::<{ 2 + 4 + 1 + 6 }>();
        connection.write(&[1, 1]);
    });
    assert_eq!(login_refused, ("credentials".to_owned(), true));
    for (rest, kind, is_fatal) in [(&[5, 0, 0, 2][..], "bad response", true), (&[5, 0, 0, 1, 127], "lost", false)] {
        let became = becomes_of("socks5h", |connection| {
            request(connection);
            connection.write(rest);
            connection.end();
        });
        assert_eq!(became, (kind.to_owned(), is_fatal), "{rest:?}");
    }
}

// Deadlines, and what follows.

#[test]
fn a_proxy_that_is_silent_or_trickles_costs_the_handshake_timeout() {
    const LIMIT: Duration = Duration::from_millis(300);
    for (scheme, asked, trickled) in [
        ("http", 0, &b""[..]),
        // Interim responses, so that there is never too much of it.
        ("http", 0, b"HTTP/1.1 103 Wait\r\n\r\n"),
        ("socks5h", 3, b""),
        ("socks5h", 3, b"\x05"),
    ] {
        let proxy = FakeProxy::bind();
        let client = client_through(scheme, proxy.address(), "server.invalid").handshake_timeout(LIMIT);
        let begin = Instant::now();
        let client = run(client.no_reconnect(), listen);
        let mut connection = proxy.accept();
        if asked > 0 {
            connection.read::<3>();
        }
        for byte in trickled.iter().cycle().take(if trickled.len() == 1 { 1 } else { 600 }) {
            if connection.stream.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(ms(5));
        }
        let error = client.not_connected();
        assert_eq!(failure(&error), ("timed out".to_owned(), false), "{scheme}: {error}");
        assert!(begin.elapsed() >= LIMIT && begin.elapsed() < LIMIT + SLACK, "{scheme}: {:?}", begin.elapsed());
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_told_from_a_server_that_cannot() {
    let port = ClosedPort::new();
    let client = run(client_through("http", port.address(), "server.invalid").no_reconnect(), listen);
    assert_eq!(failure(&client.not_connected()), ("unreachable".to_owned(), false));

    let hole = BlackHole::new();
    let begin = Instant::now();
    let client = client_through("socks5h", hole.address(), "server.invalid").connect_timeout(ms(300));
    let client = run(client.no_reconnect(), listen);
    assert_eq!(failure(&client.not_connected()), ("unreachable".to_owned(), false));
    assert!(begin.elapsed() >= ms(300) && begin.elapsed() < ms(300) + SLACK);

    let client = run(client_through("http", "proxy.invalid", "server.invalid").no_reconnect(), listen);
    assert_eq!(failure(&client.not_connected()), ("resolve".to_owned(), false));
}

#[test]
fn a_server_behind_a_proxy_that_stops_answering_is_found_dead_within_the_bound_and_come_back_to() {
    let policy = HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2);
    let proxy = FakeProxy::bind();
    let client = run(client_through("http", proxy.address(), "localhost").heartbeat(policy), listen);
    let open = || {
        let mut tunnel = proxy.accept();
        tunnel.head();
        tunnel.write(OPEN);
        let mut server = tunnel.tunnel();
        server.upgrade("");
        server
    };
    // The first attempt fails, and passes.
    let mut tunnel = proxy.accept();
    tunnel.head();
    tunnel.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    drop(tunnel);
    let begin = Instant::now();
    let mut silent = open();
    assert_eq!(silent.frame().opcode, PING);
    let report = client.closed();
    assert!(matches!(report.reason, CloseReason::HeartbeatLost { .. }), "{:?}", report.reason);
    assert!(begin.elapsed() < ms(300) + SLACK, "{:?}", begin.elapsed());
    let again = open();
    again.expect_close_at_stop(&client);
}

#[test]
fn hosts_that_need_no_proxy_are_connected_to_directly() {
    let (proxy, server) = (FakeProxy::bind(), crate::support::BareServer::bind());
    let set = Proxy::parse(&proxy.address().to_string()).unwrap().no_proxy("127.0.0.0/8");
    let client = run(crate::support::client(server.address()).proxy(set), listen);
    server.open().expect_close_at_stop(&client);
    assert!(proxy.accept_within(ms(20)).is_none());
}

#[test]
fn a_name_that_socks5_cannot_carry_ends_the_client_before_anything_is_sent() {
    let proxy = FakeProxy::bind();
    let host = "a".repeat(63) + ".";
    let host = host.repeat(4) + "example";
    match client_through("socks5h", proxy.address(), &host).run(listen) {
        Err(Error::Connect(ConnectError::Invalid(what))) => assert!(what.contains("255"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(proxy.accept_within(ms(20)).is_none());
}

/// Errors of a proxy are ordinary errors, with a source where there is one.
#[test]
fn errors_of_a_proxy_name_it_and_their_source() {
    let port = ClosedPort::new();
    let error = client_through("http", port.address(), "server.invalid").no_reconnect().run(listen).unwrap_err();
    let source = std::error::Error::source(&error).and_then(|error| error.source()).expect("the proxy's");
    let source = source.downcast_ref::<ProxyError>().expect("an error of a proxy");
    assert_eq!(source.proxy(), format!("http://{}", port.address()));
    assert!(std::error::Error::source(source).is_some_and(|error| error.is::<std::io::Error>()));
}
