//! The handle to a server, for any thread.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(feature = "topics")]
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
use crate::connection::report::ConnectionInfo;
use crate::durations::LONGEST;
use crate::error::{Error, SendToError, TrySendError, sendable};
use crate::message::Message;
use crate::protocol::close::{CloseCode, CloseReason};
use crate::server::listeners::Listeners;
use crate::server::probe::{self, Probes, ServerPart};
use crate::supervisor::event::Event;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::stats::{Snapshot, Stats};
#[cfg(feature = "topics")]
use crate::topics::hub::Hub;
use crate::transport::write_half::Wait;

/// A handle to a [`Server`](crate::Server), for any number of threads. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    pub(super) supervisor: Arc<SupervisorHandle>,
    pub(super) probes: Arc<Probes>,
    pub(super) listeners: Arc<Listeners>,
    #[cfg(feature = "topics")]
    pub(super) topics: Arc<OnceLock<Arc<Hub>>>,
}

/// What became of a message for all connections of a user: see [`ServerHandle::send_to_user`]. All are 0 if the user
/// has no connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentToUser {
    /// Connections that took the message.
    pub sent: usize,
    /// Connections that did not take it, because their queue is full.
    pub full: usize,
    /// Connections that did not take it, because they are closed or closing.
    pub closed: usize,
}

impl ServerHandle {
    /// The address that the server listens on, with the real port. Of several the first. `0.0.0.0:0` if there are only
    /// Unix sockets.
    pub fn local_addr(&self) -> SocketAddr {
        self.listeners.first_address()
    }

    /// All addresses that the server listens on, with the real ports, in the order in which they were added.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// The paths of all Unix sockets that the server listens at, in the order in which they were added.
    pub fn unix_paths(&self) -> Vec<PathBuf> {
        self.listeners.paths()
    }

    /// Sends a message to all connections.
    ///
    /// The message is encoded once, and one thread sends it to all, so all receivers see broadcasts in the same order.
    /// A peer whose queue is full does not get it and delays no other. Its
    /// [`Traffic::dropped`](crate::Traffic::dropped) counts what it missed.
    ///
    /// Returns at once, unless 64 broadcasts are waiting already. Does nothing before the server serves, and after its
    /// end.
    pub fn broadcast(&self, message: impl Into<Message>) {
        self.supervisor.broadcast(message.into(), None);
    }

    /// Like [`broadcast`](Self::broadcast), to all connections but this one.
    pub fn broadcast_except(&self, except: ConnectionId, message: impl Into<Message>) {
        self.supervisor.broadcast(message.into(), Some(except));
    }

    /// Sends a message to one connection, and never waits for its peer.
    ///
    /// The calling thread sends it itself. So what one thread sends to a connection, by this, by
    /// [`send_to_user`](Self::send_to_user), by a [`Sender`](crate::Sender) or in its handler, leaves in the order of
    /// the calls. [Broadcasts](Self::broadcast) leave by another thread: a message that is sent after the call of
    /// `broadcast` may overtake the broadcast.
    ///
    /// The connection is found from its [`Event::Opened`] on, and in its handler.
    ///
    /// # Errors
    /// All give the message back. [`SendToError::NoSuchConnection`] if there is no connection of this number, or no
    /// longer. [`SendToError::Full`] if its queue is full. [`SendToError::Closed`] if it is closed or closing.
    pub fn send_to(&self, id: ConnectionId, message: impl Into<Message>) -> Result<(), SendToError<Message>> {
        let message = message.into();
        match self.supervisor.directory.find(id) {
            Some(shared) => Ok(shared.try_send(message, Wait::No)?),
            None => Err(SendToError::NoSuchConnection(message)),
        }
    }

    /// Sends a message to all connections of a [user](crate::Accept::user), as [`send_to`](Self::send_to) does to one.
    /// Returns how many took it.
    ///
    /// A connection whose opening handshake is not complete does not get it.
    pub fn send_to_user(&self, name: &str, message: impl Into<Message>) -> SentToUser {
        let message = message.into();
        let mut outcome = SentToUser::default();
        for shared in self.supervisor.directory.find_user(name) {
            let count = match shared.try_send(message.clone(), Wait::No) {
                Ok(()) => &mut outcome.sent,
                Err(TrySendError::Full(_)) => &mut outcome.full,
                Err(TrySendError::Closed(_)) => &mut outcome.closed,
            };
            *count += 1;
        }
        outcome
    }

    /// Closes one connection, and returns at once: as [`Sender::close`](crate::Sender::close).
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent. [`Error::NoSuchConnection`] if there is no connection
    /// of this number, or no longer. [`Error::Closed`] if it is closed or closing already.
    pub fn close(&self, id: ConnectionId, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = sendable(code)?;
        let shared = self.supervisor.directory.find(id).ok_or(Error::NoSuchConnection(id))?;
        shared.close_from_outside(CloseReason::Local { code, reason: reason.to_owned() })
    }

    /// Closes all connections of a [user](crate::Accept::user), as [`close`](Self::close) does with one. Returns how
    /// many it began to close: those that were closing already do not count.
    ///
    /// A connection whose opening handshake is not complete is not closed. To keep a user out, first let
    /// [`on_handshake`](crate::Server::on_handshake) refuse the user, then close, and close again at an
    /// [`Event::Opened`] of the user.
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent; all connections stay open.
    pub fn close_user(&self, name: &str, code: impl Into<CloseCode>, reason: &str) -> Result<usize, Error> {
        let reason = CloseReason::Local { code: sendable(code)?, reason: reason.to_owned() };
        let theirs = self.supervisor.directory.find_user(name);
        Ok(theirs.iter().filter(|shared| shared.close_from_outside(reason.clone()).is_ok()).count())
    }

