//! A client that shows tokens, and has them renewed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use heartwire::topics::Topics;
use heartwire::{ConnectError, Error, Event};

use super::{client, in_short, run, start_with};
use crate::support::eventually;
use crate::topics::tokens::{token, with_tokens};

fn start() -> crate::support::Running {
    start_with(with_tokens(Topics::new()))
}

fn opened(client: &super::RunningTopics) -> usize {
    client.events.so_far().iter().filter(|event| matches!(event, Event::Opened { .. })).count()
}

#[test]
fn a_token_names_the_user_and_grants_its_topics() {
    let running = start();
    let topics = client(running.address()).topics().token(|| Ok(token("alice", "news", "chat", 60)));
    for topic in ["news", "user/alice", "chat"] {
        topics.subscribe(topic).unwrap();
    }
    let client = run(topics);
    let mut told: Vec<_> = (0..3).map(|_| in_short(&client.next())).collect();
    told.sort();
    assert_eq!(told, ["refused chat: forbidden", "subscribed news", "subscribed user/alice"]);
    assert_eq!(running.handle.connections()[0].user.as_deref(), Some("alice"));
    client.handle.publish("chat", "x").unwrap();
    client.handle.publish("news", "x").unwrap_err();
}

#[test]
fn a_token_is_asked_for_again_before_it_expires_and_the_connection_lives_on() {
    let running = start();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // With the leeway of five seconds the first is good for eight, of which the last fifth is for asking.
    let topics = client(running.address())
        .topics()
        .token(move || Ok(token("alice", "news", "chat", if count.fetch_add(1, SeqCst) == 0 { 3 } else { 3600 })));
    topics.subscribe("news").unwrap();
    let client = run(topics);
    client.subscribed();
    // The control: without another token this is when a connection ends.
    let another = run(crate::support::client(running.address()).no_reconnect().topics().token({
        let first = token("alice", "news", "chat", 3);
        move || Ok(first.clone())
    }));
    let ended = another.result().unwrap_err().to_string();
    assert!(ended.contains("4401"), "{ended}");
    running.handle.publish("news", "one").unwrap();
    client.expect("news", ["one"]);
    assert_eq!((opened(&client), asked.load(SeqCst)), (1, 2));
}

#[test]
fn a_token_that_is_not_renewed_ends_the_connection_and_the_next_one_misses_nothing() {
    let running = start();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let topics = client(running.address()).topics().token(move || match count.fetch_add(1, SeqCst) {
        0 => Ok(token("alice", "news", "chat", -3)),
        1..=2 => Err("the issuer is away".into()),
        _ => Ok(token("alice", "news", "chat", 3600)),
    });
    topics.subscribe("news").unwrap();
    let client = run(topics);
    client.subscribed();
    running.handle.publish("news", "one").unwrap();
    client.expect("news", ["one"]);
    // It is asked for a token again and again, at once and after a pause. Some time it gets one.
    eventually("there is a token", || asked.load(SeqCst) > 3);
    running.handle.publish("news", "two").unwrap();
    client.expect("news", ["two"]);
}

#[test]
fn a_token_that_the_server_refuses_ends_the_client_unless_it_is_to_go_on() {
    let running = start();
    let bad = || Ok("a.b.c".to_owned());
    let refused = run(client(running.address()).topics().token(bad)).result();
    assert!(matches!(refused, Err(Error::Connect(ConnectError::Refused { status: 401, .. }))), "{refused:?}");

    let asked = AtomicUsize::new(0);
    let topics = client(running.address()).give_up_if(|_| false).topics().token(move || {
        Ok(if asked.fetch_add(1, SeqCst) < 2 { "a.b.c".to_owned() } else { token("alice", "news", "chat", 60) })
    });
    topics.subscribe("news").unwrap();
    let client = run(topics);
    client.subscribed();
}

#[test]
fn a_token_function_that_fails_or_panics_is_asked_again_and_shows_nothing() {
    let running = start();
    let asked = AtomicUsize::new(0);
    let topics = client(running.address()).topics().token(move || match asked.fetch_add(1, SeqCst) {
        0 => Err("no token yet".into()),
        1 => panic!("as the test wants it"),
        2 => Ok("s3cret\r\nX: y".to_owned()),
        _ => Ok(token("alice", "news", "chat", 60)),
    });
    topics.subscribe("news").unwrap();
    let client = run(topics);
    client.subscribed();
    let failures: Vec<_> = client
        .events
        .so_far()
        .into_iter()
        .filter_map(|event| if let Event::ConnectFailed { error, .. } = event { Some(error) } else { None })
        .collect();
    assert_eq!(failures.len(), 3, "{failures:?}");
    assert!(failures[0].contains("no token yet") && failures[1].contains("it panicked"), "{failures:?}");
    assert!(failures[2].contains("invalid header") && !failures[2].contains("s3cret"), "{failures:?}");
}
