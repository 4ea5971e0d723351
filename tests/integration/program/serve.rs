//! `heartwire serve`: its lines, its log, its signals and its exit codes. What its options do is in `serve_options.rs`.

use std::io::{self, PipeWriter};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::support::CEILING;
use crate::support::process::{
    Process, bare_connect, connect, hang_up, heartwire, http, next_message, next_text, serve, start_client, type_line,
};

#[test]
fn one_line_tells_the_address_really_bound_and_the_worst_case() {
    for command in [&["serve"][..], &[]] {
        let heartbeat = ["--ping-interval", "500ms", "--pong-timeout", "500ms", "--max-missed", "3"];
        let server = serve(&[command, &["127.0.0.1:0"], &heartbeat].concat());
        assert_ne!(server.address().port(), 0);
        assert_eq!(next_echo(&server), "hello");
        let [line] = &server.stdout.lines()[..] else { panic!("one line: {:?}", server.stdout.lines()) };
        assert!(line.contains("a dead peer is found within 2s"), "{line}");
    }
}

fn next_echo(server: &Process) -> String {
    let mut client = connect(server.address(), "/");
    client.send("hello".into()).unwrap();
    next_text(&mut client)
}

#[test]
fn echo_is_the_default_for_text_binary_and_a_mebibyte() {
    let server = serve(&["127.0.0.1:0"]);
    let mut client = connect(server.address(), "/");
    for message in [Message::text("grüß dich"), Message::binary(vec![0, 255]), Message::binary(vec![7; 1 << 20])] {
        client.send(message.clone()).unwrap();
        // Not by assert_eq, which would print a mebibyte.
        assert!(next_message(&mut client) == message, "{} bytes", message.len());
    }
}

#[test]
fn ipv6_is_served_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("this machine has no IPv6");
    }
    let server = serve(&["[::1]:0"]);
    assert!(server.address().is_ipv6());
    assert_eq!(next_echo(&server), "hello");
    server.stderr.line_with(&["#1 [::1]:", "opened /"]);
}

#[test]
fn health_checks_are_answered_even_when_the_server_is_full() {
    let server = serve(&["127.0.0.1:0", "--max-connections", "1"]);
    let _only = connect(server.address(), "/");
    let answer = http(server.address(), "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = http(server.address(), "HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = http(server.address(), "GET /elsewhere HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
}

#[test]
fn the_log_has_one_line_for_an_opening_and_one_for_a_closure_with_all_there_is_to_know() {
    // So few connections that no limit of open files is worth a line.
    let server = serve(&["127.0.0.1:0", "--ping-interval", "100ms", "--max-connections", "10"]);
    let mut client = connect(server.address(), "/chat?room=1");
    let peer = client.get_ref().local_addr().unwrap().to_string();
    let line = server.stderr.line_with(&["INFO", &format!("#1 {peer} opened ")]);
    assert!(line.ends_with(" opened /chat"), "without the query: {line}");
    // One round trip, and the one that is under way may come through or not.
    assert_eq!(client.read().unwrap(), Message::Ping("1".into()));
    client.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut client), "hello");
    hang_up(client, CloseCode::Normal, "enough");

    let line = server.stderr.line_with(&["INFO", &format!("#1 {peer} ended:")]);
    for part in [
        "closed by peer with 1000 \"enough\"",
        "open ",
        "1 message in, ",
        "1 message out, ",
        "Pongs missed 0",
        "last round trip ",
    ] {
        assert!(line.contains(part), "{part:?} in {line:?}");
    }
    assert_eq!(server.stderr.lines().len(), 2, "{:#?}", server.stderr.lines());
}

#[test]
fn the_log_has_one_line_for_each_miss_and_names_the_heartbeat_as_the_cause() {
    let beat = ["--ping-interval", "200ms", "--pong-timeout", "200ms", "--max-missed", "2"];
    let server = serve(&[&["127.0.0.1:0"][..], &beat].concat());
    let silent = bare_connect(server.address());
    let peer = silent.local_addr().unwrap().to_string();
    let line = server.stderr.line_with(&["WARN", &format!("#1 {peer} ended:")]);
    for part in [
        "heartbeat lost (2 Pongs missed)",
        "open ",
        "0 messages in, ",
        "0 messages out, ",
        "Pongs missed 2",
        "no round trip",
    ] {
        assert!(line.contains(part), "{part:?} in {line:?}");
    }
    let lines = server.stderr.lines();
    let misses = lines.iter().filter(|line| line.contains("missed Pong")).collect::<Vec<_>>();
    assert_eq!(misses.len(), 2, "{lines:#?}");
    for (number, line) in ["1 of 2", "2 of 2"].into_iter().zip(misses) {
        assert!(line.contains("WARN") && line.contains(&format!("#1 {peer} missed Pong {number}")), "{line}");
    }
}

