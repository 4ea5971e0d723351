//! Sending over a connection, for all threads: from a message to the write half, and from what it says to an error.

use std::sync::Arc;

use bytes::Bytes;

use crate::connection::shared::Shared;
use crate::error::{Error, TrySendError};
use crate::message::Message;
use crate::protocol::frame::{Frame, Outgoing};
use crate::transport::write_half::{Refused, Sent, Wait, WriteHalf};

impl Shared {
    /// Sends a message, waiting for room in the queue.
    pub(crate) fn send(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(WriteHalf::send(self, Outgoing::message(message), Wait::Forever))
    }

    /// Sends a message when the thread next blocks in `recv`, or earlier.
    pub(crate) fn feed(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(WriteHalf::feed(self, Outgoing::message(message), Wait::Forever))
    }

    /// The first frame of all, which waits in memory until [`flush`](Self::flush) or the next frame. It counts as no
    /// message.
    pub(crate) fn feed_first(&self, text: String) {
        self.write_half.feed_first(Outgoing::message(text.into()));
    }

    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), Error> {
        self.accepted(WriteHalf::flush(self))
    }

    /// Sends a message, waiting for room only as long as `wait` says.
    pub(crate) fn try_send(self: &Arc<Self>, message: Message, wait: Wait) -> Result<(), TrySendError<Message>> {
        match WriteHalf::send(self, Outgoing::message(message.clone()), wait) {
            Ok(_) => Ok(()),
            Err(Refused::Full) => Err(TrySendError::Full(message)),
            Err(Refused::Closed) => Err(TrySendError::Closed(message)),
        }
    }

    /// Like [`feed`](Self::feed), without ever waiting for room. The caller keeps what the message may have borrowed.
    pub(crate) fn try_feed(self: &Arc<Self>, message: Message) -> Result<(), Refused> {
        WriteHalf::feed(self, Outgoing::message(message), Wait::No).map(drop)
    }

    /// Sends a copy of a frame that goes to many, or drops it for a peer that is behind.
    pub(crate) fn send_copy(self: &Arc<Self>, frame: &Frame) {
        self.count_dropped(WriteHalf::send_frame(self, frame.clone(), Wait::No));
    }

    /// The same, but it may wait for [`flush`](Self::flush).
    pub(crate) fn feed_copy(self: &Arc<Self>, frame: &Frame) {
        self.count_dropped(WriteHalf::feed_frame(self, frame.clone(), Wait::No));
    }

    fn count_dropped(&self, sent: Result<Sent, Refused>) {
        // If the connection has ended, its thread will find out why.
        if let Err(Refused::Full) = sent
            && self.stats.count_dropped_broadcast()
        {
            self.supervisor.log.warn(format_args!("{}: queue full, dropping broadcasts", self.identity));
        }
    }

    /// Sends a Pong: the answer to a Ping, or an unsolicited one without payload (RFC 6455 section 5.5.3).
    pub(crate) fn pong(self: &Arc<Self>, payload: Bytes) -> Result<(), Error> {
        self.accepted(WriteHalf::send_control(self, Outgoing::pong(payload)))
    }

    /// Answers a heartbeat in text. A peer that is behind on what it was sent gets it when it has caught up.
    pub(crate) fn text_pong(self: &Arc<Self>) -> Result<(), Error> {
        self.accepted(WriteHalf::send_control(self, Outgoing::text_pong()))
    }

    /// For what waits for room as long as there may be any: it is refused only at the end.
    fn accepted(&self, sent: Result<Sent, Refused>) -> Result<(), Error> {
        sent.map(drop).map_err(|_| self.closed())
    }
}
