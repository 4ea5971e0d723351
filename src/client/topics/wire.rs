//! The client's side of the wire format of topics: requests as JSON, and what the server sends.
//! docs/topics-protocol.md specifies it.
//!
//! Invariant: what the server sends is checked as a whole before anything of it is used. Members and kinds that are
//! unknown are skipped, for later versions may add some.

use std::time::Duration;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::delivery::{Member, MemberName, Presence, Vitals};
use crate::message::Message;
use crate::topics::{Position, Published};

// Requests. ###########################################################################################################

/// A topic to subscribe to.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) topic: &'a str,
    /// A position, or `earliest`.
    pub(super) since: Option<String>,
    pub(super) presence: bool,
}

pub(super) fn subscribe(id: u64, topics: &[Wanted<'_>]) -> String {
    let entry = |Wanted { topic, since, presence }: &Wanted<'_>| {
        let mut entry = json!({ "topic": topic });
        if let Some(since) = since {
            entry["since"] = json!(since);
        }
        if *presence {
            entry["presence"] = json!(true);
        }
        entry
    };
    let topics: Vec<Value> = topics.iter().map(entry).collect();
    json!({ "type": "subscribe", "id": id, "topics": topics }).to_string()
}

pub(super) fn unsubscribe(id: u64, topics: &[&str]) -> String {
    json!({ "type": "unsubscribe", "id": id, "topics": topics }).to_string()
}

pub(super) fn authenticate(id: u64, token: &str) -> String {
    json!({ "type": "authenticate", "id": id, "token": token }).to_string()
}

/// Written by hand, for it is written for each message: only the texts need care.
pub(super) fn publish(id: u64, topic: &str, message: &Message, key: &str) -> String {
    let (topic, key) = (json!(topic), json!(key));
    let (member, payload) = match message {
        Message::Text(text) => ("text", json!(text.as_str()).to_string()),
        Message::Binary(bytes) => ("base64", format!("\"{}\"", BASE64.encode(bytes))),
    };
    format!(r#"{{"type":"publish","id":{id},"topic":{topic},"key":{key},"{member}":{payload}}}"#)
}

// What the server sends. ##############################################################################################

#[derive(Debug)]
pub(super) enum Incoming {
    Subscribed {
        id: u64,
        topics: Vec<Answer>,
    },
    Message {
        topic: String,
        position: Position,
        message: Message,
        /// Whether it has no place in the history: it stands beside the message at the position.
        only_here: bool,
    },
    Lost {
        topic: String,
        position: Position,
    },
    Presence {
        topic: String,
        presence: Presence,
    },
    Published {
        id: u64,
        published: Published,
    },
    Error {
        id: Option<u64>,
        topic: Option<String>,
        error: String,
        reason: String,
    },
    /// The reply to a request that asks for nothing but that it is done.
    Done {
        id: u64,
    },
    /// The token is about to expire.
    Expiring,
    /// Nothing that concerns us.
    Other,
}

/// What became of one topic of a subscription.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) topic: String,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// `since`: after which position messages follow, if the client could not know.
    Accepted {
        position: Position,
        since: Option<Position>,
    },
    Refused {
        error: String,
        reason: String,
    },
}

/// What the server has sent cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    /// The topic that it is about, if it is about one.
    pub(super) topic: Option<String>,
    pub(super) why: String,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    topic: Option<String>,
}

#[derive(Deserialize)]
struct RawSubscribed {
    id: u64,
    topics: Vec<RawAnswer>,
}

