//! The nodes that share a Redis, as this one hears of them: which live, and which are dead. No I/O and no clock.
//!
//! Each node announces itself in the log, again and again. To the others it is a peer whose announcements are its signs
//! of life, judged by the same heartbeat as every peer.
//!
//! Invariants:
//! - A node that announces itself no more is dead after the time that it says itself.
//! - Nobody is judged while our own announcements do not come back: then we are the one that is cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{BackplaneInfo, NodeInfo};
use crate::heartbeat::{Action, Evidence, Heartbeat, HeartbeatPolicy, Reading};

/// How long a node may be silent that has not said so itself: a minute.
const UNKNOWN_BOUND: Duration = Duration::from_secs(60);

/// The name of a node.
pub(in crate::topics) type NodeName = Arc<str>;

#[derive(Debug)]
pub(super) struct Nodes {
    /// Our own name.
    own: NodeName,
    /// How long our own announcement may take to come back.
    longest_return: Duration,
    /// Since when our own announcements come back, and when the last one did.
    way: Option<(Instant, Instant)>,
    others: BTreeMap<NodeName, Other>,
}

#[derive(Debug)]
struct Other {
    generation: u64,
    about: String,
    heartbeat: Heartbeat,
    /// How many announcements have come, and when the last one did.
    heard: (u64, Instant),
}

/// A node that is dead, found within a time after it was last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) name: NodeName,
    pub(super) generation: u64,
    pub(super) bound: Duration,
}

impl Nodes {
    /// `policy` is that of our connections to Redis, and says how often we announce ourselves.
    pub(super) fn new(own: NodeName, policy: HeartbeatPolicy) -> Self {
        let longest_return = policy.ping_interval().unwrap_or_default() + policy.pong_timeout().unwrap_or_default();
        Self { own, longest_return, way: None, others: BTreeMap::new() }
    }

    /// A node was announced.
    pub(super) fn heard(&mut self, name: NodeName, generation: u64, about: String, now: Instant) {
        if name == self.own {
            let since = self.way.filter(|(_, last)| now - *last <= self.longest_return).map_or(now, |(since, _)| since);
            self.way = Some((since, now));
            return;
        }
        let bound = NodeInfo::from_json(&name, &about).bound;
        let policy = HeartbeatPolicy::peer_led(bound).max_missed(1);
        let begin =
            || Other { generation, about: String::new(), heartbeat: Heartbeat::new(policy, now, 1.0), heard: (0, now) };
        let other = self.others.entry(name).or_insert_with(begin);
        if other.heartbeat.policy() != policy {
            other.heartbeat.set_policy(policy, now, 1.0);
        }
        other.generation = generation;
        other.about = about;
        other.heard = (other.heard.0 + 1, now);
    }

    /// A node is gone.
    pub(super) fn gone(&mut self, name: &str) {
        self.others.remove(name);
    }

    /// Which nodes are dead by now, and when to look again.
    pub(super) fn judge(&mut self, now: Instant, suspended: Duration) -> (Vec<Dead>, Option<Instant>) {
        let reading = match self.way {
            Some((since, last)) if now - last <= self.longest_return => Reading::Since(since),
            _ => Reading::Stopped,
        };
        let (mut dead, mut next) = (Vec::new(), None::<Instant>);
        for (name, other) in &mut self.others {
            let mut evidence = Evidence::new(other.heard.0, other.heard.1);
            (evidence.reading, evidence.suspended) = (reading, suspended);
            match other.heartbeat.judge(now, &evidence) {
                Action::Wait(until) => next = [next, until].into_iter().flatten().min(),
                Action::Dead(_) => {
                    let bound = other.heartbeat.policy().worst_case().unwrap_or_default();
                    dead.push(Dead { name: Arc::clone(name), generation: other.generation, bound });
                }
                // With one miss a node is dead, and we send it nothing.
                Action::Missed(_) | Action::Ping | Action::Stalled(_) => {}
            }
        }
        (dead, next)
    }

    /// All nodes but this one.
    pub(super) fn others(&self, now: Instant) -> impl Iterator<Item = NodeInfo> {
        self.others.iter().map(move |(name, other)| NodeInfo {
            silent: now.saturating_duration_since(other.heard.1),
            ..NodeInfo::from_json(name, &other.about)
        })
    }
}

