//! A connection as its handler sees it: receiving, sending, and the closing handshake.
//!
//! [`Connection::recv`] drives the [`ReceivingEnd`]: it waits in one place, for the socket or for the heartbeat's next
//! deadline. While the handler does something else, the stand-in drives it.

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::attached::Attached;
use crate::connection::identity::ConnectionId;
use crate::connection::receiving_end::{Over, ReceivingEnd};
use crate::connection::sender::Sender;
use crate::connection::shared::Shared;
use crate::error::{Error, sendable};
use crate::heartbeat::HeartbeatPolicy;
use crate::heartbeat::round_trip::RoundTrip;
use crate::http::request::Request;
use crate::message::Message;
use crate::protocol::close::{CloseCode, CloseReason};
use crate::protocol::close_state::Phase;
use crate::transport::read_half::ReadOutcome;
use crate::transport::socket;
use crate::transport::stream::Stream;

pub(crate) mod attached;
mod closing;
#[cfg(feature = "deflate")]
pub(crate) mod deflating;
pub(crate) mod identity;
mod judging;
#[cfg(feature = "topics")]
pub(crate) mod observer;
mod pings;
pub(crate) mod receiving_end;
pub(crate) mod report;
pub(crate) mod sender;
mod sending;
pub(crate) mod shared;
mod slot;
mod stats;
pub(crate) mod suspension;
#[cfg(test)]
mod tests;
pub(crate) mod user;

