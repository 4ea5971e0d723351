//! What stands in the place of `certificates.rs` in a program without TLS: there are none.

use heartwire::Server;

use crate::cli::ServeOptions;

/// The certificates that there cannot be.
pub(crate) enum Certificates {}

impl Certificates {
    pub(crate) fn load(_: &ServeOptions) -> Result<Option<Self>, String> {
        Ok(None)
    }

    pub(crate) fn apply_to(&self, _: Server) -> Server {
        match *self {}
    }

    pub(crate) fn names(&self) -> String {
        match *self {}
    }

    pub(crate) fn note(&self) -> Option<&str> {
        match *self {}
    }

    pub(crate) fn reloader(&self) -> Option<fn()> {
        match *self {}
    }

    pub(crate) fn watch(self) -> Result<(), String> {
        match self {}
    }
}
