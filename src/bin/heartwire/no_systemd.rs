//! What stands in the place of `systemd.rs` on systems that have none: nobody is told anything.

use heartwire::ServerHandle;

/// The service, which nobody manages.
pub(crate) struct Service;

impl Service {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn stopper(&self) -> impl Fn() + Send + 'static {
        || {}
    }

    pub(crate) fn start(&mut self, _: &ServerHandle) -> Result<(), String> {
        Ok(())
    }

    pub(crate) fn finish(self) {}
}
