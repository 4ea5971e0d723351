//! What is to be kept: who beats, how often, and how much silence is too much.

use std::time::Duration;

use crate::durations::LONGEST;
use crate::durations::within_reason;

/// What shows that a peer is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Liveness {
    /// Any byte from the peer, also one of a message that is only half received. The default: whoever sends, lives.
    #[default]
    AnyByte,
    /// Only a Pong frame, or, where the peer leads the beat, only its own Ping or a Pong. Stricter: it also proves that
    /// the peer's heartbeat works, not just that it talks.
    PongOnly,
}

/// How a connection's heartbeat beats.
///
/// Either we lead ([`new`](Self::new), the default): we send Pings, and the peer has to show life after each. Or the
/// peer leads ([`peer_led`](Self::peer_led)): we only listen, and something has to come in every window of time. Or we
/// only keep the line open ([`keepalive`](Self::keepalive)), or there is no heartbeat ([`off`](Self::off)).
///
/// ```
/// use heartwire::HeartbeatPolicy;
/// use std::time::Duration;
///
/// let policy = HeartbeatPolicy::default();
/// assert_eq!(policy.worst_case(), Some(Duration::from_secs(20 + 3 * 10)));
///
/// let brisk = HeartbeatPolicy::new(Duration::from_secs(5), Duration::from_secs(2)).max_missed(2);
/// assert_eq!(brisk.worst_case(), Some(Duration::from_secs(9)));
///
/// let device = HeartbeatPolicy::peer_led(Duration::from_secs(60)).max_missed(2);
/// assert_eq!(device.worst_case(), Some(Duration::from_secs(120)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a policy does nothing until a server, a client or a connection has it"]
pub struct HeartbeatPolicy {
    pub(super) leader: Leader,
    pub(super) timeout: Option<Duration>,
    pub(super) max_missed: u32,
    pub(super) liveness: Liveness,
    announces: bool,
}

/// Who beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Leader {
    Nobody,
    /// We send a Ping every `interval`.
    Us {
        interval: Duration,
    },
    /// The peer sends something within `expect`, or within what it announced, if that is within these bounds.
    Peer {
        expect: Duration,
        announcements: Option<(Duration, Duration)>,
    },
}

/// Ping every 20 s, wait 10 s for life, dead after 3 misses, any byte is life.
impl Default for HeartbeatPolicy {
    fn default() -> Self {
        Self {
            leader: Leader::Us { interval: Duration::from_secs(20) },
            timeout: Some(Duration::from_secs(10)),
            max_missed: 3,
            liveness: Liveness::AnyByte,
            announces: false,
        }
    }
}

