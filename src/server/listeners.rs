//! Where a server listens: one listener or several. Each has an accept loop in a thread of its own, and its own idle
//! threads, so none waits for clients of another.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_channel as channel;

use crate::http::forwarded::UNIX_PEER;
use crate::logging::Log;
use crate::server::listener::Listener;
use crate::supervisor::handle::Wake;

/// A listener, and what wakes its accept loop out of a pause after an error.
pub(super) struct ActiveListener {
    pub(super) listener: Arc<Listener>,
    pub(super) stop: channel::Receiver<()>,
}

/// The listeners as handles know them, and whoever ends the server.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Protects the list. Held for moments only.
    list: Mutex<Vec<Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    address: SocketAddr,
    /// In place of the address, if it is a Unix socket.
    path: Option<PathBuf>,
    /// Gone when it accepts no more clients.
    listener: Weak<Listener>,
    stop: channel::Sender<()>,
}

impl Listeners {
    pub(super) fn add(&self, listener: Listener) -> ActiveListener {
        let (stop_sender, stop) = channel::bounded(1);
        let listener = Arc::new(listener);
        let (address, path) = (listener.address, listener.path.clone());
        let entry = Entry { address, path, listener: Arc::downgrade(&listener), stop: stop_sender };
        self.list().push(entry);
        ActiveListener { listener, stop }
    }

    /// All addresses but those of Unix sockets, in the order in which they were added.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.list().iter().filter(|entry| entry.path.is_none()).map(|entry| entry.address).collect()
    }

    /// The paths of all Unix sockets, in the order in which they were added.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.list().iter().filter_map(|entry| entry.path.clone()).collect()
    }

    /// The first address, or [`UNIX_PEER`] if there are only Unix sockets.
    pub(super) fn first_address(&self) -> SocketAddr {
        self.addresses().first().copied().unwrap_or(UNIX_PEER)
    }

    /// Wakes the accept loops in both places where they wait: in `accept`, and in a pause after an error.
    pub(super) fn wake(&self, wake: Wake, log: &Log) {
        // Without the lock: on some systems it takes a connection.
        let all = self.list().clone();
        for Entry { listener, stop, .. } in all {
            let _ = stop.try_send(());
            if let Some(listener) = listener.upgrade().filter(|listener| wake == Wake::End || !listener.is_ours) {
                listener.wake(log);
            }
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
