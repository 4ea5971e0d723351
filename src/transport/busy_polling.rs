//! Busy polling: a read tries again for a moment before it blocks, for a peer may answer faster than a thread can fall
//! asleep and wake up.
//!
//! How long it tries adapts, as in the halt polling of hypervisors (Documentation/virt/kvm/halt-polling.rst of Linux).
//! It grows while longer tries would have met what came, and a wait that was too long for any try ends it. Invariants:
//! - A connection polls for at most three quarters of the time that it waits, and only while there is a processor for
//!   each active connection of the process and another for its peer. So polling takes less than half of all processors,
//!   and none on a machine that has one.
//! - Where another thread needs the processor, there is no polling for a while. Such a thread may interrupt a try. Or
//!   it is the peer's own, and cannot answer while we try: then waits become longer by what is tried.

use std::mem;
use std::num::NonZero;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The busy polling of an active connection.
#[derive(Debug)]
pub(super) struct BusyPolling {
    /// The longest try. Zero: none.
    limit: Duration,
    /// How long the next read tries.
    time: Duration,
    /// What the last read has spent.
    polled: Polled,
    /// The time that may be spent on polling.
    credit: Duration,
    /// The last wait without a try.
    undisturbed: Duration,
    /// Until when the processors are taken to be busy.
    busy_until: Instant,
}

/// What a read has spent on trying.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Polled {
    pub(crate) time: Duration,
    /// Whether another thread had the processor meanwhile.
    pub(crate) was_interrupted: bool,
}

impl Polled {
    /// Adds a try that took so long.
    pub(crate) fn add(&mut self, time: Duration) {
        /// A try is a system call that finds nothing, and takes a hundredth of this.
        const INTERRUPTION: Duration = Duration::from_micros(50);
        self.time += time;
        self.was_interrupted |= time > INTERRUPTION;
    }
}

/// How many connections of the process are active.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

impl BusyPolling {
    /// The first try that is made.
    const START: Duration = Duration::from_micros(10);
    /// What may be saved up of the time for polling, or one try if that is more.
    const MOST_CREDIT: Duration = Duration::from_millis(1);
    /// How long to leave busy processors alone.
    const PAUSE: Duration = Duration::from_millis(100);

    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        ACTIVE.fetch_add(1, Relaxed);
        Self {
            limit,
            time: Duration::ZERO,
            polled: Polled::default(),
            credit: Duration::ZERO,
            undisturbed: Duration::ZERO,
            busy_until: now,
        }
    }

    /// Begins a read: how long it is to try before it blocks, and where to note what it spends. `None` if it is to
    /// block at once.
    pub(super) fn begin(&mut self) -> Option<(Duration, &mut Polled)> {
        // Looked at first: a thousand active connections are not in the processor's cache.
        let may_poll = has_idle_processors() && !self.time.is_zero() && self.time <= self.credit;
        may_poll.then_some((self.time, &mut self.polled))
    }

    /// Records a wait of this length, which something ended that has arrived.
    pub(super) fn record(&mut self, wait: Duration, now: Instant) {
        if !self.limit.is_zero() && has_idle_processors() {
            self.learn(wait, now);
        }
    }

    fn learn(&mut self, wait: Duration, now: Instant) {
        let polled = mem::take(&mut self.polled);
        let most = Self::MOST_CREDIT.max(self.limit);
        self.credit = (self.credit + wait * 3 / 4).min(most).saturating_sub(polled.time);
        if polled.time.is_zero() {
            self.undisturbed = wait;
        } else if polled.was_interrupted || wait > 2 * self.undisturbed {
            self.busy_until = now + Self::PAUSE;
        }
        if wait > self.limit || now < self.busy_until {
            self.time = Duration::ZERO;
        } else if wait > self.time {
            self.time = (self.time * 2).clamp(Self::START.min(self.limit), self.limit);
        }
    }
}

impl Drop for BusyPolling {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Relaxed);
    }
}

