//! `heartwire check`: what it says of servers that are well, and of each way not to be.

use std::thread;
use std::time::Instant;

use crate::support::process::{Process, heartwire, serve};
use crate::support::{
    BareConnection, BareServer, BlackHole, CEILING, CLOSE, ClosedPort, PING, PONG, TEXT, ms, refusal, unmasked,
};

/// The check of a URL, running with these arguments.
fn check(url: &str, arguments: &[&str]) -> Process {
    Process::start(&mut heartwire(&[&["check", url][..], arguments].concat()))
}

fn url(server: &BareServer) -> String {
    format!("ws://{}/", server.address())
}

/// Waits for a check that fails: nothing on standard output, and one line on standard error, which it gives.
fn failure(mut check: Process) -> String {
    assert_eq!(check.wait().code(), Some(1), "{:#?}", check.stderr.lines());
    assert_eq!(check.stdout.lines(), [""; 0]);
    let lines = check.stderr.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.concat()
}

/// Waits for a check that succeeds: nothing on standard error, and one line on standard output, which it gives.
fn success(mut check: Process) -> String {
    assert_eq!(check.wait().code(), Some(0), "{:#?}", check.stderr.lines());
    assert_eq!(check.stderr.lines(), [""; 0]);
    let lines = check.stdout.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.concat()
}

// Servers that are well.

#[test]
fn a_server_that_answers_is_one_line_and_exit_0_and_is_left_with_1000() {
    let server = serve(&["127.0.0.1:0"]);
    let line = success(check(&format!("ws://{}/health?token=s3cret", server.address()), &[]));
    let start = format!("ok: ws://{}/health round trip ", server.address());
    let milliseconds = line.strip_prefix(&start).and_then(|rest| rest.strip_suffix(" ms"));
    let milliseconds = milliseconds.unwrap_or_else(|| panic!("{start:?} in {line:?}"));
    assert!(milliseconds.parse::<f64>().is_ok_and(|number| number > 0.0), "{line}");
    server.stderr.line_with(&["#1 ", "ended: closed by peer with 1000"]);
}

#[test]
fn one_ping_is_sent_with_headers_and_subprotocols_and_messages_do_not_count_as_its_pong() {
    let server = BareServer::bind();
    let options = ["--header", "Authorization: Bearer a:b", "--subprotocol", "one", "--timeout", "1m"];
    let check = check(&url(&server), &options);
    let mut connection = server.accept();
    let request = connection.upgrade("Sec-WebSocket-Protocol: one\r\n");
    for line in ["Authorization: Bearer a:b", "Sec-WebSocket-Protocol: one"] {
        assert!(request.lines().any(|it| it == line), "{line:?} in {request}");
    }
    let ping = connection.frame();
    assert_eq!(ping.opcode, PING);
    connection.send_text("not now");
    connection.send(PONG, b"of nobody");
    connection.send(PONG, &ping.payload);
    let close = connection.frame();
    assert_eq!((close.opcode, &close.payload[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]), "the next frame");
    connection.send_close(1000);
    success(check);
}

#[test]
fn who_has_answered_the_ping_need_not_answer_the_close() {
    let server = BareServer::bind();
    let started = Instant::now();
    let check = check(&url(&server), &["--timeout", "1h"]);
    let mut connection = server.open();
    let ping = connection.frame();
    connection.send(PONG, &ping.payload);
    success(check);
    assert!(started.elapsed() < CEILING);
}

#[test]
fn a_log_that_is_asked_for_goes_to_standard_error() {
    let server = serve(&["127.0.0.1:0"]);
    let mut check = check(&format!("ws://{}/", server.address()), &["--log-level", "info"]);
    assert_eq!(check.wait().code(), Some(0));
    check.stderr.line_with(&["#1 ", "opened /"]);
}

// Servers that are not.

#[test]
fn a_host_that_cannot_be_reached_or_found_is_one_line_and_exit_1() {
    let nobody = ClosedPort::new();
    let line = failure(check(&format!("ws://{}/?token=s3cret", nobody.address()), &[]));
    let start = format!("error: ws://{}/: cannot connect: ", nobody.address());
    assert!(line.starts_with(&start) && line.ends_with("check that the server runs, and its address"), "{line}");

    let silent = BlackHole::new();
    let line =
        failure(check(&format!("ws://{}/", silent.address()), &["--connect-timeout", "100ms", "--timeout", "1h"]));
    assert!(line.contains(": cannot connect: "), "{line}");

    let line = failure(check("ws://name.invalid/", &["--timeout", "1h"]));
    assert!(line.contains(": cannot resolve the host: ") && line.ends_with("check the host's name"), "{line}");
}

#[test]
fn a_refusal_names_its_status_and_what_to_do() {
    for (status, advice) in [
        (401, "send what it asks for by --header"),
        (404, "check that the URL, with its path, is that of a WebSocket"),
        (200, "check that the URL, with its path, is that of a WebSocket"),
        (503, "it is full, or ends, or fails: look at its log"),
    ] {
        let server = BareServer::bind();
        let check = check(&url(&server), &[]);
        server.answer(&refusal(status, "Retry-After: 1\r\n"));
        let line = failure(check);
        assert!(line.contains(&format!(": refused with HTTP status {status}")) && line.ends_with(advice), "{line}");
        assert!(server.accept_within(ms(1)).is_none(), "it tries once");
    }
}

