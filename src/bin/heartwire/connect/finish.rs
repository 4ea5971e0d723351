//! The end of `heartwire connect` once its input is over: when everything is sent, or when it is no use to go on.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{ClientHandle, Event, Sender};

use super::input::Input;

/// How often to look whether the connection has taken what waits in its queue.
const LOOK: Duration = Duration::from_millis(20);

/// An attempt to connect that takes longer is worth a word.
const SOON: Duration = Duration::from_secs(1);

/// What the threads of the client share.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) input: Input,
    /// The newest connection. Held for moments only.
    sender: Mutex<Option<Sender>>,
    /// What went wrong beside the connection.
    failure: OnceLock<String>,
}

/// What is still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    lines: usize,
    /// Bytes in the queue of the connection; `None` while it is just opening.
    queued: Option<usize>,
}

impl Rest {
    /// Whether something was sent since.
    fn is_less_than(self, before: Self) -> bool {
        self.lines < before.lines || self.queued.zip(before.queued).is_some_and(|(now, before)| now < before)
    }
}

impl Progress {
    /// There is a new connection.
    pub(super) fn opened(&self, sender: Sender) {
        *self.sender() = Some(sender);
    }

    pub(super) fn failed(&self, failure: String) {
        // The first failure is the one to be told.
        let _ = self.failure.set(failure);
    }

    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.get()
    }

    /// The input is over. Stops the client when everything is sent, when nothing is left to send and there is no
    /// connection, or when nothing could be sent for `timeout`.
    pub(super) fn finish(&self, handle: &ClientHandle, timeout: Duration) {
        let for_long = humantime::format_duration(timeout);
        let events = handle.events();
        let over = Instant::now();
        let mut rest = self.rest(handle);
        let mut deadline = over + timeout;
        let mut is_told = false;
        while !handle.has_ended() {
            let before = std::mem::replace(&mut rest, self.rest(handle));
            if rest.is_less_than(before) {
                deadline = Instant::now() + timeout;
            }
            let failed_attempt = events.try_iter().find_map(|event| match event {
                Event::ConnectFailed { error, .. } => Some(error),
                _ => None,
            });
            match (rest, self.was_connected(), failed_attempt) {
                (Rest { lines: 0, queued: Some(0) }, true, _) => return handle.stop(),
                // Nothing to send: whether there is a server is all there was to find out.
                (Rest { lines: 0, .. }, false, Some(error)) => {
                    self.failed(error);
                    return handle.stop();
                }
                (Rest { lines, .. }, was_connected, _) if Instant::now() >= deadline => {
                    if lines == 0 && !was_connected {
                        self.failed(format!("no connection within {for_long}"));
                    }
                    return handle.stop();
                }
                (Rest { lines: lines @ 1.., .. }, _, failed_attempt)
                    if !is_told && !handle.is_connected() && (failed_attempt.is_some() || over.elapsed() >= SOON) =>
                {
                    is_told = true;
                    log::warn!("{} for a connection, for {for_long} at most", waiting(lines));
                }
                _ => {}
            }
            match rest.lines {
                0 => thread::sleep(LOOK),
                _ => self.input.wait_taken(LOOK),
            }
        }
    }

    fn rest(&self, handle: &ClientHandle) -> Rest {
        // In this order: a line that leaves in between is in both, and not in neither.
        let lines = self.input.waiting();
        let queued = match &*self.sender() {
            Some(sender) if !sender.is_closed() => Some(sender.queued()),
            // One has just opened, and its handler is about to tell us.
            _ if handle.is_connected() => None,
            _ => Some(0),
        };
        Rest { lines, queued }
    }

    fn was_connected(&self) -> bool {
        self.sender().is_some()
    }

    fn sender(&self) -> MutexGuard<'_, Option<Sender>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read or accepted and never sent, in words, when the client has ended.
    pub(super) fn unsent(&self, handle: &ClientHandle) -> Option<String> {
        let (lines, bytes) = (self.input.left(), handle.stats().traffic.unsent);
        let of_lines = match lines {
            0 => None,
            1 => Some("1 line".to_owned()),
            lines => Some(format!("{lines} lines")),
        };
        let of_bytes = (bytes > 0).then(|| format!("{bytes} B that a lost connection had accepted"));
        let parts: Vec<_> = [of_lines, of_bytes].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("not sent: {}", parts.join(" and ")))
    }
}

fn waiting(lines: usize) -> String {
    if lines == 1 { "1 line waits".to_owned() } else { format!("{lines} lines wait") }
}
