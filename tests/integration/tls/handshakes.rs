//! Handshakes of TLS that no client should make, and those that take their time.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, Connection};

use super::{connect, secure, start};
use crate::support::tls::client_config;
use crate::support::wire::Wire;
use crate::support::{CEILING, Client, End, HOUR, Running, eventually, ms, request};

/// A client that does not speak TLS.
fn plain(running: &Running) -> Client {
    Client::on(Wire::plain(TcpStream::connect(running.address()).expect("the server listens")))
}

/// What the server sends up to the end.
fn all_of(mut client: Client) -> (Vec<u8>, End) {
    let end = client.drain();
    (client.rest(), end)
}

/// An alert as it is on the wire before there are keys (RFC 8446 section 6).
fn fatal_alert(code: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, code]
}

const UNEXPECTED_MESSAGE: u8 = 10;
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;

#[test]
fn plain_http_gets_an_answer_that_says_what_is_wrong() {
    let running = start(secure());
    for request in [request(), "GET / HTTP/1.1\r\nHost: test\r\n\r\n".into(), "POST /x HTTP/1.0\r\n\r\n".into()] {
        let mut client = plain(&running);
        client.write(request.as_bytes());
        let answer = client.refusal();
        assert_eq!((answer.status, &answer.body[..]), (400, "This port speaks TLS: use https:// or wss://\n"));
        assert_eq!(answer.end, End::Clean);
        assert_eq!(running.events.handshake_failed(), (Some(400), "plain HTTP on a port for TLS".into()));
    }
    connect(&running).expect_echo("hello");
}

#[test]
fn plain_http_in_single_bytes_gets_the_same_answer() {
    let running = start(secure());
    let mut client = plain(&running);
    for byte in request().as_bytes() {
        if !client.try_write(&[*byte]) {
            break;
        }
    }
    assert_eq!(client.refusal().status, 400);
}

#[test]
fn garbage_in_place_of_a_client_hello_is_refused_by_an_alert() {
    let running = start(secure());
    let record = |kind: u8, payload: &[u8]| {
        [&[kind, 3, 1][..], &u16::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
    };
    let garbage: [(&str, Vec<u8>, Option<u8>); 9] = [
        ("zeros", vec![0; 100], None),
        ("another protocol", b"ssh-2.0\r\n".to_vec(), None),
        // As browsers of the last century opened a connection.
        ("a hello of SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80], None),
        ("random bytes", (0..300_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect(), None),
        ("a record that is too long", [&[22, 3, 1, 0xff, 0xff][..], &[1; 100]].concat(), None),
        ("a record of data", record(23, b"hello"), Some(UNEXPECTED_MESSAGE)),
        ("an empty handshake", record(22, &[]), None),
        ("a hello without contents", record(22, &[1, 0, 0, 0]), Some(DECODE_ERROR)),
        ("a hello of a server", record(22, &[&[2, 0, 0, 40, 3, 3][..], &[7; 38]].concat()), None),
    ];
    for (what, bytes, alert) in garbage {
        let mut client = plain(&running);
        client.write(&bytes);
        let (answer, _) = all_of(client);
        assert_eq!((answer.len(), &answer[..1], answer[5]), (7, &[21_u8][..], 2), "{what}: a fatal alert: {answer:?}");
        if let Some(alert) = alert {
            assert_eq!(answer, fatal_alert(alert), "{what}");
        }
        let (status, reason) = running.events.handshake_failed();
        assert!(status.is_none() && reason.starts_with("TLS: the client "), "{what}: {reason}");
    }
    connect(&running).expect_echo("hello");
}

/// The ClientHello of a client that knows nothing newer than this: 1 for TLS 1.0, 2 for 1.1, 3 for 1.2.
fn old_hello(minor: u8, names_signatures: bool) -> Vec<u8> {
    // AES with CBC and SHA-1, by ECDHE with ECDSA and RSA, and by RSA; and one of TLS 1.2.
    let suites = [0xc0, 0x09, 0xc0, 0x13, 0x00, 0x2f, 0xc0, 0x2b];
    // The curve and the point format that it knows, the signatures, and the extended master secret.
    let mut extensions = vec![0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 23, 0, 0];
    if names_signatures {
        extensions.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    }
    let body = [
        &[3, minor][..],
        &[0x5a; 32],
        &[0],
        &[0, suites.len() as u8],
        &suites,
        &[1, 0],
        &[0, extensions.len() as u8],
        &extensions,
    ]
    .concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 1, 0, message.len() as u8][..], &message].concat()
}

#[test]
fn old_versions_are_refused_by_an_alert_and_the_reason_is_told() {
    let running = start(secure());
    for (minor, names_signatures, alert) in [
        (1, false, HANDSHAKE_FAILURE),
        (2, false, HANDSHAKE_FAILURE),
        (1, true, PROTOCOL_VERSION),
        (2, true, PROTOCOL_VERSION),
    ] {
        let mut client = plain(&running);
        client.write(&old_hello(minor, names_signatures));
        let (answer, _) = all_of(client);
        assert_eq!(answer, fatal_alert(alert), "3.{minor}");
        let (status, reason) = running.events.handshake_failed();
        let is_told = reason.starts_with("TLS: the client speaks neither TLS 1.2 nor TLS 1.3");
        assert!(status.is_none() && is_told, "{reason}");
    }
    // The version was all that was wrong: one more, and it gets a ServerHello.
    let mut client = plain(&running);
    client.write(&old_hello(3, true));
    client.half_close();
    let (answer, _) = all_of(client);
    assert_eq!((answer[0], answer[5]), (22, 2), "{answer:?}");
}

/// A client's TLS and its ClientHello, still to be sent.
fn hello() -> (Connection, Vec<u8>) {
    let name = "localhost".try_into().expect("a name");
    let mut tls = ClientConnection::new(client_config(rustls::ALL_VERSIONS).into(), name).expect("a configuration");
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).expect("into memory");
    }
    (tls.into(), bytes)
}

