//! The opening handshake: however its bytes trickle in, and every answer that is not 101.

use std::thread;
use std::time::Instant;

use heartwire::{Accept, Event, Response};

use super::{assert_proper, deciding, request_but};
use crate::support::{
    Answer, CEILING, Client, End, Running, TEXT, echo, eventually, exchange, masked, ms, over_tls, request,
    request_with, server, start,
};

// What is accepted.

#[test]
fn a_handshake_is_answered_as_the_rfc_says() {
    let running = start(server(), echo);
    let mut client = Client::tcp(running.address());
    client.write(request().as_bytes());
    let answer = client.answer();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("Upgrade"), Some("websocket"));
    assert_eq!(answer.header("Connection"), Some("Upgrade"));
    assert_eq!(answer.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 section 1.3");
    assert_eq!(answer.header("Sec-WebSocket-Protocol"), None);
    assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
    client.expect_echo("hello");
    let opened = running.events.wait_for("Opened", |event| match event {
        Event::Opened { id, peer_addr, path, .. } => Some((*id, *peer_addr, path.clone())),
        _ => None,
    });
    assert_eq!(opened, (1, client.local_addr(), "/".into()));
}

#[test]
fn the_path_is_told_without_the_query_and_the_target_by_itself() {
    let running = start(server(), echo);
    let client = Client::tcp(running.address()).upgraded(&request_with("/chat?token=s3cret", ""));
    let events: Vec<Event> = vec![running.events.wait_for("Opened", |event| Some(event.clone()))];
    let [Event::Opened { path, target, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&path[..], target.path(), target.as_str()), ("/chat", "/chat", "/chat?token=s3cret"));
    let [info] = &running.handle.connections()[..] else { panic!("one connection") };
    assert_eq!((&info.path[..], info.target.query()), ("/chat", Some("token=s3cret")));
    client.close();
    let report = running.closed();
    assert_eq!((&report.path[..], report.target.as_str()), ("/chat", "/chat?token=s3cret"));
    let shown = format!("{events:?} {info:?} {report:?} {report}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn redact_query_keeps_a_value_from_all_but_those_who_decide() {
    let server = deciding(|request| {
        assert_eq!(request.query(), Some("room=1&token=s3cret&key=abc"));
        Ok(Accept::new())
    });
    let running = start(server.redact_query("token").redact_query("key"), |conn| {
        let query = conn.request().query().unwrap_or_default().to_owned();
        conn.send(query)?;
        conn.recv().map(drop)
    });
    let target = "/chat?room=1&token=s3cret&key=abc";
    let mut client = Client::tcp(running.address()).upgraded(&request_with(target, ""));
    let text = client.frame().payload;
    assert_eq!(text, b"room=1&token=s3cret&key=abc", "the handler sees all");

    let shown = "/chat?room=1&token=***&key=***";
    let opened = running.events.wait_for("Opened", |event| match event {
        Event::Opened { target, .. } => Some(target.as_str().to_owned()),
        _ => None,
    });
    assert_eq!(opened, shown);
    let [info] = &running.handle.connections()[..] else { panic!("one connection") };
    assert_eq!(info.target.as_str(), shown);
    client.close();
    assert_eq!(running.closed().target.as_str(), shown);
}

#[test]
fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let running = start(server(), echo);
    for also_the_frame in [false, true] {
        let mut client = Client::tcp(running.address());
        client.write_byte_by_byte(request().as_bytes());
        if also_the_frame {
            client.write_byte_by_byte(&masked(TEXT, b"byte by byte"));
        } else {
            client.write(&masked(TEXT, b"byte by byte"));
        }
        assert_eq!(client.answer().status, 101);
        assert_eq!(client.text(), "byte by byte");
    }
}

#[test]
fn a_request_cut_in_two_at_any_place_is_understood() {
    let running = start(server(), echo);
    let request = request();
    let mut clients: Vec<Client> = (1..request.len()).map(|_| Client::tcp(running.address())).collect();
    for (client, cut) in clients.iter_mut().zip(1..) {
        client.write(&request.as_bytes()[..cut]);
    }
    thread::sleep(ms(30));
    for (client, cut) in clients.iter_mut().zip(1..) {
        client.write(&request.as_bytes()[cut..]);
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 101);
    }
}

