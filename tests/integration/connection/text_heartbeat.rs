//! Heartbeats in text, for pages that cannot send Pings.

use std::time::Instant;

use crossbeam_channel::unbounded;
use heartwire::{Accept, Liveness, Message, Server};

use super::{dies_after, led};
use crate::support::{
    BINARY, CLOSE, Client, HOUR, Incoming, echo, eventually, ms, receive, request_with, server, start,
};

/// What a server's handler sees of these messages, and what the client gets for them.
fn told(server: Server, protocol: &str, texts: &[&str]) -> (Vec<Message>, Vec<String>) {
    let (sender, messages) = unbounded();
    let running = start(server, move |conn| {
        loop {
            let message = conn.recv()?;
            let _ = sender.send(message);
        }
    });
    let headers = if protocol.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {protocol}\r\n") };
    let mut client = Client::tcp(running.address()).upgraded(&request_with("/", &headers));
    for text in texts {
        client.send_text(text);
    }
    client.send_text("the end");
    let mut seen = Vec::new();
    while seen.last() != Some(&Message::from("the end")) {
        seen.push(receive("a message", &messages));
    }
    seen.pop();
    // Close comes behind all answers.
    client.send_close(1000, "");
    let mut answers = Vec::new();
    loop {
        let frame = client.frame();
        match frame.opcode {
            CLOSE => return (seen, answers),
            _ => answers.push(frame.text().to_owned()),
        }
    }
}

fn by_subprotocol() -> Server {
    server().on_handshake(|request| {
        let offers = request.header("Sec-WebSocket-Protocol").unwrap_or_default();
        Ok(if offers.contains("heartwire.v1") { Accept::new().subprotocol("heartwire.v1") } else { Accept::new() })
    })
}

const BEATS: [&str; 4] = ["ping", "ping next=500", "ping next=500 7", "ping next=soon"];

const NO_BEATS: [&str; 8] = ["pinging", "ping me", "Ping", "ping ", " ping", "ping\n", "pong", "ping nexts=5"];

#[test]
fn text_heartbeats_are_answered_and_not_shown_where_they_are_on() {
    let offered = [(server(), "heartwire.v1"), (server(), "chat, heartwire.v1"), (by_subprotocol(), "heartwire.v1")];
    for (server, protocol) in offered.into_iter().chain([(server().text_heartbeat(true), "")]) {
        let (seen, mut answers) = told(server, protocol, &BEATS);
        if !protocol.is_empty() {
            // Who agreed on the subprotocol is told the heartbeat first.
            let settings = answers.remove(0);
            assert!(settings.starts_with(r#"heartwire {"connection":1,"leader":"#), "{settings}");
        }
        assert_eq!((seen, answers), (vec![], vec!["pong".to_owned(); BEATS.len()]));
    }
}

#[test]
fn other_texts_are_messages_even_where_text_heartbeats_are_on() {
    let (seen, answers) = told(server().text_heartbeat(true), "", &NO_BEATS);
    assert_eq!((seen, answers), (NO_BEATS.map(Message::from).to_vec(), vec![]));
}

#[test]
fn without_the_option_and_the_subprotocol_nobodys_message_is_swallowed() {
    let chat = || server().on_handshake(|_| Ok(Accept::new().subprotocol("chat")));
    for (server, protocol) in [(server(), ""), (server(), "heartwire.v2"), (chat(), "heartwire.v1, chat")] {
        let (seen, answers) = told(server, protocol, &BEATS);
        assert_eq!((seen, answers), (BEATS.map(Message::from).to_vec(), vec![]), "{protocol:?}");
    }
}

#[test]
fn a_binary_ping_is_a_message() {
    let running = start(server().text_heartbeat(true), echo);
    let mut client = running.connect();
    client.send(BINARY, "ping");
    let frame = client.message();
    assert_eq!((frame.opcode, &frame.payload[..]), (BINARY, &b"ping"[..]));
}

#[test]
fn a_heartbeat_in_text_announces_as_a_ping_does() {
    let policy = led(ms(300)).announcements(ms(1), HOUR).liveness(Liveness::PongOnly);
    let running = start(server().heartbeat(policy).text_heartbeat(true), echo);
    let mut client = running.connect();
    client.send_text("ping next=3600000");
    assert_eq!(client.text(), "pong");
    assert_eq!(client.next_within(ms(1200)), Incoming::Nothing);
    let last_life = Instant::now();
    client.send_text("ping");
    assert_eq!(client.text(), "pong");
    dies_after(&running, last_life, 2 * ms(300));
}

#[test]
fn a_heartbeat_in_text_counts_for_messages_in_neither_direction_of_the_handlers_figures() {
    let running = start(server().text_heartbeat(true), echo);
    let mut client = running.connect();
    for _ in 0..5 {
        client.send_text("ping");
        assert_eq!(client.text(), "pong");
    }
    client.expect_echo("pinging");
    client.close();
    eventually("reported", || running.handle.stats().closed_total() == 1);
    assert_eq!(running.closed().traffic.messages_in, 1);
}
