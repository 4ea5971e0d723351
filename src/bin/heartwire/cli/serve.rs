//! The options of `heartwire serve`.

use std::time::Duration;

use clap::{ArgMatches, Args, ValueEnum};
use heartwire::{HeartbeatPolicy, IpNet, Origin};

use super::LogOptions;
use super::heartbeat::ServerHeartbeat;
use super::mistake::Mistake;
use super::values::{
    Optional, parse_address, parse_connections, parse_duration, parse_network, parse_optional, parse_read_buffer,
    parse_size, parse_size_or_zero,
};

/// What stands below the options: how values are written, what signals do, examples and exit codes.
pub(super) const AFTER_HELP: &str = "\
Values:
  DURATION has a unit: 500ms, 20s, 1m30s. BYTES may have one: 65536, 64KiB, 1.5MiB, 1GiB.

Signals:
  SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) close all connections
  with 1001 and end the server within --close-timeout. A second one ends it at once.
  nohup does not keep SIGHUP away; setsid does.

Examples:
  heartwire
      Send every message back, on 127.0.0.1:9001; the status page is at http://127.0.0.1:9001/
  heartwire 0.0.0.0:9001 --mode broadcast --status
      Send every message to all others, for the whole network, which may see the status page
  heartwire 9001 --ping-interval 5s --pong-timeout 2s --max-missed 2
      Find a dead peer within 9 s
  heartwire 9001 --heartbeat peer --expect 30s
      Send no Pings: peers have to show life every 30 s
  heartwire connect ws://127.0.0.1:9001/
      Be a client, and type messages

Exit codes:
  0    an orderly end
  1    it could not start, or was ended by an error
  2    a mistake on the command line
  130  a second signal";

/// Options of the server.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ServeOptions {
    /// Address to listen on, as HOST:PORT or the PORT of the loopback address; port 0 takes any free one
    #[arg(default_value = "127.0.0.1:9001", value_parser = parse_address)]
    pub(crate) address: String,

    /// What to do with messages: send each back, or to every other client
    #[arg(long, value_enum, default_value = "echo")]
    pub(crate) mode: Mode,

    #[command(flatten)]
    heartbeat: ServerHeartbeat,

    #[command(flatten)]
    pub(crate) limits: Limits,

    #[command(flatten)]
    pub(crate) access: Access,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Echo,
    Broadcast,
}

/// How much of everything.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Most connections at a time; more are answered 503
    #[arg(long, value_name = "N", default_value = "10000", value_parser = parse_connections)]
    pub(crate) max_connections: usize,

    /// Most connections at a time from one client's address, or IPv6 network of 64 bits; more are answered 429
    #[arg(long, value_name = "N", value_parser = parse_connections)]
    pub(crate) max_connections_per_address: Option<usize>,

    /// Largest message taken, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) max_message_size: usize,

    /// Bytes of memory that what waits for a slow peer may take
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) queue_size: usize,

    /// How long a peer that lives may take nothing of what waits for it, or "off" for as long as it lives
    #[arg(long, value_name = "DURATION|off", default_value = "off", value_parser = parse_optional)]
    full_queue_timeout: Optional,

    /// Read buffer of each connection while little comes in, in bytes; it grows by itself, and an idle one has none
    #[arg(long, value_name = "BYTES", default_value = "4KiB", value_parser = parse_read_buffer)]
    pub(crate) read_buffer_size: usize,

    /// Bytes that are read ahead while the handler is busy; then the peer has to wait
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = parse_size_or_zero)]
    pub(crate) read_ahead: usize,

    /// Bytes of memory that both may take for all connections together: what waits for slow peers, and what is read ahead
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_size_or_zero)]
    pub(crate) max_buffered: usize,

    /// How long an opening handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) handshake_timeout: Duration,

    /// How long a closing handshake, or the shutdown, may take in all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) close_timeout: Duration,
}

/// Who may come in, and see what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct Access {
    /// Let browsers in only from pages of this origin, such as https://example.org; repeatable
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<Origin>,

    /// Take the word of reverse proxies at this address, or in this network, on who their clients are; repeatable
    #[arg(long, value_name = "ADDR|CIDR", value_parser = parse_network)]
    pub(crate) trust_proxy: Vec<IpNet>,

    /// Show the status page at / and the metrics at /metrics even if the address is not loopback: they name peers
    #[arg(long, conflicts_with = "no_status")]
    status: bool,

    /// No status page and no metrics
    #[arg(long)]
    no_status: bool,
}

impl ServeOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), Mistake> {
        self.heartbeat.check(given)
    }

    pub(crate) fn heartbeat(&self) -> HeartbeatPolicy {
        self.heartbeat.policy()
    }

    /// What the heartbeat chosen means, in words.
    pub(crate) fn heartbeat_in_words(&self) -> String {
        self.heartbeat.in_words()
    }

    pub(crate) fn text_heartbeat(&self) -> bool {
        self.heartbeat.text_heartbeat
    }
}

impl Limits {
    pub(crate) fn full_queue_timeout(&self) -> Option<Duration> {
        self.full_queue_timeout.0
    }
}

impl Access {
    /// Whether the status page and the metrics are to be had on an address that is loopback, or is not.
    pub(crate) fn shows_status(&self, is_loopback: bool) -> bool {
        self.status || is_loopback && !self.no_status
    }
}