/// An open WebSocket, in the hands of its handler and its own thread.
///
/// Only this thread receives. Any thread can send: see [`sender`](Self::sender).
pub struct Connection {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    request: Request,
    subprotocol: Option<Box<str>>,
    attached: Attached,
    /// A message was fed and may not be written yet.
    has_fed: bool,
    /// The connection has ended and was reported.
    is_over: bool,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        receiving: Box<ReceivingEnd>,
        request: Request,
        subprotocol: Option<String>,
        attached: Attached,
    ) -> Self {
        let stream = Arc::clone(receiving.read_half.stream());
        shared.offer(receiving);
        let subprotocol = subprotocol.map(String::into_boxed_str);
        Self { shared, stream, request, subprotocol, attached, has_fed: false, is_over: false }
    }

    #[cfg(feature = "topics")]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits for the next message. Meanwhile the heartbeat runs, Pings are answered, and other threads may send.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection has ended, with the first cause. In a handler, `?` is the right response. By
    /// then the closing handshake is over and the end is reported. Every further call returns the same error.
    pub fn recv(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.receive(None)? {
                return Ok(message);
            }
        }
    }

    /// Waits for the next message, for `timeout` at most. `Ok(None)` if none was complete in time; a partial message is
    /// kept. A timeout of zero takes only what has arrived.
    ///
    /// # Errors
    /// Like [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Error> {
        self.receive(Instant::now().checked_add(timeout))
    }

    /// Sends a message. If the queue is full because the peer is slow, waits for room.
    ///
    /// With a heartbeat that has a timeout, the wait ends at the latest when the peer is found stalled. Without one,
    /// nothing but the peer or [`full_queue_timeout`](crate::Server::full_queue_timeout) ends it.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection is closed or closing. The message is not sent.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.shared.send(message.into())
    }

    /// Like [`send`](Self::send), but may delay the message, so that many small replies become one system call.
    ///
    /// The message leaves when this thread next waits in `recv`, when anything is sent, or when 16 KiB have
    /// accumulated. Do not feed and then work for long.
    ///
    /// # Errors
    /// Like [`send`](Self::send).
    pub fn feed(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        self.has_fed = true;
        self.shared.feed(message.into())
    }

    /// A handle that sends from any number of other threads.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.shared), self.attached.clone())
    }

    /// Closes the connection: sends what is queued and a Close frame, waits for the peer's, and ends the TCP
    /// connection.
    ///
    /// This call may block for the [close timeout](crate::Server::close_timeout). A reason longer than 123 bytes is
    /// cut. What the peer still sends is discarded.
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent; the connection stays open. [`Error::Closed`] if the
    /// connection is closed already.
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = sendable(code)?;
        let reason = CloseReason::Local { code, reason: reason.to_owned() };
        let Some(receiving) = self.shared.take_receiving_end().filter(|_| !self.is_over) else {
            return Err(self.shared.closed());
        };
        if !self.shared.begin_close(reason) {
            self.shared.leave_recv(receiving, Instant::now());
            return Err(self.shared.closed());
        }
        self.await_close(receiving);
        Ok(())
    }

    /// This connection's number.
    pub fn id(&self) -> ConnectionId {
        self.shared.id()
    }

    /// The address of the peer's socket: behind a proxy, the proxy's. A peer at a Unix socket has no address, and is
    /// `0.0.0.0:0` here and `unix socket` in the log.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.identity.remote.peer_addr
    }

    /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, or else the peer's
    /// own. An IPv4 address mapped to IPv6 becomes IPv4. On a client this is the server's address,
    /// or that of the [proxy](crate::Client::proxy) it connects through.
    pub fn remote_ip(&self) -> IpAddr {
        self.shared.identity.remote.remote_ip
    }

    /// The name of the user whom the connection belongs to: `None` unless `on_handshake` has set one by
    /// [`Accept::user`](crate::Accept::user). Always `None` on a client.
    pub fn user(&self) -> Option<&str> {
        self.shared.user()
    }

    /// The value of this type that `on_handshake` has attached by [`Accept::extension`](crate::Accept::extension), if
    /// it has. Not to be confused with the [extensions](Self::extensions) of the protocol.
    pub fn extension<T: Any>(&self) -> Option<&T> {
        self.attached.get()
    }

    /// The requested path, without the query.
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// The request of the opening handshake, with its headers.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The subprotocol chosen in the opening handshake, if any.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// The extensions in use, in the terms of the header `Sec-WebSocket-Extensions`, such as `permessage-deflate;
    /// server_no_context_takeover; client_no_context_takeover`. Empty if there are none: without the feature
    /// `deflate`, without `Server::deflate` or `Client::deflate`, or if the peer does not compress.
    pub fn extensions(&self) -> &str {
        self.shared.extensions()
    }

    /// Round-trip figures. `None` before the first Pong.
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.shared.pings.round_trip()
    }

    /// Pongs missed in a row.
    pub fn missed(&self) -> u32 {
        self.shared.stats.missed()
    }

    /// The heartbeat in force.
    pub fn heartbeat(&self) -> HeartbeatPolicy {
        let policy = self.shared.with_receiving_end(|receiving| receiving.policy());
        policy.unwrap_or_else(HeartbeatPolicy::off)
    }

    /// Changes the heartbeat. The count of misses and the schedule start anew. If the new policy
    /// [announces](HeartbeatPolicy::announcing), a Ping tells the peer at once.
    pub fn set_heartbeat(&mut self, policy: HeartbeatPolicy) {
        self.shared.with_receiving_end(|receiving| {
            receiving.set_heartbeat(&self.shared, policy);
            if policy.announcement().is_some() {
                // If the Ping cannot be written, the next read returns the cause.
                let _ = receiving.ping(&self.shared);
            }
        });
        // The stand-in must learn the new deadline.
        self.shared.list_for_stand_in();
    }

    // Receiving.

    fn receive(&mut self, until: Option<Instant>) -> Result<Option<Message>, Error> {
        // Take the receiving end from the slot. Without one, the connection has ended.
        let Some(mut receiving) = self.shared.take_receiving_end().filter(|_| !self.is_over) else {
            return Err(self.shared.closed());
        };
        let mut now = Instant::now();
        let mut has_looked = false;
        loop {
            // First apply a heartbeat that another thread has requested.
            if let Some(policy) = self.shared.take_requested_heartbeat() {
                // If the Ping cannot be written, the next read returns the cause.
                let _ = receiving.change_heartbeat(&self.shared, policy);
            }
            // Then look for a message among the bytes that are in memory already.
            match receiving.next(&self.shared, now) {
                Ok(Some(message)) => {
                    // Decompressing took time, which is not the handler's.
                    #[cfg(feature = "deflate")]
                    if self.shared.deflating.is_some() {
                        now = Instant::now();
                    }
                    // If the heartbeat finds the peer dead, the handler still gets what arrived before.
                    let _ = receiving.beat_if_due(&self.shared, now);
                    self.shared.leave_recv(receiving, now);
                    return Ok(Some(message));
                }
                Ok(None) => {}
                Err(last) => return Err(self.ended_by_peer(receiving, *last)),
            }
            // Nothing is complete: run the heartbeat, and learn when it next has work.
            let deadline = match self.next_deadline(&mut receiving, now, has_looked) {
                Ok(deadline) => deadline,
                Err(Over) => return Err(self.finish(receiving)),
            };
            // The caller's timeout ends the call, after at least one look at the socket.
            if has_looked && until.is_some_and(|until| until <= now) {
                self.shared.leave_recv(receiving, now);
                return Ok(None);
            }
            // Before waiting, send what the handler has fed.
            if std::mem::take(&mut self.has_fed) {
                // If it cannot be written, the read below returns the cause.
                let _ = self.shared.flush();
            }
            // Wait for the peer, the heartbeat's deadline or the caller's, whichever comes first.
            let wake = [until, deadline].into_iter().flatten().min();
            let read;
            (receiving, read) = match self.wait(receiving, wake, &mut now) {
                Some(waited) => waited,
                None => return Err(self.shared.closed()),
            };
            // Record what the read returned, and go round again.
            if let Err(last) = receiving.on_read(&self.shared, read, now) {
                return Err(self.ended_by_peer(receiving, *last));
            }
            has_looked = true;
        }
    }

    /// Does what is due, and returns the next deadline. `has_looked`: the socket was read at least once in this call,
    /// so what has arrived by now was seen.
    fn next_deadline(
        &self,
        receiving: &mut ReceivingEnd,
        now: Instant,
        has_looked: bool,
    ) -> Result<Option<Instant>, Over> {
        if self.shared.write_half.is_open() {
            return receiving.beat_if_due(&self.shared, now);
        }
        match self.shared.write_half.close_state(|close_state| close_state.phase()) {
            Phase::Open => receiving.beat_if_due(&self.shared, now),
            // One side has begun to close, so the heartbeat is over. The handshake has until `by`, and the peer's bytes
            // are read at least once before it is given up.
            Phase::PeerEnded { by } | Phase::Closing { by } | Phase::Closed { by } if has_looked && by <= now => {
                Err(Over)
            }
            Phase::PeerEnded { by } | Phase::Closing { by } | Phase::Closed { by } => Ok(Some(by)),
            // The socket has failed or is shut down: the next read shows it.
            Phase::Broken | Phase::Over => Ok(None),
        }
    }

    /// Waits until the socket is readable or `wake` comes, and reads once. `None` after the end. `now` is set to the
    /// time after the wait.
    ///
    /// A quiet connection's receiving end is in the slot while it waits, where other threads find it.
    fn wait(
        &self,
        mut receiving: Box<ReceivingEnd>,
        wake: Option<Instant>,
        now: &mut Instant,
    ) -> Option<(Box<ReceivingEnd>, std::io::Result<ReadOutcome>)> {
        let from = *now;
        let read = if receiving.read_half.blocks_in_read(wake, from) {
            // An active connection waits in the read itself.
            receiving.read_half.read_blocking()
        } else if wake.is_some_and(|wake| wake <= from) {
            // No time to wait: take what is there.
            receiving.read_half.read_now()
        } else {
            receiving.read_half.release_idle_buffer();
            if let Some(back) = self.shared.offer(receiving) {
                // A heartbeat was requested meanwhile. Applying it comes before any wait.
                receiving = back;
                receiving.read_half.read_now()
            } else {
                // Wait without the receiving end, and take it back afterwards.
                let wait = wake.map(|wake| wake.saturating_duration_since(from));
                let is_readable = socket::wait_readable(&self.stream, wait);
                receiving = self.shared.take_receiving_end()?;
                match is_readable {
                    Ok(true) => receiving.read_half.read_now(),
                    Ok(false) => Ok(ReadOutcome::Nothing),
                    Err(error) => Err(error),
                }
            }
        };
        // The length of the wait decides how to wait next time.
        *now = Instant::now();
        let has_data = !matches!(read, Ok(ReadOutcome::Nothing));
        receiving.read_half.record_wait(now.saturating_duration_since(from), *now, has_data);
        Some((receiving, read))
    }
}

/// Ensures that the end is reported, even if the connection's thread panicked.
impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_over {
            // This does nothing if the connection has ended. Otherwise our own code panicked before `conclude` was
            // through.
            self.shared.abort(CloseReason::HandlerPanicked("heartwire itself panicked".to_owned()));
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("peer_addr", &self.peer_addr())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
