//! The options of `heartwire subscribe`.

use std::path::PathBuf;

use clap::{ArgMatches, Args};
use heartwire::topics::{Position, TopicName};

use super::client::ConnectionOptions;
use super::token_file::TokenFile;
use super::usage_error::UsageError;

/// What stands below the options.
const AFTER_HELP: &str = "\
Output:
  Each message is a line. With several topics, the topic and a tab stand before it. Bytes
  that are no text are named by their number. With --json each line is an object:
    {\"position\":\"4f2a90c1d3e5b607:42\",\"text\":\"hello\",\"topic\":\"news\",\"type\":\"message\"}
  with \"base64\" in place of \"text\" for bytes, and one with \"type\":\"lost\" where messages are
  missing because the server's history does not reach back. Without it that is a line of the
  log, on standard error.

Values:
  DURATION takes a unit: 500ms, 20s, 1m30s. BYTES may take one: 65536, 64KiB, 1.5MiB, 1GiB.

Environment:
  Each option and argument can come from the variable beside it, such as
  HEARTWIRE_POSITION_FILE=positions. What the command line says wins, and an empty
  variable counts as not set. Flags take true or false. URL and TOPIC come both from the
  command line, or both from the environment, where commas separate topics.
  The proxy is chosen as by \"heartwire connect\".

Signals:
  SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) close the connection with
  1000 and end the client within --close-timeout. A second signal ends it at once.

Examples:
  heartwire subscribe ws://127.0.0.1:9001/ news
      Print what is published from now on
  heartwire subscribe ws://127.0.0.1:9001/ news chat --json --since earliest
      Begin with all that the server still has
  heartwire subscribe ws://127.0.0.1:9001/ news --position-file news.position >>news.log
      Go on where the last run ended, even if it was killed

Exit codes:
  0    an orderly end
  1    the client could not start, an error ended it, or the server refused a topic
  2    a mistake on the command line
  130  a second signal";

/// Options of the subscriber.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SubscribeOptions {
    /// Topics to subscribe to, such as sensors/kitchen
    #[arg(index = 2, value_name = "TOPIC", required = true, num_args = 1..)]
    pub(crate) topic: Vec<TopicName>,

    /// Begin after this position of the topic, or with the earliest message that the server still has. Default: with
    /// the next one that is published
    #[arg(long, value_name = "POSITION|earliest", value_parser = parse_begin)]
    pub(crate) since: Option<Begin>,

    /// Keep in this file how far each topic was printed, and go on from there. A run that was killed may print the
    /// messages of its last second once more
    #[arg(long, value_name = "FILE")]
    pub(crate) position_file: Option<PathBuf>,

    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) count: Option<u64>,

    /// Print each message as a JSON object, with its topic and position
    #[arg(long)]
    pub(crate) json: bool,

    /// Tell who else is subscribed, in doubt, or gone: in the log, or with --json on standard output
    #[arg(long)]
    pub(crate) presence: bool,

    #[command(flatten)]
    pub(crate) token: TokenFile,

    #[command(flatten)]
    pub(crate) client: ConnectionOptions,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Earliest,
    After(Position),
}

fn parse_begin(text: &str) -> Result<Begin, String> {
    match text {
        "earliest" => Ok(Begin::Earliest),
        text => text.parse().map(Begin::After).map_err(|error| format!("{error}; or \"earliest\"")),
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number, 1 or more".to_owned())
}

impl SubscribeOptions {
    /// Refuses options that would have no effect or no sense beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        if self.topic.len() > 1 && matches!(self.since, Some(Begin::After(_))) {
            let line = "--since with a position needs a single topic: a position means nothing in another";
            return Err(UsageError::new(line));
        }
        self.client.check(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_begins_after_a_position_or_with_the_earliest_message() {
        assert_eq!(parse_begin("earliest"), Ok(Begin::Earliest));
        assert_eq!(parse_begin("4f2a90c1d3e5b607:42"), Ok(Begin::After("4f2a90c1d3e5b607:42".parse().unwrap())));
        for wrong in ["", "all", "42", "4f2a90c1d3e5b607"] {
            assert!(parse_begin(wrong).unwrap_err().contains("earliest"), "{wrong}");
        }
        assert_eq!(parse_count("7"), Ok(7));
        assert!(["0", "-1", "x"].iter().all(|wrong| parse_count(wrong).is_err()));
    }
}
