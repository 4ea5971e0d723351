//! The sending end of a connection, for any thread.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::connection::attached::Attached;
use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
use crate::durations::LONGEST;
use crate::error::{ConfirmError, Error, TrySendError, sendable};
use crate::heartbeat::HeartbeatPolicy;
use crate::message::Message;
use crate::protocol::close::{CloseCode, CloseReason};
use crate::transport::write_half::Wait;

/// The sending end of a connection, for any number of threads. Cloning is cheap.
///
/// Frames are never torn or interleaved, and leave in the order of the calls. No message waits for a timer: the socket
/// gets it before the call returns, unless earlier messages still wait.
#[derive(Debug, Clone)]
pub struct Sender {
    shared: Arc<Shared>,
    attached: Attached,
    /// Whether its messages are compressed where that is agreed.
    #[cfg(feature = "deflate")]
    compresses: bool,
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>, attached: Attached) -> Self {
        Self {
            shared,
            attached,
            #[cfg(feature = "deflate")]
            compresses: true,
        }
    }

    /// A handle whose messages are not compressed, for secrets beside text of others: see
    /// [`Deflate`](crate::Deflate).
    ///
    /// ```no_run
    /// # fn f(conn: &heartwire::Connection, token: &str) -> Result<(), heartwire::Error> {
    /// conn.sender().uncompressed().send(token)?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "deflate")]
    pub fn uncompressed(&self) -> Self {
        Self { compresses: false, ..self.clone() }
    }

    /// Sends a message. If the queue is full because the peer is slow, waits for room.
    ///
    /// With a heartbeat that has a timeout, the wait ends at the latest when the peer is found stalled. Without one,
    /// nothing but the peer or [`full_queue_timeout`](crate::Server::full_queue_timeout) ends it.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection is closed or closing. The message is not sent.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        #[cfg(feature = "deflate")]
        if !self.compresses {
            return self.shared.send_uncompressed(message.into());
        }
        self.shared.send(message.into())
    }

    /// Sends a message, and never waits.
    ///
    /// # Errors
    /// Both give the message back. [`TrySendError::Full`] if the queue is full. [`TrySendError::Closed`] if the
    /// connection is closed or closing.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError<Message>> {
        self.try_send_by(message.into(), Wait::No)
    }

    /// Sends a message. Waits for room in the queue for `timeout` at most.
    ///
    /// # Errors
    /// Both give the message back. [`TrySendError::Full`] if there was no room in time. [`TrySendError::Closed`] if the
    /// connection is closed or closing.
    pub fn send_timeout(&self, message: impl Into<Message>, timeout: Duration) -> Result<(), TrySendError<Message>> {
        let deadline = Instant::now().checked_add(timeout);
        self.try_send_by(message.into(), deadline.map_or(Wait::Forever, Wait::Until))
    }

    fn try_send_by(&self, message: Message, wait: Wait) -> Result<(), TrySendError<Message>> {
        #[cfg(feature = "deflate")]
        if !self.compresses {
            return self.shared.try_send_uncompressed(message, wait);
        }
        self.shared.try_send(message, wait)
    }

    /// Waits until the peer has read everything that was sent before this call, for `timeout` at most.
    ///
    /// It sends a Ping after all of it. The Pong shows that the peer's WebSocket layer has read that far, since it
    /// reads frames in order (RFC 6455 section 5.5.3). It does not show what the application there did with the
    /// messages. Only a peer that answers Pings confirms anything. In a handler the call takes a tenth of a second
    /// longer than the round trip, until the stand-in reads the Pong.
    ///
    /// # Errors
    /// [`ConfirmError::Timeout`] if the Pong did not come in time: the peer may have read all of it, part of it or
    /// nothing. [`ConfirmError::Closed`] if the connection is closed or closing, or ends meanwhile.
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

    /// Sends a Ping at once. The channel delivers the round-trip time, or is disconnected if the connection closes
    /// before the Pong.
    ///
    /// The time includes the wait of the Ping in our own queue. If the handler does not wait in `recv` meanwhile, it
    /// also includes the tenth of a second until the stand-in reads the Pong.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection is closed or closing.
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

    /// Changes the connection's heartbeat at once, whatever its handler is doing. The count of misses starts anew.
    ///
    /// If we lead, a Ping leaves at once: it finds a peer that is dead already, and tells the peer the new interval if
    /// the policy [announces](HeartbeatPolicy::announcing).
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection is closed or closing.
    pub fn set_heartbeat(&self, policy: HeartbeatPolicy) -> Result<(), Error> {
        self.shared.request_heartbeat(policy)
    }

    /// Closes the connection, and returns at once.
    ///
    /// A Close frame leaves after what is queued, and the peer has the close timeout to answer. The handler still
    /// receives what the peer sent before it got the Close frame. After that its `recv` returns [`Error::Closed`]. A
    /// reason longer than 123 bytes is cut.
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent; the connection stays open. [`Error::Closed`] if the
    /// connection is closed or closing already.
    pub fn close(&self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = sendable(code)?;
        self.shared.close_from_outside(CloseReason::Local { code, reason: reason.to_owned() })
    }

    /// The connection's number.
    pub fn id(&self) -> ConnectionId {
        self.shared.id()
    }

    /// The address of the peer's socket: behind a proxy, the proxy's. A peer at a Unix socket has no address, and is
    /// `0.0.0.0:0` here and `unix socket` in the log.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.identity.remote.peer_addr
    }

    /// The client's address: see [`Connection::remote_ip`](crate::Connection::remote_ip).
    pub fn remote_ip(&self) -> IpAddr {
        self.shared.identity.remote.remote_ip
    }

    /// The name of the user whom the connection belongs to: see [`Connection::user`](crate::Connection::user).
    pub fn user(&self) -> Option<&str> {
        self.shared.user()
    }

    /// The value of this type that is attached to the connection: see
    /// [`Connection::extension`](crate::Connection::extension). It lives as long as this handle.
    pub fn extension<T: Any>(&self) -> Option<&T> {
        self.attached.get()
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
