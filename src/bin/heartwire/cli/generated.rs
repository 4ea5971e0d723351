//! What is generated from the options: completions for shells, and the manual pages.

use std::io::{self, Write};

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{COMMANDS, environment};

/// What stands below the options of `heartwire completions`.
const AFTER_COMPLETIONS: &str = "\
Examples:
  heartwire completions bash >/etc/bash_completion.d/heartwire
      Install them for all users of bash
  source <(heartwire completions zsh)
      Have them in this shell";

/// What stands below the options of `heartwire manual`.
const AFTER_MANUAL: &str = "\
Examples:
  heartwire manual | man -l -
      Read it
  heartwire manual connect >/usr/local/share/man/man1/heartwire-connect.1
      Install the page of a command";

/// Options of the completions.
#[derive(Debug, Args)]
#[command(after_help = AFTER_COMPLETIONS)]
pub(crate) struct CompletionsOptions {
    /// Shell that is to complete commands and options
    #[arg(value_enum)]
    shell: Shell,
}

/// Options of the manual.
#[derive(Debug, Args)]
#[command(after_help = AFTER_MANUAL)]
pub(crate) struct ManualOptions {
    /// Command whose page to print; without one, that of the program and its server
    #[arg(value_name = "COMMAND", value_parser = pages())]
    command: Option<String>,
}

/// The names of the commands that have a page: those that options from the environment reach.
fn pages() -> PossibleValuesParser {
    COMMANDS.iter().copied().filter(|name| environment::has_variables(name)).into()
}

impl CompletionsOptions {
    /// The script that the shell is to run.
    pub(crate) fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "heartwire", &mut script);
        script
    }
}

impl ManualOptions {
    /// The page as man(1) reads it.
    pub(crate) fn page(&self) -> io::Result<Vec<u8>> {
        const USAGE: &str = "\
heartwire [serve] [OPTIONS] [ADDRESS]
heartwire connect [OPTIONS] <URL>
heartwire check [OPTIONS] <URL>
heartwire subscribe [OPTIONS] <URL> <TOPIC>...
heartwire publish [OPTIONS] <URL> <TOPIC>";
        let command = environment::with_variables_in_help(super::command()).disable_help_subcommand(true);
        let mut command = command.override_usage(USAGE);
        command.build();
        match &self.command {
            Some(name) => page(command.find_subcommand(name).expect("only names of commands are taken").clone()),
            None => page(command),
        }
    }
}

/// The page of a command. Its options are laid out by clap_mangen, and what stands below them stays as it is.
fn page(command: clap::Command) -> io::Result<Vec<u8>> {
    let after_help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.has_subcommands();
    let man = Man::new(command).manual("heartwire").source(concat!("heartwire ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    for section in after_help.split("\n\n") {
        let (heading, lines) = section.split_once(":\n").unwrap_or(("Notes", section));
        writeln!(page, ".SH \"{}\"\n.nf", escaped(&heading.to_uppercase()))?;
        for line in lines.lines() {
            writeln!(page, "{}", escaped(line.strip_prefix("  ").unwrap_or(line)))?;
        }
        writeln!(page, ".fi")?;
    }
    Ok(page)
}

/// A line of text in which troff finds nothing to obey.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_manual_is_shown_and_not_obeyed() {
        assert_eq!(escaped(".so \\x -y"), "\\&.so \\ex \\-y");
        assert_eq!(escaped("'br it's"), "\\(aqbr it\\(aqs");
    }
}
