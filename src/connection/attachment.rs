//! What a part of the server above the connection keeps with it, and is told of it. Topics do.
//!
//! Invariant: an attachment is told without a lock of the connection held, so it may send.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::connection::shared::Shared;

/// What is attached to a connection.
pub(crate) trait Attachment: Any + Send + Sync {
    /// A queue that was full or long has emptied: there is room for what was refused.
    fn queue_emptied(&self);

    /// The connection has ended, and its handler has returned.
    fn thread_ends(&self);
}

/// The place for it. It is filled before the connection's handler is called, if at all.
#[derive(Default)]
pub(super) struct Attached(OnceLock<Arc<dyn Attachment>>);

impl Shared {
    /// Attaches something to the connection, unless something is attached already.
    pub(crate) fn attach(&self, attachment: Arc<dyn Attachment>) {
        let _ = self.attached.0.set(attachment);
    }

    /// What is attached, if it is of this type.
    pub(crate) fn attachment<T: Attachment>(&self) -> Option<&T> {
        let attachment: &dyn Any = &**self.attached.0.get()?;
        attachment.downcast_ref()
    }

    pub(super) fn tell_queue_emptied(&self) {
        if let Some(attachment) = self.attached.0.get() {
            attachment.queue_emptied();
        }
    }

    pub(crate) fn tell_thread_ends(&self) {
        if let Some(attachment) = self.attached.0.get() {
            attachment.thread_ends();
        }
    }
}
