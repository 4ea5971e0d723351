//! `heartwire publish`: each line is published once, whatever happens meanwhile, or the error names it.

use std::io::Write;
use std::thread;

use super::topics::{get, serve_topics};
use crate::support::process::{Process, heartwire, type_all, type_line};
use crate::support::{BareServer, Folder, Relay, eventually, refusal};

const OPEN: [&str; 2] = ["--allow-publish", "*"];

fn url(server: &Process) -> String {
    format!("ws://{}/", server.address())
}

fn publish(url: &str, arguments: &[&str]) -> (Process, std::process::ChildStdin) {
    Process::start_typing(&mut heartwire(&[&["publish", url, "news"][..], arguments].concat()))
}

/// The texts of all messages that the topic keeps.
fn texts(server: &Process) -> Vec<String> {
    let (mut texts, mut path) = (Vec::new(), "/topics/news".to_owned());
    loop {
        let answer = get(server, &path);
        let rests = answer.split(r#""text":""#).skip(1);
        texts.extend(rests.map(|rest| rest.split(r#""}"#).next().expect("the end of a text").to_owned()));
        // An answer has a part of a long history.
        if !answer.contains(r#""more":true"#) {
            return texts;
        }
        let last = answer.rsplit(r#""position":""#).next().and_then(|rest| rest.split('"').next());
        path = format!("/topics/news?since={}", last.expect("a position"));
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn kept(count: usize) -> String {
    format!("{count},64MiB,10m")
}

#[test]
fn all_lines_are_published_in_order_and_the_exit_status_says_so() {
    const LINES: usize = 5000;
    let server = serve_topics(&[&OPEN[..], &["--history", &kept(LINES)]].concat());
    let (mut publisher, stdin) = publish(&url(&server), &[]);
    type_all(stdin, numbers(LINES).join("\n"));
    assert_eq!(publisher.wait().code(), Some(0), "{:#?}", publisher.stderr.lines());
    assert_eq!(texts(&server), numbers(LINES));
    publisher.stderr.line_with(&["5000 messages published to news"]);
    assert_eq!(publisher.stdout.lines(), [""; 0]);
    server.stderr.line_with(&["ended: closed by peer with 1000"]);
}

#[test]
fn a_message_of_the_command_line_takes_the_place_of_the_input() {
    let server = serve_topics(&OPEN);
    for message in ["good morning", "-5", ""] {
        let mut publisher = Process::start(&mut heartwire(&["publish", &url(&server), "news", "-m", message]));
        assert_eq!(publisher.wait().code(), Some(0), "{:#?}", publisher.stderr.lines());
    }
    assert_eq!(texts(&server), ["good morning", "-5", ""]);
}

#[test]
fn lines_are_published_as_they_are_typed() {
    let server = serve_topics(&OPEN);
    let (mut publisher, mut stdin) = publish(&url(&server), &[]);
    for (number, line) in ["one", "", "three"].into_iter().enumerate() {
        type_line(&mut stdin, line);
        eventually("it is published", || texts(&server).len() == number + 1);
    }
    drop(stdin);
    assert_eq!(publisher.wait().code(), Some(0));
    assert_eq!(texts(&server), ["one", "", "three"]);
}

#[test]
fn an_empty_input_is_no_error() {
    let server = serve_topics(&OPEN);
    let (mut publisher, stdin) = publish(&url(&server), &[]);
    drop(stdin);
    assert_eq!(publisher.wait().code(), Some(0));
}

#[test]
fn what_is_refused_ends_it_and_is_named_and_the_server_is_asked_once() {
    let server = serve_topics(&[]);
    let (mut publisher, stdin) = publish(&url(&server), &[]);
    type_all(stdin, numbers(1000).join("\n"));
    assert_eq!(publisher.wait().code(), Some(1));
    publisher
        .stderr
        .line_with(&["error: line 1: the server refused it: forbidden: it is not allowed; not confirmed: "]);
    server.stderr.line_with(&["ended: closed by peer with 1000", " 1 message in, "]);
}

#[test]
fn a_line_that_is_too_long_ends_it_and_those_before_it_are_published() {
    let server = serve_topics(&OPEN);
    let (mut publisher, stdin) = publish(&url(&server), &["--max-message-size", "1000"]);
    type_all(stdin, format!("one\ntwo\n{}\nfour\n", "x".repeat(1000)));
    assert_eq!(publisher.wait().code(), Some(1));
    publisher
        .stderr
        .line_with(&["error: line 3: the message is larger than the maximum", "not confirmed: 2 lines (3 to 4)"]);
    assert_eq!(texts(&server), ["one", "two"]);
}

#[test]
fn input_that_is_no_text_is_an_error_after_what_came_before() {
    let server = serve_topics(&OPEN);
    let (mut publisher, mut stdin) = publish(&url(&server), &[]);
    stdin.write_all(b"one\n\xff\nthree\n").unwrap();
    drop(stdin);
    assert_eq!(publisher.wait().code(), Some(1));
    publisher.stderr.line_with(&["error: cannot read standard input: "]);
    assert_eq!(texts(&server), ["one"]);
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for_and_one_that_never_comes_is_an_error() {
    let server = BareServer::bind();
    let (mut publisher, mut stdin) = publish(&format!("ws://{}/", server.address()), &["--exit-timeout", "1s"]);
    type_line(&mut stdin, "one");
    type_line(&mut stdin, "two");
    server.answer(&refusal(503, ""));
    drop(stdin);
    assert_eq!(publisher.wait().code(), Some(1));
    publisher.stderr.line_with(&["not connected: refused with HTTP status 503"]);
    publisher
        .stderr
        .line_with(&["error: line 1: the server did not confirm it in time; not confirmed: 2 lines (1 to 2)"]);

    let server = BareServer::bind();
    let (mut publisher, mut stdin) = publish(&format!("ws://{}/", server.address()), &[]);
    type_line(&mut stdin, "one");
    server.answer(&refusal(404, ""));
    assert_eq!(publisher.wait().code(), Some(1));
    publisher.stderr.line_with(&["error: refused with HTTP status 404; not confirmed: 1 line (1)"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_input_and_what_was_read_is_published() {
    let server = serve_topics(&OPEN);
    let (mut publisher, mut stdin) = publish(&url(&server), &[]);
    type_line(&mut stdin, "one");
    eventually("it is published", || texts(&server).len() == 1);
    publisher.signal("INT");
    assert_eq!(publisher.wait().code(), Some(0), "{:#?}", publisher.stderr.lines());
    assert_eq!(texts(&server), ["one"]);

    // While the server takes nothing, a second one ends it at once.
    let server = BareServer::bind();
    let (mut publisher, mut stdin) = publish(&format!("ws://{}/", server.address()), &[]);
    type_line(&mut stdin, "one");
    let mut connection = server.accept();
    connection.upgrade("Sec-WebSocket-Protocol: heartwire.topics.v1\r\n");
    assert!(connection.text().contains(r#""text":"one""#));
    publisher.signal("INT");
    publisher.stderr.line_with(&["another signal ends at once"]);
    publisher.signal("INT");
    assert_eq!(publisher.wait().code(), Some(130));
}

#[cfg(unix)]
#[test]
fn over_cut_lines_and_restarts_each_line_is_published_once_and_in_order() {
    const LINES: usize = 4000;
    let folder = Folder::new();
    let path = folder.at("history");
    let count = kept(LINES);
    let options = [&OPEN[..], &["--history", &count, "--history-file", path.to_str().unwrap()]].concat();
    let mut server = serve_topics(&options);
    let relay = Relay::to(server.address());
    let (mut publisher, mut stdin) = publish(&format!("ws://{}/", relay.address()), &[]);
    // Few, for each short connection makes the pause before the next one longer.
    for round in 0..5 {
        let part: Vec<_> = (round * LINES / 5..(round + 1) * LINES / 5).map(|number| number.to_string()).collect();
        let writer = thread::spawn(move || {
            stdin.write_all((part.join("\n") + "\n").as_bytes()).unwrap();
            stdin
        });
        eventually("some of it is published", || texts(&server).len() > round * LINES / 5 + LINES / 40);
        if round % 2 == 0 {
            relay.cut();
        } else {
            server.signal("TERM");
            assert!(server.wait().success());
            server = serve_topics(&options);
            relay.set_target(server.address());
        }
        stdin = writer.join().unwrap();
    }
    drop(stdin);
    assert_eq!(publisher.wait().code(), Some(0), "{:#?}", publisher.stderr.lines());
    assert!(relay.made() >= 5, "{}", relay.made());
    assert_eq!(texts(&server), numbers(LINES));
}

#[cfg(feature = "jwt")]
#[test]
fn token_file_grants_publishing() {
    use crate::topics::tokens::{SECRET, token};
    let folder = Folder::new();
    let [secret, file] = ["secret", "token"].map(|name| folder.at(name));
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::write(&file, token("alice", "news", "news", 60)).unwrap();
    let server = serve_topics(&["--jwt-key-file", secret.to_str().unwrap()]);
    for (options, code) in [(&["-m", "x", "--token-file", file.to_str().unwrap()][..], 0), (&["-m", "x"], 1)] {
        let mut publisher =
            Process::start(&mut heartwire(&[&["publish", &url(&server), "news"][..], options].concat()));
        assert_eq!(publisher.wait().code(), Some(code), "{:#?}", publisher.stderr.lines());
    }
}
