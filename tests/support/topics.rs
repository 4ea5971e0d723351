//! Clients of topics, made by hand: what they ask for, and what they are told.

use super::{Client, Running, request_with};

/// The header that offers the subprotocol.
pub(crate) const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol: heartwire.topics.v1\r\n";

/// A client of the subprotocol that has read its greeting.
pub(crate) fn client_of(running: &Running) -> Client {
    let mut client = Client::tcp(running.address()).upgraded(&request_with("/", SUBPROTOCOL));
    let greeting = client.text();
    assert!(greeting.starts_with("heartwire {"), "{greeting}");
    client
}

/// Sends a request, and checks that the reply has this part.
#[track_caller]
pub(crate) fn ask(client: &mut Client, request: &str, part: &str) {
    client.send_text(request);
    let reply = client.text();
    assert!(reply.contains(part), "{request}: {reply}");
}

/// A request to subscribe to a topic.
pub(crate) fn subscription(topic: &str) -> String {
    format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{topic}"}}]}}"#)
}

/// Subscribes, and returns the present position.
#[track_caller]
pub(crate) fn subscribe(client: &mut Client, topic: &str, since: Option<&str>) -> String {
    let since = since.map(|since| format!(r#","since":"{since}""#)).unwrap_or_default();
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{topic}"{since}}}]}}"#));
    value(&client.text(), "position")
}

/// A client that watches `room` and has got its list.
pub(crate) fn watcher(running: &Running) -> (Client, String) {
    let mut client = client_of(running);
    client.send_text(r#"{"type":"subscribe","topics":[{"topic":"room","presence":true}]}"#);
    let list = client.text();
    assert!(list.starts_with(r#"{"type":"presence","topic":"room","members":["#), "{list}");
    (client, list)
}

/// The text of a member of a JSON object.
#[track_caller]
pub(crate) fn value(json: &str, name: &str) -> String {
    let rest = json.split_once(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {json}")).1;
    rest.split('"').next().expect("a value").to_owned()
}
