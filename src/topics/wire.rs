//! The wire format of topics: requests, replies and messages as JSON. docs/topics-protocol.md specifies it.
//!
//! Invariant: a request is checked as a whole before anything is done, and what is wrong with it is told by name.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::name::TopicName;
use super::position::Position;
use super::subscriptions::Standing;
use super::{Published, TopicError};
use crate::message::{Message, Text};

/// A request of a client.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) id: Option<u64>,
    pub(super) action: Action,
}

#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Subscribe(Vec<Wanted>),
    Unsubscribe(Vec<String>),
    Publish(Publication),
    Presence(String),
    Authenticate(String),
}

/// A topic that a client wants to subscribe to.
#[derive(Debug, Deserialize, PartialEq)]
pub(super) struct Wanted {
    pub(super) topic: String,
    pub(super) since: Option<String>,
    #[serde(default)]
    pub(super) presence: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Publication {
    pub(super) topic: String,
    pub(super) message: Message,
    pub(super) key: Option<String>,
}

/// What is wrong with a request, for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) id: Option<u64>,
    pub(super) topic: Option<String>,
    pub(super) error: &'static str,
    pub(super) reason: String,
}

/// What a subscriber gives for a position to get all that the history keeps.
pub(crate) const EARLIEST: &str = "earliest";

/// The largest id: the largest integer that JavaScript knows for certain.
const MAX_ID: u64 = (1 << 53) - 1;

/// What every request begins with.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Subscribe {
    topics: Vec<Wanted>,
}

#[derive(Deserialize)]
struct Unsubscribe {
    topics: Vec<String>,
}

#[derive(Deserialize)]
struct Publish {
    topic: String,
    text: Option<String>,
    base64: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
struct Presence {
    topic: String,
}

#[derive(Deserialize)]
struct Authenticate {
    token: String,
}

impl Refused {
    fn malformed(id: Option<u64>, reason: impl fmt::Display) -> Self {
        // It may name what the client has sent.
        Self { id, topic: None, error: "malformed", reason: shortened(&reason.to_string()) }
    }

    /// An operation on a topic has failed.
    pub(super) fn of_topic(id: Option<u64>, topic: &str, error: &TopicError) -> Self {
        Self { id, topic: Some(shortened(topic)), error: error.name(), reason: error.to_string() }
    }
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(message: &Message) -> Result<Self, Refused> {
        let Some(text) = message.as_text() else {
            return Err(Refused::malformed(None, "a binary frame: requests are text"));
        };
        if !text.trim_start().starts_with('{') {
            return Err(Refused::malformed(None, "not a JSON object"));
        }
        let Envelope { kind, id } = read(None, text)?;
        if id.is_some_and(|id| id > MAX_ID) {
            return Err(Refused::malformed(None, format!("id is larger than {MAX_ID}")));
        }
        let action = match &*kind {
            "subscribe" => Action::Subscribe(read::<Subscribe>(id, text)?.topics),
            "unsubscribe" => Action::Unsubscribe(read::<Unsubscribe>(id, text)?.topics),
            "publish" => Action::Publish(Publication::read(id, text)?),
            "presence" => Action::Presence(read::<Presence>(id, text)?.topic),
            "authenticate" => Action::Authenticate(read::<Authenticate>(id, text)?.token),
            // It is echoed, so not at any length.
            other => {
                let other: String = other.chars().take(64).collect();
                let reason = format!("there is no request {other:?}");
                return Err(Refused { id, topic: None, error: "unknown-type", reason });
            }
        };
        Ok(Self { id, action })
    }
}

impl Publication {
    fn read(id: Option<u64>, text: &str) -> Result<Self, Refused> {
        let Publish { topic, text, base64, key } = read(id, text)?;
        let refused = |reason: &str| Refused { topic: Some(shortened(&topic)), ..Refused::malformed(id, reason) };
        let message = match (text, base64) {
            (Some(text), None) => Message::text(text),
            (None, Some(base64)) => {
                Message::binary(BASE64.decode(base64.as_bytes()).map_err(|_| refused("\"base64\" is not base64"))?)
            }
            _ => return Err(refused("one of \"text\" and \"base64\" is needed")),
        };
        Ok(Self { topic, message, key })
    }
}

/// A text of a client, to be echoed, and so not at any length.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(TopicName::MAX_LEN).collect()
}

fn read<'a, T: Deserialize<'a>>(id: Option<u64>, text: &'a str) -> Result<T, Refused> {
    serde_json::from_str(text).map_err(|error| Refused::malformed(id, error))
}

// What the server sends. ##############################################################################################

