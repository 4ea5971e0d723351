//! How long the machine has been suspended.
//!
//! [`Instant`](std::time::Instant) stands still meanwhile (CLOCK_MONOTONIC of Linux), so no deadline comes too early; but
//! the network stood still as well, and whatever was under way is lost.

use std::time::Duration;

/// For how long in all, since the machine started. Only differences mean anything.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn so_far() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    let duration = |time: Timespec| Duration::try_from(time).unwrap_or_default();
    // Read in this order, what passes between the two readings makes the difference smaller.
    let boot = duration(clock_gettime(ClockId::Boottime));
    boot.saturating_sub(duration(clock_gettime(ClockId::Monotonic)))
}

/// Elsewhere it cannot be told.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn so_far() -> Duration {
    Duration::ZERO
}
