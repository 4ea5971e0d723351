//! The Pings that await a Pong, and the round-trip time that their Pongs tell.
//!
//! Pure like the heartbeat: instants are passed in. A Ping's payload is its number in decimal digits, which is easy to
//! read in any capture. A Pong for *k* answers every Ping up to *k*, because a peer may answer only the newest (RFC
//! 6455 section 5.5.3). Only *k* itself gives a sample. A Pong whose payload matches no outstanding Ping is unsolicited
//! and gives none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

/// The round-trip time of a connection, from the Pongs that answer its Pings, smoothed as in RFC 6298 section 2.
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
    /// How many samples there are.
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

/// The Pings of one connection: those that await a Pong, how many were sent and answered, and the round-trip time.
#[derive(Debug, Default)]
pub(crate) struct PingTracker {
    sent: u64,
    answered: u64,
    outstanding: VecDeque<OutstandingPing>,
    round_trip: Option<RoundTrip>,
}

#[derive(Debug)]
struct OutstandingPing {
    number: u64,
    /// What the Ping announced.
    next: Option<Duration>,
    since: Instant,
    /// Whether the Ping went straight to the socket. A Ping that waited in our queue says nothing about the line, and
    /// may have overtaken data.
    was_direct: bool,
    /// Whether the Ping overtook no data, so that its Pong confirms that the peer has read all data before it.
    is_ordered: bool,
    waiter: Option<Sender<Duration>>,
}

impl PingTracker {
    /// The bounds on what we remember of a peer that never answers: so many Pings in all, and so many that nobody waits
    /// for.
    const MAX_OUTSTANDING: usize = 4096;
    const MAX_UNAWAITED: usize = 64;

    /// Adds a new Ping and returns its payload, which may announce when the next is due. `waiter` receives the time
    /// until the Pong.
    pub(crate) fn ping(&mut self, now: Instant, next: Option<Duration>, waiter: Option<Sender<Duration>>) -> String {
        self.add(now, next, waiter, false)
    }

    /// Adds a Ping that overtakes no data, and returns its payload. `waiter` receives the time until the peer has read
    /// all data before it.
    pub(crate) fn ordered_ping(&mut self, now: Instant, waiter: Sender<Duration>) -> String {
        self.add(now, None, Some(waiter), true)
    }

    fn add(
        &mut self,
        now: Instant,
        next: Option<Duration>,
        waiter: Option<Sender<Duration>>,
        is_ordered: bool,
    ) -> String {
        self.sent += 1;
        self.drop_oldest_if_full();
        let number = self.sent;
        self.outstanding.push_back(OutstandingPing { number, next, since: now, was_direct: false, is_ordered, waiter });
        payload(number, next)
    }

    /// Forgets the oldest Ping that nobody waits for if there are too many of these, and the oldest of all if there are
    /// too many in all. A waiter learns it by the end of its channel.
    fn drop_oldest_if_full(&mut self) {
        if self.outstanding.len() >= Self::MAX_UNAWAITED
            && let Some(oldest) = self.outstanding.iter().position(|ping| ping.waiter.is_none())
            && self.outstanding.iter().filter(|ping| ping.waiter.is_none()).count() >= Self::MAX_UNAWAITED
        {
            self.outstanding.remove(oldest);
        }
        if self.outstanding.len() >= Self::MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
    }

    /// The Ping with this payload went straight to the socket, after all data that was accepted before.
    pub(crate) fn written(&mut self, payload: &[u8]) {
        if let Some(ping) = self.outstanding.iter_mut().rfind(|ping| ping.has_payload(payload)) {
            ping.was_direct = true;
        }
    }

