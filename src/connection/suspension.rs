//! How long the machine was suspended.
//!
//! [`Instant`](std::time::Instant) stands still during suspension (CLOCK_MONOTONIC on Linux), so no deadline comes too
//! early. But the network stood still too, and whatever was under way is lost.

use std::time::Duration;

/// The total since the machine started. Only differences are meaningful.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn so_far() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    let duration = |time: Timespec| Duration::try_from(time).unwrap_or_default();
    // In this order, time that passes between the two readings makes the difference smaller.
    let boot = duration(clock_gettime(ClockId::Boottime));
    boot.saturating_sub(duration(clock_gettime(ClockId::Monotonic)))
}

/// Unknown on other systems.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn so_far() -> Duration {
    Duration::ZERO
}
