//! A server's remote control, for any thread.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
use crate::connection::report::ConnectionInfo;
use crate::message::Message;
use crate::protocol::frame::{Frame, Outgoing};
use crate::supervisor::event::Event;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::stats::{Snapshot, Stats};

/// The remote control of a [`Server`](crate::Server), for any number of threads. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    supervisor: Arc<SupervisorHandle>,
    address: SocketAddr,
}

impl ServerHandle {
    pub(crate) fn new(supervisor: Arc<SupervisorHandle>, address: SocketAddr) -> Self {
        Self { supervisor, address }
    }

    /// The address that the server listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Sends a message to all connections. It is encoded once, and one thread fans out, so all receivers see the same
    /// order of broadcasts. A peer whose queue is full does not get it: that is counted in its
    /// [`Traffic::dropped`](crate::Traffic::dropped), and holds nobody else up.
    ///
    /// Returns at once, unless 64 broadcasts wait already. Before the server serves, and after its end, there is nobody to
    /// send to.
    pub fn broadcast(&self, message: impl Into<Message>) {
        self.fan_out(message.into(), None);
    }

    /// Like [`broadcast`](Self::broadcast), to all connections but this one.
    pub fn broadcast_except(&self, except: ConnectionId, message: impl Into<Message>) {
        self.fan_out(message.into(), Some(except));
    }

    fn fan_out(&self, message: Message, except: Option<ConnectionId>) {
        // A server's frames are not masked, so one serves all connections. The supervisor may drop the last, and must
        // not run the application's code.
        self.supervisor.broadcast(Frame::encode(Outgoing::message(message), None).into_own(), except);
    }

    /// The open connections at this moment, in the order of their numbers; none before and after the server serves.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.snapshot().connections
    }

    /// The open connections and the counters at one moment. Each connection is in one of them only, so that sums over
    /// both never go back.
    pub fn snapshot(&self) -> Snapshot {
        self.supervisor.snapshot()
    }

    /// The counters since the server started; they stay to be read after its end.
    pub fn stats(&self) -> Stats {
        self.supervisor.stats()
    }

    /// Everything that happens from now on, in the order in which the supervisor hears of it. The channel is
    /// disconnected when the server has ended.
    ///
    /// The server never waits for a subscriber. One that does not take its events out has 16 MiB of them waiting, some
    /// 40,000; then it loses what comes, and is told how much by [`Event::Lost`] when there is room again. Drop the
    /// receiver when it is no longer of use.
    ///
    /// The receiver is that of `crossbeam-channel`, whose version 0.5 has been stable for years, so that its `select!`
    /// can wait for these events and for other channels at once; `heartwire::crossbeam_channel` is that crate.
    pub fn events(&self) -> channel::Receiver<Event> {
        self.supervisor.subscribers.add()
    }

    /// Shuts the server down, and returns at once: nobody is accepted any more, all connections are closed with 1001,
    /// and when all have ended, or after the close timeout, [`Server::serve`](crate::Server::serve) returns. The threads of
    /// handlers that have not returned by then are left behind. Before `serve`, it makes that return at once.
    pub fn shutdown(&self) {
        self.supervisor.shut_down();
    }

    /// Whether the server is shutting down or has ended.
    pub fn is_shutting_down(&self) -> bool {
        self.supervisor.is_ending()
    }
}
