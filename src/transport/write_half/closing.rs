//! How a write half ends: by a Close frame after everything that was accepted, a failed write, or the end of the
//! connection.
//!
//! Invariants:
//! - The first cause stays. The end is reported once, before any call that ends the connection returns.
//! - When frames are no longer accepted, the threads that wait for room wake.
//! - The end releases the socket and discards all waiting frames.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::state::State;
use super::{Figures, Owner, Socket, WriteHalf};
use crate::protocol::close::{CloseReason, close_payload};
use crate::protocol::close_state::{CloseFrame, Phase};
use crate::protocol::frame::{Frame, Outgoing};
use crate::transport::sync::MutexGuard;

impl<O: Owner> WriteHalf<O> {
    /// Closes for this reason: a Close frame follows everything that was accepted before. Returns whether this call
    /// began to close. If the peer has ended first, the frame is the answer to that.
    pub(crate) fn close(owner: &Arc<O>, reason: CloseReason, now: Instant) -> bool {
        Self::close_with(owner, owner.write_half().lock(), reason, now)
    }

    /// Like [`close`](Self::close), but `None` if another thread holds the lock. That thread may be waiting for a
    /// processor, and the caller must not.
    pub(crate) fn try_close(owner: &Arc<O>, reason: CloseReason, now: Instant) -> Option<bool> {
        Some(Self::close_with(owner, owner.write_half().try_lock()?, reason, now))
    }

    fn close_with(
        owner: &Arc<O>,
        mut state: MutexGuard<'_, State<O::Socket>>,
        reason: CloseReason,
        now: Instant,
    ) -> bool {
        let is_first = state.close_state.phase() == Phase::Open;
        let frame = state.close_state.close(reason, now);
        Self::send_close(owner, state, frame) && is_first
    }

    /// Answers the peer's end (RFC 6455 section 5.5.1), unless it is answered already.
    pub(crate) fn answer_close(owner: &Arc<O>, now: Instant) {
        let mut state = owner.write_half().lock();
        let frame = state.close_state.answer(now);
        Self::send_close(owner, state, frame);
    }

    /// Writes a Close frame, if there is one. Returns whether it was written or queued.
    fn send_close(owner: &Arc<O>, mut state: MutexGuard<'_, State<O::Socket>>, frame: Option<CloseFrame>) -> bool {
        let write_half = owner.write_half();
        write_half.note_phase(&state);
        write_half.signal_progress(&state);
        let Some(frame) = frame else { return false };
        if let Phase::Closed { .. } = state.close_state.phase()
            && let Some(socket) = state.socket.as_ref().filter(|_| !state.has_waiting())
        {
            socket.end_follows();
        }
        let mut spent = Vec::new();
        let outcome = state.write(&write_half.encode_close(frame), &mut spent);
        Self::settle(owner, state, outcome).is_ok()
    }

    fn encode_close(&self, (code, text): CloseFrame) -> Frame {
        self.encode(Outgoing::close(close_payload(code, &text)))
    }

    /// Waits until everything is written or the deadline comes. Returns whether everything was written.
    pub(crate) fn wait_until_drained(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        // A drainer without a socket has nothing left to write.
        while state.is_draining() && state.socket.is_some() {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = self.wait_for_progress(state, Some(remaining));
        }
        state.queue.bytes() == 0
    }

    /// Handles a failed write: nothing more is sent, and the thread that reads wakes.
    #[cold]
    pub(super) fn fail(&self, mut state: MutexGuard<'_, State<O::Socket>>, error: &io::Error) {
        let mut spent = Vec::new();
        state.close_state.write_failed(CloseReason::io(error));
        self.release(&mut state, O::Socket::shut_down, &mut spent);
        drop(state);
    }

    /// Ends the connection. `otherwise` is the reason if none is known.
    ///
    /// If no frame waits, the reason goes out in a Close frame, as far as the socket takes it at once. Only the first
    /// call runs `report`, before any such call returns.
    pub(crate) fn end(
        &self,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&O::Socket),
        report: impl FnOnce(Figures),
    ) {
        self.end_with(self.lock(), otherwise, now, shut_down, report);
    }

    /// Like [`end`](Self::end), but does nothing if another thread holds the lock. Returns whether it ran.
    pub(crate) fn try_end(
        &self,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&O::Socket),
        report: impl FnOnce(Figures),
    ) -> bool {
        let Some(state) = self.try_lock() else { return false };
        self.end_with(state, otherwise, now, shut_down, report);
        true
    }

    fn end_with(
        &self,
        mut state: MutexGuard<'_, State<O::Socket>>,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&O::Socket),
        report: impl FnOnce(Figures),
    ) {
        let mut spent = Vec::new();
        let has_drainer = state.is_draining();
        // Our Close frame goes straight to the socket, or not at all.
        if !has_drainer && let Some(frame) = state.close_state.close(otherwise.clone(), now) {
            let _ = state.write(&self.encode_close(frame), &mut spent);
        }
        // End and report under the lock, so no other thread can report anything of the end before.
        let is_first = state.close_state.end(otherwise);
        self.release(&mut state, shut_down, &mut spent);
        if is_first {
            report(state.figures());
        }
        // This thread may be the stand-in or the supervisor, and the application may have lent the waiting payloads.
        // The drainer drops them.
        if has_drainer {
            state.remains.append(&mut spent);
        }
        drop(state);
    }

    /// Releases the socket, discards all waiting frames, and wakes all waiting threads.
    fn release(&self, state: &mut State<O::Socket>, shut_down: impl FnOnce(&O::Socket), spent: &mut Vec<Frame>) {
        self.note_phase(state);
        if let Some(socket) = state.socket.take() {
            shut_down(&socket);
        }
        state.discard(spent);
        self.signal_progress(state);
    }
}
