//! `heartwire connect`: in a pipe, under somebody's fingers, and with its server coming and going. What happens when
//! its input is over while something is unsent is in `connect_end_of_input.rs`.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::support::process::{Process, heartwire, serve, start_client as connect, type_all, type_line};
use crate::support::{BINARY, BareConnection, BareServer, CEILING, CLOSE, PING, PONG, eventually, refusal};

fn url(server: &Process) -> String {
    format!("ws://{}/", server.address())
}

// In a pipe.

#[test]
fn in_a_pipe_it_sends_all_lines_prints_all_replies_and_ends_with_1000_and_exit_0() {
    const LINES: usize = 2000;
    let server = serve(&["127.0.0.1:0"]);
    let (mut client, stdin) = connect(&url(&server), &[]);
    let lines: Vec<_> = (0..LINES).map(|number| format!("line {number}, grüß dich")).collect();
    type_all(stdin, lines.join("\n"));
    assert_eq!(client.wait().code(), Some(0), "{:#?}", client.stderr.lines());
    assert_eq!(client.stdout.lines(), lines, "in order, and none missing");
    server.stderr.line_with(&["#1 ", "ended: closed by peer with 1000", "2000 messages in, ", "2000 messages out, "]);
    client.stderr.line_with(&["#1 ", "ended: ", "1000"]);
}

#[test]
fn a_last_line_without_its_end_is_sent_as_well_and_an_empty_line_is_an_empty_message() {
    let server = serve(&["127.0.0.1:0"]);
    let (mut client, mut stdin) = connect(&url(&server), &[]);
    stdin.write_all(b"\nlast").unwrap();
    drop(stdin);
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(client.stdout.lines(), ["", "last"]);
}

#[test]
fn an_empty_pipe_connects_and_closes() {
    let server = serve(&["127.0.0.1:0"]);
    let (mut client, stdin) = connect(&url(&server), &[]);
    drop(stdin);
    assert_eq!(client.wait().code(), Some(0));
    server.stderr.line_with(&["#1 ", "ended: closed by peer with 1000"]);
}

