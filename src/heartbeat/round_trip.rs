//! Which Pings are under way, and what their Pongs tell: the round-trip time.
//!
//! Pure like the heartbeat: instants are passed in. A Ping's payload is its number in decimal digits, easy to read in
//! any capture. A Pong for *k* answers every Ping up to *k* (RFC 6455 section 5.5.3 lets a peer answer only the newest),
//! but only *k* itself gives a sample; a Pong whose number is not under way was not asked for, and gives none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

/// Round-trip figures of a connection, from the Pongs to its Pings, smoothed as in RFC 6298 section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RoundTrip {
    /// The newest sample.
    pub last: Duration,
    /// The smoothed round-trip time (SRTT: each sample weighs 1/8).
    pub smoothed: Duration,
    /// The round-trip time variation (RTTVAR: each deviation weighs 1/4).
    pub variation: Duration,
    /// The smallest sample.
    pub min: Duration,
    /// How many samples there were.
    pub samples: u64,
}

impl RoundTrip {
    fn first(sample: Duration) -> Self {
        Self { last: sample, smoothed: sample, variation: sample / 2, min: sample, samples: 1 }
    }

    fn add(&mut self, sample: Duration) {
        let deviation = self.smoothed.abs_diff(sample);
        self.variation = (self.variation * 3 + deviation) / 4;
        self.smoothed = (self.smoothed * 7 + sample) / 8;
        self.last = sample;
        self.min = self.min.min(sample);
        self.samples += 1;
    }
}

/// The Pings of one connection that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct PingLedger {
    sent: u64,
    answered: u64,
    under_way: VecDeque<UnderWay>,
    round_trip: Option<RoundTrip>,
}

#[derive(Debug)]
struct UnderWay {
    number: u64,
    /// What it announced.
    next: Option<Duration>,
    since: Instant,
    /// Whether the Ping went straight to the socket: one that waited in our queue says nothing about the line, and may
    /// have overtaken what was accepted before it.
    went_straight: bool,
    /// Whether the Ping stands in line with the data, so that its Pong says that all of that was read.
    is_in_line: bool,
    waiter: Option<Sender<Duration>>,
}

impl PingLedger {
    /// A peer that never answers must not make us remember every Ping: so many at most, and of those that nobody waits for
    /// only the newest few.
    const MOST_UNDER_WAY: usize = 4096;
    const MOST_UNWAITED: usize = 64;

    /// Enters a new Ping and gives its payload, which may announce when the next is due. `waiter` is told how long the
    /// answer took.
    pub(crate) fn ping(&mut self, now: Instant, next: Option<Duration>, waiter: Option<Sender<Duration>>) -> String {
        self.enter(now, next, waiter, false)
    }

    /// Enters a Ping that overtakes no data, and gives its payload. `waiter` is told when all before it was read.
    pub(crate) fn ping_in_line(&mut self, now: Instant, waiter: Sender<Duration>) -> String {
        self.enter(now, None, Some(waiter), true)
    }

    fn enter(
        &mut self,
        now: Instant,
        next: Option<Duration>,
        waiter: Option<Sender<Duration>>,
        is_in_line: bool,
    ) -> String {
        self.sent += 1;
        self.make_room();
        let number = self.sent;
        self.under_way.push_back(UnderWay { number, next, since: now, went_straight: false, is_in_line, waiter });
        payload(number, next)
    }

    /// Whoever waits for a Pong is told by the end of a channel that none will come: so as long as there is room, only Pings
    /// are forgotten that nobody waits for.
    fn make_room(&mut self) {
        if self.under_way.len() >= Self::MOST_UNWAITED
            && let Some(oldest) = self.under_way.iter().position(|ping| ping.waiter.is_none())
            && self.under_way.iter().filter(|ping| ping.waiter.is_none()).count() >= Self::MOST_UNWAITED
        {
            self.under_way.remove(oldest);
        }
        if self.under_way.len() >= Self::MOST_UNDER_WAY {
            self.under_way.pop_front();
        }
    }

    /// The Ping with this payload went straight to the socket, behind all that was accepted before.
    pub(crate) fn written(&mut self, payload: &[u8]) {
        if let Some(ping) = self.under_way.iter_mut().rfind(|ping| ping.has_payload(payload)) {
            ping.went_straight = true;
        }
    }

