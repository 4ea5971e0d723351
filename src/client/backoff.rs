//! The pause before the next attempt: exponential backoff with full jitter, or what the server asked for.
//!
//! Pure: the random number is passed in. Full jitter (a delay drawn evenly from zero to the limit) best spreads the
//! clients that one server lost at one moment; see Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
//! Blog.

use std::time::Duration;

/// The pauses before a client reconnects or retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a backoff does nothing until `reconnect` gives it to a client"]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    stable_after: Duration,
    restart: (Duration, Duration),
    longest_retry_after: Duration,
}

/// Up to 0.5 s at first, doubled with each failure up to 30 s, and up to 0.5 s again after a connection that lasted for
/// 10 s. A server's `Retry-After` is honoured up to 5 minutes.
impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            restart: (Duration::from_secs(5), Duration::from_secs(30)),
            // Longer than most maintenance, and short enough that one wrong answer does not strand a device.
            longest_retry_after: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// The limit of the first delay. Each delay is drawn evenly from zero to the limit, and the limit doubles with each
    /// failure. Default 500 ms.
    pub fn first(mut self, first: Duration) -> Self {
        self.first = first;
        self
    }

    /// The largest limit that the doubling reaches. Default 30 s.
    pub fn longest(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// How long a connection has to last to reset the count of failures. Default 10 s: a server that accepts
    /// connections and drops them at once is no better than one that is down.
    pub fn stable_after(mut self, stable_after: Duration) -> Self {
        self.stable_after = stable_after;
        self
    }

    /// The range of the delay after a server has closed with 1012 (service restart) or 1013 (try again later). Default
    /// 5 s to 30 s, as the registration of 1012 recommends.
    ///
    /// A server that [drains](crate::ServerHandle::drain) sends its clients away one after another, and says so: the
    /// reason beside 1012 ends with `reconnect at once`. There is no delay then, unless the connection has lasted for
    /// less than a second; then it is as after any other loss.
    pub fn after_restart(mut self, shortest: Duration, longest: Duration) -> Self {
        self.restart = (shortest, longest.max(shortest));
        self
    }

    /// The longest `Retry-After` of a server that is honoured (RFC 9110 section 10.2.3). A longer one is logged, and
    /// the client waits this long. Default 5 minutes: a single response, perhaps from a proxy, must not strand all
    /// clients that get it. `Duration::MAX` honours any.
    pub fn longest_retry_after(mut self, longest: Duration) -> Self {
        self.longest_retry_after = longest;
        self
    }

    /// Whether a server asked for a longer pause than is honoured.
    pub(crate) fn is_too_long(&self, retry_after: Duration) -> bool {
        retry_after > self.longest_retry_after
    }
}

/// What the server said about reconnecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    Nothing,
    /// Not before this has passed (`Retry-After`), up to the longest that is honoured.
    NotBefore(Duration),
    /// The server restarts or is overloaded (1012, 1013).
    Restart,
    /// The server sends its clients away one after another (1012, and it says so).
    AtOnce,
}

/// The failures in a row so far.
#[derive(Debug)]
pub(crate) struct Failures {
    policy: Backoff,
    count: u32,
    attempts: u32,
    /// Whether the connection before lasted for [`SETTLED`](Self::SETTLED) at least.
    was_settled: bool,
}

impl Failures {
    /// After a connection that was shorter, no server makes us come back at once: it might send us away for ever.
    const SETTLED: Duration = Duration::from_secs(1);

    pub(crate) fn new(policy: Backoff) -> Self {
        Self { policy, count: 0, attempts: 0, was_settled: false }
    }

    /// The number of the attempt that begins, from 1 after each connection that lasted.
    pub(crate) fn next_attempt(&mut self) -> u32 {
        self.attempts = self.attempts.saturating_add(1);
        self.attempts
    }

    /// A connection was open for this long.
    pub(crate) fn was_open_for(&mut self, age: Duration) {
        self.was_settled = age >= Self::SETTLED;
        if age >= self.policy.stable_after {
            (self.count, self.attempts) = (0, 0);
        }
    }