impl NodeInfo {
    /// What a node tells of itself.
    pub(super) fn to_json(&self) -> String {
        let BackplaneInfo { is_connected, round_trip, lag, waiting } = self.backplane;
        let round_trip = round_trip.map(|round_trip| u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX));
        json!({
            "address": self.address, "connections": self.connections, "connected": is_connected,
            "round_trip": round_trip, "lag": lag, "waiting": waiting, "bound": self.bound.as_millis(),
        })
        .to_string()
    }

    /// Reads what another one tells. What it does not tell is nothing.
    fn from_json(name: &str, about: &str) -> Self {
        let told: Value = serde_json::from_str(about).unwrap_or_default();
        let number = |name: &str| told[name].as_u64().unwrap_or_default();
        let backplane = BackplaneInfo {
            is_connected: told["connected"].as_bool().unwrap_or_default(),
            round_trip: told["round_trip"].as_u64().map(Duration::from_micros),
            lag: number("lag"),
            waiting: usize::try_from(number("waiting")).unwrap_or(usize::MAX),
        };
        let address = told["address"].as_str().unwrap_or_default().to_owned();
        let connections = number("connections");
        // One that does not say it has not been heard of yet.
        let bound = told["bound"].as_u64().map_or(UNKNOWN_BOUND, Duration::from_millis);
        Self { name: name.to_owned(), is_own: false, address, connections, backplane, silent: Duration::ZERO, bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Found after 5 + 3 x 2 s.
    fn nodes() -> Nodes {
        Nodes::new("own".into(), HeartbeatPolicy::new(5 * SECOND, 2 * SECOND))
    }

    /// What a node says that is to be found after 11 s.
    fn about() -> String {
        r#"{"bound":11000}"#.to_owned()
    }

    fn dead(nodes: &mut Nodes, now: Instant) -> Vec<String> {
        nodes.judge(now, Duration::ZERO).0.into_iter().map(|dead| dead.name.to_string()).collect()
    }

    #[test]
    fn a_node_that_announces_itself_no_more_is_dead_after_the_worst_case() {
        let (mut nodes, start) = (nodes(), Instant::now());
        let at = |seconds: u32| start + seconds * SECOND;
        nodes.heard("other".into(), 1, about(), start);
        for second in 0..=30 {
            if second % 5 == 0 {
                nodes.heard("own".into(), 1, String::new(), at(second));
            }
            if second == 5 || second == 10 {
                nodes.heard("other".into(), 1, about(), at(second));
            }
            assert_eq!(dead(&mut nodes, at(second) + SECOND / 2).is_empty(), second < 21, "{second}");
        }
        nodes.gone("other");
        assert_eq!(dead(&mut nodes, at(60)), [""; 0]);
    }

    #[test]
    fn whoever_is_cut_off_itself_judges_nobody() {
        let (mut nodes, start) = (nodes(), Instant::now());
        let at = |seconds: u32| start + seconds * SECOND;
        nodes.heard("own".into(), 1, String::new(), start);
        nodes.heard("other".into(), 1, about(), start);
        for second in 1..100 {
            assert_eq!(dead(&mut nodes, at(second)), [""; 0], "{second}");
        }
        // Back again: the other one has all its time from now on.
        nodes.heard("own".into(), 1, String::new(), at(100));
        for second in 100..130 {
            if second % 5 == 0 {
                nodes.heard("own".into(), 1, String::new(), at(second));
            }
            assert_eq!(dead(&mut nodes, at(second)).is_empty(), second < 111, "{second}");
        }
    }

    #[test]
    fn a_node_tells_how_it_is() {
        let backplane = BackplaneInfo { is_connected: true, round_trip: Some(SECOND / 1000), lag: 3, waiting: 4 };
        let (name, address) = ("a".to_owned(), "[::1]:9001".to_owned());
        let node = NodeInfo {
            name,
            is_own: false,
            address,
            connections: 7,
            backplane,
            silent: Duration::ZERO,
            bound: 11 * SECOND,
        };
        assert_eq!(NodeInfo::from_json("a", &node.to_json()), node);
    }

    #[test]
    fn a_node_that_was_heard_lives() {
        let (mut nodes, start) = (nodes(), Instant::now());
        for second in 0..200 {
            let now = start + second * SECOND;
            if second % 5 == 0 {
                nodes.heard("own".into(), 1, String::new(), now);
            }
            if second % 10 == 0 {
                nodes.heard("other".into(), 2, about(), now);
            }
            assert_eq!(dead(&mut nodes, now), [""; 0], "{second}");
        }
        let other = nodes.others(start + 192 * SECOND).next().unwrap();
        assert_eq!((&*other.name, other.silent), ("other", 2 * SECOND));
    }
}
