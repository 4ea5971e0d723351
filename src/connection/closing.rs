//! How a connection ends: the closing handshake from both sides (RFC 6455 section 7), and an end without one.
//!
//! Invariants: every path of the connection's own thread ends in [`Connection::finish`]; nothing here takes longer than
//! the close timeout; the report reaches the supervisor's channel before any other notice of the end.

use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Connection;
use crate::connection::receiving_end::ReceivingEnd;
use crate::connection::shared::Shared;
use crate::error::Error;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::PeerEnd;
use crate::protocol::frame::Role;
use crate::supervisor::notice::Notice;
use crate::transport::socket;
use crate::transport::stream::Stream;
use crate::transport::write_half::{Figures, WriteHalf};

/// Any thread may call these.
impl Shared {
    /// The error of calls on a closed connection.
    pub(crate) fn closed(&self) -> Error {
        Error::Closed(self.reason())
    }

    /// Why the connection ended, or is ending.
    pub(crate) fn reason(&self) -> CloseReason {
        self.write_half.close_state(|close_state| close_state.reason(CloseReason::Disconnected))
    }

    /// Begins the closing handshake: `reason` goes out in a Close frame, after everything that was accepted before.
    /// Returns whether this call began it.
    ///
    /// The caller then sees the handshake through, or makes the supervisor watch it.
    pub(crate) fn begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        WriteHalf::close(self, reason, Instant::now())
    }

    /// Like [`begin_close`](Self::begin_close), but gives up if another thread holds the write half's lock. Returns
    /// whether the connection is closing, by this call or an earlier one.
    pub(crate) fn try_begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        WriteHalf::try_close(self, reason, Instant::now()).is_some()
    }

    /// Records the peer's end.
    pub(crate) fn peer_ended(&self, last: PeerEnd, now: Instant) {
        self.write_half.close_state(|close_state| close_state.peer_ended(last, now));
    }

    /// Answers the peer's end with our Close frame (RFC 6455 section 5.5.1).
    pub(crate) fn answer_close(self: &Arc<Self>, now: Instant) {
        WriteHalf::answer_close(self, now);
    }

    /// Closes from a thread other than the connection's. The supervisor watches that the handshake ends in time.
    pub(crate) fn close_from_outside(self: &Arc<Self>, reason: CloseReason) -> Result<(), Error> {
        if !self.begin_close(reason) {
            return Err(self.closed());
        }
        self.watch_closing();
        Ok(())
    }

    /// Makes the supervisor end the connection if the closing handshake takes too long.
    pub(crate) fn watch_closing(self: &Arc<Self>) {
        if let Some(deadline) = self.close_deadline() {
            self.supervisor.notify(Notice::Closing { shared: Arc::clone(self), deadline });
        }
    }

    /// The deadline of the closing handshake, if it has begun.
    pub(crate) fn close_deadline(&self) -> Option<Instant> {
        self.write_half.close_state(|close_state| close_state.deadline())
    }

    /// Ends the connection at once: sends a Close frame if the socket takes it now, shuts the socket down both ways,
    /// and reports the end.
    pub(crate) fn abort(&self, reason: CloseReason) {
        let shut_down = if reason.is_death() { socket::abandon } else { socket::shut_down };
        self.end(reason, shut_down);
    }

    /// Like [`abort`](Self::abort), but gives up if another thread holds the write half's lock. Returns whether the
    /// connection has ended, by this call or an earlier one.
    pub(crate) fn try_abort(&self, reason: CloseReason) -> bool {
        let has_ended =
            self.write_half.try_end(reason, Instant::now(), socket::shut_down, |figures| self.notify_end(figures));
        if has_ended {
            self.release();
        }
        has_ended
    }

    /// Ends our side in an orderly way, once everything is written. The end of our stream shows the peer that nothing
    /// follows.
    pub(crate) fn end_in_order(&self) {
        self.end(CloseReason::Disconnected, |stream| {
            // This fails only if the connection has ended already.
            let _ = stream.end_writing();
        });
    }

    /// Ends the connection, releases the socket, and reports the end once.
    fn end(&self, otherwise: CloseReason, shut_down: fn(&Stream)) {
        self.write_half.end(otherwise, Instant::now(), shut_down, |figures| self.notify_end(figures));
        self.release();
    }

    /// Gives back what only an open connection needs, for a `Sender` may be kept for long.
    fn release(&self) {
        self.pings.close();
        #[cfg(feature = "deflate")]
        if let Some(deflating) = &self.deflating {
            deflating.end();
        }
    }

    /// Sends the report. The channel is unbounded, so this cannot block under the lock. The report is in the channel
    /// before any other notice of the end.
    fn notify_end(&self, figures: Figures) {
        self.supervisor.notify(Notice::Closed(Box::new(self.report(figures))));
    }
}

