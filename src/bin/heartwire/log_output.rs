//! How lines of the log look, and where they go: to standard error, and to the log file if there is one.

use std::fs::File;
use std::io::{self, Write};
use std::time::SystemTime;

use anstream::{AutoStream, ColorChoice};
use log::Level;

use crate::systemd;

/// Ends what [`color`] begins.
const RESET: &str = "\x1b[0m";

/// The outputs of the log.
pub(crate) struct LogOutput {
    stderr: Stderr,
    file: Option<File>,
}

enum Stderr {
    /// The journal knows the time of each line by itself, and is told the level as a priority (sd-daemon(3)).
    Journal,
    Terminal(AutoStream<io::Stderr>),
    /// A file or a pipe, or a terminal that is to show no colors.
    Plain,
}

impl LogOutput {
    pub(crate) fn new(file: Option<File>) -> Self {
        let stderr = match AutoStream::choice(&io::stderr()) {
            _ if systemd::logs_to_journal() => Stderr::Journal,
            ColorChoice::Never => Stderr::Plain,
            choice => Stderr::Terminal(AutoStream::new(io::stderr(), choice)),
        };
        Self { stderr, file }
    }

    /// Writes a line. Each output gets it in one piece, so that no other program's gets between its parts. One that
    /// fails is no reason to stop serving.
    pub(crate) fn write(&mut self, level: Level, target: &str, text: &str) {
        // A clock that was never set may show any time, and an earlier one has no spelling.
        let now = SystemTime::now().max(SystemTime::UNIX_EPOCH);
        let _ = match &mut self.stderr {
            Stderr::Journal => io::stderr().write_all(format!("<{}>{text}\n", priority(level)).as_bytes()),
            Stderr::Terminal(stderr) => stderr.write_all(line(now, level, color(level), target, text).as_bytes()),
            Stderr::Plain => io::stderr().write_all(line(now, level, "", target, text).as_bytes()),
        };
        if let Some(file) = &mut self.file {
            let _ = file.write_all(line(now, level, "", target, text).as_bytes());
        }
    }
}

fn line(time: SystemTime, level: Level, color: &str, target: &str, text: &str) -> String {
    let time = humantime::format_rfc3339_millis(time);
    let reset = if color.is_empty() { "" } else { RESET };
    let level_name = level.as_str();
    // Where a line comes from is for those who look into the program.
    let (target, colon) = if level >= Level::Debug { (target, ": ") } else { ("", "") };
    format!("{time} {color}[{level_name:<5}]{reset} {target}{colon}{text}\n")
}

fn color(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[34m",
        Level::Debug => "\x1b[36m",
        Level::Trace => "\x1b[37m",
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_has_time_and_level_and_below_info_its_source() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_809_555_042);
        let line = |level, color| line(time, level, color, "heartwire::server", "it listens");
        assert_eq!(line(Level::Warn, ""), "2026-11-27T19:59:15.042Z [WARN ] it listens\n");
        assert_eq!(line(Level::Debug, ""), "2026-11-27T19:59:15.042Z [DEBUG] heartwire::server: it listens\n");
        let red = "2026-11-27T19:59:15.042Z \x1b[31m[ERROR]\x1b[0m it listens\n";
        assert_eq!(line(Level::Error, color(Level::Error)), red);
    }
}
