//! The options of `heartwire connect`.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::HeartbeatPolicy;

use super::LogOptions;
use super::heartbeat::ClientHeartbeat;
use super::mistake::Mistake;
use super::values::{parse_duration, parse_header, parse_size, parse_subprotocol};

/// Options of the client.
#[derive(Debug, Args)]
pub(crate) struct ConnectOptions {
    /// The server, as ws://HOST[:PORT][/PATH]
    pub(crate) url: String,

    #[command(flatten)]
    heartbeat: ClientHeartbeat,

    /// Add a header to the opening handshake; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,

    /// Offer a subprotocol; repeatable, the first is preferred
    #[arg(long, value_name = "NAME", value_parser = parse_subprotocol)]
    pub(crate) subprotocol: Vec<String>,

    /// End when the connection is lost, or cannot be made
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    /// How long connecting may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// How long the opening handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) handshake_timeout: Duration,

    /// How long the closing handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) close_timeout: Duration,

    /// Largest message taken, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) max_message_size: usize,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

impl ConnectOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), Mistake> {
        self.heartbeat.check(given)
    }

    pub(crate) fn heartbeat(&self) -> HeartbeatPolicy {
        self.heartbeat.policy()
    }

    /// How often something is to be seen of the heartbeat.
    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        self.heartbeat.ping_interval()
    }
}
