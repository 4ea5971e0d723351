//! Redis fails over: when each of the two connections of each node is lost, tried again and made, by heartwire's
//! heartbeat and its pauses between attempts.

use std::time::{Duration, Instant};

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::{Action, Evidence, Heartbeat};

use super::clients::Loss;
use super::cluster::{Away, Cluster};
use super::random::Random;
use super::retrying;

/// From when the Sentinels agree that the master is down until they name the new one: an election and a promotion.
pub(super) const PROMOTION: f64 = 1.0;

/// A Sentinel that is asked answers within this time, and so does Redis when a connection is made.
const ASKED: f64 = 0.002;

/// How long a connection to an address may take to be made.
const CONNECT_TIMEOUT: f64 = 2.0;

/// How long a message waits for Redis.
const PUBLISH_TIMEOUT: f64 = 5.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct Failover {
    pub(super) loss: Loss,
    pub(super) nodes: usize,
    /// The Sentinels' `down-after-milliseconds`, in seconds.
    pub(super) down_after: f64,
}

/// What came of it, in seconds after Redis died.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) noticed: (f64, f64),
    /// The most attempts of all nodes together in a second.
    pub(super) busiest: usize,
    /// When the first node and the last were back.
    pub(super) back: (f64, f64),
    /// For how long what was published at the last node was answered with `unavailable`.
    pub(super) refused: f64,
    /// Nodes that others took for dead, though all live.
    pub(super) dead: usize,
}

/// One of the two connections of a node.
struct Way {
    noticed: f64,
    attempts: Vec<f64>,
    back: f64,
}

impl Failover {
    pub(super) fn run(&self, random: &mut Random) -> Outcome {
        let ways: Vec<[Way; 2]> = (0..self.nodes).map(|_| [self.way(random), self.way(random)]).collect();
        let all = || ways.iter().flatten();
        let back = ways.iter().map(|[one, other]| one.back.max(other.back));
        let back = (back.clone().fold(f64::INFINITY, f64::min), back.fold(0.0, f64::max));
        let mut seconds = vec![0; back.1 as usize + 1];
        all().flat_map(|way| &way.attempts).for_each(|attempt| seconds[*attempt as usize] += 1);
        let noticed = all().map(|way| way.noticed);
        // The cluster has run for a while before.
        let before = 30.0;
        let away = ways.iter().map(|[follower, writer]| Away {
            from: before,
            writer_until: before + writer.back,
            follower_until: before + follower.back,
        });
        let mut cluster = Cluster::new(self.nodes, random);
        cluster.cut(away.collect());
        Outcome {
            noticed: (noticed.clone().fold(f64::INFINITY, f64::min), noticed.fold(0.0, f64::max)),
            busiest: seconds.into_iter().max().unwrap_or(0),
            back,
            refused: (back.1 - PUBLISH_TIMEOUT).max(0.0),
            dead: cluster.run(before + back.1 + 30.0).told,
        }
    }

    fn way(&self, random: &mut Random) -> Way {
        let noticed = match self.loss {
            Loss::Process => 0.0,
            Loss::Host => silence_found(random.unit()),
        };
        let promoted = self.down_after + PROMOTION;
        let (mut now, mut failures, mut attempts) = (noticed, 0, Vec::new());
        loop {
            now += retrying::pause(failures, random.unit()).as_secs_f64();
            attempts.push(now);
            now += ASKED;
            if now >= promoted {
                return Way { noticed, attempts, back: now + ASKED };
            }
            // The Sentinels still name the old one.
            now += match self.loss {
                Loss::Process => ASKED,
                Loss::Host => CONNECT_TIMEOUT,
            };
            failures += 1;
        }
    }
}

/// After how many seconds of silence a connection to Redis is given up, with the default heartbeat. `age` says where in
/// an interval the silence begins. What is asked already is the Ping.
fn silence_found(age: f64) -> f64 {
    let second = Duration::from_secs(1);
    let (policy, start) = (HeartbeatPolicy::new(5 * second, 2 * second), Instant::now());
    let silent_from = start + (5 * second).mul_f64(age);
    let mut heart = Heartbeat::new(policy, start, 1.0);
    let (mut now, silent) = (start, Evidence::new(0, start));
    loop {
        match heart.judge(now, &silent) {
            Action::Ping => heart.ping_written(now, 0),
            Action::Wait(Some(until)) => now = until,
            Action::Dead(_) => return (now - silent_from).as_secs_f64(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_redis_is_found_within_the_bound() {
        for age in 0..10 {
            let found = silence_found(f64::from(age) / 10.0);
            assert!((6.0..=11.0).contains(&found), "{found}");
        }
    }

    #[test]
    fn all_nodes_are_back_after_the_promotion_and_nobody_is_taken_for_dead() {
        for (loss, down_after, latest) in [(Loss::Process, 5.0, 8.1), (Loss::Host, 5.0, 11.2), (Loss::Host, 20.0, 26.0)]
        {
            let outcome = Failover { loss, nodes: 20, down_after }.run(&mut Random::new(1));
            assert!(outcome.back.0 >= down_after + PROMOTION && outcome.back.1 < latest, "{outcome:?}");
            assert_eq!(outcome.dead, 0, "{outcome:?}");
        }
    }
}
