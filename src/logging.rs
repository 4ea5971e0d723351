//! The library's log: every line passes here on its way to the application's logger.
//!
//! A logger is foreign code. It may block, panic, or call back through a handle. So logging only puts a line into a
//! bounded queue, and a thread of its own, `heartwire-log`, calls the logger. Lines for which there is no room are lost
//! and counted. Before that thread starts and after it has ended, the logger is called where the line arises.
//!
//! Invariants: the logger runs in no thread of ours that keeps a deadline, and with no lock of ours held; the rest of
//! the library logs in no other way (clippy.toml ensures that).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, Record};

use crate::escape::Escaped;
use crate::foreign;

/// The log of one server or client.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Protects the queue and its counters; taken for moments only.
    state: Mutex<State>,
    /// Signalled when there is a line for the thread, when the thread has to end, and when it has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    lines: VecDeque<Line>,
    /// The memory that the lines use.
    size: usize,
    /// How many lines were lost, and how many of these the log does not report yet.
    lost: u64,
    unreported: u64,
    /// Whether the logger has panicked, which is logged once.
    has_panicked: bool,
}

/// The state of the thread.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is no thread: the logger is called where a line arises.
    #[default]
    Direct,
    Running,
    /// The thread ends when the queue is empty.
    Ending,
}

#[derive(Debug)]
struct Line {
    level: Level,
    text: String,
}

impl Log {
    /// How much memory the waiting lines may use: about 20,000 lines of the usual length.
    const LIMIT: usize = 4 << 20;

    /// How long the end of a server or client waits for its last lines to be logged.
    const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

    pub(crate) fn error(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Error, text);
    }

    pub(crate) fn warn(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Warn, text);
    }

    pub(crate) fn info(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Info, text);
    }

    pub(crate) fn debug(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Debug, text);
    }

    pub(crate) fn trace(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Trace, text);
    }

    /// Not to be called with a lock held: without the thread it calls the logger.
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let line = Line { level, text: Escaped(text).to_string() };
        let mut state = self.lock();
        if state.phase == Phase::Direct {
            drop(state);
            self.deliver(&line);
        } else if state.push(line) {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// How many lines were lost because the logger was behind or has panicked.
    pub(crate) fn lost(&self) -> u64 {
        self.lock().lost
    }

    // The thread.

    /// The thread is about to start: from now on lines are queued for it.
    pub(crate) fn start_queueing(&self) {
        self.lock().phase = Phase::Running;
    }

    /// The thread: calls the logger for each line until it is told to end.
    pub(crate) fn run(&self) {
        /// Stops the queueing however the thread ends, so that nobody waits for it.
        struct StopOnDrop<'a>(&'a Log);
        impl Drop for StopOnDrop<'_> {
            fn drop(&mut self) {
                self.0.stop_queueing();
            }
        }
        let _stop_on_drop = StopOnDrop(self);
        while let Some(line) = self.next() {
            self.deliver(&line);
        }
    }

    /// There is no thread any more: lines are no longer queued.
    pub(crate) fn stop_queueing(&self) {
        self.lock().phase = Phase::Direct;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Line> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.pop() {
                return Some(line);
            }
            if state.phase == Phase::Ending {
                // From here on the thread takes no more lines.
                state.phase = Phase::Direct;
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the thread to log what waits and to end. Whether it has ended: a logger that blocks is waited for no
    /// longer than [`FLUSH_TIMEOUT`](Self::FLUSH_TIMEOUT).
    pub(crate) fn end(&self) -> bool {
        let deadline = Instant::now() + Self::FLUSH_TIMEOUT;
        let mut state = self.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Ending;
        }
        self.changed.notify_all();
        while state.phase == Phase::Ending {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn deliver(&self, line: &Line) {
        let Err(panic) = call_logger(line.level, &line.text) else { return };
        let is_first = {
            let mut state = self.lock();
            state.lost += 1;
            !std::mem::replace(&mut state.has_panicked, true)
        };
        if is_first {
            // If the logger panics again, only the counter tells.
            let _ = call_logger(Level::Error, &format!("the logger panicked: {panic}; a line was lost"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Queues a line. Whether there was room for it.
    fn push(&mut self, line: Line) -> bool {
        if self.size + line.size() > Log::LIMIT {
            self.lost += 1;
            self.unreported += 1;
            return false;
        }
        self.queue_loss_report();
        self.size += line.size();
        self.lines.push_back(line);
        true
    }

    fn pop(&mut self) -> Option<Line> {
        if self.lines.is_empty() {
            self.queue_loss_report();
            self.lines.shrink_to(64);
        }
        let line = self.lines.pop_front()?;
        self.size -= line.size();
        Some(line)
    }

    /// Queues a line in the place of lost lines that says how many there were.
    fn queue_loss_report(&mut self) {
        let unreported = std::mem::take(&mut self.unreported);
        if unreported > 0 {
            let text = format!("log lines lost: {unreported}, because the logger could not keep up");
            let line = Line { level: Level::Warn, text };
            self.size += line.size();
            self.lines.push_back(line);
        }
    }
}

impl Line {
    fn size(&self) -> usize {
        self.text.len() + size_of::<Self>()
    }
}

/// Calls the logger; nothing else does. The error is the message of the logger's panic.
fn call_logger(level: Level, text: &str) -> Result<(), String> {
    const TARGET: &str = "heartwire";
    foreign::call(|| {
        let mut record = Record::builder();
        record.level(level).target(TARGET).module_path_static(Some(TARGET));
        log::logger().log(&record.args(format_args!("{text}")).build());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { level: Level::Info, text: text.to_owned() }
    }

    fn texts(state: &mut State) -> Vec<String> {
        std::iter::from_fn(|| state.pop()).map(|line| line.text).collect()
    }

    #[test]
    fn lost_lines_are_reported_in_their_place() {
        let mut state = State::default();
        let large = "x".repeat(Log::LIMIT / 2 - 100);
        assert!(state.push(line(&large)) && state.push(line(&large)));
        assert!(!state.push(line(&large)) && !state.push(line(&large)));
        assert_eq!(state.pop().unwrap().text, large);
        assert!(state.push(line("there is room again")));
        let lost = "log lines lost: 2, because the logger could not keep up";
        assert_eq!(texts(&mut state), [&large, lost, "there is room again"]);
        assert_eq!((state.lost, state.size), (2, 0));
    }

    #[test]
    fn lost_lines_are_reported_even_if_nothing_more_is_logged() {
        let mut state = State::default();
        assert!(!state.push(line(&"x".repeat(Log::LIMIT))));
        assert_eq!(texts(&mut state), ["log lines lost: 1, because the logger could not keep up"]);
        assert_eq!(state.size, 0);
    }

    #[test]
    fn nothing_is_queued_after_the_thread_has_emptied_the_queue_at_its_end() {
        let log = Log::default();
        log.start_queueing();
        assert!(log.lock().push(line("the last")));
        log.lock().phase = Phase::Ending;
        assert_eq!(log.next().unwrap().text, "the last");
        assert!(log.next().is_none());
        assert_eq!(log.lock().phase, Phase::Direct, "the logger is called directly from now on");
    }
}
