//! The options of the heartbeat: those of either end, what the server and the client have beside them, and the policy
//! that they come to.

use std::time::Duration;

use clap::{ArgMatches, Args, ValueEnum};
use heartwire::{HeartbeatPolicy, Liveness};

use super::usage_error::{UsageError, refuse};
use super::values::{Optional, parse_duration, parse_misses, parse_optional, parse_range};

/// A server's heartbeat.
#[derive(Debug, Args)]
#[command(next_help_heading = "Heartbeat")]
pub(super) struct ServerHeartbeat {
    /// Who leads the heartbeat: the server by Pings, each peer by itself, or nobody
    #[arg(long, value_enum, default_value = "server")]
    heartbeat: Leader,

    #[command(flatten)]
    beat: HeartbeatOptions,

    /// With --heartbeat peer: how long a peer may be silent before that counts as a miss
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    expect: Duration,

    /// With --heartbeat peer: shortest and longest time to its next sign that a peer may announce by "next="
    #[arg(long, value_name = "SHORTEST..LONGEST", value_parser = parse_range)]
    announcements: Option<(Duration, Duration)>,

    /// Take the texts "ping" and "ping next=MILLISECONDS" from any client as heartbeats, and answer "pong"
    #[arg(long)]
    pub(super) text_heartbeat: bool,
}

/// A client's heartbeat.
#[derive(Debug, Args)]
#[command(next_help_heading = "Heartbeat")]
pub(super) struct ClientHeartbeat {
    #[command(flatten)]
    beat: HeartbeatOptions,

    /// Announce in each Ping when the next one is due, for a server with --heartbeat peer
    #[arg(long)]
    announce: bool,
}

/// The Pings that an end sends, and what follows if they are not answered: at either end.
#[derive(Debug, Args)]
#[command(next_help_heading = "Heartbeat")]
struct HeartbeatOptions {
    /// Time between Pings, or "off" for no heartbeat
    #[arg(long, value_name = "DURATION|off", default_value = "20s", value_parser = parse_optional)]
    ping_interval: Optional,

    /// How long to wait for a sign of life after a Ping, or "off" to send Pings and never find a peer dead
    #[arg(long, value_name = "DURATION|off", default_value = "10s", value_parser = parse_optional)]
    pong_timeout: Optional,

    /// Number of misses in a row that make a peer dead
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_misses)]
    max_missed: u32,

    /// What counts as a sign of life
    #[arg(long, value_enum, default_value = "any-byte")]
    liveness: LivenessOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Leader {
    Server,
    Peer,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LivenessOption {
    AnyByte,
    PongOnly,
}

impl ServerHeartbeat {
    /// Refuses options that would have no effect.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        const OF_PEERS: [&str; 2] = ["expect", "announcements"];
        const OF_OURS: [&str; 4] = ["ping_interval", "pong_timeout", "max_missed", "liveness"];
        match self.heartbeat {
            Leader::Server => {
                refuse(given, &OF_PEERS, "without --heartbeat peer; add that, or leave it out")?;
                self.beat.check(given)
            }
            Leader::Peer => {
                let because =
                    "with --heartbeat peer, because the server then sends no Pings; use --expect, or leave it out";
                refuse(given, &["ping_interval"], because)
            }
            Leader::Off => {
                let because = "with --heartbeat off; leave one of them out";
                refuse(given, &[&OF_OURS[..], &OF_PEERS].concat(), because)
            }
        }
    }

    pub(super) fn policy(&self) -> HeartbeatPolicy {
        let beat = self.beat.policy();
        match self.heartbeat {
            Leader::Server => beat,
            Leader::Off => HeartbeatPolicy::off(),
            Leader::Peer => {
                let policy = beat.led_by_peer(self.expect);
                match self.announcements {
                    Some((shortest, longest)) => policy.announcements(shortest, longest),
                    None => policy,
                }
            }
        }
    }

    /// What the heartbeat chosen means, in words.
    pub(super) fn in_words(&self) -> String {
        let spell = humantime::format_duration;
        let Some(worst) = self.policy().worst_case() else {
            return match (self.heartbeat, self.beat.ping_interval.0) {
                (Leader::Server, Some(interval)) => {
                    format!("Ping every {}, dead peers are not found", spell(interval))
                }
                _ => "no heartbeat, dead peers are not found".to_owned(),
            };
        };
        let beat = match (self.heartbeat, self.beat.ping_interval.0, self.beat.pong_timeout.0) {
            (Leader::Server, Some(interval), Some(timeout)) => {
                format!("Ping every {}, dead after {} of {}", spell(interval), self.beat.misses(), spell(timeout))
            }
            _ => format!("peers lead, dead after {} of {}", self.beat.misses(), spell(self.expect)),
        };
        format!("{beat}: a dead peer is found within {}", spell(worst))
    }
}

impl ClientHeartbeat {
    /// Refuses options that would have no effect.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        if self.beat.ping_interval.0.is_none() {
            refuse(given, &["announce"], WITHOUT_PINGS)?;
        }
        self.beat.check(given)
    }

    pub(super) fn policy(&self) -> HeartbeatPolicy {
        self.beat.policy().announcing(self.announce)
    }

    pub(super) fn ping_interval(&self) -> Option<Duration> {
        self.beat.ping_interval.0
    }
}

const WITHOUT_PINGS: &str = "with --ping-interval off, which turns the heartbeat off; leave one of them out";

impl HeartbeatOptions {
    /// Refuses options that would have no effect.
    fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        match (self.ping_interval.0, self.pong_timeout.0) {
            (None, _) => refuse(given, &["pong_timeout", "max_missed", "liveness"], WITHOUT_PINGS),
            (_, None) => {
                let because = "with --pong-timeout off, which never finds a peer dead; leave one of them out";
                refuse(given, &["max_missed", "liveness"], because)
            }
            _ => Ok(()),
        }
    }

    fn policy(&self) -> HeartbeatPolicy {
        let liveness = match self.liveness {
            LivenessOption::AnyByte => Liveness::AnyByte,
            LivenessOption::PongOnly => Liveness::PongOnly,
        };
        let policy = match (self.ping_interval.0, self.pong_timeout.0) {
            (None, _) => HeartbeatPolicy::off(),
            (Some(interval), None) => HeartbeatPolicy::keepalive(interval),
            (Some(interval), Some(timeout)) => HeartbeatPolicy::new(interval, timeout),
        };
        policy.max_missed(self.max_missed).liveness(liveness)
    }

    fn misses(&self) -> String {
        if self.max_missed == 1 { "1 miss".to_owned() } else { format!("{} misses", self.max_missed) }
    }
}
