//! The heartbeat policy: who leads, how often, and how much silence is too much.

use std::time::Duration;

use crate::durations::{LONGEST, clamp_duration};

/// What shows that a peer is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Liveness {
    /// Any byte from the peer, even one of a message that has arrived only in part. The default.
    #[default]
    AnyByte,
    /// Only a Pong or, if the peer leads, a Pong or a Ping. This is stricter: it proves that the peer's WebSocket layer
    /// answers, not just that the peer sends.
    PongOnly,
}

/// The heartbeat policy of a connection: who leads, how often, and how many misses in a row make the peer dead.
///
/// | policy | we send | a miss |
/// | --- | --- | --- |
/// | [`new`](Self::new), the default: we lead | a Ping every `interval` | no life within `timeout` of a Ping |
/// | [`peer_led`](Self::peer_led): the peer leads | nothing | no life within a window of time |
/// | [`keepalive`](Self::keepalive) | a Ping every `interval` | none: no peer is found dead |
/// | [`off`](Self::off) | nothing | none: no peer is found dead |
///
/// ```
/// use heartwire::HeartbeatPolicy;
/// use std::time::Duration;
///
/// let policy = HeartbeatPolicy::default();
/// assert_eq!(policy.worst_case(), Some(Duration::from_secs(20 + 3 * 10)));
///
/// let fast = HeartbeatPolicy::new(Duration::from_secs(5), Duration::from_secs(2)).max_missed(2);
/// assert_eq!(fast.worst_case(), Some(Duration::from_secs(9)));
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

/// Who leads the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Leader {
    Nobody,
    /// We send a Ping every `interval`.
    Us {
        interval: Duration,
    },
    /// The peer sends something within `expect`, or within what it announced, clamped to these bounds.
    Peer {
        expect: Duration,
        announcements: Option<(Duration, Duration)>,
    },
}

/// A Ping every 20 s, a timeout of 10 s, dead after 3 misses in a row, any byte is life.
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
    /// A Ping every `interval`, and a miss if the peer shows no life within `timeout` of it. The rest as by
    /// default.
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        Self::default().interval(interval).timeout(timeout)
    }

    /// No heartbeat: no Pings are sent, and no peer is found dead.
    pub fn off() -> Self {
        Self { leader: Leader::Nobody, timeout: None, ..Self::default() }
    }

    /// Keepalive only: a Ping every `interval` keeps an idle line open through proxies, and no peer is found dead.
    pub fn keepalive(interval: Duration) -> Self {
        Self { timeout: None, ..Self::default() }.interval(interval)
    }

    /// The peer leads: we send no Pings, and a window of `expect` without life is a miss. Any life starts a new window.
    ///
    /// For peers that send on their own schedule, such as phones that know best when they may sleep.
    pub fn peer_led(expect: Duration) -> Self {
        Self::default().led_by_peer(expect)
    }

    /// The same policy with the peer in the lead, as by [`peer_led`](Self::peer_led).
    pub fn led_by_peer(mut self, expect: Duration) -> Self {
        self.leader = Leader::Peer { expect: clamp_duration(expect), announcements: None };
        self
    }

    /// Lets a peer that leads announce when its next Ping is due, by a Ping whose payload begins with
    /// `next=<milliseconds>`. By default announcements are ignored. No effect while we lead.
    ///
    /// The window is then the announced time, clamped to `shortest` and `longest`, plus the [`timeout`](Self::timeout)
    /// as a margin for the line. It holds until the peer's next Ping.
    pub fn announcements(mut self, shortest: Duration, longest: Duration) -> Self {
        if let Leader::Peer { announcements, .. } = &mut self.leader {
            let shortest = clamp_duration(shortest);
            *announcements = Some((shortest, clamp_duration(longest).max(shortest)));
        }
        self
    }

    /// Whether each of our Pings announces the next one, by a payload that begins with `next=<milliseconds>`. Default
    /// no. No effect while the peer leads.
    ///
    /// For a peer whose heartbeat is [`peer_led`](Self::peer_led).
    pub fn announcing(mut self, announces: bool) -> Self {
        self.announces = announces;
        self
    }

    /// The time between scheduled Pings. Default 20 s, because proxies cut idle lines after 30 to 120 s. Clamped to 1
    /// ms to 10 years.
    ///
    /// Also puts us in the lead.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.leader = Leader::Us { interval: clamp_duration(interval) };
        self
    }

    /// How long after a Ping the peer may show no life before that is a miss. Default 10 s, well above the round trip
    /// of a bad mobile line. It may be shorter or longer than the interval. Clamped to 1 ms to 10 years.
    ///
    /// If the peer leads: how much later than announced its Ping may arrive. In both cases a peer is dead too if data
    /// waits for it, and it takes none of it and sends nothing, for `max_missed` times this.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(clamp_duration(timeout));
        self
    }

    /// After how many misses in a row the peer is dead. Default 3; 0 counts as 1.
    pub fn max_missed(mut self, max_missed: u32) -> Self {
        self.max_missed = max_missed.max(1);
        self
    }

    /// What counts as life. Default [`Liveness::AnyByte`].
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// The longest time from a peer's last sign of life until it is found dead: `interval + max_missed x timeout` if we
    /// lead, `max_missed` times the longest possible window if the peer leads. `None` if the policy finds no peer dead.
    ///
    /// The system's timers add some milliseconds for each miss. While data waits for a peer that is slow to take it,
    /// the heartbeat judges the peer by what it takes and not by silence; a peer that falls behind just before it would
    /// be found dead may get one more timeout.
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

    /// How long data may wait for a peer that takes none of it and sends nothing: `max_missed x timeout`.
    pub(super) fn stall_limit(&self) -> Option<Duration> {
        if self.leader == Leader::Nobody {
            return None;
        }
        Some(self.timeout?.saturating_mul(self.max_missed).min(LONGEST))
    }

    /// How long a peer may show no life before it is dead, if nothing is lost on the way.
    pub(crate) fn longest_silence(&self) -> Option<Duration> {
        self.worst_case().map(|worst| worst.min(LONGEST))
    }

    /// How often a frame should pass over the line. A handler that is away for longer is reported.
    pub(crate) fn period(&self) -> Option<Duration> {
        match self.leader {
            Leader::Nobody => None,
            Leader::Us { interval } => Some(interval),
            Leader::Peer { expect, .. } => Some(expect),
        }
    }

    /// How often `judge` has to be called while life is awaited. Often enough to notice every delay of ours that could
    /// cost the peer its time, but not so often that the calls cost much.
    pub(super) fn check_interval(&self) -> Duration {
        (self.timeout.unwrap_or(LONGEST) / 4).max(Duration::from_millis(5))
    }

    /// The policy of a connection as its client is told, if that sends its heartbeat as text. Durations in
    /// milliseconds.
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
    #[cfg(any(feature = "redis", feature = "status"))]
    pub(crate) fn pong_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// What each of our Pings announces.
    pub(crate) fn announcement(&self) -> Option<Duration> {
        self.ping_interval().filter(|_| self.announces)
    }

    /// The window of silence that a peer has after its Ping, which may have announced the next one.
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

    /// How late a call of `judge` may come before we count as held up: a quarter of the peer's time, but at most one
    /// second, and no less than the system's timers are late anyway.
    pub(super) fn tolerated_delay(&self) -> Duration {
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
