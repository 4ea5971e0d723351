//! The command line.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod connect;
mod heartbeat;
mod serve;
mod values;

pub(crate) use connect::ConnectOptions;
pub(crate) use serve::{Mode, ServeOptions};

/// WebSockets with a heartbeat, on plain threads.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (what happens without a command as well).
    Serve(ServeOptions),
    /// Connect to a server: lines typed are sent, messages are printed, and a lost connection comes back.
    Connect(ConnectOptions),
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Task {
    Serve(ServeOptions),
    Connect(ConnectOptions),
}

/// Where the log goes, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Least important lines to log
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info", value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    level: String,

    /// Log to this file as well
    #[arg(long = "log-file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

impl LogOptions {
    pub(crate) fn level(&self) -> log::LevelFilter {
        // Checked by the parser.
        self.level.parse().unwrap_or(log::LevelFilter::Info)
    }
}

/// Parses the command line. On a mistake, one line on stderr and exit status 2.
pub(crate) fn parse() -> Result<Task, ExitCode> {
    match Cli::try_parse() {
        Ok(Cli { command: Some(Command::Connect(options)), .. }) => Ok(Task::Connect(options)),
        Ok(Cli { command: Some(Command::Serve(options)), .. }) => Ok(Task::Serve(options)),
        Ok(Cli { command: None, serve }) => Ok(Task::Serve(serve)),
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or("error: invalid command line");
            let values = text.lines().map(str::trim).find(|line| line.starts_with("[possible values"));
            let _ = writeln!(io::stderr(), "{line} {}", values.unwrap_or("(try --help)"));
            Err(ExitCode::from(2))
        }
        // --help and --version.
        Err(text) => {
            let _ = text.print();
            Err(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heartwire::HeartbeatPolicy;

    use super::*;

    fn options(arguments: &[&str]) -> Result<ServeOptions, String> {
        let arguments = ["heartwire"].into_iter().chain(arguments.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        Ok(match cli.command {
            Some(Command::Serve(options)) => options,
            Some(Command::Connect(_)) => unreachable!("not asked for"),
            None => cli.serve,
        })
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let options = options(&[]).unwrap();
        assert_eq!(options.address, "127.0.0.1:9001");
        assert_eq!(options.heartbeat(), HeartbeatPolicy::default());
        assert!(options.heartbeat_in_words().ends_with("found within 50s"));
    }

    #[test]
    fn the_command_may_be_left_out() {
        assert_eq!(options(&["serve", "[::1]:0", "--max-missed", "1"]).unwrap().address, "[::1]:0");
        assert_eq!(options(&["[::1]:0", "--max-missed", "1"]).unwrap().address, "[::1]:0");
    }

    #[test]
    fn the_status_is_shown_on_loopback_or_on_request() {
        for (arguments, on_loopback, elsewhere) in
            [(&[][..], true, false), (&["--status"], true, true), (&["--no-status"], false, false)]
        {
            let options = options(arguments).unwrap();
            assert_eq!(
                (options.access.shows_status(true), options.access.shows_status(false)),
                (on_loopback, elsewhere)
            );
        }
        assert!(options(&["--status", "--no-status"]).is_err());
    }

    #[test]
    fn heartbeats_can_be_off_or_keepalive_only() {
        assert_eq!(options(&["--ping-interval", "off"]).unwrap().heartbeat(), HeartbeatPolicy::off());
        let keepalive = options(&["--ping-interval", "500ms", "--pong-timeout", "off"]).unwrap();
        assert_eq!(keepalive.heartbeat(), HeartbeatPolicy::keepalive(Duration::from_millis(500)));
    }

    #[test]
    fn the_peer_may_lead() {
        let led = options(&["--heartbeat", "peer", "--expect", "10s", "--max-missed", "2"]).unwrap();
        assert_eq!(led.heartbeat(), HeartbeatPolicy::peer_led(Duration::from_secs(10)).max_missed(2));
        assert_eq!(led.heartbeat_in_words(), "peers beat, dead after 2 misses of 10s: a dead peer is found within 20s");
        let announced = options(&["--heartbeat", "peer", "--announcements", "1s..1m"]).unwrap();
        assert_eq!(announced.heartbeat().worst_case(), Some(Duration::from_secs(3 * 70)));
        assert_eq!(options(&["--heartbeat", "off"]).unwrap().heartbeat(), HeartbeatPolicy::off());
        assert!(options(&["--announcements", "2s..1s"]).is_err());
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let options = options(&["--trust-proxy", "::1", "--trust-proxy", "10.0.0.0/8"]).unwrap();
        let spelled: Vec<String> = options.access.trust_proxy.iter().map(ToString::to_string).collect();
        assert_eq!(spelled, ["::1/128", "10.0.0.0/8"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            &["--ping-interval", "0s"][..],
            &["--ping-interval", "soon"],
            &["--max-missed", "0"],
            &["--max-connections", "0"],
            &["--liveness", "maybe"],
            &["--allow-origin", "example.org"],
            &["--allow-origin", "https://example.org/"],
            &["--trust-proxy", "localhost"],
            &["--trust-proxy", "10.0.0.0/33"],
            &["--trust-proxy", "127.0.0.1:80"],
            &["--log-level", "loud"],
            &["nowhere"],
            &["127.0.0.1:70000"],
            &["--no-such-option"],
        ] {
            assert!(options(bad).is_err(), "{bad:?}");
        }
    }
}