#[derive(Deserialize)]
struct RawAnswer {
    topic: String,
    position: Option<String>,
    since: Option<String>,
    error: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct RawMessage {
    topic: String,
    position: String,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    only_here: bool,
}

#[derive(Deserialize)]
struct RawLost {
    topic: String,
    position: String,
}

#[derive(Deserialize)]
struct RawPublished {
    id: u64,
    position: String,
    here: usize,
    #[serde(default)]
    again: bool,
    #[serde(default)]
    only_here: bool,
}

#[derive(Deserialize)]
struct RawError {
    id: Option<u64>,
    topic: Option<String>,
    error: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct RawDone {
    id: u64,
}

#[derive(Deserialize)]
struct RawMembers {
    topic: String,
    members: Vec<RawMember>,
}

#[derive(Deserialize)]
struct RawChange {
    topic: String,
    member: RawMember,
    cause: Option<String>,
    within: Option<u64>,
}

/// Durations are in milliseconds.
#[derive(Deserialize)]
struct RawMember {
    user: Option<String>,
    connection: Option<u64>,
    node: Option<String>,
    missed: Option<u32>,
    max_missed: Option<u32>,
    silent: Option<u64>,
    round_trip: Option<u64>,
}

impl Incoming {
    /// Reads a message of the server.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(message: &Message) -> Result<Self, Unusable> {
        let unusable = |why: &str| Unusable { topic: None, why: why.to_owned() };
        let text = message.as_text().ok_or_else(|| unusable("a binary frame"))?;
        // The description of the heartbeat, which Ping frames make up for.
        if text.starts_with("heartwire ") {
            return Ok(Self::Other);
        }
        if !text.trim_start().starts_with('{') {
            return Err(unusable("no JSON object"));
        }
        let Envelope { kind, topic } = read(text, None)?;
        Self::read(&kind, text, topic.as_ref())
    }