impl HeartbeatPolicy {
    /// A Ping every `interval`, and a miss when nothing comes within `timeout` of it; the rest as by default.
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        Self::default().interval(interval).timeout(timeout)
    }

    /// No heartbeat at all: nothing is sent and nobody is ever found dead by silence.
    pub fn off() -> Self {
        Self { leader: Leader::Nobody, timeout: None, ..Self::default() }
    }

    /// Keepalive only: a Ping every `interval` keeps an idle line open through proxies, but silence never kills.
    pub fn keepalive(interval: Duration) -> Self {
        Self { timeout: None, ..Self::default() }.interval(interval)
    }

    /// The peer leads: we send no Pings, and a window of `expect` without a sign of life is a miss. Any life starts the
    /// window anew. For peers that beat by themselves, such as phones that know best when they may sleep.
    pub fn peer_led(expect: Duration) -> Self {
        Self::default().led_by_peer(expect)
    }

    /// The same policy with the peer in the lead: see [`peer_led`](Self::peer_led).
    pub fn led_by_peer(mut self, expect: Duration) -> Self {
        self.leader = Leader::Peer { expect: within_reason(expect), announcements: None };
        self
    }

    /// Where the peer leads: it may announce when its next sign is due, by a Ping whose payload begins with
    /// `next=<milliseconds>`. The window is then that long, kept between `shortest` and `longest`, plus the
    /// [`timeout`](Self::timeout) for the line to be slow in. It holds until the peer's next Ping. By default
    /// announcements are ignored. Without effect where we lead.
    pub fn announcements(mut self, shortest: Duration, longest: Duration) -> Self {
        if let Leader::Peer { announcements, .. } = &mut self.leader {
            let shortest = within_reason(shortest);
            *announcements = Some((shortest, within_reason(longest).max(shortest)));
        }
        self
    }

    /// Where we lead: whether each of our Pings announces the next one, by a payload that begins with
    /// `next=<milliseconds>`, for a peer whose heartbeat is [`peer_led`](Self::peer_led). Default no.
    pub fn announcing(mut self, announces: bool) -> Self {
        self.announces = announces;
        self
    }

    /// Time between scheduled Pings. Default 20 s, since proxies cut idle lines after 30 to 120 s. We lead from then on.
    ///
    /// Kept between 1 ms and 10 years.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.leader = Leader::Us { interval: within_reason(interval) };
        self
    }

    /// How long after a Ping was written some life must show before that is a miss. Default 10 s, well above the round
    /// trip of a bad mobile line. May be shorter or longer than the interval. Kept between 1 ms and 10 years.
    ///
    /// Where the peer leads, how much later than announced its sign may come. In both cases, `max_missed` times this is
    /// how long a peer may take none of the data that waits for it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(within_reason(timeout));
        self
    }

    /// How many misses in a row make the peer dead. Default 3; 0 is taken as 1.
    pub fn max_missed(mut self, max_missed: u32) -> Self {
        self.max_missed = max_missed.max(1);
        self
    }

    /// What counts as life. Default [`Liveness::AnyByte`].
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// The longest time from a peer's last sign of life until it is found dead. Where we lead,
    /// `interval + max_missed x timeout`. Where the peer does, `max_missed` times the longest window that it may have.
    /// `None` when the policy never finds anyone dead.
    ///
    /// Timers of systems add some milliseconds for each miss. While data waits for a peer that is slow to take it, its
    /// silence is not judged but its taking nothing is; a peer that gets behind just before it would have been found may
    /// have one timeout more.
    pub fn worst_case(&self) -> Option<Duration> {
        match self.leader {
            Leader::Nobody => None,
            Leader::Us { interval } => Some(interval.saturating_add(self.timeout?.saturating_mul(self.max_missed))),
            Leader::Peer { expect, announcements } => {
                let announced = announcements.map_or(Duration::ZERO, |(_, longest)| self.announced_window(longest));
                Some(expect.max(announced).saturating_mul(self.max_missed))
            }
        }
    }

    /// How long data may wait for a peer that takes none of it and from which nothing arrives: `max_missed x timeout`.
    pub(super) fn stall_limit(&self) -> Option<Duration> {
        if self.leader == Leader::Nobody {
            return None;
        }
        Some(self.timeout?.saturating_mul(self.max_missed).min(LONGEST))
    }

    /// How long a peer may show no life before it is dead, if nothing is lost on the way.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.worst_case().map(|worst| worst.min(LONGEST))
    }

    /// How often something should pass over the line: a handler that is away for longer is worth a word.
    pub(crate) fn pace(&self) -> Option<Duration> {
        match self.leader {
            Leader::Nobody => None,
            Leader::Us { interval } => Some(interval),
            Leader::Peer { expect, .. } => Some(expect),
        }
    }

    /// How often to look whether we were held up, while some life is awaited: often enough for every pause that could
    /// cost the peer its time to be noticed, and not so often that looking is work.
    pub(super) fn tick(&self) -> Duration {
        (self.timeout.unwrap_or(LONGEST) / 4).max(Duration::from_millis(5))
    }

    /// What a client that beats in text is told of the heartbeat of its connection. Durations in milliseconds.
    pub(crate) fn to_json(self, connection: u64) -> String {
        let ms = |duration: Duration| duration.as_millis();
        let leader = match self.leader {
            Leader::Nobody => return format!(r#"{{"connection":{connection},"leader":"off"}}"#),
            Leader::Us { interval } => format!(r#""leader":"server","interval":{}"#, ms(interval)),
            Leader::Peer { expect, .. } => format!(r#""leader":"peer","expect":{}"#, ms(expect)),
        };
        let timeout = self.timeout.map_or_else(String::new, |timeout| format!(r#","timeout":{}"#, ms(timeout)));
        format!(r#"{{"connection":{connection},{leader}{timeout},"max_missed":{}}}"#, self.max_missed)
    }

    pub(crate) fn misses_allowed(&self) -> u32 {
        self.max_missed
    }

    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        match self.leader {
            Leader::Us { interval } => Some(interval),
            Leader::Nobody | Leader::Peer { .. } => None,
        }
    }

    /// How long some life may take after a Ping, or after what was announced.
    #[cfg(feature = "status")]
    pub(crate) fn pong_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// What our Pings announce.
    pub(crate) fn announcement(&self) -> Option<Duration> {
        self.ping_interval().filter(|_| self.announces)
    }

    /// The window of silence that a peer has after its Ping, which may have announced the next.
    pub(super) fn window(&self, next: Option<Duration>) -> Option<Duration> {
        let Leader::Peer { expect, announcements } = self.leader else { return None };
        Some(match (next, announcements) {
            (Some(next), Some((shortest, longest))) => self.announced_window(next.clamp(shortest, longest)),
            _ => expect,
        })
    }

    fn announced_window(&self, next: Duration) -> Duration {
        next.saturating_add(self.timeout.unwrap_or_default())
    }

    /// How late a look may come before we count as held up: a quarter of the time that the peer has, but one second at
    /// most, and no less than timers of operating systems are late anyway.
    pub(super) fn tolerance(&self) -> Duration {
        let time = self.window(None).or(self.timeout).unwrap_or_default();
        (time / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_who_beats_and_how() {
        let second = Duration::from_secs(1);
        let told = [
            (
                HeartbeatPolicy::default(),
                r#"{"connection":7,"leader":"server","interval":20000,"timeout":10000,"max_missed":3}"#,
            ),
            (
                HeartbeatPolicy::keepalive(second),
                r#"{"connection":7,"leader":"server","interval":1000,"max_missed":3}"#,
            ),
            (
                HeartbeatPolicy::peer_led(30 * second),
                r#"{"connection":7,"leader":"peer","expect":30000,"timeout":10000,"max_missed":3}"#,
            ),
            (HeartbeatPolicy::off(), r#"{"connection":7,"leader":"off"}"#),
        ];
        for (policy, expected) in told {
            assert_eq!(policy.to_json(7), expected);
        }
    }
}
