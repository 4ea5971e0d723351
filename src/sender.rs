//! Sending from any thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::close::{CloseCode, CloseReason, ConnectionId};
use crate::error::{Error, TrySendError};
use crate::heartbeat::HeartbeatPolicy;
use crate::link::Link;
use crate::message::Message;

/// The sending end of a connection, for any number of threads. Cloning is cheap.
///
/// Frames are never torn or interleaved, and leave in the order of the calls. Nothing waits for a timer: a message is
/// handed to the socket before the call returns, unless earlier ones still wait there.
#[derive(Debug, Clone)]
pub struct Sender {
    link: Arc<Link>,
}

impl Sender {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// Sends a message. If the connection's queue is full, waits until there is room: that ends, at the latest, when
    /// the peer is found to take nothing any more (with a heartbeat that has a timeout).
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closing; the message is not sent.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.link.send(message.into())
    }

    /// Sends a message without ever waiting.
    ///
    /// # Errors
    /// [`TrySendError::Full`] when the queue is full, [`TrySendError::Closed`] when the connection is closed or closing;
    /// both give the message back.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError<Message>> {
        self.link.try_send(message.into())
    }

    /// Sends a Ping at once; the round-trip time comes over the channel, which is disconnected if the connection closes
    /// before the Pong. It includes what the Ping had to wait in our own queue. Do not wait for it in the connection's own thread: only `recv` reads Pongs.
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
        self.link.ping(None, Some(waiter))?;
        Ok(answer)
    }

    /// Changes the connection's heartbeat from here: its thread takes it up with the next bytes that come, for which a
    /// Ping is sent. With a policy that [announces](HeartbeatPolicy::announcing) that Ping tells the peer as well.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closing.
    pub fn set_heartbeat(&self, policy: HeartbeatPolicy) -> Result<(), Error> {
        self.link.ask_heartbeat(policy)
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
        self.link.close_from_outside(CloseReason::Local { code, reason: reason.to_owned() })
    }

    /// The connection's number.
    pub fn id(&self) -> ConnectionId {
        self.link.id
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.link.remote.peer
    }

    /// Bytes that wait for the peer to take them.
    pub fn queued(&self) -> usize {
        self.link.outbound.queued()
    }

    /// Whether the connection is closed or closing.
    pub fn is_closed(&self) -> bool {
        self.link.outbound.is_closing()
    }
}
