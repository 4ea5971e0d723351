//! Topics, as their clients see them.

#[cfg(feature = "auth-url")]
mod auth_service;
mod http;
mod presence;
mod protocol;
mod saving;
mod slow_subscribers;
#[cfg(feature = "status")]
mod status;
mod subscribing;
#[cfg(feature = "jwt")]
pub(crate) mod tokens;

use std::time::Duration;

use heartwire::Server;
use heartwire::topics::Topics;

use crate::support::{Client, Running, echo, request_with, server, start};

/// Anybody may subscribe to all but `secret`, and publish to `chat`.
fn open_topics() -> Topics {
    Topics::new()
        .history(1000, 1024 * 1024, Duration::from_secs(600))
        .on_subscribe(|_, topic| topic.as_str() != "secret")
        .on_publish(|_, topic| topic.as_str() == "chat")
}

fn start_with(topics: Topics) -> Running {
    start_server(server(), topics)
}

fn start_server(server: Server, topics: Topics) -> Running {
    start(server.topics(topics), echo)
}

/// A client of the subprotocol that has read its greeting.
fn client_of(running: &Running) -> Client {
    let request = request_with("/", "Sec-WebSocket-Protocol: heartwire.topics.v1\r\n");
    let mut client = Client::tcp(running.address()).upgraded(&request);
    let greeting = client.text();
    assert!(greeting.starts_with("heartwire {"), "{greeting}");
    client
}

/// A client that was subscribed to a topic.
fn subscriber(running: &Running, topic: &str, since: Option<&str>) -> Client {
    let mut client = client_of(running);
    subscribe(&mut client, topic, since);
    client
}

/// Subscribes, and returns the present position.
fn subscribe(client: &mut Client, topic: &str, since: Option<&str>) -> String {
    let since = since.map(|since| format!(r#","since":"{since}""#)).unwrap_or_default();
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{topic}"{since}}}]}}"#));
    let reply = client.text();
    let position = reply.split(r#""position":""#).nth(1).and_then(|rest| rest.split('"').next());
    position.unwrap_or_else(|| panic!("no position in {reply}")).to_owned()
}
