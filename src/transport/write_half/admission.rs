//! Admission to the queue: which thread may queue a frame, and which threads wait for room.
//!
//! Invariants:
//! - A frame is admitted at once only if no other thread waits for room. Room thus goes to the waiting threads, in the
//!   order of their calls.
//! - A frame is refused as `Full` only while a drainer runs, or while one that has caught up waits for the line. So the
//!   word that the queue has emptied always follows.
//! - A waiting thread returns as soon as frames are no longer accepted, before the end of the connection.

use super::state::State;
use super::{Owner, Refused, Wait, WriteHalf};
use crate::transport::sync::MutexGuard;

impl<O: Owner> WriteHalf<O> {
    /// Takes the lock once there is room for a frame of this cost. A frame larger than the whole queue is admitted when
    /// nothing waits.
    #[inline(always)]
    pub(super) fn admit(&self, cost: usize, wait: Wait) -> Result<MutexGuard<'_, State<O::Socket>>, Refused> {
        let state = self.lock();
        if !state.close_state.accepts() {
            return Err(Refused::Closed);
        }
        if state.waiting.is_empty() && state.has_room(cost, self.queue_limit) {
            return Ok(state);
        }
        self.wait_for_room(state, cost, wait)
    }

    /// Whether a frame of this cost would be refused at once.
    #[cfg(any(feature = "deflate", feature = "topics"))]
    pub(crate) fn check_room(&self, cost: usize) -> Result<(), Refused> {
        let state = self.lock();
        if !state.close_state.accepts() {
            Err(Refused::Closed)
        } else if state.waiting.is_empty() && state.has_room(cost, self.queue_limit) {
            Ok(())
        } else {
            Err(Refused::Full)
        }
    }

    #[cold]
    fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<O::Socket>>,
        cost: usize,
        wait: Wait,
    ) -> Result<MutexGuard<'a, State<O::Socket>>, Refused> {
        // Take a place in the line.
        let ticket = state.waiting.join();
        let outcome = loop {
            // A Close frame, a failed write and the end refuse the frame, before any room counts.
            if !state.close_state.accepts() {
                break Err(Refused::Closed);
            }
            // Only the first in the line may take the room.
            if state.waiting.is_first(ticket) && state.has_room(cost, self.queue_limit) {
                break Ok(());
            }
            // Otherwise wait for progress, as long as the caller allows.
            state = match wait.remaining() {
                Ok(limit) => self.wait_for_progress(state, limit),
                Err(refused) => break Err(refused),
            };
        };
        let state = self.end_wait(state, ticket);
        outcome.map(|()| state)
    }

    /// Leaves the line.
    pub(super) fn end_wait<'a>(
        &self,
        mut state: MutexGuard<'a, State<O::Socket>>,
        ticket: u64,
    ) -> MutexGuard<'a, State<O::Socket>> {
        // There may be room for the next thread as well, or for its smaller frame if this one gave up. After the last
        // thread, a drainer that has caught up tells so.
        if state.waiting.leave(ticket) || state.waiting.is_empty() {
            self.signal_progress(&state);
        }
        state
    }

    /// Waits until all threads that wait for room have had their turn, or another drainer runs. Called by a drainer
    /// that has caught up: there is room, so the first in the line is about to go on, and after it the next.
    pub(super) fn wait_for_line(&self) {
        let mut state = self.lock();
        while !state.waiting.is_empty() && !state.is_draining() && state.close_state.accepts() {
            state = self.wait_for_progress(state, None);
        }
    }
}
