//! Nodes that share a Redis, each with heartwire's own view of the others: who is found dead, when, and by how many.
//!
//! The log is a queue of what each node hears of it. A node whose follower is away hears it all once it is back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::NodeName;
use super::nodes::Nodes;
use super::random::Random;

/// The defaults of `Redis::heartbeat`: how often a node announces itself, and how long that may take to come back.
pub(super) const INTERVAL: f64 = 5.0;
pub(super) const TIMEOUT: f64 = 2.0;
pub(super) const BOUND: f64 = 11.0;

/// How long an entry of the log takes to a node: this, and up to as much again.
const WAY: f64 = 0.001;

/// Longer than any time is rounded by.
const TICK: f64 = 1e-6;

/// A node looks at the others at least so often: it waits for the log no longer.
const LONGEST_BLOCK: f64 = 1.0;

/// When a node has no Redis, in seconds: its writer, and its follower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    pub(super) from: f64,
    pub(super) writer_until: f64,
    pub(super) follower_until: f64,
}

#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// When nodes were found dead, and by which.
    pub(super) found: Vec<(f64, usize)>,
    /// How often the log told of it.
    pub(super) told: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Announce(usize),
    Hear {
        node: usize,
        of: usize,
    },
    Judge(usize),
    /// Redis is told that a node is dead.
    Bury(usize),
    HearOfDeath {
        node: usize,
        of: usize,
    },
}

