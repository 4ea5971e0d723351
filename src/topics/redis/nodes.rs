//! The nodes that share a Redis, as this one hears of them: which live, and which are dead. No I/O and no clock.
//!
//! Each node announces itself in the log, again and again. To the others it is a peer whose announcements are its signs
//! of life, judged by the same heartbeat as every peer.
//!
//! Invariants:
//! - A node that announces itself no more is dead after the time that it says itself.
//! - Nobody is judged while our own announcements do not come back: then we are the one that is cut off.
//! - Nor after we have not looked for a while, before the next of them comes back: while Redis was away, nobody could
//!   say that it lives.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{FormerNode, NodeInfo, NodeName, NodeState};
use crate::heartbeat::{Action, Evidence, Heartbeat, HeartbeatPolicy, Reading};

/// So many of the nodes that are gone are remembered, the newest.
const REMEMBERED: usize = 8;

/// Up to so many nodes each asks Redis for more as soon as it has something. Each further one makes all pause for so
/// long, so that together they ask 5,000 times a second at most, however many there are: that is what costs Redis most.
const BRISK_NODES: u32 = 4;
const PAUSE: Duration = Duration::from_micros(200);

#[derive(Debug)]
pub(super) struct Nodes {
    /// Our own name.
    own: NodeName,
    /// How often a node announces itself.
    interval: Duration,
    /// How long our own announcement may take to come back.
    longest_return: Duration,
    /// How long we may not look: with the longest silence of one that lives, this is less than what makes it dead.
    longest_gap: Duration,
    last_look: Option<Instant>,
    /// Since when our own announcements come back, and when the last one did.
    way: Option<(Instant, Instant)>,
    others: BTreeMap<NodeName, Other>,
    /// Those that were there, and when they were found to be gone, the newest first.
    gone: VecDeque<(Instant, FormerNode)>,
    /// How many were found dead.
    lost: u64,
}

#[derive(Debug)]
struct Other {
    generation: u64,
    about: String,
    heartbeat: Heartbeat,
    /// How many announcements have come, and when the last one did.
    heard: (u64, Instant),
    /// Whether it was found dead. It stays so until Redis was told, or it is heard of, or we hear of nobody.
    is_dead: bool,
}

/// A node that is dead, found within a time after it was last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) name: NodeName,
    pub(super) generation: u64,
    pub(super) bound: Duration,
}

impl Nodes {
    /// Each node announces itself once in an interval, and is dead after a silence of `bound`. An announcement comes
    /// back within the timeout, unless we are cut off.
    pub(super) fn new(own: NodeName, interval: Duration, timeout: Duration, bound: Duration) -> Self {
        Self {
            own,
            interval,
            longest_return: interval + timeout,
            longest_gap: bound.saturating_sub(interval) / 4 * 3,
            last_look: None,
            way: None,
            others: BTreeMap::new(),
            gone: VecDeque::new(),
            lost: 0,
        }
    }

    /// A node was announced, and tells this of itself. Nothing, if all that is known is that it was there.
    pub(super) fn heard(&mut self, name: NodeName, generation: u64, about: String, now: Instant) {
        if name == self.own {
            let since = self.way.filter(|(_, last)| now - *last <= self.longest_return).map_or(now, |(since, _)| since);
            self.way = Some((since, now));
            return;
        }
        let known = self.others.get(&name).map(|other| other.about.clone());
        let about = if about.is_empty() { known.unwrap_or_default() } else { about };
        let bound = NodeInfo::from_json(&name, &about, Duration::ZERO).bound;
        let policy = HeartbeatPolicy::peer_led(bound).max_missed(1);
        let begin = || Other {
            generation,
            about: String::new(),
            heartbeat: Heartbeat::new(policy, now, 1.0),
            heard: (0, now),
            is_dead: false,
        };
        let other = self.others.entry(name).or_insert_with(begin);
        if std::mem::take(&mut other.is_dead) {
            other.heartbeat = Heartbeat::new(policy, now, 1.0);
        } else if other.heartbeat.policy() != policy {
            other.heartbeat.set_policy(policy, now, 1.0);
        }
        other.generation = generation;
        other.about = about;
        other.heard = (other.heard.0 + 1, now);
    }

    /// A node is gone: dead, or it has ended in order.
    pub(super) fn gone(&mut self, name: &str, was_dead: bool, now: Instant) {
        let Some(other) = self.others.remove(name) else { return };
        self.lost += u64::from(was_dead);
        let NodeInfo { name, address, .. } = NodeInfo::from_json(name, &other.about, Duration::ZERO);
        self.gone.truncate(REMEMBERED - 1);
        self.gone.push_front((now, FormerNode { name, address, was_dead, ago: Duration::ZERO }));
    }

