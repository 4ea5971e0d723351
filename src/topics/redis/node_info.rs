//! How it is with the servers that share a backplane, and what each of them tells the others of itself.

use std::time::Duration;

use serde_json::{Value, json};

/// How long a node may be silent that has not said so itself: a minute.
const UNKNOWN_BOUND: Duration = Duration::from_secs(60);

/// One of the servers that share their topics by a backplane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its name, which it chooses at random when it begins.
    pub name: String,
    /// Whether it is this server.
    pub is_own: bool,
    /// Where it listens.
    pub address: String,
    /// How long ago it began.
    pub age: Duration,
    /// How many connections it has.
    pub connections: u64,
    /// How many subscriptions to topics these have.
    pub subscriptions: u64,
    /// How many users are subscribed there. A connection that belongs to none counts as one. `None` without
    /// [presence](crate::topics::Topics::presence).
    pub members: Option<u64>,
    /// How it is with its backplane.
    pub backplane: BackplaneInfo,
    /// Whether it is known to live.
    pub state: NodeState,
    /// How long ago it was heard of. What it tells of itself is as old.
    pub silent: Duration,
    /// How long it may be silent before it is in doubt: until its next announcement is overdue.
    pub patience: Duration,
    /// How long it may be silent before it counts as dead: the worst case of its
    /// [heartbeat](crate::topics::Redis::heartbeat).
    pub bound: Duration,
}

/// What is known of a server that shares the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// It was heard of lately.
    Alive,
    /// Its next announcement is overdue. If none comes it is lost.
    Doubted,
    /// Nobody can tell: it has not said anything yet, or this server's own announcements do not come back, so that it
    /// may be this one that is cut off.
    Unknown,
}

/// A server that has shared the topics, and no longer does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormerNode {
    /// Its name.
    pub name: String,
    /// Where it listened.
    pub address: String,
    /// Whether it was found dead. Otherwise it has ended in order.
    pub was_dead: bool,
    /// How long ago that was.
    pub ago: Duration,
}

/// How it is with the backplane of a server's topics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackplaneInfo {
    /// Whether Redis is connected, and this server has a copy of all histories.
    pub is_connected: bool,
    /// For how long it has been connected, or away.
    pub since: Duration,
    /// How long Redis took to answer when it was last asked for a sign of life. `None` if it was not asked yet.
    pub round_trip: Option<Duration>,
    /// By how many entries of Redis' log this server's copy was last seen to be behind: messages, and what servers tell
    /// one another.
    pub lag: u64,
    /// For how long this server's copy has not been known to have everything. Zero if it had everything when Redis last
    /// answered, and no answer is overdue.
    pub behind: Duration,
    /// How many messages of this server wait to be published.
    pub waiting: usize,
    /// How often Redis was lost after it had been connected.
    pub outages: u64,
    /// For how long Redis was away in all, also before it was connected first.
    pub away: Duration,
    /// How often the history began anew, because Redis had lost messages.
    pub epochs: u64,
    /// How many other servers were found dead.
    pub nodes_lost: u64,
}

/// What a server has of its own to tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: u64,
    pub(crate) subscriptions: u64,
    pub(crate) has_presence: bool,
}

impl NodeInfo {
    /// What a node tells of itself. It is as long however much the node has.
    pub(super) fn to_json(&self) -> String {
        let BackplaneInfo { is_connected, round_trip, lag, behind, waiting, .. } = self.backplane;
        json!({
            "address": self.address, "age": millis(self.age), "connections": self.connections,
            "subscriptions": self.subscriptions, "members": self.members, "connected": is_connected,
            "since": millis(self.backplane.since), "round_trip": round_trip.map(micros), "lag": lag,
            "behind": millis(behind), "waiting": waiting, "outages": self.backplane.outages,
            "away": millis(self.backplane.away), "epochs": self.backplane.epochs,
            "nodes_lost": self.backplane.nodes_lost, "patience": millis(self.patience), "bound": millis(self.bound),
        })
        .to_string()
    }

    /// Reads what another one told so long ago. What it does not tell is nothing.
    pub(super) fn from_json(name: &str, about: &str, silent: Duration) -> Self {
        let told: Value = serde_json::from_str(about).unwrap_or_default();
        let number = |name: &str| told[name].as_u64().unwrap_or_default();
        let duration = |name: &str| Duration::from_millis(number(name));
        let backplane = BackplaneInfo {
            is_connected: told["connected"].as_bool().unwrap_or_default(),
            since: duration("since"),
            round_trip: told["round_trip"].as_u64().map(Duration::from_micros),
            lag: number("lag"),
            behind: duration("behind"),
            waiting: usize::try_from(number("waiting")).unwrap_or(usize::MAX),
            outages: number("outages"),
            away: duration("away"),
            epochs: number("epochs"),
            nodes_lost: number("nodes_lost"),
        };
        // One that does not say it has not been heard of yet.
        let bound = told["bound"].as_u64().map_or(UNKNOWN_BOUND, Duration::from_millis);
        Self {
            name: name.to_owned(),
            is_own: false,
            address: told["address"].as_str().unwrap_or_default().to_owned(),
            age: duration("age").saturating_add(silent),
            connections: number("connections"),
            subscriptions: number("subscriptions"),
            members: told["members"].as_u64(),
            backplane,
            state: NodeState::Alive,
            silent,
            patience: told["patience"].as_u64().map_or(bound, Duration::from_millis),
            bound,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_how_it_is() {
        let millis = Duration::from_millis;
        let backplane = BackplaneInfo {
            is_connected: true,
            since: millis(1),
            round_trip: Some(Duration::from_micros(2)),
            lag: 3,
            behind: millis(4),
            waiting: 5,
            outages: 6,
            away: millis(7),
            epochs: 8,
            nodes_lost: 9,
        };
        let node = NodeInfo {
            name: "a".to_owned(),
            is_own: false,
            address: "[::1]:9001".to_owned(),
            age: millis(10),
            connections: 11,
            subscriptions: 12,
            members: Some(13),
            backplane,
            state: NodeState::Alive,
            silent: Duration::ZERO,
            patience: millis(14),
            bound: millis(15),
        };
        assert_eq!(NodeInfo::from_json("a", &node.to_json(), Duration::ZERO), node);
        // It has grown older since.
        let later = NodeInfo { age: millis(30), silent: millis(20), ..node.clone() };
        assert_eq!(NodeInfo::from_json("a", &node.to_json(), millis(20)), later);
    }

    #[test]
    fn whoever_tells_nothing_or_nonsense_is_nobody_in_particular() {
        for about in ["", "{", "[]", "{}", r#"{"bound":-1,"age":"old","members":[],"address":7}"#] {
            let node = NodeInfo::from_json("a", about, Duration::ZERO);
            let figures = (node.connections, node.members, node.age, node.bound, &*node.address);
            assert_eq!(figures, (0, None, Duration::ZERO, UNKNOWN_BOUND, ""), "{about}");
        }
        // Nothing of what it tells may end anybody else.
        let huge = format!(r#"{{"age":{0},"bound":{0},"patience":{0},"away":{0}}}"#, u64::MAX);
        let node = NodeInfo::from_json("a", &huge, Duration::MAX);
        assert_eq!((node.age, node.bound), (Duration::MAX, Duration::from_millis(u64::MAX)));
    }
}
