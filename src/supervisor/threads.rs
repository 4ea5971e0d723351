//! The threads that a server or a client has for itself, whatever the number of its connections.
//!
//! Nothing that is promised holds without them. So if one of them panics, which is a bug of ours, all ends at once, and
//! whoever called `serve` or `run` is told.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::error::Error;
use crate::foreign;
use crate::settings::Settings;
use crate::supervisor::Supervisor;
use crate::supervisor::handle::{Receivers, SupervisorHandle};

/// The supervisor, the stand-in, and the thread that calls the logger.
#[derive(Default)]
pub(crate) struct ServiceThreads {
    supervisor: Option<JoinHandle<()>>,
    stand_in: Option<JoinHandle<()>>,
    log: Option<JoinHandle<()>>,
}

impl ServiceThreads {
    /// Starts them.
    pub(crate) fn start(handle: &Arc<SupervisorHandle>, receivers: Receivers, settings: &Settings) -> io::Result<Self> {
        let Receivers { notices, commands, stand_in } = receivers;
        let supervisor = Supervisor::new(notices, commands, Arc::clone(handle), settings.close_timeout);
        let mut threads = Self::default();
        match threads.start_all(handle, move || stand_in.run(), move || supervisor.run()) {
            Ok(()) => {
                foreign::warn_if_panics_abort(&handle.log);
                handle.starts(settings.max_buffered);
                Ok(threads)
            }
            Err(error) => {
                threads.end(handle);
                Err(error)
            }
        }
    }

    fn start_all(
        &mut self,
        handle: &Arc<SupervisorHandle>,
        stand_in: impl FnOnce() + Send + 'static,
        supervisor: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let log = Arc::clone(&handle.log);
        handle.log.begin();
        self.log = Some(start(handle, "heartwire-log", move || log.run()).inspect_err(|_| handle.log.leave())?);
        self.stand_in = Some(start(handle, "heartwire-stand-in", stand_in)?);
        self.supervisor = Some(start(handle, "heartwire-supervisor", supervisor)?);
        Ok(())
    }

    /// Waits for the supervisor, who ends with the last connection or at the deadline, and ends the others.
    ///
    /// # Errors
    /// [`Error::Internal`] if one of them has panicked.
    pub(crate) fn join(mut self, handle: &SupervisorHandle) -> Result<(), Error> {
        join(self.supervisor.take());
        self.end(handle);
        match handle.failure() {
            Some(failure) => Err(Error::Internal(failure)),
            None => Ok(()),
        }
    }

    fn end(self, handle: &SupervisorHandle) {
        handle.stand_in.end();
        join(self.stand_in);
        handle.ended();
        // A logger that blocks has its thread to itself, for as long as it likes.
        if handle.log.end() {
            join(self.log);
        }
    }
}

fn start(
    handle: &Arc<SupervisorHandle>,
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let handle = Arc::clone(handle);
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(message) = foreign::call(work) {
            handle.fail(name, &message);
        }
    });
    thread.map_err(|error| io::Error::new(error.kind(), format!("cannot start the thread {name}: {error}")))
}

fn join(thread: Option<JoinHandle<()>>) {
    // It catches its panics itself.
    let _ = thread.map(JoinHandle::join);
}

#[cfg(test)]
mod tests;
