//! The options of `heartwire connect`.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::HeartbeatPolicy;

use super::LogOptions;
use super::heartbeat::ClientHeartbeat;
use super::mistake::Mistake;
use super::values::{parse_duration, parse_header, parse_size, parse_subprotocol};

/// What stands below the options: how values are written, what signals do, examples and exit codes.
const AFTER_HELP: &str = "\
Values:
  DURATION has a unit: 500ms, 20s, 1m30s. BYTES may have one: 65536, 64KiB, 1.5MiB, 1GiB.

Signals:
  SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) close the connection with
  1000 and end the client within --close-timeout. A second one ends it at once.

Examples:
  heartwire connect ws://127.0.0.1:9001/
      Type lines to send, and see what comes
  echo hello | heartwire connect ws://127.0.0.1:9001/
      Send one message, print the replies that come before the end, and end
  heartwire connect ws://127.0.0.1:9001/ --header \"Authorization: Bearer TOKEN\"
      Say who asks

Exit codes:
  0    an orderly end, and everything was sent
  1    it could not start, was ended by an error, or could not send everything
  2    a mistake on the command line
  130  a second signal";

/// Options of the client.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ConnectOptions {
    /// The server, as ws://HOST[:PORT][/PATH]
    pub(crate) url: String,

    /// Add a header to the opening handshake; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,

    /// Offer a subprotocol; repeatable, the first is preferred
    #[arg(long, value_name = "NAME", value_parser = parse_subprotocol)]
    pub(crate) subprotocol: Vec<String>,

    /// End when the connection is lost, or cannot be made
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    #[command(flatten)]
    heartbeat: ClientHeartbeat,

    #[command(flatten)]
    pub(crate) limits: ClientLimits,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// How long everything may take, and how large it may be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct ClientLimits {
    /// How long connecting may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// How long the opening handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) handshake_timeout: Duration,

    /// How long the closing handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) close_timeout: Duration,

    /// How long to go on after the end of the input while lines are unsent and none gets out
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) exit_timeout: Duration,

    /// Largest message taken, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) max_message_size: usize,
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
