//! What a server logs: one line for each thing that happens, on its level, whatever stands in it.
//!
//! There is one logger for a process, so each test has one of its own.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;

use heartwire::{Accept, Connection, Error, HeartbeatPolicy, Response};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::support::{Client, PING, PONG, alone, echo, eventually, exchange, ms, request_with, server, start};

/// Keeps each line of ours, with its level.
struct Lines(Mutex<Vec<(Level, String)>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Lines {
    fn start() {
        log::set_logger(&LINES).expect("the only logger");
        log::set_max_level(LevelFilter::Trace);
    }

    fn all() -> Vec<(Level, String)> {
        LINES.0.lock().unwrap().clone()
    }

    /// Waits for a line that contains all the parts.
    fn with(parts: &[&str]) -> (Level, String) {
        let find = || Self::all().into_iter().find(|(_, line)| parts.iter().all(|part| line.contains(part)));
        eventually(&format!("there is a line with {parts:?}"), || find().is_some());
        find().expect("found before")
    }
}

impl Log for Lines {
    /// As the crate's documentation says: the target of all our lines begins so, and other crates have their own.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().split("::").next() == Some("heartwire")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push((record.level(), record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Sends a request that comes to no connection, from this address.
fn ask(address: SocketAddr, request: &str) -> SocketAddr {
    let mut client = Client::tcp(address);
    let local = client.local_addr();
    client.write(request.as_bytes());
    client.half_close();
    client.refusal();
    local
}

#[test]
fn a_refusal_is_a_line_that_names_path_origin_and_what_refused_it() {
    if !alone!() {
        return;
    }
    Lines::start();
    let server = server().on_handshake(|_| Err(Response::new(403).because("not on the list")));
    let running = start(server, echo);
    let evil = request_with("/chat?token=s3cret", "Origin: https://evil.example\r\n");
    let peer = ask(running.address(), &evil);
    let refusal = "handshake failed: 403, rejected by on_handshake: not on the list; \
                   path /chat, origin https://evil.example";
    assert_eq!(Lines::with(&[&peer.to_string()]), (Level::Info, format!("{peer} {refusal}")));
    let peer = ask(running.address(), &request_with("/", "Host: other\r\n"));
    let refusal = "handshake failed: 400, more than one Host; path /";
    assert_eq!(Lines::with(&[&peer.to_string()]), (Level::Info, format!("{peer} {refusal}")));
    let peer = ask(running.address(), "hello\r\n\r\n");
    let refusal = "handshake failed: 400, not an HTTP request";
    assert_eq!(Lines::with(&[&peer.to_string()]), (Level::Info, format!("{peer} {refusal}")));
}

#[test]
fn who_asks_for_no_websocket_is_a_debug_line_without_a_number() {
    if !alone!() {
        return;
    }
    Lines::start();
    let health = |request: &heartwire::Request| (request.path() == "/healthz").then(|| Response::new(204));
    let running = start(server().on_request(health), echo);
    for (target, said) in [
        ("/favicon.ico?token=s3cret", "GET /favicon.ico requested no upgrade; answered with 426"),
        ("/healthz?token=s3cret", "GET /healthz answered with 204"),
    ] {
        let peer = ask(running.address(), &format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(Lines::with(&[&peer.to_string()]), (Level::Debug, format!("{peer} {said}")));
        if said.ends_with("204") {
            let end = format!("{peer} hung up after plain requests: 1");
            assert_eq!(Lines::with(&[&peer.to_string(), "hung up"]), (Level::Debug, end));
        }
    }
    let preconnect = Client::tcp(running.address());
    let peer = preconnect.local_addr();
    drop(preconnect);
    let said = format!("{peer} connected and sent no request");
    assert_eq!(Lines::with(&[&peer.to_string()]), (Level::Debug, said));

    let client = Client::tcp(running.address()).upgraded(&request_with("/chat?token=s3cret", ""));
    let peer = client.local_addr();
    assert_eq!(Lines::with(&["opened"]), (Level::Info, format!("#1 {peer} opened /chat")));
    client.close();
    Lines::with(&["#1 ", "ended"]);
    drop(running);
    let lines = Lines::all();
    assert!(!lines.iter().any(|(_, line)| line.contains("s3cret")), "{lines:#?}");
}

#[test]
fn a_connections_user_is_in_the_line_of_its_opening_and_a_name_that_is_none_is_an_error() {
    if !alone!() {
        return;
    }
    Lines::start();
    let server = server().on_handshake(|request| match request.path() {
        "/none" => Ok(Accept::new().user("anna\nbob")),
        _ => Ok(Accept::new().user("Zoë \"\u{202e}\"")),
    });
    let running = start(server, echo);
    let client = running.connect();
    let line = format!("#1 {} opened /, user {}", client.local_addr(), r#""Zoë \"\u{202e}\"""#);
    assert_eq!(Lines::with(&["opened"]), (Level::Info, line));
    let peer = ask(running.address(), &request_with("/none", ""));
    let line = format!(r"{peer}: on_handshake returned a user name that contains '\n'; answered with 500");
    assert_eq!(Lines::with(&["user name"]), (Level::Error, line));
}

#[test]
fn whatever_stands_in_a_line_it_is_one_line() {
    if !alone!() {
        return;
    }
    Lines::start();
    let server = server().on_handshake(|request| match request.path().contains("in") {
        true => Ok(Accept::new()),
        false => Err(Response::new(404).because("one\ntwo")),
    });
    let running = start(server, |conn: &mut Connection| match conn.recv()?.as_text() {
        Some("panic") => panic!("one\ntwo \u{1b}[2J"),
        Some("fail") => Err(Error::handler("one\r\ntwo \u{202e}")),
        _ => Ok(()),
    });
    let hidden = "\u{9b}31m\u{202e}\u{2028}\u{85}";
    let shown = r"\u{9b}31m\u{202e}\u{2028}\u{85}";
    for what in ["panic", "fail"] {
        let mut client = Client::tcp(running.address()).upgraded(&request_with(&format!("/in{hidden}"), ""));
        client.send_text(what);
        client.expect_close();
        drop(client);
        running.closed();
    }
    Lines::with(&[&format!("opened /in{shown}")]);
    assert_eq!(Lines::with(&[r"handler panicked: one\ntwo \u{1b}[2J; "]).0, Level::Error);
    assert_eq!(Lines::with(&[r"handler failed: one\r\ntwo \u{202e}; "]).0, Level::Error);
    let origin = "Origin: \u{202e}\r\n";
    exchange(running.address(), request_with(&format!("/{hidden}"), origin));
    Lines::with(&[r"404, rejected by on_handshake: one\ntwo; path /", shown, r", origin \u{202e}"]);
    exchange(running.address(), format!("GET /{hidden} HTTP/1.1\r\nHost: test\r\n\r\n"));
    Lines::with(&[&format!("GET /{shown} requested no upgrade")]);
    drop(running);
    let misleads = |char: char| char.is_control() || ['\u{202e}', '\u{2028}'].contains(&char);
    let lines = Lines::all();
    assert!(!lines.iter().any(|(_, line)| line.contains(misleads)), "{lines:#?}");
}

#[test]
fn each_ping_and_each_pong_is_a_trace_line_and_there_are_no_others() {
    if !alone!() {
        return;
    }
    Lines::start();
    let running = start(server().heartbeat(HeartbeatPolicy::new(ms(200), ms(20_000))), echo);
    let mut client = running.connect();
    let peer = client.local_addr();
    client.send(PONG, "not asked for");
    for number in 1..=3 {
        let ping = client.frame();
        assert_eq!((ping.opcode, ping.payload.clone()), (PING, format!("{number}").into_bytes()));
        // A round trip that can be told from none.
        thread::sleep(ms(20));
        client.send(PONG, &ping.payload);
    }
    Lines::with(&["Pong 3 received"]);
    client.close();
    running.closed();
    drop(running);
    let beats: Vec<String> =
        Lines::all().into_iter().filter(|(level, _)| *level == Level::Trace).map(|(_, line)| line).collect();
    let about = |what: &str| beats.iter().filter(|line| line.contains(what)).count();
    assert_eq!(beats[0], format!("#1 {peer} Pong received that answers no Ping of ours"));
    for number in 1..=3 {
        assert_eq!(about(&format!("#1 {peer} Ping {number} sent")), 1, "{beats:#?}");
        let prefix = format!("#1 {peer} Pong {number} received, round trip ");
        let round_trip = beats.iter().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix("ms")?.parse().ok());
        assert!(round_trip.is_some_and(|ms: f64| ms >= 20.0), "{beats:#?}");
    }
    // Another Ping may just have left.
    assert_eq!(about("Pong "), 4, "{beats:#?}");
    assert_eq!(about("Ping ") - 1, beats.len() - 4, "the line of the first Pong names Pings as well: {beats:#?}");
}
