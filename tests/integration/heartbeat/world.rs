//! The world of a heartbeat under test: a driver, a peer, the line between them and a clock that jumps.
//!
//! The driver knows what a real one knows, and passes all of it on as evidence: what has arrived, by when, and how much
//! of that was read; whether it reads at all; what waits to be taken; how long the machine slept. What the world knows
//! beyond that (when a byte really arrived) is for the tests to judge the heartbeat by.

mod happenings;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{self, Dead, Missed, Ping, Stalled, Wait};
use heartwire::heartbeat::{Activity, Evidence, Heartbeat, Reading};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A driver, and a peer that does as it is told. Times count from `origin`.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) heart: Heartbeat,
    pub(crate) policy: HeartbeatPolicy,
    pub(crate) phase: f64,
    pub(crate) origin: Instant,
    pub(crate) now: Duration,

    // The driver.
    /// How late the next looks are, one after the other; and all others.
    pub(crate) lags: VecDeque<Duration>,
    pub(crate) lag: Duration,
    pub(crate) reader: Reader,
    /// We can do nothing between these instants.
    paused: (Duration, Duration),
    suspended: Duration,
    reading: Reading,

    // What comes from the peer.
    /// The nth Ping that leaves is answered by a Pong this much later; those beyond the list never are.
    pub(crate) answers: VecDeque<Duration>,
    /// What happens, in order of time.
    pub(crate) events: Vec<(Duration, Event)>,
    /// The frames that arrived and were not read to their end, by the position of that.
    unread: VecDeque<(u64, What)>,
    arrived: u64,
    read: u64,
    is_step_due: bool,
    /// What the driver knows of it.
    seen: (u64, Duration),
    /// What was lost on the line comes then, and nothing before it.
    retransmission: Option<Duration>,

    // What goes to it.
    /// Data waits in our queue, none of which was taken since.
    blocked_since: Option<Duration>,
    /// How many Pings wait in the queue: none or one. What waits in the system's buffer.
    has_queued_ping: bool,
    is_holding: bool,
    held_pings: usize,
    /// Of the Ping that is judged by: whether it waits in our queue with `has_queued_ping`, and whether it is held.
    judged_is_queued: bool,
    judged_is_held: bool,
    ping_left: Option<Duration>,

    // What came of it.
    /// Every action carried out.
    pub(crate) trace: Vec<(Duration, Action)>,
    pub(crate) missed: u32,
    pub(crate) dead: Option<Duration>,
    /// When something last arrived; was taken from the queue or the buffer; and the first Ping that came to nothing.
    pub(crate) last_arrival: Duration,
    pub(crate) last_life: Duration,
    pub(crate) last_taken: Duration,
    /// The same, if there was a look between the beginning of the wait and its end: of others no driver can know.
    pub(crate) last_seen_taken: Duration,
    has_seen_wait: bool,
    pub(crate) last_read: Duration,
    /// When reading last went on.
    pub(crate) resumed: Duration,
    pub(crate) unanswered_since: Option<Duration>,
    /// When the Ping left that the newest life answered, in time or not.
    pub(crate) answered: Option<Duration>,
    /// Whether any data ever waited, and when some last began to.
    pub(crate) has_waited: bool,
    pub(crate) began_to_wait: Duration,
}

/// How the driver reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// All that arrives, when it does.
    Prompt,
    /// All that is there, when a deadline has it look. For the rest of the time it is elsewhere.
    AtLooks,
    /// So many bytes in so much time.
    Slow(u64, Duration),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Arrives(What),
    /// A look that nobody asked for.
    Spurious,
    /// Data waits in our queue; the peer takes some of it; all of it.
    Blocks,
    Takes,
    Drains,
    /// The system's buffer does not empty itself any more; it does.
    Holds,
    LetsGo,
    /// There is no room for what arrives; there is again.
    StopsReading,
    Reads,
    Suspended(Duration),
    /// We are held up for so long. Whether the whole machine is, so that the line loses what arrives meanwhile.
    Paused(Duration, bool),
    /// The slow reader reads on.
    ReadStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// So much of a message.
    Data(u64),
    Frame(Activity),
}

use What::{Data, Frame};

/// Some byte, and frames.
pub(crate) const BYTES: What = Data(1);
pub(crate) const PONG: What = Frame(Activity::Pong);
/// A Ping that announces nothing.
pub(crate) const ORDINARY: What = Frame(Activity::Ping { next: None });

pub(crate) fn announced(seconds: u64) -> What {
    Frame(Activity::Ping { next: Some(Duration::from_secs(seconds)) })
}

impl What {
    fn len(self) -> u64 {
        match self {
            Data(len) => len,
            Frame(_) => 6,
        }
    }
}

