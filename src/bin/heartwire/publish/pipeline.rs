//! The messages that are on their way: handed over by one thread, settled in their order by another.
//!
//! Invariants:
//! - A line that was read is either confirmed or named in the outcome.
//! - After the first that is not confirmed no other is handed over, and those that are on their way come to their end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heartwire::topics::Published;
use heartwire::{Message, PendingPublish, PublishError};

use crate::input::{Delivery, Input};

/// How often to look whether the input is over, while a reply is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// So many groups of lines are named.
const MOST_NAMED: usize = 8;

#[derive(Default)]
pub(super) struct Pipeline {
    pub(super) input: Input,
    /// Protects what is on its way. Never held across a call that can block.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the numbers of their lines, oldest first.
    pending: VecDeque<(u64, PendingPublish)>,
    /// How many lines were handed over.
    lines: u64,
    /// No more are handed over.
    is_handed_over: bool,
    is_settled: bool,
    published: u64,
    unconfirmed: Lines,
    /// The first reason for which a line is not confirmed, and its line.
    first: Option<(u64, PublishError)>,
    /// Another failure.
    failure: Option<String>,
}

/// What came of it all.
pub(super) struct Outcome {
    pub(super) published: u64,
    /// What went wrong, in words.
    pub(super) causes: Vec<String>,
}

/// Numbers of lines, in rising order, as groups from one to another.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines(Vec<(u64, u64)>);

impl Pipeline {
    /// Hands over all lines as they are read, until one is not confirmed.
    ///
    /// The first line goes alone: a server that refuses one refuses all, and is to be asked once.
    pub(super) fn hand_over_all(&self, publish: impl Fn(Message) -> Result<PendingPublish, PublishError>) {
        self.input.send_all(|message| self.hand_over(message, &publish));
        self.lock().is_handed_over = true;
        self.changed.notify_all();
    }

    /// Hands over a line, once there is room for it.
    fn hand_over(
        &self,
        message: Message,
        publish: impl Fn(Message) -> Result<PendingPublish, PublishError>,
    ) -> Delivery {
        let has_to_wait = |state: &mut State| state.lines == 1 && state.published == 0 && state.first.is_none();
        let state = self.changed.wait_while(self.lock(), has_to_wait).unwrap_or_else(PoisonError::into_inner);
        if state.first.is_some() {
            return Delivery::GivenUp;
        }
        drop(state);
        let handed_over = publish(message);
        let mut state = self.lock();
        let line = state.lines + 1;
        match handed_over {
            Ok(pending) => state.pending.push_back((line, pending)),
            Err(PublishError::Full) => {
                // Those before it make room.
                let before = state.pending.len();
                let is_full = |state: &mut State| before > 0 && state.pending.len() == before && state.first.is_none();
                drop(self.changed.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner));
                return Delivery::Retry;
            }
            Err(error) => state.not_confirmed(line, error),
        }
        state.lines = line;
        self.changed.notify_all();
        Delivery::Taken
    }

    /// Something has failed that is no line's.
    pub(super) fn fail(&self, failure: String) {
        self.lock().failure.get_or_insert(failure);
    }

    /// Takes the outcomes of all lines, until the last is settled, and stops the client then. After the end of the
    /// input, gives up when there was none for `timeout`. When a line is refused, the client is stopped before those
    /// after it are sent.
    pub(super) fn settle_all(&self, timeout: Duration, stop: impl Fn()) {
        let mut progress = Instant::now();
        loop {
            let is_idle = |state: &mut State| state.pending.is_empty() && !state.is_handed_over;
            let mut state = self.changed.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
            let Some((line, pending)) = state.pending.pop_front() else { break };
            drop(state);
            // There is room for another.
            self.changed.notify_all();
            let outcome = loop {
                if !self.input.is_over() {
                    progress = Instant::now();
                }
                let remaining = (progress + timeout).saturating_duration_since(Instant::now());
                match pending.wait_timeout(LOOK.min(remaining)) {
                    Some(outcome) => break outcome,
                    None if remaining.is_zero() => break Err(PublishError::Timeout),
                    None => {}
                }
            };
            // Those that are left have had as long.
            if outcome != Err(PublishError::Timeout) {
                progress = Instant::now();
            }
            if matches!(outcome, Err(PublishError::Refused(_))) {
                stop();
            }
            self.lock().settle(line, outcome);
            self.changed.notify_all();
        }
        stop();
        self.lock().is_settled = true;
        self.changed.notify_all();
    }

    /// What came of it, when the client has ended. Those that are still on their way have ended with it.
    pub(super) fn outcome(&self) -> Outcome {
        // A client that has ended by itself wants no more of it.
        self.input.end();
        let state = self.changed.wait_while(self.lock(), |state| !state.is_settled);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        // What was read and not handed over follows.
        for line in state.lines + 1..=state.lines + self.input.waiting() as u64 {
            state.unconfirmed.add(line);
        }
        let lines = (!state.unconfirmed.0.is_empty()).then(|| format!("not confirmed: {}", state.unconfirmed));
        // That the client has ended is told already.
        let first = state.first.as_ref().filter(|(_, error)| *error != PublishError::Closed);
        let first = first.map(|(line, error)| format!("line {line}: {error}"));
        Outcome {
            published: state.published,
            causes: [state.failure.clone(), first, lines].into_iter().flatten().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, line: u64, outcome: Result<Published, PublishError>) {
        match outcome {
            Ok(_) => self.published += 1,
            Err(error) => self.not_confirmed(line, error),
        }
    }

    fn not_confirmed(&mut self, line: u64, error: PublishError) {
        self.unconfirmed.add(line);
        self.first.get_or_insert((line, error));
    }
}

impl Lines {
    fn add(&mut self, line: u64) {
        let place = self.0.partition_point(|(_, last)| *last < line);
        match place.checked_sub(1).map(|before| &mut self.0[before]) {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => self.0.insert(place, (line, line)),
        }
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: u64 = self.0.iter().map(|(first, last)| last - first + 1).sum();
        let named = |(first, last): &(u64, u64)| match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        };
        let groups: Vec<_> = self.0.iter().take(MOST_NAMED).map(named).collect();
        let more = if self.0.len() > MOST_NAMED { ", and others" } else { "" };
        write!(f, "{} ({}{more})", counted(count, "line"), groups.join(", "))
    }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_named_in_groups() {
        let mut lines = Lines::default();
        for line in [3, 4, 5, 9, 12, 13, 8] {
            lines.add(line);
        }
        assert_eq!(lines.to_string(), "7 lines (3 to 5, 8, 9, 12 to 13)");
        (20..60).step_by(2).for_each(|line| lines.add(line));
        assert!(lines.to_string().ends_with(", and others)"), "{lines}");
        let mut one = Lines::default();
        one.add(1);
        assert_eq!(one.to_string(), "1 line (1)");
    }

    #[test]
    fn after_the_first_line_that_is_not_confirmed_no_other_is_handed_over_and_all_are_named() {
        let pipeline = Pipeline::default();
        pipeline.input.read(&b"one\ntwo\nthree\n"[..]).unwrap();
        pipeline.hand_over_all(|message| {
            assert_eq!(message, "one".into());
            Err(PublishError::TooLarge)
        });
        pipeline.settle_all(Duration::ZERO, || {});
        let outcome = pipeline.outcome();
        assert_eq!(outcome.published, 0);
        assert!(outcome.causes[0].starts_with("line 1: the message is larger"), "{:?}", outcome.causes);
        assert_eq!(outcome.causes[1], "not confirmed: 3 lines (1 to 3)");
    }
}