    /// A Pong arrived. Returns the time since its Ping, or `None` if it was not asked for.
    pub(crate) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        // The payload has to be the very same (RFC 6455 section 5.5.3).
        let position = self.under_way.iter().position(|ping| ping.has_payload(payload))?;
        let UnderWay { number, since, went_straight, is_in_line, .. } = self.under_way[position];
        let elapsed = now.saturating_duration_since(since);
        self.answered += 1;
        // A Ping that may have overtaken data says nothing of those that stand in line with it.
        let is_answered = |ping: &UnderWay| {
            ping.number == number || ping.number < number && (!ping.is_in_line || went_straight || is_in_line)
        };
        let (answered, left) = std::mem::take(&mut self.under_way).into_iter().partition::<VecDeque<_>, _>(is_answered);
        self.under_way = left;
        for ping in answered {
            if let Some(waiter) = ping.waiter {
                // Whoever asked may have stopped waiting.
                let _ = waiter.try_send(now.saturating_duration_since(ping.since));
            }
        }
        if went_straight {
            match &mut self.round_trip {
                Some(round_trip) => round_trip.add(elapsed),
                None => self.round_trip = Some(RoundTrip::first(elapsed)),
            }
        }
        Some(elapsed)
    }

    /// Nobody will answer any more: those who wait for an answer are told by the end of their channel.
    pub(crate) fn close(&mut self) {
        self.under_way.clear();
        self.under_way.shrink_to_fit();
    }

    /// Pings sent, Pongs that answered them, and the round-trip figures.
    pub(crate) fn figures(&self) -> (u64, u64, Option<RoundTrip>) {
        (self.sent, self.answered, self.round_trip)
    }

    pub(crate) fn round_trip(&self) -> Option<RoundTrip> {
        self.round_trip
    }
}

impl UnderWay {
    fn has_payload(&self, other: &[u8]) -> bool {
        payload(self.number, self.next).as_bytes() == other
    }
}