/// Only the connection's own thread calls these.
impl Connection {
    /// Ends a connection whose handler now learns of the peer's end: answers that end, and finishes.
    pub(super) fn ended_by_peer(&mut self, receiving: Box<ReceivingEnd>, last: PeerEnd) -> Error {
        let now = Instant::now();
        self.shared.peer_ended(last, now);
        self.shared.answer_close(now);
        self.finish(receiving)
    }

    /// Reads up to the peer's end or the deadline, and finishes. Our Close frame is queued or sent, or the socket is
    /// broken.
    pub(super) fn await_close(&mut self, mut receiving: Box<ReceivingEnd>) {
        let deadline = self.close_deadline();
        let mut now = Instant::now();
        receiving.begin_to_discard();
        let last = loop {
            match receiving.next(&self.shared, now) {
                // The handler is done, so messages are discarded.
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(last) => break Some(last),
            }
            if now >= deadline {
                break None;
            }
            let read = receiving.read_half.read_until(deadline, &mut now);
            if let Err(last) = receiving.on_read(&self.shared, read, now) {
                break Some(last);
            }
        };
        match last {
            // A violation after our Close frame is no cause of the end.
            Some(last) if !matches!(*last, PeerEnd::Violation(_)) => _ = self.ended_by_peer(receiving, *last),
            Some(_) | None => _ = self.finish(receiving),
        }
    }

    /// Performs the last steps of every end, within the close timeout.
    ///
    /// Sends what is queued, ends our side of the TCP connection, and reports the end. Then takes in the peer's last
    /// bytes for up to a second, because closing a socket with unread bytes resets the connection. A server whose
    /// closing handshake is complete waits for nothing: it is to close at once (RFC 6455 section 7.1.1).
    pub(super) fn finish(&mut self, mut receiving: Box<ReceivingEnd>) -> Error {
        const LINGER: Duration = Duration::from_secs(1);
        let deadline = self.close_deadline();
        // Nobody will receive what was read ahead.
        receiving.discard_read_ahead();
        // If everything goes out in time, the end is orderly.
        if self.shared.write_half.wait_until_drained(deadline) {
            if self.nothing_follows(receiving.read_half.stream()) {
                self.shared.abort(CloseReason::Disconnected);
                self.is_over = true;
                return self.shared.closed();
            }
            self.shared.end_in_order();
            receiving.read_half.discard_to_end(deadline.min(Instant::now() + LINGER));
        }
        // Otherwise this cuts the connection, and wakes a drainer that is still blocked.
        receiving.read_half.shut_down(Shutdown::Both);
        // This does nothing if the end is reported already.
        self.shared.abort(CloseReason::Disconnected);
        self.is_over = true;
        self.shared.closed()
    }

    /// Whether we are a server, nothing more comes from the peer, and it waits for us to close. Over TLS its last alert
    /// may still come, and so may a Pong that the peer owes until it reads our Close frame (RFC 6455 section 5.5.2):
    /// a socket that is closed would answer that by a reset, and what is still on its way to the peer would be lost.
    fn nothing_follows(&self, stream: &Stream) -> bool {
        self.shared.write_half.role() == Role::Server
            && stream.secured().is_none()
            && self.shared.write_half.close_state(|close_state| close_state.is_complete())
            && !self.shared.pings.awaits_pong()
            && socket::unread_bytes(stream) == 0
    }

    /// Ends the connection after its handler has returned, failed or panicked, for this reason.
    pub(crate) fn conclude(&mut self, reason: CloseReason) {
        let Some(receiving) = self.shared.take_receiving_end().filter(|_| !self.is_over) else {
            // The connection has ended, or a panic during `recv` lost the receiving end.
            self.shared.abort(reason);
            return;
        };
        // If it is closing already or its socket is broken, this changes nothing, and the end is near.
        self.shared.begin_close(reason);
        self.await_close(receiving);
    }

    /// Why the connection ended.
    pub(crate) fn reason(&self) -> CloseReason {
        self.shared.reason()
    }

    /// Whether the connection has ended, is closing, or cannot be written to.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_over || self.shared.write_half.is_closing()
    }

    fn close_deadline(&self) -> Instant {
        self.shared.close_deadline().unwrap_or_else(|| Instant::now() + self.shared.settings.close_timeout)
    }
}