#[test]
fn a_bad_command_line_is_one_line_that_says_what_to_do_and_exit_2() {
    for (bad, named, advice) in [
        (&["--no-such-option"][..], "--no-such-option", "(try heartwire --help)"),
        (&["--ping-intervall", "3s"], "'--ping-intervall'", "a similar argument exists: '--ping-interval'"),
        (&["--ping-interval", "soon"], "--ping-interval", "expected a duration such as"),
        (&["--ping-interval", "20"], "--ping-interval", "needs a unit, such as 20s or 20ms"),
        (&["--ping-interval", "-5s"], "--ping-interval", "must be 1ms or more"),
        (&["--pong-timeout", "0s"], "--pong-timeout", "must be 1ms or more"),
        (&["--max-missed", "0"], "--max-missed", "must be 1 or more"),
        (&["--max-missed", "-1"], "--max-missed", "must be 1 or more"),
        (&["--liveness", "maybe"], "--liveness", "[possible values: any-byte, pong-only]"),
        (&["--mode", "chat"], "--mode", "[possible values: echo, broadcast"),
        (&["--max-connections", "-1"], "--max-connections", "must be 1 or more"),
        (&["--max-connections", "18446744073709551615"], "--max-connections", "must be 4194304 or less"),
        (&["--max-message-size", "big"], "--max-message-size", "expected a number of bytes such as"),
        (&["--queue-size", "0"], "--queue-size", "must be 1 or more"),
        (&["--queue-size", "9999999GiB"], "--queue-size", "must be 1024GiB or less"),
        (&["--read-buffer-size"], "--read-buffer-size", "(try heartwire --help)"),
        (&["--read-buffer-size", "1GiB"], "--read-buffer-size", "must be 16MiB or less"),
        (&["--handshake-timeout", "off"], "--handshake-timeout", "expected a duration such as"),
        (&["--close-timeout", "5"], "--close-timeout", "needs a unit, such as 5s or 5ms"),
        (&["--allow-origin", "example.org"], "--allow-origin", "expected an origin such as"),
        (&["--trust-proxy", "10.0.0.1/8"], "--trust-proxy", "10.0.0.1 is one address in the network 10.0.0.0/8"),
        (&["--log-level", "loud"], "--log-level", "[possible values: off, error"),
        (&["--status", "--no-status"], "--status", "cannot be used with '--no-status'"),
        (&["--expect", "5s"], "--expect", "without --heartbeat peer; add that"),
        (&["--announcements", "1s..5s"], "--announcements", "without --heartbeat peer; add that"),
        (&["--heartbeat", "peer", "--ping-interval", "5s"], "--ping-interval", "use --expect"),
        (&["--heartbeat", "off", "--max-missed", "5"], "--max-missed", "with --heartbeat off; leave one"),
        (&["--ping-interval", "off", "--max-missed", "5"], "--max-missed", "with --ping-interval off"),
        (&["--pong-timeout", "off", "--max-missed", "5"], "--max-missed", "with --pong-timeout off"),
        (&["serve", "127.0.0.1:70000"], "127.0.0.1:70000", "expected HOST:PORT or PORT"),
        (&["127.0.0.1"], "127.0.0.1", "expected HOST:PORT or PORT"),
        (&["70000"], "70000", "expected HOST:PORT or PORT"),
        (&["nowhere"], "nowhere", "neither a command (such as serve or connect) nor an address; expected HOST:PORT"),
        (&["--mode", "echo", "nowhere"], "nowhere", "neither a command (such as serve or connect) nor an address"),
        (&["conect", "ws://127.0.0.1:9001/"], "conect", "a similar command exists: 'connect'"),
        (&["ws://127.0.0.1:9001/"], "[ADDRESS]", "URLs go with \"heartwire connect\""),
        (&["--mode", "echo", "connect"], "connect", "must come first"),
        (&["127.0.0.1:0", "nowhere"], "nowhere", "neither a command (such as serve or connect) nor an address"),
        (&["--drain", "2h"], "--drain", "must be 1h or less"),
        (&["--unix-mode", "rw-"], "--unix-mode", "expected permissions in octal, such as 660"),
        (&["connect"], "heartwire connect needs the URL", "heartwire connect ws://127.0.0.1:9001/"),
        #[cfg(feature = "completions")]
        (&["completions"], "heartwire completions needs the name of a shell", "heartwire completions bash"),
        #[cfg(feature = "completions")]
        (&["completions", "csh"], "csh", "[possible values: bash, elvish, fish, powershell, zsh]"),
        #[cfg(feature = "completions")]
        (&["manual", "help"], "help", "[possible values: serve, connect, check, subscribe, publish]"),
        (&["check"], "heartwire check needs the URL", "heartwire check ws://127.0.0.1:9001/"),
    ] {
        let line = failure(bad, 2);
        assert!(line.starts_with("error: ") && line.contains(named) && line.contains(advice), "{bad:?}: {line}");
    }
}

