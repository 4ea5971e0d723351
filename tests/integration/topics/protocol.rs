//! Every exchange of docs/topics-protocol.md happens as it stands there.

use heartwire::{HeartbeatPolicy, Message};

use super::{open_topics, start_server, start_with, without_nodes};
use crate::support::topics::client_of;
use crate::support::{HOUR, server};

/// An exchange of the page.
#[derive(Debug)]
struct Exchange<'a> {
    line: usize,
    /// Whether the server has presence.
    has_presence: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Debug)]
enum Step<'a> {
    ClientSends(&'a str),
    ServerSends(&'a str),
    Publish(&'a str, Message),
}

fn exchanges(page: &str) -> Vec<Exchange<'_>> {
    let mut found: Vec<Exchange> = Vec::new();
    let mut is_within = false;
    for (line, text) in page.lines().enumerate() {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("```exchange", kind) => {
                is_within = true;
                found.push(Exchange { line: line + 1, has_presence: kind == "presence", steps: Vec::new() });
            }
            ("```", _) => is_within = false,
            (kind, rest) if is_within => found.last_mut().expect("it began").steps.push(step(kind, rest)),
            _ => {}
        }
    }
    found
}

fn step<'a>(kind: &str, rest: &'a str) -> Step<'a> {
    match kind {
        ">" => Step::ClientSends(rest),
        "<" => Step::ServerSends(rest),
        "!" => {
            let mut words = rest.split(' ');
            let mut next = || words.next().expect("publish TOPIC text|bytes PAYLOAD");
            assert_eq!(next(), "publish");
            match (next(), next(), next()) {
                (topic, "text", text) => Step::Publish(topic, text.into()),
                (topic, "bytes", hex) => {
                    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
                    Step::Publish(topic, Message::binary((0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>()))
                }
                (_, kind, _) => panic!("no kind of message: {kind}"),
            }
        }
        other => panic!("no step of an exchange begins with {other:?}"),
    }
}

/// Plays an exchange, and fails where the server does otherwise.
fn play(exchange: &Exchange<'_>) {
    let heartbeat = HeartbeatPolicy::new(HOUR, HOUR);
    let running = start_server(server().heartbeat(heartbeat), open_topics().presence(exchange.has_presence));
    let position = running.handle.publish("for its epoch", "").expect("a position").position.to_string();
    let epoch = position.split(':').next().expect("an epoch");
    let mut client = client_of(&running);
    for step in &exchange.steps {
        match step {
            Step::ClientSends(text) => client.send_text(&text.replace("EPOCH", epoch)),
            Step::ServerSends(text) => {
                let expected = text.replace("EPOCH", epoch).replace("CONNECTION", "1");
                assert_eq!(
                    without_nodes(&without_times(&client.text())),
                    expected,
                    "line {}: {exchange:#?}",
                    exchange.line
                );
            }
            Step::Publish(topic, message) => {
                running.handle.publish(topic, message.clone()).expect("it is published");
            }
        }
    }
    // Nothing else came.
    client.send_text(r#"{"type":"the end","id":42}"#);
    let end = client.text();
    assert!(end.contains(r#""id":42"#), "line {}: {end} came besides", exchange.line);
}

/// A text in which times are MS, as on the page.
fn without_times(text: &str) -> String {
    let mut text = text.to_owned();
    for name in [r#""silent":"#, r#""round_trip":"#] {
        let mut from = 0;
        while let Some(at) = text[from..].find(name) {
            let begin = from + at + name.len();
            let len = text[begin..].find([',', '}']).expect("the end of a member");
            text.replace_range(begin..begin + len, "MS");
            from = begin;
        }
    }
    text
}

#[test]
fn every_exchange_of_the_page_happens_as_it_stands_there() {
    let exchanges = exchanges(include_str!("../../../docs/topics-protocol.md"));
    assert!(exchanges.len() >= 10, "only {} exchanges were found", exchanges.len());
    for exchange in &exchanges {
        play(exchange);
    }
}

#[test]
#[should_panic(expected = "line 1")]
fn an_exchange_that_does_not_happen_is_found() {
    let page = "```exchange\n> {\"type\":\"dance\",\"id\":1}\n< {\"type\":\"danced\",\"id\":1}\n```\n";
    play(&exchanges(page)[0]);
}

#[test]
fn refused_topics_of_a_subscription_count_as_refused_requests() {
    let running = start_with(open_topics());
    let mut client = client_of(&running);
    let secret = |count| vec![r#"{"topic":"secret"}"#; count].join(",");
    // As many as may be refused, and no more.
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{}]}}"#, secret(100)));
    assert_eq!(client.text().matches("forbidden").count(), 100);
    client.send_text(&format!(r#"{{"type":"subscribe","topics":[{}]}}"#, secret(1)));
    assert!(client.text().contains(r#""error":"forbidden""#));
    assert_eq!(client.frame().close().0, Some(1008));
}

#[test]
fn what_the_server_cannot_do_now_is_not_counted_as_refused() {
    let running = start_with(open_topics());
    let mut client = client_of(&running);
    for id in 0..200 {
        client.send_text(&format!(r#"{{"type":"presence","id":{id},"topic":"room"}}"#));
        assert!(client.text().contains(r#""error":"unavailable""#));
    }
    client.send_text(r#"{"type":"unsubscribe","id":200,"topics":[]}"#);
    assert!(client.text().starts_with(r#"{"type":"unsubscribed""#));
}

#[test]
fn what_is_wrong_is_told_at_no_length_that_the_client_chooses() {
    let running = start_with(open_topics());
    let mut client = client_of(&running);
    let long = "\u{7f}".repeat(100_000);
    for request in [
        format!(r#"{{"type":"publish","id":"{long}"}}"#),
        format!(r#"{{"type":"publish","topic":"{long}","text":""}}"#),
        format!(r#"{{"type":"presence","topic":"{long}"}}"#),
    ] {
        client.send_text(&request);
        let reply = client.text();
        assert!(reply.starts_with(r#"{"type":"error""#) && reply.len() < 2000, "{} bytes: {reply:.80}", reply.len());
    }
}
