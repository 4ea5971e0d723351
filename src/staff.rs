//! The threads that a server or a client has for itself, whatever the number of its connections.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel as channel;

use crate::handle::{Hub, Receivers};
use crate::settings::Settings;
use crate::supervisor::Supervisor;

/// The supervisor and the stand-in.
pub(crate) struct Staff {
    supervisor: JoinHandle<()>,
    stand_in: JoinHandle<()>,
}

impl Staff {
    /// Starts both. What is left of the receivers is how the accept loop is woken.
    pub(crate) fn start(
        hub: &Arc<Hub>,
        receivers: Receivers,
        settings: &Settings,
    ) -> io::Result<(Self, channel::Receiver<()>)> {
        let Receivers { notices, commands, stop, stand_in } = receivers;
        let supervisor = Supervisor::new(notices, commands, Arc::clone(hub), settings.close_timeout);
        let stand_in = named("heartwire-stand-in").spawn(|| stand_in.run())?;
        match named("heartwire-supervisor").spawn(|| supervisor.run()) {
            Ok(supervisor) => {
                hub.starts(settings.max_buffered);
                Ok((Self { supervisor, stand_in }, stop))
            }
            Err(error) => {
                hub.stand_in.end();
                Err(error)
            }
        }
    }

    /// Waits for the supervisor, who ends with the last connection or at the deadline, and ends the stand-in.
    pub(crate) fn join(self, hub: &Hub) {
        if self.supervisor.join().is_err() {
            log::error!("the supervisor panicked");
        }
        hub.stand_in.end();
        if self.stand_in.join().is_err() {
            log::error!("the stand-in panicked");
        }
        hub.ended();
    }
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.into())
}
