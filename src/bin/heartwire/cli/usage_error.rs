//! What is wrong with a command line, in one line that names the option and says what to do.

use std::fmt;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::parser::ValueSource;

use super::environment;

/// A command line that makes no sense: one line, to stand after "error: ".
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl UsageError {
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }

    /// clap's paragraphs, joined. `command` is what was being parsed, such as "heartwire connect".
    pub(super) fn from_clap(mut error: Error, command: &str) -> Self {
        hide_secrets(&mut error);
        let second = match error.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(second)) => second.as_str(),
            _ => "",
        };
        Self(match error.kind() {
            ErrorKind::MissingRequiredArgument if command.ends_with(" completions") => {
                format!("{command} needs the name of a shell, such as {command} bash")
            }
            ErrorKind::MissingRequiredArgument
                if [" subscribe", " publish"].iter().any(|end| command.ends_with(end)) =>
            {
                format!("{command} needs the URL of a server and a topic, such as {command} ws://127.0.0.1:9001/ news")
            }
            // The URL is all else that is ever required.
            ErrorKind::MissingRequiredArgument => {
                format!("{command} needs the URL of a server, such as {command} ws://127.0.0.1:9001/")
            }
            // What clap takes for a command is whatever comes after an address or an option.
            ErrorKind::ArgumentConflict if super::is_command(second) => {
                format!("the command '{second}' must come first, before its options and arguments")
            }
            ErrorKind::ArgumentConflict if !second.is_empty() => {
                format!("unexpected argument '{second}' found (try {command} --help)")
            }
            kind => join_lines(&error.to_string(), kind == ErrorKind::ValueValidation, command),
        })
    }

    /// Like [`from_clap`](Self::from_clap), for what comes from the environment: names variables in place of options.
    pub(super) fn of_environment(mut error: Error, command: &str, chosen: &clap::Command) -> Self {
        let variable = |option: &str| {
            let arg = chosen.get_arguments().find(|arg| arg.to_string() == option);
            arg.map_or_else(|| option.to_owned(), environment::variable)
        };
        if error.kind() != ErrorKind::MissingRequiredArgument {
            for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
                if let Some(ContextValue::String(option)) = error.get(kind) {
                    let variable = variable(option);
                    error.insert(kind, ContextValue::String(variable));
                }
            }
        }
        Self::from_clap(error, command)
    }
}

/// Refuses each of these options if it is on the command line, for it has no effect `because`. From the environment it
/// may come, for that may serve several commands.
pub(super) fn refuse(given: &ArgMatches, options: &[&str], because: &str) -> Result<(), UsageError> {
    match options.iter().find(|option| given.value_source(option) == Some(ValueSource::CommandLine)) {
        Some(option) => Err(UsageError::new(format!("--{} has no effect {because}", option.replace('_', "-")))),
        None => Ok(()),
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Leaves no more of URLs than their scheme in what clap quotes: a URL that is out of place may hold a password, or a
/// token in its query. What the library says about the URL of a server hides those by itself. Of headers and proxies it
/// leaves nothing.
fn hide_secrets(error: &mut Error) {
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
        && ["--header ", "--proxy ", "HEARTWIRE_HEADER", "HEARTWIRE_PROXY"].iter().any(|it| option.starts_with(it))
    {
        error.insert(ContextKind::InvalidValue, ContextValue::String("***".to_owned()));
    }
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(quoted)) = error.get(kind)
            && let Some((scheme, _)) = quoted.split_once("://")
        {
            let hidden = format!("{scheme}://***");
            error.insert(kind, ContextValue::String(hidden));
        }
    }
}

/// What clap says before it comes to the usage. `is_complete`: it needs no hint at what to do.
fn join_lines(text: &str, is_complete: bool, command: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut lines = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let first = lines.next().unwrap_or("invalid command line");
    let mut line = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let mut is_complete = is_complete;
    // "To pass it as a value" is never what was meant: no argument of ours begins with a hyphen.
    for hint in lines.filter(|hint| !hint.contains("to pass '")) {
        let separator = if hint.starts_with('[') { " " } else { "; " };
        line = line + separator + hint.strip_prefix("tip: ").unwrap_or(hint);
        is_complete = true;
    }
    if is_complete { line } else { format!("{line} (try {command} --help)") }
}
