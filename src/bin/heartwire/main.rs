//! The `heartwire` program: a WebSocket server with a heartbeat, ready to run, a client to go with it, and a check
//! whether a server answers. It uses the library by its public API alone.
//!
//! `cli` parses the command line. `serve` is the server, `connect` the client, `check` a client that only looks
//! whether a server answers, `subscribe` and `publish` are clients of topics. They share `output`: the log, signals,
//! and lines on standard output, `screen`: messages there, and `input`: lines of standard input. `log_thread` and
//! `log_output` write the log. `systemd` tells the service manager how the server is, `control_group` knows what a
//! container or a service may take, and `certificates` has those of TLS.

// The library must not call the logger in the threads that it serves with; here the queue in `log_thread` is what is
// called.
#![allow(clippy::disallowed_macros, reason = "see clippy.toml")]

#[cfg_attr(not(feature = "tls"), path = "no_certificates.rs")]
mod certificates;
mod check;
mod cli;
mod connect;
#[cfg(target_os = "linux")]
mod control_group;
#[cfg_attr(not(feature = "auth-url"), path = "no_doorkeeper.rs")]
mod doorkeeper;
mod input;
mod log_output;
mod log_thread;
mod output;
#[cfg(feature = "topics")]
mod publish;
mod screen;
mod serve;
#[cfg(feature = "topics")]
mod subscribe;
#[cfg_attr(not(target_os = "linux"), path = "no_systemd.rs")]
mod systemd;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use cli::{Command, UsageError};
use heartwire::{ConnectError, Error};

fn main() -> ExitCode {
    let result = run();
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "error: {failure}");
            failure.exit_code()
        }
    }
}

fn run() -> Result<(), Failure> {
    match cli::parse().map_err(Failure::Usage)? {
        Command::Serve(options) => serve::run(&options).map_err(Failure::Run),
        Command::Connect(options) => connect::run(&options),
        Command::Check(options) => check::run(&options),
        #[cfg(feature = "topics")]
        Command::Subscribe(options) => subscribe::run(&options),
        #[cfg(feature = "topics")]
        Command::Publish(options) => publish::run(&options),
        #[cfg(feature = "completions")]
        Command::Completions(options) => print(&options.script()),
        #[cfg(feature = "completions")]
        Command::Manual(options) => print(&options.page().map_err(|error| error.to_string())?),
        Command::Help(text) => {
            // Nobody may want to read it to its end.
            let _ = text.print();
            Ok(())
        }
    }
}

/// Prints what was generated.
#[cfg(feature = "completions")]
fn print(text: &[u8]) -> Result<(), Failure> {
    let printed = io::stdout().write_all(text).and_then(|()| io::stdout().flush());
    printed.map_err(|error| Failure::Run(format!("cannot write to standard output: {error}")))
}

/// Why the program ends with another exit status than 0.
enum Failure {
    /// The command line makes no sense.
    Usage(UsageError),
    /// It could not start, or an error ended it.
    Run(String),
}

impl Failure {
    /// To a client, a URL or a header that makes no sense is a mistake on the command line, and nothing else is.
    fn of_client(error: Error) -> Self {
        match error {
            Error::Connect(ConnectError::Invalid(what)) => Self::Usage(UsageError::new(what)),
            other => Self::Run(other.to_string()),
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Run(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Run(error) => error.fmt(f),
        }
    }
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self::Run(error)
    }
}
