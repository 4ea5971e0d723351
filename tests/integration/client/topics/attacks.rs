//! Servers that break the rules, and moments at which everything ends at once.

use std::thread;

use heartwire::{Delivery, Event, PublishError};

use super::{in_short, open_topics, run, run_with, start_with, topics_at};
use crate::support::{BINARY, BareConnection, BareServer, Relay, eventually, ms};

fn subscribed(server: &BareServer) -> BareConnection {
    let mut connection = server.accept();
    connection.upgrade("Sec-WebSocket-Protocol: heartwire.topics.v1\r\n");
    answer(&mut connection, 7);
    connection
}

/// Answers a request to subscribe to `t`.
fn answer(connection: &mut BareConnection, offset: u64) -> String {
    let request = connection.text();
    assert!(request.contains(r#""type":"subscribe""#), "{request}");
    let id = request.split(r#""id":"#).nth(1).and_then(|rest| rest.split(',').next()).expect("an id");
    let position = format!("00000000000000aa:{offset}");
    connection
        .send_text(&format!(r#"{{"type":"subscribed","id":{id},"topics":[{{"topic":"t","position":"{position}"}}]}}"#));
    request
}

fn message(connection: &mut BareConnection, offset: u64) {
    connection.send_text(&format!(
        r#"{{"type":"message","topic":"t","position":"00000000000000aa:{offset}","text":"{offset}"}}"#
    ));
}

#[test]
fn a_server_that_leaves_a_gap_is_asked_again_and_what_makes_no_sense_is_skipped() {
    let server = BareServer::bind();
    let topics = topics_at(server.address());
    topics.subscribe("t").unwrap();
    let client = run(topics);
    let mut connection = subscribed(&server);
    client.subscribed();
    for nonsense in ["", "x", "{", "[1]", r#"{"type":7}"#, r#"{"type":"published","id":99}"#, r#"{"type":"dance"}"#] {
        connection.send_text(nonsense);
    }
    connection.send(BINARY, &[1, 2, 3]);
    message(&mut connection, 8);
    client.expect("t", ["8"]);
    message(&mut connection, 10);
    let request = answer(&mut connection, 10);
    assert!(request.contains(r#""since":"00000000000000aa:8""#), "{request}");
    client.subscribed();
    message(&mut connection, 9);
    message(&mut connection, 10);
    client.expect("t", ["9", "10"]);
    client.handle.stop();
    connection.expect_close(1000);
}

#[test]
fn publishers_subscribers_and_the_end_at_once_leave_nobody_waiting() {
    let running = start_with(open_topics());
    let relay = Relay::to(running.address());
    let mut published = 0;
    for round in 0..10 {
        let topics = topics_at(relay.address());
        topics.subscribe("chat").unwrap();
        let client = run(topics);
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let handle = client.handle.clone();
                thread::spawn(move || {
                    let mut published: usize = 0;
                    loop {
                        match handle.publish("chat", "x") {
                            Ok(_) => published += 1,
                            Err(PublishError::Closed) => return published,
                            Err(error) => panic!("{error}"),
                        }
                        handle.unsubscribe("chat");
                        handle.subscribe(if number == 0 { "chat" } else { "news" }).unwrap();
                    }
                })
            })
            .collect();
        client.subscribed();
        if round % 2 == 0 {
            relay.cut();
            client.events.opened();
        }
        let kept = || running.handle.topics().iter().map(|topic| topic.kept).sum::<usize>();
        let before = kept();
        eventually("some are published", || kept() > before + 20);
        client.stop();
        published += threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>();
    }
    assert!(published > 100, "{published}");
}

#[test]
fn a_handler_may_use_its_handle_for_all_but_waiting() {
    let running = start_with(open_topics());
    let topics = topics_at(running.address());
    topics.subscribe("a").unwrap();
    let handle = topics.handle();
    let client = run_with(topics, move |delivery| {
        if let Delivery::Message { topic, position, .. } = delivery {
            if topic.as_str() == "a" {
                handle.subscribe("b").unwrap();
                handle.unsubscribe("a");
            }
            // Its own message is not taken yet.
            assert_ne!(handle.position(topic.as_str()), Some(*position));
            for _ in 0..500 {
                drop(handle.try_publish("chat", "x"));
            }
        }
        Ok(())
    });
    client.subscribed();
    running.handle.publish("a", "one").unwrap();
    client.expect("a", ["one"]);
    eventually("it has subscribed", || running.handle.topics().iter().any(|topic| topic.name.as_str() == "b"));
    assert_eq!(in_short(&client.next()), "subscribed b");
    running.handle.publish("a", "not for it").unwrap();
    running.handle.publish("b", "two").unwrap();
    client.expect("b", ["two"]);
    eventually("all are published", || {
        running.handle.topics().iter().any(|topic| topic.name.as_str() == "chat" && topic.kept == 1000)
    });
}

#[test]
fn a_server_that_takes_nothing_fills_the_outbox_and_holds_nobody_up() {
    let server = BareServer::bind_with_little_room();
    let topics = topics_at(server.address()).outbox_size(8 * 1024 * 1024);
    let client = run(topics);
    let mut connection = server.accept();
    connection.upgrade("Sec-WebSocket-Protocol: heartwire.topics.v1\r\n");
    client.events.opened();
    let text = "x".repeat(100_000);
    let mut pending = Vec::new();
    let refused = loop {
        match client.handle.try_publish("t", text.as_str()) {
            Ok(more) => pending.push(more),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, PublishError::Full);
    assert!(pending.len() > 70, "{}", pending.len());
    assert!(pending[0].wait_timeout(ms(10)).is_none());
    // As soon as it reads, all of it comes, once and in order.
    for (number, pending) in pending.into_iter().enumerate() {
        let request = connection.text();
        let id = number + 1;
        assert!(request.starts_with(&format!(r#"{{"type":"publish","id":{id},"#)), "{request:.80}");
        let position = format!("00000000000000aa:{id}");
        connection.send_text(&format!(r#"{{"type":"published","id":{id},"position":"{position}","here":0}}"#));
        pending.wait().unwrap();
    }
    client.handle.stop();
    connection.expect_close(1000);
    assert_eq!(client.events.rest().iter().filter(|event| matches!(event, Event::Opened { .. })).count(), 0);
}
