//! The range that every duration which can be set is kept in.

use std::time::Duration;

/// Below this, timers of operating systems mean nothing.
const SHORTEST: Duration = Duration::from_millis(1);
/// Above this, arithmetic with `Instant` could overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Keeps a duration that was set between 1 ms and 10 years.
pub(crate) fn within_reason(duration: Duration) -> Duration {
    duration.clamp(SHORTEST, LONGEST)
}
