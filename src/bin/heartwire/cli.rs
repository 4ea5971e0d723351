//! The command line: what each command may be told, and what is wrong with a line that makes no sense.
//!
//! `serve`, `connect`, `check`, `subscribe` and `publish` hold the options of the commands; `topics` and `auth` are
//! parts of `serve`; `client`, `heartbeat`, `settings`, `tls`, `opening`, `proxy`, `token_file` and `log` hold those
//! that several have; `environment` finds options in variables; `values` says how each kind of value is spelled, and
//! `usage_error` how a mistake is reported. `generated` makes completions and manual pages of all that.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "auth-url")]
mod auth;
mod check;
mod client;
#[cfg(feature = "deflate")]
mod compression;
mod connect;
mod environment;
#[cfg(feature = "completions")]
mod generated;
mod heartbeat;
mod log;
mod opening;
mod proxy;
#[cfg(feature = "topics")]
mod publish;
mod serve;
mod settings;
#[cfg(feature = "topics")]
mod subscribe;
#[cfg_attr(not(feature = "tls"), path = "cli/no_tls.rs")]
mod tls;
#[cfg(feature = "topics")]
mod token_file;
#[cfg(feature = "topics")]
mod topics;
mod usage_error;
mod values;

pub(crate) use check::CheckOptions;
pub(crate) use connect::ConnectOptions;
#[cfg(feature = "completions")]
pub(crate) use generated::{CompletionsOptions, ManualOptions};
pub(crate) use log::LogOptions;
#[cfg(feature = "topics")]
pub(crate) use publish::PublishOptions;
pub(crate) use serve::{Mode, ServeOptions};
#[cfg(feature = "topics")]
pub(crate) use subscribe::{Begin, SubscribeOptions};
pub(crate) use usage_error::UsageError;
pub(crate) use values::UNIX;
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

/// What the command line asks for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server; this is the default command
    Serve(Box<ServeOptions>),
    /// Connect to a server: send lines typed, print messages received, reconnect when the connection is lost
    Connect(ConnectOptions),
    /// Check that a server takes a connection and answers a Ping: for health checks, monitoring and scripts
    Check(CheckOptions),
    #[cfg(feature = "topics")]
    /// Subscribe to topics: print their messages, and miss none while the connection is lost
    Subscribe(SubscribeOptions),
    #[cfg(feature = "topics")]
    /// Publish lines of standard input to a topic, each once, and wait until the server has confirmed them
    Publish(PublishOptions),
    #[cfg(feature = "completions")]
    /// Print completions of commands and options for a shell
    Completions(CompletionsOptions),
    #[cfg(feature = "completions")]
    /// Print the manual page, as man(1) reads it
    Manual(ManualOptions),
    /// The text that `--help` or `--version` asks for, which is an error to clap.
    #[command(skip)]
    Help(clap::Error),
}

/// Parses the command line and the environment of this process.
pub(crate) fn parse() -> Result<Command, UsageError> {
    parse_from(std::env::args_os().collect(), |name| std::env::var_os(name))
}

/// Parses these arguments, of which the first is the program's name, and what `read` finds in the environment.
fn parse_from(arguments: Vec<OsString>, read: impl Fn(&str) -> Option<OsString>) -> Result<Command, UsageError> {
    let first = arguments.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    check_command(first)?;
    let (name, words) = if is_command(first) { (first, 2) } else { ("serve", 1) };
    let called = if is_command(first) { format!("heartwire {first}") } else { "heartwire".to_owned() };

    // The command line by itself. What is required may still come from the environment.
    let optional = |arg: Arg| arg.required(false);
    let given = command().mut_args(optional).mut_subcommands(|command| command.mut_args(optional));
    let given = match given.try_get_matches_from(&arguments) {
        Ok(given) => given,
        Err(error) if error.use_stderr() => return Err(UsageError::from_clap(error, &called)),
        // Help, or the version.
        Err(help) => {
            let with_variables = environment::with_variables_in_help(command()).try_get_matches_from(arguments);
            return Ok(Command::Help(with_variables.err().unwrap_or(help)));
        }
    };
    let given = given.subcommand().map_or(&given, |(_, given)| given);

    // With the environment: its arguments come before all others, for there may be a "--" among these.
    let mut command = command();
    command.build();
    let chosen = command.find_subcommand(name).expect("a command has this name, or help was asked for");
    let added = environment::arguments(chosen, given, read)?;
    let rest = arguments.get(words..).unwrap_or_default();
    let all = [&["heartwire".into(), name.into()], &added[..], rest].concat();
    let parsed = command.clone().try_get_matches_from(all).and_then(|matches| Cli::from_arg_matches(&matches));
    let parsed = parsed.map_err(|error| UsageError::of_environment(error, &called, chosen))?;
    let command = parsed.command.unwrap_or_else(|| Command::Serve(parsed.serve.into()));
    match &command {
        Command::Serve(options) => options.check(given)?,
        Command::Connect(options) => options.check(given)?,
        Command::Check(options) => options.check(given)?,
        #[cfg(feature = "topics")]
        Command::Subscribe(options) => options.check(given)?,
        #[cfg(feature = "topics")]
        Command::Publish(options) => options.check(given)?,
        #[cfg(feature = "completions")]
        Command::Completions(_) | Command::Manual(_) => {}
        Command::Help(_) => {}
    }
    Ok(command)
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

const COMMANDS: &[&str] = &[
    "serve",
    "connect",
    "check",
    #[cfg(feature = "topics")]
    "subscribe",
    #[cfg(feature = "topics")]
    "publish",
    #[cfg(feature = "completions")]
    "completions",
    #[cfg(feature = "completions")]
    "manual",
    "help",
];

fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
}