impl World {
    pub(crate) fn new(policy: HeartbeatPolicy) -> Self {
        Self::in_phase(policy, 1.0)
    }

    pub(crate) fn in_phase(policy: HeartbeatPolicy, phase: f64) -> Self {
        let origin = Instant::now();
        let mut world = Self {
            heart: Heartbeat::new(policy, origin, phase),
            policy,
            phase,
            origin,
            now: Duration::ZERO,
            lags: VecDeque::new(),
            lag: Duration::ZERO,
            reader: Reader::Prompt,
            paused: (Duration::ZERO, Duration::ZERO),
            suspended: Duration::ZERO,
            reading: Reading::Always,
            answers: VecDeque::new(),
            events: Vec::new(),
            unread: VecDeque::new(),
            arrived: 0,
            read: 0,
            is_step_due: false,
            seen: (0, Duration::ZERO),
            retransmission: None,
            blocked_since: None,
            has_queued_ping: false,
            is_holding: false,
            held_pings: 0,
            judged_is_queued: false,
            judged_is_held: false,
            ping_left: None,
            trace: Vec::new(),
            missed: 0,
            dead: None,
            last_arrival: Duration::ZERO,
            last_life: Duration::ZERO,
            last_taken: Duration::ZERO,
            last_seen_taken: Duration::ZERO,
            has_seen_wait: false,
            last_read: Duration::ZERO,
            resumed: Duration::ZERO,
            unanswered_since: None,
            answered: None,
            has_waited: false,
            began_to_wait: Duration::ZERO,
        };
        // A driver begins by a look.
        world.settle();
        world
    }

    /// Late by so much at each of its looks, after those that `lags` says.
    pub(crate) fn late(mut self, lags: impl IntoIterator<Item = Duration>, lag: Duration) -> Self {
        (self.lags, self.lag) = (lags.into_iter().collect(), lag);
        self
    }

    pub(crate) fn read_by(mut self, reader: Reader) -> Self {
        self.reader = reader;
        self
    }

    /// With a peer that answers the Pings that leave, each as late as this says.
    pub(crate) fn answering(mut self, answers: impl IntoIterator<Item = Duration>) -> Self {
        self.answers = answers.into_iter().collect();
        self
    }

    /// With all of this to come.
    pub(crate) fn with(mut self, events: impl IntoIterator<Item = (Duration, Event)>) -> Self {
        events.into_iter().for_each(|(at, event)| self.happens(at, event));
        self
    }

    /// At the instant at which the first Ping was written, one interval after the start.
    pub(crate) fn pinged(policy: HeartbeatPolicy) -> Self {
        let mut world = Self::new(policy);
        assert!(world.step(Duration::MAX));
        assert_eq!(world.trace, [(world.now, Ping)]);
        world
    }

    pub(crate) fn happens(&mut self, at: Duration, event: Event) {
        let place = self.events.partition_point(|(earlier, _)| *earlier <= at);
        self.events.insert(place, (at, event));
    }

    pub(crate) fn arrives(&mut self, at: Duration, what: What) {
        self.happens(at, Event::Arrives(what));
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.heart.deadline().map(|due| due - self.origin)
    }

    /// All that the driver knows now.
    pub(crate) fn evidence(&mut self) -> Evidence {
        self.sees();
        self.has_seen_wait = self.blocked_since.is_some();
        let instant = |at| self.origin + at;
        let mut evidence = Evidence::new(self.arrived, instant(self.seen.1));
        evidence.examined = self.read;
        evidence.reading = self.reading;
        evidence.ping_left = self.ping_left.map(instant);
        evidence.is_held_back = self.judged_is_held;
        evidence.blocked_since = self.blocked_since.map(instant);
        evidence.suspended = self.suspended;
        evidence
    }

    pub(crate) fn judge(&mut self) -> Action {
        let evidence = self.evidence();
        self.heart.judge(self.origin + self.now, &evidence)
    }

    /// The driver asks how much has arrived.
    fn sees(&mut self) {
        if self.arrived > self.seen.0 {
            self.seen = (self.arrived, self.now);
        }
    }

    pub(crate) fn set_policy(&mut self, policy: HeartbeatPolicy) {
        self.heart.set_policy(policy, self.origin + self.now, self.phase);
        (self.policy, self.missed, self.unanswered_since) = (policy, 0, None);
        self.settle();
    }

