//! The threads that a server or a client has for itself, whatever the number of its connections.
//!
//! Nothing that is promised holds without them. So if one of them panics, which is a bug of ours, all ends at once, and
//! whoever called `serve` or `run` is told.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel as channel;

use crate::error::Error;
use crate::foreign;
use crate::handle::{Hub, Receivers};
use crate::settings::Settings;
use crate::supervisor::Supervisor;

/// The supervisor, the stand-in, and the thread that calls the logger.
#[derive(Default)]
pub(crate) struct Staff {
    supervisor: Option<JoinHandle<()>>,
    stand_in: Option<JoinHandle<()>>,
    log: Option<JoinHandle<()>>,
}

impl Staff {
    /// Starts them. What is left of the receivers tells the accept loop, or the client, that the end has come.
    pub(crate) fn start(
        hub: &Arc<Hub>,
        receivers: Receivers,
        settings: &Settings,
    ) -> io::Result<(Self, channel::Receiver<()>)> {
        let Receivers { notices, commands, stop, stand_in } = receivers;
        let supervisor = Supervisor::new(notices, commands, Arc::clone(hub), settings.close_timeout);
        let mut staff = Self::default();
        match staff.start_all(hub, move || stand_in.run(), move || supervisor.run()) {
            Ok(()) => {
                hub.starts(settings.max_buffered);
                Ok((staff, stop))
            }
            Err(error) => {
                staff.end(hub);
                Err(error)
            }
        }
    }

    fn start_all(
        &mut self,
        hub: &Arc<Hub>,
        stand_in: impl FnOnce() + Send + 'static,
        supervisor: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let log = Arc::clone(&hub.log);
        hub.log.begin();
        self.log = Some(start(hub, "heartwire-log", move || log.run()).inspect_err(|_| hub.log.leave())?);
        self.stand_in = Some(start(hub, "heartwire-stand-in", stand_in)?);
        self.supervisor = Some(start(hub, "heartwire-supervisor", supervisor)?);
        Ok(())
    }

    /// Waits for the supervisor, who ends with the last connection or at the deadline, and ends the others.
    ///
    /// # Errors
    /// [`Error::Internal`] if one of them has panicked.
    pub(crate) fn join(mut self, hub: &Hub) -> Result<(), Error> {
        join(self.supervisor.take());
        self.end(hub);
        match hub.failure() {
            Some(failure) => Err(Error::Internal(failure)),
            None => Ok(()),
        }
    }

    fn end(self, hub: &Hub) {
        hub.stand_in.end();
        join(self.stand_in);
        hub.ended();
        // A logger that blocks has its thread to itself, for as long as it likes.
        if hub.log.end() {
            join(self.log);
        }
    }
}

fn start(hub: &Arc<Hub>, name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let hub = Arc::clone(hub);
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(message) = foreign::call(work) {
            hub.fail(name, &message);
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
