//! How much of its time a topic may spend on telling who comes and goes. No clock.
//!
//! Invariant: over any long time it is at most one part of [`SHARE`]. Before that a burst is told at once.

use std::time::{Duration, Instant};

/// One part of so many of a thread's time.
const SHARE: u32 = 5;

/// A burst may take one part of [`SHARE`] of this.
const BURST: Duration = Duration::from_secs(1);

/// Lists in place of changes are not sent more often.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Until then the time that was spent is used up.
    free_at: Option<Instant>,
}

impl Budget {
    /// Whether more may be told now.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.free_at(now) <= now + BURST
    }

    /// When nothing of what was spent counts any more.
    pub(super) fn free_at(&self, now: Instant) -> Instant {
        self.free_at.map_or(now, |free_at| free_at.max(now))
    }

    /// Notes that telling took from one moment to another.
    pub(super) fn charge(&mut self, began: Instant, now: Instant) {
        self.free_at = Some(self.free_at(began) + SHARE * now.saturating_duration_since(began));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_at_once_and_then_a_fifth_of_the_time_may_be_spent() {
        let (mut budget, start, ms) = (Budget::default(), Instant::now(), Duration::from_millis);
        assert!(budget.allows(start));
        budget.charge(start, start + ms(200));
        assert!(budget.allows(start) && budget.free_at(start) == start + ms(1000));
        budget.charge(start + ms(200), start + ms(201));
        assert!(!budget.allows(start) && !budget.allows(start + ms(4)) && budget.allows(start + ms(5)));
        // All of a second for a fifth of a second, for as long as there is more to tell.
        let (mut now, mut spent) = (start + ms(5), Duration::ZERO);
        while now < start + ms(10_005) {
            if budget.allows(now) {
                budget.charge(now, now + ms(2));
                (now, spent) = (now + ms(1), spent + ms(2));
            }
            now += ms(1);
        }
        assert!((ms(1990)..=ms(2010)).contains(&spent), "{spent:?}");
        assert!(budget.free_at(now + ms(5000)) == now + ms(5000), "what was not spent is not kept");
    }
}