    /// The connections that are open now, in the order of their numbers. None before the server serves, or after its
    /// end.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.snapshot().connections
    }

    /// The open connections and the counters at one moment. Each connection counts in only one of them, so sums over
    /// both never decrease.
    pub fn snapshot(&self) -> Snapshot {
        self.supervisor.snapshot()
    }

    /// The counters since the server started. They stay readable after its end.
    pub fn stats(&self) -> Stats {
        self.supervisor.stats()
    }

    /// All events from now on, in the order in which the supervisor receives them. The channel is disconnected when the
    /// server has ended.
    ///
    /// The server never waits for a subscriber. Up to 16 MiB of events, some 40,000, wait for one that does not take
    /// them. Further events are lost, and [`Event::Lost`] says how many as soon as there is room again. Drop the
    /// receiver when you no longer need it.
    ///
    /// The receiver is that of `crossbeam-channel` 0.5, so `select!` can wait for these events and other channels at
    /// once. `heartwire::crossbeam_channel` is that crate.
    pub fn events(&self) -> channel::Receiver<Event> {
        self.supervisor.subscribers.add()
    }

    /// Checks that the threads which everything hangs on make progress, for a watchdog. Returns those that have not
    /// answered within `timeout` (clamped to 1 ms to 10 years): none, if all is well.
    ///
    /// The server connects to itself, and the supervisor and the stand-in each get a notice to answer. So an idle
    /// server can be told from one that hangs, and a server that is never asked pays nothing for it. Such a connection
    /// takes no place, and is neither counted nor logged.
    ///
    /// Threads of connections and their handlers are not asked: one that hangs is its own connection's affair. A
    /// shortage, such as of file descriptors, is no stall, since the accept loop keeps trying. During a shutdown nobody
    /// needs to accept. Before [`serve`](crate::Server::serve) and after its end, all parts are returned. If another
    /// process accepts from the same listener, its progress counts as ours. A firewall has to let the server connect to
    /// its own address, or else the accept loop seems to hang.
    ///
    /// It blocks for `timeout` at most. Call it every few seconds, from a thread that does little else.
    ///
    /// ```no_run
    /// # fn f(handle: heartwire::ServerHandle) {
    /// for part in handle.stalled_parts(std::time::Duration::from_secs(10)) {
    ///     eprintln!("{part} hangs");
    /// }
    /// # }
    /// ```
    pub fn stalled_parts(&self, timeout: Duration) -> Vec<ServerPart> {
        probe::stalled_parts(&self.supervisor, &self.probes, &self.listeners, timeout)
    }

    /// Shuts the server down, and returns at once.
    ///
    /// The server accepts no more connections and closes the open ones with 1001.
    /// [`Server::serve`](crate::Server::serve) returns when all have ended, or after the [close
    /// timeout](crate::Server::close_timeout). The threads of handlers that have not returned by then are abandoned.
    /// Called before `serve`, it makes `serve` return at once.
    pub fn shutdown(&self) {
        self.supervisor.shut_down(CloseReason::shutdown());
    }

    /// Like [`shutdown`](Self::shutdown), with another close code than 1001 and a reason, of which 123 bytes are sent.
    /// Does nothing if the server is shutting down already.
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent; the server goes on.
    pub fn shutdown_with(&self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = sendable(code)?;
        self.supervisor.shut_down(CloseReason::Shutdown { code, reason: reason.to_owned() });
        Ok(())
    }

    /// Drains the server, and returns at once: it takes no new connections, sends its clients away evenly over the
    /// period (clamped to 10 years), and then [shuts down](Self::shutdown). For a restart or an update while another
    /// server takes over.
    ///
    /// Each connection is closed with 1012 (service restart) at its turn, so that the clients do not all come back at
    /// one moment. The reason tells clients of heartwire, and `heartwire.js`, to come back at once, unless more than
    /// 2,000 would do so in a second; then they wait for 5 s to 30 s by themselves. The drain is over when no
    /// connection is open any more, or with the period. A `shutdown` in the meantime ends it at once; of several drains
    /// the one that is over first counts. Called before `serve`, it makes `serve` return at once.
    ///
    /// Meanwhile the server still answers at the addresses that it has [bound](crate::Server::bind): opening handshakes
    /// get 503 with `Retry-After: 1`, so that a proxy can try another server, [health checks](crate::Server::health)
    /// get 503, and the status page and the metrics are there until the end. From a listener that was [handed
    /// in](crate::Server::from_listener) it accepts no more clients: they are left to the process that shares the
    /// listener or takes it over, and wait until it accepts them.
    pub fn drain(&self, period: Duration) {
        self.supervisor.drain(period.min(LONGEST));
    }

    /// Whether the server is draining, shutting down after that, or has ended after that.
    pub fn is_draining(&self) -> bool {
        self.supervisor.is_draining()
    }

    /// Whether the server is shutting down or has ended.
    pub fn is_shutting_down(&self) -> bool {
        self.supervisor.is_ending()
    }
}
