//! What joins the protocol of topics to the connection: any thread may ask for something, and whoever does sends what
//! is due by itself, without waiting.
//!
//! Invariants:
//! - Frames leave in the order in which the protocol gives them: one thread at a time takes one and sends it.
//! - Nobody waits for the peer. What finds the queue full is given back, and leaves when the queue has emptied.
//! - Nothing that is due is forgotten: whoever makes something due sends afterwards, and so do the reply that makes
//!   room for more, the queue that empties, and the connection that opens.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::protocol::{Frame, Output, Protocol};
use crate::connection::observer::Observer;
use crate::connection::shared::Shared;
use crate::connection::suspension;
use crate::error::TrySendError;
use crate::message::Message;
use crate::transport::write_half::Wait;

/// So many frames one call sends at most. Then others have their turn.
const MOST_AT_ONCE: usize = 256;

/// What a client of topics, its handles and its connection share.
pub(super) struct Link {
    /// Protects whose frame is next. Held while a frame is sent, which neither waits nor runs foreign code.
    turn: Mutex<()>,
    /// Protects the protocol, and which connection is open. It is never held while something is sent.
    state: Mutex<State>,
    begun: Instant,
    suspended_before: Duration,
}

pub(super) struct State {
    pub(super) protocol: Protocol,
    line: Option<Arc<Shared>>,
    /// The thread that takes the replies.
    runs_in: Option<ThreadId>,
}

/// An open connection. Dropping this ends it for the protocol.
pub(super) struct OpenLine<'a>(&'a Link);

/// A client that may still run. Dropping this ends it for the protocol, and for all who wait.
#[derive(Debug)]
pub(super) struct Life(pub(super) Arc<Link>);

impl Link {
    pub(super) fn new(protocol: Protocol) -> Self {
        let state = State { protocol, line: None, runs_in: None };
        let (begun, suspended_before) = (Instant::now(), suspension::so_far());
        Self { turn: Mutex::default(), state: Mutex::new(state), begun, suspended_before }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, of which suspension is a part: servers do not sleep while we do, and forget keys.
    pub(super) fn now(&self) -> Instant {
        let suspended = suspension::so_far().saturating_sub(self.suspended_before);
        self.begun + self.begun.elapsed() + suspended
    }

    /// This thread takes the replies from now on.
    pub(super) fn runs_here(&self) {
        self.lock().runs_in = Some(thread::current().id());
    }

    /// Whether this thread is the one that takes the replies.
    pub(super) fn is_running_here(&self) -> bool {
        self.lock().runs_in == Some(thread::current().id())
    }

    /// A connection has opened.
    pub(super) fn open(self: &Arc<Self>, line: &Arc<Shared>) -> OpenLine<'_> {
        line.observe(Arc::new(Watch(Arc::clone(self))));
        {
            let mut state = self.lock();
            state.protocol.opened();
            state.line = Some(Arc::clone(line));
        }
        OpenLine(self)
    }

    pub(super) fn next_output(&self) -> Option<Output> {
        self.lock().protocol.next_output()
    }

    /// Sends what is due.
    pub(super) fn send_due(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MOST_AT_ONCE {
            let now = self.now();
            let (line, frame) = {
                let mut state = self.lock();
                let Some(line) = state.line.clone() else { return };
                let Some(frame) = state.protocol.next_frame(now) else { return };
                (line, frame)
            };
            if try_send(&line, &frame).is_err() {
                // If the queue is full, there is a drainer, which calls again when it is done. If the connection has
                // ended, all is due again on the next.
                self.lock().protocol.give_back(&frame);
                return;
            }
        }
    }
}

fn try_send(line: &Arc<Shared>, frame: &Frame) -> Result<(), TrySendError<Message>> {
    // A secret is not compressed beside what others may have chosen.
    #[cfg(feature = "deflate")]
    if frame.is_secret {
        return line.try_send_uncompressed(frame.message.clone(), Wait::No);
    }
    line.try_send(frame.message.clone(), Wait::No)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There are tokens and messages in it.
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Drop for OpenLine<'_> {
    fn drop(&mut self) {
        // Dropped without the lock: it may be the last that is left of the connection.
        let _line = {
            let mut state = self.0.lock();
            state.protocol.closed();
            state.line.take()
        };
    }
}

impl Life {
    pub(super) fn end(&self) {
        let mut state = self.0.lock();
        state.runs_in = None;
        state.protocol.end();
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end();
    }
}

/// The observer of a client's connection.
struct Watch(Arc<Link>);

impl Observer for Watch {
    fn queue_emptied(&self) {
        self.0.send_due();
    }

    fn thread_ends(&self) {}
}
