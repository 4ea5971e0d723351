//! The program's logger: a bounded queue, and a thread that writes what it holds to standard error and the log file.
//!
//! The library's lines come from a thread that may wait for a logger. The program's own lines do not: they come from
//! the thread that waits for signals, from the handler of `heartwire connect`, from the end of its input, and from
//! `main` after the server has ended. A terminal that is stopped, or a pipe that nobody reads, must hold up none of
//! these, above all not the second Ctrl-C. So nobody who logs waits: lines for which there is no room are lost, and
//! counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::log_output::LogOutput;

/// Lines that may wait.
const QUEUE: usize = 4096;

/// How long the end of the program waits for lines to get out.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The queue's entrance.
struct LogQueue {
    level: LevelFilter,
    lines: Sender<Line>,
    lost: Arc<AtomicUsize>,
}

enum Line {
    Record {
        level: Level,
        target: String,
        text: String,
    },
    /// Everything before this was written.
    Flush(Sender<()>),
}

/// Starts the thread that writes to `output`, and makes the queue before it the program's logger.
pub(crate) fn start(level: LevelFilter, output: LogOutput) -> Result<(), String> {
    let (lines, queue) = bounded(QUEUE);
    let lost = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&lost);
    let writer = thread::Builder::new().name("heartwire-output".to_owned());
    writer.spawn(move || write_all(&queue, output, &counter)).map_err(|error| error.to_string())?;
    log::set_boxed_logger(Box::new(LogQueue { level, lines, lost })).map_err(|error| error.to_string())?;
    log::set_max_level(level);
    Ok(())
}

fn write_all(queue: &Receiver<Line>, mut output: LogOutput, lost: &AtomicUsize) {
    for line in queue {
        match line {
            Line::Record { level, target, text } => output.write(level, &target, &text),
            // Nothing is buffered.
            Line::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let lost = lost.swap(0, Relaxed);
        if lost > 0 {
            let text = format!("{lost} lines of the log were lost: the output was blocked");
            output.write(Level::Warn, module_path!(), &text);
        }
    }
}

/// Whether a target is the library, the program, or a module of theirs.
fn is_ours(target: &str) -> bool {
    target.split("::").next() == Some("heartwire")
}

impl Log for LogQueue {
    /// Lines of our own only: at trace, tungstenite would dump every frame.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level && is_ours(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, target) = (record.level(), record.target().to_owned());
        let line = Line::Record { level, target, text: record.args().to_string() };
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was logged is written, for [`LAST_WAIT`] each for room in the queue and for the output.
    fn flush(&self) {
        let (done, written) = bounded(1);
        if self.lines.send_timeout(Line::Flush(done), LAST_WAIT).is_ok() {
            let _ = written.recv_timeout(LAST_WAIT);
        }
    }
}
