//! The library's log: each of its lines passes here on its way to the application's logger.
//!
//! A logger is foreign code. It may block, panic, or come back to us through a handle. So whoever logs only puts a line
//! into a bounded queue, and a thread that does nothing else, `heartwire-log`, hands it over. Lines for which there is no
//! room are lost, and counted. Before that thread begins and after it has ended, lines are handed over where they arise.
//!
//! Invariants: the logger runs in no thread of ours that keeps a deadline, and with no lock of ours held; the rest of the
//! library logs in no other way (clippy.toml sees to that).

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
    /// Signalled when there is a line for the thread, when it is to end, and when it has.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    lines: VecDeque<Line>,
    /// What the lines take of memory.
    size: usize,
    /// Lines lost so far, and how many of them the logger was not told of yet.
    lost: u64,
    unreported: u64,
    /// The logger has panicked, and was told so.
    has_panicked: bool,
}

/// Where the thread is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none: whoever logs calls the logger.
    #[default]
    Direct,
    Running,
    /// It ends when the queue is empty.
    Ending,
}

#[derive(Debug)]
struct Line {
    level: Level,
    text: String,
}

impl Log {
    /// What the lines that wait may take of memory: some 20,000 of the usual length.
    const LIMIT: usize = 4 << 20;

    /// How long the end of a server or client waits for lines to get out.
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

    /// Not to be called with a lock held, for without the thread it calls the logger.
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

    /// How many lines were lost, for the logger was behind or has panicked.
    pub(crate) fn lost(&self) -> u64 {
        self.lock().lost
    }

    // The thread.

    /// Its thread is about to begin.
    pub(crate) fn start_queueing(&self) {
        self.lock().phase = Phase::Running;
    }

    /// The thread: hands lines over until it is told to end.
    pub(crate) fn run(&self) {
        /// Whatever ends the thread.
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

    /// There is no thread any more: nobody waits for it.
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
                // From here on nobody would come for a line.
                state.phase = Phase::Direct;
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has the thread hand over what waits, and end. Whether it has ended: a logger that blocks is not waited for.
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
            // If that does not work either, the counter is all that there is to know it by.
            let _ = call_logger(Level::Error, &format!("the logger panicked: {panic}; a line was lost"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there was room for it.
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

    /// Where lines are missing, a line says how many.
    fn queue_loss_report(&mut self) {
        let unreported = std::mem::take(&mut self.unreported);
        if unreported > 0 {
            let text = format!("lines of the log that were lost: {unreported}, because the logger was behind");
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

/// The one place where the logger is called. The message of its panic, if it panics.
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
    fn what_was_lost_is_told_in_its_place() {
        let mut state = State::default();
        let large = "x".repeat(Log::LIMIT / 2 - 100);
        assert!(state.push(line(&large)) && state.push(line(&large)));
        assert!(!state.push(line(&large)) && !state.push(line(&large)));
        assert_eq!(state.pop().unwrap().text, large);
        assert!(state.push(line("there is room again")));
        let lost = "lines of the log that were lost: 2, because the logger was behind";
        assert_eq!(texts(&mut state), [&large, lost, "there is room again"]);
        assert_eq!((state.lost, state.size), (2, 0));
    }

    #[test]
    fn what_was_lost_is_told_also_if_nothing_more_is_logged() {
        let mut state = State::default();
        assert!(!state.push(line(&"x".repeat(Log::LIMIT))));
        assert_eq!(texts(&mut state), ["lines of the log that were lost: 1, because the logger was behind"]);
        assert_eq!(state.size, 0);
    }

    #[test]
    fn nothing_is_queued_any_more_once_the_thread_has_found_the_queue_empty_at_its_end() {
        let log = Log::default();
        log.start_queueing();
        assert!(log.lock().push(line("the last")));
        log.lock().phase = Phase::Ending;
        assert_eq!(log.next().unwrap().text, "the last");
        assert!(log.next().is_none());
        assert_eq!(log.lock().phase, Phase::Direct, "whoever logs now hands its line over itself");
    }
}
