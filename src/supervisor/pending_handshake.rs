//! A client whose opening handshake is not over yet, and why a handshake failed.

use std::borrow::Cow;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::http::request::Request;
use crate::transport::socket;

/// A client that has connected and is not admitted yet.
#[derive(Debug)]
pub(crate) struct PendingHandshake {
    /// Counted from 1 over all that connect. A connection's number counts only those that are admitted.
    pub(crate) number: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: Arc<TcpStream>,
    /// Whether it was decided that it is admitted, or that it is not.
    is_decided: AtomicBool,
    connected_at: Instant,
    /// Microseconds from then to when it was last heard.
    heard_after: AtomicU64,
    /// Whether it had to make room for another.
    was_evicted: AtomicBool,
}

impl PendingHandshake {
    pub(crate) fn new(number: u64, peer: SocketAddr, stream: TcpStream) -> Self {
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

    /// It has sent something, or was told something and may now send more.
    pub(crate) fn mark_heard(&self) {
        self.heard_after.store(self.connected_at.elapsed().as_micros() as u64, Relaxed);
    }

    /// When it was last heard, or connected.
    pub(crate) fn heard_at(&self) -> Instant {
        self.connected_at + Duration::from_micros(self.heard_after.load(Relaxed))
    }

    /// Hangs up on it: it has no place, and has to make room for another.
    pub(crate) fn evict(&self) {
        self.was_evicted.store(true, Relaxed);
        socket::shut_down(&self.stream);
    }

    /// Whether it had to make room for another.
    pub(crate) fn was_evicted(&self) -> bool {
        self.was_evicted.load(Relaxed)
    }

    /// Whether it may be admitted. If so, it counts as a connection from here on, which has a right to a Close frame.
    pub(crate) fn admit(&self) -> bool {
        !self.is_decided.swap(true, SeqCst)
    }

    /// Hangs up on it, unless it is admitted already: the server is shutting down.
    pub(crate) fn turn_away(&self) {
        if !self.is_decided.swap(true, SeqCst) {
            socket::shut_down(&self.stream);
        }
    }
}

/// An opening handshake that came to nothing.
#[derive(Debug)]
pub(crate) struct HandshakeFailure {
    /// The HTTP status of the answer that the client was sent, if any.
    pub(crate) status: Option<u16>,
    pub(crate) reason: Cow<'static, str>,
    /// The path of its request, if that was understood.
    pub(crate) path: Option<String>,
    /// The `Origin` of its request, if that was understood and has one.
    pub(crate) origin: Option<String>,
}

impl HandshakeFailure {
    /// Of a client that is known only by its address.
    pub(crate) fn without_request(status: Option<u16>, reason: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self { status, reason: reason.into(), path: None, origin: None })
    }

    /// Of a client whose request was read.
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
