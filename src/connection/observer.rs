//! What a part of the server above the connection keeps with it, and is told of it. Topics do.
//!
//! Invariant: an observer is told without a lock of the connection held, so it may send.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::connection::shared::Shared;

/// Whoever is told of a connection.
pub(crate) trait Observer: Any + Send + Sync {
    /// A queue that was full or long has emptied: there is room for what was refused.
    fn queue_emptied(&self);

    /// The connection has ended, and its handler has returned.
    fn thread_ends(&self);
}

/// The place for an observer. It is filled before the connection's handler is called, if at all.
#[derive(Default)]
pub(super) struct Observed(OnceLock<Arc<dyn Observer>>);

impl Shared {
    /// Tells this observer of the connection, unless there is one already.
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = self.observed.0.set(observer);
    }

    /// The observer, if it is of this type.
    pub(crate) fn observer<T: Observer>(&self) -> Option<&T> {
        let observer: &dyn Any = &**self.observed.0.get()?;
        observer.downcast_ref()
    }

    pub(super) fn tell_queue_emptied(&self) {
        if let Some(observer) = self.observed.0.get() {
            observer.queue_emptied();
        }
    }

    pub(crate) fn tell_thread_ends(&self) {
        if let Some(observer) = self.observed.0.get() {
            observer.thread_ends();
        }
    }
}
