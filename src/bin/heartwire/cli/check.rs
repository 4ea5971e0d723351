//! The options of `heartwire check`.

use std::time::Duration;

use clap::{ArgMatches, Args};

use super::opening::{Opening, Subprotocols};
use super::proxy::ProxyOptions;
use super::usage_error::{UsageError, refuse};
use super::values::parse_duration;
use super::{LogOptions, tls};

/// What stands below the options: how values are written, examples and exit codes.
const AFTER_HELP: &str = "\
Values:
  DURATION takes a unit: 500ms, 20s, 1m30s.

Environment:
  Each option and argument can come from the variable beside it, such as
  HEARTWIRE_TIMEOUT=3s. What the command line says wins, and an empty
  variable counts as not set. Flags take true or false.
  Subprotocols are separated by commas, headers by line ends.
  Without --proxy, the proxy is that of curl's variables: for wss:// the first of
  wss_proxy, https_proxy and all_proxy, for ws:// the first of ws_proxy, http_proxy
  and all_proxy, in lower or upper case (but not HTTP_PROXY). NO_PROXY names hosts
  that are connected to directly.

Examples:
  heartwire check ws://127.0.0.1:9001/
      Print \"ok: ws://127.0.0.1:9001/ round trip 0.31 ms\", or what is wrong
  HEALTHCHECK CMD [\"heartwire\", \"check\", \"ws://127.0.0.1:9001/\", \"--timeout\", \"3s\"]
      Have Docker look after a server
  heartwire check ws://127.0.0.1:9001/ --log-level trace
      See each step on standard error

Exit codes:
  0  the server took the connection and answered a Ping, in time
  1  it did not: standard error has one line with what is wrong and what to do
  2  a mistake on the command line";

/// Options of the check.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, mut_arg("level", |level| level.default_value("off")))]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    pub(crate) opening: Opening,

    #[command(flatten)]
    pub(crate) subprotocols: Subprotocols,

    /// Time limit for everything together, whatever the server does
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,

    /// Shorter time limit for connecting over TCP
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    connect_timeout: Option<Duration>,

    /// Shorter time limit for the opening handshake
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    handshake_timeout: Option<Duration>,

    #[command(flatten)]
    pub(crate) tls: tls::ClientOptions,

    #[command(flatten)]
    pub(crate) proxy: ProxyOptions,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

impl CheckOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        let because = "unless it is shorter than --timeout; shorten it, or leave it out";
        for (option, limit) in
            [("connect_timeout", self.connect_timeout), ("handshake_timeout", self.handshake_timeout)]
        {
            if limit.is_some_and(|limit| limit >= self.timeout) {
                refuse(given, &[option], because)?;
            }
        }
        self.tls.check(&self.opening.url, given)?;
        self.proxy.check(&self.opening.url, given)?;
        self.opening.check(given)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.longest_step().min(self.connect_timeout.unwrap_or(Duration::MAX))
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.longest_step().min(self.handshake_timeout.unwrap_or(Duration::MAX))
    }

    /// A little less than all of the time: the error of a step says which one it was, so it has to come first.
    fn longest_step(&self) -> Duration {
        self.timeout - self.timeout / 16
    }
}
