//! The pause between two attempts of a node to connect to Redis. No I/O and no clock; the random number is passed in.

use std::time::Duration;

/// The pauses double from the first to the longest.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// The pause after so many failures in a row. `random` is uniform between 0 and 1, and spreads the nodes that have lost
/// one Redis at one moment.
pub(super) fn pause(failures: u32, random: f64) -> Duration {
    let longest = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    longest.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread_over_their_second_half() {
        let longest: Vec<u128> = (0..8).map(|failures| pause(failures, 1.0).as_millis()).collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(pause(3, 0.0).as_millis(), 200);
        assert_eq!(pause(u32::MAX, 0.5).as_millis(), 1500);
    }
}
