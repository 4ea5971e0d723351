//! Sending over a connection, from any thread.
//!
//! These functions turn a message into a frame, pass it to the write half, and turn a refusal into the caller's error.
//! The write half keeps the order and the limits.

use std::sync::Arc;

use bytes::Bytes;

use crate::connection::shared::Shared;
use crate::error::{Error, TrySendError};
use crate::message::Message;
use crate::protocol::frame::{Frame, Outgoing};
use crate::transport::write_half::{Refused, Sent, Wait, WriteHalf};

/// Text seldom becomes smaller than by this factor.
#[cfg(feature = "deflate")]
const BEST_RATIO: usize = 8;

/// When a message leaves.
#[derive(Debug, Clone, Copy)]
enum How {
    AtOnce,
    /// With the next flush, or before.
    Fed,
}

impl Shared {
    /// Sends a message, waiting for room in the queue.
    pub(crate) fn send(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(self.hand_over(message, Wait::Forever, How::AtOnce))
    }

    /// Keeps a message in memory until the connection's thread next blocks in `recv`. It may leave earlier.
    pub(crate) fn feed(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(self.hand_over(message, Wait::Forever, How::Fed))
    }

    /// Feeds the very first frame. It stays in memory until [`flush`](Self::flush) or the next frame, and does not
    /// count as a message.
    pub(crate) fn feed_first(&self, text: String) {
        self.write_half.feed_first(Outgoing::message(text.into()));
    }

    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), Error> {
        self.accepted(WriteHalf::flush(self))
    }

    /// Sends a message. `wait` limits the wait for room.
    pub(crate) fn try_send(self: &Arc<Self>, message: Message, wait: Wait) -> Result<(), TrySendError<Message>> {
        give_back(self.hand_over(message.clone(), wait, How::AtOnce), message)
    }

    /// Like [`send`](Self::send), and the message is not compressed.
    #[cfg(feature = "deflate")]
    pub(crate) fn send_uncompressed(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(WriteHalf::send(self, Outgoing::message(message), Wait::Forever))
    }

    /// Like [`try_send`](Self::try_send), and the message is not compressed.
    #[cfg(feature = "deflate")]
    pub(crate) fn try_send_uncompressed(
        self: &Arc<Self>,
        message: Message,
        wait: Wait,
    ) -> Result<(), TrySendError<Message>> {
        give_back(WriteHalf::send(self, Outgoing::message(message.clone()), wait), message)
    }

    /// Like [`feed`](Self::feed), but never waits for room, and does not compress, for its caller has a lock. On a
    /// refusal, the caller still owns the memory that the message may borrow.
    pub(crate) fn try_feed(self: &Arc<Self>, message: Message) -> Result<(), Refused> {
        self.write(Outgoing::message(message), Wait::No, How::Fed).map(drop)
    }

    /// Compresses a message, if that is agreed and worth it, and hands it over.
    #[inline(always)]
    fn hand_over(self: &Arc<Self>, message: Message, wait: Wait, how: How) -> Result<Sent, Refused> {
        #[cfg(feature = "deflate")]
        if let Some(deflating) = &self.deflating {
            if matches!(wait, Wait::No) {
                // Or it might be compressed in vain, again and again.
                self.write_half.check_room(message.len() / BEST_RATIO + Message::OVERHEAD)?;
            }
            return deflating.send(
                message,
                wait,
                || self.write_half.is_closing(),
                |outgoing| self.write(outgoing, wait, how),
            );
        }
        self.write(Outgoing::message(message), wait, how)
    }

    #[inline(always)]
    fn write(self: &Arc<Self>, outgoing: Outgoing, wait: Wait, how: How) -> Result<Sent, Refused> {
        match how {
            How::AtOnce => WriteHalf::send(self, outgoing, wait),
            How::Fed => WriteHalf::feed(self, outgoing, wait),
        }
    }

    /// Sends a frame for many connections, and never waits for room.
    #[cfg(feature = "topics")]
    pub(crate) fn try_send_frame(self: &Arc<Self>, frame: &Frame) -> Result<(), Refused> {
        WriteHalf::send_frame(self, frame, Wait::No).map(drop)
    }

    /// Like [`try_send_frame`](Self::try_send_frame), but the frame may stay in memory until [`flush`](Self::flush).
    #[cfg(feature = "topics")]
    pub(crate) fn try_feed_frame(self: &Arc<Self>, frame: &Frame) -> Result<(), Refused> {
        WriteHalf::feed_frame(self, frame, Wait::No).map(drop)
    }

    /// Sends a copy of a broadcast frame. Drops the copy if the queue is full.
    pub(crate) fn send_copy(self: &Arc<Self>, frame: &Frame) {
        self.count_dropped(WriteHalf::send_frame(self, frame, Wait::No));
    }

    /// Like [`send_copy`](Self::send_copy), but the frame may stay in memory until [`flush`](Self::flush).
    pub(crate) fn feed_copy(self: &Arc<Self>, frame: &Frame) {
        self.count_dropped(WriteHalf::feed_frame(self, frame, Wait::No));
    }

    fn count_dropped(&self, sent: Result<Sent, Refused>) {
        // A closed connection needs no warning: its thread reports the end.
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

    /// Answers a text heartbeat. If the socket takes nothing now, the answer waits, ahead of the data.
    pub(crate) fn text_pong(self: &Arc<Self>) -> Result<(), Error> {
        self.accepted(WriteHalf::send_control(self, Outgoing::text_pong()))
    }

    /// Maps the refusal of a frame that is refused only when the connection is closed.
    fn accepted(&self, sent: Result<Sent, Refused>) -> Result<(), Error> {
        sent.map(drop).map_err(|_| self.closed())
    }
}

/// Gives back a message that was refused.
fn give_back(sent: Result<Sent, Refused>, message: Message) -> Result<(), TrySendError<Message>> {
    match sent {
        Ok(_) => Ok(()),
        Err(Refused::Full) => Err(TrySendError::Full(message)),
        Err(Refused::Closed) => Err(TrySendError::Closed(message)),
    }
}
