//! How a connection comes to its end: the closing handshake from both sides (RFC 6455 section 7), and what is left when
//! there is none.
//!
//! Every path ends in [`Connection::finish`], and nothing here takes longer than the close timeout.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Connection;
use crate::connection::receiving_end::ReceivingEnd;
use crate::connection::shared::Shared;
use crate::error::Error;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::PeerEnd;
use crate::supervisor::notice::Notice;
use crate::transport::socket;
use crate::transport::write_half::{Figures, WriteHalf};

/// What any thread may do.
impl Shared {
    /// The error for whoever uses a connection that is closed.
    pub(crate) fn closed(&self) -> Error {
        Error::Closed(self.reason())
    }

    /// Why the connection ended, or is ending.
    pub(crate) fn reason(&self) -> CloseReason {
        self.write_half.close_state(|close_state| close_state.reason(CloseReason::Disconnected))
    }

    /// Begins the closing handshake with what `reason` says, behind everything accepted so far. Whether it was this
    /// call that began it; the caller sees to its end, or has the supervisor do it.
    pub(crate) fn begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        WriteHalf::close(self, reason, Instant::now())
    }

    /// The same, unless another thread is at work on the connection. Whether it was done, now or before.
    pub(crate) fn try_begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        WriteHalf::try_close(self, reason, Instant::now()).is_some()
    }

    /// The peer has said its last word.
    pub(crate) fn peer_ended(&self, last: PeerEnd, now: Instant) {
        self.write_half.close_state(|close_state| close_state.peer_ended(last, now));
    }

    /// Answers the peer's last word (RFC 6455 section 5.5.1).
    pub(crate) fn answer_close(self: &Arc<Self>, now: Instant) {
        WriteHalf::answer_close(self, now);
    }

    /// Closes from a thread that is not the connection's: the supervisor watches that the handshake comes to an end.
    pub(crate) fn close_from_outside(self: &Arc<Self>, reason: CloseReason) -> Result<(), Error> {
        if !self.begin_close(reason) {
            return Err(self.closed());
        }
        self.watch_closing();
        Ok(())
    }

    /// Has the supervisor see to it that the closing handshake comes to an end.
    pub(crate) fn watch_closing(self: &Arc<Self>) {
        if let Some(deadline) = self.close_deadline() {
            self.supervisor.notify(Notice::Closing { shared: Arc::clone(self), deadline });
        }
    }

    /// Until when the closing handshake may take, if it has begun.
    pub(crate) fn close_deadline(&self) -> Option<Instant> {
        self.write_half.close_state(|close_state| close_state.deadline())
    }

    /// Ends the connection at once: best-effort Close frame, socket shut down both ways, reported.
    pub(crate) fn abort(&self, reason: CloseReason) {
        let is_dead = matches!(reason, CloseReason::HeartbeatLost { .. } | CloseReason::WriteStalled { .. });
        self.end(reason, if is_dead { socket::abandon } else { socket::shut_down });
    }

    /// The same, unless another thread is at work on the connection. Whether it was done, now or before.
    pub(crate) fn try_abort(&self, reason: CloseReason) -> bool {
        let has_ended =
            self.write_half.try_end(reason, Instant::now(), socket::shut_down, |figures| self.notify_end(figures));
        if has_ended {
            self.pings.close();
        }
        has_ended
    }

    /// Ends our side in good order: what was to be sent is on its way, and the peer learns that nothing follows.
    pub(crate) fn end_in_order(&self) {
        self.end(CloseReason::Disconnected, |stream| {
            // It fails only when the connection has ended already.
            let _ = stream.shutdown(Shutdown::Write);
        });
    }

    /// The connection is over: lets go of the socket and reports, once.
    fn end(&self, otherwise: CloseReason, shut_down: fn(&TcpStream)) {
        self.write_half.end(otherwise, Instant::now(), shut_down, |figures| self.notify_end(figures));
        self.pings.close();
    }

    /// The channel is unbounded, so this cannot block; and the report is in it before anything else is said of the end.
    fn notify_end(&self, figures: Figures) {
        self.supervisor.notify(Notice::Closed(Box::new(self.report(figures))));
    }
}

/// What the connection's own thread does.
impl Connection {
    /// The peer has said its last word, and now the handler learns of it: it is answered, and that is the end.
    pub(super) fn ended_by_peer(&mut self, receiving: Box<ReceivingEnd>, last: PeerEnd) -> Error {
        let now = Instant::now();
        self.shared.peer_ended(last, now);
        self.shared.answer_close(now);
        self.finish(receiving)
    }

    /// Our Close frame is on its way, or the socket broke: reads up to the peer's last word, and finishes.
    pub(super) fn await_close(&mut self, mut receiving: Box<ReceivingEnd>) {
        let deadline = self.close_deadline();
        let mut now = Instant::now();
        let last = loop {
            match receiving.next(&self.shared, now) {
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
            // Nothing that came behind our Close frame is a reason to end.
            Some(last) if !matches!(*last, PeerEnd::Violation(_)) => _ = self.ended_by_peer(receiving, *last),
            Some(_) | None => _ = self.finish(receiving),
        }
    }

    /// The last steps, whatever came before: what is queued goes out within the close timeout, then our end of the TCP
    /// connection, and that is reported. The peer's last bytes are still taken in for a while, so that closing the
    /// socket is no reset.
    pub(super) fn finish(&mut self, mut receiving: Box<ReceivingEnd>) -> Error {
        const LINGER: Duration = Duration::from_secs(1);
        let deadline = self.close_deadline();
        receiving.discard_read_ahead();
        if self.shared.write_half.wait_until_drained(deadline) {
            self.shared.end_in_order();
            receiving.read_half.discard_to_end(deadline.min(Instant::now() + LINGER));
        }
        // Also wakes a drainer that is still blocked.
        receiving.read_half.shut_down(Shutdown::Both);
        self.shared.abort(CloseReason::Disconnected);
        self.is_over = true;
        self.shared.closed()
    }

    /// The handler is done, for this reason: whatever is left of the connection comes to its end.
    pub(crate) fn conclude(&mut self, reason: CloseReason) {
        let Some(receiving) = self.shared.take_receiving_end().filter(|_| !self.is_over) else {
            // It is over; or a panic in the midst of `recv` took the receiving end with it.
            self.shared.abort(reason);
            return;
        };
        // If it is closing already, or its socket broke, the end is near and only needs to be seen.
        self.shared.begin_close(reason);
        self.await_close(receiving);
    }

    /// Why the connection ended.
    pub(crate) fn reason(&self) -> CloseReason {
        self.shared.reason()
    }

    /// Whether the connection has ended, is closing, or cannot be written to any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_over || self.shared.write_half.is_closing()
    }

    fn close_deadline(&self) -> Instant {
        self.shared.close_deadline().unwrap_or_else(|| Instant::now() + self.shared.settings.close_timeout)
    }
}
