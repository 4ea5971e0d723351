//! The other end of a connection under test.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel as channel;

use super::PATIENCE;
use super::actor::{Actor, Received, Stage};
use super::conduct::Conduct;
use crate::client::Client;
use crate::error::Error;
use crate::http::request::Request;
use crate::message::Message;
use crate::protocol::close::CloseCode;
use crate::protocol::frame::{Outgoing, Role};
use crate::transport::stream::Stream;

/// The other end of a connection under test, which behaves as its [`Conduct`] says, in a thread of its own. By default
/// it is a good peer, and answers Pings whatever the test is doing.
///
/// A client of your server: [`connect`](Self::connect), or without a port [`TestServer::connect`]. A server for your
/// client: [`PeerServer`]. The other end of a [`Connection`](crate::Connection): [`pair`].
///
/// It is no part of what is tested: it has neither a heartbeat nor a queue, and takes messages of up to 64 MiB.
/// Dropping it ends its connection without a Close frame.
///
/// [`TestServer::connect`]: super::TestServer::connect
/// [`PeerServer`]: super::PeerServer
/// [`pair`]: super::pair()
pub struct Peer {
    stage: Arc<Stage>,
    received: channel::Receiver<Received>,
    /// How the other end has ended the connection, once that was received.
    end: Option<PeerEnd>,
    request: Request,
    subprotocol: Option<String>,
    thread: Option<JoinHandle<()>>,
}

/// How a connection ended, as its [`Peer`] sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEnd {
    /// The other end sent a Close frame, by itself or as an answer.
    #[non_exhaustive]
    Closed {
        /// Its code; `None` if it gave none.
        code: Option<CloseCode>,
        /// Its reason, often empty.
        reason: String,
    },
    /// The connection ended without a Close frame.
    Disconnected,
    /// The socket failed, for example by a reset.
    Lost(io::ErrorKind),
    /// The other end broke the protocol, in these words.
    Violation(String),
}

impl fmt::Display for PeerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: Some(code), reason } if reason.is_empty() => write!(f, "closed with {code}"),
            Self::Closed { code: Some(code), reason } => write!(f, "closed with {code}: {reason}"),
            Self::Closed { code: None, .. } => f.write_str("closed without a code"),
            Self::Disconnected => f.write_str("disconnected without a Close frame"),
            Self::Lost(kind) => write!(f, "connection lost: {kind}"),
            Self::Violation(what) => write!(f, "protocol broken by the other end: {what}"),
        }
    }
}

impl Peer {
    /// Connects to a server at this URL, such as `ws://127.0.0.1:9001/chat`.
    ///
    /// ```
    /// use heartwire::testing::{Conduct, Peer};
    /// use heartwire::{CloseReason, Event, HeartbeatPolicy, Server};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let policy = HeartbeatPolicy::new(Duration::from_millis(50), Duration::from_millis(50));
    /// let server = Server::bind("127.0.0.1:0")?.heartbeat(policy);
    /// let handle = server.handle();
    /// let events = handle.events();
    /// std::thread::spawn(move || server.serve(|conn| loop { conn.recv()?; }));
    ///
    /// // It connects, reads everything, and answers nothing.
    /// let peer = Peer::connect(&format!("ws://{}/", handle.local_addr()), Conduct::Silent)?;
    /// let report = events.iter().find_map(|event| match event {
    ///     Event::Closed(report) => Some(report),
    ///     _ => None,
    /// });
    /// assert!(matches!(report.unwrap().reason, CloseReason::HeartbeatLost { missed: 3, .. }));
    /// # drop(peer);
    /// # handle.shutdown();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Connect`] if the URL is not valid, or the server cannot be reached or refuses. [`Error::Io`] if the
    /// system has no thread left.
    pub fn connect(url: &str, conduct: Conduct) -> Result<Self, Error> {
        Self::connect_as(&Client::new(url)?, conduct)
    }

    /// Connects as this client would, once: with its headers, subprotocols, TLS, proxy and timeouts. The client itself
    /// is not used up, and nothing else of its settings counts.
    ///
    /// # Errors
    /// Like [`connect`](Self::connect).
    pub fn connect_as(client: &Client, conduct: Conduct) -> Result<Self, Error> {
        let dialed = client.dial_once()?;
        let stream = Arc::new(dialed.stream);
        let tail = stream.tail(&dialed.tail).into_owned();
        Ok(Self::start(Role::Client, stream, tail, conduct, dialed.request, dialed.subprotocol)?)
    }

    /// A peer on a connection whose opening handshake is over. `tail`: the bytes that came with it.
    pub(super) fn start(
        role: Role,
        stream: Arc<Stream>,
        tail: Vec<u8>,
        conduct: Conduct,
        request: Request,
        subprotocol: Option<String>,
    ) -> io::Result<Self> {
        let stage = Arc::new(Stage::new(role, stream, conduct));
        let (sender, received) = channel::unbounded();
        let actor = Actor::new(Arc::clone(&stage), tail, sender);
        let thread = thread::Builder::new().name("heartwire-peer".to_owned()).spawn(move || actor.run())?;
        Ok(Self { stage, received, end: None, request, subprotocol, thread: Some(thread) })
    }

