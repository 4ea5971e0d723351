//! The handshake of TLS over a socket, under one deadline however slowly its bytes arrive.
//!
//! Bytes are read and written here. The computing may be done elsewhere: it goes deeper into the stack than anything
//! that follows, and what a stack was once used for stays resident.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConfig;

use super::certificate::Certificate;
use super::error::TlsError;
use super::session::{Progress, Session, max_waiting, too_much_waiting};
use crate::foreign;
use crate::protocol::frame::Role;
use crate::transport::secured::{RECORD_HEADER, Secured, end_reading, record_len};
use crate::transport::socket;
use crate::transport::stream::Stream;

/// A handshake between two waits for the peer. It may move to another thread to be computed.
pub(crate) struct Handshake {
    state: State,
    arrived: Vec<u8>,
    opened: Vec<u8>,
    sealed: Vec<u8>,
    progress: Result<Progress, TlsError>,
}

/// What a handshake begins with.
pub(crate) enum Begin {
    /// A server has nothing to say first. Its session is made by the first computing, which has the stack for it, so a
    /// client that says nothing costs little.
    Server(Arc<ServerConfig>),
    Client(Session),
}

enum State {
    NotBegun(Arc<ServerConfig>),
    Begun(Session),
}

/// Why a handshake has failed.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// Nothing has arrived, before the deadline or the end of the connection.
    Silent,
    /// It was not complete before the deadline.
    TimedOut,
    /// The connection was lost in the middle of it.
    Lost(io::Error),
    /// The first byte is not of TLS, but could be of a request of HTTP.
    PlainHttp,
    Tls(TlsError),
}

/// Performs a handshake, and secures the stream. `compute` calls [`Handshake::computed`], on this thread or another.
/// `read` reads once before the deadline. Returns the certificate that the peer has presented, if it has.
pub(crate) fn perform(
    begin: Begin,
    stream: &Stream,
    deadline: Instant,
    mut compute: impl FnMut(Box<Handshake>) -> Result<Box<Handshake>, HandshakeError>,
    mut read: impl FnMut(&mut [u8]) -> io::Result<Option<usize>>,
) -> Result<Option<Certificate>, HandshakeError> {
    let (role, state) = match begin {
        Begin::Server(config) => (Role::Server, State::NotBegun(config)),
        Begin::Client(session) => (Role::Client, State::Begun(session)),
    };
    let mut handshake = Box::new(Handshake::new(state));
    let mut has_begun = false;
    if role == Role::Client {
        handshake = compute(handshake)?;
    }
    while !handshake.send(stream, deadline)? {
        while !handshake.can_go_on() {
            if handshake.waiting() > max_waiting(role) {
                return Err(HandshakeError::Tls(too_much_waiting()));
            }
            match handshake.read(&mut read) {
                Ok(None) if has_begun => return Err(HandshakeError::TimedOut),
                Ok(Some(0)) if has_begun => {
                    return Err(HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into()));
                }
                Err(error) if has_begun => return Err(HandshakeError::Lost(error)),
                Ok(None | Some(0)) | Err(_) => return Err(HandshakeError::Silent),
                Ok(Some(_)) => {}
            }
            if role == Role::Server && !has_begun && handshake.arrived[0].is_ascii_uppercase() {
                return Err(HandshakeError::PlainHttp);
            }
            has_begun = true;
        }
        handshake = compute(handshake)?;
    }
    let Handshake { state: State::Begun(session), arrived, opened, sealed, .. } = *handshake else {
        unreachable!("a handshake that was never computed is not complete");
    };
    let certificate = session.peer_certificate();
    stream.secure(Secured::new(Box::new(session), arrived, opened, sealed));
    Ok(certificate)
}

impl Handshake {
    fn new(state: State) -> Self {
        Self { state, arrived: Vec::new(), opened: Vec::new(), sealed: Vec::new(), progress: Ok(Progress::Handshaking) }
    }

