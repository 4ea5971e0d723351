//! Sending from any thread.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
use crate::durations::LONGEST;
use crate::error::{ConfirmError, Error, TrySendError};
use crate::heartbeat::HeartbeatPolicy;
use crate::message::Message;
use crate::protocol::close::{CloseCode, CloseReason};
use crate::transport::write_half::Wait;

/// The sending end of a connection, for any number of threads. Cloning is cheap.
///
/// Frames are never torn or interleaved, and leave in the order of the calls. Nothing waits for a timer: a message is
/// handed to the socket before the call returns, unless earlier ones still wait there.
#[derive(Debug, Clone)]
pub struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Sends a message. If the connection's queue is full, waits until there is room: that ends, at the latest, when
    /// the peer is found to take nothing any more (with a heartbeat that has a timeout).
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closing; the message is not sent.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.shared.send(message.into())
    }

    /// Sends a message without ever waiting.
    ///
    /// # Errors
    /// [`TrySendError::Full`] when the queue is full, [`TrySendError::Closed`] when the connection is closed or closing;
    /// both give the message back.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError<Message>> {
        self.shared.try_send(message.into(), Wait::No)
    }

    /// Sends a message, waiting for room in the queue for `timeout` at most.
    ///
    /// # Errors
    /// [`TrySendError::Full`] when there was no room in time, [`TrySendError::Closed`] when the connection is closed or
    /// closing; both give the message back.
    pub fn send_timeout(&self, message: impl Into<Message>, timeout: Duration) -> Result<(), TrySendError<Message>> {
        let deadline = Instant::now().checked_add(timeout);
        self.shared.try_send(message.into(), deadline.map_or(Wait::Forever, Wait::Until))
    }

    /// Waits until the peer has read everything that was sent before, or for `timeout` at most.
    ///
    /// A Ping leaves behind all of it, and its Pong says that the peer's WebSocket layer has come so far: frames are read
    /// in their order (RFC 6455 section 5.5.3). What the application there did with the messages it does not say. Only
    /// peers that answer Pings confirm anything. In a handler it takes a tenth of a second longer than the round trip,
    /// until the stand-in reads for it.
    ///
    /// # Errors
    /// [`ConfirmError::Timeout`] when the Pong did not come in time: the peer may have read everything, something or
    /// nothing. [`ConfirmError::Closed`] when the connection is closed or closing, or ends meanwhile.
    ///
    /// ```no_run
    /// # fn f(sender: heartwire::Sender) -> Result<(), Box<dyn std::error::Error>> {
    /// sender.send("the valve is to close")?;
    /// sender.confirm(std::time::Duration::from_secs(5))?;
    /// # Ok(()) }
    /// ```
    pub fn confirm(&self, timeout: Duration) -> Result<(), ConfirmError> {
        let (waiter, pong) = bounded(1);
        let closed = |_| ConfirmError::Closed(self.shared.reason());
        let deadline = Instant::now() + timeout.min(LONGEST);
        if !self.shared.ping_in_line(waiter, Wait::Until(deadline)).map_err(closed)? {
            return Err(ConfirmError::Timeout);
        }
        match pong.recv_deadline(deadline) {
            Ok(_) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(ConfirmError::Timeout),
            Err(RecvTimeoutError::Disconnected) => Err(ConfirmError::Closed(self.shared.reason())),
        }
    }

    /// Sends a Ping at once; the round-trip time comes over the channel, which is disconnected if the connection closes
    /// before the Pong. It includes what the Ping had to wait in our own queue, and, if the handler does not wait in `recv`
    /// meanwhile, the tenth of a second until the stand-in reads for it.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closing.
    ///
    /// ```no_run
    /// # fn f(sender: heartwire::Sender) -> Result<(), heartwire::Error> {
    /// let pong = sender.ping()?;
    /// match pong.recv_timeout(std::time::Duration::from_secs(1)) {
    ///     Ok(round_trip) => println!("{round_trip:?}"),
    ///     Err(_) => println!("no answer yet"),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn ping(&self) -> Result<Receiver<Duration>, Error> {
        let (waiter, answer) = bounded(1);
        self.shared.ping(None, Some(waiter))?;
        Ok(answer)
    }

    /// Changes the connection's heartbeat from here, with effect at once, whatever its handler does. Misses so far are
    /// forgotten. If we lead, a Ping leaves at once: it tells the peer, with a policy that
    /// [announces](HeartbeatPolicy::announcing), and finds a peer that is dead already.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closing.
    pub fn set_heartbeat(&self, policy: HeartbeatPolicy) -> Result<(), Error> {
        self.shared.request_heartbeat(policy)
    }

    /// Closes the connection from here: a Close frame goes out behind what is queued, and the peer has the close
    /// timeout to answer. Returns at once. The handler keeps receiving what the peer sent before it knew; its `recv`
    /// then gives [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent, [`Error::Closed`] if the connection is closed or
    /// closing already.
    pub fn close(&self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = code.into();
        if !code.is_sendable() {
            return Err(Error::InvalidCloseCode(code));
        }
        self.shared.close_from_outside(CloseReason::Local { code, reason: reason.to_owned() })
    }

    /// The connection's number.
    pub fn id(&self) -> ConnectionId {
        self.shared.id()
    }

    /// The address of the peer's socket: behind a proxy, the proxy's.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.identity.remote.peer_addr
    }

    /// The address of whoever is really at the other end: see [`Connection::remote_ip`](crate::Connection::remote_ip).
    pub fn remote_ip(&self) -> IpAddr {
        self.shared.identity.remote.remote_ip
    }

    /// Bytes that wait for the peer to take them.
    pub fn queued(&self) -> usize {
        self.shared.write_half.queued()
    }

    /// Whether the connection is closed or closing.
    pub fn is_closed(&self) -> bool {
        self.shared.write_half.is_closing()
    }
}
