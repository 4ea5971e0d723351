//! Who is subscribed to a topic, and how well they are. A user with several connections is one member.
//!
//! Invariant: a member joins once, with its first connection, and is gone once, with its last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::name::TopicName;
use crate::connection::identity::ConnectionId;
use crate::connection::report::ConnectionInfo;
use crate::connection::shared::Shared;
use crate::message::Message;

/// No member in a list is described in fewer bytes.
pub(super) const SHORTEST: usize = 64;

/// A user, or a connection that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    User(Arc<str>),
    Connection(ConnectionId),
}

/// The members of a topic.
#[derive(Default)]
pub(super) struct Members(BTreeMap<Member, Connections>);

#[derive(Default)]
struct Connections {
    ids: BTreeSet<ConnectionId>,
    is_doubted: bool,
}

/// What there is to tell of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Joined,
    Doubted,
    Alive,
}

impl Member {
    pub(super) fn of(shared: &Shared) -> Self {
        match shared.user() {
            Some(name) => Self::User(name.into()),
            None => Self::Connection(shared.id()),
        }
    }

    /// As a member of a JSON object.
    fn to_json(&self) -> String {
        match self {
            Self::User(name) => format!(r#""user":{}"#, json!(&**name)),
            Self::Connection(id) => format!(r#""connection":{id}"#),
        }
    }
}

impl Members {
    /// A connection has subscribed. Returns whether its member has joined with it.
    pub(super) fn add(&mut self, member: Member, id: ConnectionId) -> bool {
        let connections = self.0.entry(member).or_default();
        connections.ids.insert(id) && connections.ids.len() == 1
    }

    /// A connection is subscribed no more. Returns whether its member is gone with it.
    pub(super) fn remove(&mut self, member: &Member, id: ConnectionId) -> bool {
        let Some(connections) = self.0.get_mut(member) else { return false };
        let is_gone = connections.ids.remove(&id) && connections.ids.is_empty();
        if is_gone {
            self.0.remove(member);
        }
        is_gone
    }

    /// Looks whether a member is to be doubted: none of its connections answers. Returns what has changed.
    pub(super) fn judge(&mut self, member: &Member, is_missing: impl Fn(ConnectionId) -> bool) -> Option<Change> {
        let connections = self.0.get_mut(member)?;
        let is_doubted = connections.ids.iter().all(|id| is_missing(*id));
        let has_changed = std::mem::replace(&mut connections.is_doubted, is_doubted) != is_doubted;
        has_changed.then_some(if is_doubted { Change::Doubted } else { Change::Alive })
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn connections_of(&self, member: &Member) -> impl Iterator<Item = ConnectionId> {
        self.0.get(member).into_iter().flat_map(|connections| connections.ids.iter().copied())
    }

    /// All members, those in doubt first.
    #[cfg(feature = "status")]
    pub(super) fn worst_first(&self) -> impl Iterator<Item = (&Member, impl Iterator<Item = ConnectionId>)> {
        let of = |is_doubted| self.0.iter().filter(move |(_, connections)| connections.is_doubted == is_doubted);
        of(true).chain(of(false)).map(|(member, connections)| (member, connections.ids.iter().copied()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Member, impl Iterator<Item = ConnectionId>)> {
        self.0.iter().map(|(member, connections)| (member, connections.ids.iter().copied()))
    }
}

/// A member as it is shown, as JSON: of several connections the one that is best off.
pub(super) fn describe(member: &Member, connections: impl Iterator<Item = ConnectionInfo>) -> String {
    let member = member.to_json();
    let Some(best) = connections.min_by_key(|info| (info.missed, info.silent)) else { return format!("{{{member}}}") };
    let ConnectionInfo { missed, max_missed, silent, round_trip, .. } = best;
    let state = if missed > 0 { "doubted" } else { "alive" };
    let silent = silent.as_millis();
    let round_trip = round_trip.map_or("null".to_owned(), |figures| figures.last.as_millis().to_string());
    let figures = format!(r#""missed":{missed},"max_missed":{max_missed},"silent":{silent},"round_trip":{round_trip}"#);
    format!(r#"{{{member},"state":"{state}",{figures}}}"#)
}

/// All members of a topic, as the answer to a request, or as the list that a subscriber begins with.
pub(super) fn list(id: Option<u64>, topic: &TopicName, members: &[String]) -> Message {
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    let (topic, members) = (json!(topic.as_str()), members.join(","));
    format!(r#"{{"type":"presence",{id}"topic":{topic},"members":[{members}]}}"#).into()
}

/// A member has joined, or is better or worse off.
pub(super) fn changed(topic: &TopicName, change: Change, member: &str) -> Message {
    let kind = match change {
        Change::Joined => "joined",
        Change::Doubted => "doubted",
        Change::Alive => "alive",
    };
    let topic = json!(topic.as_str());
    format!(r#"{{"type":"{kind}","topic":{topic},"member":{member}}}"#).into()
}

/// A member is gone, for this cause. It is known within this time after the fact.
pub(super) fn gone(topic: &TopicName, member: &Member, cause: &str, within: Duration) -> Message {
    let (topic, member, within) = (json!(topic.as_str()), member.to_json(), within.as_millis());
    format!(r#"{{"type":"gone","topic":{topic},"member":{{{member}}},"cause":"{cause}","within":{within}}}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_joins_with_its_first_connection_and_is_gone_with_its_last() {
        let (mut members, id) = (Members::default(), |id: ConnectionId| id);
        let alice = Member::User("alice".into());
        assert!(members.add(alice.clone(), id(1)) && !members.add(alice.clone(), id(1)));
        assert!(!members.add(alice.clone(), id(2)) && !members.add(alice.clone(), id(2)));
        assert!(members.add(Member::Connection(id(3)), id(3)));
        assert!(!members.remove(&alice, id(1)) && !members.remove(&alice, id(1)));
        assert!(members.remove(&alice, id(2)) && !members.remove(&alice, id(2)));
        assert_eq!(members.iter().count(), 1);
    }

    #[test]
    fn a_member_is_doubted_once_none_of_its_connections_answers() {
        let (mut members, id) = (Members::default(), |id: ConnectionId| id);
        let alice = Member::User("alice".into());
        members.add(alice.clone(), id(1));
        members.add(alice.clone(), id(2));
        assert_eq!(members.judge(&alice, |id| id == 1), None);
        assert_eq!(members.judge(&alice, |_| true), Some(Change::Doubted));
        assert_eq!(members.judge(&alice, |_| true), None);
        assert_eq!(members.judge(&alice, |id| id == 2), Some(Change::Alive));
    }
}
