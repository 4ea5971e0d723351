//! How a connection comes to its end: the closing handshake from both sides (RFC 6455 section 7), and what is left when
//! there is none.
//!
//! Every path ends in [`Connection::finish`], and nothing here takes longer than the close timeout.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;
use crate::connection::receiving_end::ReceivingEnd;
use crate::error::Error;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::PeerEnd;

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
