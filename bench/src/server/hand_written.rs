//! The heartbeat that users of the others write by hand: Pings at an interval, and a look at when the last Pong came.

use std::time::Duration;

use super::ServeOptions;

/// Its bound is that of heartwire: interval + misses x timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct HandWritten {
    /// Between two Pings.
    pub(super) interval: Duration,
    /// A last Pong that is older ends the connection.
    pub(super) bound: Duration,
}

impl HandWritten {
    pub(super) fn of(options: &ServeOptions) -> Self {
        let interval = options.interval.unwrap_or(20_000);
        let bound = interval + options.timeout * u64::from(options.max_missed);
        Self { interval: Duration::from_millis(interval), bound: Duration::from_millis(bound) }
    }
}