fn has_idle_processors() -> bool {
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    2 * ACTIVE.load(Relaxed) <= *PROCESSORS
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(200);

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// A connection whose waits are made up, on a machine with many processors.
    struct Waits {
        polling: BusyPolling,
        now: Instant,
        polled: Duration,
        /// Whether the peer runs on our processor, and only while we sleep.
        shares_processor: bool,
    }

    impl Waits {
        fn new() -> Self {
            let now = Instant::now();
            Self { polling: BusyPolling::new(LIMIT, now), now, polled: Duration::ZERO, shares_processor: false }
        }

        /// What comes after `until_there` is met by a try that is long enough, or else later, by a thread that wakes
        /// up.
        /// Returns whether it was met.
        fn wait(&mut self, until_there: Duration, wake_up: Duration) -> bool {
            let time = if self.polling.time <= self.polling.credit { self.polling.time } else { Duration::ZERO };
            let is_met = until_there <= time && !self.shares_processor;
            let held_up = if self.shares_processor { time } else { Duration::ZERO };
            let wait = held_up + if is_met { until_there } else { until_there + wake_up };
            self.polling.polled = Polled { time: if is_met { until_there } else { time }, was_interrupted: false };
            self.now += wait + us(5);
            self.polled += self.polling.polled.time;
            self.polling.learn(wait, self.now);
            is_met
        }
    }

    #[test]
    fn answers_are_met_whether_wake_ups_are_quick_or_slow() {
        for wake_up in [us(3), us(30), us(60)] {
            let mut waits = Waits::new();
            let (begin, met) = (waits.now, (0..10_000).filter(|_| waits.wait(wake_up + us(5), wake_up)).count());
            assert!(met > 3_000, "{met} of 10,000 with wake-ups of {wake_up:?}");
            let share = waits.polled.as_secs_f64() / (waits.now - begin).as_secs_f64();
            assert!(share <= 0.75, "{share} of the time with wake-ups of {wake_up:?}");
        }
    }

    #[test]
    fn a_longer_limit_meets_what_a_shorter_one_meets() {
        for limit in [us(1_000), us(2_000), us(10_000), us(100_000)] {
            let mut waits = Waits::new();
            waits.polling.limit = limit;
            let met = (0..1_000).filter(|_| waits.wait(us(700), us(60))).count();
            assert!(met > 200, "{met} of 1,000 with a limit of {limit:?}");
        }
    }

    #[test]
    fn a_peer_that_takes_long_is_not_polled_for() {
        let mut waits = Waits::new();
        (0..1_000).for_each(|_| _ = waits.wait(us(20), us(20)));
        let before = waits.polled;
        (0..1_000).for_each(|_| _ = waits.wait(us(1_000), us(20)));
        assert!(waits.polled - before <= LIMIT, "one try in vain: {:?}", waits.polled - before);
        // And again as soon as it is quick.
        assert!((0..10).any(|_| waits.wait(us(20), us(20))));
    }

    #[test]
    fn an_interrupted_try_is_the_last_for_a_while() {
        let mut waits = Waits::new();
        (0..100).for_each(|_| _ = waits.wait(us(20), us(20)));
        let mut polled = Polled::default();
        polled.add(us(1));
        assert!(!polled.was_interrupted);
        polled.add(us(1_000));
        assert!(polled.was_interrupted);
        waits.polling.polled = polled;
        waits.polling.learn(us(20), waits.now);
        let (before, until) = (waits.polled, waits.now + BusyPolling::PAUSE);
        while waits.now < until {
            assert!(!waits.wait(us(20), us(20)));
        }
        assert_eq!(waits.polled, before);
        assert!((0..10).any(|_| waits.wait(us(20), us(20))), "it tries again");
    }

    #[test]
    fn a_peer_on_the_same_processor_is_hardly_held_up() {
        let mut waits = Waits { shares_processor: true, ..Waits::new() };
        let begin = waits.now;
        (0..100_000).for_each(|_| _ = waits.wait(us(5), us(5)));
        let share = waits.polled.as_secs_f64() / (waits.now - begin).as_secs_f64();
        assert!(share < 0.01, "{share} of the time");
    }

    #[test]
    fn without_a_limit_nothing_is_polled() {
        let now = Instant::now();
        let mut polling = BusyPolling::new(Duration::ZERO, now);
        for n in 1..100 {
            polling.learn(Duration::ZERO, now + n * us(1_000));
            polling.learn(us(1), now + n * us(1_000));
            assert!(polling.time.is_zero());
        }
    }
}
