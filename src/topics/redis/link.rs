//! How it is with Redis: whether it is connected, how often and for how long it was away, and how far this node's copy
//! is behind. No I/O and no clock.
//!
//! Invariant: at any time Redis is either connected, which takes both threads and a copy of all histories, or away; and
//! all the time since the beginning is one of the two.

use std::time::{Duration, Instant};

use super::BackplaneInfo;
use super::node::Role;

#[derive(Debug)]
pub(super) struct Link {
    /// Which of the two threads have a connection.
    connected: [bool; 2],
    /// Whether there is a copy of all histories. Once there is, it is only ever replaced.
    has_copy: bool,
    /// Since when Redis is connected, or away.
    since: Instant,
    outages: u64,
    /// For how long it was away before that.
    away: Duration,
    epochs: u64,
    round_trip: Option<Duration>,
    lag: u64,
    /// When the copy was last known to have everything.
    complete_at: Instant,
    /// For how long Redis may have nothing to say. Later its answer is overdue.
    patience: Duration,
}

impl Link {
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self {
            connected: [false; 2],
            has_copy: false,
            since: now,
            outages: 0,
            away: Duration::ZERO,
            epochs: 0,
            round_trip: None,
            lag: 0,
            complete_at: now,
            patience,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected == [true, true] && self.has_copy
    }

    /// A thread has a connection, or has lost it. Returns whether that is news.
    pub(super) fn set_connected(&mut self, role: Role, is_connected: bool, now: Instant) -> bool {
        let mut is_news = false;
        self.change(now, |link| {
            let before = std::mem::replace(&mut link.connected[role as usize], is_connected);
            is_news = before != is_connected;
        });
        is_news
    }

    /// There is a copy of all histories.
    pub(super) fn set_copy(&mut self, now: Instant) {
        self.change(now, |link| link.has_copy = true);
    }

    /// The history is another one than before: Redis has lost some.
    pub(super) fn count_epoch(&mut self) {
        self.epochs += 1;
    }

    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = Some(round_trip);
    }

    /// Redis has answered then, and the copy was behind by so many entries of the log.
    pub(super) fn set_lag(&mut self, lag: u64, answered: Instant) {
        self.lag = lag;
        if lag == 0 {
            self.complete_at = answered;
        }
    }

    pub(super) fn info(&self, now: Instant) -> BackplaneInfo {
        let (is_connected, since) = (self.is_connected(), now.saturating_duration_since(self.since));
        let behind = now.saturating_duration_since(self.complete_at);
        let is_up_to_date = is_connected && self.lag == 0 && behind <= self.patience;
        BackplaneInfo {
            is_connected,
            since,
            round_trip: self.round_trip,
            lag: self.lag,
            behind: if is_up_to_date { Duration::ZERO } else { behind },
            outages: self.outages,
            away: self.away + if is_connected { Duration::ZERO } else { since },
            epochs: self.epochs,
            ..BackplaneInfo::default()
        }
    }

    fn change(&mut self, now: Instant, change: impl FnOnce(&mut Self)) {
        let was_connected = self.is_connected();
        change(self);
        match (was_connected, self.is_connected()) {
            (true, false) => self.outages += 1,
            (false, true) => self.away += now.saturating_duration_since(self.since),
            _ => return,
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn link() -> (Link, impl Fn(u32) -> Instant) {
        let start = Instant::now();
        (Link::new(3 * SECOND, start), move |seconds: u32| start + seconds * SECOND)
    }

    #[test]
    fn it_is_connected_once_both_threads_are_and_there_is_a_copy_and_all_other_time_is_away() {
        let (mut link, at) = link();
        let outcome = |link: &Link, seconds| {
            let info = link.info(at(seconds));
            (info.is_connected, info.since, info.outages, info.away)
        };
        assert!(link.set_connected(Role::Writer, true, at(1)) && !link.set_connected(Role::Writer, true, at(1)));
        link.set_copy(at(2));
        assert_eq!(outcome(&link, 4), (false, 4 * SECOND, 0, 4 * SECOND), "what has never been there is not lost");
        assert!(link.set_connected(Role::Follower, true, at(5)));
        assert_eq!(outcome(&link, 9), (true, 4 * SECOND, 0, 5 * SECOND));
        // Both lose it, one after the other: one outage.
        link.set_connected(Role::Writer, false, at(10));
        link.set_connected(Role::Follower, false, at(12));
        assert_eq!(outcome(&link, 13), (false, 3 * SECOND, 1, 8 * SECOND));
        link.set_connected(Role::Follower, true, at(14));
        link.set_connected(Role::Writer, true, at(16));
        // A copy that is replaced is no outage.
        link.set_copy(at(17));
        assert_eq!(outcome(&link, 20), (true, 4 * SECOND, 1, 11 * SECOND));
    }

    #[test]
    fn the_copy_is_behind_while_it_lacks_something_and_once_an_answer_is_overdue() {
        let (mut link, at) = link();
        assert_eq!(link.info(at(1)).behind, SECOND, "there is none yet");
        link.set_connected(Role::Writer, true, at(1));
        link.set_connected(Role::Follower, true, at(1));
        link.set_copy(at(1));
        link.set_lag(0, at(2));
        let outcome = |link: &Link, seconds| (link.info(at(seconds)).lag, link.info(at(seconds)).behind);
        assert_eq!((outcome(&link, 2), outcome(&link, 5)), ((0, Duration::ZERO), (0, Duration::ZERO)));
        assert_eq!(outcome(&link, 6), (0, 4 * SECOND), "it may have missed what came since");
        link.set_lag(7, at(6));
        assert_eq!(outcome(&link, 6), (7, 4 * SECOND));
        link.set_lag(0, at(8));
        assert_eq!(outcome(&link, 8), (0, Duration::ZERO));
        // While Redis is away nobody knows.
        link.set_connected(Role::Follower, false, at(9));
        assert_eq!(outcome(&link, 9), (0, SECOND));
    }
}