    fn read(kind: &str, text: &str, topic: Option<&String>) -> Result<Self, Unusable> {
        let unusable = |why: &str| Unusable { topic: topic.cloned(), why: why.to_owned() };
        let position = |text: &str| text.parse::<Position>().map_err(|error| unusable(&error.to_string()));
        Ok(match kind {
            "message" => {
                let RawMessage { topic, position: at, text, base64, only_here } = read(text, topic)?;
                let message = match (text, base64) {
                    (Some(text), None) => Message::text(text),
                    (None, Some(base64)) => {
                        Message::binary(BASE64.decode(base64.as_bytes()).map_err(|_| unusable("\"base64\" is none"))?)
                    }
                    _ => return Err(unusable("a message has one of \"text\" and \"base64\"")),
                };
                Self::Message { topic, position: position(&at)?, message, only_here }
            }
            "lost" => {
                let RawLost { topic, position: at } = read(text, topic)?;
                Self::Lost { topic, position: position(&at)? }
            }
            "subscribed" => {
                let RawSubscribed { id, topics } = read(text, topic)?;
                Self::Subscribed { id, topics: topics.into_iter().map(RawAnswer::checked).collect::<Result<_, _>>()? }
            }
            "published" => {
                let RawPublished { id, position: at, here, again, only_here } = read(text, topic)?;
                Self::Published { id, published: Published { position: position(&at)?, here, again, only_here } }
            }
            "error" => {
                let RawError { id, topic, error, reason } = read(text, topic)?;
                Self::Error { id, topic, reason: reason.unwrap_or_default(), error }
            }
            "unsubscribed" | "authenticated" => {
                let RawDone { id } = read(text, topic)?;
                Self::Done { id }
            }
            "presence" => {
                let RawMembers { topic, members } = read(text, topic)?;
                let members =
                    members.into_iter().map(RawMember::checked).collect::<Result<_, _>>().map_err(unusable)?;
                Self::Presence { topic, presence: Presence::Members(members) }
            }
            "joined" | "doubted" | "alive" | "gone" => {
                let RawChange { topic: of, member, cause, within } = read(text, topic)?;
                let member = member.checked().map_err(unusable)?;
                let presence = match kind {
                    "joined" => Presence::Joined(member),
                    "doubted" => Presence::Doubted(member),
                    "alive" => Presence::Alive(member),
                    _ => Presence::Gone {
                        member: member.name,
                        cause: cause.unwrap_or_default(),
                        within: Duration::from_millis(within.unwrap_or_default()),
                    },
                };
                Self::Presence { topic: of, presence }
            }
            "expiring" => Self::Expiring,
            _ => Self::Other,
        })
    }
}

impl RawAnswer {
    fn checked(self) -> Result<Answer, Unusable> {
        let Self { topic, position, since, error, reason } = self;
        let parse = |text: &str| {
            text.parse::<Position>().map_err(|error| Unusable { topic: Some(topic.clone()), why: error.to_string() })
        };
        let outcome = match (position, error) {
            (_, Some(error)) => Outcome::Refused { error, reason: reason.unwrap_or_default() },
            (Some(position), None) => {
                let since = since.as_deref().map(parse).transpose()?;
                Outcome::Accepted { position: parse(&position)?, since }
            }
            (None, None) => {
                let why = "it is neither accepted nor refused".to_owned();
                return Err(Unusable { topic: Some(topic), why });
            }
        };
        Ok(Answer { topic, outcome })
    }
}

impl RawMember {
    fn checked(self) -> Result<Member, &'static str> {
        let Self { user, connection, node, missed, max_missed, silent, round_trip } = self;
        let name = match (user, connection) {
            (Some(user), _) => MemberName::User(user),
            (None, Some(id)) => MemberName::Connection { id, node },
            (None, None) => return Err("a member has no name"),
        };
        let vitals = missed.zip(max_missed).zip(silent).map(|((missed, max_missed), silent)| Vitals {
            missed,
            max_missed,
            silent: Duration::from_millis(silent),
            round_trip: round_trip.map(Duration::from_millis),
        });
        Ok(Member { name, vitals })
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, topic: Option<&String>) -> Result<T, Unusable> {
    serde_json::from_str(text).map_err(|error| Unusable { topic: topic.cloned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Incoming, Unusable> {
        Incoming::parse(&Message::text(text))
    }

    #[test]
    fn requests_are_json_whatever_is_in_them() {
        let odd = "\"\\\n\u{0}\u{2028}ü";
        let wanted = [
            Wanted { topic: odd, since: Some("earliest".to_owned()), presence: true },
            Wanted { topic: "b", since: None, presence: false },
        ];
        for (text, expected) in [
            (
                subscribe(1, &wanted),
                json!({"type": "subscribe", "id": 1, "topics": [
                    {"topic": odd, "since": "earliest", "presence": true}, {"topic": "b"}
                ]}),
            ),
            (unsubscribe(2, &[odd]), json!({"type": "unsubscribe", "id": 2, "topics": [odd]})),
            (authenticate(3, odd), json!({"type": "authenticate", "id": 3, "token": odd})),
            (
                publish(4, odd, &odd.into(), odd),
                json!({"type": "publish", "id": 4, "topic": odd, "key": odd, "text": odd}),
            ),
            (
                publish(5, "t", &Message::binary(vec![0, 255]), "k"),
                json!({"type": "publish", "id": 5, "topic": "t", "key": "k", "base64": "AP8="}),
            ),
        ] {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_unknown_is_skipped() {
        for text in ["heartwire {}", r#"{"type":"dance","id":"x"}"#, r#"{"type":"expired","topics":1,"more":{}}"#] {
            assert!(matches!(parse(text), Ok(Incoming::Other)), "{text}");
        }
        let more = parse(r#"{"type":"lost","topic":"a","position":"4f2a90c1d3e5b607:42","more":[1]}"#);
        assert!(matches!(more, Ok(Incoming::Lost { .. })), "{more:?}");
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_topic() {
        for (text, topic, why) in [
            ("", None, "no JSON object"),
            ("pong", None, "no JSON object"),
            ("{", None, "EOF"),
            (r#"{"id":1}"#, None, "missing field `type`"),
            (r#"{"type":"message","topic":"a","text":"x"}"#, Some("a"), "missing field `position`"),
            (r#"{"type":"message","topic":"a","position":"1","text":"x"}"#, Some("a"), "a position is"),
            (r#"{"type":"message","topic":"a","position":"4f2a90c1d3e5b607:1"}"#, Some("a"), "one of"),
            (r#"{"type":"message","topic":"a","position":"4f2a90c1d3e5b607:1","base64":"A"}"#, Some("a"), "is none"),
            (r#"{"type":"subscribed","id":1,"topics":[{"topic":"a"}]}"#, Some("a"), "neither"),
            (r#"{"type":"presence","topic":"a","members":[{}]}"#, Some("a"), "has no name"),
        ] {
            let unusable = parse(text).unwrap_err();
            assert_eq!(unusable.topic.as_deref(), topic, "{text}");
            assert!(unusable.why.contains(why), "{text}: {}", unusable.why);
        }
        assert!(Incoming::parse(&Message::binary(vec![1])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&format!("{{{}", String::from_utf8_lossy(&bytes)));
        }
    }
}
