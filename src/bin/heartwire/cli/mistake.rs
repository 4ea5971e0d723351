//! What is wrong with a command line, in one line that names the option and says what to do.

use std::fmt;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// One line about a mistake, to stand after "error: ".
#[derive(Debug)]
pub(crate) struct Mistake(String);

impl Mistake {
    pub(crate) fn new(line: impl AsRef<str>) -> Self {
        Self(without_passwords(line.as_ref()))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// clap's paragraphs, joined. `command` is what was being parsed, such as "heartwire connect".
pub(super) fn of_clap(error: &Error, command: &str) -> Mistake {
    let second = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(second)) => second.as_str(),
        _ => "",
    };
    Mistake::new(match error.kind() {
        // The URL is all that is ever required.
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
        kind => joined(&error.to_string(), kind == ErrorKind::ValueValidation, command),
    })
}

/// What clap says before it comes to the usage. `is_complete`: it needs no hint at what to do.
fn joined(text: &str, is_complete: bool, command: &str) -> String {
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

/// The same without the user and the password of URLs.
fn without_passwords(line: &str) -> String {
    let mut parts = line.split("://");
    let mut safe = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.split(['/', '?', '#', '\'', '"', ' ']).next().unwrap_or_default();
        let rest = authority.rfind('@').map_or(part, |at| &part[at..]);
        safe = safe + "://" + if rest.len() < part.len() { "***" } else { "" } + rest;
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_are_not_echoed() {
        for (line, safe) in [
            ("no URL", "no URL"),
            ("'ws://h/a@b' is fine", "'ws://h/a@b' is fine"),
            ("'ws://user:secret@h:1/' and 'ws://x:y@z@h'", "'ws://***@h:1/' and 'ws://***@h'"),
        ] {
            assert_eq!(without_passwords(line), safe);
        }
    }
}
