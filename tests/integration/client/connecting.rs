//! How a client comes to a connection, or does not: what is fatal, what passes, and its deadlines.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Client, CloseReason, ConnectError, Error};

use crate::support::{
    BINARY, BareConnection, BareServer, BlackHole, CEILING, CLOSE, ClosedPort, PING, SLACK, TEXT, acceptance, client,
    client_for, close_payload, echo, eventually, listen, masked, ms, plain_only, quick, run, server, start, unmasked,
    url,
};

// What is fatal.

#[test]
fn refusals_that_would_come_again_end_the_client_after_one_attempt() {
    for status in [200, 204, 301, 308, 400, 401, 403, 404, 405, 410, 426, 501, 505] {
        let server = BareServer::bind();
        let client = run(client(server.address()), listen);
        server.answer(&format!("HTTP/1.1 {status} No\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n"));
        let error = client.not_connected();
        assert!(matches!(error, ConnectError::Refused { status: it, .. } if it == status), "{status}: {error:?}");
        assert!(error.is_fatal());
        assert_eq!(client.story(), ["connecting 1", "fatal"], "{status}");
        assert!(server.accept_within(ms(20)).is_none());
    }
}

/// What is made of a request, as the answer to it.
type Answer = fn(&str) -> String;

#[test]
fn answers_that_no_websocket_server_gives_end_the_client() {
    let answers: [(&str, Answer); 13] = [
        ("not HTTP", |_| "SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ("no Upgrade", |request| acceptance(request, "").replace("Upgrade: websocket\r\n", "")),
        ("another Upgrade", |request| acceptance(request, "").replace("Upgrade: websocket", "Upgrade: h2c")),
        ("no Connection", |request| acceptance(request, "").replace("Connection: Upgrade\r\n", "")),
        ("no accept key", |request| acceptance(request, "").replace("Sec-WebSocket-Accept", "X-Accept")),
        ("the accept key of another", |_| acceptance("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "")),
        ("a subprotocol that was not offered", |request| acceptance(request, "Sec-WebSocket-Protocol: soap\r\n")),
        ("an extension", |request| acceptance(request, "Sec-WebSocket-Extensions: permessage-deflate\r\n")),
        ("an extension on a second line", |request| {
            acceptance(request, "Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: permessage-deflate\r\n")
        }),
        ("the accept key of another on a second line", |request| {
            acceptance(request, "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n")
        }),
        ("only interim responses", |_| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000)),
        ("an endless head", |request| acceptance(request, &format!("X: {}\r\n", "x".repeat(20_000)).repeat(2))),
        ("too many headers", |request| acceptance(request, &"X: y\r\n".repeat(200))),
    ];
    for (name, answer) in answers {
        let server = BareServer::bind();
        let client = run(client(server.address()), listen);
        let mut connection = server.accept();
        let answer = answer(&connection.request());
        // The client may have seen enough before it is all written.
        let _ = connection.stream.write_all(answer.as_bytes());
        let error = client.not_connected();
        assert!(matches!(error, ConnectError::BadResponse(_)) && error.is_fatal(), "{name}: {error:?}");
    }
}

#[test]
fn an_answer_after_early_hints_and_with_a_list_on_two_lines_is_as_good_as_any() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    let mut connection = server.accept();
    let answer =
        acceptance(&connection.request(), "").replace("Connection: ", "Connection: keep-alive\r\nConnection: ");
    connection.write(format!("HTTP/1.1 103 Early Hints\r\nLink: </app.js>; rel=preload\r\n\r\n{answer}").as_bytes());
    assert!(client.handle.wait_connected(CEILING));
    connection.close(1000);
}

#[test]
fn urls_headers_and_subprotocols_are_checked_before_anything_is_sent() {
    for url in ["http://127.0.0.1/", "https://127.0.0.1/", "127.0.0.1:9001", "ws://", "ws://127.0.0.1:99999/"] {
        match Client::new(url) {
            Err(Error::Connect(ConnectError::Invalid(what))) => assert!(what.contains(url), "{what}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    let secrets =
        ["ws://user:s3cret@example.org/", "wss://user:s3cret@example.org/?token=s3cret", "user:s3cret@[::1]:80"];
    for url in secrets {
        let error = format!("{0} {0:?}", Client::new(url).expect_err("not valid"));
        assert!(!error.contains("s3cret"), "{error}");
    }
    let server = BareServer::bind();
    let client = || client(server.address());
    assert!(!format!("{:?}", client().header("Authorization", "Bearer s3cret")).contains("s3cret"));
    for client in [
        client().header("X", "a\r\nY: b"),
        client().header("X: a\r\nY", "b"),
        client().header("Sec-WebSocket-Key", "mine"),
        client().subprotocol("a, b"),
        client().subprotocol(""),
    ] {
        assert!(matches!(client.run(listen), Err(Error::Connect(ConnectError::Invalid(_)))));
    }
    assert!(server.accept_within(ms(20)).is_none());
}

#[test]
fn a_server_that_breaks_the_protocol_is_told_so_and_left_for_good() {
    let too_big = [0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0];
    for (name, bytes, code) in [
        ("a masked frame", masked(TEXT, b"hello"), 1002),
        ("a masked Ping", masked(PING, b""), 1002),
        ("a reserved opcode", vec![0x83, 0], 1002),
        ("a continuation of nothing", vec![0x80, 0], 1002),
        ("text that is none", unmasked(TEXT, b"\xff"), 1007),
        ("a message of 4 GiB", too_big.to_vec(), 1009),
    ] {
        let server = BareServer::bind();
        let client = run(client(server.address()), listen);
        let mut connection = server.open();
        connection.write(&bytes);
        assert_eq!(connection.close_code(), Some(code), "{name}");
        match client.result() {
            Err(Error::Closed(reason)) => assert!(
                matches!(reason, CloseReason::Protocol(_) | CloseReason::InvalidUtf8 | CloseReason::TooBig { .. }),
                "{name}: {reason:?}"
            ),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn close_codes_that_would_come_again_end_the_client_and_others_do_not() {
    for (code, is_fatal) in [
        (1000, false),
        (1001, false),
        (1002, true),
        (1003, true),
        (1007, true),
        (1008, true),
        (1009, true),
        (1010, true),
        (1011, false),
        (1012, false),
        (1013, false),
        (1014, false),
        (3000, false),
        (4999, false),
    ] {
        let server = BareServer::bind();
        let client = run(client(server.address()), listen);
        server.open().close(code);
        if is_fatal {
            match client.result() {
                Err(Error::Closed(CloseReason::Peer { code: Some(it), .. })) => assert_eq!(u16::from(it), code),
                other => panic!("{code}: {other:?}"),
            }
        } else {
            let again = server.open();
            assert!(client.runs_on(), "{code}");
            drop(again);
        }
    }
}

#[test]
fn no_reconnect_makes_one_attempt_and_ends_with_its_connection() {
    let port = ClosedPort::new();
    assert!(matches!(
        client(port.address()).no_reconnect().run(listen),
        Err(Error::Connect(ConnectError::Unreachable(_)))
    ));

    for close in [|connection: BareConnection| connection.close(1000), drop] {
        let server = BareServer::bind();
        let client = run(client(server.address()).no_reconnect(), listen);
        close(server.open());
        assert!(matches!(client.result(), Err(Error::Closed(_))));
        assert!(server.accept_within(ms(20)).is_none());
    }
}

// What passes.

#[test]
fn what_may_pass_is_tried_again() {
    let refusal = |status: u16| format!("HTTP/1.1 {status} Not now\r\nContent-Length: 0\r\n\r\n");
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    for status in [408, 425, 429, 500, 502, 503, 504, 599] {
        server.answer(&refusal(status));
        let (error, is_fatal) = client.connect_failed();
        assert!(error.contains(&status.to_string()) && !is_fatal, "{error}");
    }
    // Gone before, within and after the request.
    drop(server.accept());
    server.accept().reset();
    server.answer("");
    server.answer("HTTP/1.1 101 Switching Protocols\r\nUpgra");
    for _ in 0..4 {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.contains("lost during the opening handshake") && !is_fatal, "{error}");
    }
    server.open().close(1000);
}

#[test]
fn a_refused_port_is_tried_until_somebody_listens() {
    let port = ClosedPort::new();
    let client = run(client(port.address()), listen);
    for _ in 0..3 {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.starts_with("cannot connect: ") && !is_fatal, "{error}");
    }
    let server = port.listen();
    let connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    connection.close(1000);
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    // Where the name has an IPv6 address as well, nobody listens there.
    let running = start(server(), echo);
    let client = client_for(&url(format_args!("localhost:{}", running.address().port()), "/"));
    client.no_reconnect().run(|conn| conn.send("here")).unwrap();
    assert_eq!(running.closed().traffic.messages_in, 1);
}

#[test]
fn a_host_without_a_name_is_no_reason_to_give_up() {
    let client = Client::new("ws://name.invalid/").unwrap().reconnect(quick());
    let client = run(client, listen);
    let (error, is_fatal) = client.connect_failed();
    assert!(error.starts_with("cannot resolve the host: ") && !is_fatal, "{error}");
}

// Deadlines.

#[test]
#[cfg(target_os = "linux")]
fn connect_timeout_ends_an_attempt_that_nobody_answers() {
    let hole = BlackHole::new();
    let begun = Instant::now();
    let client = run(client(hole.address()).connect_timeout(ms(200)), listen);
    for _ in 0..2 {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.contains("timed out") && !is_fatal, "{error}");
    }
    let took = begun.elapsed();
    assert!(took >= 2 * ms(200) && took < 2 * ms(200) + SLACK, "{took:?}");
}

#[test]
fn handshake_timeout_ends_an_opening_handshake_that_is_not_answered() {
    plain_only!("the client asks only after TLS's handshake, which nobody answers; see tls::clients");
    let server = BareServer::bind();
    let client = run(client(server.address()).handshake_timeout(ms(300)), listen);
    let mut silent = server.accept();
    let begun = Instant::now();
    assert_eq!(client.connect_failed(), ("the opening handshake took too long".to_owned(), false));
    assert!(begun.elapsed() < ms(300) + SLACK);
    assert!(silent.request().starts_with("GET / HTTP/1.1\r\n"));
    silent.wait_for_end();
}

#[test]
fn handshake_timeout_is_for_all_of_an_answer_that_trickles_in() {
    let server = BareServer::bind();
    let client = run(client(server.address()).handshake_timeout(ms(300)), listen);
    let mut connection = server.accept();
    let request = connection.request();
    let begun = Instant::now();
    let answer = acceptance(&request, &format!("X: {}\r\n", "x".repeat(5000)));
    for byte in answer.as_bytes() {
        if connection.stream.write_all(&[*byte]).is_err() || begun.elapsed() > CEILING {
            break;
        }
        thread::sleep(ms(5));
    }
    assert_eq!(client.connect_failed(), ("the opening handshake took too long".to_owned(), false));
}

#[test]
fn timeouts_without_end_are_taken() {
    let running = start(server(), echo);
    let client = client(running.address()).connect_timeout(Duration::MAX).handshake_timeout(Duration::MAX);
    client.close_timeout(Duration::MAX).run(|conn| conn.send("hello")).unwrap();
}

// One at a time.

#[test]
fn connect_now_makes_no_second_attempt_and_no_second_connection() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    let mut first = server.accept();
    client.handle.connect_now();
    assert!(server.accept_within(ms(100)).is_none(), "while one is under way");
    first.upgrade("");
    assert!(client.handle.wait_connected(CEILING));
    client.handle.connect_now();
    assert!(server.accept_within(ms(100)).is_none(), "while one is open");
    first.send(BINARY, b"");
    first.send(CLOSE, &close_payload(1000, ""));
    let mut second = server.accept();
    assert!(server.accept_within(ms(50)).is_none());
    second.upgrade("");
    eventually("the second stands", || client.handle.stats().opened == 2);
}
