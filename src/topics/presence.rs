//! Who is subscribed to a topic, and how well they are. A user with several connections is one member.
//!
//! Invariant: a member joins once, with its first connection, and is gone once, with its last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::name::TopicName;
use crate::connection::identity::ConnectionId;
use crate::connection::report::ConnectionInfo;
use crate::message::Message;

/// No member in a list is described in fewer bytes.
pub(super) const SHORTEST: usize = 32;

/// A connection, of all that may be subscribed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The name of its server, if several share the topics.
    pub(super) node: Option<Arc<str>>,
    pub(super) id: ConnectionId,
}

/// A user, or a connection that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    User(Arc<str>),
    Connection(Place),
}

/// The members of a topic.
#[derive(Default)]
pub(super) struct Members {
    members: BTreeMap<Member, Connections>,
    places: BTreeMap<Place, Member>,
}

#[derive(Default)]
struct Connections {
    /// Which there are, and whether Pongs of each are missed.
    places: BTreeMap<Place, bool>,
    is_doubted: bool,
}

/// What there is to tell of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Joined,
    Doubted,
    Alive,
    Gone,
}

/// How well a connection is, as far as it is known here.
pub(super) struct Health {
    is_missing: bool,
    /// If it is a connection of this server.
    figures: Option<Figures>,
}

struct Figures {
    missed: u32,
    max_missed: u32,
    silent: Duration,
    round_trip: Option<Duration>,
}

impl Member {
    pub(super) fn of(user: Option<&str>, place: &Place) -> Self {
        match user {
            Some(name) => Self::User(name.into()),
            None => Self::Connection(place.clone()),
        }
    }

