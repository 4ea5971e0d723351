//! What each option of `heartwire serve` does, seen from outside. Each test would fail if its option had no effect. The
//! close timeout shows best at a shutdown, and is in `serve.rs`.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::support::process::{
    Client, Process, answer_head, bare_connect, close_code, connect, hang_up, http, next_message, next_text, serve, tcp,
};
use crate::support::{CEILING, request, request_with};

/// The program with these options, on a port of its own.
fn serve_with(options: &[&str]) -> Process {
    serve(&[&["127.0.0.1:0"], options].concat())
}

/// Connects, and waits until the server has taken note: from then on broadcasts arrive.
fn join(server: &Process) -> Client {
    let client = connect(server.address(), "/");
    let peer = client.get_ref().local_addr().unwrap();
    server.stderr.line_with(&[&format!("{peer} opened")]);
    client
}

#[test]
fn mode_broadcast_sends_to_every_other_client_and_not_back() {
    let server = serve_with(&["--mode", "broadcast"]);
    let [mut ann, mut bob, mut cat] = [join(&server), join(&server), join(&server)];
    ann.send("from ann".into()).unwrap();
    assert_eq!(next_text(&mut bob), "from ann");
    assert_eq!(next_text(&mut cat), "from ann");
    bob.send(Message::binary(vec![1, 2])).unwrap();
    assert_eq!(next_message(&mut ann), Message::binary(vec![1, 2]), "and not her own");
    assert_eq!(next_message(&mut cat), Message::binary(vec![1, 2]));
}

#[test]
fn ping_interval_off_sends_no_pings() {
    let server = serve_with(&["--ping-interval", "off"]);
    server.stdout.line_with(&["no heartbeat, dead peers are not found"]);
    let mut stream = bare_connect(server.address());
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let error = stream.read(&mut [0]).expect_err("nothing comes");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
}

#[test]
fn pong_timeout_off_sends_pings_and_never_kills() {
    let server = serve_with(&["--ping-interval", "20ms", "--pong-timeout", "off"]);
    server.stdout.line_with(&["Ping every 20ms, dead peers are not found"]);
    let mut stream = bare_connect(server.address());
    // The payloads are the numbers 1 to 9, none of which we answer.
    let mut pings = [[0; 3]; 9];
    stream.read_exact(pings.as_flattened_mut()).expect("nine Pings come");
    assert_eq!(pings[8], [0x89, 1, b'9']);
}

#[test]
fn liveness_pong_only_finds_a_peer_dead_that_talks_but_never_answers() {
    let beat = ["--ping-interval", "200ms", "--pong-timeout", "200ms", "--max-missed", "2"];
    let server = serve_with(&[&["--liveness", "pong-only"], &beat[..]].concat());
    let mut chatty = bare_connect(server.address());
    let peer = chatty.local_addr().unwrap().to_string();
    let deadline = Instant::now() + CEILING;
    // An empty text, with a mask of zeros.
    while chatty.write_all(&[0x81, 0x80, 0, 0, 0, 0]).is_ok() {
        assert!(Instant::now() < deadline, "still alive; log: {:#?}", server.stderr.lines());
        thread::sleep(Duration::from_millis(20));
    }
    let line = server.stderr.line_with(&[&format!("{peer} ended:"), "heartbeat lost (2 Pongs missed)"]);
    assert!(!line.contains(" 0 messages in"), "it did talk: {line}");
}

#[test]
fn max_connections_refuses_more_with_503() {
    let server = serve_with(&["--max-connections", "1"]);
    let only = join(&server);
    let answer = http(server.address(), &request());
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    drop(only);
}

#[test]
fn max_message_size_closes_with_1009_beyond_it() {
    let server = serve_with(&["--max-message-size", "1000"]);
    let mut client = connect(server.address(), "/");
    client.send(Message::binary(vec![7; 1000])).unwrap();
    assert_eq!(next_message(&mut client).len(), 1000);
    client.send(Message::binary(vec![7; 1001])).unwrap();
    assert_eq!(close_code(client), 1009);
    server.stderr.line_with(&["#1 ", "over the limit of 1000"]);
}

#[test]
fn queue_size_and_max_buffered_decide_what_a_slow_reader_misses() {
    const COUNT: usize = 32;
    const SIZE: usize = 512 * 1024;
    for (queue, all, misses) in [("64KiB", "1GiB", true), ("64MiB", "1GiB", false), ("64MiB", "128KiB", true)] {
        let server = serve_with(&["--mode", "broadcast", "--queue-size", queue, "--max-buffered", all]);
        let [mut sender, mut slow, mut witness] = [join(&server), join(&server), join(&server)];
        for number in 0..COUNT {
            sender.send(Message::binary(vec![number as u8; SIZE])).unwrap();
            // Who keeps up misses nothing, whatever the queue; and when it has this one, all were offered it.
            assert!(next_message(&mut witness).into_data() == vec![number as u8; SIZE], "message {number}");
        }
        if misses {
            server.stderr.line_with(&["WARN", "#2 ", "queue full"]);
        } else {
            for number in 0..COUNT {
                assert_eq!(next_message(&mut slow).into_data()[0], number as u8);
            }
            assert!(server.stderr.lines().iter().all(|line| !line.contains("queue full")));
        }
    }
}

#[test]
fn max_connections_per_address_refuses_one_more() {
    let server = serve_with(&["--max-connections-per-address", "1"]);
    let _first = join(&server);
    let mut second = tcp(server.address());
    second.write_all(request().as_bytes()).unwrap();
    assert!(answer_head(&mut second).starts_with("HTTP/1.1 429 "));
    server.stderr.line_with(&["too many connections from this address"]);
}

