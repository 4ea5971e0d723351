//! The range of every duration that can be set.

use std::time::Duration;

/// Timers of operating systems are not exact below this.
const SHORTEST: Duration = Duration::from_millis(1);
/// `Instant` arithmetic could overflow above this.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Clamps a duration to 1 ms to 10 years.
pub(crate) fn clamp_duration(duration: Duration) -> Duration {
    duration.clamp(SHORTEST, LONGEST)
}