    /// The request of the opening handshake. Of a peer that is a server: the client's.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The subprotocol chosen in the opening handshake, if any.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Changes how it behaves from now on. A frame that it is sending is still sent, but a `Trickle` peer that is
    /// `Stopped` stops in the middle of it. What it was about to read may be read, but is not answered any more if the
    /// new conduct answers nothing.
    pub fn set_conduct(&self, conduct: Conduct) {
        self.stage.set_conduct(conduct);
    }

    /// Vanishes: from now on it is [`Conduct::Stopped`], until it is dropped.
    pub fn vanish(&self) {
        self.set_conduct(Conduct::Stopped);
    }

    /// How many Pings it has read.
    pub fn pings(&self) -> usize {
        self.stage.pings()
    }

    /// How many Pongs it has read.
    pub fn pongs(&self) -> usize {
        self.stage.pongs()
    }

    // Sending.

    /// Sends a message, beside what its conduct sends. Waits for the other end to take it, if necessary.
    ///
    /// # Errors
    /// The socket's error if the connection has ended. `TimedOut` if the other end does not take it for 30 s: it may be
    /// torn then. An error also if the conduct is `Stopped`.
    pub fn send(&self, message: impl Into<Message>) -> io::Result<()> {
        self.stage.send(Outgoing::message(message.into()))
    }

    /// Sends a Ping with this payload, of which there may be 125 bytes.
    ///
    /// # Errors
    /// Like [`send`](Self::send), and `InvalidInput` if the payload is longer.
    pub fn send_ping(&self, payload: &[u8]) -> io::Result<()> {
        if payload.len() > 125 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a Ping has at most 125 bytes"));
        }
        self.stage.send(Outgoing::ping(payload.to_vec()))
    }

    /// Sends these bytes as they are, frames or not: half a frame, or one that breaks the protocol.
    ///
    /// # Errors
    /// Like [`send`](Self::send).
    pub fn send_raw(&self, bytes: &[u8]) -> io::Result<()> {
        self.stage.write(bytes)
    }

    /// Sends a Close frame with whatever code, and returns at once: [`wait_end`](Self::wait_end) waits for the answer.
    ///
    /// # Errors
    /// Like [`send`](Self::send).
    pub fn close(&self, code: impl Into<CloseCode>, reason: &str) -> io::Result<()> {
        self.stage.close(Some(code.into()), reason)
    }

    // Receiving.

    /// The next message. Waits for it for up to 30 s.
    ///
    /// # Errors
    /// `TimedOut` if none comes. `UnexpectedEof` if the connection ends, with the [`PeerEnd`] in words.
    pub fn recv(&mut self) -> io::Result<Message> {
        let waited = self.recv_timeout(PATIENCE)?;
        waited.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, format!("no message within {PATIENCE:?}")))
    }

    /// The next message, or `Ok(None)` if none comes within `timeout`. To show that nothing comes, wait for something
    /// that has to come after it: a short timeout proves little, and a long one makes tests slow.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection ends, with the [`PeerEnd`] in words.
    pub fn recv_timeout(&mut self, timeout: Duration) -> io::Result<Option<Message>> {
        match self.next(timeout)? {
            Some(Received::Message(message)) => Ok(Some(message)),
            Some(Received::End(end)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, end.to_string())),
            None => Ok(None),
        }
    }

    /// How the other end ends the connection. Waits for it for up to 30 s, and skips messages before it.
    ///
    /// # Errors
    /// `TimedOut` if it does not end it, or if the conduct does not read.
    pub fn wait_end(&mut self) -> io::Result<PeerEnd> {
        loop {
            match self.next(PATIENCE)? {
                Some(Received::Message(_)) => {}
                Some(Received::End(end)) => return Ok(end),
                None => {
                    let what = format!("the connection did not end within {PATIENCE:?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
            }
        }
    }

    /// Waits for a Close frame, skips messages before it, and returns its code and reason.
    ///
    /// # Errors
    /// `TimedOut` if none comes within 30 s. `UnexpectedEof` if the connection ends without one.
    pub fn expect_close(&mut self) -> io::Result<(Option<CloseCode>, String)> {
        match self.wait_end()? {
            PeerEnd::Closed { code, reason } => Ok((code, reason)),
            end => Err(io::Error::new(io::ErrorKind::UnexpectedEof, end.to_string())),
        }
    }

    fn next(&mut self, timeout: Duration) -> io::Result<Option<Received>> {
        if let Some(end) = &self.end {
            return Ok(Some(Received::End(end.clone())));
        }
        match self.received.recv_timeout(timeout) {
            Ok(Received::End(end)) => {
                self.end = Some(end.clone());
                Ok(Some(Received::End(end)))
            }
            Ok(message) => Ok(Some(message)),
            Err(channel::RecvTimeoutError::Timeout) => Ok(None),
            // It always says how it ended, unless it panicked.
            Err(channel::RecvTimeoutError::Disconnected) => Err(io::Error::other("the peer's thread has ended")),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stage.end();
        // A panic of it was printed when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("request", &self.request).field("end", &self.end).finish_non_exhaustive()
    }
}
