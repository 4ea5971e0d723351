//! What the commands share: where the log goes, what signals do, and lines on standard output.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crate::cli::LogOptions;
use crate::log_output::LogOutput;
use crate::log_thread;

/// Sends the log to standard error, and to the log file if there is one.
pub(crate) fn start_log(options: &LogOptions) -> Result<(), String> {
    let open = |path: &PathBuf| {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.map_err(|error| format!("cannot write the log file {}: {error}", path.display()))
    };
    let file = options.file.as_ref().map(open).transpose()?;
    log_thread::start(options.level, LogOutput::new(file))
}

/// Starts a thread that ends with the program.
pub(crate) fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

/// Calls `end` at the first signal, and ends the program at the second.
pub(crate) fn on_signals(end: impl Fn() + Send + 'static) -> Result<(), String> {
    /// What shells report for a process that SIGINT ended.
    const INTERRUPTED: i32 = 130;
    let is_second = AtomicBool::new(false);
    let on_signal = move || {
        if is_second.swap(true, SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        end();
        log::info!("shutting down; another signal ends at once");
    };
    ctrlc::set_handler(on_signal).map_err(|error| format!("cannot handle signals: {error}"))
}

/// Prints a line on standard output, and logs it if there is a log file. A standard output that was closed is no reason
/// to stop serving.
pub(crate) fn say(options: &LogOptions, line: &str) {
    if options.file.is_some() {
        log::info!("{line}");
    }
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
