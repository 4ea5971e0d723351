//! `heartwire serve --auth-url`, from outside.

use std::net::TcpListener;

use crate::support::fake_service::{FakeService, reply};
use crate::support::process::{Process, http, serve};
use crate::support::{CEILING, Client, request_with};

fn serve_with(service: &str, options: &[&str]) -> Process {
    serve(&[&["127.0.0.1:0", "--auth-url", service], options].concat())
}

/// The status of an opening handshake.
fn status(server: &Process, headers: &str) -> String {
    let answer = http(server.address(), &request_with("/?token=s3cret-query", headers));
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn alice_alone() -> FakeService {
    FakeService::start(|asked, stream| match asked.header("Cookie") {
        "alice" => reply(stream, 200, "", r#"{"sub":"alice","subscribe":["a"],"publish":["a"]}"#),
        _ => reply(stream, 403, "", ""),
    })
}

#[test]
fn the_service_says_who_may_connect_in_each_mode() {
    let service = alice_alone();
    for mode in ["echo", "broadcast", "topics"] {
        let server = serve_with(&service.url(), &["--mode", mode]);
        let protocol = "Sec-WebSocket-Protocol: heartwire.topics.v1\r\n";
        assert_eq!(status(&server, protocol), "403", "{mode}");
        let request = request_with("/", &format!("{protocol}Cookie: alice\r\n"));
        let offered = if mode == "topics" { request } else { request_with("/", "Cookie: alice\r\n") };
        let _alice = Client::tcp(server.address()).upgraded(&offered);
        server.stderr.line_with(&["alice", "opened"]);
    }
    // The control: without a service anybody may.
    let server = serve(&["127.0.0.1:0", "--mode", "broadcast"]);
    let _nobody = Client::tcp(server.address()).upgraded(&request_with("/", ""));
}

#[test]
fn a_header_is_passed_on_if_it_is_named() {
    let service = FakeService::saying(204, "", "");
    for (options, passed) in [(&[][..], ""), (&["--auth-header", "X-Api-Key"], "k")] {
        let server = serve_with(&service.url(), options);
        let _client = Client::tcp(server.address()).upgraded(&request_with("/", "X-Api-Key: k\r\n"));
        assert_eq!(service.asked().header("X-Api-Key"), passed);
    }
}

#[test]
fn a_service_that_is_down_is_told_of_once_and_no_secret_is_in_the_log() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/auth?key=s3cret-key");
    let mut server = serve_with(&url, &["--mode", "topics", "--log-level", "trace"]);
    let headers = "Sec-WebSocket-Protocol: heartwire.topics.v1, heartwire.token.s3cret-offer\r\n\
                   Authorization: Bearer s3cret-token\r\nCookie: s=s3cret-cookie\r\n";
    for _ in 0..5 {
        assert_eq!(status(&server, headers), "503");
    }
    server.stderr.line_with(&["the authorization service gives no answer: "]);
    // It may come up at last, if nobody else has got the port.
    if let Ok(listener) = TcpListener::bind(address) {
        let _service = FakeService::start_on(listener, |_, stream| reply(stream, 204, "", ""));
        let _client = Client::tcp(server.address()).upgraded(&request_with("/", headers));
        server.stderr.line_with(&["the authorization service answers again; questions without an answer: 5"]);
    }
    #[cfg(unix)]
    {
        server.signal("TERM");
        assert!(server.wait().success());
    }
    let log = server.stderr.lines().join("\n");
    assert_eq!(log.matches("gives no answer").count(), 1, "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[cfg(unix)]
#[test]
fn a_service_that_hangs_does_not_keep_the_program_from_ending() {
    let service = FakeService::start(|_, _| std::thread::sleep(CEILING));
    let mut server = serve_with(&service.url(), &["--auth-timeout", "10m", "--handshake-timeout", "10m"]);
    let mut client = Client::tcp(server.address());
    client.write(request_with("/", "").as_bytes());
    service.asked();
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, part) in [
        (&["--auth-url", "ws://h/"][..], "--auth-url"),
        (&["--auth-url", "https://h/"], "https:// is not supported"),
        (&["--auth-url", "http://user:s3cret@h/"], "it names a user"),
        (&["--auth-header", "X-Api-Key"], "--auth-header has no effect without --auth-url"),
        (&["--auth-timeout", "1s"], "--auth-timeout has no effect without --auth-url"),
        (&["--auth-url", "http://h/", "--auth-header", "Host"], "--auth-header Host"),
        (&["--auth-url", "http://h/", "--mode", "topics", "--jwt-key-file", "f"], "cannot be used with"),
    ] {
        let mut process = serve(&[&["serve"], options].concat());
        assert_eq!(process.wait().code(), Some(2), "{options:?}");
        let said = process.stderr.lines().join("\n");
        assert!(said.contains(part) && !said.contains("s3cret"), "{said}");
    }
}
