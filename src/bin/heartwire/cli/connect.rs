//! The options of `heartwire connect`.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::{Client, Error};

use super::client::ConnectionOptions;
use super::opening::Subprotocols;
use super::usage_error::UsageError;
use super::values::parse_duration;

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
    subprotocols: Subprotocols,

    /// How long to keep trying after the end of the input while lines are unsent and none can be sent
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration, help_heading = "Limits")]
    pub(crate) exit_timeout: Duration,

    #[command(flatten)]
    pub(crate) client: ConnectionOptions,
}

impl ConnectOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        self.client.check(given)
    }

    /// A client as the options want it.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        Ok(self.subprotocols.apply_to(self.client.client()?))
    }
}