#[test]
#[cfg(unix)]
fn a_unix_socket_is_served_checked_connected_to_and_removed() {
    use std::os::unix::fs::PermissionsExt;

    let path = std::env::temp_dir().join(format!("heartwire-{}.sock", std::process::id()));
    let url = format!("unix:{}", path.display());
    let mut server = serve(&[&url, "--unix-mode", "600"]);
    let line = server.stdout.line_with(&["listening on "]);
    assert!(
        line.starts_with(&format!("listening on {url} (Ping every 20s")) && !line.contains("status page"),
        "{line}"
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for url in [url.clone(), format!("ws+unix://{}:/path", path.display())] {
        let mut check = Process::start(&mut heartwire(&["check", &url]));
        assert_eq!(check.wait().code(), Some(0), "{:?}", check.stderr.lines());
        check.stdout.line_with(&["ok: ", " round trip "]);
    }
    server.stderr.line_with(&["#2 unix socket opened /path"]);
    let (client, mut stdin) = start_client(&url, &["--log-level", "off"]);
    type_line(&mut stdin, "hello");
    client.stdout.line_with(&["hello"]);
    let mut second = serve(&[&url]);
    assert_eq!(second.wait().code(), Some(1));
    second.stderr.line_with(&["error: cannot listen on ", "another server listens there"]);
    drop(stdin);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists());
    let mut check = Process::start(&mut heartwire(&["check", &url]));
    assert_eq!(check.wait().code(), Some(1));
}

#[test]
fn several_addresses_are_served_and_each_has_its_line() {
    let mut from_environment = heartwire(&[]);
    from_environment.env("HEARTWIRE_ADDRESS", "127.0.0.1:0, 127.0.0.1:0");
    for mut command in [heartwire(&["127.0.0.1:0", "127.0.0.1:0"]), from_environment] {
        let server = Process::start(&mut command);
        let is_second = |line: &String| line.starts_with("listening on ws://") && !line.contains("Ping");
        let deadline = Instant::now() + CEILING;
        let second = loop {
            match server.stdout.lines().into_iter().find(is_second) {
                Some(line) => break line,
                None => assert!(Instant::now() < deadline, "one address only"),
            }
        };
        let second = second.rsplit('/').next().unwrap().parse().unwrap();
        assert_ne!(server.address(), second);
        for address in [server.address(), second] {
            let mut client = connect(address, "/");
            client.send("hello".into()).unwrap();
            assert_eq!(next_text(&mut client), "hello");
        }
    }
}

#[test]
fn options_can_come_from_the_environment_and_the_command_line_wins() {
    let server = Process::start(
        heartwire(&["--max-missed", "2"])
            .env("HEARTWIRE_ADDRESS", "127.0.0.1:0")
            .env("HEARTWIRE_PING_INTERVAL", "500ms")
            .env("HEARTWIRE_PONG_TIMEOUT", "250ms")
            .env("HEARTWIRE_MAX_MISSED", "9")
            .env("HEARTWIRE_MODE", ""),
    );
    let line = server.stdout.line_with(&["listening on "]);
    assert!(line.contains("a dead peer is found within 1s"), "{line}");
    assert_eq!(next_echo(&server), "hello");
}

#[test]
fn a_bad_variable_is_one_line_that_names_it_and_exit_2() {
    let mut process = Process::start(heartwire(&["127.0.0.1:0"]).env("HEARTWIRE_PING_INTERVAL", "20"));
    assert_eq!(process.wait().code(), Some(2));
    let lines = process.stderr.lines();
    let expected =
        "error: invalid value '20' for 'HEARTWIRE_PING_INTERVAL': a duration needs a unit, such as 20s or 20ms";
    assert_eq!(lines, [expected]);
}

