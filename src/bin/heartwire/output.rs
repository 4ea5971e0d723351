//! What the program's commands share: the log, signals, and lines on standard output.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use simplelog::{
    ColorChoice, CombinedLogger, ConfigBuilder, LevelPadding, SharedLogger, TermLogger, TerminalMode, WriteLogger,
};
use time::macros::format_description;

use crate::cli::LogOptions;
use crate::log_thread;

/// Starts the log.
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
    // Standard output is for the program's own few lines.
    let color = if io::stderr().is_terminal() { ColorChoice::Auto } else { ColorChoice::Never };
    let terminal = TermLogger::new(level, config.clone(), TerminalMode::Stderr, color);
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![terminal];
    if let Some(path) = &options.file {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("cannot write the log file {}: {error}", path.display()))?;
        loggers.push(WriteLogger::new(level, config, file));
    }
    log_thread::start(level, CombinedLogger::new(loggers))
}

/// The first signal asks for an end, the second one is the end.
pub(crate) fn on_signals(end: impl Fn() + Send + 'static) -> Result<(), String> {
    /// What shells give to a process that was ended by SIGINT.
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

/// A line on standard output, and in the log file. That standard output may have been closed is no reason to stop
/// serving.
pub(crate) fn say(options: &LogOptions, line: &str) {
    if options.file.is_some() {
        log::info!("{line}");
    }
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
