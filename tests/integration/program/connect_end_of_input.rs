//! The end of `heartwire connect` when its input is over: what it still sends, how long it tries, and its exit status.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::process::{serve, start_client as connect, type_all, type_line};
use crate::support::{BareServer, refusal};

#[test]
fn with_everything_sent_and_no_connection_it_ends_with_exit_0() {
    let server = BareServer::bind();
    let (mut client, mut stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    let mut connection = server.open();
    type_line(&mut stdin, "all there is");
    assert_eq!(connection.text(), "all there is");
    drop((connection, server));
    client.stderr.line_with(&["not connected: "]);
    drop(stdin);
    assert_eq!(client.wait().code(), Some(0), "{:#?}", client.stderr.lines());
}

#[test]
fn with_lines_unsent_it_goes_on_for_the_exit_timeout_and_says_how_many() {
    let nobody = BareServer::bind().address();
    let (mut client, mut stdin) = connect(&format!("ws://{nobody}/"), &["--exit-timeout", "700ms"]);
    for line in ["one", "two", "three"] {
        type_line(&mut stdin, line);
    }
    let over = Instant::now();
    drop(stdin);
    assert_eq!(client.wait().code(), Some(1));
    assert!(over.elapsed() >= Duration::from_millis(700), "{:?}", over.elapsed());
    client.stderr.line_with(&["3 lines wait for a connection, for 700ms at most"]);
    assert_eq!(client.stderr.lines().last().map(String::as_str), Some("error: not sent: 3 lines"));
}

#[test]
fn a_server_that_comes_within_the_exit_timeout_gets_the_lines() {
    let server = BareServer::bind();
    let (mut client, mut stdin) = connect(&format!("ws://{}/", server.address()), &["--exit-timeout", "1m"]);
    type_line(&mut stdin, "late");
    drop(stdin);
    server.answer(&refusal(503, ""));
    client.stderr.line_with(&["1 line waits for a connection, for 1m at most"]);
    let mut connection = server.open();
    assert_eq!(connection.text(), "late");
    connection.expect_close(1000);
    assert_eq!(client.wait().code(), Some(0));
}

#[test]
fn an_empty_input_tells_whether_there_is_a_server() {
    let nobody = BareServer::bind().address();
    let (mut client, stdin) = connect(&format!("ws://{nobody}/"), &[]);
    drop(stdin);
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: cannot connect: "]);
}

/// More than the buffers of both systems and our queue take.
fn many_lines() -> Vec<String> {
    (0..256).map(|number| format!("{number:064}").repeat(1024)).collect()
}

#[test]
fn a_server_that_takes_nothing_is_exit_1_with_what_was_not_sent() {
    let server = BareServer::bind();
    let timeouts = ["--exit-timeout", "500ms", "--close-timeout", "200ms", "--ping-interval", "off"];
    let (mut client, stdin) = connect(&format!("ws://{}/", server.address()), &timeouts);
    let _deaf = server.open();
    type_all(stdin, many_lines().join("\n"));
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: not sent: ", " lines and ", " B that a lost connection had accepted"]);
}

#[test]
fn what_a_lost_connection_had_accepted_is_exit_1_although_the_next_took_the_rest() {
    let server = BareServer::bind_with_little_room();
    let beat = ["--ping-interval", "200ms", "--pong-timeout", "1s", "--max-missed", "3"];
    let (mut client, stdin) = connect(&format!("ws://{}/", server.address()), &beat);
    let _deaf = server.open();
    type_all(stdin, many_lines().join("\n") + "\nlast");
    client.stderr.line_with(&["#1 ", "ended: ", " B unsent"]);
    let mut connection = server.open();
    while connection.text() != "last" {}
    connection.expect_close(1000);
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: not sent: ", " B that a lost connection had accepted"]);
}

#[test]
fn a_slow_server_gets_everything_however_short_the_close_timeout() {
    let server = BareServer::bind();
    let timeouts = ["--close-timeout", "100ms", "--ping-interval", "off"];
    let (mut client, stdin) = connect(&format!("ws://{}/", server.address()), &timeouts);
    let mut connection = server.open();
    let lines = many_lines();
    type_all(stdin, lines.join("\n"));
    for line in lines {
        thread::sleep(Duration::from_millis(5));
        // Not by assert_eq, which would print it.
        assert!(connection.text() == line, "another line");
    }
    drop(connection);
    assert_eq!(client.wait().code(), Some(0), "{:#?}", client.stderr.lines());
}

#[test]
fn input_that_is_no_text_is_one_line_and_exit_1() {
    let server = serve(&["127.0.0.1:0"]);
    let (mut client, mut stdin) = connect(&format!("ws://{}/", server.address()), &[]);
    stdin.write_all(b"text\n\xff\n").unwrap();
    drop(stdin);
    assert_eq!(client.wait().code(), Some(1));
    assert_eq!(client.stdout.lines(), ["text"], "what came before was sent");
    client.stderr.line_with(&["error: cannot read standard input: "]);
}
