//! A client during its opening handshake or its plain HTTP requests, and the failure of a handshake.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::atomic::AtomicU64;
use crate::http::request::Request;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// A client that has connected and is not admitted yet.
#[derive(Debug)]
pub(crate) struct PendingHandshake {
    /// Counts all clients that connect, from 1. A connection's number counts only those that are admitted.
    pub(crate) number: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: Arc<Stream>,
    /// Whether its admission was decided, either way, or a plain request of it is being answered.
    is_decided: AtomicBool,
    connected_at: Instant,
    /// Microseconds from `connected_at` to its last sign of activity.
    heard_after: AtomicU64,
    /// Whether it was evicted for another client.
    was_evicted: AtomicBool,
}

impl PendingHandshake {
    pub(crate) fn new(number: u64, peer: SocketAddr, stream: Stream) -> Self {
        Self {
            number,
            peer,
            stream: Arc::new(stream),
            is_decided: AtomicBool::new(false),
            connected_at: Instant::now(),
            heard_after: AtomicU64::new(0),
            was_evicted: AtomicBool::new(false),
        }
    }

    /// The client sent something, or got a response and may now send more.
    pub(crate) fn mark_heard(&self) {
        self.heard_after.store(self.connected_at.elapsed().as_micros() as u64, Relaxed);
    }

    /// When it was last active, or connected.
    pub(crate) fn heard_at(&self) -> Instant {
        self.connected_at + Duration::from_micros(self.heard_after.load(Relaxed))
    }

    /// Hangs up, to make room for another client.
    pub(crate) fn evict(&self) {
        self.was_evicted.store(true, Relaxed);
        socket::shut_down(&self.stream);
    }

    /// Whether it was evicted for another client.
    pub(crate) fn was_evicted(&self) -> bool {
        self.was_evicted.load(Relaxed)
    }

    /// Admits the client, unless it was turned away. From here on it counts as a connection, and gets a Close frame.
    pub(crate) fn admit(&self) -> bool {
        !self.is_decided.swap(true, SeqCst)
    }

    /// A plain HTTP request is being answered. Unless the client was turned away before, it is not until
    /// [`end_answer`](Self::end_answer), so the answer gets out.
    pub(crate) fn begin_answer(&self) -> bool {
        self.admit()
    }

    /// The request is answered. Whether the server shuts down has to be looked at after this.
    pub(crate) fn end_answer(&self) {
        self.is_decided.store(false, SeqCst);
    }

    /// Hangs up unless the client is admitted already, because the server is shutting down.
    pub(crate) fn turn_away(&self) {
        if !self.is_decided.swap(true, SeqCst) {
            socket::shut_down(&self.stream);
        }
    }
}

/// An opening handshake that failed.
#[derive(Debug)]
pub(crate) struct HandshakeFailure {
    /// The HTTP status of the response, if one was sent.
    pub(crate) status: Option<u16>,
    pub(crate) reason: Cow<'static, str>,
    /// The requested path, if the request was valid HTTP.
    pub(crate) path: Option<String>,
    /// The `Origin` of the request, if it has one.
    pub(crate) origin: Option<String>,
}

impl HandshakeFailure {
    /// The failure of a client that is known only by its address.
    pub(crate) fn without_request(status: Option<u16>, reason: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self { status, reason: reason.into(), path: None, origin: None })
    }

    /// The failure of a client whose request was read.
    pub(crate) fn of_request(
        request: &Request,
        status: Option<u16>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Box<Self> {
        let (path, origin) = (request.path().to_owned(), request.header("Origin").map(str::to_owned));
        Box::new(Self { status, reason: reason.into(), path: Some(path), origin })
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("handshake failed: ")?;
        if let Some(status) = self.status {
            write!(f, "{status}, ")?;
        }
        write!(f, "{}", self.reason)?;
        if let Some(path) = &self.path {
            write!(f, "; path {path}")?;
        }
        match &self.origin {
            Some(origin) => write!(f, ", origin {origin}"),
            None => Ok(()),
        }
    }
}