    /// The delay before the next attempt. `random` is uniform between 0 and 1.
    pub(crate) fn next_delay(&mut self, hint: Hint, random: f64) -> Duration {
        let Backoff { first, longest, restart: (shortest_restart, longest_restart), longest_retry_after, .. } =
            self.policy;
        if hint == Hint::AtOnce && std::mem::take(&mut self.was_settled) {
            // No failure of anybody.
            return Duration::ZERO;
        }
        let limit = first.saturating_mul(2_u32.saturating_pow(self.count)).min(longest);
        self.count = self.count.saturating_add(1);
        match hint {
            Hint::Nothing | Hint::AtOnce => limit.mul_f64(random),
            Hint::NotBefore(delay) => delay.min(longest_retry_after).saturating_add(limit.mul_f64(random)),
            Hint::Restart => {
                let spread = (longest_restart - shortest_restart).mul_f64(random);
                shortest_restart.saturating_add(spread)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failures() -> Failures {
        Failures::new(Backoff::default().first(SECOND).longest(10 * SECOND).stable_after(5 * SECOND))
    }

    #[test]
    fn limits_double_up_to_the_longest() {
        let mut failures = failures();
        let limits: Vec<u64> = (0..40).map(|_| failures.next_delay(Hint::Nothing, 1.0).as_secs()).collect();
        assert_eq!(limits[..6], [1, 2, 4, 8, 10, 10]);
        assert_eq!(limits[39], 10, "however many failures");
    }

    #[test]
    fn the_jitter_is_full() {
        assert_eq!(failures().next_delay(Hint::Nothing, 0.0), Duration::ZERO);
        assert_eq!(failures().next_delay(Hint::Nothing, 0.5), SECOND / 2);
    }

    #[test]
    fn only_a_stable_connection_forgives_the_failures() {
        let mut failures = failures();
        assert_eq!((failures.next_attempt(), failures.next_delay(Hint::Nothing, 1.0)), (1, SECOND));
        failures.was_open_for(5 * SECOND - Duration::from_nanos(1));
        assert_eq!((failures.next_attempt(), failures.next_delay(Hint::Nothing, 1.0)), (2, 2 * SECOND));
        failures.was_open_for(5 * SECOND);
        assert_eq!((failures.next_delay(Hint::Nothing, 1.0), failures.next_attempt()), (SECOND, 1));
    }

    #[test]
    fn the_servers_wish_is_honoured_and_spread() {
        assert_eq!(failures().next_delay(Hint::NotBefore(20 * SECOND), 0.0), 20 * SECOND);
        assert_eq!(failures().next_delay(Hint::NotBefore(20 * SECOND), 1.0), 21 * SECOND);
        assert_eq!(failures().next_delay(Hint::Restart, 0.0), 5 * SECOND);
        assert_eq!(failures().next_delay(Hint::Restart, 1.0), 30 * SECOND);
    }

    #[test]
    fn who_is_sent_away_comes_back_at_once_unless_that_was_right_after_it_came() {
        let mut failures = failures();
        for _ in 0..10 {
            failures.was_open_for(SECOND);
            assert_eq!(failures.next_delay(Hint::AtOnce, 1.0), Duration::ZERO);
        }
        // It does not find the next server.
        assert_eq!(failures.next_delay(Hint::Nothing, 1.0), SECOND);
        failures.was_open_for(SECOND - Duration::from_nanos(1));
        assert_eq!(failures.next_delay(Hint::AtOnce, 1.0), 2 * SECOND);
    }

    #[test]
    fn the_servers_wish_is_honoured_up_to_a_limit() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for (policy, asked, delay) in [
            (Backoff::default(), 300 * SECOND, 300 * SECOND),
            (Backoff::default(), 301 * SECOND, 300 * SECOND),
            (Backoff::default(), Duration::MAX, 300 * SECOND),
            (Backoff::default().longest_retry_after(20 * SECOND), 21 * SECOND, 20 * SECOND),
            (Backoff::default().longest_retry_after(Duration::MAX), year, year),
        ] {
            assert_eq!(Failures::new(policy).next_delay(Hint::NotBefore(asked), 0.0), delay, "{asked:?}");
            assert_eq!(policy.is_too_long(asked), asked > delay, "{asked:?}");
        }
        let jittered = Failures::new(Backoff::default().first(SECOND)).next_delay(Hint::NotBefore(year), 1.0);
        assert_eq!(jittered, 301 * SECOND, "with jitter, because other clients got the same response");
    }
}
