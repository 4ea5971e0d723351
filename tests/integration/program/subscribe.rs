//! `heartwire subscribe`: what it prints, where it begins, and how it ends.

use std::fs;
use std::io;

use super::topics::{client, get, post, serve_topics};
use crate::support::process::{Process, heartwire};
use crate::support::{Folder, Relay, eventually};

fn url(server: &Process) -> String {
    format!("ws://{}/", server.address())
}

/// The subscriber, running with these arguments after the URL.
fn subscribe(url: &str, arguments: &[&str]) -> Process {
    Process::start(&mut heartwire(&[&["subscribe", url][..], arguments].concat()))
}

/// A subscriber that the server has accepted.
fn subscribed(url: &str, arguments: &[&str]) -> Process {
    let process = subscribe(url, arguments);
    process.stderr.line_with(&[": subscribed; "]);
    process
}

fn publish(server: &Process, topic: &str, text: &str) {
    let answer = post(server, &format!("/topics/{topic}"), "", text);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The position of the topic's last message.
fn position(server: &Process, topic: &str) -> String {
    let answer = get(server, &format!("/topics/{topic}"));
    let position = answer.rsplit(r#""position":""#).next().and_then(|rest| rest.split('"').next());
    position.unwrap_or_else(|| panic!("no position in {answer}")).to_owned()
}

#[test]
fn messages_of_one_topic_are_lines_and_a_signal_ends_it_in_order() {
    let server = serve_topics(&[]);
    let mut client = subscribed(&url(&server), &["news"]);
    for text in ["one", "grüß dich", ""] {
        publish(&server, "news", text);
    }
    post(&server, "/topics/news", "Content-Type: application/octet-stream\r\n", "\u{1}\u{2}");
    client.stdout.line_with(&["[2 bytes]"]);
    assert_eq!(client.stdout.lines(), ["one", "grüß dich", "", "[2 bytes]"]);
    #[cfg(unix)]
    {
        client.signal("INT");
        assert_eq!(client.wait().code(), Some(0), "{:#?}", client.stderr.lines());
        server.stderr.line_with(&["ended: closed by peer with 1000"]);
    }
}

#[test]
fn with_several_topics_each_line_names_its_own() {
    let server = serve_topics(&[]);
    let mut client = subscribed(&url(&server), &["news", "a b/c", "--count", "2"]);
    eventually("both are subscribed", || {
        client.stderr.lines().iter().filter(|line| line.contains("subscribed")).count() == 2
    });
    publish(&server, "news", "one");
    publish(&server, "a%20b/c", "two");
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(client.stdout.lines(), ["news\tone", "a b/c\ttwo"]);
}

#[test]
fn count_ends_it_after_so_many_and_since_earliest_begins_with_what_is_kept() {
    let server = serve_topics(&[]);
    for text in ["one", "two", "three"] {
        publish(&server, "news", text);
    }
    let mut client = subscribe(&url(&server), &["news", "--since", "earliest", "--count", "2"]);
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(client.stdout.lines(), ["one", "two"]);
    let last = position(&server, "news");
    publish(&server, "news", "four");
    let mut client = subscribe(&url(&server), &["news", "--since", &last, "--count", "1"]);
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(client.stdout.lines(), ["four"]);
}

#[test]
fn json_has_what_the_protocol_has() {
    let server = serve_topics(&["--presence"]);
    let mut client = subscribed(&url(&server), &["news", "--json", "--presence", "--count", "2"]);
    let list = client.stdout.line_with(&[r#""type":"presence""#]);
    assert!(list.contains(r#""members":[{"connection":"#) && list.contains(r#""state":"alive""#), "{list}");
    let mut other = self::client(&server);
    other.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news"}]}"#);
    client.stdout.line_with(&[r#""type":"joined""#]);
    assert!(other.text().contains("subscribed"));
    other.close();
    client.stdout.line_with(&[r#""type":"gone""#, r#""cause":"peer""#]);
    publish(&server, "news", "two\nlines \"quoted\"");
    post(&server, "/topics/news", "Content-Type: application/octet-stream\r\n", "\u{1}\u{2}");
    assert_eq!(client.wait().code(), Some(0));
    let epoch = position(&server, "news");
    let epoch = epoch.split(':').next().unwrap();
    let lines = client.stdout.lines();
    let expected = [
        format!(r#"{{"position":"{epoch}:1","text":"two\nlines \"quoted\"","topic":"news","type":"message"}}"#),
        format!(r#"{{"base64":"AQI=","position":"{epoch}:2","topic":"news","type":"message"}}"#),
    ];
    assert_eq!(lines[lines.len() - 2..], expected);
}

#[test]
fn presence_without_json_is_for_the_log() {
    let server = serve_topics(&["--presence"]);
    let client = subscribed(&url(&server), &["news", "--presence"]);
    client.stderr.line_with(&["news: subscribed: #"]);
    let mut other = self::client(&server);
    other.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news"}]}"#);
    client.stderr.line_with(&["news: #", " joined"]);
    assert_eq!(client.stdout.lines(), [""; 0]);
}

#[test]
fn a_topic_that_is_refused_ends_it_with_an_error_that_names_it() {
    let server = serve_topics(&[]);
    let mut client = subscribe(&url(&server), &["news", "user/alice"]);
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: cannot subscribe to user/alice: forbidden: it is not allowed"]);
}

#[test]
fn what_cannot_be_is_told_in_one_line() {
    let echo = crate::support::process::serve(&["127.0.0.1:0"]);
    let url = url(&echo);
    for (arguments, code, told) in [
        (&[&*url, "news"][..], 1, "the server has no topics"),
        (&[&url], 2, "needs the URL of a server and a topic"),
        (&[&url, "a//b"], 2, "the name of a topic, or a part of it, is empty"),
        (&[&url, "news", "--since", "42"], 2, "a position is EPOCH:OFFSET"),
        (&[&url, "a", "b", "--since", "4f2a90c1d3e5b607:42"], 2, "needs a single topic"),
        (&[&url, "news", "--count", "0"], 2, "1 or more"),
        (&["http://127.0.0.1/", "news"], 2, "expected ws://"),
        (&[&url, "news", "--token-file", "/nowhere/token"], 1, "token file /nowhere/token: it cannot be read"),
        (&[&url, "news", "--position-file", "/nowhere/at/all"], 1, "position file /nowhere/at/all: it cannot be"),
        (&[&url, "news", "--subprotocol", "x"], 2, "--subprotocol"),
    ] {
        let mut client = Process::start(&mut heartwire(&[&["subscribe"][..], arguments].concat()));
        assert_eq!(client.wait().code(), Some(code), "{arguments:?}");
        client.stderr.line_with(&["error: ", told]);
    }
}

#[test]
fn nobody_reading_its_output_is_an_error_of_one_line() {
    let server = serve_topics(&[]);
    let (reader, broken) = io::pipe().unwrap();
    drop(reader);
    let mut client = Process::start(heartwire(&["subscribe", &url(&server), "news"]).stdout(broken));
    client.stderr.line_with(&["news: subscribed"]);
    publish(&server, "news", "hello?");
    assert_eq!(client.wait().code(), Some(1));
    client.stderr.line_with(&["error: cannot write to standard output: "]);
}

#[cfg(unix)]
#[test]
fn through_restarts_nothing_is_missed_or_loss_is_told() {
    let folder = Folder::new();
    let path = folder.at("history");
    let options = ["--history-file", path.to_str().unwrap()];
    let mut server = serve_topics(&options);
    let relay = Relay::to(server.address());
    let client = subscribed(&format!("ws://{}/", relay.address()), &["news", "--json"]);
    publish(&server, "news", "one");
    client.stdout.line_with(&["one"]);
    relay.cut();
    publish(&server, "news", "two");
    server.signal("TERM");
    assert!(server.wait().success());
    let server = serve_topics(&options);
    publish(&server, "news", "three");
    relay.set_target(server.address());
    client.stdout.line_with(&["three"]);
    assert_eq!(client.stdout.lines().len(), 3, "{:#?}", client.stdout.lines());
    // Killed: there is no history.
    drop(server);
    let server = serve_topics(&options);
    relay.set_target(server.address());
    client.stdout.line_with(&[r#""type":"lost""#]);
    client.stderr.line_with(&["news: messages are lost", "going on after "]);
    publish(&server, "news", "four");
    client.stdout.line_with(&["four"]);
    assert_eq!(client.stdout.lines().len(), 5, "{:#?}", client.stdout.lines());
}

#[cfg(unix)]
#[test]
fn position_file_goes_on_where_the_last_run_ended_even_if_it_was_killed() {
    let folder = Folder::new();
    let path = folder.at("positions");
    let options = ["news", "chat", "--position-file", path.to_str().unwrap()];
    let server = serve_topics(&[]);
    let mut client = subscribed(&url(&server), &options);
    eventually("both are subscribed", || {
        client.stderr.lines().iter().filter(|line| line.contains("subscribed")).count() == 2
    });
    publish(&server, "news", "one");
    client.stdout.line_with(&["one"]);
    client.signal("TERM");
    assert!(client.wait().success());
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept.contains(&format!(r#""news": "{}""#, position(&server, "news"))), "{kept}");
    publish(&server, "news", "two");
    publish(&server, "chat", "hello");

    let client = subscribe(&url(&server), &options);
    client.stdout.line_with(&["two"]);
    client.stdout.line_with(&["hello"]);
    assert!(!client.stdout.lines().iter().any(|line| line.contains("one")), "{:#?}", client.stdout.lines());
    // It is kept while it runs.
    let kept = ["news", "chat"].map(|topic| format!(r#""{topic}": "{}""#, position(&server, topic)));
    eventually("it is kept", || kept.iter().all(|kept| fs::read_to_string(&path).unwrap().contains(kept)));
    client.signal("KILL");
    drop(client);
    publish(&server, "news", "three");
    let client = subscribe(&url(&server), &options);
    client.stdout.line_with(&["three"]);
    assert_eq!(client.stdout.lines(), ["news\tthree"], "all before it was kept");
    assert_eq!(folder.names(), ["positions"]);
}

#[cfg(feature = "jwt")]
#[test]
fn token_file_is_read_again_for_each_connection() {
    use crate::topics::tokens::{SECRET, token};
    let folder = Folder::new();
    let [secret, file] = ["secret", "token"].map(|name| folder.at(name));
    fs::write(&secret, SECRET).unwrap();
    let server = serve_topics(&["--jwt-key-file", secret.to_str().unwrap()]);
    let relay = Relay::to(server.address());
    let url = format!("ws://{}/", relay.address());
    let options = ["user/alice", "--token-file", file.to_str().unwrap()];

    // One that was never good ends it, and is shown nowhere.
    fs::write(&file, "not.a.token\n").unwrap();
    let mut refused = subscribe(&url, &options);
    assert_eq!(refused.wait().code(), Some(1));
    refused.stderr.line_with(&["error: ", "401"]);
    assert!(!refused.stderr.lines().iter().any(|line| line.contains("not.a.token")), "{:#?}", refused.stderr.lines());

    fs::write(&file, token("alice", "news", "chat", 60)).unwrap();
    let client = subscribed(&url, &options);
    server.stderr.line_with(&["alice"]);
    // Renewed too late: the client goes on trying, and reads it again.
    fs::write(&file, token("alice", "news", "chat", -60)).unwrap();
    relay.cut();
    client.stderr.line_with(&["not connected: refused with HTTP status 401"]);
    fs::write(&file, token("alice", "news", "chat", 60)).unwrap();
    eventually("it is back", || client.stderr.lines().iter().filter(|line| line.contains("subscribed")).count() == 2);
}