    /// Hands a Ping to the socket, or to the queue. An instant passes before the driver is back.
    pub(crate) fn ping(&mut self) {
        self.sees();
        self.unanswered_since.get_or_insert(self.now);
        let now = self.origin + self.now;
        if !self.heart.has_miss_timer() {
            // This is the one that the peer is judged by, as a driver has it.
            (self.judged_is_queued, self.judged_is_held) = (true, false);
        }
        if self.blocked_since.is_some() {
            self.has_queued_ping = true;
            self.heart.ping_queued(now, self.arrived);
        } else {
            self.ping_leaves_queue();
            self.heart.ping_written(now, self.arrived);
        }
    }

    fn ping_leaves_queue(&mut self) {
        self.ping_left = Some(self.now);
        let is_judged = std::mem::take(&mut self.judged_is_queued);
        if self.is_holding {
            self.held_pings += 1;
            self.judged_is_held |= is_judged;
        } else {
            self.ping_leaves();
        }
    }

    fn ping_leaves(&mut self) {
        if let Some(latency) = self.answers.pop_front() {
            self.arrives(self.now + latency, PONG);
        }
    }

    /// Carries out what is due. A miss, a Ping and a wait are the most that one instant may ask for.
    pub(crate) fn settle(&mut self) {
        for _ in 0..3 {
            let action = self.judge();
            match action {
                Wait(until) => {
                    assert_eq!(until, self.heart.deadline());
                    assert!(until.is_none_or(|due| due > self.origin + self.now), "a busy loop");
                    self.missed = self.heart.missed();
                    return;
                }
                Ping => self.ping(),
                Missed(n) | Dead(n) => {
                    let is_next = n == self.missed + 1 || n == 1;
                    assert!(is_next && self.heart.missed() == n, "{action:?} after {}", self.missed);
                    self.missed = n;
                }
                Stalled(limit) => {
                    let waits = self.blocked_since.is_some() || self.held_pings > 0;
                    assert!(waits, "nothing waits that could stall for {limit:?}");
                }
                other => panic!("unknown action {other:?}"),
            }
            self.trace.push((self.now, action));
            if matches!(action, Dead(_) | Stalled(_)) {
                self.dead = Some(self.now);
                return;
            }
        }
        panic!("judging does not settle: {:?}", self.trace);
    }

    /// The look that a deadline asks for.
    fn look(&mut self) {
        if self.reader == Reader::AtLooks {
            self.read_all();
        }
        self.settle();
    }

    /// Jumps to the next instant at which something happens, unless that is after `end`. What arrives at a deadline
    /// comes first.
    pub(crate) fn step(&mut self, end: Duration) -> bool {
        if self.dead.is_some() {
            return false;
        }
        let lag = self.lags.front().copied().unwrap_or(self.lag);
        let wake = self.deadline().map_or(Duration::MAX, |due| due.saturating_add(lag).max(self.paused.1));
        let next = self.events.first().map_or(wake, |(at, _)| wake.min(*at));
        self.now = next.clamp(self.now, end);
        if next > end {
            return false;
        }
        if self.events.first().is_none_or(|(at, _)| *at > next) {
            self.lags.pop_front();
            self.look();
        } else {
            let event = self.events.remove(0).1;
            self.happen(event);
        }
        true
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.step(end) {}
    }

    /// Runs until then, and gives the whole trace in whole seconds.
    pub(crate) fn play(&mut self, end: Duration) -> Vec<(u32, Action)> {
        self.run_until(end);
        assert!(self.trace.iter().all(|(at, _)| at.subsec_nanos() == 0), "{:?}", self.trace);
        self.trace.iter().map(|(at, action)| (at.as_secs() as u32, *action)).collect()
    }

    /// Runs on, and gives when the peer was found dead and how, and nothing of what was before.
    pub(crate) fn fate(&mut self, end: Duration) -> Option<(Duration, Action)> {
        self.run_until(end);
        self.trace.last().copied().filter(|_| self.dead.is_some())
    }

    /// Whether frames that arrived were not read yet.
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// From when on a silence counts for anything: what arrives is read again; or, while it is not, something waits to
    /// be taken.
    pub(crate) fn counts_from(&self) -> Duration {
        let waits = if self.reading == Reading::Stopped { self.began_to_wait } else { Duration::ZERO };
        self.resumed.max(waits)
    }

    /// When anything last arrived or was taken.
    pub(crate) fn last_sign(&self) -> Duration {
        self.last_arrival.max(self.last_taken)
    }
}

/// Whether the peer leads: only then do announcements make a difference.
pub(crate) fn is_led(policy: HeartbeatPolicy) -> bool {
    policy.announcements(MS, MS) != policy.announcements(S, S)
}

/// Longer than any peer here can live.
pub(crate) const FOREVER: Duration = Duration::from_secs(1000);
pub(crate) const S: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const NS: Duration = Duration::from_nanos(1);
