//! What stands in the place of `systemd.rs` on systems that have none: nothing is given, and nobody is told anything.

use std::time::Duration;

use heartwire::{Server, ServerHandle};

/// A server on listeners that nobody has opened.
pub(crate) fn server() -> Result<Option<Server>, String> {
    Ok(None)
}

/// Whether standard error goes to a journal, which there is not.
pub(crate) fn logs_to_journal() -> bool {
    false
}

/// Whether a service manager runs this process.
pub(crate) fn is_service() -> bool {
    false
}

/// The service, which nobody manages.
pub(crate) struct Service;

impl Service {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn start(&mut self, _: &ServerHandle, _: Duration) -> Result<(), String> {
        Ok(())
    }

    pub(crate) fn finish(self) {}
}