    /// A Pong arrived. Returns the time since its Ping, or `None` if it is unsolicited.
    pub(crate) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        // A Pong repeats the payload of its Ping (RFC 6455 section 5.5.3).
        let position = self.outstanding.iter().position(|ping| ping.has_payload(payload))?;
        let OutstandingPing { number, since, was_direct, is_ordered, .. } = self.outstanding[position];
        let elapsed = now.saturating_duration_since(since);
        self.answered += 1;
        // A Ping that may have overtaken data confirms no ordered Ping.
        let is_answered = |ping: &OutstandingPing| {
            ping.number == number || ping.number < number && (!ping.is_ordered || was_direct || is_ordered)
        };
        let (answered, left) =
            std::mem::take(&mut self.outstanding).into_iter().partition::<VecDeque<_>, _>(is_answered);
        self.outstanding = left;
        for ping in answered {
            if let Some(waiter) = ping.waiter {
                // The waiter may have gone.
                let _ = waiter.try_send(now.saturating_duration_since(ping.since));
            }
        }
        if was_direct {
            match &mut self.round_trip {
                Some(round_trip) => round_trip.add(elapsed),
                None => self.round_trip = Some(RoundTrip::first(elapsed)),
            }
        }
        Some(elapsed)
    }

    /// Whether there is a Ping that no Pong has answered.
    pub(crate) fn awaits_pong(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// No Pong will arrive any more. Waiters learn it by the end of their channels.
    pub(crate) fn close(&mut self) {
        self.outstanding.clear();
        self.outstanding.shrink_to_fit();
    }

    /// Pings sent, Pongs that answered them, and the round-trip time.
    pub(crate) fn figures(&self) -> (u64, u64, Option<RoundTrip>) {
        (self.sent, self.answered, self.round_trip)
    }

    pub(crate) fn round_trip(&self) -> Option<RoundTrip> {
        self.round_trip
    }
}

impl OutstandingPing {
    fn has_payload(&self, other: &[u8]) -> bool {
        payload(self.number, self.next).as_bytes() == other
    }
}

