//! How a client comes to a connection, or does not: what is fatal, what passes, and what stops it.

#[path = "support/other_end.rs"]
mod other_end;
mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{Backoff, Client, CloseReason, ConnectError, Error};
use other_end::{BareConnection, BareServer, BlackHole, acceptance, client, listen, run};
use support::{
    BINARY, CEILING, CLOSE, PING, TEXT, close_payload, echo, eventually, masked, ms, receive, server, start,
};

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

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
        assert!(matches!(error, ConnectError::BadAnswer(_)) && error.is_fatal(), "{name}: {error:?}");
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
    for url in ["http://127.0.0.1/", "wss://127.0.0.1/", "127.0.0.1:9001", "ws://", "ws://127.0.0.1:99999/"] {
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
        ("text that is none", other_end::unmasked(TEXT, b"\xff"), 1007),
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
fn without_reconnection_one_attempt_is_all_and_the_end_of_the_connection_the_end() {
    let client = || client(nobody()).no_reconnect();
    assert!(matches!(client().run(listen), Err(Error::Connect(ConnectError::Unreachable(_)))));

    for close in [|connection: BareConnection| connection.close(1000), drop] {
        let server = BareServer::bind();
        let client = run(other_end::client(server.address()).no_reconnect(), listen);
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
    let address = nobody();
    let client = run(client(address), listen);
    for _ in 0..3 {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.starts_with("cannot connect: ") && !is_fatal, "{error}");
    }
    let listener = TcpListener::bind(address).expect("the same port");
    let (stream, _) = listener.accept().unwrap();
    let mut connection = BareConnection::of(stream);
    connection.upgrade("");
    assert!(client.handle.wait_connected(CEILING));
    connection.close(1000);
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    // Where the name has an IPv6 address as well, nobody listens there.
    let running = start(server(), echo);
    let client = Client::new(&format!("ws://localhost:{}/", running.address().port())).unwrap();
    client.no_reconnect().run(|conn| conn.send("here")).unwrap();
    assert_eq!(running.closed().traffic.messages_in, 1);
}

#[test]
fn a_host_without_a_name_is_no_reason_to_give_up() {
    let client = Client::new("ws://name.invalid/").unwrap().reconnect(other_end::quick());
    let client = run(client, listen);
    let (error, is_fatal) = client.connect_failed();
    assert!(error.starts_with("cannot resolve the host: ") && !is_fatal, "{error}");
}

// What the application decides.

/// The value of a header of a request.
fn value<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    request.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

fn refusal(status: u16) -> String {
    format!("HTTP/1.1 {status} No\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_token_that_expires_is_renewed_and_what_waited_is_sent() {
    let server = BareServer::bind();
    let client = client(server.address())
        .header("Authorization", "Bearer of the client")
        .header("X-Model", "7")
        .outbox_size(1024)
        .prepare(|attempt| {
            let (number, refused_with) = (attempt.number(), attempt.refused_with());
            attempt.header("authorization", format!("Bearer {number} after {refused_with:?}"));
            Ok(())
        })
        .give_up_if(|error| match error {
            Error::Connect(ConnectError::Refused { status: 401, .. }) => false,
            error => error.is_fatal(),
        });
    client.handle().send("a reading").unwrap();
    let client = run(client, listen);
    for (status, expected) in
        [(401, "Bearer 1 after None"), (503, "Bearer 2 after Some(401)"), (401, "Bearer 3 after Some(503)")]
    {
        let request = server.answer(&refusal(status));
        assert_eq!((value(&request, "authorization"), value(&request, "X-Model")), (vec![expected], vec!["7"]));
        assert!(value(&request, "Authorization").is_empty(), "in its place: {request}");
        assert!(!client.connect_failed().1);
    }
    let mut connection = server.accept();
    assert_eq!(value(&connection.upgrade(""), "authorization"), ["Bearer 4 after Some(401)"]);
    assert_eq!(connection.text(), "a reading");
    connection.close(1000);
    let request = server.answer(&refusal(403));
    assert_eq!(value(&request, "authorization"), ["Bearer 5 after None"], "that was another attempt");
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 403, .. }));
}

#[test]
fn each_attempt_may_go_elsewhere() {
    let servers = [BareServer::bind(), BareServer::bind()];
    let addresses = [0, 1].map(|index: usize| servers[index].address());
    let client = client(nobody()).prepare(move |attempt| {
        let number = attempt.number();
        attempt.url(format!("ws://{}/attempt/{number}", addresses[number as usize % 2]));
        Ok(())
    });
    let client = run(client, listen);
    for number in 1..=4 {
        let server = &servers[number % 2];
        let request = server.answer(&refusal(503));
        assert!(request.starts_with(&format!("GET /attempt/{number} HTTP/1.1\r\n")), "{request}");
        assert_eq!(value(&request, "Host"), [server.address().to_string()]);
    }
    client.stop();
}

/// An error that nobody can show.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("an error that cannot be shown, as it should be in this test")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn an_attempt_that_cannot_be_prepared_has_failed_and_the_next_is_made() {
    let server = BareServer::bind();
    let client = client(server.address()).prepare(|attempt| {
        match attempt.number() {
            1 => return Err("the token is out of reach".into()),
            2 => return Err(Unspeakable.into()),
            3 => panic!("a panic that is part of the test"),
            4 => attempt.header("Authorization", "Bearer of\nmuch"),
            5 => attempt.header("Host", "elsewhere"),
            6 => attempt.url("wss://user:s3cret@127.0.0.1/"),
            _ => return Ok(()),
        };
        Ok(())
    });
    let client = run(client, listen);
    for said in [
        "cannot prepare the attempt: the token is out of reach",
        "cannot prepare the attempt: (an error that cannot be shown)",
        "cannot prepare the attempt: a panic: a panic that is part of the test",
        "cannot prepare the attempt: invalid header \"Authorization\"",
        "cannot prepare the attempt: header \"Host\" belongs to the handshake",
        "cannot prepare the attempt: invalid URL \"wss://***@127.0.0.1/\": ",
    ] {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.starts_with(said) && !is_fatal, "{error}");
    }
    server.open().close(1000);
}

