//! The `heartwire` program: a WebSocket server with a heartbeat, ready to run.

mod cli;
mod log_thread;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(options) => serve::run(options),
        Err(exit) => exit,
    }
}
