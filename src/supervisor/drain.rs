//! A server that drains: it sends its clients away one after another, evenly over a period, and then shuts down.
//!
//! Invariant: the supervisor waits neither for a client nor for a lock that a connection's thread holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::connection::identity::ConnectionId;
use crate::protocol::close::{CloseCode, CloseReason, RECONNECT_AT_ONCE};
use crate::supervisor::{RETRY_PAUSE, Supervisor};

/// A drain under way.
pub(super) struct Drain {
    until: Instant,
    /// When the next client has its turn.
    next_at: Instant,
    /// The connections that had no turn yet. Some may have ended.
    waiting: VecDeque<ConnectionId>,
    reason: CloseReason,
}

impl Drain {
    /// How many clients in a second may be told to come back at once. Whoever takes them over has to bear that.
    const MOST_IN_A_SECOND: f64 = 2_000.0;

    fn new(waiting: VecDeque<ConnectionId>, now: Instant, until: Instant) -> Self {
        let period = until.saturating_duration_since(now);
        let is_spread = waiting.len() as f64 <= period.as_secs_f64() * Self::MOST_IN_A_SECOND;
        // Those that are not told so choose a pause of their own, so that they do not all come at once.
        let reason = if is_spread { RECONNECT_AT_ONCE } else { "restart" };
        let reason = CloseReason::Shutdown { code: CloseCode::RESTART, reason: reason.to_owned() };
        Self { until, next_at: now, waiting, reason }
    }

    /// When the drain next has something to do.
    pub(super) fn next_deadline(&self) -> Instant {
        if self.waiting.is_empty() { self.until } else { self.next_at.min(self.until) }
    }

    /// A connection has opened whose client came before the drain.
    pub(super) fn opened(&mut self, id: ConnectionId) {
        self.waiting.push_back(id);
    }

    /// The next connection, if its turn has come. The time that is left is shared by those that are left.
    fn next(&mut self, now: Instant) -> Option<ConnectionId> {
        if now < self.next_at {
            return None;
        }
        let id = self.waiting.pop_front()?;
        let left = u32::try_from(self.waiting.len() + 1).unwrap_or(u32::MAX);
        self.next_at += self.until.saturating_duration_since(self.next_at) / left;
        Some(id)
    }

    /// It is not this one's turn after all, but the next one's: it has ended by itself.
    fn pass_turn(&mut self, turn: Instant) {
        self.next_at = turn;
    }

    /// It has to wait, because another thread holds its lock.
    fn retry(&mut self, id: ConnectionId, now: Instant) {
        self.waiting.push_back(id);
        self.next_at = self.next_at.min(now + RETRY_PAUSE);
    }
}

impl Supervisor {
    pub(super) fn begin_drain(&mut self, until: Instant) {
        let waiting = match &mut self.drain {
            Some(drain) if drain.until <= until => return,
            Some(drain) => std::mem::take(&mut drain.waiting),
            None => self.open_connections().map(|shared| shared.id()).collect(),
        };
        self.drain = Some(Drain::new(waiting, Instant::now(), until));
    }

    /// Closes the connections whose turn has come. Shuts down when none is open any more, or the period is over.
    pub(super) fn drain(&mut self, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        let Some(drain) = &mut self.drain else { return };
        // One turn each at most. When the period is over every turn is due, and one whose lock another thread holds
        // would come again at once, and again.
        for _ in 0..drain.waiting.len() {
            let turn = drain.next_at;
            let Some(id) = drain.next(now) else { break };
            let Some(shared) = self.registry.get(&id).filter(|shared| !shared.is_reported.load(Relaxed)) else {
                drain.pass_turn(turn);
                continue;
            };
            if shared.try_begin_close(drain.reason.clone()) {
                self.closing.insert((now + self.close_timeout, id), Arc::clone(shared));
            } else {
                drain.retry(id, now);
            }
        }
        if now >= drain.until || self.supervisor.with_stats(|stats| stats.open) == 0 {
            self.supervisor.shut_down(CloseReason::shutdown());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain(connections: u64, period: Duration) -> (Drain, Instant) {
        let begin = Instant::now();
        (Drain::new((1..=connections).collect(), begin, begin + period), begin)
    }

    #[test]
    fn turns_are_spread_evenly_and_those_that_were_missed_are_made_up_for() {
        let (mut drain, begin) = drain(5, 10 * SECOND);
        assert_eq!((drain.next(begin), drain.next(begin)), (Some(1), None));
        assert_eq!(drain.next_deadline(), begin + 2 * SECOND);
        assert_eq!(drain.next(begin + 2 * SECOND - Duration::from_nanos(1)), None);
        let late = begin + 5 * SECOND;
        assert_eq!([drain.next(late), drain.next(late), drain.next(late)], [Some(2), Some(3), None]);
        assert_eq!(drain.next_deadline(), begin + 6 * SECOND);
        // One that opens late shares what is left.
        drain.opened(6);
        assert_eq!(drain.next(begin + 6 * SECOND), Some(4));
        assert_eq!(drain.next_deadline() - begin, 6 * SECOND + 4 * SECOND / 3);
        assert_eq!([drain.next(begin + 10 * SECOND), drain.next(begin + 10 * SECOND)], [Some(5), Some(6)]);
        assert_eq!(drain.next_deadline(), begin + 10 * SECOND);
    }

    #[test]
    fn one_that_has_ended_takes_no_turn_and_one_that_is_locked_is_tried_again_soon() {
        let (mut drain, begin) = drain(2, 10 * SECOND);
        assert_eq!(drain.next(begin), Some(1));
        drain.pass_turn(begin);
        assert_eq!(drain.next(begin), Some(2));
        assert_eq!(drain.next_deadline(), begin + 10 * SECOND);
        drain.retry(2, begin);
        assert_eq!(drain.next_deadline(), begin + RETRY_PAUSE);
        assert_eq!(drain.next(begin + RETRY_PAUSE), Some(2));
    }

    #[test]
    fn only_those_who_are_spread_are_told_to_come_back_at_once() {
        for (connections, period, at_once) in
            [(1, SECOND, true), (2_000, SECOND, true), (2_001, SECOND, false), (1, Duration::ZERO, false)]
        {
            let (drain, _) = drain(connections, period);
            assert_eq!(drain.reason.text() == RECONNECT_AT_ONCE, at_once, "{connections} in {period:?}");
        }
    }
}
