//! The options of `heartwire connect`.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::HeartbeatPolicy;

#[cfg(feature = "deflate")]
use super::compression::Compression;
use super::heartbeat::ClientHeartbeat;
use super::opening::Opening;
use super::proxy::ProxyOptions;
use super::settings::Settings;
use super::usage_error::UsageError;
use super::values::parse_duration;
use super::{LogOptions, tls};

/// What stands below the options: how values are written, what signals do, examples and exit codes.
const AFTER_HELP: &str = "\
Values:
  DURATION takes a unit: 500ms, 20s, 1m30s. BYTES may take one: 65536, 64KiB, 1.5MiB, 1GiB.

Environment:
  Each option and argument can come from the variable beside it, such as
  HEARTWIRE_PING_INTERVAL=5s. What the command line says wins, and an empty
  variable counts as not set. Flags take true or false.
  Subprotocols are separated by commas, headers by line ends.
  Without --proxy, the proxy is that of curl's variables: for wss:// the first of
  wss_proxy, https_proxy and all_proxy, for ws:// the first of ws_proxy, http_proxy
  and all_proxy, in lower or upper case (but not HTTP_PROXY). NO_PROXY names hosts
  that are connected to directly.

Signals:
  SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) close the connection with
  1000 and end the client within --close-timeout. A second signal ends it at once.

Examples:
  heartwire connect ws://127.0.0.1:9001/
      Type lines to send, and read what comes back
  echo hello | heartwire connect ws://127.0.0.1:9001/
      Send one message, print the replies that arrive before the connection closes, and end
  heartwire connect ws://127.0.0.1:9001/ --header \"Authorization: Bearer TOKEN\"
      Log in with a header
  heartwire connect wss://localhost:9001/ --cacert ca.pem --cert device.pem --key device-key.pem
      Trust an own CA, and show the server a certificate
  heartwire connect wss://example.org/ --proxy http://USER:PASSWORD@proxy.example:3128
      Connect through a proxy

Exit codes:
  0    an orderly end, with everything sent
  1    the client could not start, an error ended it, or something was not sent
  2    a mistake on the command line
  130  a second signal";

/// Options of the client.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ConnectOptions {
    #[command(flatten)]
    pub(crate) opening: Opening,

    /// End when the connection is lost or cannot be made
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    /// Offer to compress messages: each by itself, or with those before it as context
    #[cfg(feature = "deflate")]
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) deflate: Compression,

    #[command(flatten)]
    heartbeat: ClientHeartbeat,

    #[command(flatten)]
    pub(crate) timeouts: Timeouts,

    #[command(flatten)]
    pub(crate) settings: Settings,

    #[command(flatten)]
    pub(crate) tls: tls::ClientOptions,

    #[command(flatten)]
    pub(crate) proxy: ProxyOptions,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// How long the client keeps trying.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Timeouts {
    /// Time limit for connecting over TCP
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// How long to keep trying after the end of the input while lines are unsent and none can be sent
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) exit_timeout: Duration,
}

impl ConnectOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        self.heartbeat.check(given)?;
        self.tls.check(&self.opening.url, given)?;
        self.proxy.check(&self.opening.url, given)?;
        self.opening.check(given)
    }

    pub(crate) fn heartbeat(&self) -> HeartbeatPolicy {
        self.heartbeat.policy()
    }

    /// How often something is to be seen of the heartbeat.
    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        self.heartbeat.ping_interval()
    }
}