#[test]
fn what_speaks_no_websocket_is_told_as_that() {
    let server = BareServer::bind();
    let check = check(&url(&server), &[]);
    server.answer("220 mail.example.org ESMTP\r\n\r\n");
    let line = failure(check);
    assert!(line.contains(": not a WebSocket server: ") && line.contains("check that the URL"), "{line}");
}

/// What a server does with its connection, and what the check is to say of it.
type Bad = (fn(&mut BareConnection), &'static str);

#[test]
fn a_connection_that_ends_before_the_pong_is_told_with_its_cause() {
    let ways: [Bad; 3] = [
        (|_| {}, "connection lost during the opening handshake: "),
        (
            |connection| {
                connection.upgrade("");
                connection.send_close(1013);
                while connection.next_frame().is_some_and(|frame| frame.opcode != CLOSE) {}
            },
            "connection closed before a Pong: closed by peer with 1013",
        ),
        (
            |connection| {
                connection.upgrade("");
                connection.frame();
            },
            "connection closed before a Pong: disconnected",
        ),
    ];
    for (end, told) in ways {
        let server = BareServer::bind();
        let check = check(&url(&server), &["--timeout", "1h"]);
        let mut connection = server.accept();
        end(&mut connection);
        drop(connection);
        let line = failure(check);
        assert!(line.contains(told) && line.ends_with("; look at the server's log"), "{line}");
    }
}

/// Starts a server that does this to its one connection until the check has ended, and gives what the check says. With
/// such a short timeout it has to end long before the ceiling, whatever comes.
fn stalled(options: &[&str], stall: impl FnOnce(BareConnection) + Send) -> String {
    let server = BareServer::bind();
    let started = Instant::now();
    let check = check(&url(&server), options);
    thread::scope(|scope| {
        scope.spawn(|| stall(server.accept()));
        let line = failure(check);
        assert!(started.elapsed() < CEILING, "{options:?}");
        line
    })
}

/// Writes bytes one at a time, for as long as somebody takes them.
fn trickle(connection: &mut BareConnection, bytes: impl Iterator<Item = u8>) {
    use std::io::Write;
    for byte in bytes {
        if connection.stream.write_all(&[byte]).is_err() {
            return;
        }
        thread::sleep(ms(5));
    }
    panic!("the check outlasts what was prepared for it");
}

#[test]
fn the_time_is_bounded_whatever_the_server_does() {
    // Each server holds its connection until the check lets go of it, which is then not because of the server.
    let no_answer = |mut connection: BareConnection| _ = connection.wait_for_end();
    let line = stalled(&["--handshake-timeout", "300ms", "--timeout", "1h"], no_answer);
    assert!(line.contains(": the opening handshake took too long; "), "{line}");
    let line = stalled(&["--timeout", "500ms"], no_answer);
    assert!(
        line.contains(": the opening handshake took too long; ") || line.contains(": no connection within "),
        "{line}"
    );

    let line = stalled(&["--timeout", "500ms"], |mut connection| {
        trickle(&mut connection, b"HTTP/1.1 101 Switching Protocols\r\nX: ".iter().copied().chain(vec![b'x'; 15_000]));
    });
    assert!(
        line.contains(": the opening handshake took too long; ") || line.contains(": no connection within "),
        "{line}"
    );

    // Time enough to open on any machine.
    let line = stalled(&["--timeout", "4s"], |mut connection| {
        connection.upgrade("");
        connection.wait_for_end();
    });
    assert!(line.contains(": connected, but no Pong within 4s; "), "{line}");

    // It talks and talks, whole messages and halves of them, and never answers.
    let line = stalled(&["--timeout", "4s"], |mut connection| {
        connection.upgrade("");
        trickle(&mut connection, unmasked(TEXT, b"hello").into_iter().cycle().take(70_000));
    });
    assert!(line.contains(": connected, but no Pong within 4s; "), "{line}");
}

// Options.

#[test]
fn a_bad_command_line_is_one_line_that_says_what_to_do_and_exit_2() {
    const URL: &str = "ws://127.0.0.1/";
    for (url, bad, named, advice) in [
        (URL, &["--header", "no colon"][..], "--header", "expected a header such as"),
        (URL, &["--timeout", "5"], "--timeout", "needs a unit, such as 5s or 5ms"),
        (URL, &["--connect-timeout", "5s"], "--connect-timeout", "unless it is shorter than --timeout"),
        (URL, &["--timeout", "1s", "--handshake-timeout", "2s"], "--handshake-timeout", "shorter than --timeout"),
        (URL, &["--ping-interval", "1s"], "--ping-interval", "(try heartwire check --help)"),
        ("http://127.0.0.1/", &[], "invalid URL \"http://127.0.0.1/\"", "expected ws://"),
    ] {
        let mut check = check(url, bad);
        assert_eq!(check.wait().code(), Some(2), "{url} {bad:?}");
        let lines = check.stderr.lines();
        assert_eq!((lines.len(), check.stdout.lines().len()), (1, 0), "{url} {bad:?}: {lines:#?}");
        let line = &lines[0];
        assert!(line.starts_with("error: ") && line.contains(named) && line.contains(advice), "{url} {bad:?}: {line}");
    }
}

#[test]
fn help_has_an_example_the_time_limit_and_the_exit_codes() {
    let mut help = Process::start(&mut heartwire(&["check", "--help"]));
    assert_eq!(help.wait().code(), Some(0));
    let text = help.stdout.lines().join("\n");
    for part in ["heartwire check ws://127.0.0.1:9001/", "[default: 5s]", "[default: off]", "Exit codes:"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}
