//! Clients that show tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use heartwire::topics::{TokenKey, TokenPlaces, TokenVerifier, Topics};
use heartwire::{Event, Server};
use ring::hmac;

use super::start_server;
use crate::support::topics::{SUBPROTOCOL, ask, client_of, subscription};
use crate::support::{Client, Running, TEXT, echo, exchange, masked, request_with, server, start};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn seconds(from_now: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    now.checked_add_signed(from_now).unwrap()
}

/// A token that is valid for so many seconds.
pub(crate) fn token(user: &str, subscribe: &str, publish: &str, valid: i64) -> String {
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let claims =
        format!(r#"{{"sub":"{user}","subscribe":["{subscribe}"],"publish":["{publish}"],"exp":{}}}"#, seconds(valid));
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

pub(crate) fn with_tokens(topics: Topics) -> Topics {
    let verifier = TokenVerifier::new(TokenKey::hs256(SECRET).unwrap());
    topics.tokens(verifier, TokenPlaces::new().query(true))
}

fn start_with_tokens() -> Running {
    start_server(server(), with_tokens(Topics::new().presence(true)))
}

/// A client whose token is in the header.
fn bearer(running: &Running, token: &str) -> Client {
    let headers = format!("{SUBPROTOCOL}Authorization: Bearer {token}\r\n");
    let mut client = Client::tcp(running.address()).upgraded(&request_with("/", &headers));
    assert!(client.text().starts_with("heartwire {"));
    client
}

fn authenticate(token: &str) -> String {
    format!(r#"{{"type":"authenticate","id":9,"token":"{token}"}}"#)
}

#[test]
fn a_token_grants_what_it_says_and_nothing_is_granted_without_one() {
    let running = start_with_tokens();
    let mut alice = bearer(&running, &token("alice", "news/*", "chat", 60));
    ask(&mut alice, &subscription("news/today"), r#""position""#);
    ask(&mut alice, &subscription("user/alice/mail"), r#""position""#);
    ask(&mut alice, &subscription("user/bob"), "forbidden");
    ask(&mut alice, &subscription("news"), "forbidden");
    ask(&mut alice, r#"{"type":"publish","id":2,"topic":"chat","text":"x"}"#, r#""position""#);
    ask(&mut alice, r#"{"type":"publish","id":2,"topic":"news/today","text":"x"}"#, "forbidden");
    ask(&mut alice, r#"{"type":"presence","id":3,"topic":"user/alice/mail"}"#, r#""user":"alice""#);
    ask(&mut alice, r#"{"type":"presence","id":3,"topic":"chat"}"#, "forbidden");

    let mut nobody = client_of(&running);
    ask(&mut nobody, &subscription("news/today"), "forbidden");
    ask(&mut nobody, r#"{"type":"publish","id":2,"topic":"chat","text":"x"}"#, "forbidden");
}

#[test]
fn a_token_may_come_by_header_cookie_subprotocol_and_query_and_is_shown_nowhere() {
    let running = start_with_tokens();
    let token = token("alice", "news", "chat", 60);
    for (target, headers) in [
        ("/".to_owned(), format!("{SUBPROTOCOL}Authorization: Bearer {token}\r\n")),
        ("/".to_owned(), format!("{SUBPROTOCOL}Cookie: a=b; heartwire_token={token}\r\n")),
        ("/".to_owned(), format!("Sec-WebSocket-Protocol: heartwire.topics.v1, heartwire.token.{token}\r\n")),
        (format!("/?token={token}"), SUBPROTOCOL.to_owned()),
        (format!("/topics/news?token={token}"), String::new()),
    ] {
        let mut client = Client::tcp(running.address()).upgraded(&request_with(&target, &headers));
        if !target.starts_with("/topics") {
            assert!(client.text().starts_with("heartwire {"));
            ask(&mut client, &subscription("news"), r#""position""#);
        }
        let (user, shown) = running.events.wait_for("the opening", |event| match event {
            Event::Opened { user, target, .. } => Some((user.clone(), target.as_str().to_owned())),
            _ => None,
        });
        assert_eq!(user.as_deref(), Some("alice"));
        assert!(!shown.contains(&token), "{shown}");
        client.close();
        running.closed();
    }
}

#[test]
fn a_token_that_is_not_good_is_refused() {
    let running = start_with_tokens();
    let good = token("alice", "news", "chat", 60);
    let other = if good.as_bytes()[good.len() - 2] == b'x' { 'y' } else { 'x' };
    let forged = format!("{}{other}{}", &good[..good.len() - 2], &good[good.len() - 1..]);
    for token in [&*token("alice", "news", "chat", -60), &forged, "x", "a.b.c"] {
        let headers = format!("{SUBPROTOCOL}Authorization: Bearer {token}\r\n");
        let answer = exchange(running.address(), request_with("/", &headers));
        assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, Some("Bearer")), "{token}");
        let mut client = client_of(&running);
        ask(&mut client, &authenticate(token), r#"{"type":"error","id":9,"error":"bad-token""#);
        ask(&mut client, &subscription("news"), "forbidden");
    }
    let mut alice = bearer(&running, &good);
    ask(&mut alice, &authenticate(&token("bob", "news", "chat", 60)), "bad-token");
    assert_eq!(exchange(running.address(), request_with("/topics/news", "")).status, 403);
}

#[test]
fn a_later_token_takes_the_place_of_the_first_with_all_it_grants() {
    let running = start_with_tokens();
    let mut client = client_of(&running);
    ask(&mut client, &authenticate(&token("alice", "news", "chat", 60)), r#""user":"alice","expires":"#);
    ask(&mut client, &subscription("news"), r#""position""#);
    client.send_text(&authenticate(&token("alice", "sports", "chat", 60)));
    let ended = client.text();
    assert!(ended.contains(r#""error":"forbidden","topic":"news""#), "{ended}");
    assert!(client.text().starts_with(r#"{"type":"authenticated","id":9"#));
    running.handle.publish("news", "not for it any more").unwrap();
    ask(&mut client, &subscription("sports"), r#""position""#);
}

#[test]
fn a_connection_whose_token_expires_is_warned_and_closed() {
    let running = start_with_tokens();
    // The leeway of five seconds is part of its time.
    let short = token("alice", "news", "chat", -1);
    let mut client = bearer(&running, &short);
    let mut bare = Client::tcp(running.address())
        .upgraded(&request_with("/topics/news", &format!("Authorization: Bearer {short}\r\n")));
    let mut renewed = bearer(&running, &short);
    ask(&mut renewed, &authenticate(&token("alice", "news", "chat", 3600)), "authenticated");
    let warning = client.text();
    assert!(warning.starts_with(r#"{"type":"expiring","in":"#), "{warning}");
    assert_eq!(client.expect_close(), (Some(4401), "the token has expired".to_owned()));
    assert_eq!(bare.expect_close().0, Some(4401));
    ask(&mut renewed, &subscription("news"), r#""position""#);
}

#[test]
fn what_the_applications_functions_refuse_no_token_grants() {
    let topics = Topics::new().on_subscribe(|_, topic| topic.as_str() != "news").on_publish(|_, _| false);
    let running = start_server(server(), with_tokens(topics));
    let mut alice = bearer(&running, &token("alice", "*", "*", 60));
    ask(&mut alice, &subscription("news"), "forbidden");
    ask(&mut alice, &subscription("sports"), r#""position""#);
    ask(&mut alice, r#"{"type":"publish","id":2,"topic":"chat","text":"x"}"#, "forbidden");
}

#[test]
fn a_client_that_takes_nothing_is_closed_when_its_token_expires() {
    let small = |server: Server| server.queue_size(16 * 1024).close_timeout(Duration::from_millis(200));
    let running = start(small(server()).topics(with_tokens(Topics::new())), echo);
    let mut client = bearer(&running, &token("alice", "news", "chat", -1));
    ask(&mut client, &subscription("news"), r#""position""#);
    // It asks for more than its queue holds, and reads none of it.
    let long = "x".repeat(60_000);
    let request = format!(r#"{{"type":"unsubscribe","id":1,"topics":["{long}"]}}"#);
    for _ in 0..200 {
        if !client.try_write(&masked(TEXT, request.as_bytes())) {
            break;
        }
    }
    let report = running.closed();
    assert!(report.reason.to_string().contains("4401"), "{report}");
}
