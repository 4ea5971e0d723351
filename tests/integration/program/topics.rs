//! `heartwire serve --mode topics`, from outside.

use std::fs;
use std::process::Stdio;

use crate::support::process::{Process, connect, heartwire, http, next_text, serve};
use crate::support::{Client, Folder, eventually, request_with};

pub(super) fn serve_topics(options: &[&str]) -> Process {
    serve(&[&["127.0.0.1:0", "--mode", "topics"], options].concat())
}

pub(super) fn post(server: &Process, path: &str, headers: &str, body: &str) -> String {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}");
    http(server.address(), &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

pub(super) fn get(server: &Process, path: &str) -> String {
    http(server.address(), &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

/// A client of the subprotocol.
pub(super) fn client(server: &Process) -> Client {
    let request = request_with("/", "Sec-WebSocket-Protocol: heartwire.topics.v1\r\n");
    let mut client = Client::tcp(server.address()).upgraded(&request);
    assert!(client.text().starts_with("heartwire {"));
    client
}

#[test]
fn what_is_posted_reaches_subscribers_of_both_kinds() {
    let server = serve_topics(&[]);
    let mut bare = connect(server.address(), "/topics/news");
    let mut speaking = client(&server);
    speaking.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news"}]}"#);
    speaking.text();
    // A client of a path has opened a moment before it is subscribed.
    eventually("both are subscribed", || get(&server, "/metrics").contains("\nheartwire_subscriptions 2.0\n"));
    let answer = post(&server, "/topics/news", "", "hello");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#""here":2}"#), "{answer}");
    assert_eq!(next_text(&mut bare), "hello");
    assert!(speaking.text().ends_with(r#""text":"hello"}"#));
    // Others are told what to do.
    let answer = http(server.address(), &request_with("/", ""));
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("heartwire.topics.v1"), "{answer}");
}

#[test]
fn a_message_may_be_as_long_as_max_message_size_says() {
    for (options, longest) in [(&[][..], 1024 * 1024), (&["--max-message-size", "100"], 100)] {
        let server = serve_topics(options);
        let status = |length: usize| post(&server, "/topics/news", "", &"x".repeat(length));
        assert!(status(longest).starts_with("HTTP/1.1 200"));
        let refused = status(longest + 1);
        assert!(refused.starts_with("HTTP/1.1 413") && refused.contains(r#"{"error":"too-large""#), "{refused}");
    }
}

#[test]
fn history_says_how_much_is_kept() {
    let server = serve_topics(&["--history", "2,1MiB,10m"]);
    for text in ["one", "two", "three"] {
        post(&server, "/topics/news", "", text);
    }
    let history = get(&server, "/topics/news");
    assert!(!history.contains("one") && history.contains("two") && history.contains("three"), "{history}");
    let server = serve_topics(&["--history", "off"]);
    post(&server, "/topics/news", "", "one");
    assert!(get(&server, "/topics/news").ends_with(r#""messages":[]}"#));
}

#[cfg(unix)]
#[test]
fn history_file_keeps_the_history_over_an_orderly_restart() {
    let folder = Folder::new();
    let path = folder.at("history");
    let options = ["--history-file", path.to_str().unwrap()];
    let mut server = serve_topics(&options);
    post(&server, "/topics/news", "", "before the restart");
    let before = get(&server, "/topics/news");
    server.signal("TERM");
    assert!(server.wait().success());
    let server = serve_topics(&options);
    let after = get(&server, "/topics/news");
    assert!(after.contains("before the restart"));
    assert_eq!(after.lines().next_back(), before.lines().next_back(), "with the same positions");
    assert!(!path.exists(), "or a crash would use it again");
}

#[test]
fn presence_is_told_if_asked_for() {
    assert!(get(&serve_topics(&[]), "/topics/news/presence").starts_with("HTTP/1.1 404"));
    assert!(get(&serve_topics(&["--presence"]), "/topics/news/presence").ends_with(r#"{"members":[]}"#));
}

#[test]
fn allow_publish_lets_clients_publish_by_websocket() {
    let server = serve_topics(&["--allow-publish", "chat/*"]);
    let mut client = client(&server);
    client.send_text(r#"{"type":"publish","id":1,"topic":"chat/a","text":"x"}"#);
    assert!(client.text().starts_with(r#"{"type":"published""#));
    client.send_text(r#"{"type":"publish","id":1,"topic":"news","text":"x"}"#);
    assert!(client.text().contains("forbidden"));
}

#[cfg(feature = "jwt")]
#[test]
fn publish_key_file_asks_for_a_key_and_jwt_key_file_for_a_token() {
    let folder = Folder::new();
    let [keys, secret] = ["keys", "secret"].map(|name| folder.at(name));
    fs::write(&keys, "# a comment\na-key-for-publishing\n").unwrap();
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let server = serve_topics(&["--publish-key-file", keys.to_str().unwrap()]);
    assert!(post(&server, "/topics/news", "", "x").starts_with("HTTP/1.1 401"));
    let authorization = "Authorization: Bearer a-key-for-publishing\r\n";
    assert!(post(&server, "/topics/news", authorization, "x").starts_with("HTTP/1.1 200"));

    let server = serve_topics(&["--jwt-key-file", secret.to_str().unwrap(), "--jwt-audience", "heartwire"]);
    let mut nobody = client(&server);
    nobody.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news"}]}"#);
    assert!(nobody.text().contains("forbidden"));

    // A file that cannot be used is told by its name.
    let missing = folder.at("missing");
    let output = heartwire(&["serve", "127.0.0.1:0", "--mode", "topics", "--jwt-key-file", missing.to_str().unwrap()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn options_of_topics_have_no_effect_without_them() {
    let output = heartwire(&["serve", "127.0.0.1:0", "--presence"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("--presence has no effect without --mode topics"), "{error}");
}