#[test]
fn read_buffer_size_is_what_one_read_takes() {
    for (size, bytes) in [("1KiB", 1024), ("2KiB", 2048)] {
        let server = serve_with(&["--read-buffer-size", size, "--max-message-size", "10"]);
        let mut stream = bare_connect(server.address());
        // Too big by its header: the connection fails with the first read, which finds more than it has room for.
        let header = [0x82, 0xfe, 0x1f, 0x40, 0, 0, 0, 0];
        stream.write_all(&[&header[..], &[7; 8000]].concat()).unwrap();
        server.stderr.line_with(&["#1 ", "over the limit of 10", &format!("0 messages in, {bytes} B")]);
    }
}

#[test]
fn handshake_timeout_answers_408() {
    let server = serve_with(&["--handshake-timeout", "200ms"]);
    let started = Instant::now();
    let mut stream = tcp(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: never").unwrap();
    let answer = answer_head(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(200), "before its time");
    assert!(elapsed < Duration::from_secs(9), "that was the default");
}

#[test]
fn allow_origin_lets_only_pages_of_these_origins_in() {
    let origins = ["https://example.org", "http://localhost:8080"];
    let server = serve_with(&["--allow-origin", origins[0], "--allow-origin", origins[1]]);
    let status = |headers: &str| {
        let mut stream = tcp(server.address());
        stream.write_all(request_with("/", headers).as_bytes()).unwrap();
        answer_head(&mut stream)[9..12].to_owned()
    };
    for origin in origins {
        assert_eq!(status(&format!("Origin: {origin}\r\n")), "101", "{origin}");
    }
    for origin in ["https://example.com", "http://example.org", "https://example.org:8443", "null"] {
        assert_eq!(status(&format!("Origin: {origin}\r\n")), "403", "{origin}");
    }
    assert_eq!(status(""), "101", "no browser, no origin");
}

#[test]
fn log_file_gets_the_same_lines_behind_what_it_held() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("heartwire-{}.log", std::process::id()));
    fs::write(&path, "an earlier line\n").unwrap();
    let server = serve_with(&["--log-file", path.to_str().unwrap()]);
    hang_up(connect(server.address(), "/"), CloseCode::Normal, "");
    server.stderr.line_with(&["#1 ", "ended:"]);
    // It is written behind stderr, so its last line may take a moment more.
    let deadline = Instant::now() + CEILING;
    let log = loop {
        let log = fs::read_to_string(&path).unwrap();
        if log.contains("closed by peer") && log.ends_with('\n') {
            break log;
        }
        assert!(Instant::now() < deadline, "{log}");
        thread::sleep(Duration::from_millis(5));
    };
    fs::remove_file(&path).unwrap();
    let message = |line: &str| line.split_once("#1 ").map(|(_, message)| message.to_owned());
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "an earlier line");
    assert!(lines[1].contains("listening on ws://"), "a log by itself tells where: {log}");
    let expected: Vec<_> = server.stderr.lines().iter().map(|line| message(line)).collect();
    assert_eq!(lines[1..].iter().map(|line| message(line)).collect::<Vec<_>>(), expected);
}

#[test]
fn log_level_decides_which_lines_there_are() {
    for (level, opened, missed) in [("off", false, false), ("warn", false, true), ("info", true, true)] {
        let beat = ["--ping-interval", "100ms", "--pong-timeout", "100ms", "--max-missed", "1"];
        let server = serve_with(&[&["--log-level", level], &beat[..]].concat());
        let mut silent = bare_connect(server.address());
        read_to_end(&mut silent);
        // Served after the first one was closed, and logged before it in any case.
        hang_up(connect(server.address(), "/"), CloseCode::Normal, "");
        if missed {
            server.stderr.line_with(&["missed Pong 1 of 1"]);
        }
        let lines = server.stderr.lines();
        assert_eq!(lines.iter().any(|line| line.contains("#1 ") && line.contains("opened")), opened, "{lines:#?}");
        assert_eq!(lines.is_empty(), level == "off", "{lines:#?}");
    }
}

#[test]
fn log_level_trace_shows_lines_of_heartwire_alone() {
    let server = serve_with(&["--log-level", "trace", "--ping-interval", "50ms"]);
    let mut client = connect(server.address(), "/");
    assert!(client.read().unwrap().is_ping());
    client.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut client), "hello");
    hang_up(client, CloseCode::Normal, "");
    server.stderr.line_with(&["#1 ", "ended:"]);
    // A target stands before the message of such a line.
    let of_others = |line: &String| !line.contains("] heartwire") && (line.contains("TRACE") || line.contains("DEBUG"));
    let strays: Vec<_> = server.stderr.lines().into_iter().filter(of_others).collect();
    assert_eq!(strays, [""; 0]);
}

fn read_to_end(stream: &mut TcpStream) {
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn trust_proxy_shows_the_client_that_the_proxy_names() {
    let headers = "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n";
    for (options, whom) in [
        (&["--trust-proxy", "127.0.0.1"][..], "203.0.113.9 via "),
        (&["--trust-proxy", "::1", "--trust-proxy", "127.0.0.0/8"], "203.0.113.9 via "),
        (&["--trust-proxy", "127.0.0.2"], ""),
        (&[], ""),
    ] {
        let server = serve_with(options);
        let mut stream = tcp(server.address());
        let peer = stream.local_addr().unwrap();
        stream.write_all(request_with("/", headers).as_bytes()).unwrap();
        assert!(answer_head(&mut stream).starts_with("HTTP/1.1 101 "));
        server.stderr.line_with(&[&format!("#1 {whom}{peer} opened /")]);
        drop(stream);
        server.stderr.line_with(&[&format!("#1 {whom}{peer} ended: ")]);
    }
}
