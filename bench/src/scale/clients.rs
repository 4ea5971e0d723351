//! Clients that have lost their node: when each finds out, by heartwire's heartbeat, and when it is back, by the
//! client's own backoff, where the nodes that are left can do so many handshakes a second.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::{Action, Evidence, Heartbeat};

use super::backoff::{Failures, Hint};
use super::random::Random;

/// A client gives up an opening handshake after this time: the default of both ends.
const HANDSHAKE_TIMEOUT: f64 = 10.0;

/// How long a byte takes to a client and back.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The busiest moment is one of these, in seconds.
const MOMENT: f64 = 0.1;

/// How a node went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its process ended, and its system closed the connections.
    Process,
    /// Its power or its line is gone: nothing is heard of it any more.
    Host,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Storm {
    pub(super) loss: Loss,
    /// How many clients come back at once.
    pub(super) clients: usize,
    /// How many nodes there are for them.
    pub(super) nodes: usize,
    /// How many handshakes each can do in a second.
    pub(super) handshakes: f64,
}

/// What came of it, in seconds.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) noticed: (f64, f64),
    /// Attempts a second at each node, in the busiest tenth of a second.
    pub(super) busiest: f64,
    /// The longest that a client that came in waited for its handshake.
    pub(super) longest_wait: f64,
    /// Attempts that took too long.
    pub(super) given_up: usize,
    /// When half of them and all were back.
    pub(super) back: (f64, f64),
}

struct Client {
    failures: Failures,
    lost: f64,
}

impl Storm {
    pub(super) fn run(&self, random: &mut Random) -> Outcome {
        let start = Instant::now();
        let mut clients: Vec<Client> = (0..self.clients)
            .map(|_| {
                let lost = match self.loss {
                    Loss::Process => 0.0,
                    Loss::Host => silence_found(start, random.unit()),
                };
                Client { failures: Failures::new(heartwire_backoff()), lost }
            })
            .collect();
        let mut queue = BinaryHeap::new();
        for (number, client) in clients.iter_mut().enumerate() {
            // It has been open for long.
            client.failures.was_open_for(Duration::from_secs(3600));
            let delay = client.failures.next_delay(Hint::Nothing, random.unit());
            queue.push(Reverse((nanos(client.lost + delay.as_secs_f64()), number)));
        }
        let found = |order: fn(f64, f64) -> f64, first| clients.iter().map(|client| client.lost).fold(first, order);
        let noticed = (found(f64::min, f64::INFINITY), found(f64::max, 0.0));
        // When each node is done with whoever came before.
        let mut done_at = vec![0.0_f64; self.nodes];
        let (mut attempts, mut back) = (Vec::new(), Vec::new());
        let (mut longest_wait, mut given_up) = (0.0_f64, 0);
        while let Some(Reverse((at, number))) = queue.pop() {
            let at = at as f64 / 1e9;
            attempts.push(at);
            let node = &mut done_at[random.below(self.nodes)];
            let done = node.max(at) + 1.0 / self.handshakes;
            if done - at <= HANDSHAKE_TIMEOUT {
                *node = done;
                longest_wait = longest_wait.max(done - at);
                back.push(done);
                continue;
            }
            given_up += 1;
            let delay = clients[number].failures.next_delay(Hint::Nothing, random.unit());
            queue.push(Reverse((nanos(at + HANDSHAKE_TIMEOUT + delay.as_secs_f64()), number)));
        }
        back.sort_by(f64::total_cmp);
        let busiest = most_within(&attempts, MOMENT) as f64 / MOMENT / self.nodes as f64;
        Outcome { noticed, busiest, longest_wait, given_up, back: (back[back.len() / 2], back[back.len() - 1]) }
    }
}

/// The default of every client.
fn heartwire_backoff() -> super::backoff::Backoff {
    super::backoff::Backoff::default()
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// The most that lie within a span of so many seconds. They are sorted.
fn most_within(times: &[f64], span: f64) -> usize {
    let mut from = 0;
    let counts = times.iter().enumerate().map(|(last, time)| {
        while times[from] < time - span {
            from += 1;
        }
        last + 1 - from
    });
    counts.max().unwrap_or(0)
}

/// After how many seconds of silence a client with the default heartbeat takes its server for dead. `age` says where in
/// an interval the silence begins.
pub(super) fn silence_found(start: Instant, age: f64) -> f64 {
    let policy = HeartbeatPolicy::default();
    let interval = Duration::from_secs(20);
    let silent_from = start + interval + interval.mul_f64(age);
    let mut heart = Heartbeat::new(policy, start, 1.0);
    let (mut now, mut evidence) = (start, Evidence::new(0, start));
    loop {
        match heart.judge(now, &evidence) {
            Action::Ping => {
                heart.ping_written(now, evidence.arrived);
                if now < silent_from {
                    // Its Pong is there at the next look.
                    evidence = Evidence::new(evidence.arrived + 6, now + ROUND_TRIP);
                }
            }
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
    fn a_silent_node_is_found_between_the_misses_and_the_bound() {
        let found: Vec<f64> = (0..100).map(|age| silence_found(Instant::now(), f64::from(age) / 100.0)).collect();
        assert!(found.iter().all(|found| (30.0..=50.0).contains(found)), "{found:?}");
        assert!(found.iter().any(|found| *found > 49.0) && found.iter().any(|found| *found < 31.0), "{found:?}");
    }

    #[test]
    fn nodes_that_keep_up_make_nobody_wait_and_others_make_clients_come_again() {
        let storm = Storm { loss: Loss::Process, clients: 10_000, nodes: 99, handshakes: 5_000.0 };
        let outcome = storm.run(&mut Random::new(1));
        assert!(outcome.given_up == 0 && outcome.longest_wait < 0.1 && outcome.back.1 < 0.6, "{outcome:?}");
        let storm = Storm { nodes: 1, handshakes: 500.0, ..storm };
        let outcome = storm.run(&mut Random::new(1));
        assert!(outcome.given_up > 0 && outcome.back.1 >= 20.0, "{outcome:?}");
    }

    #[test]
    fn the_busiest_moment_is_found() {
        assert_eq!(most_within(&[0.0, 0.05, 0.09, 0.2, 0.21], 0.1), 3);
        assert_eq!(most_within(&[], 0.1), 0);
    }
}