/// The payload of a Ping: its number, after what it announces. `17`, or `next=20000 17`.
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
    fn written(tracker: &mut PingTracker, now: Instant) -> String {
        let payload = tracker.ping(now, None, None);
        tracker.written(payload.as_bytes());
        payload
    }

    #[test]
    fn figures_follow_rfc_6298() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        assert_eq!(tracker.round_trip(), None);

        let payload = written(&mut tracker, now);
        assert_eq!(tracker.pong(payload.as_bytes(), now + ms(100)), Some(ms(100)));
        let first = tracker.round_trip().unwrap();
        assert_eq!((first.last, first.smoothed, first.variation, first.min), (ms(100), ms(100), ms(50), ms(100)));

        let payload = written(&mut tracker, now);
        tracker.pong(payload.as_bytes(), now + ms(180));
        let second = tracker.round_trip().unwrap();
        // SRTT = 7/8 x 100 + 1/8 x 180; RTTVAR = 3/4 x 50 + 1/4 x |100 - 180|
        assert_eq!((second.last, second.smoothed, second.min), (ms(180), ms(110), ms(100)));
        assert_eq!(second.variation, Duration::from_micros(57_500));
        assert_eq!(second.samples, 2);
    }

    #[test]
    fn a_pong_answers_all_earlier_pings_but_samples_only_its_own() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        let (sender, waiter) = crossbeam_channel::bounded(1);
        let first = tracker.ping(now, None, Some(sender));
        let second = written(&mut tracker, now + ms(10));
        let third = written(&mut tracker, now + ms(20));

        assert_eq!(tracker.pong(second.as_bytes(), now + ms(30)), Some(ms(20)));
        assert_eq!(waiter.try_recv(), Ok(ms(30)), "the first Ping counts as answered too");
        assert_eq!(tracker.round_trip().unwrap().samples, 1);
        assert_eq!(tracker.pong(first.as_bytes(), now + ms(31)), None, "answered already");
        assert_eq!(tracker.pong(second.as_bytes(), now + ms(31)), None, "the same Pong twice");
        assert_eq!(tracker.pong(third.as_bytes(), now + ms(40)), Some(ms(20)));
    }

    #[test]
    fn an_unsolicited_pong_is_no_sample() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        tracker.ping(now, None, None);
        tracker.written(b"1");
        for forged in [&b"2"[..], b"0", b"+1", b"01", b"", b"-1", b"18446744073709551616", b"\xff\xfe", b"hello"] {
            assert_eq!(tracker.pong(forged, now + ms(1)), None);
        }
        assert_eq!(tracker.round_trip(), None);
    }

    #[test]
    fn a_ping_that_waited_in_our_queue_is_no_sample() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        let payload = tracker.ping(now, None, None);
        assert_eq!(tracker.pong(payload.as_bytes(), now + ms(900)), Some(ms(900)));
        assert_eq!(tracker.round_trip(), None);
    }

    #[test]
    fn an_ordered_ping_is_confirmed_by_no_pong_of_a_ping_that_may_have_overtaken_data() {
        let now = Instant::now();
        for (was_direct, is_ordered) in [(false, false), (true, false), (false, true)] {
            let mut tracker = PingTracker::default();
            let (sender, waiter) = crossbeam_channel::bounded(1);
            let (ordinary, other) = crossbeam_channel::bounded(1);
            let before = tracker.ping(now, None, Some(ordinary));
            let ordered = tracker.ordered_ping(now, sender);
            let later = if is_ordered {
                tracker.ordered_ping(now + ms(10), crossbeam_channel::bounded(1).0)
            } else {
                tracker.ping(now + ms(10), None, None)
            };
            if was_direct {
                tracker.written(later.as_bytes());
            }
            let confirms = was_direct || is_ordered;

            assert_eq!(tracker.pong(later.as_bytes(), now + ms(30)), Some(ms(20)));
            assert_eq!(other.try_recv(), Ok(ms(30)), "an ordinary Ping is answered by any later Pong");
            assert_eq!(waiter.try_recv().is_ok(), confirms, "direct: {was_direct}, ordered: {is_ordered}");
            assert_eq!(tracker.pong(before.as_bytes(), now + ms(31)), None);
            let own = tracker.pong(ordered.as_bytes(), now + ms(40));
            assert_eq!(own, (!confirms).then_some(ms(40)), "its own Pong confirms it");
            assert_eq!(waiter.try_recv().is_ok(), !confirms);
        }
    }

    #[test]
    fn a_pong_confirms_no_later_ordered_ping() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        let (sender, waiter) = crossbeam_channel::bounded(1);
        let first = written(&mut tracker, now);
        let ordered = tracker.ordered_ping(now, sender);
        assert_eq!(tracker.pong(first.as_bytes(), now + ms(5)), Some(ms(5)));
        assert!(waiter.try_recv().is_err());
        assert_eq!(tracker.pong(ordered.as_bytes(), now + ms(9)), Some(ms(9)));
        assert_eq!(waiter.try_recv(), Ok(ms(9)));
        assert_eq!(tracker.figures().0, 2);
        assert_eq!(tracker.round_trip().unwrap().samples, 1, "an ordered Ping may have waited and gives no sample");
    }

    #[test]
    fn a_peer_that_never_answers_costs_bounded_memory() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        for _ in 0..1000 {
            tracker.ping(now, None, None);
        }
        assert_eq!(tracker.outstanding.len(), PingTracker::MAX_UNAWAITED);
        assert_eq!(tracker.pong(b"1000", now + ms(5)), Some(ms(5)));
        let waiters: Vec<_> = (0..10_000)
            .map(|_| {
                let (sender, waiter) = crossbeam_channel::bounded(1);
                tracker.ordered_ping(now, sender);
                waiter
            })
            .collect();
        assert_eq!(tracker.outstanding.len(), PingTracker::MAX_OUTSTANDING);
        tracker.pong(b"11000", now + ms(5));
        assert_eq!(waiters.iter().filter(|waiter| waiter.try_recv().is_ok()).count(), PingTracker::MAX_OUTSTANDING);
    }

    #[test]
    fn an_awaited_ping_is_not_forgotten_for_pings_that_nobody_awaits() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        let waiters: Vec<_> = (0..200)
            .map(|_| {
                let (sender, waiter) = crossbeam_channel::bounded(1);
                tracker.ordered_ping(now, sender);
                (0..10).for_each(|_| _ = tracker.ping(now, None, None));
                waiter
            })
            .collect();
        let last = written(&mut tracker, now);
        assert_eq!(tracker.pong(last.as_bytes(), now + ms(5)), Some(ms(5)));
        assert!(waiters.iter().all(|waiter| waiter.try_recv() == Ok(ms(5))));
    }

    #[test]
    fn a_ping_may_announce_the_next() {
        let now = Instant::now();
        let mut tracker = PingTracker::default();
        let payload = tracker.ping(now, Some(ms(1500)), None);
        assert_eq!(payload, "next=1500 1");
        assert_eq!(tracker.pong(b"1", now + ms(5)), None, "not the payload that was sent");
        assert_eq!(tracker.pong(payload.as_bytes(), now + ms(5)), Some(ms(5)));
    }

    #[test]
    fn a_waiter_learns_of_the_end() {
        let mut tracker = PingTracker::default();
        let (sender, waiter) = crossbeam_channel::bounded(1);
        tracker.ping(Instant::now(), None, Some(sender));
        tracker.close();
        assert!(waiter.recv().is_err());
    }
}
