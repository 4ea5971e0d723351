//! The options of `heartwire publish`.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::topics::TopicName;

use super::client::ConnectionOptions;
use super::token_file::TokenFile;
use super::usage_error::UsageError;
use super::values::parse_duration;

/// What stands below the options.
const AFTER_HELP: &str = "\
Values:
  DURATION takes a unit: 500ms, 20s, 1m30s. BYTES may take one: 65536, 64KiB, 1.5MiB, 1GiB.

Environment:
  Each option and argument can come from the variable beside it, such as
  HEARTWIRE_TOKEN_FILE=token. What the command line says wins, and an empty
  variable counts as not set. Flags take true or false. URL and TOPIC come both from
  the command line, or both from the environment.
  The proxy is chosen as by \"heartwire connect\".

Signals:
  SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) end the input: what was
  read is still published. A second signal ends the program at once.

Examples:
  heartwire publish ws://127.0.0.1:9001/ news -m \"good morning\"
      Publish one message
  sensor | heartwire publish ws://127.0.0.1:9001/ sensors/kitchen
      Publish each line, also over restarts of the server, once each
  heartwire publish wss://example.org/ chat --token-file token <lines
      Show a token

Exit codes:
  0    the server has confirmed each message
  1    the client could not start, or something was not confirmed: it may have been published
       or not, unless the server refused it. Standard error names the lines
  2    a mistake on the command line
  130  a second signal";

/// Options of the publisher.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PublishOptions {
    /// Topic to publish to, such as sensors/kitchen
    #[arg(index = 2, value_name = "TOPIC")]
    pub(crate) topic: TopicName,

    /// Publish this message, in place of the lines of standard input
    #[arg(short, long, value_name = "MESSAGE", allow_hyphen_values = true)]
    pub(crate) message: Option<String>,

    #[command(flatten)]
    pub(crate) token: TokenFile,

    /// How long to keep trying after the end of the input while no message is confirmed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration, help_heading = "Limits")]
    pub(crate) exit_timeout: Duration,

    #[command(flatten)]
    pub(crate) client: ConnectionOptions,
}

impl PublishOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        self.client.check(given)
    }
}