/// Refuses a word that was meant to be a command. To clap it would be an address, and what follows one too many.
fn check_command(word: &str) -> Result<(), UsageError> {
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !is_word || is_command(word) {
        return Ok(());
    }
    let commands = clap::Command::new("heartwire").subcommands(COMMANDS.iter().map(clap::Command::new));
    let commands = commands.disable_help_subcommand(true).try_get_matches_from(["heartwire", word]);
    let similar = commands.as_ref().err().and_then(|error| error.get(ContextKind::SuggestedSubcommand));
    let most_similar = match similar {
        Some(ContextValue::Strings(similar)) => similar.last(),
        _ => None,
    };
    match most_similar {
        Some(similar) => {
            Err(UsageError::new(format!("unknown command '{word}'; a similar command exists: '{similar}'")))
        }
        None => parse_address(word).map(|_| ()).map_err(|error| UsageError::new(format!("'{word}' is {error}"))),
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
        match parse_from(["heartwire"].iter().chain(arguments).map(OsString::from).collect(), |_| None) {
            Ok(Command::Serve(options)) => Ok(*options),
            Ok(other) => unreachable!("not asked for: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let options = options(&[]).unwrap();
        assert_eq!(options.address, ["127.0.0.1:9001"]);
        assert_eq!(options.heartbeat(), HeartbeatPolicy::default());
        assert!(options.heartbeat_in_words().ends_with("found within 50s"));
    }

    #[test]
    fn the_command_may_be_left_out() {
        assert_eq!(options(&["serve", "[::1]:0", "--max-missed", "1"]).unwrap().address, ["[::1]:0"]);
        assert_eq!(options(&["[::1]:0", "--max-missed", "1"]).unwrap().address, ["[::1]:0"]);
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
    fn urls_that_are_out_of_place_are_not_quoted() {
        let url = "ws://user:it's s3cret@example.org/?token=s3cret";
        for arguments in [&[url][..], &["9001", url], &["--mode", "echo", url], &["connect", url, url], &["help", url]]
        {
            let arguments: Vec<_> = ["heartwire"].iter().chain(arguments).map(OsString::from).collect();
            let error = parse_from(arguments.clone(), |_| None).unwrap_err().to_string();
            assert!(error.contains("'ws://***'") && !error.contains("s3cret"), "{arguments:?}: {error}");
        }
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
        assert_eq!(led.heartbeat_in_words(), "peers lead, dead after 2 misses of 10s: a dead peer is found within 20s");
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
            &["--busy-poll", "1s"],
            &["--busy-poll", "20"],
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

    /// An option as the tables of docs/program.md and --help name it, and its default.
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

    /// A row of a table: the option, the commands that it is of, and the default in its cell.
    type Row = (String, String, String);

    /// The tables below a heading. Several options may share a row, with as many defaults.
    fn options_below(page: &str, heading: &str) -> Vec<Row> {
        let section = page.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
        let mut listed = Vec::new();
        for row in section.lines().filter(|line| line.starts_with("| `--")) {
            let cells: Vec<_> = row.trim_matches('|').replace("\\|", "\0").split('|').map(str::to_owned).collect();
            let cells: Vec<_> = cells.iter().map(|cell| cell.trim().replace('\0', "|")).collect();
            let (options, commands, defaults) = match &cells[..] {
                [options, default, _] => (options, "serve", default),
                [options, commands, default, _] => (options, &**commands, default),
                other => panic!("{other:?}"),
            };
            let options: Vec<_> = options.split("`, `").map(|option| option.trim_matches('`').to_owned()).collect();
            let defaults: Vec<_> = defaults.split(", ").map(str::to_owned).collect();
            let commands = if commands == "all" { "connect, check, subscribe, publish" } else { commands };
            for (place, option) in options.into_iter().enumerate() {
                let default = defaults.get(place).unwrap_or(&defaults[0]).clone();
                listed.extend(commands.split(", ").map(|of| (option.clone(), of.to_owned(), default.clone())));
            }
        }
        listed
    }

    /// What the page says wrongly or leaves out of a command's options.
    fn mistakes(page: &str, name: &str) -> Vec<String> {
        let heading = if name == "serve" { "\n## The server\n" } else { "\n## The clients\n" };
        let listed: BTreeMap<_, _> = options_below(page, heading)
            .into_iter()
            .filter(|(_, of, _)| of == name)
            .map(|(option, _, default)| (option, default))
            .collect();
        let command = command();
        let command = command.find_subcommand(name).unwrap();
        let options: BTreeMap<_, _> = command.get_arguments().filter_map(spelled).collect();
        let mut found = Vec::new();
        for (option, default) in &options {
            match (listed.get(option), default) {
                (None, _) => found.push(format!("{name}: {option} is missing")),
                (Some(said), Some(default)) if *said != format!("`{default}`") => {
                    found.push(format!("{name}: {option} is said to be {said} by default"));
                }
                _ => {}
            }
        }
        found
            .extend(listed.keys().filter(|option| !options.contains_key(*option)).map(|it| format!("{name}: no {it}")));
        found
    }

    #[test]
    fn the_guide_lists_all_options_of_all_commands_with_their_defaults() {
        let page = include_str!("../../../docs/program.md");
        let all = ["serve", "connect", "check", "subscribe", "publish"];
        for name in all {
            assert_eq!(mistakes(page, name), [""; 0]);
        }
        let changed = page.replace("`--max-missed N` | `3`", "`--max-missed N` | `4`").replace("`--json`", "`--yaml`");
        let found: Vec<_> = all.iter().flat_map(|name| mistakes(&changed, name)).collect();
        let wanted = [
            "serve: --max-missed N is said to be `4` by default",
            "subscribe: --json is missing",
            "subscribe: no --yaml",
        ];
        assert_eq!(found, wanted);
    }
}