    /// Since when we would hear of others, if we do.
    fn reading(&self, now: Instant) -> Reading {
        match self.way {
            Some((since, last)) if now - last <= self.longest_return => Reading::Since(since),
            _ => Reading::Stopped,
        }
    }

    /// Which nodes are dead by now, and when to look again.
    pub(super) fn judge(&mut self, now: Instant, suspended: Duration) -> (Vec<Dead>, Option<Instant>) {
        if self.last_look.replace(now).is_some_and(|last| now - last > self.longest_gap) {
            self.way = None;
        }
        let reading = self.reading(now);
        let (mut dead, mut next) = (Vec::new(), None::<Instant>);
        for (name, other) in &mut self.others {
            let mut evidence = Evidence::new(other.heard.0, other.heard.1);
            let policy = other.heartbeat.policy();
            let bound = policy.worst_case().unwrap_or_default();
            // Whether ours came back after its next one was due: a Redis that takes nothing any more tells of nobody.
            let due = other.heard.1 + self.interval.min(bound.saturating_sub(self.interval));
            let is_proven = self.way.is_some_and(|(_, last)| last >= due);
            evidence.reading = if is_proven { reading } else { Reading::Stopped };
            evidence.suspended = suspended;
            if evidence.reading == Reading::Stopped && std::mem::take(&mut other.is_dead) {
                other.heartbeat = Heartbeat::new(policy, now, 1.0);
            }
            match other.heartbeat.judge(now, &evidence) {
                Action::Wait(until) => next = [next, until].into_iter().flatten().min(),
                Action::Dead(_) => {
                    other.is_dead = true;
                    dead.push(Dead { name: Arc::clone(name), generation: other.generation, bound });
                }
                // With one miss a node is dead, and we send it nothing.
                _ => {}
            }
        }
        (dead, next)
    }

    /// How long each node waits after it has read something, before it asks for more.
    pub(super) fn reading_pause(&self) -> Duration {
        let nodes = u32::try_from(self.others.len()).unwrap_or(u32::MAX).saturating_add(1);
        PAUSE.saturating_mul(nodes.saturating_sub(BRISK_NODES)).min(self.longest_return / 100)
    }

    /// All nodes but this one.
    pub(super) fn others(&self, now: Instant) -> impl Iterator<Item = NodeInfo> {
        let reading = self.reading(now);
        self.others.iter().map(move |(name, other)| {
            let silent = now.saturating_duration_since(other.heard.1);
            let info = NodeInfo::from_json(name, &other.about, silent);
            let state = match reading {
                Reading::Since(since) if !other.about.is_empty() => {
                    let is_late = now.saturating_duration_since(other.heard.1.max(since)) > info.patience;
                    if is_late { NodeState::Doubted } else { NodeState::Alive }
                }
                _ => NodeState::Unknown,
            };
            NodeInfo { state, ..info }
        })
    }

    /// Those that are gone, the newest first.
    pub(super) fn all_gone(&self, now: Instant) -> impl Iterator<Item = FormerNode> {
        let ago = move |at: Instant| now.saturating_duration_since(at);
        self.gone.iter().map(move |(at, node)| FormerNode { ago: ago(*at), ..node.clone() })
    }

    /// How many were found dead.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Found after 5 + 3 x 2 s.
    fn nodes() -> Nodes {
        Nodes::new("own".into(), 5 * SECOND, 2 * SECOND, 11 * SECOND)
    }

    /// What a node says that is to be found after 11 s.
    fn about() -> String {
        r#"{"bound":11000}"#.to_owned()
    }

    fn dead(nodes: &mut Nodes, now: Instant) -> Vec<String> {
        nodes.judge(now, Duration::ZERO).0.into_iter().map(|dead| dead.name.to_string()).collect()
    }

    #[test]
    fn many_nodes_pause_between_readings_and_few_do_not() {
        let (mut nodes, start) = (nodes(), Instant::now());
        let pauses: Vec<u128> = (0..1000)
            .map(|other: u32| {
                let pause = nodes.reading_pause().as_micros();
                nodes.heard(other.to_string().into(), 1, about(), start);
                pause
            })
            .collect();
        assert_eq!(pauses[..6], [0, 0, 0, 0, 200, 400]);
        assert_eq!((pauses[99], pauses[999]), (19_200, 70_000));
    }

