//! What both commands share: where the log goes, what signals do, and lines on standard output.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use simplelog::{
    ColorChoice, CombinedLogger, ConfigBuilder, LevelPadding, SharedLogger, TermLogger, TerminalMode, WriteLogger,
};
use time::macros::format_description;

use crate::cli::LogOptions;
use crate::{log_thread, systemd};

/// Sends the log to standard error, and to the log file if there is one.
pub(crate) fn start_log(options: &LogOptions) -> Result<(), String> {
    let level = options.level;
    let config = ConfigBuilder::new()
        .set_time_format_custom(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .set_level_padding(LevelPadding::Right)
        .set_thread_level(log::LevelFilter::Off)
        .set_target_level(log::LevelFilter::Debug)
        .set_location_level(log::LevelFilter::Off)
        .build();
    // Standard output is for the lines of `say`, and for messages.
    let color = if io::stderr().is_terminal() { ColorChoice::Auto } else { ColorChoice::Never };
    let terminal = TermLogger::new(level, config.clone(), TerminalMode::Stderr, color);
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![systemd::journal_logger(level).unwrap_or(terminal)];
    if let Some(path) = &options.file {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("cannot write the log file {}: {error}", path.display()))?;
        loggers.push(WriteLogger::new(level, config, file));
    }
    log_thread::start(level, CombinedLogger::new(loggers))
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
