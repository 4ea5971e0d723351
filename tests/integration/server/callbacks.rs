//! What the application decides: whom `on_handshake` lets in, and what `on_request` answers.

use std::thread;
use std::time::Instant;

use heartwire::{Accept, HeartbeatPolicy, Response};

use super::{assert_proper, deciding};
use crate::support::{Client, echo, eventually, exchange, ms, request_with, server, start};

#[test]
fn on_handshake_accepts_with_headers_a_subprotocol_and_a_heartbeat() {
    let policy = HeartbeatPolicy::new(ms(70_000), ms(1000)).max_missed(7);
    let server = deciding(move |request| {
        assert_eq!((request.method(), request.path(), request.query()), ("GET", "/chat", Some("room=1")));
        assert_eq!(request.header("origin"), Some("https://example.org"));
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["v1", "v2", "v3"]);
        Ok(Accept::new().subprotocol("v2").header("Set-Cookie", "a=b").header("X-Served-By", "us").heartbeat(policy))
    });
    let running = start(server, move |conn| {
        assert_eq!((conn.subprotocol(), conn.heartbeat()), (Some("v2"), policy));
        echo(conn)
    });
    let headers = "Origin: https://example.org\r\nSec-WebSocket-Protocol: v1, v2\r\nSec-WebSocket-Protocol: v3\r\n";
    let mut client = Client::tcp(running.address());
    client.write(request_with("/chat?room=1", headers).as_bytes());
    let answer = client.answer();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("Sec-WebSocket-Protocol"), Some("v2"));
    assert_eq!(answer.header("Set-Cookie"), Some("a=b"));
    assert_eq!(answer.header("X-Served-By"), Some("us"));
    client.expect_echo("hello");
}

#[test]
fn on_handshake_rejects_with_any_status_and_body() {
    let running = start(
        deciding(|request| {
            let status = request.path()[1..].parse().unwrap();
            Err(Response::new(status).header("WWW-Authenticate", "Bearer").text(format!("not you: {status}\n")))
        }),
        |_| panic!("nobody gets as far as this"),
    );
    for status in [300, 302, 401, 403, 404, 429, 500, 503, 599] {
        let answer = exchange(running.address(), request_with(&format!("/{status}"), ""));
        assert_eq!((answer.status, &answer.body[..]), (status, &format!("not you: {status}\n")[..]));
        assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
        assert_proper(&answer, "rejected");
        assert_eq!(running.events.handshake_failed(), (Some(status), "rejected by on_handshake".into()));
    }
    // To say that all is well is no rejection.
    for status in [100, 101, 200, 204, 299, 600, 999, 0] {
        let answer = exchange(running.address(), request_with(&format!("/{status}"), ""));
        assert_eq!((answer.status, &answer.body[..]), (500, "internal error\n"), "{status}");
        assert_eq!(running.events.handshake_failed().0, Some(500));
    }
    assert_eq!(running.handle.stats().opened, 0);
}

#[test]
fn on_handshake_that_makes_a_mistake_is_a_500_and_the_server_lives() {
    let server = deciding(|request| match request.path() {
        "/subprotocol" => Ok(Accept::new().subprotocol("never offered")),
        "/header" => Ok(Accept::new().header("X", "forged\r\nY: z")),
        "/own" => Ok(Accept::new().header("Sec-WebSocket-Accept", "mine")),
        "/nobody" => Ok(Accept::new().user("")),
        "/long" => Ok(Accept::new().user("a".repeat(257))),
        "/control" => Ok(Accept::new().user("anna\nbob")),
        "/rejection" => Err(Response::new(403).header("Content-Length", "7")),
        "/panic" => panic!("oh no"),
        _ => Ok(Accept::new()),
    });
    let running = start(server, echo);
    for path in ["/subprotocol", "/header", "/own", "/nobody", "/long", "/control", "/rejection", "/panic"] {
        let request = request_with(path, "Sec-WebSocket-Protocol: v1\r\n");
        let answer = exchange(running.address(), request);
        assert_eq!((answer.status, &answer.body[..]), (500, "internal error\n"), "{path}");
        assert_proper(&answer, path);
        assert_eq!(running.events.handshake_failed().0, Some(500), "{path}");
    }
    running.connect().expect_echo("hello");
}

#[test]
fn on_handshake_that_is_slow_keeps_nobody_else_out() {
    let server = deciding(|request| {
        if request.path() == "/slow" {
            thread::sleep(ms(500));
        }
        Ok(Accept::new())
    });
    let running = start(server, echo);
    let start = Instant::now();
    let mut slow = Client::tcp(running.address());
    slow.write(request_with("/slow", "").as_bytes());
    let mut quick = running.connect();
    quick.expect_echo("hello");
    println!("served after {:?} while another waited", start.elapsed());
    assert_eq!(running.handle.connections().len(), 1, "the other one is still being decided");
    assert_eq!(slow.answer().status, 101);
}

#[test]
fn on_request_answers_plain_requests() {
    let server = server().on_request(|request| match (request.method(), request.path()) {
        ("GET" | "HEAD" | "POST", "/healthz") => Some(Response::new(200).text("ok\n")),
        ("GET", "/bytes") => Some(Response::new(200).header("Content-Type", "image/png").body(vec![b'x'; 100_000])),
        ("GET", "/panic") => panic!("oh no"),
        ("GET", "/invalid") => Some(Response::new(42)),
        ("GET", "/nothing") => Some(Response::new(204)),
        _ => None,
    });
    let running = start(server, echo);
    let ask = |method: &str, path: &str| {
        exchange(running.address(), format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
    };
    for (method, body) in [("GET", "ok\n"), ("HEAD", ""), ("POST", "ok\n")] {
        let answer = ask(method, "/healthz");
        assert_eq!((answer.status, &answer.body[..], answer.header("Content-Length")), (200, body, Some("3")));
        assert_proper(&answer, method);
    }
    let bytes = ask("GET", "/bytes");
    assert_eq!((bytes.status, bytes.body.len(), bytes.header("Content-Type")), (200, 100_000, Some("image/png")));
    assert_eq!(ask("GET", "/panic").status, 500);
    assert_eq!(ask("GET", "/invalid").status, 500);
    let nothing = ask("GET", "/nothing");
    assert_eq!((nothing.status, &nothing.body[..], nothing.header("Content-Length")), (204, "", None));
    assert_eq!(ask("GET", "/else").status, 426);
    assert_eq!(ask("POST", "/else").status, 405);
    // An upgrade is not its business, wherever it goes.
    Client::tcp(running.address()).upgraded(&request_with("/healthz", "")).expect_echo("hello");
    eventually("all are counted", || {
        let stats = running.handle.stats();
        (stats.http_requests, stats.http_unclaimed, stats.handshakes_failed, stats.opened) == (7, 2, 0, 1)
    });
}