/// A message of a topic.
pub(super) fn message(topic: &TopicName, position: Position, message: &Message) -> Message {
    let (member, payload) = payload(message);
    let text = format!(
        r#"{{"type":"message","topic":{},"position":"{position}","{member}":{payload}}}"#,
        string(topic.as_str())
    );
    text.into()
}

/// A message that has no place in the history: it was published while this server was alone, after this position.
#[cfg(feature = "redis")]
pub(super) fn message_here(topic: &TopicName, position: Position, message: &Message) -> Message {
    let (member, payload) = payload(message);
    let topic = string(topic.as_str());
    format!(r#"{{"type":"message","topic":{topic},"position":"{position}","only_here":true,"{member}":{payload}}}"#)
        .into()
}

/// A message without its topic, as in an answer by HTTP.
pub(super) fn plain_message(position: Position, message: &Message) -> String {
    let (member, payload) = payload(message);
    format!(r#"{{"position":"{position}","{member}":{payload}}}"#)
}

fn payload(message: &Message) -> (&'static str, String) {
    match message {
        Message::Text(text) => ("text", string(text)),
        Message::Binary(bytes) => ("base64", format!("\"{}\"", BASE64.encode(bytes))),
    }
}

/// A text as a JSON string.
fn string(text: &str) -> String {
    Value::from(text).to_string()
}

/// Some messages of a topic are lost to a subscriber. It goes on after the position.
pub(super) fn lost(topic: &TopicName, position: Position) -> Message {
    format!(r#"{{"type":"lost","topic":{},"position":"{position}"}}"#, string(topic.as_str())).into()
}

/// The reply to a request to subscribe: each topic with its position, or with what was wrong.
pub(super) fn subscribed(id: Option<u64>, topics: &[(String, Result<Standing, TopicError>)]) -> Option<Message> {
    let mut text = format!(r#"{{"type":"subscribed","id":{},"topics":["#, id?);
    for (number, (topic, outcome)) in topics.iter().enumerate() {
        text.push_str(if number == 0 { "" } else { "," });
        text.push_str(&match outcome {
            Ok(Standing { position, since }) => {
                let since = since.map(|since| format!(r#","since":"{since}""#)).unwrap_or_default();
                format!(r#"{{"topic":{},"position":"{position}"{since}}}"#, string(topic))
            }
            Err(error) => format!(
                r#"{{"topic":{},"error":"{}","reason":{}}}"#,
                string(topic),
                error.name(),
                string(&error.to_string())
            ),
        });
    }
    text.push_str("]}");
    Some(text.into())
}

pub(super) fn unsubscribed(id: Option<u64>, topics: &[String]) -> Option<Message> {
    Some(format!(r#"{{"type":"unsubscribed","id":{},"topics":{}}}"#, id?, json!(topics)).into())
}

pub(super) fn published(id: Option<u64>, topic: &str, published: Published) -> Option<Message> {
    let id = id?;
    let (topic, rest) = (string(topic), published.to_json_members());
    Some(format!(r#"{{"type":"published","id":{id},"topic":{topic},{rest}}}"#).into())
}

impl Published {
    /// What became of a message, as members of a JSON object.
    pub(crate) fn to_json_members(self) -> String {
        let Self { position, here, again, only_here } = self;
        let again = if again { r#","again":true"# } else { "" };
        let only_here = if only_here { r#","only_here":true"# } else { "" };
        format!(r#""position":"{position}","here":{here}{again}{only_here}"#)
    }
}

pub(super) fn authenticated(id: Option<u64>, user: Option<&str>, remaining: Option<Duration>) -> Option<Message> {
    let expires = remaining.map_or("null".to_owned(), |remaining| remaining.as_millis().to_string());
    Some(format!(r#"{{"type":"authenticated","id":{},"user":{},"expires":{expires}}}"#, id?, json!(user)).into())
}

/// The client's token expires after this time.
pub(super) fn expiring(rest: Duration) -> Message {
    format!(r#"{{"type":"expiring","in":{}}}"#, rest.as_millis()).into()
}

impl From<&Refused> for Text {
    fn from(refused: &Refused) -> Self {
        let Refused { id, topic, error, reason } = refused;
        let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
        let topic = topic.as_ref().map(|topic| format!(r#""topic":{},"#, string(topic))).unwrap_or_default();
        format!(r#"{{"type":"error",{id}"error":"{error}",{topic}"reason":{}}}"#, string(reason)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, Refused> {
        Request::parse(&text.into())
    }

    #[test]
    fn requests_are_read() {
        let wanted = |topic: &str, since: Option<&str>, presence| Wanted {
            topic: topic.to_owned(),
            since: since.map(str::to_owned),
            presence,
        };
        let topics = r#"[{"topic":"a"},{"topic":"b","since":"x","presence":true}]"#;
        let request = parse(&format!(r#" {{"type":"subscribe","id":1,"topics":{topics},"new":1}}"#));
        let action = Action::Subscribe(vec![wanted("a", None, false), wanted("b", Some("x"), true)]);
        assert_eq!(request, Ok(Request { id: Some(1), action }));
        let request = parse(r#"{"topics":["a"],"type":"unsubscribe"}"#);
        assert_eq!(request, Ok(Request { id: None, action: Action::Unsubscribe(vec!["a".to_owned()]) }));
        let publication = |message: Message, key: Option<&str>| Publication {
            topic: "t".to_owned(),
            message,
            key: key.map(str::to_owned),
        };
        let request = parse(r#"{"type":"publish","topic":"t","text":"\u00e4\n","key":"k"}"#);
        assert_eq!(request.unwrap().action, Action::Publish(publication("ä\n".into(), Some("k"))));
        let request = parse(r#"{"type":"publish","topic":"t","base64":"AP8="}"#);
        assert_eq!(request.unwrap().action, Action::Publish(publication(Message::binary(vec![0, 255]), None)));
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        let deep = format!("{{\"type\":{}", "[".repeat(100_000));
        for (text, id, error, reason) in [
            ("", None, "malformed", "not a JSON object"),
            ("[1]", None, "malformed", "not a JSON object"),
            ("{", None, "malformed", "EOF"),
            (&deep, None, "malformed", ""),
            (r#"{"id":1}"#, None, "malformed", "missing field `type`"),
            (r#"{"type":"publish","id":-1}"#, None, "malformed", "-1"),
            (r#"{"type":"publish","id":"x"}"#, None, "malformed", "\"x\""),
            (r#"{"type":"publish","id":9007199254740992}"#, None, "malformed", "id is larger"),
            (r#"{"type":"publish","id":2,"id":2}"#, None, "malformed", "duplicate field `id`"),
            (r#"{"type":"publish","id":2}"#, Some(2), "malformed", "missing field `topic`"),
            (r#"{"type":"publish","id":2,"topic":"a","topic":"b"}"#, Some(2), "malformed", "duplicate field `topic`"),
            (r#"{"type":"publish","id":2,"topic":"a","text":1}"#, Some(2), "malformed", "invalid type"),
            (r#"{"type":"publish","id":2,"topic":"a"}"#, Some(2), "malformed", "is needed"),
            (r#"{"type":"publish","id":2,"topic":"a","text":"","base64":""}"#, Some(2), "malformed", "is needed"),
            (r#"{"type":"publish","id":2,"topic":"a","base64":"A"}"#, Some(2), "malformed", "not base64"),
            (r#"{"type":"subscribe","id":3,"topics":"a"}"#, Some(3), "malformed", "invalid type"),
            (r#"{"type":"subscribe","id":3,"topics":["a"]}"#, Some(3), "malformed", "invalid type"),
            (r#"{"type":"dance","id":4}"#, Some(4), "unknown-type", "there is no request \"dance\""),
        ] {
            let refused = parse(text).unwrap_err();
            assert_eq!((refused.id, refused.error), (id, error), "{text:.80}");
            assert!(refused.reason.contains(reason), "{text:.80}: {}", refused.reason);
        }
        let refused = Request::parse(&Message::binary(vec![1])).unwrap_err();
        assert_eq!(refused.error, "malformed");
    }

    #[test]
    fn what_is_sent_is_json_whatever_is_in_it() {
        let topic: TopicName = "a \"b\"/\\".parse().unwrap();
        let position: Position = "4f2a90c1d3e5b607:42".parse().unwrap();
        let sent = message(&topic, position, &"\u{0}\"\n\u{2028}ü".into());
        let value: Value = serde_json::from_str(sent.as_text().unwrap()).unwrap();
        let expected = json!({
            "type": "message", "topic": topic.as_str(), "position": "4f2a90c1d3e5b607:42", "text": "\u{0}\"\n\u{2028}ü"
        });
        assert_eq!(value, expected);
        let refused = Refused { id: None, topic: Some("\"".to_owned()), error: "forbidden", reason: "\\".to_owned() };
        let value: Value = serde_json::from_str(Text::from(&refused).as_str()).unwrap();
        assert_eq!(value, json!({"type": "error", "error": "forbidden", "topic": "\"", "reason": "\\"}));
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let text = format!("{{{}", String::from_utf8_lossy(&bytes));
            let _ = parse(&text);
        }
    }
}
