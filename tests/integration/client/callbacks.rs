//! What the application decides: how `prepare` makes each attempt, and when `give_up_if` ends the client.

use heartwire::{ConnectError, Error};

use crate::support::{BareServer, ClosedPort, client, listen, refusal, run, url};

/// The value of a header of a request.
fn value<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    request.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[test]
fn prepare_renews_a_token_that_has_expired_and_what_waited_is_sent() {
    let server = BareServer::bind();
    let client = client(server.address())
        .header("Authorization", "Bearer of the client")
        .header("X-Model", "7")
        .outbox_size(1024)
        .prepare(|attempt| {
            let (number, refused_with) = (attempt.number(), attempt.refused_with());
            attempt.header("authorization", format!("Bearer {number} after {refused_with:?}"));
            Ok(())
        })
        .give_up_if(|error| match error {
            Error::Connect(ConnectError::Refused { status: 401, .. }) => false,
            error => error.is_fatal(),
        });
    client.handle().send("a reading").unwrap();
    let client = run(client, listen);
    for (status, expected) in
        [(401, "Bearer 1 after None"), (503, "Bearer 2 after Some(401)"), (401, "Bearer 3 after Some(503)")]
    {
        let request = server.answer(&refusal(status, ""));
        assert_eq!((value(&request, "authorization"), value(&request, "X-Model")), (vec![expected], vec!["7"]));
        assert!(value(&request, "Authorization").is_empty(), "in its place: {request}");
        assert!(!client.connect_failed().1);
    }
    let mut connection = server.accept();
    assert_eq!(value(&connection.upgrade(""), "authorization"), ["Bearer 4 after Some(401)"]);
    assert_eq!(connection.text(), "a reading");
    connection.close(1000);
    let request = server.answer(&refusal(403, ""));
    assert_eq!(value(&request, "authorization"), ["Bearer 5 after None"], "that was another attempt");
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 403, .. }));
}

#[test]
fn prepare_may_send_each_attempt_elsewhere() {
    let servers = [BareServer::bind(), BareServer::bind()];
    let addresses = [0, 1].map(|index: usize| servers[index].address());
    let closed = ClosedPort::new();
    let client = client(closed.address()).prepare(move |attempt| {
        let number = attempt.number();
        attempt.url(url(addresses[number as usize % 2], &format!("/attempt/{number}")));
        Ok(())
    });
    let client = run(client, listen);
    for number in 1..=4 {
        let server = &servers[number % 2];
        let request = server.answer(&refusal(503, ""));
        assert!(request.starts_with(&format!("GET /attempt/{number} HTTP/1.1\r\n")), "{request}");
        assert_eq!(value(&request, "Host"), [server.address().to_string()]);
    }
    client.stop();
}

/// An error that nobody can show.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("an error that cannot be shown, as it should be in this test")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn prepare_that_fails_is_a_failed_attempt_and_the_next_is_made() {
    let server = BareServer::bind();
    let client = client(server.address()).prepare(|attempt| {
        match attempt.number() {
            1 => return Err("the token is out of reach".into()),
            2 => return Err(Unspeakable.into()),
            3 => panic!("a panic that is part of the test"),
            4 => attempt.header("Authorization", "Bearer of\nmuch"),
            5 => attempt.header("Host", "elsewhere"),
            6 => attempt.url("wss://user:s3cret@127.0.0.1/"),
            _ => return Ok(()),
        };
        Ok(())
    });
    let client = run(client, listen);
    for said in [
        "cannot prepare the attempt: the token is out of reach",
        "cannot prepare the attempt: (an error that cannot be shown)",
        "cannot prepare the attempt: it panicked: a panic that is part of the test",
        "cannot prepare the attempt: invalid header \"Authorization\"",
        "cannot prepare the attempt: header \"Host\" is reserved for the handshake",
        "cannot prepare the attempt: invalid URL \"wss://***@127.0.0.1/\": ",
    ] {
        let (error, is_fatal) = client.connect_failed();
        assert!(error.starts_with(said) && !is_fatal, "{error}");
    }
    server.open().close(1000);
}

#[test]
fn give_up_if_decides_what_ends_a_client() {
    let server = BareServer::bind();
    let gone = |error: &Error| matches!(error, Error::Connect(ConnectError::Refused { status: 410 | 503, .. }));
    let client_of = || run(client(server.address()).give_up_if(gone), listen);
    let client = client_of();
    // A captive portal, a proxy whose server is away, something that is not even HTTP, a policy that may change.
    for answer in [
        refusal(302, "Location: http://portal.example/\r\n"),
        refusal(200, ""),
        refusal(404, ""),
        "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
    ] {
        server.answer(&answer);
        assert!(!client.connect_failed().1, "{answer}");
    }
    for code in [1002, 1008] {
        server.open().close(code);
        client.closed();
    }
    server.answer(&refusal(410, ""));
    assert!(client.connect_failed().1);
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 410, .. }));
    // And it may be what passes by default.
    let client = client_of();
    server.answer(&refusal(503, ""));
    assert!(matches!(client.not_connected(), ConnectError::Refused { status: 503, .. }));
}
