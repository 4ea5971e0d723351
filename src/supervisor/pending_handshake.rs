//! A client that has come and is not let in yet, and what an opening handshake failed of.

use std::borrow::Cow;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::http::request::Request;
use crate::transport::socket;

/// A client that has come and is not let in yet.
#[derive(Debug)]
pub(crate) struct PendingHandshake {
    /// Counted from 1 over all that come. A connection's number counts only those that are let in.
    pub(crate) number: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: Arc<TcpStream>,
    /// Whether it was decided that it will be let in, or that it will not.
    is_decided: AtomicBool,
    came: Instant,
    /// Microseconds from then to the newest that it said.
    heard_at: AtomicU64,
    /// Whether it had to make room for another.
    was_dropped: AtomicBool,
}

impl PendingHandshake {
    pub(crate) fn new(number: u64, peer: SocketAddr, stream: TcpStream) -> Self {
        Self {
            number,
            peer,
            stream: Arc::new(stream),
            is_decided: AtomicBool::new(false),
            came: Instant::now(),
            heard_at: AtomicU64::new(0),
            was_dropped: AtomicBool::new(false),
        }
    }

    /// It has said something, or was told something and may now say more.
    pub(crate) fn heard(&self) {
        self.heard_at.store(self.came.elapsed().as_micros() as u64, Relaxed);
    }

    /// When it was last heard, or came.
    pub(crate) fn heard_at(&self) -> Instant {
        self.came + Duration::from_micros(self.heard_at.load(Relaxed))
    }

    /// It has no place and has to go, for another that has none: hangs up on it.
    pub(crate) fn drop_for_another(&self) {
        self.was_dropped.store(true, Relaxed);
        socket::shut_down(&self.stream);
    }

    /// Whether it had to go for another.
    pub(crate) fn was_dropped(&self) -> bool {
        self.was_dropped.load(Relaxed)
    }

    /// Whether it may be let in: from here on it counts as a connection, which has a right to a Close frame.
    pub(crate) fn let_in(&self) -> bool {
        !self.is_decided.swap(true, SeqCst)
    }

    /// The server is shutting down: hangs up on it, unless it is being let in.
    pub(crate) fn turn_away(&self) {
        if !self.is_decided.swap(true, SeqCst) {
            socket::shut_down(&self.stream);
        }
    }
}

/// An opening handshake that came to nothing.
#[derive(Debug)]
pub(crate) struct HandshakeFailure {
    /// The HTTP status that the client was given, if it got an answer.
    pub(crate) status: Option<u16>,
    pub(crate) reason: Cow<'static, str>,
    /// What it asked for and from where, as far as its request was understood.
    pub(crate) path: Option<String>,
    pub(crate) origin: Option<String>,
}

impl HandshakeFailure {
    /// Of whom nothing is known but the address.
    pub(crate) fn early(status: Option<u16>, reason: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self { status, reason: reason.into(), path: None, origin: None })
    }

    pub(crate) fn of(request: &Request, status: Option<u16>, reason: impl Into<Cow<'static, str>>) -> Box<Self> {
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
            write!(f, "; path {}", path)?;
        }
        match &self.origin {
            Some(origin) => write!(f, ", origin {}", origin),
            None => Ok(()),
        }
    }
}
