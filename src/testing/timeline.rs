//! The heartbeat under a virtual clock: what a policy does to a peer, and when, without waiting for it.

use std::time::{Duration, Instant};

use crate::heartbeat::{Action, Activity, Evidence, Heartbeat, HeartbeatPolicy};

/// What the heartbeat did on a [`Timeline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Beat {
    /// It sent a Ping.
    Ping,
    /// The peer showed no life in time, for the `n`th time in a row.
    Missed(u32),
    /// It found the peer dead, after so many misses in a row.
    Dead(u32),
}

/// A heartbeat under a virtual clock: it runs through hours in microseconds, by the same code that judges the peers of
/// a server. So a test can hold what a [`HeartbeatPolicy`] promises, without sockets and without waiting.
///
/// Time passes only by [`advance`](Self::advance) and [`hold_up`](Self::hold_up). All times are counted from the start.
/// The first Ping is due after a whole interval, which is the latest that it ever is: a real connection sends its first
/// after half an interval to a whole one. What is written leaves at once. The peer shows no life unless it is told to.
///
/// ```
/// use heartwire::HeartbeatPolicy;
/// use heartwire::testing::{Beat, Timeline};
/// use std::time::Duration;
///
/// let second = Duration::from_secs(1);
/// let mut timeline = Timeline::new(HeartbeatPolicy::default());
///
/// // A peer that answers each Ping after 9 s lives. By then 90 Pings have left.
/// timeline.answer_after(Some(9 * second));
/// let beats = timeline.advance(1800 * second);
/// assert_eq!(beats.len(), 90);
/// assert!(beats.iter().all(|(_, beat)| *beat == Beat::Ping));
///
/// // It dies. The next Ping is due at 1820 s, and three timeouts of 10 s follow.
/// timeline.answer_after(None);
/// assert_eq!(timeline.run_until_dead(), Some(1850 * second));
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens unless time passes"]
pub struct Timeline {
    heartbeat: Heartbeat,
    start: Instant,
    now: Duration,
    /// How many bytes have arrived, and when the newest did.
    arrived: u64,
    last_arrival: Duration,
    answers_after: Option<Duration>,
    /// When Pongs are to arrive.
    pongs: Vec<Duration>,
    is_dead: bool,
}

impl Timeline {
    /// A heartbeat with this policy, at time zero.
    pub fn new(policy: HeartbeatPolicy) -> Self {
        let start = Instant::now();
        Self {
            heartbeat: Heartbeat::new(policy, start, 1.0),
            start,
            now: Duration::ZERO,
            arrived: 0,
            last_arrival: Duration::ZERO,
            answers_after: None,
            pongs: Vec::new(),
            is_dead: false,
        }
    }

    /// The time that has passed since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Misses in a row so far.
    pub fn missed(&self) -> u32 {
        self.heartbeat.missed()
    }

    /// Whether the peer was found dead. Then nothing more happens.
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// How long after each Ping from now on its Pong arrives. `None`, as at the start: never. Pongs that are under way
    /// still arrive.
    pub fn answer_after(&mut self, delay: Option<Duration>) {
        self.answers_after = delay;
    }

    /// A byte of a message arrives now.
    pub fn receive(&mut self) {
        self.arrive(1);
    }

    /// A Ping of the peer arrives now. It may announce how long it will be until the next one: see
    /// [`HeartbeatPolicy::announcements`].
    pub fn receive_ping(&mut self, next: Option<Duration>) {
        self.arrive(2);
        self.heartbeat.on_activity(Activity::Ping { next }, self.arrived, self.instant());
    }

    /// A Pong arrives now, whether it answers a Ping or not.
    pub fn receive_pong(&mut self) {
        self.arrive(2);
        self.heartbeat.on_activity(Activity::Pong, self.arrived, self.instant());
    }

    /// Changes the policy. The heartbeat starts afresh: no misses, and a new schedule.
    pub fn set_policy(&mut self, policy: HeartbeatPolicy) {
        self.heartbeat.set_policy(policy, self.instant(), 1.0);
    }