#[test]
fn what_ends_a_client_can_be_chosen() {
    let server = BareServer::bind();
    let gone = |error: &Error| matches!(error, Error::Connect(ConnectError::Refused { status: 410 | 503, .. }));
    let client_of = || run(client(server.address()).give_up_if(gone), listen);
    let client = client_of();
    // A captive portal, a proxy whose server is away, something that is not even HTTP, a policy that may change.
    for answer in [refusal(302), refusal(200), refusal(404), "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()] {
        server.answer(&answer);
        assert!(!client.connect_failed().1, "{answer}");
    }
    for code in [1002, 1008] {
        server.open().close(code);
        client.closed();
    }
    server.answer(&refusal(410));
    assert!(client.connect_failed().1);
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 410, .. }));
    // And it may be what passes by default.
    let client = client_of();
    server.answer(&refusal(503));
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 503, .. }));
}

// Deadlines.

#[test]
#[cfg(target_os = "linux")]
fn connecting_has_a_deadline() {
    let hole = BlackHole::new();
    let client = run(client(hole.address()).connect_timeout(ms(200)), listen);
    let begun = Instant::now();
    for _ in 0..2 {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.contains("timed out") && !is_fatal, "{error}");
    }
    let took = begun.elapsed();
    assert!(took >= ms(300) && took < 2 * ms(200) + SLACK, "{took:?}");
}

#[test]
fn an_opening_handshake_that_is_not_answered_has_a_deadline() {
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
fn an_answer_that_trickles_in_has_the_same_deadline_in_all() {
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
fn deadlines_without_end_are_taken() {
    let running = start(server(), echo);
    let client = client(running.address()).connect_timeout(Duration::MAX).handshake_timeout(Duration::MAX);
    client.close_timeout(Duration::MAX).run(|conn| conn.send("hello")).unwrap();
}

// Stopping, at once, whatever is under way. "At once" is much less than any timeout in force.

const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
#[cfg(target_os = "linux")]
fn stopping_does_not_wait_for_a_host_that_does_not_answer() {
    let hole = BlackHole::new();
    let client = run(client(hole.address()).connect_timeout(HOUR), listen);
    client.connecting();
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped while connecting after {took:?}");
}

#[test]
fn stopping_does_not_wait_for_an_attempt_that_is_being_prepared() {
    let server = BareServer::bind();
    let (release, released) = bounded::<()>(0);
    let (begin, begun) = bounded(1);
    let client = client(server.address()).prepare(move |_| {
        let _ = begin.send(());
        let _ = released.recv();
        Ok(())
    });
    let client = run(client, listen);
    receive("the attempt is being prepared", &begun);
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    drop(release);
    assert!(server.accept_within(ms(50)).is_none(), "a client that was stopped does not come");
}

#[test]
fn stopping_does_not_wait_for_an_opening_handshake() {
    let server = BareServer::bind();
    let client = run(client(server.address()).handshake_timeout(HOUR), listen);
    let mut connection = server.accept();
    connection.request();
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped in the opening handshake after {took:?}");
}

#[test]
fn stopping_does_not_wait_for_a_pause_and_connect_now_cuts_it_short() {
    let slow = Backoff::default().first(HOUR).longest(HOUR);
    let client = run(client(nobody()).reconnect(slow), listen);
    client.retrying();
    client.handle.connect_now();
    assert_eq!((client.connecting(), client.connecting()), (1, 2));
    client.retrying();
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped in a pause after {took:?}");
}

#[test]
fn connect_now_does_not_count_for_pauses_to_come() {
    let server = BareServer::bind();
    let client = run(client(server.address()).reconnect(Backoff::default().first(HOUR).longest(HOUR)), listen);
    let connection = server.open();
    assert!(client.handle.wait_connected(CEILING));
    for _ in 0..20 {
        client.handle.connect_now();
    }
    drop(connection);
    assert!(client.retrying() > ms(500), "one in seven thousand is shorter");
    assert!(server.accept_within(ms(100)).is_none());
    client.handle.connect_now();
    server.accept();
}

#[test]
fn stopping_ends_an_open_connection_at_once_if_the_server_answers() {
    let running = start(server(), echo);
    let client = run(client(running.address()).close_timeout(HOUR), listen);
    assert!(client.handle.wait_connected(CEILING));
    let took = client.stop();
    assert!(took < AT_ONCE, "{took:?}");
    println!("stopped with an open connection after {took:?}");
    assert_eq!(running.closed().received.map(u16::from), Some(1000));
}

#[test]
fn any_number_of_threads_may_stop_a_client_any_number_of_times() {
    let running = start(server(), echo);
    let client = run(client(running.address()), listen);
    assert!(client.handle.wait_connected(CEILING));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| client.handle.stop()));
        }
    });
    client.result().unwrap();
    assert_eq!(client.closed().reason.name(), "local");
}

// One at a time.

#[test]
fn there_is_one_attempt_and_one_connection_at_a_time() {
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