pub(super) struct Cluster<'a> {
    start: Instant,
    nodes: Vec<Nodes>,
    names: Vec<NodeName>,
    away: Vec<Away>,
    /// When each announces itself no more.
    ends: Vec<f64>,
    /// Whom Redis takes for dead.
    buried: Vec<bool>,
    /// When each looks at the others next, unless it hears something before.
    next_look: Vec<u64>,
    queue: BinaryHeap<Reverse<(u64, Event)>>,
    random: &'a mut Random,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(count: usize, random: &'a mut Random) -> Self {
        let names: Vec<NodeName> = (0..count).map(|node| Arc::from(format!("{node:016x}"))).collect();
        let [interval, timeout, bound] = [INTERVAL, TIMEOUT, BOUND].map(Duration::from_secs_f64);
        let nodes = names.iter().map(|name| Nodes::new(Arc::clone(name), interval, timeout, bound)).collect();
        let never = Away { from: f64::INFINITY, writer_until: 0.0, follower_until: 0.0 };
        let mut cluster = Self {
            start: Instant::now(),
            nodes,
            names,
            away: vec![never; count],
            ends: vec![f64::INFINITY; count],
            buried: vec![false; count],
            next_look: vec![0; count],
            queue: BinaryHeap::new(),
            random,
        };
        for node in 0..count {
            // They were started one after another.
            let first = cluster.random.unit() * INTERVAL;
            cluster.put(first, Event::Announce(node));
        }
        cluster
    }

    /// This node dies then.
    pub(super) fn kill(&mut self, node: usize, at: f64) {
        self.ends[node] = at;
    }

    /// Redis is away, for each node by its own measure.
    pub(super) fn cut(&mut self, away: Vec<Away>) {
        self.away = away;
    }

    /// Runs until then.
    pub(super) fn run(&mut self, until: f64) -> Deaths {
        let mut deaths = Deaths::default();
        while let Some(Reverse((at, event))) = self.queue.pop() {
            let now = at as f64 / 1e9;
            if now > until {
                break;
            }
            if !matches!(event, Event::Judge(node) if self.next_look[node] != at) {
                self.take(now, event, &mut deaths);
            }
        }
        deaths
    }

    fn take(&mut self, now: f64, event: Event, deaths: &mut Deaths) {
        match event {
            Event::Announce(node) if now >= self.ends[node] => {}
            Event::Announce(node) => {
                let away = self.away[node];
                if now >= away.from && now < away.writer_until {
                    return self.put(away.writer_until + TICK, Event::Announce(node));
                }
                self.tell_all(now, |hearer| Event::Hear { node: hearer, of: node });
                self.put(now + INTERVAL, Event::Announce(node));
            }
            Event::Hear { node, of } => {
                let (at, name) = (self.instant(now), Arc::clone(&self.names[of]));
                self.nodes[node].heard(name, 1, format!(r#"{{"bound":{}}}"#, BOUND * 1000.0), at);
                self.judge(node, now, deaths);
            }
            Event::Judge(node) => self.judge(node, now, deaths),
            Event::Bury(of) => {
                // The script tells it if nobody else has.
                if !std::mem::replace(&mut self.buried[of], true) {
                    deaths.told += 1;
                    self.tell_all(now, |hearer| Event::HearOfDeath { node: hearer, of });
                }
            }
            Event::HearOfDeath { node, of } => {
                let at = self.instant(now);
                self.nodes[node].gone(&self.names[of], true, at);
            }
        }
    }

    fn judge(&mut self, node: usize, now: f64, deaths: &mut Deaths) {
        if now >= self.ends[node] {
            return;
        }
        let away = self.away[node];
        if now >= away.from && now < away.follower_until {
            // It waits for Redis, and judges before it reads anything.
            return self.look_at(node, away.follower_until + TICK);
        }
        let at = self.instant(now);
        let (dead, next) = self.nodes[node].judge(at, Duration::ZERO);
        for dead in dead {
            let of = self.names.iter().position(|name| *name == dead.name).unwrap_or_default();
            deaths.found.push((now, node));
            self.nodes[node].gone(&dead.name, true, at);
            self.put(now + WAY / 2.0, Event::Bury(of));
        }
        let wait = next.map_or(LONGEST_BLOCK, |next| next.saturating_duration_since(at).as_secs_f64());
        // Redis counts in milliseconds. What the log says before that makes the node look sooner.
        self.look_at(node, now + wait.clamp(0.001, LONGEST_BLOCK));
    }

    fn look_at(&mut self, node: usize, then: f64) {
        self.next_look[node] = nanos(then);
        self.put(then, Event::Judge(node));
    }

    /// An entry is added to the log.
    fn tell_all(&mut self, now: f64, event: impl Fn(usize) -> Event) {
        for hearer in 0..self.nodes.len() {
            let way = WAY * (1.0 + self.random.unit());
            let away = self.away[hearer];
            let is_away = now >= away.from && now < away.follower_until;
            let from = if is_away { away.follower_until } else { now };
            self.put(from + way, event(hearer));
        }
    }

    fn put(&mut self, at: f64, event: Event) {
        self.queue.push(Reverse((nanos(at), event)));
    }

    fn instant(&self, at: f64) -> Instant {
        self.start + Duration::from_secs_f64(at)
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_dies_is_found_by_all_within_the_bound_and_told_once() {
        let mut random = Random::new(1);
        let mut cluster = Cluster::new(20, &mut random);
        cluster.kill(0, 30.0);
        let deaths = cluster.run(60.0);
        assert_eq!(deaths.told, 1);
        assert!(!deaths.found.is_empty() && deaths.found.len() <= 19, "{deaths:?}");
        assert!(deaths.found.iter().all(|(at, by)| (36.0..=41.1).contains(at) && *by != 0), "{deaths:?}");
    }

    #[test]
    fn nobody_is_found_dead_while_all_live_or_because_redis_was_away() {
        let mut random = Random::new(1);
        assert!(Cluster::new(20, &mut random).run(60.0).found.is_empty());
        let mut cluster = Cluster::new(20, &mut random);
        let back = |node: usize| 45.0 + node as f64 / 10.0;
        let away = |node| Away { from: 30.0, writer_until: back(node) + 0.5, follower_until: back(node) };
        cluster.cut((0..20).map(away).collect());
        let deaths = cluster.run(90.0);
        assert!(deaths.found.is_empty(), "{deaths:?}");
    }

    /// The outage that is just long enough to make others look silent, and just too short for our own announcements to.
    #[test]
    fn nobody_is_found_dead_however_long_redis_was_away() {
        for tenths in 0..120 {
            let mut random = Random::new(tenths);
            let mut cluster = Cluster::new(10, &mut random);
            let until = 30.0 + tenths as f64 / 10.0;
            cluster.cut(vec![Away { from: 30.0, writer_until: until + 0.2, follower_until: until }; 10]);
            let deaths = cluster.run(until + 20.0);
            assert!(deaths.found.is_empty(), "away for {} s: {deaths:?}", until - 30.0);
        }
    }

    /// What the tests before would miss if it could not fail: a node that is away alone is found.
    #[test]
    fn a_node_whose_writer_is_away_for_longer_than_the_bound_is_found() {
        let mut random = Random::new(1);
        let mut cluster = Cluster::new(5, &mut random);
        let mut away = vec![Away { from: 30.0, writer_until: 0.0, follower_until: 0.0 }; 5];
        away[3].writer_until = 60.0;
        cluster.cut(away);
        assert_eq!(cluster.run(55.0).told, 1);
    }
}
