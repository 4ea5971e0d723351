//! Plain HTTP: bodies, connections that are kept for more requests, and what ends them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};
use heartwire::{Event, Response, Server};

use crate::support::{
    Answer, CEILING, Client, End, HOUR, Running, echo, eventually, exchange, ms, receive, request, request_with,
    server, start,
};

/// Answers every plain request with its method, path and body.
fn repeating() -> Server {
    server().keep_alive_timeout(HOUR).on_request(|request| {
        let body = String::from_utf8_lossy(request.body());
        Some(Response::new(200).text(format!("{} {} {body}\n", request.method(), request.path())))
    })
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const CHUNKED: &str = "POST /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Sends a request and reads the answer, and goes on with the connection.
fn ask(client: &mut Client, request: impl AsRef<[u8]>) -> Answer {
    client.write(request.as_ref());
    client.response()
}

fn assert_kept(answer: &Answer) {
    assert_eq!((answer.status, answer.header("Connection")), (200, None), "{answer:?}");
}

// Bodies.

#[test]
fn body_comes_with_a_length_or_in_chunks_and_ends_where_it_ends() {
    let running = start(repeating(), echo);
    let mut client = Client::tcp(running.address());
    for (request, said) in [
        (post("/a", "hello"), "POST /a hello\n"),
        (post("/a", ""), "POST /a \n"),
        (format!("{CHUNKED}2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nSum: 1\r\n\r\n"), "POST /c hello\n"),
        (format!("{CHUNKED}0\r\n\r\n"), "POST /c \n"),
        // It looks like another request.
        (post("/a", &get("/admin")), "POST /a GET /admin HTTP/1.1\r\nHost: test\r\n\r\n\n"),
        (get("/b"), "GET /b \n"),
        ("GET /g HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n!".to_owned(), "GET /g !\n"),
        // Some clients end a body with a line.
        (format!("\r\n\r\n{}", get("/b")), "GET /b \n"),
    ] {
        let answer = ask(&mut client, &request);
        assert_kept(&answer);
        assert_eq!(answer.body, said, "{request}");
        client.write_byte_by_byte(request.as_bytes());
        assert_eq!(client.response().body, said, "byte by byte: {request}");
    }
    eventually("it is counted", || running.handle.stats().accepted > 0);
    assert_eq!(running.handle.stats().accepted, 1);
}

#[test]
fn thousands_of_requests_come_over_one_connection_and_pipelined_ones_are_answered_in_order() {
    const REQUESTS: usize = 3000;
    let running = start(repeating(), echo);
    let mut client = Client::tcp(running.address());
    for number in 0..REQUESTS {
        assert_eq!(ask(&mut client, post("/t", &number.to_string())).body, format!("POST /t {number}\n"));
    }
    let mut writer = client.try_clone();
    let all: String = (0..REQUESTS).map(|number| post("/p", &number.to_string())).collect();
    let writing = thread::spawn(move || writer.write(all.as_bytes()));
    for number in 0..REQUESTS {
        assert_eq!(client.response().body, format!("POST /p {number}\n"));
    }
    writing.join().unwrap();
    eventually("each is counted", || running.handle.stats().http_requests == 2 * REQUESTS as u64);
    let stats = running.handle.stats();
    assert_eq!((stats.accepted, stats.buffered), (1, 0));
}

#[test]
fn nothing_can_be_smuggled_and_whatever_is_doubtful_ends_the_connection() {
    let running = start(repeating(), echo);
    let head = |headers: &str| format!("POST /x HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
    for (what, doubtful) in [
        ("CL.TE", head("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("TE.CL", head("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n"),
        ("two lengths", head("Content-Length: 0\r\nContent-Length: 44\r\n")),
        ("a list of lengths", head("Content-Length: 0, 0\r\n")),
        ("a signed length", head("Content-Length: +0\r\n")),
        ("another coding", head("Transfer-Encoding: xchunked\r\n")),
        ("two codings", head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
        ("a space before the colon", head("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n"),
        ("a folded line", head("Transfer-Encoding:\r\n chunked\r\n") + "0\r\n\r\n"),
        ("a length behind LF", head("X: y\nContent-Length: 1\r\n") + "!"),
        ("chunks in HTTP/1.0", "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("a chunk that is too long", format!("{CHUNKED}1\r\nab\r\n0\r\n\r\n")),
        ("a chunk that ends with LF", format!("{CHUNKED}1\na\r\n0\r\n\r\n")),
        ("a size that overflows", format!("{CHUNKED}10000000000000001\r\na\r\n0\r\n\r\n")),
        ("a handshake with a body", request_with("/x", "Content-Length: 1\r\n") + "!"),
        ("a handshake with chunks", request_with("/x", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
    ] {
        let answer = exchange(running.address(), doubtful + &get("/smuggled"));
        assert_eq!(
            (answer.status, answer.end, answer.header("Connection")),
            (400, End::Clean, Some("close")),
            "{what}"
        );
        assert!(!answer.body.contains("HTTP/1.1"), "{what}: there is a second answer: {answer:?}");
        assert_eq!(running.events.handshake_failed().0, Some(400), "{what}");
    }
    for (what, request) in [
        ("a head that ends with LF", "GET /x HTTP/1.1\nHost: test\n\n".to_owned()),
        ("CONNECT", "CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned()),
    ] {
        let answer = exchange(running.address(), request + &get("/smuggled"));
        assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")), "{what}");
        assert!(!answer.body.contains("smuggled"), "{what}: {answer:?}");
    }
}

#[test]
fn a_body_that_nobody_reads_ends_the_connection_after_the_answer() {
    let running = start(server().health("/healthz"), echo);
    for (path, status) in [("/healthz", 200), ("/else", 426)] {
        let hidden = get("/healthz");
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", hidden.len());
        let answer = exchange(running.address(), head + &hidden);
        assert_eq!((answer.status, answer.header("Connection").unwrap().contains("close")), (status, true));
        assert!(!answer.body.contains("HTTP/1.1"), "{answer:?}");
    }
}

#[test]
fn max_request_body_is_the_most_and_more_is_413_before_it_comes() {
    let running = start(repeating().max_request_body(10), echo);
    let mut client = Client::tcp(running.address());
    assert_kept(&ask(&mut client, post("/a", "0123456789")));
    assert_kept(&ask(&mut client, format!("{CHUNKED}4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n")));
    for too_much in [
        post("/a", "0123456789a"),
        "POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_owned(),
        "POST /a HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n".to_owned(),
        format!("{CHUNKED}4\r\n0123\r\n7\r\n"),
    ] {
        let mut client = Client::tcp(running.address());
        client.write(too_much.as_bytes());
        let answer = client.refusal();
        assert_eq!((answer.status, answer.header("Connection")), (413, Some("close")), "{too_much}");
        let reason = "request body too large (max_request_body)".to_owned();
        assert_eq!(running.events.handshake_failed(), (Some(413), reason));
    }
    let none = start(repeating().max_request_body(0), echo);
    assert_eq!(exchange(none.address(), post("/a", "x")).status, 413);
    assert_eq!(exchange(none.address(), post("/a", "")).status, 200);
}

#[test]
fn a_body_that_comes_too_slowly_is_408_and_each_request_has_its_own_time() {
    let running = start(repeating().handshake_timeout(ms(400)), echo);
    let mut client = Client::tcp(running.address());
    let begin = Instant::now();
    while begin.elapsed() < ms(600) {
        assert_kept(&ask(&mut client, post("/a", "in time")));
    }
    let begin = Instant::now();
    client.write(post("/a", "hello").strip_suffix("lo").unwrap().as_bytes());
    let answer = client.refusal();
    assert_eq!((answer.status, answer.end), (408, End::Clean));
    assert!(begin.elapsed() >= ms(400), "{:?}", begin.elapsed());
    assert_eq!(running.events.handshake_failed().0, Some(408));
}

#[test]
fn max_buffered_leaves_no_room_for_a_body() {
    let running = start(repeating().max_buffered(1000), echo);
    let mut client = Client::tcp(running.address());
    assert_kept(&ask(&mut client, post("/a", &"x".repeat(400))));
    client.write(post("/a", &"x".repeat(1100)).as_bytes());
    let answer = client.refusal();
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    assert_eq!(running.handle.stats().buffered, 0);
}

#[test]
fn a_client_that_expects_100_is_told_to_continue_once_somebody_wants_the_body() {
    let running = start(repeating(), echo);
    let mut client = Client::tcp(running.address());
    let head = "POST /e HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.write(head.as_bytes());
    assert_eq!(client.answer().status, 100);
    assert_eq!(ask(&mut client, "hello").body, "POST /e hello\n");
    // One that does not wait is not told.
    assert_eq!(ask(&mut client, format!("{head}hello")).body, "POST /e hello\n");
    let other = head.replace("100-continue", "tea");
    assert_eq!(exchange(running.address(), other).status, 417);
    let nobody = start(server(), echo);
    assert_eq!(exchange(nobody.address(), head).status, 405);
}

// Connections that are kept.

#[test]
fn a_connection_is_kept_by_version_and_by_what_the_client_says() {
    let running = start(repeating().health("/healthz"), echo);
    for (version, connection, kept) in [
        ("1.1", "", Some(None)),
        ("1.1", "Connection: keep-alive\r\n", Some(None)),
        ("1.1", "Connection: close\r\n", None),
        ("1.0", "", None),
        ("1.0", "Connection: keep-alive\r\n", Some(Some("keep-alive"))),
    ] {
        for method in ["GET", "HEAD"] {
            let mut client = Client::tcp(running.address());
            client.write(format!("{method} /healthz HTTP/{version}\r\nHost: test\r\n{connection}\r\n").as_bytes());
            let answer = client.answer();
            assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("3")));
            match kept {
                Some(said) => {
                    assert_eq!(answer.header("Connection"), said, "{version} {connection}");
                    if method == "HEAD" {
                        assert_eq!(ask(&mut client, get("/again")).body, "GET /again \n");
                    }
                }
                None => {
                    assert_eq!(answer.header("Connection"), Some("close"), "{version} {connection}");
                    assert_eq!(client.drain(), End::Clean);
                }
            }
        }
    }
    let each = start(repeating().keep_alive_timeout(ms(0)), echo);
    let mut client = Client::tcp(each.address());
    client.write(get("/").as_bytes());
    assert_eq!(client.refusal().header("Connection"), Some("close"), "none is kept");
}

#[test]
fn responses_without_content_keep_the_connection_in_step() {
    let running = start(server().on_request(|request| Some(Response::new(request.path()[1..].parse().ok()?))), echo);
    let mut client = Client::tcp(running.address());
    for status in [204, 304, 205, 200, 404, 500, 204] {
        let answer = ask(&mut client, get(&format!("/{status}")));
        assert_eq!((answer.status, &*answer.body), (status, ""));
    }
}

#[test]
fn an_opening_handshake_may_follow_on_a_kept_connection() {
    let running = start(repeating(), echo);
    let mut client = Client::tcp(running.address());
    assert_kept(&ask(&mut client, get("/page")));
    let mut client = client.upgraded(&request());
    client.expect_echo("hello");
    client.close();
    let report = running.closed();
    assert_eq!(report.id, 1);
    // Both at once.
    let mut client = Client::tcp(running.address());
    client.write((post("/a", "x") + &request()).as_bytes());
    assert_eq!(client.response().body, "POST /a x\n");
    assert_eq!(client.answer().status, 101);
    client.expect_echo("hello");
    eventually("all are counted", || {
        let stats = running.handle.stats();
        (stats.accepted, stats.opened, stats.http_requests, stats.handshakes_failed) == (2, 2, 2, 0)
    });
}

#[test]
fn keep_alive_timeout_ends_an_idle_connection_and_nobody_is_told_of_a_failure() {
    let running = start(repeating().keep_alive_timeout(ms(200)), echo);
    let mut idle = Client::tcp(running.address());
    let begin = Instant::now();
    assert_kept(&ask(&mut idle, get("/")));
    assert_eq!(idle.drain(), End::Clean);
    assert!(begin.elapsed() >= ms(200), "{:?}", begin.elapsed());
    let mut left = Client::tcp(running.address());
    assert_kept(&ask(&mut left, get("/")));
    drop(left);
    let mut reset = Client::tcp(running.address());
    assert_kept(&ask(&mut reset, get("/")));
    reset.reset();
    eventually("all are counted", || running.handle.stats().http_requests == 3);
    let handle = running.handle.clone();
    let events = running.stop();
    assert!(!events.iter().any(|event| matches!(event, Event::HandshakeFailed { .. })), "{events:?}");
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.handshakes_failed, stats.without_request), (3, 0, 0), "{stats:?}");
}

#[test]
fn each_request_behind_a_proxy_has_a_client_of_its_own() {
    let proxy = IpAddr::from([127, 0, 0, 1]);
    let server = server().trust_proxies([proxy]).max_connections_per_address(Some(1));
    let running =
        start(server.on_request(|request| Some(Response::new(200).text(request.remote_ip().to_string()))), echo);
    let mut client = Client::tcp(running.address());
    let from = |client: &str| format!("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n\r\n");
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.1"] {
        assert_eq!(ask(&mut client, from(address)).body, address);
    }
    assert_eq!(ask(&mut client, get("/")).body, "127.0.0.1");
    let _first = Client::tcp(running.address()).upgraded(&request_with("/", "X-Forwarded-For: 192.0.2.1\r\n"));
    client.write(request_with("/", "X-Forwarded-For: 192.0.2.1\r\n").as_bytes());
    assert_eq!(client.answer().status, 429);
}

// Limits.

#[test]
fn idle_clients_keep_nobody_out() {
    const PLACES: usize = 4;
    let running = start(repeating().max_connections(PLACES), echo);
    let mut idle: Vec<Client> = (0..PLACES).map(|_| Client::tcp(running.address())).collect();
    for client in &mut idle {
        assert_kept(&ask(client, get("/")));
    }
    let mut connected: Vec<Client> = Vec::new();
    for _ in 0..PLACES {
        // A client that has just been answered may not be idle yet.
        eventually("there is a place", || {
            let mut client = Client::tcp(running.address());
            client.write(request().as_bytes());
            let is_in = client.answer().status == 101;
            connected.extend(is_in.then_some(client));
            is_in
        });
    }
    // In which order they became idle is up to their threads.
    for mut dropped in idle {
        dropped.drain();
    }
    // All places are taken by connections now: plain requests are answered, and not kept.
    let answer = exchange(running.address(), get("/"));
    assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
    assert_eq!(exchange(running.address(), request()).status, 503);
    connected.iter_mut().for_each(|client| client.expect_echo("hello"));
}

// The end of the server.

/// A server whose `on_request` waits until it is released, and says when it waits.
fn held() -> (Running, Receiver<()>, Arc<AtomicBool>) {
    let (sender, waits) = unbounded();
    let released = Arc::new(AtomicBool::new(false));
    let is_released = Arc::clone(&released);
    let server = server().keep_alive_timeout(HOUR).close_timeout(2 * CEILING).on_request(move |request| {
        if request.path() == "/held" {
            let _ = sender.send(());
            eventually("it is released", || is_released.load(SeqCst));
        }
        Some(Response::new(200).text("done\n"))
    });
    (start(server, echo), waits, released)
}

#[test]
fn shutdown_hangs_up_on_idle_clients_at_once_and_answers_the_request_under_way() {
    let (running, waits, released) = held();
    let mut idle = Client::tcp(running.address());
    assert_kept(&ask(&mut idle, get("/")));
    let mut busy = Client::tcp(running.address());
    assert_kept(&ask(&mut busy, get("/")));
    busy.write(post("/held", "hello").as_bytes());
    receive("the request", &waits);
    running.handle.shutdown();
    idle.drain();
    released.store(true, SeqCst);
    let answer = busy.response();
    assert_eq!((answer.status, &*answer.body, answer.header("Connection")), (200, "done\n", Some("close")));
    assert_eq!(busy.drain(), End::Clean);
    drop(busy);
    let took = running.wait_for_end();
    assert!(took < CEILING, "{took:?}");
    assert_eq!(running.handle.stats().handshakes_failed, 0);
}

#[test]
fn drain_keeps_no_connection_and_lets_none_in_on_an_old_one() {
    let running = start(repeating(), echo);
    let stays = running.connect();
    let (mut plain, mut late) = (Client::tcp(running.address()), Client::tcp(running.address()));
    for client in [&mut plain, &mut late] {
        assert_kept(&ask(client, get("/")));
    }
    // The one connection has its turn at once, and does not answer its Close frame.
    running.handle.drain(HOUR);
    plain.write(get("/").as_bytes());
    let answer = plain.refusal();
    assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
    late.write(request().as_bytes());
    assert_eq!(late.refusal().status, 503);
    drop(stays);
}
