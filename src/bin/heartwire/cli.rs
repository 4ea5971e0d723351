//! The command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

mod connect;
mod heartbeat;
mod mistake;
mod serve;
mod values;

pub(crate) use connect::ConnectOptions;
pub(crate) use mistake::Mistake;
pub(crate) use serve::{Mode, ServeOptions};
use values::parse_address;

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
#[command(next_help_heading = "Log")]
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
    match task(std::env::args_os().collect()) {
        Ok(task) => Ok(task),
        Err(Refusal::Mistake(mistake)) => {
            let _ = writeln!(io::stderr(), "error: {mistake}");
            Err(ExitCode::from(2))
        }
        Err(Refusal::Help(text)) => {
            let _ = text.print();
            Err(ExitCode::SUCCESS)
        }
    }
}

/// Why there is nothing to do.
#[derive(Debug)]
enum Refusal {
    Mistake(Mistake),
    /// For --help and --version, which are errors to clap.
    Help(clap::Error),
}

impl From<Mistake> for Refusal {
    fn from(mistake: Mistake) -> Self {
        Self::Mistake(mistake)
    }
}

/// What these arguments ask for; the first is the program's name.
fn task(arguments: Vec<OsString>) -> Result<Task, Refusal> {
    let first = arguments.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    check_command(first)?;
    let name = if is_command(first) { format!("heartwire {first}") } else { "heartwire".to_owned() };
    let refusal = |error: clap::Error| match error.use_stderr() {
        true => Refusal::Mistake(mistake::of_clap(&error, &name)),
        false => Refusal::Help(error),
    };
    let matches = command().try_get_matches_from(arguments).map_err(refusal)?;
    let given = matches.subcommand().map_or(&matches, |(_, given)| given);
    let cli = Cli::from_arg_matches(&matches).map_err(refusal)?;
    let task = match cli.command {
        Some(Command::Connect(options)) => Task::Connect(options),
        Some(Command::Serve(options)) => Task::Serve(options),
        None => Task::Serve(cli.serve),
    };
    match &task {
        Task::Serve(options) => options.check(given)?,
        Task::Connect(options) => options.check(given)?,
    }
    Ok(task)
}

fn command() -> clap::Command {
    /// How options that take numbers name their values. A number may have a minus, so that the option itself says what
    /// is wrong with it.
    const NUMBERS: [&str; 5] = ["DURATION", "DURATION|off", "SHORTEST..LONGEST", "BYTES", "N"];
    let with_minus = |arg: Arg| {
        let is_number = arg.get_value_names().is_some_and(|names| names.iter().all(|name| NUMBERS.contains(&&**name)));
        if is_number { arg.allow_hyphen_values(true) } else { arg }
    };
    Cli::command().mut_args(with_minus).mut_subcommands(|command| command.mut_args(with_minus))
}

const COMMANDS: [&str; 3] = ["serve", "connect", "help"];

fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
}

/// Refuses a word that was meant to be a command. To clap it would be an address, and what follows one too many.
fn check_command(word: &str) -> Result<(), Mistake> {
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !is_word || is_command(word) {
        return Ok(());
    }
    let commands = clap::Command::new("heartwire").subcommands(COMMANDS.map(clap::Command::new));
    let commands = commands.disable_help_subcommand(true).try_get_matches_from(["heartwire", word]);
    let similar = commands.as_ref().err().and_then(|error| error.get(ContextKind::SuggestedSubcommand));
    match similar {
        Some(ContextValue::Strings(similar)) => {
            Err(Mistake::new(format!("unknown command '{word}'; a similar command exists: '{}'", similar.join("', '"))))
        }
        _ => parse_address(word).map(|_| ()).map_err(|error| Mistake::new(format!("'{word}' is {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use clap::ArgAction;
    use heartwire::HeartbeatPolicy;

    use super::*;

    fn options(arguments: &[&str]) -> Result<ServeOptions, String> {
        match task(["heartwire"].iter().chain(arguments).map(OsString::from).collect()) {
            Ok(Task::Serve(options)) => Ok(options),
            Ok(Task::Connect(_)) => unreachable!("not asked for"),
            Err(Refusal::Mistake(mistake)) => Err(mistake.to_string()),
            Err(Refusal::Help(help)) => Err(help.to_string()),
        }
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

    /// An option as the README's table and --help name it, and its default.
    fn spelled(arg: &Arg) -> Option<(String, Option<String>)> {
        let name = format!("--{}", arg.get_long().filter(|name| !["help", "version"].contains(name))?);
        let values: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let names = arg.get_value_names().unwrap_or_default();
        let value = match (arg.get_action(), &values[..]) {
            (ArgAction::SetTrue, _) => String::new(),
            (_, values) if values.is_empty() || names[0] == "LEVEL" => format!(" {}", names[0]),
            (_, values) => format!(" {}", values.join("|")),
        };
        let default = arg.get_default_values().first().filter(|_| !value.is_empty());
        Some((name + &value, default.map(|default| default.to_str().unwrap().to_owned())))
    }

    #[test]
    fn the_readme_lists_all_options_of_the_server_with_their_defaults() {
        let rows = include_str!("../../../README.md").lines().filter(|line| line.starts_with("| `--"));
        let mut listed = BTreeMap::new();
        for row in rows {
            let row = row.replace("\\|", "/");
            let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('/', "|")).collect();
            let [options, default, _] = &cells[..] else { continue };
            for option in options.split(", ") {
                listed.insert(option.trim_matches('`').to_owned(), default.clone());
            }
        }
        let command = command();
        // The table on choosing a heartbeat has rows of the same form, with values.
        let names: Vec<_> = command.get_arguments().filter_map(spelled).collect();
        for (option, default) in &names {
            let listed = listed.get(option).unwrap_or_else(|| panic!("{option} is not in the README's table"));
            assert!(default.as_ref().is_none_or(|default| *listed == format!("`{default}`")), "{option}: {listed}");
        }
        let known = |option: &String| names.iter().any(|(name, _)| name == option);
        let strays: Vec<_> =
            listed.keys().filter(|option| option.contains(char::is_uppercase) && !known(option)).collect();
        assert_eq!(strays, [&""; 0], "only in the README");
    }
}