    /// Does what can be done with what has arrived. This is all of the computing. It may call a verifier, a store of
    /// sessions or a resolver of the application's own.
    ///
    /// # Errors
    /// If that panics.
    pub(crate) fn computed(mut self: Box<Self>) -> Result<Box<Self>, HandshakeError> {
        let computed = foreign::call(move || {
            let Self { state, arrived, opened, sealed, progress } = &mut *self;
            *progress = state.begun().and_then(|session| session.advance(arrived, opened, sealed));
            self
        });
        computed.map_err(|_| HandshakeError::panicked())
    }

    /// Sends what is due: a part of the handshake, or the alert that says why it has failed. Returns whether the
    /// handshake is complete. What is due at its end leaves with what follows it, which saves both ends a system call.
    fn send(&mut self, stream: &Stream, deadline: Instant) -> Result<bool, HandshakeError> {
        let progress = std::mem::replace(&mut self.progress, Ok(Progress::Handshaking));
        match &progress {
            Ok(Progress::Open) => return Ok(true),
            // A client may end its direction right behind its request, and still wants its answer.
            Ok(Progress::Ended) if self.state.is_complete() => {
                end_reading(stream);
                return Ok(true);
            }
            _ => {}
        }
        let sent = socket::write_raw_before(stream, &std::mem::take(&mut self.sealed), deadline);
        match progress {
            Err(error) => Err(HandshakeError::Tls(error)),
            Ok(Progress::Ended) => Err(HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => sent.map(|()| false).map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => HandshakeError::TimedOut,
                _ => HandshakeError::Lost(error),
            }),
        }
    }

    /// Whether there is something to compute: a whole record, or what cannot become one.
    fn can_go_on(&self) -> bool {
        /// The largest record, with what TLS 1.2 may add to its payload (RFC 5246 section 6.2.3).
        const MAX_RECORD: usize = RECORD_HEADER + 16 * 1024 + 2048;
        const TYPES: std::ops::RangeInclusive<u8> = 20..=24;
        match record_len(&self.arrived) {
            Some(len) => len <= self.arrived.len() || len > MAX_RECORD || !TYPES.contains(&self.arrived[0]),
            None => self.arrived.first().is_some_and(|first| !TYPES.contains(first)),
        }
    }

    fn waiting(&self) -> usize {
        let held = match &self.state {
            State::NotBegun(_) => 0,
            State::Begun(session) => session.held(),
        };
        self.arrived.len() + held
    }

    fn read(&mut self, read: &mut impl FnMut(&mut [u8]) -> io::Result<Option<usize>>) -> io::Result<Option<usize>> {
        // A client without post-quantum keys says less. Larger buffers leave larger holes between what stays.
        const READ: usize = 2048;
        let before = self.arrived.len();
        self.arrived.resize(before + READ, 0);
        let outcome = read(&mut self.arrived[before..]);
        let count = match outcome {
            Ok(Some(count)) => count,
            _ => 0,
        };
        self.arrived.truncate(before + count);
        outcome
    }
}

impl State {
    fn is_complete(&self) -> bool {
        matches!(self, Self::Begun(session) if session.is_complete())
    }

    fn begun(&mut self) -> Result<&mut Session, TlsError> {
        if let Self::NotBegun(config) = self {
            *self = Self::Begun(Session::server(Arc::clone(config))?);
        }
        match self {
            Self::Begun(session) => Ok(session),
            Self::NotBegun(_) => unreachable!("it was begun above"),
        }
    }
}

impl HandshakeError {
    /// Foreign code that was called for it has panicked.
    pub(crate) fn panicked() -> Self {
        Self::Lost(io::Error::other("the TLS handshake panicked"))
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no TLS handshake began"),
            Self::TimedOut => f.write_str("the TLS handshake took too long"),
            Self::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("connection closed in the middle of the TLS handshake")
            }
            Self::Lost(error) => write!(f, "connection lost in the middle of the TLS handshake: {error}"),
            Self::PlainHttp => f.write_str("a request of plain HTTP"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
        }
    }
}
