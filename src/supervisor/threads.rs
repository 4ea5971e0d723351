//! The service threads of a server or a client: a fixed number, however many connections there are.
//!
//! None of the guarantees holds without them. So if one of them panics, which is a bug of heartwire, all connections
//! end at once, and `serve` or `run` returns an error.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::error::Error;
use crate::foreign;
use crate::logging::Log;
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
    /// Starts the threads. If one of them cannot be started, those that run are ended again.
    ///
    /// # Errors
    /// The system's error if a thread cannot be started.
    pub(crate) fn start(handle: &Arc<SupervisorHandle>, receivers: Receivers, settings: &Settings) -> io::Result<Self> {
        let Receivers { notices, commands, stand_in } = receivers;
        let supervisor = Supervisor::new(notices, commands, Arc::clone(handle), settings.close_timeout);
        let mut threads = Self::default();
        match threads.start_all(handle, move || stand_in.run(), move || supervisor.run()) {
            Ok(()) => {
                warn_if_panics_abort(&handle.log);
                handle.mark_running(settings);
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
        handle.log.start_queueing();
        self.log = Some(start(handle, "heartwire-log", move || log.run()).inspect_err(|_| handle.log.stop_queueing())?);
        self.stand_in = Some(start(handle, "heartwire-stand-in", stand_in)?);
        self.supervisor = Some(start(handle, "heartwire-supervisor", supervisor)?);
        Ok(())
    }

    /// Waits for the supervisor, which ends with the last connection or at the deadline, and then ends the others.
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
        handle.mark_ended();
        // A logger that blocks keeps its thread, and nobody waits for it.
        if handle.log.end() {
            join(self.log);
        }
    }
}

/// Warns in a program that was built with `panic = "abort"`, where no panic can be caught and each ends the process.
fn warn_if_panics_abort(log: &Log) {
    if cfg!(panic = "abort") {
        log.warn(format_args!(
            "this program is built with panic = \"abort\": a handler that panics ends the whole process; \
             with panic = \"unwind\" it would end its own connection alone"
        ));
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
    // The thread catches its panics itself.
    let _ = thread.map(JoinHandle::join);
}

#[cfg(test)]
mod tests;