    /// Lets time pass. Returns what the heartbeat did meanwhile, and when.
    pub fn advance(&mut self, by: Duration) -> Vec<(Duration, Beat)> {
        let until = self.after(by);
        let mut beats = Vec::new();
        while let Some(due) = self.next_due().filter(|due| *due <= until) {
            self.now = due.max(self.now);
            self.judge(&mut beats);
        }
        if !self.is_dead {
            self.now = until;
        }
        beats
    }

    /// Lets time pass until the peer is found dead. Returns when; `None` if the policy never finds a silent peer dead,
    /// or if the peer [answers](Self::answer_after) within its timeout.
    pub fn run_until_dead(&mut self) -> Option<Duration> {
        // Nothing in a policy takes longer than its worst case, and the Pongs under way come before.
        let worst_case = self.heartbeat.policy().worst_case()?;
        let last_pong = self.pongs.iter().max().map_or(Duration::ZERO, |last| last.saturating_sub(self.now));
        self.advance(last_pong.saturating_add(worst_case).saturating_add(worst_case));
        self.is_dead.then_some(self.now)
    }

    /// Lets time pass in which the whole process stands still, as on a suspended machine: the heartbeat does nothing,
    /// and notices afterwards that the delay was its own.
    pub fn hold_up(&mut self, by: Duration) -> Vec<(Duration, Beat)> {
        let mut beats = Vec::new();
        if !self.is_dead {
            self.now = self.after(by);
            self.judge(&mut beats);
        }
        beats
    }

    /// When something happens next: a Pong arrives, or the heartbeat has to look.
    fn next_due(&self) -> Option<Duration> {
        let pong = self.pongs.iter().min().copied();
        let check = self.heartbeat.deadline().map(|at| at.saturating_duration_since(self.start));
        pong.into_iter().chain(check).min().filter(|_| !self.is_dead)
    }

    fn judge(&mut self, beats: &mut Vec<(Duration, Beat)>) {
        let due = self.pongs.iter().filter(|at| **at <= self.now).count();
        self.pongs.retain(|at| *at > self.now);
        (0..due).for_each(|_| self.receive_pong());
        loop {
            let now = self.instant();
            let evidence = Evidence::new(self.arrived, self.start + self.last_arrival);
            let beat = match self.heartbeat.judge(now, &evidence) {
                Action::Wait(_) => return,
                Action::Ping => {
                    self.heartbeat.ping_written(now, self.arrived);
                    self.pongs.extend(self.answers_after.map(|delay| self.now.saturating_add(delay)));
                    Beat::Ping
                }
                Action::Missed(missed) => Beat::Missed(missed),
                Action::Dead(missed) => Beat::Dead(missed),
                // Nothing waits to be written.
                Action::Stalled(_) => Beat::Dead(self.missed()),
            };
            beats.push((self.now, beat));
            if matches!(beat, Beat::Dead(_)) {
                self.is_dead = true;
                return;
            }
        }
    }

    fn arrive(&mut self, bytes: u64) {
        self.arrived += bytes;
        self.last_arrival = self.now;
        if !self.is_dead {
            // What arrives is seen at once, as by a connection that waits in `recv`. That never makes a Ping due, nor
            // a miss: both have their own deadlines, at which `advance` looks.
            let evidence = Evidence::new(self.arrived, self.instant());
            let _ = self.heartbeat.judge(self.instant(), &evidence);
        }
    }

