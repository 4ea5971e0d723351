//! Lines of standard input that wait to be sent. They are read ahead, up to a bound, so that the end of the input is
//! noticed even without a connection.

use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heartwire::Message;

/// A queue with one thread at each end.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Never held across a call that can block.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    bytes: usize,
    /// The first of those that wait is being sent.
    is_sending: bool,
    is_over: bool,
}

impl Input {
    /// Bytes that may wait. Beyond that, whoever writes our input has to wait.
    const READ_AHEAD: usize = 16 * 1024 * 1024;

    /// Reads to the end.
    pub(crate) fn read(&self, input: impl BufRead) -> Result<(), String> {
        let mut lines = input.lines();
        let result = loop {
            match lines.next() {
                Some(Ok(line)) => {
                    if !self.push(Message::from(line)) {
                        // Nobody wants more.
                        break Ok(());
                    }
                }
                Some(Err(error)) => break Err(format!("cannot read standard input: {error}")),
                None => break Ok(()),
            }
        };
        self.end();
        result
    }

    /// There are no more lines, or nobody wants them.
    pub(crate) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Whether there are no more lines than those that wait.
    #[cfg(feature = "topics")]
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Adds a line, once there is room. Returns whether it was wanted.
    pub(crate) fn push(&self, message: Message) -> bool {
        let is_full = |state: &mut State| !state.is_over && !state.waiting.is_empty() && state.bytes > Self::READ_AHEAD;
        let mut state = self.changed.wait_while(self.lock(), is_full).unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return false;
        }
        state.bytes += message.len();
        state.waiting.push_back(message);
        self.changed.notify_all();
        true
    }

    /// Gives each line to `send`, again if that asks to retry, until the input is over or `send` gives up.
    pub(crate) fn send_all(&self, mut send: impl FnMut(Message) -> Delivery) {
        loop {
            let is_idle = |state: &mut State| state.waiting.is_empty() && !state.is_over;
            let mut state = self.changed.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
            let Some(message) = state.waiting.front().cloned() else { return };
            state.is_sending = true;
            drop(state);
            let delivery = send(message);
            let mut state = self.lock();
            state.is_sending = false;
            if delivery == Delivery::Taken {
                state.bytes -= state.waiting.pop_front().map_or(0, |message| message.len());
            }
            self.changed.notify_all();
            if delivery == Delivery::GivenUp {
                return;
            }
        }
    }

    /// How many lines wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many lines were not taken, when the client has ended: a line that is being sent just now may come to its own
    /// end first.
    pub(crate) fn left(&self) -> usize {
        const MOMENT: Duration = Duration::from_secs(1);
        let waited = self.changed.wait_timeout_while(self.lock(), MOMENT, |state| state.is_sending);
        waited.unwrap_or_else(PoisonError::into_inner).0.waiting.len()
    }

    /// Waits until no line waits any more, but not for longer than this.
    pub(crate) fn wait_taken(&self, timeout: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), timeout, |state| !state.waiting.is_empty()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Taken,
    Retry,
    GivenUp,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn lines_leave_in_order_once_each_however_often_they_are_offered() {
        let input = Input::default();
        input.read(&b"one\n\nthree"[..]).unwrap();
        let mut offered = Vec::new();
        input.send_all(|message| {
            offered.push(message);
            if offered.len() % 2 == 0 { Delivery::Taken } else { Delivery::Retry }
        });
        let expected: Vec<_> = ["one", "one", "", "", "three", "three"].map(Message::from).into();
        assert_eq!(offered, expected);
        assert_eq!(input.left(), 0);
    }

    #[test]
    fn what_was_not_taken_is_left() {
        let input = Input::default();
        input.read(&b"one\ntwo\nthree\n"[..]).unwrap();
        let mut answers = [Delivery::Taken, Delivery::GivenUp].into_iter();
        input.send_all(|_| answers.next().unwrap());
        assert_eq!(input.left(), 2);
    }

    #[test]
    fn the_reader_waits_at_the_bound_and_goes_on_below_it() {
        let input = Arc::new(Input::default());
        let line = "x".repeat(Input::READ_AHEAD);
        let text = format!("{line}\n{line}\n{line}\n");
        let reader = thread::spawn({
            let input = Arc::clone(&input);
            move || input.read(text.as_bytes())
        });
        while input.waiting() < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!reader.is_finished(), "over the bound, and not over");
        let mut count = 0;
        input.send_all(|_| {
            count += 1;
            Delivery::Taken
        });
        assert_eq!(count, 3);
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn input_that_is_no_text_is_an_error_after_what_was_read() {
        let input = Input::default();
        let error = input.read(&b"one\n\xff\n"[..]).unwrap_err();
        assert!(error.starts_with("cannot read standard input: "), "{error}");
        assert_eq!(input.waiting(), 1);
    }
}
