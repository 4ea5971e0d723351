//! What is printed of a delivery: a line on standard output, or of the log.

use std::io;

use data_encoding::BASE64;
use heartwire::{Delivery, Escaped, Member, MemberName, Message, Presence};
use serde_json::{Value, json};

use crate::screen::Screen;

pub(super) struct Printer {
    screen: Screen,
    is_json: bool,
    names_topics: bool,
}

impl Printer {
    pub(super) fn new(is_json: bool, names_topics: bool) -> Self {
        Self { screen: Screen::new(), is_json, names_topics }
    }

    pub(super) fn print(&self, delivery: &Delivery) -> io::Result<()> {
        log_delivery(delivery, self.is_json);
        let line = if self.is_json { object(delivery).map(|object| object.to_string()) } else { self.plain(delivery) };
        line.map_or(Ok(()), |line| self.screen.print(&line))
    }

    /// A message, as it is.
    fn plain(&self, delivery: &Delivery) -> Option<String> {
        let Delivery::Message { topic, message, .. } = delivery else { return None };
        let text = match message {
            Message::Text(text) => text.to_string(),
            Message::Binary(bytes) => format!("[{} bytes]", bytes.len()),
        };
        // No name of a topic has a tab.
        Some(if self.names_topics { format!("{topic}\t{text}") } else { text })
    }
}

fn log_delivery(delivery: &Delivery, is_json: bool) {
    match delivery {
        Delivery::Lost { topic, position, .. } => {
            log::warn!(
                "{topic}: messages are lost, for the server's history does not reach back; going on after {position}"
            );
        }
        Delivery::Subscribed { topic, position, .. } => {
            log::info!("{topic}: subscribed; its last message is at {position}");
        }
        Delivery::Presence { topic, presence, .. } if !is_json => log::info!("{topic}: {}", in_words(presence)),
        _ => {}
    }
}

fn in_words(presence: &Presence) -> String {
    let named = |member: &Member| name(&member.name);
    match presence {
        Presence::Members(members) if members.is_empty() => "nobody is subscribed".to_owned(),
        Presence::Members(members) => {
            let names: Vec<_> = members.iter().map(named).collect();
            format!("subscribed: {}", names.join(", "))
        }
        Presence::Joined(member) => format!("{} joined", named(member)),
        Presence::Doubted(member) => match member.vitals {
            Some(vitals) => format!("{} is in doubt: {} of {} missed", named(member), vitals.missed, vitals.max_missed),
            None => format!("{} is in doubt", named(member)),
        },
        Presence::Alive(member) => format!("{} is alive again", named(member)),
        Presence::Gone { member, cause, .. } => format!("{} is gone: {}", name(member), Escaped(cause)),
        other => format!("{other:?}"),
    }
}

fn name(name: &MemberName) -> String {
    match name {
        MemberName::User(user) => Escaped(user).to_string(),
        MemberName::Connection { id, node: None } => format!("#{id}"),
        MemberName::Connection { id, node: Some(node) } => format!("#{id} on {}", Escaped(node)),
        other => format!("{other:?}"),
    }
}

/// As the protocol has it.
fn object(delivery: &Delivery) -> Option<Value> {
    Some(match delivery {
        Delivery::Message { topic, message, position, .. } => {
            let (member, payload) = match message {
                Message::Text(text) => ("text", text.to_string()),
                Message::Binary(bytes) => ("base64", BASE64.encode(bytes)),
            };
            json!({ "type": "message", "topic": topic.as_str(), "position": position.to_string(), member: payload })
        }
        Delivery::Lost { topic, position, .. } => {
            json!({ "type": "lost", "topic": topic.as_str(), "position": position.to_string() })
        }
        Delivery::Presence { topic, presence, .. } => {
            let topic = topic.as_str();
            let changed =
                |kind: &str, member: &Member| json!({ "type": kind, "topic": topic, "member": described(member) });
            match presence {
                Presence::Members(members) => {
                    let members: Vec<_> = members.iter().map(described).collect();
                    json!({ "type": "presence", "topic": topic, "members": members })
                }
                Presence::Joined(member) => changed("joined", member),
                Presence::Doubted(member) => changed("doubted", member),
                Presence::Alive(member) => changed("alive", member),
                Presence::Gone { member, cause, within, .. } => json!({
                    "type": "gone", "topic": topic, "member": named(member), "cause": cause,
                    "within": within.as_millis() as u64
                }),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn named(name: &MemberName) -> Value {
    match name {
        MemberName::User(user) => json!({ "user": user }),
        MemberName::Connection { id, node: None } => json!({ "connection": id }),
        MemberName::Connection { id, node: Some(node) } => json!({ "connection": id, "node": node }),
        _ => json!({}),
    }
}

fn described(member: &Member) -> Value {
    let mut value = named(&member.name);
    if let Some(vitals) = member.vitals {
        value["state"] = json!(if vitals.missed > 0 { "doubted" } else { "alive" });
        value["missed"] = json!(vitals.missed);
        value["max_missed"] = json!(vitals.max_missed);
        value["silent"] = json!(vitals.silent.as_millis() as u64);
        value["round_trip"] = json!(vitals.round_trip.map(|round_trip| round_trip.as_millis() as u64));
    }
    value
}