#[test]
fn frames_pipelined_behind_the_request_are_served() {
    let running = start(server().read_buffer_size(256), echo);
    for size in [1, 100, 1000, 100_000] {
        let mut client = Client::tcp(running.address());
        let text = "x".repeat(size);
        client.write(&[request().into_bytes(), masked(TEXT, text.as_bytes()), masked(TEXT, b"and more")].concat());
        assert_eq!(client.answer().status, 101);
        assert_eq!(client.text(), text);
        assert_eq!(client.text(), "and more");
    }
}

#[test]
fn headers_may_be_spelt_in_many_ways() {
    let running = start(server(), echo);
    let long = format!("X-Long: {}\r\n", "x".repeat(12_000));
    let table = [
        ("several Connection lines", request_but("Connection", "Connection: keep-alive\r\nConnection: Upgrade")),
        ("a list in one line", request_but("Connection", "Connection: keep-alive, Upgrade")),
        ("any case", request_but("Connection", "cOnNeCtIoN: uPGRADE")),
        ("any case of the protocol", request_but("Upgrade", "UPGRADE: WebSocket")),
        ("several protocols", request_but("Upgrade", "Upgrade: h2c, websocket")),
        ("space around values", request_but("Sec-WebSocket-Version", "Sec-WebSocket-Version:   13  ")),
        ("no space", request_but("Host", "Host:test")),
        ("an extension that we do not speak", request_with("/", "Sec-WebSocket-Extensions: permessage-deflate\r\n")),
        ("a target with a query", request_with("/a/b?c=d&e=%20", "")),
        ("an absolute target", request_with("http://test/a", "")),
        ("bytes that are not ASCII", request_with("/", "X-Name: é\r\n")),
        ("12 kB of headers", request_with("/", &long)),
        ("90 headers", request_with("/", &"X: y\r\n".repeat(90))),
        ("bare line feeds", request().replace("\r\n", "\n")),
    ];
    for (what, request) in table {
        let mut client = Client::tcp(running.address());
        client.write(request.as_bytes());
        assert_eq!(client.answer().status, 101, "{what}");
        client.expect_echo("hello");
    }
}

// What is refused, and how.

