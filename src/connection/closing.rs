//! How a connection comes to its end: the closing handshake from both sides (RFC 6455 section 7), and what is left when
//! there is none.
//!
//! Every path ends in [`Connection::finish`], and nothing here takes longer than the close timeout.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;
use crate::close::{CloseCode, CloseReason};
use crate::decoder::Incoming;
use crate::error::Error;
use crate::inbound::Filled;

impl Connection {
    pub(super) fn closed_by_peer(&mut self, code: Option<CloseCode>, reason: String) -> Error {
        self.link.set_cause(CloseReason::Peer { code, reason });
        self.link.answer_close(code);
        self.finish()
    }

    /// Fails the connection (RFC 6455 section 7.1.7): says why, and does not wait for an answer.
    pub(super) fn fail(&mut self, violation: CloseReason) -> Error {
        self.link.begin_close(violation);
        self.finish()
    }

    /// The socket has come to its end, for `reason` unless another thread knows better.
    pub(super) fn ended(&mut self, reason: CloseReason) -> Error {
        let reason = self.link.end_of_socket(reason);
        self.link.set_cause(reason);
        self.finish()
    }

    /// Our Close frame is on its way, or the socket broke: reads up to the peer's Close frame or its end, and finishes.
    pub(super) fn await_close(&mut self) {
        let deadline = self.close_deadline();
        loop {
            match self.inbound.decoder.next() {
                Ok(Some(Incoming::Close(code, reason))) => {
                    self.link.set_cause(CloseReason::Peer { code, reason });
                    self.link.answer_close(code);
                    break;
                }
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(_) => break,
            }
            let mut now = Instant::now();
            if now >= deadline {
                break;
            }
            match self.inbound.fill(Some(deadline), &mut now) {
                Ok(Filled::Bytes(count)) => self.link.count_bytes_in(count, now),
                Ok(Filled::Timeout) => {}
                Ok(Filled::End) | Err(_) => break,
            }
        }
        self.finish();
    }

    /// The last steps, whatever came before: what is queued goes out within the close timeout, then our end of the TCP
    /// connection, and that is reported. The peer's last bytes are still taken in for a while, so that closing the
    /// socket is no reset.
    pub(super) fn finish(&mut self) -> Error {
        const LINGER: Duration = Duration::from_secs(1);
        let deadline = self.close_deadline();
        if self.link.outbound.wait_until_drained(deadline) {
            self.inbound.shut_down(Shutdown::Write);
            self.link.ended();
            self.inbound.discard_to_end(deadline.min(Instant::now() + LINGER));
        }
        // Also wakes a drainer that is still blocked.
        self.inbound.shut_down(Shutdown::Both);
        self.link.ended();
        self.is_over = true;
        self.link.closed()
    }

    /// The handler is done, for this reason: whatever is left of the connection comes to its end.
    pub(crate) fn conclude(&mut self, reason: CloseReason) {
        if self.is_over {
            return;
        }
        // If it is closing already, or its socket broke, the end is near and only needs to be seen.
        if !self.link.outbound.is_closing() {
            self.link.begin_close(reason);
        }
        self.await_close();
    }

    /// Why the connection ended.
    pub(crate) fn reason(&self) -> CloseReason {
        self.link.end_of_socket(CloseReason::Disconnected)
    }

    /// Whether the connection has ended, is closing, or cannot be written to any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_over || self.link.outbound.is_closing()
    }

    fn close_deadline(&self) -> Instant {
        self.link.close_deadline().unwrap_or_else(|| Instant::now() + self.link.close_timeout)
    }
}