    /// Instants end somewhere, so time does.
    fn after(&self, by: Duration) -> Duration {
        const END: Duration = Duration::from_secs(1000 * 365 * 24 * 3600);
        self.now.saturating_add(by).min(END)
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn run_until_dead_takes_exactly_the_worst_case_of_a_silent_peer() {
        for policy in [
            HeartbeatPolicy::default(),
            HeartbeatPolicy::new(5 * SECOND, 2 * SECOND).max_missed(2),
            HeartbeatPolicy::new(SECOND, 7 * SECOND).max_missed(1),
            HeartbeatPolicy::peer_led(60 * SECOND).max_missed(2),
        ] {
            assert_eq!(Timeline::new(policy).run_until_dead(), policy.worst_case(), "{policy:?}");
        }
        for policy in [HeartbeatPolicy::off(), HeartbeatPolicy::keepalive(SECOND)] {
            assert_eq!(Timeline::new(policy).run_until_dead(), None);
        }
    }

    #[test]
    fn advance_gives_every_beat_with_its_time() {
        let mut timeline = Timeline::new(HeartbeatPolicy::default());
        let at = |seconds: u32, beat| (seconds * SECOND, beat);
        assert_eq!(timeline.advance(39 * SECOND), [at(20, Beat::Ping), at(30, Beat::Missed(1)), at(30, Beat::Ping),]);
        assert_eq!((timeline.now(), timeline.missed()), (39 * SECOND, 1));
        timeline.receive();
        assert_eq!(timeline.missed(), 0, "any byte is life");
        assert_eq!(
            timeline.advance(60 * SECOND),
            [
                at(40, Beat::Ping),
                at(50, Beat::Missed(1)),
                at(50, Beat::Ping),
                at(60, Beat::Missed(2)),
                at(60, Beat::Ping),
                at(70, Beat::Dead(3)),
            ]
        );
        assert_eq!((timeline.now(), timeline.is_dead()), (70 * SECOND, true));
        assert!(timeline.advance(1000 * SECOND).is_empty(), "it is over");
        assert!(timeline.hold_up(1000 * SECOND).is_empty(), "it is over");
    }

    #[test]
    fn answer_after_decides_between_life_and_death() {
        let policy = HeartbeatPolicy::default().max_missed(1);
        let run = |delay| {
            let mut timeline = Timeline::new(policy);
            timeline.answer_after(Some(delay));
            timeline.advance(3600 * SECOND);
            timeline.is_dead()
        };
        assert!(!run(10 * SECOND - Duration::from_millis(1)));
        assert!(run(10 * SECOND + Duration::from_millis(1)));
    }

    #[test]
    fn receive_is_life_by_bytes_and_none_if_only_pongs_count() {
        for (liveness, lives) in [(crate::Liveness::AnyByte, true), (crate::Liveness::PongOnly, false)] {
            let mut timeline = Timeline::new(HeartbeatPolicy::default().liveness(liveness));
            for _ in 0..100 {
                timeline.advance(SECOND);
                timeline.receive();
            }
            assert_eq!(!timeline.is_dead(), lives, "{liveness:?}");
        }
        let mut timeline = Timeline::new(HeartbeatPolicy::default().liveness(crate::Liveness::PongOnly));
        for _ in 0..100 {
            timeline.advance(SECOND);
            timeline.receive_pong();
        }
        assert!(!timeline.is_dead());
    }

    #[test]
    fn receive_ping_sets_the_window_of_a_peer_that_leads() {
        let policy = HeartbeatPolicy::peer_led(60 * SECOND).timeout(5 * SECOND).max_missed(1);
        let mut timeline = Timeline::new(policy.announcements(SECOND, 600 * SECOND));
        timeline.advance(10 * SECOND);
        timeline.receive_ping(Some(300 * SECOND));
        assert_eq!(timeline.run_until_dead(), Some(315 * SECOND));
    }

    #[test]
    fn hold_up_is_our_own_delay_and_no_miss_of_the_peer() {
        let mut timeline = Timeline::new(HeartbeatPolicy::default().max_missed(1));
        assert_eq!(timeline.advance(21 * SECOND), [(20 * SECOND, Beat::Ping)]);
        // The machine sleeps through the timeout. A fresh Ping has a whole one.
        assert_eq!(timeline.hold_up(3600 * SECOND), [(3621 * SECOND, Beat::Ping)]);
        assert_eq!(timeline.run_until_dead(), Some(3631 * SECOND));
    }

    #[test]
    fn set_policy_starts_afresh() {
        let mut timeline = Timeline::new(HeartbeatPolicy::default());
        timeline.advance(45 * SECOND);
        assert_eq!(timeline.missed(), 2);
        timeline.set_policy(HeartbeatPolicy::new(SECOND, SECOND).max_missed(1));
        assert_eq!(timeline.missed(), 0);
        assert_eq!(timeline.run_until_dead(), Some(47 * SECOND));
    }
}