#[test]
fn each_refusal_has_its_status_and_is_reported() {
    let running = start(server(), |_| panic!("nobody gets as far as this"));
    let key = |key: &str| request_but("Sec-WebSocket-Key", &format!("Sec-WebSocket-Key: {key}"));
    let table = [
        ("an upgrade by POST", request().replacen("GET", "POST", 1), 405),
        ("Connection without Upgrade", request_but("Connection", "Connection: keep-alive"), 400),
        ("no Connection", request_but("Connection", ""), 400),
        ("no Host", request_but("Host", ""), 400),
        ("two Hosts", request_with("/", "Host: other\r\n"), 400),
        ("the same Host twice", request_with("/", "host: test\r\n"), 400),
        ("a GET without Host", "GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("a GET with two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("an old GET with two Hosts", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("two keys", request_with("/", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), 400),
        ("no key", request_but("Sec-WebSocket-Key", ""), 400),
        ("an empty key", key(""), 400),
        ("a short key", key("AAAA"), 400),
        ("a key of 15 bytes", key("AAAAAAAAAAAAAAAAAAAA"), 400),
        ("a key of 17 bytes", key("AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        ("a key of other letters", key("!!!!!!!!!!!!!!!!!!!!!!=="), 400),
        ("version 8", request_but("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 426),
        ("no version", request_but("Sec-WebSocket-Version", ""), 426),
        ("garbage", "\x01\x02\x03\r\n\r\n".into(), 400),
        ("garbage that looks like text", "hello\r\n\r\n".into(), 400),
        ("a header without a colon", request_with("/", "nonsense\r\n"), 400),
        ("a NUL in a header", request_with("/", "X: a\0b\r\n"), 400),
        ("HTTP/1.0", request().replace("HTTP/1.1", "HTTP/1.0"), 505),
        ("HTTP/2 by preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("too many headers", request_with("/", &"X: y\r\n".repeat(101)), 431),
        ("a head too large", request_with("/", &format!("X: {}\r\n", "x".repeat(17_000))), 431),
        ("a head without an end", format!("GET /{}", "x".repeat(20_000)), 431),
    ];
    for (what, request, status) in &table {
        let answer = exchange(running.address(), request);
        assert_eq!(answer.status, *status, "{what}");
        assert_proper(&answer, what);
        assert!(!answer.body.is_empty(), "{what}: {answer:?}");
        assert_offers(&answer, what);
        let is_version = what.contains("version");
        assert_eq!(answer.header("Sec-WebSocket-Version"), is_version.then_some("13"), "{what}");
        let (told, reason) = running.events.handshake_failed();
        assert!(told == Some(*status) && !reason.is_empty(), "{what}: {told:?}, {reason}");
    }
    let stats = running.handle.stats();
    assert_eq!((stats.handshakes_failed, stats.opened), (table.len() as u64, 0), "{stats:?}");
    assert_eq!((stats.refused, stats.http_requests, stats.http_unclaimed), (0, 0, 0), "{stats:?}");
}

/// What would be taken instead is named where something is.
fn assert_offers(answer: &Answer, what: &str) {
    let expects_upgrade = answer.status == 426;
    assert_eq!(answer.header("Upgrade"), expects_upgrade.then_some("websocket"), "{what}");
    if expects_upgrade {
        let connection = answer.header("Connection").unwrap();
        assert!(connection.contains("Upgrade"), "{what}: an offer is named (RFC 9110 section 7.8): {connection}");
    }
    assert_eq!(answer.header("Allow"), (answer.status == 405).then_some("GET, HEAD"), "{what}");
}

#[test]
fn plain_requests_that_nobody_answers_are_no_failures_and_take_no_number() {
    let running = start(server(), echo);
    let plain = |method: &str| format!("{method} /favicon.ico HTTP/1.1\r\nHost: test\r\n\r\n");
    let table = [
        ("a GET", plain("GET"), 426),
        ("a HEAD", plain("HEAD"), 426),
        ("an old GET", "GET / HTTP/1.0\r\n\r\n".into(), 426),
        ("a POST", plain("POST"), 405),
        ("a DELETE", plain("DELETE"), 405),
        ("an unknown method", plain("BREW"), 405),
        ("another upgrade", request_but("Upgrade", "Upgrade: h2c"), 426),
        ("no Upgrade", request_but("Upgrade", ""), 426),
    ];
    for (what, request, status) in &table {
        let answer = exchange(running.address(), request);
        assert_eq!(answer.status, *status, "{what}");
        assert_proper(&answer, what);
        assert_eq!(answer.body.is_empty(), *what == "a HEAD", "{what}: {answer:?}");
        assert_offers(&answer, what);
    }
    running.connect().expect_echo("hello");
    assert_eq!(running.events.opened(), 1);
    eventually("all are counted", || running.handle.stats().http_unclaimed == table.len() as u64);
    assert_nothing_failed(running);
}

fn assert_nothing_failed(running: Running) {
    let handle = running.handle.clone();
    let failed = |event: &Event| matches!(event, Event::HandshakeFailed { .. });
    let events = running.stop();
    assert!(!events.iter().any(failed), "{events:?}");
    assert_eq!(handle.stats().handshakes_failed, 0);
}

#[test]
fn clients_that_never_ask_for_anything_are_no_failures_and_take_no_number() {
    let running = start(server().handshake_timeout(ms(200)), echo);
    drop(Client::tcp(running.address()));
    Client::tcp(running.address()).half_close();
    Client::tcp(running.address()).reset();
    let silent = Client::tcp(running.address()).refusal();
    assert_eq!(silent.status, 408);
    assert_proper(&silent, "silent");
    eventually("all are counted", || running.handle.stats().without_request == 4);
    running.connect().expect_echo("hello");
    assert_eq!(running.events.opened(), 1);
    assert_nothing_failed(running);
}

#[test]
fn a_refusal_tells_what_was_asked_for_from_where_and_what_refused_it() {
    let server = deciding(|request| match request.path() {
        "/why" => Err(Response::new(403).text("no\n").because("not on the list")),
        "/" => Ok(Accept::new()),
        _ => Err(Response::new(404)),
    });
    let running = start(server.max_connections(1), echo);
    let refused = |target: &str, headers: &str| {
        let answer = exchange(running.address(), request_with(target, headers));
        assert!(!format!("{answer:?}").contains("list"), "the reason is for us: {answer:?}");
        running.events.wait_for("HandshakeFailed", |event| match event {
            Event::HandshakeFailed { reason, path, origin, .. } => Some((reason.clone(), path.clone(), origin.clone())),
            _ => None,
        })
    };
    let origin = "Origin: https://example.org\r\n";
    let (path, from) = (|path: &str| Some(path.to_owned()), Some("https://example.org".to_owned()));
    let rejected = "rejected by on_handshake";
    assert_eq!(refused("/why?token=s3cret", origin), (format!("{rejected}: not on the list"), path("/why"), from));
    assert_eq!(refused("/else", ""), (rejected.to_owned(), path("/else"), None));
    assert_eq!(refused("/", "Host: other\r\n"), ("more than one Host".to_owned(), path("/"), None));
    let _only = running.connect();
    assert_eq!(refused("/", ""), ("too many connections (max_connections)".to_owned(), path("/"), None));
}

#[test]
fn a_get_elsewhere_is_told_what_this_is() {
    let running = start(server(), echo);
    let answer = exchange(running.address(), "GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer.body.contains("WebSocket"), "{answer:?}");
    assert_eq!(answer.header("Content-Length"), Some(&answer.body.len().to_string()[..]));
    let head = exchange(running.address(), "HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(head.header("Content-Length"), answer.header("Content-Length"), "as for GET, without the body");
    let old = exchange(running.address(), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 426);
}

#[test]
fn the_answer_arrives_even_if_the_client_sends_a_body() {
    let running = start(server(), echo);
    for size in [1000, 300_000] {
        let mut client = Client::tcp(running.address());
        let head = format!("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n");
        client.write(&[head.as_bytes(), &vec![b'x'; size / 2]].concat());
        client.write(&vec![b'x'; size / 2]);
        let answer = client.refusal();
        assert_eq!((answer.status, answer.end), (405, End::Clean));
    }
}

#[test]
fn handshake_timeout_gives_a_slow_request_its_time_and_not_more() {
    let running = start(server().handshake_timeout(ms(300)), echo);
    for how in ["half", "one byte at a time"] {
        let start = Instant::now();
        let mut client = Client::tcp(running.address());
        match how {
            "half" => client.write(&request().as_bytes()[..50]),
            _ => {
                // Each byte in good time, all of them never.
                for byte in request().as_bytes().iter().take(50) {
                    client.write(&[*byte]);
                    thread::sleep(ms(8));
                }
            }
        }
        let answer = client.refusal();
        assert!(start.elapsed() >= ms(300), "{how}: {:?}", start.elapsed());
        assert_eq!(answer.status, 408, "{how}");
        assert_proper(&answer, how);
        assert_eq!(running.events.handshake_failed().0, Some(408), "{how}");
    }
}

#[test]
fn a_client_is_not_let_in_after_the_handshake_timeout_however_long_on_handshake_takes() {
    let slow = |_: &heartwire::Request| {
        thread::sleep(ms(200));
        Ok(heartwire::Accept::new())
    };
    let running = start(server().handshake_timeout(ms(100)).on_handshake(slow), echo);
    let mut client = Client::tcp(running.address());
    client.write(request().as_bytes());
    assert_eq!(running.events.handshake_failed().0, None, "no response is sent");
    assert_eq!(running.handle.stats().opened, 0);
}

#[test]
fn a_tls_client_is_turned_away_at_once() {
    let running = start(server().handshake_timeout(2 * CEILING), echo);
    // The beginning of a ClientHello: handshake record, TLS 1.0, 512 bytes to come.
    let hello = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[0x42; 506]].concat();
    let answer = exchange(running.address(), &hello);
    assert_eq!(answer.status, 400);
    let mut client = Client::tcp(running.address());
    client.write(&hello[..1]);
    assert_eq!(client.refusal().status, 400, "its first byte is enough");
}

#[test]
fn clients_that_go_away_before_the_end_of_their_request_are_reported_without_a_status() {
    let running = start(server(), echo);
    let mut client = Client::tcp(running.address());
    client.write(b"GET / HT");
    // Over TLS there is something that it has not read, its tickets, so it resets the connection.
    let reasons = ["connection closed in the middle of the request", "Connection reset by peer (os error 104)"];
    drop(client);
    let (status, reason) = running.events.handshake_failed();
    assert!(status.is_none() && reasons[..=usize::from(over_tls::is_on())].contains(&&*reason), "{status:?} {reason}");
    let mut client = Client::tcp(running.address());
    client.write(b"GET / HT");
    client.reset();
    assert_eq!(running.events.handshake_failed().0, None);
    running.connect().expect_echo("hello");
}

#[test]
fn a_client_that_has_said_all_it_has_to_say_still_gets_its_answer() {
    let running = start(server(), echo);
    for (request, status) in [(request(), 101), ("GET / HTTP/1.1\r\nHost: test\r\n\r\n".into(), 426)] {
        let mut client = Client::tcp(running.address());
        client.write(request.as_bytes());
        client.half_close();
        assert_eq!(client.answer().status, status);
    }
}