#[test]
fn help_names_variables_and_shows_none_of_their_values() {
    for command in ["serve", "connect", "check"] {
        let secret = "Authorization: Bearer s3cret";
        let mut process = Process::start(
            heartwire(&[command, "--help"])
                .env("HEARTWIRE_HEADER", secret)
                .env("HEARTWIRE_URL", "ws://127.0.0.1/?s3cret")
                .env("HEARTWIRE_LOG_FILE", "s3cret"),
        );
        assert_eq!(process.wait().code(), Some(0));
        let help = process.stdout.lines().join(" ");
        assert!(help.contains("HEARTWIRE_LOG_FILE") && !help.contains("s3cret"), "{help}");
    }
}

#[test]
fn a_bare_port_is_an_address() {
    let address = free_address();
    let (_, port) = address.rsplit_once(':').unwrap();
    let server = serve(&[port]);
    assert_eq!(server.address().to_string(), address);
    assert_eq!(next_echo(&server), "hello");
}

#[test]
fn an_address_in_use_is_one_line_and_exit_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = failure(&[&address], 1);
    assert!(line.starts_with(&format!("error: cannot listen on {address}: ")), "{line}");
}

#[test]
fn a_log_file_that_cannot_be_written_is_one_line_and_exit_1() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let line = failure(&["127.0.0.1:0", "--log-file", directory], 1);
    assert!(line.starts_with("error: cannot write the log file ") && line.contains(directory), "{line}");
}

/// Runs the program to its failure: nothing on stdout, and one line on stderr, which it gives.
fn failure(arguments: &[&str], code: i32) -> String {
    let mut process = Process::start(heartwire(arguments).env("RUST_BACKTRACE", "1"));
    assert_eq!(process.wait().code(), Some(code), "{arguments:?}");
    assert_eq!(process.stdout.lines(), [""; 0], "{arguments:?}");
    let lines = process.stderr.lines();
    assert_eq!(lines.len(), 1, "{arguments:?}: {lines:#?}");
    lines.concat()
}