/// A Ping's number, behind what it announces: `17`, or `next=20000 17`.
fn payload(number: u64, next: Option<Duration>) -> String {
    match next {
        None => number.to_string(),
        Some(next) => format!("next={} {number}", next.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A Ping that goes straight to the socket.
    fn written(ledger: &mut PingLedger, now: Instant) -> String {
        let payload = ledger.ping(now, None, None);
        ledger.written(payload.as_bytes());
        payload
    }

    #[test]
    fn figures_follow_rfc_6298() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        assert_eq!(ledger.round_trip(), None);

        let payload = written(&mut ledger, now);
        assert_eq!(ledger.pong(payload.as_bytes(), now + ms(100)), Some(ms(100)));
        let first = ledger.round_trip().unwrap();
        assert_eq!((first.last, first.smoothed, first.variation, first.min), (ms(100), ms(100), ms(50), ms(100)));

        let payload = written(&mut ledger, now);
        ledger.pong(payload.as_bytes(), now + ms(180));
        let second = ledger.round_trip().unwrap();
        // SRTT = 7/8 x 100 + 1/8 x 180; RTTVAR = 3/4 x 50 + 1/4 x |100 - 180|
        assert_eq!((second.last, second.smoothed, second.min), (ms(180), ms(110), ms(100)));
        assert_eq!(second.variation, Duration::from_micros(57_500));
        assert_eq!(second.samples, 2);
    }

    #[test]
    fn a_pong_answers_all_earlier_pings_but_samples_only_its_own() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        let (sender, waiter) = crossbeam_channel::bounded(1);
        let first = ledger.ping(now, None, Some(sender));
        let second = written(&mut ledger, now + ms(10));
        let third = written(&mut ledger, now + ms(20));

        assert_eq!(ledger.pong(second.as_bytes(), now + ms(30)), Some(ms(20)));
        assert_eq!(waiter.try_recv(), Ok(ms(30)), "the first Ping counts as answered too");
        assert_eq!(ledger.round_trip().unwrap().samples, 1);
        assert_eq!(ledger.pong(first.as_bytes(), now + ms(31)), None, "answered already");
        assert_eq!(ledger.pong(second.as_bytes(), now + ms(31)), None, "the same Pong twice");
        assert_eq!(ledger.pong(third.as_bytes(), now + ms(40)), Some(ms(20)));
    }

    #[test]
    fn a_pong_never_asked_for_is_no_sample() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        ledger.ping(now, None, None);
        ledger.written(b"1");
        for forged in [&b"2"[..], b"0", b"+1", b"01", b"", b"-1", b"18446744073709551616", b"\xff\xfe", b"hello"] {
            assert_eq!(ledger.pong(forged, now + ms(1)), None);
        }
        assert_eq!(ledger.round_trip(), None);
    }

    #[test]
    fn a_ping_that_waited_in_our_queue_is_no_sample() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        let payload = ledger.ping(now, None, None);
        assert_eq!(ledger.pong(payload.as_bytes(), now + ms(900)), Some(ms(900)));
        assert_eq!(ledger.round_trip(), None);
    }

    #[test]
    fn a_ping_in_line_is_confirmed_by_no_pong_of_a_ping_that_may_have_overtaken_data() {
        let now = Instant::now();
        for (went_straight, is_in_line) in [(false, false), (true, false), (false, true)] {
            let mut ledger = PingLedger::default();
            let (sender, waiter) = crossbeam_channel::bounded(1);
            let (ordinary, other) = crossbeam_channel::bounded(1);
            let before = ledger.ping(now, None, Some(ordinary));
            let in_line = ledger.ping_in_line(now, sender);
            let later = if is_in_line {
                ledger.ping_in_line(now + ms(10), crossbeam_channel::bounded(1).0)
            } else {
                ledger.ping(now + ms(10), None, None)
            };
            if went_straight {
                ledger.written(later.as_bytes());
            }
            let confirms = went_straight || is_in_line;

            assert_eq!(ledger.pong(later.as_bytes(), now + ms(30)), Some(ms(20)));
            assert_eq!(other.try_recv(), Ok(ms(30)), "an ordinary Ping is answered by any later Pong");
            assert_eq!(waiter.try_recv().is_ok(), confirms, "straight: {went_straight}, in line: {is_in_line}");
            assert_eq!(ledger.pong(before.as_bytes(), now + ms(31)), None);
            let own = ledger.pong(in_line.as_bytes(), now + ms(40));
            assert_eq!(own, (!confirms).then_some(ms(40)), "its own Pong confirms it");
            assert_eq!(waiter.try_recv().is_ok(), !confirms);
        }
    }

    #[test]
    fn a_pong_confirms_no_ping_in_line_that_came_after_it() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        let (sender, waiter) = crossbeam_channel::bounded(1);
        let first = written(&mut ledger, now);
        let in_line = ledger.ping_in_line(now, sender);
        assert_eq!(ledger.pong(first.as_bytes(), now + ms(5)), Some(ms(5)));
        assert!(waiter.try_recv().is_err());
        assert_eq!(ledger.pong(in_line.as_bytes(), now + ms(9)), Some(ms(9)));
        assert_eq!(waiter.try_recv(), Ok(ms(9)));
        assert_eq!(ledger.figures().0, 2);
        assert_eq!(ledger.round_trip().unwrap().samples, 1, "one that stood in line says nothing about the line");
    }

    #[test]
    fn a_peer_that_never_answers_costs_bounded_memory() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        for _ in 0..1000 {
            ledger.ping(now, None, None);
        }
        assert_eq!(ledger.under_way.len(), PingLedger::MOST_UNWAITED);
        assert_eq!(ledger.pong(b"1000", now + ms(5)), Some(ms(5)));
        let waiters: Vec<_> = (0..10_000)
            .map(|_| {
                let (sender, waiter) = crossbeam_channel::bounded(1);
                ledger.ping_in_line(now, sender);
                waiter
            })
            .collect();
        assert_eq!(ledger.under_way.len(), PingLedger::MOST_UNDER_WAY);
        ledger.pong(b"11000", now + ms(5));
        assert_eq!(waiters.iter().filter(|waiter| waiter.try_recv().is_ok()).count(), PingLedger::MOST_UNDER_WAY);
    }

    #[test]
    fn whoever_waits_is_not_forgotten_for_pings_that_nobody_waits_for() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        let waiters: Vec<_> = (0..200)
            .map(|_| {
                let (sender, waiter) = crossbeam_channel::bounded(1);
                ledger.ping_in_line(now, sender);
                (0..10).for_each(|_| _ = ledger.ping(now, None, None));
                waiter
            })
            .collect();
        let last = written(&mut ledger, now);
        assert_eq!(ledger.pong(last.as_bytes(), now + ms(5)), Some(ms(5)));
        assert!(waiters.iter().all(|waiter| waiter.try_recv() == Ok(ms(5))));
    }

    #[test]
    fn a_ping_may_announce_the_next() {
        let now = Instant::now();
        let mut ledger = PingLedger::default();
        let payload = ledger.ping(now, Some(ms(1500)), None);
        assert_eq!(payload, "next=1500 1");
        assert_eq!(ledger.pong(b"1", now + ms(5)), None, "not the payload that was sent");
        assert_eq!(ledger.pong(payload.as_bytes(), now + ms(5)), Some(ms(5)));
    }

    #[test]
    fn a_waiter_learns_of_the_end() {
        let mut ledger = PingLedger::default();
        let (sender, waiter) = crossbeam_channel::bounded(1);
        ledger.ping(Instant::now(), None, Some(sender));
        ledger.close();
        assert!(waiter.recv().is_err());
    }
}
