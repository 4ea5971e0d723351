//! A rolling restart: each node in turn sends its clients away, by heartwire's own word, and they come back to others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::backoff::{Backoff, Failures, Hint};
use super::random::Random;

/// How the nodes get their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balance {
    /// By chance, or in turns.
    Chance,
    /// The one that has the fewest.
    Fewest,
}

#[derive(Debug)]
pub(super) struct Outcome {
    /// How often a client is moved.
    pub(super) moves: f64,
    /// The most connections of one node at any time.
    pub(super) most: usize,
    /// The fewest and the most at the end.
    pub(super) at_the_end: (usize, usize),
}

/// Each of so many nodes has so many clients, and is restarted in its turn.
pub(super) fn run(nodes: usize, clients: usize, balance: Balance, random: &mut Random) -> Outcome {
    let mut counts = vec![clients; nodes];
    let (mut moves, mut most) = (0_usize, clients);
    for leaving in 0..nodes {
        // The others, whoever has fewest first.
        let others = (0..nodes).filter(|node| *node != leaving);
        let mut fewest: BinaryHeap<_> = others.map(|node| Reverse((counts[node], node))).collect();
        for _ in 0..std::mem::take(&mut counts[leaving]) {
            // Nobody waits: the reason of the Close says so, and the connection has lasted.
            let mut failures = Failures::new(Backoff::default());
            failures.was_open_for(Duration::from_secs(60));
            let delay = failures.next_delay(Hint::AtOnce, random.unit());
            assert!(delay.is_zero(), "a client that is sent away comes back at once");
            let next = match balance {
                Balance::Chance => {
                    let other = random.below(nodes - 1);
                    if other < leaving { other } else { other + 1 }
                }
                Balance::Fewest => fewest.pop().map_or(leaving, |Reverse((_, node))| node),
            };
            counts[next] += 1;
            if balance == Balance::Fewest {
                fewest.push(Reverse((counts[next], next)));
            }
            moves += 1;
            most = most.max(counts[next]);
        }
    }
    let fewest = counts.iter().copied().min().unwrap_or(0);
    Outcome {
        moves: moves as f64 / (nodes * clients) as f64,
        most,
        at_the_end: (fewest, counts.into_iter().max().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_gets_lost_and_the_balance_decides_who_has_many() {
        for (balance, most) in [(Balance::Chance, 3000), (Balance::Fewest, 1120)] {
            let outcome = run(10, 1000, balance, &mut Random::new(1));
            assert!(outcome.moves >= 1.0 && outcome.moves < 3.0, "{outcome:?}");
            assert!(outcome.most > 1000 && outcome.most < most, "{balance:?}: {outcome:?}");
        }
    }
}