    /// Redis stood still for 6.5 s, after the other was heard and shortly after we were.
    #[test]
    fn nobody_is_dead_because_redis_was_away() {
        let (mut nodes, start) = (nodes(), Instant::now());
        let at = |tenths: u32| start + tenths * SECOND / 10;
        nodes.heard("other".into(), 1, about(), at(1));
        nodes.heard("own".into(), 1, String::new(), at(49));
        for tenths in 1..50 {
            assert_eq!(dead(&mut nodes, at(tenths)), [""; 0]);
        }
        assert_eq!(dead(&mut nodes, at(115)), [""; 0], "11.4 s of silence, and our own 6.6 s old");
        // Each has all its time once we hear ourselves again.
        nodes.heard("own".into(), 1, String::new(), at(116));
        for tenths in 116..300 {
            if tenths % 50 == 0 {
                nodes.heard("own".into(), 1, String::new(), at(tenths));
            }
            assert_eq!(dead(&mut nodes, at(tenths)).is_empty(), tenths < 226, "{tenths}");
        }
    }

    /// Redis answers, and takes nothing any more: from shortly after we were heard, and long after the other was.
    #[test]
    fn nobody_is_dead_because_redis_takes_no_announcements() {
        let (mut nodes, start) = (nodes(), Instant::now());
        let at = |tenths: u32| start + tenths * SECOND / 10;
        nodes.heard("own".into(), 1, String::new(), at(0));
        nodes.heard("other".into(), 1, about(), at(2));
        nodes.heard("own".into(), 1, String::new(), at(50));
        for tenths in 2..600 {
            assert_eq!(dead(&mut nodes, at(tenths)), [""; 0], "{tenths}");
        }
        // It does again, and from the other nothing comes.
        for tenths in 600..800 {
            if tenths % 50 == 0 {
                nodes.heard("own".into(), 1, String::new(), at(tenths));
            }
            let is_found = !dead(&mut nodes, at(tenths)).is_empty();
            assert_eq!(is_found, tenths >= 710, "{tenths}");
        }
        // Redis refused to hear of that, or it would be gone. It lives after all.
        for tenths in 800..1000 {
            if tenths % 50 == 0 {
                nodes.heard("own".into(), 1, String::new(), at(tenths));
                nodes.heard("other".into(), 1, about(), at(tenths));
            }
            assert_eq!(dead(&mut nodes, at(tenths)), [""; 0], "{tenths}");
        }
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
        nodes.gone("other", true, at(60));
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
    fn a_node_whose_announcement_is_overdue_is_in_doubt_unless_we_are_cut_off() {
        let (mut nodes, start) = (nodes(), Instant::now());
        let at = |seconds: u32| start + seconds * SECOND;
        let state = |nodes: &Nodes, second| nodes.others(at(second)).next().map(|node| node.state);
        nodes.heard("own".into(), 1, String::new(), start);
        // It was there when we came, and has not told anything yet.
        nodes.heard("other".into(), 1, String::new(), start);
        assert_eq!(state(&nodes, 1), Some(NodeState::Unknown));
        nodes.heard("other".into(), 1, r#"{"bound":11000,"patience":7000}"#.to_owned(), at(2));
        for second in (5..=20).step_by(5) {
            nodes.heard("own".into(), 1, String::new(), at(second));
        }
        assert_eq!((state(&nodes, 9), state(&nodes, 10)), (Some(NodeState::Alive), Some(NodeState::Doubted)));
        // What it has told is not forgotten when the list of nodes is read anew.
        nodes.heard("other".into(), 1, String::new(), at(20));
        let told = nodes.others(at(20)).next().unwrap();
        assert_eq!((told.state, told.patience), (NodeState::Alive, 7 * SECOND));
        // Nothing comes back to us any more.
        assert_eq!(state(&nodes, 28), Some(NodeState::Unknown));
        nodes.heard("own".into(), 1, String::new(), at(30));
        assert_eq!((state(&nodes, 37), state(&nodes, 38)), (Some(NodeState::Alive), Some(NodeState::Unknown)));
    }

    #[test]
    fn the_last_that_are_gone_are_remembered_and_the_dead_are_counted() {
        let (mut nodes, start) = (nodes(), Instant::now());
        for number in 0..20_u32 {
            let (name, now) = (format!("{number}"), start + number * SECOND);
            nodes.heard((*name).into(), 1, format!(r#"{{"address":"at {number}"}}"#), now);
            nodes.gone(&name, number % 2 == 0, now);
            // Once, whoever tells it.
            nodes.gone(&name, true, now);
        }
        let gone: Vec<_> = nodes.all_gone(start + 20 * SECOND).collect();
        assert_eq!((nodes.lost(), gone.len()), (10, REMEMBERED));
        assert_eq!((&*gone[0].address, gone[0].was_dead, gone[0].ago), ("at 19", false, SECOND));
        assert_eq!((&*gone[7].name, gone[7].was_dead, gone[7].ago), ("12", true, 8 * SECOND));
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