#[test]
fn help_and_version_are_on_stdout_and_no_failure() {
    for (argument, expected) in [("--help", "--ping-interval"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let mut process = Process::start(&mut heartwire(&[argument]));
        assert_eq!(process.wait().code(), Some(0));
        process.stdout.line_with(&[expected]);
        assert_eq!(process.stderr.lines(), [""; 0]);
    }
}

#[test]
fn help_is_grouped_and_ends_with_signals_examples_and_exit_codes() {
    let common = ["Heartbeat:", "Limits:", "Log:", "Values:", "Environment:", "Signals:", "Examples:", "Exit codes:"];
    for (command, is_server) in [(&["--help"][..], true), (&["serve", "--help"], true), (&["connect", "--help"], false)]
    {
        let mut process = Process::start(&mut heartwire(command));
        assert_eq!(process.wait().code(), Some(0));
        let lines = process.stdout.lines();
        let headings: Vec<_> = lines.iter().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
        let missing: Vec<_> = common.iter().filter(|heading| !headings.contains(&&heading.to_string())).collect();
        assert!(missing.is_empty(), "{command:?} has no {missing:?}: {headings:?}");
        assert_eq!(headings.contains(&&"Access:".to_owned()), is_server, "{command:?}: {headings:?}");
        let signals = lines.iter().find(|line| line.contains("SIGHUP")).expect("a line on SIGHUP");
        assert!(signals.contains("SIGINT") && signals.contains("SIGTERM"), "{signals}");
        assert_eq!(lines.last().map(|line| line.trim_start()), Some("130  a second signal"), "{command:?}");
    }
}

#[test]
fn output_that_nobody_reads_any_more_does_not_end_the_server() {
    let address = free_address();
    let mut command = heartwire(&[&address, "--log-level", "trace"]);
    let mut server = Process::start(command.stdout(broken_pipe()).stderr(broken_pipe()));
    let address = address.parse().unwrap();
    let deadline = Instant::now() + CEILING;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the server does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..3 {
        let mut client = connect(address, "/");
        client.send("hello".into()).unwrap();
        assert_eq!(next_text(&mut client), "hello");
        hang_up(client, CloseCode::Normal, "");
    }
    if cfg!(unix) {
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
}

/// An address that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The writing end of a pipe that has no reader any more.
fn broken_pipe() -> PipeWriter {
    io::pipe().unwrap().1
}

#[cfg(unix)]
mod signals {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::support::process::{close_code, tcp};

    #[test]
    fn each_signal_closes_with_1001_and_ends_with_a_summary() {
        for signal in ["INT", "TERM", "HUP"] {
            let mut server = serve(&["127.0.0.1:0"]);
            let mut client = connect(server.address(), "/");
            client.send("hello".into()).unwrap();
            assert_eq!(next_text(&mut client), "hello");
            let signalled = Instant::now();
            server.signal(signal);
            assert_eq!(close_code(client), 1001, "{signal}");
            assert_eq!(server.wait().code(), Some(0), "{signal}");
            assert!(signalled.elapsed() < Duration::from_secs(5), "{signal}: not within the close timeout");
            server.stderr.line_with(&["#1 ", "ended: server shutdown"]);
            let lines = server.stdout.lines();
            assert_eq!(lines.len(), 2, "{lines:?}");
            for part in ["opened 1, closed 1 (shutdown 1)", "Pongs missed 0", "1 message in, ", "1 message out, "] {
                assert!(lines[1].contains(part), "{part:?} in {lines:?}");
            }
        }
    }

    #[test]
    fn with_drain_the_first_signal_sends_away_in_turn_the_second_shuts_down_and_the_third_ends_at_once() {
        let mut server = serve(&["127.0.0.1:0", "--drain", "1h", "--close-timeout", "1h"]);
        let mut clients: Vec<_> = (0..2).map(|_| connect(server.address(), "/")).collect();
        let _stubborn = bare_connect(server.address());
        server.stderr.line_with(&["#3 ", "opened"]);
        server.signal("TERM");
        server.stderr.line_with(&["draining for 3600s; another signal shuts down at once"]);
        assert_eq!(close_code(clients.remove(0)), 1012);
        server.stderr.line_with(&["#1 ", "ended: server shutdown with 1012 \"restart; reconnect at once\""]);
        let mut second = clients.remove(0);
        second.send("still there".into()).unwrap();
        assert_eq!(next_text(&mut second), "still there");
        let health = http(server.address(), "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(health.starts_with("HTTP/1.1 503 ") && health.ends_with("draining\n"), "{health}");
        server.signal("TERM");
        server.stderr.line_with(&["shutting down; another signal ends at once"]);
        assert_eq!(close_code(second), 1001);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(130));
    }

    #[test]
    fn a_client_that_never_answers_delays_the_end_by_the_close_timeout_at_most() {
        let mut server = serve(&["127.0.0.1:0", "--close-timeout", "500ms"]);
        let _stubborn = bare_connect(server.address());
        let _undecided = tcp(server.address());
        server.stderr.line_with(&["#1 ", "opened"]);
        let signalled = Instant::now();
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        // Room for a slow machine, and yet less than it would be with the default of 5 s.
        assert!(signalled.elapsed() < Duration::from_secs(4), "{:?}", signalled.elapsed());
        server.stderr.line_with(&["#1 ", "ended: server shutdown"]);
    }

    #[test]
    fn a_second_signal_ends_at_once() {
        let mut server = serve(&["127.0.0.1:0", "--close-timeout", "1h"]);
        let _stubborn = bare_connect(server.address());
        server.stderr.line_with(&["#1 ", "opened"]);
        server.signal("INT");
        server.stderr.line_with(&["shutting down"]);
        server.signal("INT");
        let status = server.wait();
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
    }

    /// A standard error that is full, and its other end, which nobody reads.
    fn full_stderr() -> (UnixStream, OwnedFd) {
        let (unread, mut full) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        for chunk in [&[b'.'; 4096][..], b"."] {
            while full.write(chunk).is_ok() {}
        }
        full.set_nonblocking(false).unwrap();
        (unread, full.into())
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_neither_the_clients_nor_the_summary_nor_the_end() {
        let (_unread, full) = full_stderr();
        let mut server = Process::start(heartwire(&["127.0.0.1:0", "--log-level", "trace"]).stderr(full));
        // More lines than may wait.
        for _ in 0..1500 {
            drop(bare_connect(server.address()));
        }
        let mut client = connect(server.address(), "/");
        client.send("hello".into()).unwrap();
        assert_eq!(next_text(&mut client), "hello");
        server.signal("TERM");
        assert_eq!(close_code(client), 1001);
        assert_eq!(server.wait().code(), Some(0));
        server.stdout.line_with(&["summary: opened 1501, closed 1501"]);
    }

    #[test]
    fn a_log_that_nobody_reads_does_not_hold_up_the_second_signal() {
        let (_unread, full) = full_stderr();
        let mut server = Process::start(heartwire(&["127.0.0.1:0", "--close-timeout", "1h"]).stderr(full));
        let mut stubborn = bare_connect(server.address());
        server.signal("INT");
        // A Close frame: the first signal was taken. Nobody answers.
        stubborn.read_exact(&mut [0; 2]).unwrap();
        server.signal("INT");
        assert_eq!(server.wait().code(), Some(130));
    }
}