#[test]
fn a_pipe_that_is_over_before_the_server_is_there_is_not_in_vain() {
    let server = BareServer::bind();
    let (mut client, mut stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    type_line(&mut stdin, "patience");
    drop(stdin);
    server.answer(&refusal(503, ""));
    let mut connection = server.open();
    assert_eq!(connection.text(), "patience");
    assert_eq!(connection.close_code(), Some(1000));
    connection.send_text("and its reward");
    connection.send_close(1000);
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(client.stdout.lines(), ["and its reward"]);
    client.stderr.line_with(&["not connected: refused with HTTP status 503"]);
}

#[test]
fn nobody_reading_its_output_is_an_error_of_one_line() {
    let server = serve(&["127.0.0.1:0"]);
    let (reader, broken) = io::pipe().unwrap();
    drop(reader);
    let (mut client, mut stdin) = Process::start_typing(heartwire(&["connect", &url(&server)]).stdout(broken));
    type_line(&mut stdin, "hello?");
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: "]);
    server.stderr.line_with(&["#1 ", "ended: closed by peer with 1011"]);
}

// Under somebody's fingers.

#[test]
fn lines_are_sent_as_they_are_typed_and_messages_printed_as_they_come() {
    let server = serve(&["127.0.0.1:0"]);
    let (mut client, mut stdin) = connect(&url(&server), &[]);
    for line in ["hello", "are you there?"] {
        type_line(&mut stdin, line);
        assert_eq!(client.stdout.line_with(&[line]), line);
    }
    client.stderr.line_with(&["#1 ", "opened /"]);
    drop(stdin);
    assert_eq!(client.wait().code(), Some(0));
}

#[test]
fn binary_messages_are_named_by_their_size() {
    let server = BareServer::bind();
    let (client, _stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    let mut connection = server.open();
    connection.send(BINARY, &[0; 100]);
    client.stdout.line_with(&["[100 bytes]"]);
}

#[test]
fn round_trips_misses_closures_and_reconnections_are_seen() {
    let server = BareServer::bind();
    let beat = ["--ping-interval", "200ms", "--pong-timeout", "200ms", "--max-missed", "2"];
    let (client, mut stdin) = connect(&format!("ws://{}/", server.address()), &beat);
    let mut connection = server.open();
    let ping = connection.frame();
    assert_eq!(ping.opcode, PING);
    connection.send(PONG, &ping.payload);
    client.stderr.line_with(&["#1 round trip "]);
    for line in ["missed Pong 1 of 2", "missed Pong 2 of 2", "ended: heartbeat lost"] {
        client.stderr.line_with(&["#1 ", line]);
    }
    client.stderr.line_with(&["retrying in"]);
    let mut again = server.open();
    client.stderr.line_with(&["#2 ", "opened /"]);
    type_line(&mut stdin, "back again");
    assert_eq!(again.text(), "back again");
}

#[test]
fn a_line_typed_while_there_is_no_connection_waits_for_the_next() {
    let server = BareServer::bind();
    let (client, mut stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    drop(server.open());
    client.stderr.line_with(&["#1 ", "ended: "]);
    let mut connection = server.accept();
    type_line(&mut stdin, "one");
    type_line(&mut stdin, "two");
    connection.upgrade("");
    assert_eq!((connection.text(), connection.text()), ("one".to_owned(), "two".to_owned()));
}

/// Runs the client on a terminal of its own, by script(1).
#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_nothing_in_a_message_is_obeyed() {
    use std::process::{Command, Stdio};

    const TEXT: &str = "\x1b[31mred\u{9b}2J\u{202e}gpj\u{2028}2026 [INFO ] #1 ended\r\n\u{7f}";
    let server = BareServer::bind();
    let url = format!("ws://{}/", server.address());
    let mut script = Command::new("script");
    script.args(["-qec", &format!("'{}' connect {url} --log-level off", env!("CARGO_BIN_EXE_heartwire")), "/dev/null"]);
    if Command::new("script").arg("--version").output().is_err() {
        return println!("skipped: a terminal: script is not installed");
    }
    let (on_terminal, _stdin) = Process::start_typing(script.stdout(Stdio::piped()).stderr(Stdio::piped()));
    server.open().send_text(TEXT);
    let line = on_terminal.stdout.line_with(&["red"]);
    let shown = r"\u{1b}[31mred\u{9b}2J\u{202e}gpj\u{2028}2026 [INFO ] #1 ended\r\n\u{7f}";
    assert_eq!(line.trim_end(), shown);

    let server = BareServer::bind();
    let (in_a_pipe, _stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    server.open().send_text(TEXT);
    in_a_pipe.stdout.line_with(&["\u{7f}"]);
    assert_eq!(
        in_a_pipe.stdout.lines().join("\n"),
        TEXT.replace("\r\n", "\n"),
        "as it came, but for the reader's lines"
    );
}

// Options.

#[test]
fn headers_and_subprotocols_are_sent_and_announcements_made() {
    let server = BareServer::bind();
    let url = format!("ws://{}/devices/7?x=y", server.address());
    let options = ["--header", "Authorization: Bearer a:b", "--header", "X-Other:1", "--subprotocol", "one"];
    let beat = ["--subprotocol", "two", "--ping-interval", "30s", "--announce"];
    let (client, _stdin) = connect(&url, &[&options[..], &beat].concat());
    let mut connection = server.accept();
    let request = connection.upgrade("Sec-WebSocket-Protocol: two\r\n");
    for line in [
        "GET /devices/7?x=y HTTP/1.1",
        &format!("Host: {}", server.address()),
        "Authorization: Bearer a:b",
        "X-Other: 1",
        "Sec-WebSocket-Protocol: one, two",
    ] {
        assert!(request.lines().any(|it| it == line), "{line:?} in {request}");
    }
    let ping = connection.frame();
    assert!(ping.opcode == PING && ping.payload.starts_with(b"next=30000"), "{ping:?}");
    let line = client.stderr.line_with(&["opened /devices/7"]);
    assert!(line.ends_with("/devices/7"), "without the query: {line}");
}

#[test]
fn a_heartbeat_that_is_off_sends_nothing() {
    let server = BareServer::bind();
    let (mut client, stdin) = connect(&format!("ws://{}/", server.address()), &["--ping-interval", "off"]);
    let mut connection = server.open();
    drop(stdin);
    assert_eq!(connection.frame().opcode, CLOSE, "the first of all frames");
    connection.send_close(1000);
    assert_eq!(client.wait().code(), Some(0));
}

// How it ends.

#[test]
fn without_reconnection_a_lost_connection_or_none_is_one_line_and_exit_1() {
    /// How a server loses its client, and how that begins to be told.
    type Loss = (&'static str, fn(BareConnection));
    let losses: [Loss; 3] = [
        ("connection closed: closed by peer with 1001", |connection| connection.close(1001)),
        ("connection closed: ", drop),
        ("connection closed: ", BareConnection::reset),
    ];
    for (line, lose) in losses {
        let server = BareServer::bind();
        let (mut client, _stdin) = connect(&format!("ws://{}/", server.address()), &["--no-reconnect"]);
        lose(server.open());
        assert_eq!(client.wait().code(), Some(1));
        client.stderr.line_with(&["error: ", line]);
    }
    let nobody = BareServer::bind().address();
    let (mut client, _stdin) = connect(&format!("ws://{nobody}/"), &["--no-reconnect"]);
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: cannot connect: "]);
}

#[test]
fn what_is_fatal_is_one_line_and_exit_1_although_it_would_reconnect() {
    let server = BareServer::bind();
    let (mut client, _stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    server.answer(&refusal(401, ""));
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: refused with HTTP status 401"]);
}

#[test]
fn a_bad_command_line_is_one_line_that_says_what_to_do_and_exit_2() {
    const URL: &str = "ws://127.0.0.1/";
    for (url, bad, named, advice) in [
        (URL, &["--header", "no colon"][..], "--header", "expected a header such as"),
        (URL, &["--header", "Host: x"], "--header", "the URL says which host"),
        (URL, &["--subprotocol", ""], "--subprotocol", "expected a name without spaces"),
        (URL, &["--ping-interval", "soon"], "--ping-interval", "expected a duration such as"),
        (URL, &["--max-missed", "0"], "--max-missed", "must be 1 or more"),
        (URL, &["--ping-interval", "off", "--max-missed", "2"], "--max-missed", "with --ping-interval off"),
        (URL, &["--ping-interval", "off", "--announce"], "--announce", "with --ping-interval off"),
        (URL, &["--mode", "echo"], "--mode", "(try heartwire connect --help)"),
        (URL, &["ws://127.0.0.1/"], "ws://***", "(try heartwire connect --help)"),
        ("http://127.0.0.1/", &[], "invalid URL \"http://127.0.0.1/\"", "expected ws://"),
        ("127.0.0.1:9001", &[], "invalid URL \"127.0.0.1:9001\"", "expected ws://"),
        ("ws://127.0.0.1:99999/", &[], "invalid URL", "the port is not valid"),
        (
            "ws://user:***@127.0.0.1/",
            &[],
            "invalid URL \"ws://***@127.0.0.1/\"",
            "must not contain a user name or password",
        ),
    ] {
        let (mut client, _stdin) = connect(&url.replace("***", "secret"), bad);
        assert_eq!(client.wait().code(), Some(2), "{url} {bad:?}");
        let lines = client.stderr.lines();
        assert_eq!((lines.len(), client.stdout.lines().len()), (1, 0), "{url} {bad:?}: {lines:#?}");
        let line = &lines[0];
        assert!(line.starts_with("error: ") && line.contains(named) && line.contains(advice), "{url} {bad:?}: {line}");
    }
}

#[cfg(unix)]
mod signals {
    use super::*;
    use crate::support::{client, listen, run};
    use heartwire::HeartbeatPolicy;

    #[test]
    fn each_signal_closes_with_1000_and_is_exit_0() {
        for signal in ["INT", "TERM", "HUP"] {
            let server = serve(&["127.0.0.1:0"]);
            let (mut client, _stdin) = connect(&url(&server), &[]);
            client.stderr.line_with(&["#1 ", "opened"]);
            client.signal(signal);
            assert_eq!(client.wait().code(), Some(0), "{signal}");
            server.stderr.line_with(&["#1 ", "ended: closed by peer with 1000"]);
        }
    }

    #[test]
    fn a_signal_ends_a_pause_and_an_attempt_at_once_as_well() {
        // In a handshake that is never answered.
        let server = BareServer::bind();
        let (mut client, _stdin) = connect(&format!("ws://{}/", server.address()), &["--handshake-timeout", "1h"]);
        let mut held = server.accept();
        held.request();
        client.signal("INT");
        assert_eq!(client.wait().code(), Some(0));
        // In a pause as long as the server wants.
        let (mut client, _stdin) = connect(&format!("ws://{}/", server.address()), &[]);
        server.answer("HTTP/1.1 503 Later\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n");
        client.stderr.line_with(&["retrying in 300", "3600s (Retry-After)"]);
        client.signal("INT");
        assert_eq!(client.wait().code(), Some(0));
    }

    #[test]
    fn a_stopped_server_is_found_within_the_bound_and_the_client_is_back_when_it_goes_on() {
        let policy = HeartbeatPolicy::new(Duration::from_millis(200), Duration::from_millis(200)).max_missed(2);
        let server = serve(&["127.0.0.1:0", "--ping-interval", "100ms", "--pong-timeout", "10s"]);
        let connected = client(server.address()).heartbeat(policy).handshake_timeout(Duration::from_millis(500));
        let connected = run(connected, listen);
        assert!(connected.handle.wait_connected(CEILING));
        server.signal("STOP");
        let stopped = Instant::now();
        let report = connected.closed();
        let found = stopped.elapsed();
        println!("a stopped server was found dead after {found:?}, worst case {:?}", policy.worst_case().unwrap());
        assert!(matches!(report.reason, heartwire::CloseReason::HeartbeatLost { missed: 2, .. }));
        // Its last Ping or Pong was here one interval earlier at most.
        assert!(found >= 2 * Duration::from_millis(200) - Duration::from_millis(100), "{found:?}");
        assert!(found < policy.worst_case().unwrap() + Duration::from_secs(10), "{found:?}");
        // Its kernel still takes connections; its silence in the handshake is found as well.
        let (error, is_fatal) = connected.connect_failed();
        assert!(error.contains("took too long") && !is_fatal, "{error}");
        server.signal("CONT");
        eventually("the client is back", || connected.handle.stats().opened == 2);
        connected.stop();
    }

    #[test]
    fn a_killed_server_that_is_started_again_on_its_port_gets_the_program_back() {
        let server = serve(&["127.0.0.1:0"]);
        let address = server.address().to_string();
        let (client, mut stdin) = connect(&url(&server), &[]);
        type_line(&mut stdin, "before");
        client.stdout.line_with(&["before"]);
        server.signal("KILL");
        client.stderr.line_with(&["#1 ", "ended: "]);
        drop(server);
        let _again = serve(&[&address]);
        client.stderr.line_with(&["#2 ", "opened"]);
        type_line(&mut stdin, "after");
        client.stdout.line_with(&["after"]);
    }
}

/// A name server that never answers, in a network namespace of its own. Only root can make one.
#[cfg(target_os = "linux")]
mod names {
    use super::*;
    use std::fs;
    use std::process::{Command, Stdio};

    /// `$0` is the file that takes the place of /etc/resolv.conf; the rest is the command.
    const NAMESPACE: &str = "set -e
        ip link set lo up
        ip link add hole0 type veth peer name hole1
        ip addr add 10.9.9.1/24 dev hole0
        ip link set hole0 up
        ip link set hole1 up
        ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 dev hole0
        printf 'nameserver 10.9.9.9\\noptions timeout:30 attempts:5\\n' > \"$0\"
        mount --bind \"$0\" /etc/resolv.conf
        echo \"pid $$\"
        exec \"$@\"";

    fn in_a_namespace(command: &[&str]) -> Command {
        let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/resolv.conf");
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "sh", "-c", NAMESPACE, file]).args(command);
        unshare
    }

    #[test]
    fn a_signal_does_not_wait_for_a_name_server_that_does_not_answer() {
        if !in_a_namespace(&["true"]).output().is_ok_and(|output| output.status.success()) {
            return println!("skipped: network namespaces can only be made by root");
        }
        let program = env!("CARGO_BIN_EXE_heartwire");
        let mut command = in_a_namespace(&[program, "connect", "ws://slow.example/"]);
        let (mut client, _stdin) = Process::start_typing(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let pid = client.stdout.line_with(&["pid "]).split_off(4);
        eventually("the name is being resolved", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
            let mut names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
            names.any(|name| name.starts_with("heartwire-dial"))
        });
        client.signal("INT");
        // Two and a half minutes before the resolver gives up.
        assert_eq!(client.wait().code(), Some(0), "{:#?}", client.stderr.lines());
        assert!(!client.stderr.lines().iter().any(|line| line.contains("not connected")));
    }
}
