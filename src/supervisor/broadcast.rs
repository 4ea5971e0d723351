//! Broadcasts: a message for all connections, encoded once, and compressed at most once, by whoever sends it. The
//! supervisor fans it out.
//!
//! Invariant: its payload is our own, because the supervisor may drop the last of it and must not run the application's
//! code.

use super::Supervisor;
use super::notice::Command;
use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
#[cfg(feature = "deflate")]
use crate::deflate::pool::Compression;
use crate::message::Message;
use crate::protocol::frame::{Frame, Outgoing};

/// A message for all connections of a server. A server's frames are not masked, so one serves all.
#[derive(Debug)]
pub(crate) struct Broadcast {
    plain: Frame,
    /// For connections that have agreed to compression, unless it is not worth it.
    #[cfg(feature = "deflate")]
    compressed: Option<Frame>,
}

impl Broadcast {
    pub(crate) fn new(message: Message) -> Self {
        Self {
            plain: Frame::encode(Outgoing::message(message), None).into_own().joined(),
            #[cfg(feature = "deflate")]
            compressed: None,
        }
    }

    /// Compressed as well, if somebody takes it so.
    #[cfg(feature = "deflate")]
    pub(crate) fn compressed(message: Message, compression: &Compression) -> Self {
        let payload = compression.compress_for_all(message.as_bytes());
        let is_text = message.as_text().is_some();
        let compressed = payload.map(|payload| Frame::encode(Outgoing::compressed(is_text, payload), None).joined());
        Self { compressed, ..Self::new(message) }
    }

    /// The frame for this connection.
    #[inline(always)]
    #[cfg_attr(not(feature = "deflate"), allow(unused_variables, reason = "all get the same"))]
    pub(crate) fn frame_for(&self, shared: &Shared) -> &Frame {
        #[cfg(feature = "deflate")]
        if let Some(compressed) = &self.compressed
            && shared.deflating.as_ref().is_some_and(|deflating| deflating.takes_broadcasts())
        {
            return compressed;
        }
        &self.plain
    }
}

impl Supervisor {
    /// Sends broadcasts together, so that each connection gets all of them with one system call.
    pub(super) fn broadcast(&self, broadcasts: &[Command]) {
        for shared in self.open_connections().filter(|shared| shared.takes_broadcasts) {
            let is_recipient = |except: &Option<ConnectionId>| *except != Some(shared.id());
            match broadcasts {
                [Command::Broadcast { broadcast, except }] if is_recipient(except) => {
                    shared.send_copy(broadcast.frame_for(shared));
                }
                [_] => {}
                several => {
                    for Command::Broadcast { broadcast, except } in several {
                        if is_recipient(except) {
                            shared.feed_copy(broadcast.frame_for(shared));
                        }
                    }
                    let _ = shared.flush();
                }
            }
        }
    }
}
