//! The options of `heartwire serve`.

use std::time::Duration;

use clap::{ArgMatches, Args, ValueEnum};
use heartwire::{HeartbeatPolicy, IpNet, Origin};

#[cfg(feature = "auth-url")]
use super::auth::AuthOptions;
#[cfg(feature = "deflate")]
use super::compression::Compression;
use super::heartbeat::ServerHeartbeat;
use super::settings::Settings;
#[cfg(feature = "topics")]
use super::topics::TopicOptions;
use super::usage_error::UsageError;
use super::values::{Optional, parse_address, parse_connections, parse_drain, parse_mode, parse_network};
use super::{LogOptions, tls};

/// What stands below the options: how values are written, what signals do, examples and exit codes.
const AFTER_HELP: &str = "\
Values:
  DURATION takes a unit: 500ms, 20s, 1m30s. BYTES may take one: 65536, 64KiB, 1.5MiB, 1GiB.

Environment:
  Each option and argument can come from the variable beside it, such as
  HEARTWIRE_PING_INTERVAL=5s. What the command line says wins, and an empty
  variable counts as not set. Flags take true or false.
  Lists, as of addresses, --allow-origin and --tls-cert, are separated by commas.

Signals:
  SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) close all connections
  with 1001 and end the server within --close-timeout. A second signal ends it at once.
  With --drain the first signal sends clients away one after another, with 1012, and the
  second closes the rest with 1001; meanwhile new clients and /healthz get 503.
  nohup does not keep SIGHUP away; setsid does. With --tls-cert, and as a service, SIGHUP
  reads the certificates anew instead.

Certificates:
  They are read anew, without a restart, when their files change. Until the new ones can
  be used the old ones are served, and the log says so.

systemd:
  As a service of Type=notify it says when it listens, how many are connected and when
  it stops, and asks for the time that --drain takes. With WatchdogSec= it says so often
  that all of its parts make progress. The sockets of a .socket unit take the place of
  ADDRESS. Time stamps are left to the journal.

Examples:
  heartwire
      Send every message back, on 127.0.0.1:9001; the status page is at http://127.0.0.1:9001/
  heartwire 0.0.0.0:9001 --mode broadcast --status
      Send every message to all other clients, and show the whole network the status page
  heartwire 9001 --mode topics
      Publish with curl -d hello http://127.0.0.1:9001/topics/news, and subscribe at
      ws://127.0.0.1:9001/topics/news
  heartwire 9001 --mode topics --auth-url http://127.0.0.1:8000/auth
      Let an HTTP service of your own say who may subscribe and publish
  heartwire 9001 --ping-interval 5s --pong-timeout 2s --max-missed 2
      Find a dead peer within 9 s
  heartwire 9001 --heartbeat peer --expect 30s
      Send no Pings: every peer has to show life within 30 s
  heartwire 0.0.0.0:9001 --tls-cert chain.pem --tls-key key.pem
      Serve wss://
  heartwire connect ws://127.0.0.1:9001/
      Run a client to type messages into

Exit codes:
  0    an orderly end
  1    the server could not start, or an error ended it
  2    a mistake on the command line
  130  a second signal";

/// Options of the server.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ServeOptions {
    /// Addresses to listen on: HOST:PORT, or PORT on the loopback address, or unix:PATH; port 0 takes any free one
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:9001", value_parser = parse_address)]
    pub(crate) address: Vec<String>,

    /// What to do with messages: send each back, or to every other client (any client, and any page, may then
    /// broadcast, unless --auth-url or --allow-origin keeps it out), or serve topics
    #[arg(long, value_enum, default_value = "echo")]
    pub(crate) mode: Mode,

    /// Compress messages for clients that offer it: each by itself, or with its context at 430 KB for each connection
    #[cfg(feature = "deflate")]
    #[arg(long, value_enum, default_value = "off")]
    pub(crate) deflate: Compression,

    #[command(flatten)]
    heartbeat: ServerHeartbeat,

    #[command(flatten)]
    pub(crate) capacity: Capacity,

    #[command(flatten)]
    pub(crate) settings: Settings,

    #[command(flatten)]
    pub(crate) access: Access,

    #[command(flatten)]
    pub(crate) tls: tls::ServerOptions,

    #[cfg(feature = "topics")]
    #[command(flatten)]
    pub(crate) topics: TopicOptions,

    #[cfg(feature = "auth-url")]
    #[command(flatten)]
    pub(crate) auth: AuthOptions,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Echo,
    Broadcast,
    #[cfg(feature = "topics")]
    Topics,
}

/// How many may come in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Capacity {
    /// Most connections at a time, or as many as the control group leaves room for; further clients get 503
    #[arg(long, value_name = "N", default_value = "10000", value_parser = parse_connections)]
    pub(crate) max_connections: usize,

    /// Most connections at a time from one address, or one IPv6 /64 network; further clients get 429
    #[arg(long, value_name = "N", value_parser = parse_connections)]
    pub(crate) max_connections_per_address: Option<usize>,

    /// How long to send clients away one after another, on a signal, before the shutdown; 1h at most, or "off"
    #[arg(long, value_name = "DURATION|off", default_value = "off", value_parser = parse_drain)]
    drain: Optional,
}

impl Capacity {
    pub(crate) fn drain(&self) -> Option<Duration> {
        self.drain.0
    }
}

/// Who may come in, and see what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct Access {
    /// Let browsers in only from pages of this origin, such as https://example.org; repeatable
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<Origin>,

    /// Permissions of the Unix sockets that are made, such as 660; otherwise the umask decides
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub(crate) unix_mode: Option<u32>,

    /// Trust reverse proxies at this address, in this network, or at "unix" sockets, to name their clients; repeatable
    #[arg(long, value_name = "ADDR|CIDR", value_parser = parse_network)]
    pub(crate) trust_proxy: Vec<IpNet>,

    /// Show the status page at /, which names peers, and the metrics at /metrics, even if the address is not loopback
    #[arg(long, conflicts_with = "no_status")]
    status: bool,

    /// Show neither the status page nor the metrics
    #[arg(long, conflicts_with = "status")]
    no_status: bool,
}

impl ServeOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        self.tls.check(given)?;
        #[cfg(feature = "topics")]
        if self.mode != Mode::Topics {
            TopicOptions::check(given)?;
        }
        #[cfg(feature = "auth-url")]
        self.auth.check(given)?;
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

impl Access {
    /// Whether the status page and the metrics are to be had on an address that is loopback, or is not.
    pub(crate) fn shows_status(&self, is_loopback: bool) -> bool {
        self.status || is_loopback && !self.no_status
    }
}