    /// As a member of a JSON object.
    fn to_json(&self) -> String {
        match self {
            Self::User(name) => format!(r#""user":{}"#, json!(&**name)),
            Self::Connection(Place { node: None, id }) => format!(r#""connection":{id}"#),
            Self::Connection(Place { node: Some(node), id }) => {
                format!(r#""connection":{id},"node":{}"#, json!(&**node))
            }
        }
    }
}

impl Members {
    /// A connection is subscribed, and Pongs of it are missed or not. Returns what that changes for its member.
    pub(super) fn take(&mut self, place: Place, member: &Member, is_missing: bool) -> Option<Change> {
        self.places.insert(place.clone(), member.clone());
        let connections = self.members.entry(member.clone()).or_default();
        let has_joined = connections.places.is_empty();
        connections.places.insert(place, is_missing);
        let change = connections.judge();
        if has_joined { Some(Change::Joined) } else { change }
    }

    /// A connection is subscribed no more. Returns its member, and what has changed for that.
    pub(super) fn leave(&mut self, place: &Place) -> Option<(Member, Option<Change>)> {
        let member = self.places.remove(place)?;
        let connections = self.members.get_mut(&member)?;
        connections.places.remove(place);
        if connections.places.is_empty() {
            self.members.remove(&member);
            return Some((member, Some(Change::Gone)));
        }
        let change = connections.judge();
        Some((member, change))
    }

    /// The connections to one of the servers.
    #[cfg(feature = "redis")]
    pub(super) fn places_of(&self, node: &Arc<str>) -> Vec<Place> {
        let first = Place { node: Some(Arc::clone(node)), id: ConnectionId::MIN };
        let places = self.places.range(first..).map(|(place, _)| place);
        places.take_while(|place| place.node.as_ref() == Some(node)).cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// All members, those in doubt first.
    #[cfg(feature = "status")]
    pub(super) fn worst_first(&self) -> impl Iterator<Item = (&Member, impl Iterator<Item = (&Place, bool)>)> {
        let of = |is_doubted| self.members.iter().filter(move |(_, connections)| connections.is_doubted == is_doubted);
        of(true).chain(of(false)).map(|(member, connections)| (member, connections.iter()))
    }

    /// The connections of a member, and whether Pongs of them are missed.
    pub(super) fn connections_of(&self, member: &Member) -> impl Iterator<Item = (&Place, bool)> {
        self.members.get(member).into_iter().flat_map(Connections::iter)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Member, impl Iterator<Item = (&Place, bool)>)> {
        self.members.iter().map(|(member, connections)| (member, connections.iter()))
    }
}

impl Connections {
    fn iter(&self) -> impl Iterator<Item = (&Place, bool)> {
        self.places.iter().map(|(place, is_missing)| (place, *is_missing))
    }

    /// A member is doubted if none of its connections answers.
    fn judge(&mut self) -> Option<Change> {
        let is_doubted = self.places.values().all(|is_missing| *is_missing);
        let has_changed = std::mem::replace(&mut self.is_doubted, is_doubted) != is_doubted;
        has_changed.then_some(if is_doubted { Change::Doubted } else { Change::Alive })
    }
}

impl Health {
    /// That of a connection of another server.
    pub(super) fn elsewhere(is_missing: bool) -> Self {
        Self { is_missing, figures: None }
    }

    /// Of several connections the one that is best off, and of those one of which more is known.
    fn rank(&self) -> (bool, bool, u32, Duration) {
        match self.figures {
            Some(Figures { missed, silent, .. }) => (self.is_missing, false, missed, silent),
            None => (self.is_missing, true, 0, Duration::ZERO),
        }
    }
}

impl From<ConnectionInfo> for Health {
    fn from(info: ConnectionInfo) -> Self {
        let ConnectionInfo { missed, max_missed, silent, round_trip, .. } = info;
        let round_trip = round_trip.map(|figures| figures.last);
        Self { is_missing: missed > 0, figures: Some(Figures { missed, max_missed, silent, round_trip }) }
    }
}

/// A member as it is shown, as JSON: of several connections the one that is best off.
pub(super) fn describe(member: &Member, connections: impl Iterator<Item = Health>) -> String {
    let member = member.to_json();
    let Some(best) = connections.min_by_key(Health::rank) else { return format!("{{{member}}}") };
    let state = if best.is_missing { "doubted" } else { "alive" };
    let Some(Figures { missed, max_missed, silent, round_trip }) = best.figures else {
        return format!(r#"{{{member},"state":"{state}"}}"#);
    };
    let silent = silent.as_millis();
    let round_trip = round_trip.map_or("null".to_owned(), |round_trip| round_trip.as_millis().to_string());
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
        Change::Gone => "gone",
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

    fn place(id: ConnectionId) -> Place {
        Place { node: None, id }
    }

    #[test]
    fn a_member_joins_with_its_first_connection_and_is_gone_with_its_last() {
        let mut members = Members::default();
        let alice = Member::of(Some("alice"), &place(1));
        assert_eq!(members.take(place(1), &alice, false), Some(Change::Joined));
        assert_eq!(members.take(place(1), &alice, false), None);
        assert_eq!(members.take(place(2), &alice, false), None);
        let nobody = Member::of(None, &place(3));
        assert_eq!(members.take(place(3), &nobody, false), Some(Change::Joined));
        assert_eq!(members.leave(&place(1)), Some((alice.clone(), None)));
        assert_eq!(members.leave(&place(1)), None);
        assert_eq!(members.leave(&place(2)), Some((alice, Some(Change::Gone))));
        assert_eq!(members.iter().count(), 1);
    }

    #[test]
    fn a_member_is_doubted_once_none_of_its_connections_answers() {
        let mut members = Members::default();
        let alice = Member::of(Some("alice"), &place(1));
        // One that joins in doubt is told as that, and so has to be told as alive later.
        assert_eq!(members.take(place(1), &alice, true), Some(Change::Joined));
        assert_eq!(members.take(place(1), &alice, false), Some(Change::Alive));
        assert_eq!(members.take(place(2), &alice, false), None);
        assert_eq!(members.take(place(1), &alice, true), None);
        assert_eq!(members.take(place(2), &alice, true), Some(Change::Doubted));
        assert_eq!(members.take(place(2), &alice, true), None);
        assert_eq!(members.take(place(2), &alice, false), Some(Change::Alive));
        // The one that answers leaves.
        assert_eq!(members.leave(&place(2)), Some((alice, Some(Change::Doubted))));
    }
}
