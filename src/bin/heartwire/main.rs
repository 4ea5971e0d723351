//! The `heartwire` program: a WebSocket server with a heartbeat, ready to run, and a client to go with it.

// The library must not call the logger in the threads that it serves with; here the queue in `log_thread` is what is called.
#![allow(clippy::disallowed_macros, reason = "see clippy.toml")]

mod cli;
mod connect;
mod log_thread;
mod output;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

/// Why the program ends with another status than 0.
enum Failure {
    /// The command line asks for what cannot be.
    Usage(cli::Mistake),
    /// It could not start, or was ended by an error.
    Failed(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// The exit status: 0 after an orderly end, 1 if it could not start or was ended by an error, 2 for a command line that is
/// not understood.
fn main() -> ExitCode {
    let result = match cli::parse() {
        Ok(cli::Task::Serve(options)) => serve::run(&options).map_err(Failure::from),
        Ok(cli::Task::Connect(options)) => connect::run(&options),
        Err(exit) => return exit,
    };
    log::logger().flush();
    let (message, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => (message, ExitCode::FAILURE),
        Err(Failure::Usage(mistake)) => (mistake.to_string(), ExitCode::from(2)),
    };
    let _ = writeln!(io::stderr(), "error: {message}");
    status
}
