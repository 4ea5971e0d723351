//! The end of a write half: a Close frame behind everything that was accepted, a write that failed, or the end of the
//! connection.
//!
//! Invariants:
//! - The first cause stays, and the end is reported once, before any call that ends returns.
//! - Once nothing is accepted any more, whoever waits for room is woken.
//! - The end takes the socket away, and with it everything that waits.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::state::State;
use super::{Figures, Owner, Socket, WriteHalf};
use crate::protocol::close::{CloseReason, close_payload};
use crate::protocol::close_state::{CloseFrame, Phase};
use crate::protocol::frame::{Frame, Outgoing};
use crate::transport::sync::MutexGuard;

impl<O: Owner> WriteHalf<O> {
    /// Closes, for this reason: a Close frame goes out behind everything that was accepted before it. Whether it was
    /// this call that began it; if the peer was first, it is the answer.
    pub(crate) fn close(owner: &Arc<O>, reason: CloseReason, now: Instant) -> bool {
        Self::close_with(owner, owner.write_half().lock(), reason, now)
    }

    /// The same, unless another thread is at work here: it may have to wait for a processor, and we shall not.
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

    /// Answers the peer's last word (RFC 6455 section 5.5.1), if that was not done before.
    pub(crate) fn answer_close(owner: &Arc<O>, now: Instant) {
        let mut state = owner.write_half().lock();
        let frame = state.close_state.answer(now);
        Self::send_close(owner, state, frame);
    }

    /// Writes a Close frame, if there is one to write. Whether it was written or waits.
    fn send_close(owner: &Arc<O>, mut state: MutexGuard<'_, State<O::Socket>>, frame: Option<CloseFrame>) -> bool {
        let write_half = owner.write_half();
        write_half.note_phase(&state);
        write_half.progress.notify_all();
        let Some(frame) = frame else { return false };
        let mut spent = Vec::new();
        let outcome = state.write(&mut write_half.encode_close(frame), &mut spent);
        Self::settle(owner, state, outcome).is_ok()
    }

    fn encode_close(&self, (code, text): CloseFrame) -> Frame {
        self.encode(Outgoing::close(close_payload(code, &text)))
    }

    /// Waits until all is written, or the deadline has come. Whether all was.
    pub(crate) fn wait_until_drained(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.is_draining() && state.socket.is_some() {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = self.progress.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.bytes() == 0
    }

    /// A write has failed: nothing goes out any more, and whoever reads is woken.
    #[cold]
    pub(super) fn fail(&self, mut state: MutexGuard<'_, State<O::Socket>>, error: &io::Error) {
        let mut spent = Vec::new();
        state.close_state.write_failed(CloseReason::io(error));
        self.let_go(&mut state, O::Socket::shut_down, &mut spent);
        drop(state);
    }

    /// Ends the connection, for this reason if nobody knows a better one. What was written of it is complete; if
    /// nothing waits, our reason goes out in a Close frame as far as the socket takes it at once. `report` is called
    /// the first time only, before this returns to anybody.
    pub(crate) fn end(
        &self,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&O::Socket),
        report: impl FnOnce(Figures),
    ) {
        self.end_with(self.lock(), otherwise, now, shut_down, report);
    }

    /// The same, unless another thread is at work here. Whether it was done.
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
        // Our last word: straight into the socket, or not at all.
        if !has_drainer && let Some(frame) = state.close_state.close(otherwise.clone(), now) {
            let _ = state.write(&mut self.encode_close(frame), &mut spent);
        }
        // The end, and its report while nobody else can say anything of it.
        let is_first = state.close_state.end(otherwise);
        self.let_go(&mut state, shut_down, &mut spent);
        if is_first {
            report(state.figures());
        }
        // We may be the stand-in or the supervisor, and what waits may be lent by the application.
        if has_drainer {
            state.remains.append(&mut spent);
        }
        drop(state);
    }

    /// Takes the socket and everything that waits away, and tells all who wait.
    fn let_go(&self, state: &mut State<O::Socket>, shut_down: impl FnOnce(&O::Socket), spent: &mut Vec<Frame>) {
        self.note_phase(state);
        if let Some(socket) = state.socket.take() {
            shut_down(&socket);
        }
        state.discard(spent);
        self.progress.notify_all();
    }
}