/// Sends all but the last byte of a ClientHello, one at a time, so long at least. Returns what is left to do.
fn trickle(address: SocketAddr, takes: Duration) -> (TcpStream, Connection, u8) {
    let (tls, mut bytes) = hello();
    let last = bytes.pop().expect("a hello");
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    let began = Instant::now();
    for (at, byte) in (0_u32..).zip(&bytes) {
        socket.write_all(&[*byte]).expect("the server takes it");
        let due = began + takes * (at + 1) / bytes.len() as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    (socket, tls, last)
}

#[test]
fn a_client_hello_in_single_bytes_is_one_all_the_same() {
    let running = start(secure());
    let (mut socket, tls, last) = trickle(running.address(), ms(300));
    socket.write_all(&[last]).unwrap();
    let mut client = Client::on(Wire::secured(socket, tls)).upgraded(&request());
    client.expect_echo("hello");
}

#[test]
fn a_client_hello_that_is_not_complete_in_time_ends_at_the_deadline() {
    let limit = ms(400);
    let running = start(secure().handshake_timeout(limit));
    let began = Instant::now();
    let (_, mut bytes) = hello();
    bytes.pop();
    let mut client = plain(&running);
    // A byte every few milliseconds, and then none: neither moves the deadline.
    for byte in bytes {
        if !client.try_write(&[byte]) {
            break;
        }
        thread::sleep(ms(2));
    }
    let (answer, _) = all_of(client);
    assert!(answer.is_empty() && began.elapsed() >= limit, "{answer:?} after {:?}", began.elapsed());
    assert_eq!(running.events.handshake_failed(), (None, "the TLS handshake took too long".into()));
}

#[test]
fn who_connects_and_says_nothing_is_no_failure() {
    let running = start(secure().handshake_timeout(ms(200)));
    drop(plain(&running));
    plain(&running).half_close();
    plain(&running).reset();
    let (answer, _) = all_of(plain(&running));
    assert!(answer.is_empty(), "no answer can be read without TLS: {answer:?}");
    eventually("all are counted", || running.handle.stats().without_request == 4);
    assert_eq!(running.handle.stats().handshakes_failed, 0);
}

#[test]
fn tls_and_http_share_one_deadline() {
    // By itself either of them would be in time.
    let limit = ms(1500);
    let running = start(secure().handshake_timeout(limit));
    for _ in 0..10 {
        let began = Instant::now();
        let (mut socket, tls, last) = trickle(running.address(), limit * 2 / 3);
        socket.write_all(&[last]).unwrap();
        let mut client = Client::on(Wire::secured(socket, tls));
        let is_secured = client.try_write(b"GET / HTTP/1.1\r\n");
        if !is_secured || began.elapsed() >= limit {
            println!("too busy a machine: TLS took {:?}", began.elapsed());
            continue;
        }
        // The rest comes too late, by whichever clock.
        thread::sleep((began + limit * 4 / 3).saturating_duration_since(Instant::now()));
        client.try_write(&request().as_bytes()[16..]);
        let answer = client.refusal();
        assert_eq!(answer.status, 408, "{answer:?}");
        return;
    }
    panic!("this machine is too busy");
}

#[test]
fn a_shutdown_ends_handshakes_wherever_they_are() {
    let running = start(secure().handshake_timeout(HOUR).close_timeout(HOUR));
    let silent = plain(&running);
    let (half, _tls, _) = trickle(running.address(), ms(0));
    let mut secured = super::dial(running.address(), client_config(rustls::ALL_VERSIONS));
    secured.write(b"GET / HTTP/1.1\r\n");
    let mut open = connect(&running);
    open.expect_echo("hello");
    let began = Instant::now();
    running.handle.shutdown();
    assert_eq!(open.expect_close().0, Some(1001));
    open.send_close(1001, "");
    running.wait_for_end();
    assert!(began.elapsed() < CEILING, "{:?}", began.elapsed());
    drop((silent, half, secured));
}
